"""Made-up data, where only the time or the program of a training step matters: no TensorFlow."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class MadeUp:
    """Random images with a truth, in place of a `Dataset`; the same batch at every step.

    Attributes:
        image_shape: (h, w, c) of the images.
        batch_size: of the batch, all of which is this process's.
        num_classes: labels are 0 to one less than this; 0 makes targets in their place.
        scale: how many times larger the targets are than the images.
        seed: of the values.
        truth: what comes besides images; "" is "label", or "target" if there are no classes;
            "mask", a label for each pixel; "flow", a second image and how each pixel moves to it,
            by up to 10 pixels, with `valid`, which leaves some out; "text", tokens from 1 to
            one less than `num_classes`; or "target_tokens", such tokens of a translation, with its
            `source`, from 3 on, and no image.
        text_length: in tokens.
    """

    image_shape: tuple[int, ...]
    batch_size: int
    num_classes: int = 0
    scale: int = 1
    seed: int = 0
    truth: str = ""
    text_length: int = 16

    steps_per_epoch = 1.0

    @property
    def example(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """Shapes and types of the parts of an example."""
        batch = next(dataclasses.replace(self, batch_size=1).train_batches())
        return {key: (array.shape[1:], array.dtype) for key, array in batch.items()}

    @property
    def train_example(self) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
        """The same, of an example to train on."""
        return self.example

    @property
    def train_image_shape(self) -> tuple[int, ...]:
        """(h, w, c) of an image to train on; () if there is none."""
        return self.image_shape

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes; empty if there are none."""
        return tuple(map(str, range(self.num_classes)))

    @property
    def truths(self) -> tuple[str, ...]:
        """What an example has besides its image."""
        if self.truth == "flow":
            return ("image2", "flow", "valid")
        if self.truth == "target_tokens":
            return ("source", "target_tokens")
        return (self.truth or ("label" if self.num_classes else "target"),)

    @property
    def keys(self) -> tuple[str, ...]:
        """All that an example has."""
        return self.truths if self.truth == "target_tokens" else ("image", *self.truths)

    @property
    def splits(self) -> Mapping[str, Any]:
        """There are training examples alone."""
        return {"train": self}

    @property
    def identity(self) -> dict[str, Any]:
        """What tells it from other data."""
        return dataclasses.asdict(self)

    def train_batches(self, start_step: int = 0) -> Iterator[dict[str, np.ndarray]]:
        """Yields a batch without end: `image`, and the truth, see `Dataset`."""
        del start_step  # all are alike
        random = np.random.default_rng(self.seed)
        batch = self._make_pairs(random) if self.truth == "target_tokens" else self._make(random)
        while True:
            yield batch

    def _make_pairs(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        """Rows without padding: `source` that ends with 2, the end; another that begins with 1."""
        shape = (2, self.batch_size, self.text_length)
        source, target = random.integers(3, self.num_classes, shape).astype(np.int32)
        source[:, -1] = target[:, -1] = 2
        target[:, 0] = 1
        return {"source": source, "target_tokens": target}

    def _make(self, random: np.random.Generator) -> dict[str, np.ndarray]:
        h, w, c = self.image_shape

        def images(scale: int) -> np.ndarray:
            shape = (self.batch_size, h * scale, w * scale, c)
            return random.uniform(-1, 1, shape).astype(np.float32)

        batch = {"image": images(1)}
        truth = self.truths[-1]
        if truth == "target":
            batch[truth] = images(self.scale)
        elif truth == "valid":
            batch["image2"] = images(1)
            batch["flow"] = random.uniform(-10, 10, (self.batch_size, h, w, 2)).astype(np.float32)
            batch["valid"] = (random.random((self.batch_size, h, w)) < 0.9).astype(np.float32)
        elif truth == "text":
            tokens = random.integers(1, self.num_classes, (self.batch_size, self.text_length))
            batch[truth] = tokens.astype(np.int32)
        else:
            shape = (self.batch_size, h, w) if truth == "mask" else self.batch_size
            batch[truth] = random.integers(0, self.num_classes, shape).astype(np.int32)
        return batch
