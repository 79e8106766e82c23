"""Photos and texts as vectors, by one model: what zero-shot labels, search and export stand on."""

import dataclasses
import functools
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline import one_file
from vit_jax import ahead, ops, photos
from vit_jax.class_embeddings import embed_classes
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.two_towers import TwoTowers
from vit_jax.prompts import readable
from vit_jax.tasks import plain
from vit_jax.tasks.base import Item, Pretrained

if TYPE_CHECKING:  # which imports what imports this
    from vit_jax.pretrained import Pretrained as Loaded

_LOG = logging.getLogger(__name__)

_BATCH = 16  # texts at a time
_SAMPLES = 1024  # of each array, by which models are told apart
_EPSILON = 1e-8  # in the length that a vector is divided by


class Embedded(NamedTuple):
    """What came of a file: its vector, (d,) float32 of length 1, or what is wrong with it."""

    path: Path
    vector: np.ndarray | None
    problem: str = ""


def has_two_towers(model: Any) -> bool:
    """Whether a model compares images with texts."""
    return isinstance(model, TwoTowers)


def image_tower(pretrained: "Loaded") -> "Loaded":
    """What makes features of images alone, of a model that does more.

    That is of a model of images and texts the tower of images, less its projection into their
    space, and of a masked autoencoder the encoder, with the class token's features.
    """
    model: Any = pretrained.model
    if has_two_towers(model):
        part, tower = "img", model.image_tower().clone(representation_size=None)
    elif isinstance(model, MaskedAutoencoder):
        part, tower = "encoder", model.backbone_model.clone(classifier="token")
    else:
        return pretrained
    params = pretrained.variables["params"][part]
    return dataclasses.replace(pretrained, model=tower, variables={"params": params})


class Embedder:
    """Turns photos, and texts if the model has a tower for them, into vectors of length 1.

    Args:
        pretrained: a model of images and texts; or a classifier, of which the features before the
            head are taken.
        batch_size: images at a time; None for what suits the devices.
        keeps_length: whether vectors are left as long as the model makes them.

    Attributes:
        size: numbers d in a vector.
        has_text: whether there is a tower for texts.
        scale: exp(t), by which cosines become logits; 1 without texts.
        bias: that is added to them; 0 without one.

    Raises:
        ValueError: for a model that gives no vector of an image.
    """

    def __init__(
        self,
        pretrained: "Pretrained | Loaded",
        batch_size: int | None = None,
        keeps_length: bool = False,
    ) -> None:
        self.pretrained = pretrained
        self._keeps_length = keeps_length
        self.has_text = has_two_towers(pretrained.model)
        if not self.has_text and not pretrained.model.has_field("num_classes"):
            raise ValueError(
                f"{pretrained.name} gives no vector of an image: take a model of images and texts, "
                "such as CLIP, or a classifier"
            )
        self._batches = ahead.Batches(batch_size)
        self._variables = self._batches.place(pretrained.variables)
        shape = jax.ShapeDtypeStruct((1, *pretrained.image_size, 3), jnp.float32)
        vectors = jax.eval_shape(self._apply_image, self._variables, shape)
        if len(vectors.shape) != 2:
            raise ValueError(
                f"{pretrained.name} gives {vectors.shape[1:]} numbers of an image, and not a vector"
            )
        self.size = vectors.shape[1]
        params = pretrained.variables["params"]
        self.scale = float(np.exp(params["t"].item())) if self.has_text else 1.0
        self.bias = float(params["b"].item()) if "b" in params and self.has_text else 0.0

    @property
    def has_bias(self) -> bool:
        """Whether a logit says by itself if image and text belong together, as SigLIP's do."""
        return self.has_text and "b" in self.pretrained.variables["params"]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Tells models apart: by names, shapes and some values of all arrays, and how images come.

        The values are a sample, so that a large model is not read through.
        """
        digest = hashlib.sha256(self.pretrained.eval_pp.encode())
        leaves = jax.tree_util.tree_leaves_with_path(self.pretrained.variables)
        for path, leaf in sorted((jax.tree_util.keystr(path), leaf) for path, leaf in leaves):
            flat = np.asarray(leaf).reshape(-1)
            sample = np.ascontiguousarray(flat[:: -(-flat.size // _SAMPLES) or 1])
            digest.update(f"{path}{np.shape(leaf)}{sample.dtype}".encode())
            digest.update(sample.tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def prepare(self) -> Callable[[bytes], np.ndarray]:
        """From the bytes of an image file to (h, w, c) float32, or a ValueError."""
        return one_file.make_preparer(self.pretrained.eval_pp)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The model's own, see `input_pipeline.tokenizers`.

        Raises:
            ValueError: for a model without a tower for texts, or without its vocabulary.
        """
        if not self.has_text:
            raise ValueError(
                f"{self.pretrained.name} knows no words: ask with a photo, or take a model of "
                "images and texts, such as CLIP"
            )
        from input_pipeline.tokenizers import make_tokenizer

        model = self.pretrained.model
        tokenizer = make_tokenizer(model.tokenizer, self.pretrained.vocabulary)
        tokenizer.check_fits(model.vocabulary_size, model.text_length)
        return tokenizer

    def images(self, images: np.ndarray) -> np.ndarray:
        """From (b, h, w, c) float32 to (b, d) float32 of length 1."""
        return np.asarray(self._jitted_image(self._variables, images))

    def tokens(self, tokens: np.ndarray) -> np.ndarray:
        """From (n, length) int32 to (n, d) float32 of length 1."""
        return np.asarray(self._jitted_text(self._variables, tokens))

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """From n texts to (n, d) float32 of length 1; says which of them are cut."""
        tokens, is_cut = self.tokenizer.encode(texts)
        cut = [text for text, cut in zip(texts, is_cut) if cut]
        if cut:
            _LOG.warning(
                "%d of %d texts are longer than the %d pieces that the model reads, and are cut, "
                "such as %r", len(cut), len(texts), self.tokenizer.length, cut[0],
            )  # fmt: skip
        rows = min(_BATCH, len(tokens))
        filled = np.pad(tokens, [(0, -len(tokens) % max(rows, 1)), (0, 0)], mode="edge")
        parts = [self.tokens(filled[i : i + rows]) for i in range(0, len(filled), rows)]
        return np.concatenate(parts)[: len(texts)]

    def classes(self, names: Sequence[str], prompts: Sequence[str]) -> np.ndarray:
        """(classes, d) float32 of length 1: names in prompts, averaged, see `class_embeddings`."""
        words = [readable(name) for name in names]
        return embed_classes(self.tokens, self.tokenizer.of_prompts, words, prompts)

    def files(self, paths: Sequence[Path]) -> Iterator[Embedded]:
        """Embeds image files, see `items`."""
        return self.items(plain.take_images(paths))

    def items(self, items: Sequence[Item]) -> Iterator[Embedded]:
        """Embeds images in their order, a batch at a time, while the next ones are read."""
        prepare, apply = self.prepare, functools.partial(self._jitted_image, self._variables)
        found = self._batches.compute(items, lambda item: prepare(item.read()), apply)
        for item, _, vector in found:
            if isinstance(vector, Exception):  # whatever one file does, the others are embedded
                yield Embedded(item.paths[0], None, photos.explain(vector))
            else:
                yield Embedded(item.paths[0], vector)

    def _apply_image(self, variables: Any, images: jax.Array) -> jax.Array:
        model: Any = self.pretrained.model
        if self.has_text:
            return model.apply(variables, images, None)["image"].astype(jnp.float32)
        features = model.clone(num_classes=0).apply(variables, images).astype(jnp.float32)
        if self._keeps_length:
            return features
        return features / (jnp.linalg.norm(features, axis=-1, keepdims=True) + _EPSILON)

    @functools.cached_property
    def _jitted_image(self) -> Callable[..., jax.Array]:
        return jax.jit(self._apply_image, compiler_options=ops.compiler_options())

    @functools.cached_property
    def _jitted_text(self) -> Callable[..., jax.Array]:
        model: Any = self.pretrained.model

        @functools.partial(jax.jit, compiler_options=ops.compiler_options())
        def apply(variables: Any, tokens: jax.Array) -> jax.Array:
            return model.apply(variables, None, tokens)["text"].astype(jnp.float32)

        return apply
