"""A spatial transformer network: a classifier that turns and moves its images as it sees fit.

Source: Jaderberg et al., "Spatial Transformer Networks" (NeurIPS 2015). The sizes and names of the
layers are those of PyTorch's tutorial on it, for digits of 28x28 pixels.

Deviations: where the tutorial has no `align_corners`, that is PyTorch's False; here it is the
paper's True. Dropout is that of the hidden layer alone.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import uniform_by_fan_in
from vit_jax.models.base import Model

VARIANTS: dict[str, dict[str, Any]] = {"STN": {}}

PARAMETER_COUNTS = {"STN": 27_360}

_IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
_SMALLEST = 28  # pixels; of fewer than 18, nothing would be left


def _pooled_conv(x: jax.Array, features: int, side: int, dtype: Any, name: str) -> jax.Array:
    """(b, h, w, c) -> (b, (h - side + 1) / 2, (w - side + 1) / 2, features), rounded down."""
    init = uniform_by_fan_in(side**2 * x.shape[-1])
    x = nn.Conv(
        features, (side, side), padding="VALID", kernel_init=init, bias_init=init, dtype=dtype,
        name=name,
    )(x)  # fmt: skip
    return nn.relu(nn.max_pool(x, window_shape=(2, 2), strides=(2, 2)))


def _dense(x: jax.Array, features: int, dtype: Any, name: str) -> jax.Array:
    init = uniform_by_fan_in(x.shape[-1])
    return nn.Dense(features, kernel_init=init, bias_init=init, dtype=dtype, name=name)(x)


def _flat(x: jax.Array) -> jax.Array:
    """(b, h, w, c) -> (b, c h w), in the order in which PyTorch has them."""
    return x.transpose(0, 3, 1, 2).reshape(x.shape[0], -1)


class SpatialTransform(nn.Module):
    """Reads an image at the places of an affine map that is found in the image itself.

    It begins as the identity.

    Attributes:
        dtype: compute type of what finds the map; map and sampling are float32.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c) -> the same as it is read, float32, and the maps theta (b, 2, 3)."""
        x = _pooled_conv(images, 8, 7, self.dtype, "conv0")
        x = _pooled_conv(x, 10, 5, self.dtype, "conv1")
        x = nn.relu(_dense(_flat(x), 32, self.dtype, "dense0"))
        theta = nn.Dense(
            6,
            kernel_init=nn.initializers.zeros,
            bias_init=lambda key, shape, dtype: jnp.asarray(_IDENTITY, dtype).reshape(shape),
            name="dense1",
        )(x.astype(jnp.float32)).reshape(-1, 2, 3)
        images = images.astype(jnp.float32)
        _, h, w, _ = images.shape
        return ops.grid_sample(images, ops.affine_grid(theta, (h, w))), theta

    @staticmethod
    def torch_names() -> dict[str, str]:
        """Names of the parts in PyTorch, by ours."""
        return {
            "conv0": "localization.0", "conv1": "localization.3",
            "dense0": "fc_loc.0", "dense1": "fc_loc.2",
        }  # fmt: skip


class SpatialTransformerNetwork(Model):
    """A spatial transform and a small convolutional classifier behind it, for grey images.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        dropout_rate: of the hidden layer.
        dtype: compute type; parameters, the map, sampling and the head stay float32.
    """

    num_classes: int = 10
    dropout_rate: float = 0.5
    dtype: Any = jnp.float32

    task = "classify"
    in_channels = 1

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Classifies images.

        Args:
            images: (b, h, w, 1 or 3) float32 of the size that the parameters were made for, at
                least 28 pixels; the mean of the channels is looked at.
            train: whether dropout is active; then `rngs` needs "dropout".

        Returns:
            (b, num_classes) float32 logits, or (b, 50) features if num_classes is 0. What was read
            and the maps are sown in "intermediates" as `moved` and `theta`.

        Raises:
            ValueError: if the shape of the images does not fit.
        """
        if images.ndim != 4 or min(images.shape[1:3]) < _SMALLEST:
            raise ValueError(
                f"images must have shape (b, h, w, 3) with sides of at least {_SMALLEST} pixels, "
                f"not {images.shape}"
            )
        x, theta = SpatialTransform(self.dtype, name="transform")(
            jnp.mean(images, axis=-1, keepdims=True)
        )
        self.sow("intermediates", "moved", x)
        self.sow("intermediates", "theta", theta)
        x = _pooled_conv(x, 10, 5, self.dtype, "conv1")
        x = _pooled_conv(x, 20, 5, self.dtype, "conv2")
        x = nn.relu(_dense(_flat(x), 50, self.dtype, "fc1"))
        x = nn.Dropout(self.dropout_rate, deterministic=not train)(x).astype(jnp.float32)
        return _dense(x, self.num_classes, jnp.float32, "head") if self.num_classes else x

    @property
    def usual_size(self) -> tuple[int, int]:
        """That of MNIST's digits."""
        return 28, 28

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The smallest square that makes as many features as the hidden layer takes."""
        count = params["fc1"]["kernel"].shape[0] // 20
        side = math.isqrt(count)
        if side**2 != count:
            raise ValueError(
                f"the hidden layer takes a map of {count} positions, which is no square"
            )
        return (4 * side + 12,) * 2

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Takes images of the same size alone."""
        if old_size != new_size:
            raise ValueError(
                f"STN's layers are made for images of {old_size} pixels, not of {new_size}: resize "
                "the images to the former"
            )
        return dict(params)

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Recognises its weights, which decide no field but the number of classes."""
        for name in ("transform/conv0/kernel", "fc1/kernel"):
            shapes[name]
        return {}

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns the names in PyTorch's tutorial, see `checkpoints.torch`."""
        del naming
        names = {f"transform/{mine}": name for mine, name in SpatialTransform.torch_names().items()}
        return {**names, "conv1": "conv1", "conv2": "conv2", "fc1": "fc1", "head": "fc2"}
