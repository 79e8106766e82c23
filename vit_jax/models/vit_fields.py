"""Fields of a Vision Transformer: which values they can have, and what a file shows of them."""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax import ops
from vit_jax.layers import count_blocks
from vit_jax.models import bit_resnet
from vit_jax.models.encoder import INITIALIZATIONS, RELATIVE_BIASES

REPRESENTATIONS = ("tanh", "linear", "projection")
CLASSIFIERS = ("token", "gap", "map", "unpooled", "token_unpooled", "token_gap")
POSITION_EMBEDDINGS = ("learned", "sincos2d", "sincos2d_mae", "none")
BIASES = ("qkv", "qv", "")
ATTENTION_IMPLEMENTATIONS = ("xla", "cudnn")

_POSITIVE = ("patch_size", "hidden_size", "num_heads", "mlp_dim")
_RATES = ("dropout_rate", "attention_dropout_rate", "stochastic_depth_rate")

POSITIONS = "Transformer/posembed_input/pos_embedding"

_PROJECTIONS = ("query", "key", "value")

# Of models with a norm before the blocks: as wide as OpenAI's, whose heads have 64 numbers each.
# Wider ones, such as OpenCLIP's H, have others.
_WIDEST_OF_64 = 1024


def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
    height, width, _, hidden_size = shapes["embedding/kernel"]
    first = "Transformer/encoderblock_0"
    query = shapes.get(f"{first}/MultiHeadDotProductAttention_1/query/kernel", ())
    attention, mlp = f"{first}/MultiHeadDotProductAttention_1", f"{first}/MlpBlock_3"
    pooled = "map" if "MAPHead_0/probe" in shapes else "gap"
    has_class, has_norm = "cls" in shapes, "head_norm/scale" in shapes
    inner = shapes[f"{mlp}/Dense_0/kernel"][1]
    mlp_dim = shapes.get(f"{mlp}/Dense_1/kernel", (inner,))[0]
    fields = {
        "hidden_size": hidden_size,
        "num_layers": sum(count_blocks(shapes, r"Transformer/encoderblock_()(\d+)/")),
        "mlp_dim": mlp_dim,
        "gated": inner == 2 * mlp_dim,
        "mlp_norm": f"{mlp}/LayerNorm_0/scale" in shapes,
        "classifier": "token" if has_class and not has_norm else pooled,
        "class_token": has_class and has_norm,
        "head_norm": has_norm,
        "registers": shapes["reg"][1] if "reg" in shapes else 0,
        "distillation_token": "dist" in shapes,
        "qk_norm": f"{attention}/query_norm/scale" in shapes,
        "relative_bias": f"{first}/{RELATIVE_BIASES}" in shapes,
        "biases": "".join(part[0] for part in _PROJECTIONS if f"{attention}/{part}/bias" in shapes),
        "pre_norm": "Transformer/pre_norm/scale" in shapes,
        "patch_bias": "embedding/bias" in shapes,
    }
    if f"{first}/layer_scale_1" in shapes:
        fields["layer_scale"] = 1e-5  # at first; it does not show
    if POSITIONS in shapes:
        fields["position_embedding"] = "learned"
        count = shapes[POSITIONS][1]
        fields["placed"] = not has_class or math.isqrt(count) ** 2 != count
    if height == width and not any(name.startswith("conv_root") for name in shapes):
        fields["patch_size"] = height
    if len(query) == 3:  # which PyTorch's layout does not say
        fields["num_heads"] = query[1]
    elif fields["pre_norm"] and hidden_size <= _WIDEST_OF_64:
        fields["num_heads"] = max(hidden_size // 64, 1)
    return fields


def check(model: Any) -> None:
    """Raises a ValueError if a field of a Vision Transformer has a value that it cannot have."""
    ops.activation(model.activation)
    choices = {
        "classifier": CLASSIFIERS,
        "representation": REPRESENTATIONS,
        "initialization": INITIALIZATIONS,
        "position_embedding": POSITION_EMBEDDINGS,
        "biases": BIASES,
        "rotary": ops.ROTARIES,
        "position_resize": ops.POSITION_RESIZES,
        "attention_implementation": (None, *ATTENTION_IMPLEMENTATIONS),
    }
    for field, value in model.values_of(choices).items():
        if value not in choices[field]:
            raise ValueError(f"{field}={value!r} is not one of {choices[field]}")
    for field, value in model.values_of(_POSITIVE).items():
        if value < 1:
            raise ValueError(f"{field} must be at least 1, not {value}")
    for field, value in model.values_of(_RATES).items():
        if not 0 <= value < 1:
            raise ValueError(f"{field} must lie in [0, 1), not {value}")
    if model.rotary_rescale < 1:
        raise ValueError(f"rotary_rescale must be at least 1, not {model.rotary_rescale}")
    if model.distillation_token and model.classifier != "token":
        raise ValueError(
            'distillation_token is for classifier="token", whose head has one beside it, not '
            f"{model.classifier!r}"
        )
    if model.hidden_size % model.num_heads:
        raise ValueError(
            f"hidden_size={model.hidden_size} is not divisible by num_heads={model.num_heads}"
        )
    if model.resnet_layers is not None:
        if any(units < 1 for units in model.resnet_layers):
            raise ValueError(f"resnet_layers must be positive, not {model.resnet_layers}")
        width = int(bit_resnet.ROOT_WIDTH * model.resnet_width_factor)
        if width < 32 or width % 32:
            raise ValueError(
                f"resnet_width_factor={model.resnet_width_factor} makes {width} channels, which "
                "must be a multiple of 32"
            )
