"""What a data source is, and the kind that knows its examples by number."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from input_pipeline.cpu_tf import tf
from input_pipeline.fields import TEXTS

SAMPLED = 200  # examples whose texts are looked at where they are not in memory

Example = dict[str, tf.Tensor]
Shapes = dict[str, tuple[tuple[int, ...], np.dtype]]  # of the parts of an example, with their types


@dataclasses.dataclass(frozen=True)
class Shard:
    """This process's part of the data.

    Attributes:
        index: number of this process.
        count: number of processes.
    """

    index: int = 0
    count: int = 1


class Source(Protocol):
    """One split of a data set.

    Attributes:
        num_examples: size of the split, over all processes.
        class_names: names of the classes in the order of the labels; empty for pairs of images.
        has_image: whether an example has an `image`.
        truths: what an example has besides its image, such as "label" or "target".
        eval_truths: what an example to evaluate has besides these.
        names: of the examples, for a report by example; () if they have none.
        digest: tells the data from others in what neither their number nor their classes says, such
            as texts; "" if there is nothing more to tell.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def num_examples(self) -> int: ...

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def has_image(self) -> bool: ...

    @property
    def truths(self) -> tuple[str, ...]: ...

    @property
    def eval_truths(self) -> tuple[str, ...]: ...

    @property
    def digest(self) -> str: ...

    def stream(self, seed: int, start: int, shard: Shard, local_batch: int) -> tf.data.Dataset:
        """Returns this process's endless training examples, as raw as they are stored.

        Every epoch shows each example once, in an order that depends on the seed and the epoch.

        Args:
            seed: of the order and of the examples' own seeds.
            start: how many examples this process has consumed before, in this run's past.
            shard: which part of the data is this process's.
            local_batch: how many examples of each batch are this process's.

        Returns:
            Examples with what `load` needs and `seed`, the (2,) int32 seed of this example's
            augmentation in this epoch.
        """

    def once(self, shard: Shard) -> tf.data.Dataset:
        """Returns this process's part of the split, every example once and in order."""

    def load(self, example: Example) -> Example:
        """Does what reading one example still takes; called in parallel.

        Returns:
            `image`, the bytes of a file or (h, w, c) uint8, or uint16 if there is a target; and by
            the names in `truths`: `label`, () int32; `target`, (h, w, 3) uint16, or of some times
            that size; `mask`, (h, w) uint8, 255 where it is to be ignored; `text`, () string, and
            `captions`, (k,) string, of which those after the first `num_captions` are "".
        """

    def draw(self, example: Example, seed: tf.Tensor) -> Example:
        """Makes of what `load` returns what is trained on in this epoch.

        Unlike `load` it may draw random numbers, so that a cache does not keep what it returns.

        Args:
            example: from `load`.
            seed: (2,) int32, of this example and epoch.

        Returns:
            `image`, if there is one, and what `truths` names, at least.
        """

    def finish(self, example: Example, seed: tf.Tensor) -> Example:
        """Does to a preprocessed example what the source has for the end.

        Args:
            example: `image` and what `truths` names.
            seed: (2,) int32, of this example, and when training of the epoch.
        """

    def texts(self) -> list[str]:
        """Texts of the examples, sorted, each once; of the first 200 if they are in files."""

    def explain(self, message: str) -> str:
        """Says what made reading fail, with the names of the files, given TensorFlow's message."""


class BatchedSource(abc.ABC):
    """A split that makes its own batches, such as of several shapes; examples have no image.

    Attributes:
        class_names: see `Source`, as are the others.
        has_image: it has none.
        eval_truths: none.
        truths: what an example has.
    """

    class_names: tuple[str, ...] = ()
    has_image = False
    eval_truths: tuple[str, ...] = ()
    truths: tuple[str, ...]

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """Size of the split, over all processes."""

    @property
    @abc.abstractmethod
    def names(self) -> tuple[str, ...]:
        """See `Source`."""

    @property
    @abc.abstractmethod
    def digest(self) -> str:
        """See `Source`."""

    @property
    @abc.abstractmethod
    def example(self) -> Shapes:
        """Shapes and types of the largest example."""

    @abc.abstractmethod
    def steps_per_epoch(self, batch_size: int) -> float:
        """Steps in which every example is seen once on average."""

    @abc.abstractmethod
    def train_batches(
        self, seed: int, start_step: int, shard: Shard, batch_size: int
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's part of the training batches from a step on, without end.

        All rows of a batch have one shape. Its number over all processes is a multiple of
        batch_size, and the processes' parts make the batch that one process would have.
        """

    @abc.abstractmethod
    def eval_batches(
        self, shard: Shard, batch_size: int, rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields the split once, see `Dataset.eval_batches`; as many batches on every process."""

    def texts(self) -> list[str]:
        """None that are still to be made numbers."""
        return []


def example_seed(seed: int, epoch: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """Returns the (2,) int32 seed of one example in one epoch."""
    return fold_in(fold_in(tf.constant([seed, 0], tf.int32), epoch), index)


def fold_in(seed: tf.Tensor, number: tf.Tensor | int) -> tf.Tensor:
    """Returns the (2,) int32 seed that a seed and a number make."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int32))


def permute(
    i: tf.Tensor, size: tf.Tensor | int, seed: int, epoch: tf.Tensor, which: tf.Tensor | int = 0
) -> tf.Tensor:
    """Returns the place of i in a random permutation of 0 .. size - 1, of those of an epoch."""
    # Not tf.random.experimental.index_shuffle: its 4 rounds leave examples that were neighbours
    # together, and so whole batches of a folder with few classes. From 8 on none of that is left.
    return tf.raw_ops.RandomIndexShuffle(
        index=i,
        seed=tf.cast(
            tf.stack([tf.constant(seed, tf.int64), epoch, tf.cast(which, tf.int64)]), tf.uint32
        ),
        max_index=tf.cast(size - 1, tf.int64),
        rounds=16,
    )


def texts_in(examples: tf.data.Dataset) -> list[str]:
    """The texts of some examples as they are loaded, sorted, each once."""
    spec = examples.element_spec
    keys = [key for key in TEXTS if key in spec and spec[key].dtype == tf.string]
    texts = examples.map(
        lambda example: tf.concat([tf.reshape(example[k], (-1,)) for k in keys], 0)
    )
    found = texts.as_numpy_iterator() if keys else ()
    return sorted({text.decode() for some in found for text in some if text})


def _leave(example: Example, *_: tf.Tensor) -> Example:
    return example


@dataclasses.dataclass(frozen=True)
class IndexedSource:
    """A source whose examples are rows of arrays in memory: images, or the paths of files.

    Its order is a permutation that can be entered anywhere, so resuming costs nothing, and the
    batches do not depend on the number of processes.

    Attributes:
        columns: arrays of equal length. One called "row" numbers them, for a cache.
        class_names: names of the classes in the order of the labels; empty for pairs of images.
        truths: see `Source`.
        has_image: see `Source`.
        eval_truths: see `Source`.
        digest: see `Source`.
        loader: turns one row into an example; called in parallel.
        drawer: see `Source.draw`.
        finisher: see `Source.finish`.
        explainer: says what made reading fail, given the message.
        names: of the rows, for a report by image.
        image_sizes: returns (rows, 2) heights and widths, or is None if they are not known.
        loads_alike: whether the loader makes the same of a row each time.
        decodes: whether the loader decodes files, so that nothing is left to do for a `decode` that
            a preprocessing string begins with.
        order: numbers of the rows that the examples are, of which some can be there several times;
            by default each is there once.
    """

    columns: Mapping[str, np.ndarray]
    class_names: tuple[str, ...] = ()
    truths: tuple[str, ...] = ("label",)
    has_image: bool = True
    eval_truths: tuple[str, ...] = ()
    digest: str = ""
    loader: Callable[[Example], Example] = _leave
    drawer: Callable[[Example, tf.Tensor], Example] = _leave
    finisher: Callable[[Example, tf.Tensor], Example] = _leave
    explainer: Callable[[str], str] = str
    names: tuple[str, ...] = ()
    image_sizes: Callable[[], np.ndarray] | None = None
    loads_alike: bool = True
    decodes: bool = False
    order: np.ndarray | None = None

    @property
    def num_examples(self) -> int:
        """Number of examples."""
        return len(next(iter(self.columns.values())) if self.order is None else self.order)

    def stream(self, seed: int, start: int, shard: Shard, local_batch: int) -> tf.data.Dataset:
        """See `Source`."""
        rows = self._rows()
        size = self.num_examples
        global_batch = local_batch * shard.count

        def nth(position: tf.Tensor) -> Example:
            batch, row = position // local_batch, position % local_batch
            position = batch * global_batch + shard.index * local_batch + row
            epoch, i = position // size, position % size
            slot = permute(i, size, seed, epoch)
            index = self._row_at(slot, seed, epoch)
            return {**rows(index), "seed": example_seed(seed, epoch, slot)}

        return tf.data.Dataset.range(start, tf.int64.max).map(nth)

    def _row_at(self, slot: tf.Tensor, seed: int, epoch: tf.Tensor) -> tf.Tensor:
        """The example in a place of an epoch, of which each has one; before they are permuted."""
        del seed, epoch
        return slot

    def once(self, shard: Shard) -> tf.data.Dataset:
        """See `Source`."""
        return tf.data.Dataset.range(shard.index, self.num_examples, shard.count).map(self._rows())

    def take(self, rows: np.ndarray) -> tf.data.Dataset:
        """Returns some rows in the given order, as `once` does all."""
        return tf.data.Dataset.from_tensor_slices(np.asarray(rows, np.int64)).map(self._rows())

    def load(self, example: Example) -> Example:
        """See `Source`."""
        return self.loader(example)

    def draw(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        return self.drawer(example, seed)

    def finish(self, example: Example, seed: tf.Tensor) -> Example:
        """See `Source`."""
        return self.finisher(example, seed)

    def texts(self) -> list[str]:
        """See `Source`."""
        kept = [self.columns[key] for key in TEXTS if key in self.columns]
        if any(column.dtype.kind in "OU" for column in kept):
            return sorted({text for column in kept for text in column.ravel().tolist() if text})
        if not set(TEXTS) & {*self.truths, *self.eval_truths}:
            return []
        row, seed = self._rows(), tf.zeros((2,), tf.int32)
        first = tf.data.Dataset.range(min(SAMPLED, self.num_examples))
        return texts_in(first.map(lambda i: self.load({**row(i), "seed": seed})))

    def explain(self, message: str) -> str:
        """See `Source`."""
        return self.explainer(message)

    def _rows(self) -> Callable[[tf.Tensor], Example]:
        tensors = {name: tf.constant(column) for name, column in self.columns.items()}
        order = None if self.order is None else tf.constant(self.order)

        def row(i: tf.Tensor) -> Example:
            at = i if order is None else order[i]
            return {"index": i, **{name: tensor[at] for name, tensor in tensors.items()}}

        return row
