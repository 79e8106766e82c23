"""What the suites time: our models with weights, and the same models in PyTorch."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from vit_jax.benchmark import torchvision_operators
from vit_jax.benchmark.race import has_torch
from vit_jax.models import dehazeformer, flowformer, get_model, segmenter, swin, swinir

TIMM, PYTORCH = "timm", "PyTorch"

# Multiplications and additions of one image, in billions, counted as pairs: of 224 x 224 pixels,
# and of 256 x 256 for those that restore images.
GMACS = {"ViT-Ti_16": 1.26, "ViT-S_16": 4.61, "ViT-B_16": 17.58, "ViT-L_16": 61.6,
         "ViT-H_14": 167.4, "Swin-T": 4.51, "Swin-B": 15.47,
         "EfficientFormerV2-S0": 0.40, "ResNet-50": 4.09,
         "DehazeFormer-T": 6.66, "DehazeFormer-S": 13.1, "DehazeFormer-B": 25.8,
         "DehazeFormer-M": 48.6, "DehazeFormer-L": 279.7}  # fmt: skip

_IN_TIMM = {
    "ViT-Ti_16": "vit_tiny_patch16_224",
    "ViT-S_16": "vit_small_patch16_224",
    "ViT-B_16": "vit_base_patch16_224",
    "ViT-L_16": "vit_large_patch16_224",
    "ViT-H_14": "vit_huge_patch14_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
    "EfficientFormerV2-S0": "efficientformerv2_s0",
    "ResNet-50": "resnet50",
}


def make(name: str, size: int, dtype: str, **fields: Any) -> tuple[Any, Any]:
    """Makes a model that drops nothing, and variables of which none is 0."""
    model = get_model(name, dtype=dtype, **fields)
    model = model.clone(**without_dropping(model))
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((size, size)))
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        kind = path[-1].key
        scale = min(math.prod(leaf.shape[:-1]) ** -0.5, 0.1) if kind == "kernel" else 0.02
        noise = np.float32(scale) * random.standard_normal(leaf.shape, np.float32)
        multiplies = leaf.ndim == 1 and kind not in ("bias", "mean")  # of norms and of branches
        return 1 + noise if multiplies else noise

    # Not by model.init, which takes a GPU half a minute to compile.
    return model, jax.device_put(jax.tree_util.tree_map_with_path(draw, shapes))


def without_dropping(model: Any) -> dict[str, Any]:
    """The fields that keep a model from dropping anything in training, as others would not."""
    rates = model.values_of(("dropout_rate", "drop_path_rate"))
    return {field: 0.0 for field, rate in rates.items() if rate}


def flops(name: str, size: int, images: int, per_mac: int) -> float | None:
    """Operations for so many images, `per_mac` for each multiplication; None if unknown."""
    if name not in GMACS or size != (256 if name.startswith("DehazeFormer") else 224):
        return None
    return per_mac * GMACS[name] * 1e9 * images


def tolerance(name: str, dtype: str, trains: bool = False) -> float:
    """How far outputs of a model may differ, or losses, by the largest magnitude of ours.

    Rounding grows in a flow, each iteration of which reads costs where the one before ended; and
    more so in its first steps of training, whose losses jump from 85 to 223 and back.
    """
    is_flow = get_model(name).task == "flow"
    if dtype != "float32" or (is_flow and trains):
        return 0.05
    return 1e-3 if is_flow else 1e-4


def others(name: str, model: Any, variables: Any, size: tuple[int, int]) -> tuple[str, Any] | None:
    """Makes the PyTorch module that computes the same, with our weights.

    Returns:
        `TIMM` or `PYTORCH`, where it is from, and the module; None if there is none, or if what it
        needs is not installed.
    """
    if name in _IN_TIMM:
        torchvision_operators.declare()
        who, is_there = TIMM, has_torch("timm")
    else:
        who, is_there = PYTORCH, _is_in_pytorch(model) and has_torch()
    if not is_there:
        return None
    from vit_jax.benchmark import torch_contender

    return who, torch_contender.load(in_pytorch(name, model, size), variables, model)


def in_pytorch(name: str, model: Any, size: tuple[int, int]) -> Any:
    """Makes the PyTorch module that computes what a model does, for images of (h, w)."""
    if name in _IN_TIMM:
        return _in_timm(name, model, size)
    make_module, fields = _IN_PYTORCH[type(model)]
    values = model.values_of(fields)
    if isinstance(model, segmenter.Segmenter):
        values |= model.backbone_model.values_of(_OF_SWIN)
    return make_module(size, **values)


def _is_in_pytorch(model: Any) -> bool:
    if isinstance(model, segmenter.Segmenter):
        return model.decoder == "upernet" and isinstance(model.backbone_model, swin.Swin)
    return type(model) in _IN_PYTORCH


def _in_timm(name: str, model: Any, size: tuple[int, int]) -> Any:
    import timm

    fields: dict[str, Any] = dict(img_size=size, num_classes=model.num_classes)
    if name.startswith("ViT"):
        fields |= dict(
            act_layer="gelu_tanh", embed_dim=model.hidden_size, depth=model.num_layers,
            num_heads=model.num_heads, mlp_ratio=model.mlp_dim / model.hidden_size,
        )  # fmt: skip
    elif name.startswith("Swin"):
        fields |= dict(
            embed_dim=model.embed_dim, depths=model.depths, num_heads=model.num_heads,
            drop_path_rate=0.0,
        )  # fmt: skip
    elif name.startswith("EfficientFormerV2"):
        fields |= dict(
            embed_dims=model.embed_dims, depths=model.depths, num_vit=model.attention_depths[-1],
            mlp_ratios=_by_stage(model.mlp_ratios, model.depths),
        )  # fmt: skip
    else:
        del fields["img_size"]  # any will do
    return timm.create_model(_IN_TIMM[name], **fields)


def _by_stage(ratios: tuple[float, ...], depths: tuple[int, ...]) -> float | tuple[Any, ...]:
    """One number for all blocks, or a tuple of those of each stage."""
    if len(ratios) == 1:
        return ratios[0]
    rest = iter(ratios)
    return tuple(tuple(itertools.islice(rest, depth)) for depth in depths)


def _dehazeformer(size: tuple[int, int], **fields: Any) -> Any:
    del size  # it takes images of any
    from vit_jax.benchmark.torch_dehazeformer import DehazeFormer

    return DehazeFormer(**fields)


def _swinir(size: tuple[int, int], **fields: Any) -> Any:
    from vit_jax.benchmark.torch_swinir import SwinIR

    return SwinIR(size, **fields)


def _flowformer(size: tuple[int, int], **fields: Any) -> Any:
    del size  # it takes images of any
    from vit_jax.benchmark.torch_flowformer import FlowFormer

    return FlowFormer(**fields)


def _upernet(size: tuple[int, int], **fields: Any) -> Any:
    from vit_jax.benchmark.torch_upernet import UPerNet

    return UPerNet(size, **fields)


_OF_SWIN = ("embed_dim", "depths", "num_heads", "window_size")

# Our models that were written in PyTorch for this: what makes them there, and of which fields.
_IN_PYTORCH: dict[type, tuple[Callable[..., Any], tuple[str, ...]]] = {
    dehazeformer.DehazeFormer: (
        _dehazeformer,
        ("hidden_sizes", "depths", "num_heads", "mlp_ratios", "attention_ratios", "conv"),
    ),
    swinir.SwinIR: (
        _swinir,
        (
            "embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "upscale", "upsampler",
            "resi_connection", "img_range", "in_channels",
        ),
    ),
    flowformer.FlowFormer: (
        _flowformer,
        ("encoder", "tokens", "features", "depth", "context_features", "iterations"),
    ),
    segmenter.Segmenter: (_upernet, ("num_classes", "features", "auxiliary_features")),
}  # fmt: skip
