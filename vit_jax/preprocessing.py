"""How a person's images are prepared for a model: as its weights have been trained or published."""

import re
from typing import Any

from input_pipeline import preprocess
from vit_jax.models.base import Model

_BEGIN = r"(?:(?:decode|grayscale_to_rgb)\|)?"
_END = r"\|(?:value_range|normalize)\([^|]*\)"


def standard(size: tuple[int, int]) -> str:
    """The evaluation's preprocessing of the published fine-tunings: a plain resize."""
    return f"decode|resize({_side(size)})|value_range(-1, 1)"


def choose(
    model: Model, size: tuple[int, int], old_size: tuple[int, int], trained: str | None
) -> str:
    """The preprocessing of a file: as a run had it, or as published weights expect it; or "".

    Args:
        model: that it is for.
        size: (h, w) to use it at.
        old_size: (h, w) that its weights were made for.
        trained: the preprocessing that their run, or their file, says; None if neither does.

    Raises:
        ValueError: if that cannot be changed to another size.
    """
    if not any(len(leaf.shape) == 4 for leaf in model.inputs(size)):
        return ""  # it sees no images
    published = model.preprocessing(size)
    if trained is not None:
        if size == old_size or model.any_size:
            return trained
        is_published = trained == model.preprocessing(old_size)
        return published if is_published else resized(trained, size)
    if model.any_size:
        return model.input_values or "value_range(-1, 1)"
    if published:
        return published
    if not model.input_values:
        return standard(size)
    if size[0] != size[1]:
        return f"decode|resize({size}, method='bicubic')|{model.input_values}"
    shorter = round(size[0] * 8 / 7)  # 256 for 224
    return (
        f"decode|resize_small({shorter}, method='bicubic')|central_crop({size[0]})|"
        f"{model.input_values}"
    )


def resized(spec: str, size: tuple[int, int]) -> str:
    """The same preprocessing to another size (h, w), if a resize of its own is what makes the size.

    That is a plain one, or one of the shorter side with the centre cut out, to a square.

    Raises:
        ValueError: if something else does.
    """
    plain = re.fullmatch(
        rf"({_BEGIN}resize\()(\d+|\(\d+, *\d+\))([^|]*\){_END})", _without_blanks(spec)
    )
    if plain is not None:
        return f"{plain[1]}{_side(size)}{plain[3]}"
    cut = re.fullmatch(
        rf"({_BEGIN}resize_small\()(\d+)([^|]*\)\|central_crop\()(\d+)([^|]*\){_END})",
        _without_blanks(spec),
    )
    if cut is None or size[0] != size[1]:
        raise ValueError(
            f"these weights have images prepared by {spec!r}, which --image_size cannot change"
            + (": leave it out" if cut is None else " to what is no square: say one number")
        )
    shorter = round(int(cut[2]) * size[0] / int(cut[4]))
    return f"{cut[1]}{shorter}{cut[3]}{size[0]}{cut[5]}"


def _without_blanks(spec: str) -> str:
    return spec.replace(" |", "|").replace("| ", "|")


def _side(size: tuple[int, int]) -> str:
    return str(size[0] if size[0] == size[1] else size)


# Words for other programs. Ops that have some, by where in a string they can stand.
_RANKS = {"decode": 1, "grayscale_to_rgb": 2, "resize": 3, "resize_small": 3, "central_crop": 4,
          "value_range": 5, "normalize": 5}  # fmt: skip
# How an op's `like` has pixels computed and rounded, and sides and offsets.
_PIXELS = {
    "": {"antialias": True, "rounding": "nearest"},
    "torchvision": {"antialias": True, "rounding": "nearest, after columns and after rows"},
    "big_vision": {"antialias": False, "rounding": "down"},
}
_LONGER_SIDE = {"": "nearest", "torchvision": "down", "big_vision": "nearest"}
_OFFSET = {"": "down", "torchvision": "nearest, halves to even", "big_vision": "down"}


def describe(spec: str) -> dict[str, Any]:
    """Says a preprocessing in words that a program without this package can follow.

    Args:
        spec: of an evaluation, see `input_pipeline.preprocess`.

    Returns:
        What can be written as JSON. The order is that of what is to be done:

        * `spec`: the string itself.
        * `channels`: of the decoded image, whose values are from 0 to 255.
        * `resize`: `height` and `width`, or the `shorter_side` and how the `longer_side`'s fraction
          is rounded; the `method`, whether it is antialiased, and the `rounding` of its values.
        * `crop`: `height` and `width` of the centre, and how a half pixel of the `offset` is
          rounded.
        * `mean` and `std` of each channel, by which values become (value / 255 - mean) / std, and
          the `range` from 0 to 255 that makes of these.
        * `other`: ops without words, as they stand in the string, in whose order all must be done.

        A key is there if such an op is.

    Raises:
        ValueError: for a string that makes no sense.
    """
    words: dict[str, Any] = {"spec": spec, "channels": "RGB"}
    other = []
    rank = 0
    for text, (name, arguments) in zip(spec.split("|"), preprocess.read_calls(spec)):
        said = _say(name, **arguments) if _RANKS.get(name, 0) > rank else None
        if said is None:
            other.append(text.strip())
        else:
            words |= said
            rank = _RANKS[name]
    return words | ({"other": other} if other else {})


def _say(name: str, **arguments: Any) -> dict[str, Any] | None:
    """The words of an op; None if there are none."""
    if name in ("decode", "grayscale_to_rgb"):
        return {}
    if name == "value_range":
        low, high = arguments["low"], arguments["high"]
        if low == high:
            return None
        return _say_values([(0 - low) / (high - low)] * 3, [1 / (high - low)] * 3)
    if name == "normalize":
        return _say_values(list(arguments["mean"]), list(arguments["std"]))
    size, like = arguments["size"], arguments["like"]
    height, width = (size, size) if isinstance(size, int) else size
    sides = {"height": height, "width": width}
    if name == "central_crop":
        return {"crop": {**sides, "from": "centre", "offset": _OFFSET[like]}}
    if name == "resize_small":
        sides = {"shorter_side": size, "longer_side": _LONGER_SIDE[like]}
    return {"resize": {**sides, "method": arguments["method"], **_PIXELS[like]}}


def _say_values(mean: list[float], std: list[float]) -> dict[str, Any]:
    low = min((0 - m) / s for m, s in zip(mean, std))
    high = max((1 - m) / s for m, s in zip(mean, std))
    return {"mean": mean, "std": std, "range": [low, high]}
