"""What `predict` does with a model of images and texts: which words fit a photo, or its vector."""

import copy
import dataclasses
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from vit_jax import prompts as prompt_sets
from vit_jax.embedder import Embedded, Embedder
from vit_jax.options import EMBEDDINGS, ImageTextOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Item, Pretrained

_UNSET = ImageTextOptions()
_TOP = 5  # labels that are said of a photo


class ZeroShotPredictor:
    """Compares photos with words, and writes vectors.

    Args:
        pretrained: a model of images and texts; its labels are what is compared.
        options: how to answer.
        output: folder for results; None if vectors are not packed for one.

    Raises:
        ValueError: without anything to do, or for options that do not go together.
    """

    has_files = False
    take = staticmethod(plain.take_images)

    def __init__(
        self, pretrained: Pretrained, options: ImageTextOptions = _UNSET, output: Path | None = None
    ) -> None:
        labels = pretrained.labels or ()
        if not labels and not options.embed:
            raise ValueError(
                f"say what {pretrained.name} is to look for, --labels='cat,dog,a red car', or "
                "--embed for the vectors"
            )
        if options.prompts is not None and not labels:
            raise ValueError("--prompts is for --labels, of which there are none")
        if options.texts is not None and not options.embed:
            raise ValueError("--texts goes with --embed")
        self._embeds = options.embed
        self._packs = options.embed and output is not None
        self._embedder = Embedder(pretrained, options.batch_size)
        self._texts = [] if options.texts is None else _read_lines(options.texts)
        self._text_vectors = np.zeros((0, self._embedder.size), np.float32)
        if self._texts:
            self._text_vectors = self._embedder.texts(self._texts)
        self._templates = prompt_sets.find(options.prompts or "")
        self._look_for(labels)

    def _look_for(self, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._keys = plain.told_apart(labels)
        if labels:
            self._classes = self._embedder.classes(labels, self._templates)
        self.header = self._make_header() if labels else ()

    def looking_for(self, labels: tuple[str, ...]) -> "ZeroShotPredictor":
        """One that compares photos with other words, and writes no vectors.

        Raises:
            ValueError: if there are none.
        """
        if not labels:
            raise ValueError("there are no words to look for, such as: cat, dog, a red car")
        other = copy.copy(self)
        other._embeds = other._packs = False
        other._look_for(labels)
        return other

    def _make_header(self) -> tuple[str, ...]:
        kinds = ("cosine", "softmax", *(("probability",) if self._embedder.has_bias else ()))
        return ("label", *(f"{kind} {label}" for kind in kinds for label in self.labels))

    def find(self, arguments: Sequence[str | os.PathLike[str]]) -> Sequence[Item]:
        """Images, see `plain.find_images`; together one item, if their vectors are a file."""
        items = plain.find_images(arguments)
        if not self._packs:
            return items
        paths = tuple(path for item in items for path in item.paths)
        return [Item(paths, PurePath(EMBEDDINGS), len(paths))]

    def outputs(self, item: Item) -> Sequence[PurePath]:
        del item
        return (EMBEDDINGS,) if self._packs else ()

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        found: list[Embedded] = []
        if self._packs:
            items = [Item((path,), item.inside) for item in items for path in item.paths]
        for i, embedded in enumerate(self._embedder.items(items)):
            path, vector, problem = embedded
            answer = Answer(path, value=vector)
            if vector is None:
                answer = Answer(path, problems=(f"cannot read {path}: {problem}",))
            elif self.labels:
                answer = self._compare(path, vector)
            if self._embeds:
                answer = dataclasses.replace(answer, value=vector)
            found.extend([embedded] if self._packs and vector is not None else [])
            if self._packs and i == len(items) - 1:
                answer = dataclasses.replace(
                    answer,
                    line="\n".join(filter(None, (answer.line, self._say_embedded(len(found))))),
                    files={EMBEDDINGS: self._pack(found)},
                )
            yield answer

    def _compare(self, path: Path, vector: np.ndarray) -> Answer:
        cosines, shares, alone = self.scores(vector)
        order = np.argsort(-cosines)
        width = max(len(self.labels[i]) for i in order[:_TOP])
        lines = [f"{path}: {self.explain_columns()}"]
        for i in order[:_TOP]:
            pair = "" if alone is None else f"  {alone[i]:12.2%}"
            label = self.labels[i].ljust(width)
            lines.append(f"  {label}  {cosines[i]:7.4f}  {shares[i]:8.2%}{pair}")
        figures = [cosines, shares, *([] if alone is None else [alone])]
        row = (self.labels[order[0]], *(f"{x:.6f}" for each in figures for x in each))
        value = plain.ranked(self._keys, shares if alone is None else alone)
        return Answer(path, "\n".join(lines), row, value=value)

    def explain_columns(self) -> str:
        """Says what the numbers beside a label are, in the order of the columns."""
        columns = f"cosine, softmax over the {len(self.labels)} labels"
        return columns + (", probability of the pair alone" if self._embedder.has_bias else "")

    def scores(self, vector: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Compares a photo with all labels.

        Args:
            vector: (d,) of the photo.

        Returns:
            (labels,) each: cosines; the softmax of the logits, which sums to 1 over the labels,
            whether or not any fits; and, of a model that was trained with a sigmoid, the
            probability that label and photo belong together, whatever the others are; else None.
        """
        cosines = (self._classes @ vector).astype(np.float64)
        logits = self._embedder.scale * cosines + self._embedder.bias
        powers = np.exp(logits - logits.max())
        alone = 1 / (1 + np.exp(-logits)) if self._embedder.has_bias else None
        return cosines, powers / powers.sum(), alone

    def _say_embedded(self, count: int) -> str:
        texts = f" and {len(self._texts)} texts" if self._texts else ""
        return f"{EMBEDDINGS}: {count} photos{texts}, vectors of {self._embedder.size} numbers"

    def _pack(self, found: Sequence[Embedded]) -> bytes:
        """A .npz file: image (n, d), image_files (n,), and text (m, d), texts (m,) if given."""
        vectors = [embedded.vector for embedded in found if embedded.vector is not None]
        arrays: dict[str, Any] = {
            "image": np.stack(vectors) if vectors else np.zeros((0, self._embedder.size), "f4"),
            "image_files": np.array([str(embedded.path) for embedded in found], np.str_),
        }
        if self._texts:
            arrays |= {"text": self._text_vectors, "texts": np.array(self._texts, np.str_)}
        data = io.BytesIO()
        np.savez(data, **arrays)
        return data.getvalue()


def _read_lines(path: str) -> list[str]:
    """The lines of a file that are not empty."""
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"cannot read --texts={path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise ValueError(f"--texts={path} has no text: write one per line")
    return lines
