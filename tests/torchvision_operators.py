"""Lets timm be imported where torchvision lacks its compiled operators, as beside a CPU's torch.

It is run at the start of a notebook's kernel, see `make test-notebooks`, and imported by tests.
"""

import importlib.util
from pathlib import Path


def _lacks_operators(torch):
    package = Path(importlib.util.find_spec("torchvision").origin).parent
    try:
        for path in package.glob("_C*.so"):
            torch.ops.load_library(path)
    except OSError:  # made for another torch
        return True
    return not hasattr(torch.ops.torchvision, "nms")


if importlib.util.find_spec("torch") and importlib.util.find_spec("torchvision"):
    import torch

    if _lacks_operators(torch):
        # timm uses none of them, but torchvision wants them declared.
        library = torch.library.Library("torchvision", "DEF")
        for _name in ("nms", "qnms"):
            library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
