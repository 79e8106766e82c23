"""Pretraining on images alone: to tell what patches show that are masked, from the others."""

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

import jax
import numpy as np
from PIL import Image

from vit_jax import masked_images, photos
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Item, Metric, Output, Pretrained, Task

_GAP = 4  # pixels between pictures


def get_metric(name: str, loss: str) -> Metric:
    """There is none besides the loss.

    Raises:
        ValueError: for any name.
    """
    raise ValueError(
        f"there is no metric {name!r}, nor any other of masked images: the figure is the loss, "
        f"{loss}; set metrics to () and best_metric to 'loss'"
    )


class Reconstructor(plain.FilesPredictor):
    """Draws what it saw of each image, what it made of that, and the image.

    Args:
        pretrained: the model.
        options: it has none.
        output: folder for the pictures; None if nothing is written.
    """

    header = ("loss",)
    has_files = True

    def __init__(self, pretrained: Pretrained, options: Any, output: Path | None) -> None:
        del options
        super().__init__(pretrained)
        self._output = output
        loss_of = masked_images.LOSSES[pretrained.loss]

        @jax.jit
        def look(outs: Any, images: jax.Array) -> tuple[jax.Array, ...]:
            pictures = masked_images.reconstruct(outs, images, pretrained.loss)
            return loss_of(outs, {"image": images}), *pictures

        self._look = look

    def outputs(self, item: Item) -> Sequence[PurePath]:
        return [plain.picture_of(item.inside)]

    def answer(self, item: Item, image: np.ndarray, out: Any) -> Answer:
        """A picture of three, with the loss; the value is the reconstruction, a PIL image."""
        from vit_jax import report  # matplotlib takes a while to import

        (path,), inside = item.paths, plain.picture_of(item.inside)
        looked = self._look(jax.tree.map(lambda leaf: leaf[None], out), image[None])
        loss, seen, filled = (x[0] for x in jax.device_get(looked))
        pictures = [
            Image.fromarray(np.round(report.displayable(x, like=image) * 255).astype(np.uint8))
            for x in (seen, filled, image)
        ]
        files = {} if self._output is None else {inside: photos.side_by_side(pictures, _GAP)}
        line = f"{path} -> {(self._output or Path()) / inside} (loss {loss:.4f})"
        return Answer(path, line, (f"{loss:.6f}",), files, value=pictures[1])


TASK = Task(
    name="masked_image",
    truths=(),
    losses=masked_images.LOSSES,
    metric=get_metric,
    kind="photos",
    output=lambda model, loss: Output("pixels"),
    report=plain.report,
    predictor=Reconstructor,
    usage="--output=OUT FILE_OR_FOLDER...",
)
