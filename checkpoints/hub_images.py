"""How images are prepared for weights, as a file beside them on the hub says it."""

import json
import math
import os
from collections.abc import Mapping
from typing import Any

from checkpoints import files

_TRANSFORMERS = ("preprocessor_config.json", "processor_config.json")
_OPEN_CLIP, _TIMM = "open_clip_config.json", "config.json"
_METHODS = {  # by Pillow's numbers and by their names
    0: "nearest", 1: "lanczos3", 2: "bilinear", 3: "bicubic", 4: "area",
    "nearest": "nearest", "lanczos": "lanczos3", "bilinear": "bilinear", "bicubic": "bicubic",
}  # fmt: skip
_SHORTEST, _SQUASH = "shortest", "squash"


def read_preprocessing(path: str | os.PathLike[str], size: tuple[int, int]) -> str:
    """Reads how transformers', open_clip's or timm's files of weights have images prepared.

    Args:
        path: of the weights, local or hf://.
        size: (h, w) of the images in pixels, for which the file's own is left.

    Returns:
        A string of `input_pipeline.preprocess`; "" if no file is beside the weights, or it says
        something else than a resize, a cut of the centre, a mean and a deviation.
    """
    is_open_clip = os.path.basename(os.fspath(path)).startswith("open_clip")
    names = (_OPEN_CLIP, *_TRANSFORMERS) if is_open_clip else (*_TRANSFORMERS, _OPEN_CLIP, _TIMM)
    found = files.find_beside(path, names)
    if found is None:
        return ""
    try:
        config = json.loads(found.read_text(encoding="utf-8"))
        if found.name == _OPEN_CLIP:
            return _of_open_clip(config, size)
        if found.name == _TIMM:
            return _of_timm(config["pretrained_cfg"], size)
        return _of_transformers(config.get("image_processor", config), size)
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        return ""  # of another kind, which is not ours to judge


def _of_transformers(config: Mapping[str, Any], size: tuple[int, int]) -> str:
    before = config["size"]
    method = _METHODS[config["resample"]]
    if not config.get("do_resize", True):
        return ""
    shortest = before if isinstance(before, int) else before.get("shortest_edge")
    is_cut = config.get("do_center_crop", False)
    if is_cut and shortest is not None:
        cut = config["crop_size"]
        side = cut if isinstance(cut, int) else cut["height"]
        resize = _resize(_SHORTEST, size, method, shortest / side)
    elif not is_cut and (isinstance(before, int) or "height" in before):
        resize = _resize(_SQUASH, size, method)
    else:
        return ""
    return f"decode|{resize}|{_values(config['image_mean'], config['image_std'])}"


def _of_open_clip(config: Mapping[str, Any], size: tuple[int, int]) -> str:
    own = config["preprocess_cfg"]
    mode, method = own.get("resize_mode", _SHORTEST), _METHODS[own.get("interpolation", "bicubic")]
    if mode not in (_SHORTEST, _SQUASH):
        return ""
    return f"decode|{_resize(mode, size, method)}|{_values(own['mean'], own['std'])}"


def _of_timm(config: Mapping[str, Any], size: tuple[int, int]) -> str:
    mode = config.get("crop_mode", "center")
    method, share = _METHODS[config["interpolation"]], config.get("crop_pct", 0.875)
    if mode not in ("center", _SQUASH) or (mode == _SQUASH and share != 1):
        return ""
    shown = _SQUASH if mode == _SQUASH else _SHORTEST
    resize = _resize(shown, size, method, math.floor(size[0] / share) / size[0])
    return f"decode|{resize}|{_values(config['mean'], config['std'])}"


def _resize(mode: str, size: tuple[int, int], method: str, larger: float = 1.0) -> str:
    """Ops that make images of (h, w); `larger` is what they are before the centre is cut out."""
    how = f"{method!r}, like='torchvision'"
    if mode == _SQUASH or size[0] != size[1]:
        return f"resize({size[0] if size[0] == size[1] else size}, {how})"
    side = round(size[0] * larger)
    return f"resize_small({side}, {how})|central_crop({size[0]}, like='torchvision')"


def _values(mean: Any, std: Any) -> str:
    if all(value == 0.5 for value in (*mean, *std)):
        return "value_range(-1, 1)"
    return f"normalize({tuple(map(float, mean))}, {tuple(map(float, std))})"
