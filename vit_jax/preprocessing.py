"""How a person's images are prepared for a model: as its weights have been trained or published."""

import re

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
