"""Segmentation: an image in, the logits of the classes of its pixels out."""

import dataclasses
import functools
import io
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from checkpoints import files as names
from input_pipeline import files, one_file
from input_pipeline.arguments import unknown
from input_pipeline.palettes import palette_for
from vit_jax import ahead, photos, segmentation, sliding
from vit_jax.options import SegmentOptions
from vit_jax.segmentation_report import SegmentationReport, draw_overlay
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer, Item, Metric, Panel, Pretrained, Task

_UNSET = SegmentOptions()
_LOG = logging.getLogger(__name__)

_TOP = 5  # classes that are said of a file
_MOST_AT_ONCE = 2**21  # pixels that are looked at whole; of more, the memory is not known to do
_LARGE_WINDOW = 1024


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by name, see `segmentation.split_figures`.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    del loss
    known = segmentation.FIGURES
    if name not in known:
        raise ValueError(unknown("metric", name, known, "of masks "))

    def finish(each: np.ndarray) -> float:
        counts = each.sum(axis=0, dtype=np.int64)
        return float(segmentation.split_figures(counts)[name])

    return Metric(segmentation.count_pixels, finish)


def fit(model: Any, data: Any) -> dict[str, Any]:
    """As many classes as the data has."""
    del model
    return {"num_classes": len(data.class_names)}


# A person's files.


def looks_of(options: SegmentOptions, settings: Mapping[str, Any]) -> sliding.Looks:
    """How photos are looked at: as the options say, and else as the run's settings do.

    Raises:
        ValueError: if something does not fit.
    """
    given: dict[str, Any] = {}
    if options.window is not None:
        given = {"window": options.window, "stride": 0}  # a run's stride is of its own windows
    if options.stride is not None:
        given["stride"] = options.stride
    if options.scales is not None:
        try:
            given["scales"] = tuple(float(part) for part in options.scales.split(",") if part)
        except ValueError:
            raise ValueError(
                f"--scales={options.scales} must be numbers with commas between, as in 0.5,1,1.5"
            ) from None
    if options.flip is not None:
        given["flip"] = options.flip == "on"
    return sliding.Looks.of({**settings, **{f"segment.{k}": v for k, v in given.items()}})


class SegmentingPredictor:
    """Segments files.

    Args:
        pretrained: the model, with a head.
        options: how to.
        output: folder for the results, as the answers say it; None if nothing is written.

    Raises:
        ValueError: if the model has no head, or the options do not fit.
    """

    has_files = True
    find = staticmethod(plain.find_images)
    take = staticmethod(plain.take_images)

    def __init__(
        self,
        pretrained: Pretrained,
        options: SegmentOptions = _UNSET,
        output: Path | None = None,
    ) -> None:
        self.class_names = plain.class_names(pretrained)
        if not self.class_names:
            raise ValueError("these weights have no head to segment with: fine-tune them first")
        self._model = pretrained.model
        self._variables = pretrained.variables
        self._spec, self._looks = pretrained.eval_pp, looks_of(options, pretrained.settings)
        height, width = pretrained.image_size
        if not (pretrained.settings or self._model.any_size) and height == width:
            # Without a run, a photo is not cut to the model's one size, but keeps its own.
            self._spec = f"decode|{self._model.input_values or 'value_range(-1, 1)'}"
            window = self._looks.window or height
            self._looks = dataclasses.replace(self._looks, window=window)
        self._draws = not options.indices_only
        self._output = output
        self.header = self.class_names
        self._palette = palette_for(pretrained.labels, len(self.class_names))

    @functools.cached_property
    def _prepare(self) -> Callable[[bytes], np.ndarray]:
        return one_file.make_preparer(self._spec)

    @functools.cache  # noqa: B019  the predictor lives as long as its command
    def _segmenter(self, looks: sliding.Looks) -> sliding.BandedSegmenter:
        return sliding.BandedSegmenter(self._model, self._variables, looks)

    def segment(self, data: bytes, size: tuple[int, int]) -> np.ndarray:
        """Says the class of each pixel.

        Args:
            data: the bytes of an image file.
            size: (h, w) of the image, upright.

        Returns:
            (*size,) int32 class numbers.

        Raises:
            ValueError: if the file is no image, or the model cannot be given it.
        """
        return self._classes(self._prepare(data), size)

    def _classes(self, image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        return self._segmenter(self._looks_at(image.shape[:2]))(image, size)

    def _looks_at(self, size: tuple[int, int]) -> sliding.Looks:
        """How an image of (h, w) pixels is looked at: by windows if it is large."""
        looks = self._looks
        largest = max(looks.scales or (1,)) ** 2 * size[0] * size[1]
        if looks.window or not self._model.any_size or largest <= _MOST_AT_ONCE:
            return looks
        _LOG.warning(
            "an image of %d x %d pixels is looked at by windows of %d, since it is large: say "
            "--window for others", size[1], size[0], _LARGE_WINDOW,
        )  # fmt: skip
        return dataclasses.replace(looks, window=_LARGE_WINDOW)

    def outputs(self, item: Item) -> Sequence[PurePath]:
        indexed = _indexed(item.inside)
        return [indexed, _overlaid(item.inside)] if self._draws else [indexed]

    def answers(self, items: Sequence[Item]) -> Iterator[Answer]:
        prepare = self._prepare

        def read(item: Item) -> tuple[np.ndarray, np.ndarray]:
            data = item.read()
            # Upright, and on white where it is transparent.
            return files.decode_in_python(data), prepare(data)

        for item, images in ahead.prepared(items, read, ahead=1):
            (path,) = item.paths
            try:
                if isinstance(images, Exception):
                    raise images
                answer = self._answer(item, *images)
            except Exception as error:  # whatever one file does, the others are segmented
                problem = f"cannot segment {path}: {photos.explain(error)}"
                answer = Answer(path, problems=(problem,))
            yield answer

    def _answer(self, item: Item, pixels: np.ndarray, image: np.ndarray) -> Answer:
        """The answer for a photo, from its pixels and from them as prepared for the model."""
        begin = time.monotonic()
        (path,), inside = item.paths, item.inside
        height, width = pixels.shape[:2]
        classes = self._classes(image, (height, width))
        shares = np.bincount(classes.ravel(), minlength=len(self.class_names)) / classes.size
        written: dict[PurePath, bytes] = {}
        problems: tuple[str, ...] = ()
        if self._output is not None:
            written[_indexed(inside)] = encode_indices(classes, self._palette)
        if self._draws and self._output is not None:
            try:
                overlay = draw_overlay(pixels, classes, self._palette, self.class_names)
                written[_overlaid(inside)] = overlay
            except Exception as error:  # the classes are known all the same
                problems = (f"cannot draw the classes over {path}: {photos.explain(error)}",)
        best = [i for i in np.argsort(-shares, kind="stable")[:_TOP] if shares[i]]
        said = "; ".join(f"{self.class_names[i]} {shares[i]:.1%}" for i in best)
        seconds = time.monotonic() - begin
        target = (self._output or Path()) / _indexed(inside)
        line = f"{path} -> {target} ({width} x {height}, {seconds:.1f} s): {said}"
        row = tuple(f"{share:.6f}" for share in shares)
        return Answer(path, line, row, written, problems, classes)


def encode_indices(classes: np.ndarray, palette: np.ndarray) -> bytes:
    """Makes a PNG whose values are class numbers, and which viewers show in colours.

    Args:
        classes: (h, w) integers.
        palette: (n, 3) uint8; of more than 256 classes, the PNG has 16 bits and no colours.
    """
    if len(palette) <= 256:
        image = Image.fromarray(classes.astype(np.uint8))
        image.putpalette(palette.tobytes())
    else:
        image = Image.fromarray(classes.astype(np.uint16))
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def _indexed(inside: PurePath) -> PurePath:
    """Where the class numbers of a photo's pixels go."""
    return inside.with_name(names.with_ending(inside.stem, ".png"))


def _overlaid(inside: PurePath) -> PurePath:
    """Where the picture of the classes over a photo goes."""
    return "overlay" / _indexed(inside)


def make_panel(pretrained: Pretrained) -> Panel:
    """The photo with its classes over it, how much each of them has of it, and the classes."""
    predictor = SegmentingPredictor(pretrained, output=Path())

    def answer(path: str) -> Sequence[Any]:
        found = plain.ask(predictor, path)
        shares = {name: float(str(x)) for name, x in zip(predictor.class_names, found.row)}
        numbers = _indexed(PurePath(Path(path).name))
        overlay = found.files.get(_overlaid(numbers))
        return overlay, shares, (numbers.name, found.files[numbers])

    shows = {"Classes": "picture", "Of the photo": "shares", "Numbers of the classes": "file"}
    says = "drop a photo to see the class of each of its pixels"
    return Panel(says, {"Photo": "image"}, shows, answer)


TASK = Task(
    name="segment",
    truths=("mask",),
    # They are averaged over the pixels of a batch, or of each part of it, and leave out padding.
    losses={
        "pixel_xent": segmentation.pixel_xent,
        "pixel_xent_all": segmentation.pixel_xent_all,
        "dice": segmentation.dice,
    },
    metric=get_metric,
    metrics=("miou", "pixel_accuracy"),
    kind="segmentation",
    settings=sliding.SETTINGS,
    fit=fit,
    output=plain.class_output,
    answer=sliding.make_answer,
    report=lambda data, split, config: SegmentationReport(
        data.splits[split].names, data.class_names, config.best_metric
    ),
    predictor=SegmentingPredictor,
    options=SegmentOptions,
    usage="--output=OUT FILE_OR_FOLDER...",
    pipeline_tag="image-segmentation",
    panel=make_panel,
)
