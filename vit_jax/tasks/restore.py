"""Restoration: an image in, the image that it should have been out, maybe some times larger."""

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from input_pipeline.arguments import unknown
from vit_jax import ahead, image_quality, ops, photos, tiles
from vit_jax.machinery import processes
from vit_jax.options import RestoreOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import (
    INPUT,
    Answer,
    Batch,
    Item,
    Metric,
    Output,
    Panel,
    Pretrained,
    Task,
)

if TYPE_CHECKING:  # it takes a while to import
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)

_SOME_IMAGES = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
_NAME_COLUMNS = 24


def l1(out: jax.Array, batch: Batch) -> jax.Array:
    """Mean absolute difference of (b, h, w, c) images to `target`, over pixels and channels."""
    return jnp.mean(jnp.abs(_difference(out, batch)), axis=(1, 2, 3))


def mse(out: jax.Array, batch: Batch) -> jax.Array:
    """Mean squared difference of (b, h, w, c) images to `target`."""
    return jnp.mean(jnp.square(_difference(out, batch)), axis=(1, 2, 3))


def charbonnier(out: jax.Array, batch: Batch, epsilon: float = 1e-6) -> jax.Array:
    """Mean of sqrt(d^2 + epsilon) over the differences d of (b, h, w, c) images to `target`.

    Source: Charbonnier et al. (ICIP 1994). 1e-6 is common in restoration; SwinIR's 1e-9, for images
    in [0, 1], is 4e-9 for ours.
    """
    return jnp.mean(jnp.sqrt(jnp.square(_difference(out, batch)) + epsilon), axis=(1, 2, 3))


def ssim(out: jax.Array, batch: Batch) -> jax.Array:
    """1 - SSIM of (b, h, w, c) images in [-1, 1] to `target`; see `image_quality.ssim`."""
    images, targets = ((x.astype(jnp.float32) + 1) / 2 for x in (out, batch["target"]))
    return 1 - image_quality.ssim(images, targets)


def tv(out: jax.Array, batch: Batch) -> jax.Array:
    """Anisotropic total variation of (b, h, w, c) images: the mean steps down and to the right.

    It knows no target, and is a term that keeps images smooth, such as in "l1 + 0.01 * tv".

    Source: Rudin, Osher and Fatemi (Physica D 1992), with the absolute values of both steps in
    place of their common length.
    """
    del batch
    x = out.astype(jnp.float32)
    down, right = jnp.abs(x[:, 1:] - x[:, :-1]), jnp.abs(x[:, :, 1:] - x[:, :, :-1])
    return jnp.mean(down, axis=(1, 2, 3)) + jnp.mean(right, axis=(1, 2, 3))


def _difference(out: jax.Array, batch: Batch) -> jax.Array:
    return out.astype(jnp.float32) - batch["target"]


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by PROTOCOL/FIGURE, such as "dehazeformer/psnr".

    See `image_quality.PROTOCOLS`; "basicsr" leaves out as many pixels along the border as the
    images were enlarged times.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    del loss
    known = [
        f"{protocol}/{figure}"
        for protocol, compute in image_quality.PROTOCOLS.items()
        for figure in jax.eval_shape(compute, _SOME_IMAGES, _SOME_IMAGES)
    ]
    if name not in known:
        raise ValueError(unknown("metric", name, known, "on images "))
    protocol, _, figure = name.partition("/")
    if protocol == "basicsr":
        return Metric(lambda out, batch: _basicsr(out, batch)[figure])
    compute = image_quality.PROTOCOLS[protocol]
    return Metric(lambda out, batch: compute(out, batch["target"])[figure])


def _basicsr(out: jax.Array, batch: Batch) -> dict[str, jax.Array]:
    scale = batch["target"].shape[1] // batch["image"].shape[1]
    return image_quality.basicsr(out, batch["target"], scale if scale > 1 else 0)


def baseline(model: Any, batch: Batch) -> jax.Array:
    """The image itself, made as large as the output by bicubic interpolation."""
    return ops.bicubic_upsample(batch["image"], model.upscale)


class RestorationReport:
    """Lists the figures of every image, and shows the worst, the median and the best.

    Args:
        names: of the images of a split.
        metric: by which images are ranked, lowest first.
    """

    sees_all = False

    def __init__(self, names: Sequence[str], metric: str) -> None:
        self._names = names
        self._metric = metric
        self._figures: dict[str, np.ndarray] = {}
        self._ranks: dict[int, str] = {}
        self._images: dict[int, tuple[np.ndarray, ...]] = {}

    def choose(self, each: Mapping[str, np.ndarray]) -> Sequence[int]:
        """The images of lowest, median and highest metric."""
        order = np.argsort(each[self._metric], kind="stable")
        self._figures = {
            k: v[np.argsort(each["index"])] for k, v in each.items() if k != "index" and v.ndim == 1
        }
        picked = {"lowest": order[0], "median": order[len(order) // 2], "highest": order[-1]}
        self._ranks = {int(each["index"][i]): rank for rank, i in picked.items()}
        return list(self._ranks)

    def add(self, batch: Mapping[str, np.ndarray], out: np.ndarray) -> None:
        """Keeps a batch: `image`, `target` and the output, (b, h, w, 3) in [-1, 1]."""
        for row, *images in zip(batch["index"], batch["image"], out, batch["target"]):
            self._images[int(row)] = tuple((np.clip(x, -1, 1) + 1) / 2 for x in images)

    def gather(self) -> None:
        for images in processes.gather(self._images):
            self._images |= images

    def write(self, folder: Any, split: str) -> None:
        """Writes SPLIT.csv with the figures by image, and restored.png."""
        from vit_jax import report

        report.write_figures(self._names, self._figures, folder, split)
        report.save(self.draw_restored(split), folder / "restored.png")

    def draw_restored(self, split: str) -> "Figure":
        """Draws the images kept: before, after, the truth, and where the error is."""
        from matplotlib.figure import Figure

        from vit_jax import fonts

        rows = [row for row in self._ranks if row in self._images]
        figure = Figure(figsize=(14, 2.9 * len(rows) + 0.6), layout="constrained")
        figure.suptitle(f"{split}: the images of lowest, median and highest {self._metric}")
        grid = np.atleast_2d(figure.subplots(len(rows), 4))
        for axes in grid.flat:
            axes.axis("off")
        for cells, row in zip(grid, rows):
            before, after = (
                f"\n{self._figures[name][row]:.2f}" if name in self._figures else ""
                for name in (INPUT + self._metric, self._metric)
            )
            name = fonts.shorten(fonts.legible(self._names[row]), _NAME_COLUMNS)
            shown = [f"input {name}{before}", f"restored ({self._ranks[row]}){after}", "truth"]
            for axes, image, title in zip(cells, self._images[row], shown):
                axes.imshow(image)
                axes.set_title(title, fontsize=9, **fonts.style(title))
            _, restored, truth = self._images[row]
            error = np.abs(restored - truth).mean(axis=-1) * 255
            picture = cells[3].imshow(error, cmap="magma", vmin=0)
            cells[3].set_title("mean absolute error, of 255", fontsize=9)
            figure.colorbar(picture, ax=cells[3], shrink=0.8)
        return figure


# A person's files.


def make_restorer(pretrained: Pretrained, **options: Any) -> tiles.Restorer:
    """Makes a restorer of a model, see `pretrained.load`; the options are its attributes.

    Raises:
        ValueError: if the model does not restore images, or an option does not fit.
    """
    if pretrained.model.task != TASK.name:
        raise ValueError(f"{pretrained.name} does not restore images")
    return tiles.Restorer(pretrained.model, jax.device_put(pretrained.variables), **options)


class RestoringPredictor:
    """Restores files.

    Args:
        restorer: does it.
        compares: whether to draw each before and after.
        output: folder for the results, as the answers say it; None if nothing is written.
    """

    header = ()
    has_files = True
    find = staticmethod(plain.find_images)
    take = staticmethod(plain.take_images)

    def __init__(
        self, restorer: tiles.Restorer, compares: bool = False, output: Path | None = None
    ) -> None:
        self._restorer = restorer
        self._compares = compares
        self._output = output

    def outputs(self, item: Item) -> Sequence[PurePath]:
        return [item.inside, _compared(item.inside)] if self._compares else [item.inside]

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        for item, photo in ahead.prepared(items, _read, ahead=1):
            yield self._answer(item, photo)

    def _answer(self, item: Item, photo: photos.Photo | Exception) -> Answer:
        path, inside = item.paths[0], item.inside
        begin, method = time.monotonic(), self._restorer.method
        written: dict[PurePath, bytes] = {}
        try:
            if isinstance(photo, Exception):
                raise photo
            method = self._restorer.method_for(photo.pixels.shape[:2])
            self._warn(path, photo.pixels, method)
            restored = self._restorer(photo.pixels)
            value = photo.picture(restored)
            if self._output is not None:
                written[inside] = photo.encode(restored)
        except jax.errors.JaxRuntimeError as error:
            problem = f"cannot restore {path} by method {method}: {error}".splitlines()[0]
            return Answer(path, problems=(problem,))
        except Exception as error:  # whatever one file does, the others are restored
            return Answer(path, problems=(f"cannot restore {path}: {photos.explain(error)}",))
        height, width = restored.shape[:2]
        seconds = time.monotonic() - begin
        size = f"{width} x {height}, {method}, {seconds:.1f} s"
        line = f"{path} -> {(self._output or Path()) / inside} ({size})"
        problems: tuple[str, ...] = ()
        if self._compares and self._output is not None:
            try:
                written[_compared(inside)] = _draw_comparison(photo.pixels, restored)
            except Exception as error:
                problems = (f"cannot compare {path}: {photos.explain(error)}",)
        return Answer(path, line, files=written, problems=problems, value=value)

    def _warn(self, path: Path, pixels: np.ndarray, method: str) -> None:
        if method == "tiles" and self._restorer.method == "auto":
            _LOG.warning("%s is too large for the memory: tiles give another result", path)
        if self._restorer.model.in_channels == 1 and np.ptp(pixels, axis=-1).any():
            _LOG.warning("%s has colours, which this model for grey images takes off it", path)


def make_predictor(
    pretrained: Pretrained, options: RestoreOptions, output: Path | None
) -> RestoringPredictor:
    """Makes what restores files with a model.

    Raises:
        ValueError: if the options do not fit each other or the model.
    """
    method, tile, memory = options.method, options.tile, options.memory
    if tile is not None and method not in (None, "tiles"):
        raise ValueError(f"--tile is for --method=tiles, and not for {method}")
    if memory is not None and (method != "auto" and (method or tile)):
        raise ValueError("--memory is for --method=auto")
    by_tiles = {} if tile is None else {"method": "tiles", "tile": tile}
    restorer = make_restorer(
        pretrained,
        **{"method": method or "auto", **by_tiles},
        memory=None if memory is None else int(memory * 2**30),
        ensemble=options.ensemble,
    )
    return RestoringPredictor(restorer, options.compare, output)


def _read(item: Item) -> photos.Photo:
    return photos.read(item.paths[0], item.read())


def _compared(inside: PurePath) -> PurePath:
    """Where the picture of an image before and after goes."""
    return "compare" / plain.picture_of(inside)


def _draw_comparison(before: np.ndarray, after: np.ndarray) -> bytes:
    """A PNG of both images side by side, the first as large as the second."""
    height, width = after.shape[:2]
    shown = Image.fromarray(photos.show(after))
    return photos.side_by_side([_enlarged(before, (width, height)), shown])


def _enlarged(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A picture of (h, w, 3) in [-1, 1], of another width and height."""
    return Image.fromarray(photos.show(pixels)).resize(size, Image.Resampling.BICUBIC)


def make_panel(pretrained: Pretrained) -> Panel:
    """Before and after with a slider between them, and the file that `predict` would write."""
    predictor = make_predictor(pretrained, RestoreOptions(), Path())

    def answer(path: str) -> Sequence[Any]:
        found = plain.ask(predictor, path)
        after = found.value
        before = _enlarged(photos.read(Path(path)).pixels, after.size)
        ((inside, data),) = found.files.items()
        return (before, after), (inside.name, data)

    shows = {"Before and after": "comparison", "Restored": "file"}
    says = "drop a photo, and move the slider between before and after"
    return Panel(says, {"Photo": "image"}, shows, answer)


TASK = Task(
    name="restore",
    truths=("target",),
    losses={"l1": l1, "mse": mse, "charbonnier": charbonnier, "ssim": ssim, "tv": tv},
    metric=get_metric,
    kind="pairs",
    settings=("gan.weight", "gan.perceptual_weight"),
    output=lambda model, loss: Output("restored"),
    baseline=baseline,
    report=lambda data, split, config: RestorationReport(
        data.splits[split].names, config.best_metric
    ),
    predictor=make_predictor,
    options=RestoreOptions,
    usage="--output=OUT FILE_OR_FOLDER...",
    pipeline_tag="image-to-image",
    panel=make_panel,
)
