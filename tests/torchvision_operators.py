"""Lets timm be imported where torchvision lacks its compiled operators, as beside a CPU's torch.

It is run at the start of a notebook's kernel, see `make test-notebooks`, and imported by tests.
"""

import importlib.util

if importlib.util.find_spec("torch"):
    import torch

    # timm uses none of them, but torchvision wants them declared.
    library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
