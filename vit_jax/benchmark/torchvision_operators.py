"""Lets timm be imported where torchvision lacks its compiled operators, as beside a CPU's torch."""

import functools
import importlib.util
from pathlib import Path
from typing import Any


@functools.cache
def declare() -> Any:
    """Declares those that torchvision wants to find and timm does not use; once is enough."""
    torchvision = importlib.util.find_spec("torchvision")
    if torchvision is None or not importlib.util.find_spec("torch"):
        return None
    import torch

    if not _lacks_operators(torch, Path(str(torchvision.origin)).parent):
        return None
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library  # they last as long as it does


def _lacks_operators(torch: Any, package: Path) -> bool:
    try:
        for path in package.glob("_C*.so"):
            torch.ops.load_library(path)
    except OSError:  # made for another torch
        return True
    return not hasattr(torch.ops.torchvision, "nms")
