"""What `predict` and `vit_jax.load` can be asked, by task: each field is a flag of the command.

They are apart from the tasks, which stand on JAX, so that a command answers --help before that is
imported.
"""

import dataclasses
import types
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from vit_jax import prompts

METHODS = ("auto", "whole", "bounded", "tiles")  # by which images are restored, see `tiles`
EMBEDDINGS = PurePath("embeddings.npz")  # that --embed writes of photos


def option(
    default: Any,
    text: str,
    choices: Sequence[str] = (),
    writes: bool = False,
    is_value: bool = False,
) -> Any:
    """A field of a task's options, which becomes a flag of `predict`.

    Args:
        default: of its value: False for a switch, else None.
        text: its help.
        choices: the values there are; () for any.
        writes: whether it is about files, so that a folder for results must be given.
        is_value: whether what it writes is the answers' `value`, too.
    """
    metadata = {
        "help": text, "choices": tuple(choices), "writes": writes, "is_value": is_value
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


def _batch_size() -> Any:
    return option(None, "Images that are looked at together; unset: what suits the devices.")


@dataclasses.dataclass(frozen=True)
class NoOptions:
    """A task whose predictor has no choices."""


@dataclasses.dataclass(frozen=True)
class ClassifyOptions:
    """How a classifier answers."""

    attention: bool = option(
        False,
        "Also write pictures of where the model looks, to attention/ in --output.",
        writes=True,
    )
    features: bool = option(
        False,
        "Also write the features before the head, as pictures and numbers, to features/ in "
        "--output.",
        writes=True,
        is_value=True,
    )
    flip: str | None = option(None, "Whether the mirrored photo is looked at, too.", ("on", "off"))
    batch_size: int | None = _batch_size()


@dataclasses.dataclass(frozen=True)
class FlowOptions:
    """How flow is estimated, and what is written of it."""

    format: str | None = option(
        None,
        "Of what is written: .flo files, or KITTI's PNGs of 16 bits.",
        ("flo", "kitti"),
        writes=True,
    )
    max_flow: float | None = option(
        None,
        "Pixels that have full colours, for pictures that can be compared; unset: the longest of "
        "each.",
        writes=True,
    )
    compare: bool = option(
        False,
        "Also draw both frames, the flow, and the second frame moved back onto the first, to "
        "compare/ in --output.",
        writes=True,
    )
    warm_start: bool = option(
        False, "Begin in each frame of a sequence with the flow of the two before."
    )
    tile: int | None = option(
        None,
        "Side in pixels of the tiles by which a frame is looked at; 0: the whole at once; unset: "
        "as in the run, or else by tiles if it is large.",
    )


@dataclasses.dataclass(frozen=True)
class ImageTextOptions:
    """How a model of images and texts answers."""

    prompts: str | None = option(
        None,
        "Sentences into which each of --labels is put: imagenet80, imagenet7, or one's own with {} "
        f"for the label and | between them; unset: {prompts.DEFAULT!r}.",
    )
    embed: bool = option(
        False,
        f"Write the photos' vectors to {EMBEDDINGS} in --output.",
        writes=True,
        is_value=True,
    )
    texts: str | None = option(
        None,
        "With --embed: a file with a text per line, whose vectors are written as well.",
        writes=True,
    )
    batch_size: int | None = _batch_size()


@dataclasses.dataclass(frozen=True)
class MaskedWordsOptions:
    """What is asked of texts."""

    words: int | None = option(None, "How many words are said for each [MASK]; unset: 5.")
    embed: bool = option(
        False,
        "Write embeddings of the texts to --output, and tell no words.",
        writes=True,
        is_value=True,
    )
    pool: str | None = option(
        None,
        "Which embedding: the mean of all tokens' states, which is the default, the state of the "
        "first, or the pooler's output.",
        ("mean", "first", "pooler"),
    )


@dataclasses.dataclass(frozen=True)
class RestoreOptions:
    """How a model restores."""

    method: str | None = option(
        None,
        "The whole image at once; the same result in bounded memory, which DehazeFormer alone can; "
        "or tiles, whose result differs: much where a model uses statistics of the whole image, as "
        "DehazeFormer does, else by little. auto is the first of them that fits.",
        METHODS,
    )
    tile: int | None = option(None, "Side of the tiles in pixels; implies tiles.")
    memory: float | None = option(None, "GiB that auto may use; unset: what is available.")
    ensemble: bool = option(False, "Average over eight rotations and reflections of the image.")
    compare: bool = option(
        False, "Also write before and after side by side, to compare/ in --output.", writes=True
    )


@dataclasses.dataclass(frozen=True)
class SegmentOptions:
    """How a model segments; what is not said is as in the run, or off."""

    window: int | None = option(
        None, "Side in pixels of the windows by which a photo is looked at; 0: the whole at once."
    )
    stride: int | None = option(
        None, "Pixels from a window to the next; 0: two thirds of the window."
    )
    scales: str | None = option(
        None, "Sizes at which a photo is looked at, times its own, such as 0.5,1,1.5."
    )
    flip: str | None = option(None, "Whether the mirrored photo is looked at, too.", ("on", "off"))
    indices_only: bool = option(
        False,
        "Write the PNGs of class numbers alone, and no pictures of the classes over a photo.",
        writes=True,
    )


@dataclasses.dataclass(frozen=True)
class TranslateOptions:
    """How a person's texts are translated."""

    beams: int | None = option(
        None, "How many beginnings the search follows at once; unset: as the run evaluates, or 4."
    )
    length_penalty: float | None = option(
        None, "Alpha by which it favours long answers; unset: as the run evaluates, or 0.6."
    )
    attention: bool = option(
        False,
        "Also draw which words of a text those of its translation attend to, to attention/ in "
        "--output.",
        writes=True,
    )


# Those of other tasks come as they are registered, see `tasks.register`.
BY_TASK: dict[str, type] = {
    "classify": ClassifyOptions,
    "flow": FlowOptions,
    "image_text": ImageTextOptions,
    "masked_image": NoOptions,
    "masked_words": MaskedWordsOptions,
    "restore": RestoreOptions,
    "segment": SegmentOptions,
    "translate": TranslateOptions,
}


def kinds_of(options: type) -> dict[str, tuple[type, Any]]:
    """The options of a task by name: their type, less None, and their field."""
    found: dict[str, tuple[type, Any]] = {}
    hints = typing.get_type_hints(options)
    for field in dataclasses.fields(options):
        kind = hints[field.name]
        if typing.get_origin(kind) in (types.UnionType, typing.Union):  # such as int | None
            (kind,) = (part for part in typing.get_args(kind) if part is not types.NoneType)
        found[field.name] = (kind, field)
    return found
