"""Images and texts that belong together: two towers learn to find the one by the other."""

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import contrastive, prompts
from vit_jax.options import ImageTextOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import (
    Batch,
    Metric,
    Out,
    Output,
    Panel,
    Predictor,
    Pretrained,
    Probe,
    Report,
    Task,
)

ACCURACY = "zero_shot/accuracy"

DIRECTIONS = ("image_to_text", "text_to_image")

_RANKS = {
    "image_to_text": contrastive.image_to_text_ranks,
    "text_to_image": contrastive.text_to_image_ranks,
}


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by its name: DIRECTION/recall@K, over all images and captions of a split.

    `image_to_text` is the share of images that have one of their own captions among the K that are
    likest, `text_to_image` the share of captions whose image is among the K likest.

    Raises:
        ValueError: for an unknown name.
    """
    del loss
    direction, _, figure = name.partition("/")
    match = re.fullmatch(r"recall@([1-9]\d*)", figure)
    if direction not in _RANKS or match is None:
        raise ValueError(
            f"unknown metric {name!r} of images and texts; there are {' and '.join(_RANKS)}, each "
            "as in image_to_text/recall@5"
        )
    finish = functools.partial(_recall, direction=direction, k=int(match[1]))
    return Metric(gather, finish)


def gather(out: Out, batch: Batch) -> jax.Array:
    """Puts what a split's ranks are made of into one array.

    Args:
        out: `image` (b, d), and `captions` (b, k, d).
        batch: `num_captions` (b,), how many are an image's own; without it, all.

    Returns:
        (b, 1 + k, d) float32: the image, and its captions, which are infinite from the last on.
    """
    captions = out["captions"]
    if "num_captions" in batch:
        is_there = jnp.arange(captions.shape[1]) < batch["num_captions"][:, None]
        captions = jnp.where(is_there[..., None], captions, jnp.inf)
    return jnp.concatenate([out["image"][:, None], captions], axis=1)


def ranks(gathered: np.ndarray, direction: str) -> np.ndarray:
    """Ranks of a split, see `contrastive`.

    Args:
        gathered: (n, 1 + k, d), see `gather`.
        direction: "image_to_text", or "text_to_image", which has a rank for each caption, image by
            image.
    """
    captions = gathered[:, 1:]
    is_there = _is_there(captions)
    return _RANKS[direction](gathered[:, 0], captions[is_there], np.nonzero(is_there)[0])


def owners(gathered: np.ndarray) -> np.ndarray:
    """Which image each caption of a split belongs to, in the order of `ranks`."""
    return np.nonzero(_is_there(gathered[:, 1:]))[0]


def _is_there(captions: np.ndarray) -> np.ndarray:
    """(n, k) bool, False after an image's last caption; one that is NaN is there, and diverged."""
    return ~np.isposinf(captions[..., 0])


def _recall(gathered: np.ndarray, direction: str, k: int) -> float:
    return contrastive.recall(ranks(gathered, direction), k)


def make_answer(model: Any, settings: Mapping[str, Any]) -> Callable[[Any, Batch], Out]:
    """Makes what embeds all captions of an image, where there are several."""
    del settings

    def answer(variables: Any, batch: Batch) -> Out:
        texts = batch["captions"] if "captions" in batch else batch["text"][:, None]
        b, k, n = texts.shape
        out = dict(model.apply(variables, batch["image"], texts.reshape(b * k, n), train=False))
        del out["logits"]  # which have a row for each image, but not a column
        captions = out["text"].reshape(b, k, -1)
        return {**out, "text": captions[:, 0], "captions": captions}

    return answer


def fit(model: Any, data: Any) -> dict[str, Any]:
    """Raises a ValueError unless the data's tokens are those that the model knows."""
    tokenizer = getattr(data, "tokenize", None)  # which made-up data lack
    if tokenizer is not None:
        tokenizer.check_fits(model.vocabulary_size, model.text_length)
    return {}


def probes(config: Any) -> dict[str, Probe]:
    """The accuracy on a labelled set whose classes are told by words, if one is named."""
    if not config.image_text.zero_shot:
        if config.image_text.prompts:
            raise ValueError(
                "image_text.prompts are for image_text.zero_shot, which names no labelled images: "
                "set either both or none"
            )
        return {}
    from vit_jax import zero_shot_probe  # which imports this package

    prompts.find(config.image_text.prompts)  # or raises
    return {ACCURACY: zero_shot_probe.make}


def make_report(data: Any, split: str, config: Any) -> Report:
    """Makes the report of a split, see `Task.report`."""
    from vit_jax.image_text_report import ImageTextReport  # which imports this package

    del config
    return ImageTextReport(data.splits[split].names, getattr(data, "tokenize", None))


# A person's photos.


def make_predictor(
    pretrained: Pretrained, options: ImageTextOptions, output: Path | None
) -> Predictor:
    """Makes what compares a person's photos with words, or writes vectors of both.

    Raises:
        ValueError: for options that do not fit.
    """
    from vit_jax.zero_shot_predictor import ZeroShotPredictor

    return ZeroShotPredictor(pretrained, options, output)


def make_panel(pretrained: Pretrained) -> Panel:
    """How well each of the words that a visitor types fits a photo."""
    from vit_jax.zero_shot_predictor import ZeroShotPredictor

    predictor = ZeroShotPredictor(pretrained, ImageTextOptions(embed=not pretrained.labels))
    return Panel(
        "drop a photo, and type what it may show",
        {"Photo": "image", "What it may show, with commas between": "labels"},
        {"Fits": "shares"},
        lambda path, labels: (plain.ask(predictor.looking_for(labels), path).value,),
    )


TASK = Task(
    name="image_text",
    inputs=("image", "text"),
    truths=("text",),
    losses={"softmax": contrastive.softmax, "sigmoid": contrastive.sigmoid},
    metric=get_metric,
    metrics=tuple(f"{name}/recall@{k}" for name in _RANKS for k in (1, 5, 10)),
    kind="captions",
    settings=("image_text.zero_shot", "image_text.prompts", "text.pretrained"),
    is_independent=False,
    fit=fit,
    output=lambda model, loss: Output("embeddings"),
    answer=make_answer,
    probes=probes,
    report=make_report,
    predictor=make_predictor,
    options=ImageTextOptions,
    usage='--labels="cat,dog" FILE_OR_FOLDER...',
    pipeline_tag="zero-shot-image-classification",
    panel=make_panel,
)
