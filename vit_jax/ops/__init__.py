"""Pure array functions that several models share."""

from vit_jax.ops.activations import activation, gelu, gelu_tanh, leaky_relu, quick_gelu
from vit_jax.ops.attending import attended_keys, attention, fuses_attention
from vit_jax.ops.compiling import compiler_options, cuda_capability, portable, row_major
from vit_jax.ops.convolutions import (
    as_rows,
    conv,
    depthwise_conv,
    looped_conv,
    patch_conv,
    pointwise_conv,
)
from vit_jax.ops.flow import convex_upsample, cost_lookup, upflow8
from vit_jax.ops.lengths import unit_length
from vit_jax.ops.linear_attention import linear_attention, softmax_linear_attention
from vit_jax.ops.pixels import (
    PADDINGS,
    bicubic_upsample,
    luma,
    multiple_margins,
    nearest_upsample,
    pad_to_multiple,
    pixel_shuffle,
    pixel_unshuffle,
    reflect_pad,
)
from vit_jax.ops.positions import (
    POSITION_RESIZES,
    class_bias_index,
    resize_bias_table,
    resize_class_bias_table,
    resize_position_embedding,
    sincos1d_position_embedding,
    sincos2d_position_embedding,
)
from vit_jax.ops.resizing import resize_bilinear, resize_nearest
from vit_jax.ops.rotary import ROTARIES, Waves, random_scale, rotary_waves, rotate
from vit_jax.ops.sampling import affine_grid, bilinear_sample, grid_sample
from vit_jax.ops.stochastic import stochastic_depth
from vit_jax.ops.windows import (
    biased_window_attention,
    relative_position_index,
    shifted_window_mask,
    to_windows,
    window_attention,
)

__all__ = [
    "PADDINGS", "POSITION_RESIZES", "ROTARIES", "Waves", "activation", "affine_grid", "as_rows",
    "attended_keys", "attention", "biased_window_attention", "bicubic_upsample", "bilinear_sample",
    "class_bias_index", "compiler_options", "conv", "convex_upsample", "cost_lookup",
    "cuda_capability", "depthwise_conv", "fuses_attention", "gelu", "gelu_tanh", "grid_sample",
    "leaky_relu", "linear_attention", "looped_conv", "luma", "multiple_margins", "nearest_upsample",
    "pad_to_multiple", "patch_conv", "pixel_shuffle", "pixel_unshuffle", "pointwise_conv",
    "portable", "quick_gelu", "random_scale", "reflect_pad", "relative_position_index",
    "resize_bias_table", "resize_bilinear", "resize_class_bias_table", "resize_nearest",
    "resize_position_embedding",
    "rotary_waves", "rotate", "row_major", "shifted_window_mask", "sincos1d_position_embedding",
    "sincos2d_position_embedding", "softmax_linear_attention", "stochastic_depth", "to_windows",
    "unit_length", "upflow8", "window_attention",
]  # fmt: skip
