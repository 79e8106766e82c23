"""Which features of a TFDS data set make an example: an image, and its class or its captions."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds

from input_pipeline.cpu_tf import tf
from input_pipeline.sources import captions
from input_pipeline.sources.base import Example

_WORDS = ("caption", "sentence", "text", "raw", "comment", "description")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of a data set.

    Attributes:
        builder: of the data set.
        image: name of that of the image.
        label: of the class; "" if captions are read.
        captions: the names that lead to them; () if the class is read.
    """

    builder: tfds.core.DatasetBuilder
    image: str
    label: str = ""
    captions: tuple[str, ...] = ()

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes in the order of the labels; empty for captions."""
        return tuple(self.builder.info.features[self.label].names) if self.label else ()

    @property
    def truths(self) -> tuple[str, ...]:
        """See `sources.base.Source`."""
        return ("label",) if self.label else captions.TRUTHS

    @property
    def eval_truths(self) -> tuple[str, ...]:
        """See `sources.base.Source`."""
        return () if self.label else captions.EVAL_TRUTHS

    def parse(self, record: tf.Tensor) -> Example:
        """Reads a record, () string.

        Returns:
            `image`, the bytes of its file, and `label` () int32; or the `captions`, as many as
            there are, `num_captions` () int32, and the first one as `text`.
        """
        decoders = {self.image: tfds.decode.SkipDecoding()}
        example = self.builder.info.features.deserialize_example(record, decoders=decoders)
        image = {"image": example[self.image]}
        if self.label:
            return {**image, "label": tf.cast(example[self.label], tf.int32)}
        said: Any = example
        for name in self.captions:
            said = said[name]
        said = tf.strings.strip(tf.reshape(said, (-1,)))
        said = tf.boolean_mask(said, said != "")
        count = tf.shape(said)[0]
        with tf.control_dependencies([tf.debugging.Assert(count > 0, ["an image has no caption"])]):
            return {**image, "captions": said, "num_captions": count, "text": said[0]}

    def draw(self, example: Example, seed: tf.Tensor) -> Example:
        """See `sources.base.Source`."""
        return example if self.label else captions.draw(example, seed)

    def make_padding(self, examples: Callable[[], tf.data.Dataset]) -> Callable[[Example], Example]:
        """Makes what gives each example of a split as many captions, the last of which are "".

        Args:
            examples: returns those of the split, which are read for the largest number.
        """
        if self.label:
            return lambda example: example
        with tf.init_scope():  # now, although a graph may be being built
            counts = examples().map(lambda example: example["num_captions"])
            most = int(counts.reduce(0, tf.maximum))

        def pad(example: Example) -> Example:
            said = tf.pad(example["captions"], [(0, most - example["num_captions"])])
            return {**example, "captions": tf.ensure_shape(said, (most,))}

        return pad


def find(builder: tfds.core.DatasetBuilder, has_captions: bool) -> Features:
    """Finds the first image of a data set and its first class, or its captions.

    Raises:
        ValueError: if it has none.
    """
    features = dict(builder.info.features.items())
    images = [name for name, one in features.items() if isinstance(one, tfds.features.Image)]
    labels = [name for name, one in features.items() if isinstance(one, tfds.features.ClassLabel)]
    texts = [path for path in _texts_in(features) if any(word in path[-1] for word in _WORDS)]
    supervised = builder.info.supervised_keys or ()

    def chosen(names: list[str]) -> str:
        return next((name for name in supervised if name in names), names[0])

    if not images or not (texts if has_captions else labels):
        what = "captions" if has_captions else "class"
        raise ValueError(
            f"tfds:{builder.info.full_name} has no image and {what} to learn from; "
            f"its features are: {', '.join(features)}"
        )
    if has_captions:
        return Features(builder, chosen(images), captions=_likeliest(texts))
    return Features(builder, chosen(images), chosen(labels))


def _texts_in(
    features: Mapping[str, Any], above: tuple[str, ...] = ()
) -> Iterator[tuple[str, ...]]:
    """Names that lead to texts, also such as are in sequences."""
    for name, feature in features.items():
        inner = getattr(feature, "feature", feature)  # of a sequence, what it is of
        if isinstance(inner, tfds.features.Text):
            yield (*above, name)
        elif isinstance(inner, tfds.features.FeaturesDict):
            yield from _texts_in(dict(inner.items()), (*above, name))


def _likeliest(paths: list[tuple[str, ...]]) -> tuple[str, ...]:
    """The one that is called a caption, or is in what is; or else the first."""
    return next((path for path in paths if any("caption" in name for name in path)), paths[0])
