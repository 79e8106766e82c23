"""Others' names of ViTs, such as timm's vit_small_patch14_dinov2.lvd142m, and the models meant.

What follows the dot says which weights; where such were trained with something else, it changes the
model. A size of images in the name changes nothing, since a model takes any that fits its patches.
"""

import re
from collections.abc import Callable
from typing import Any

_SIZES = {
    "tiny": "Ti", "small": "S", "small_plus": "S+", "medium": "M", "base": "B", "large": "L",
    "huge": "H", "huge_plus": "H+", "giant": "g", "7b": "7B", "so400m": "So400m",
    "giantopt": "g-opt",
}  # fmt: skip
_PARTS = re.compile(
    r"(?P<kind>vit|deit3|deit|beitv2|eva02)_(?P<size>[a-z0-9]+?(?:_plus)?)(?P<distilled>_distilled)?"
    r"_patch(?P<patch>\d+)(?P<rest>\w*)(?:\.(?P<tag>\w+))?"
)
_OF_KIND = {"deit": "DeiT", "deit3": "DeiT3", "beitv2": "BEiTv2", "eva02": "EVA02"}
_EXACT: dict[str, Any] = {"activation": "gelu"}
# What may follow the patches in names that begin with vit_, without a size of images.
_SERIES: dict[str, Callable[[str], tuple[str, str, dict[str, Any]]]] = {
    "": lambda tag: _PLAIN.get(tag, ("ViT", "", {} if _is_googles(tag) else _EXACT)),
    "_dinov2": lambda tag: ("DINOv2", "", {}),
    "_reg4_dinov2": lambda tag: ("DINOv2", "-reg", {"placed": False}),
    "_dinov3": lambda tag: ("DINOv3", _above(tag), {"biases": ""}),
    "_dinov3_qkvb": lambda tag: ("DINOv3", _above(tag), {}),
    "_clip": lambda tag: ("ViT", "-CLIP", {} if tag == "openai" else _EXACT),
    "_clip_quickgelu": lambda tag: ("ViT", "-CLIP", {}),
    "_siglip": lambda tag: ("ViT", "-SigLIP", {}),
}
_PLAIN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "mae": ("MAE", "", {}), "dino": ("DINO", "", {}),
}  # fmt: skip
# Tags of weights that Google trained, with GELU's approximation by tanh.
_BY_GOOGLE = ("augreg_", "orig_in21k", "sam_in1k")
# What the names of the models begin and end with that are of a type of transformers'.
OF_TRANSFORMERS = {
    "deit": ("DeiT-", ""),
    "dinov2": ("DINOv2-", ""),
    "dinov2_with_registers": ("DINOv2-", "-reg"),
    "dinov3_vit": ("DINOv3-", ""),
    "vit_mae": ("MAE-", ""),
}


def find(name: str) -> tuple[str, dict[str, Any]] | None:
    """The name of a model, which may not be one that is known, and fields that differ from it.

    Args:
        name: of timm's, with or without what follows the dot.

    Returns:
        Them; or None for a name of another kind.
    """
    fields: dict[str, Any] = {}
    found = _PARTS.fullmatch(name)
    if found is None or found["size"] not in _SIZES:
        return None
    kind, tag, series = found["kind"], found["tag"] or "", re.sub(r"_\d+$", "", found["rest"])
    if kind != "vit":
        if series or (found["distilled"] and kind != "deit"):
            return None
        family, ending = _OF_KIND[kind], "-distilled" if found["distilled"] else ""
    elif series in _SERIES and not found["distilled"]:
        family, ending, fields = _SERIES[series](tag)
    else:
        return None
    return f"{family}-{_SIZES[found['size']]}_{found['patch']}{ending}", dict(fields)


def _above(tag: str) -> str:
    """The ending of models that were trained on images from above."""
    return "-sat" if tag.startswith("sat") else ""


def _is_googles(tag: str) -> bool:
    return not tag or tag.startswith(_BY_GOOGLE)
