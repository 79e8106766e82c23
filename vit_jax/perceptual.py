"""The perceptual loss: how far two images are apart in the features of a trained VGG19.

Source: Johnson et al., "Perceptual Losses for Real-Time Style Transfer and Super-Resolution"
(ECCV 2016), in the form of ESRGAN (Wang et al., ECCV Workshops 2018): one layer of VGG19
(Simonyan and Zisserman, ICLR 2015), conv5_4, before its ReLU.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import torch, tree
from vit_jax import ops
from vit_jax.parts import Metrics, Part
from vit_jax.tasks.base import Batch, Out

# Channels of the convolutions, all 3 x 3, of each stage; in between, pooling halves the sides.
_STAGES: tuple[tuple[int, ...], ...] = (
    (64, 64), (128, 128), (256, 256, 256, 256), (512, 512, 512, 512), (512, 512, 512, 512),
)  # fmt: skip
_STRIDE = 2 ** (len(_STAGES) - 1)

# Of ImageNet's images in [0, 1], with which torchvision's weights were trained.
_MEAN = np.array((0.485, 0.456, 0.406), np.float32)
_STD = np.array((0.229, 0.224, 0.225), np.float32)

# What follows the features, in torchvision's files and in timm's.
_CLASSIFIERS = ("classifier.", "pre_logits.", "head.")

Params = Mapping[str, Mapping[str, Any]]


def vgg19_features(params: Params, images: jax.Array) -> jax.Array:
    """Computes the features of VGG19's layer conv5_4, before its ReLU.

    Args:
        params: from `load_vgg19`.
        images: (b, h, w, 3) float32 in [-1, 1]; values beyond are not clipped.

    Returns:
        (b, h // 16, w // 16, 512) float32.

    Raises:
        ValueError: if the shape of the images does not fit.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or min(images.shape[1:3]) < _STRIDE:
        raise ValueError(
            f"the perceptual loss takes images of shape (b, h, w, 3) with sides of at least "
            f"{_STRIDE} pixels, not {images.shape}: change the crop in data.train_pp"
        )
    x = ((images + 1) / 2 - _MEAN) / _STD
    for stage, widths in enumerate(_STAGES, 1):
        if stage > 1:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        for i in range(1, len(widths) + 1):
            if (stage, i) != (1, 1):
                x = jax.nn.relu(x)
            layer = params[f"conv{stage}_{i}"]
            padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = ops.conv(padded, layer["kernel"]) + layer["bias"]
    return x


def distance(params: Params, images: jax.Array, targets: jax.Array) -> jax.Array:
    """Mean absolute difference of the features of two batches of images.

    Args:
        params: from `load_vgg19`.
        images: (b, h, w, 3) float32 in [-1, 1].
        targets: of the same shape; no gradients flow to them.

    Returns:
        (b,) float32.
    """
    wanted = jax.lax.stop_gradient(vgg19_features(params, targets))
    features = vgg19_features(params, images.astype(jnp.float32))
    return jnp.mean(jnp.abs(features - wanted), axis=(1, 2, 3))


@dataclasses.dataclass(frozen=True)
class Perceptual(Part):
    """The perceptual loss of a training step.

    Attributes:
        constants: VGG19's parameters.
        weight: of the loss.
    """

    constants: Params
    weight: float

    def add(
        self, total: jax.Array, constants: Any, state: Any, out: Out, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        del state
        loss = jnp.mean(distance(constants, out, batch["target"]))
        return total + self.weight * loss, {"perceptual": loss}


def load_vgg19(path: str | os.PathLike[str]) -> dict[str, dict[str, np.ndarray]]:
    """Reads VGG19's convolutions from weights with torchvision's names, `features.N.weight`.

    The classifier's parameters, `classifier.*` or timm's `pre_logits.*` and `head.*`, may be there;
    they are not read, since no feature depends on them.

    Args:
        path: as for `checkpoints.torch.read`.

    Returns:
        float32 arrays: {"conv1_1": {"kernel": (3, 3, in, out), "bias": (out,)}, ...}.

    Raises:
        ValueError: if the file is missing, is no file of weights, or is not of VGG19; the message
            lists what is missing, extra, or of another shape.
    """
    found = {k: v for k, v in torch.read(path).items() if not k.startswith(_CLASSIFIERS)}
    names = _torch_names()
    expected, inputs = {}, 3
    for layer, name in names.items():
        stage, i = layer.removeprefix("conv").split("_")
        width = _STAGES[int(stage) - 1][int(i) - 1]
        expected[f"{name}.weight"] = jax.ShapeDtypeStruct((width, inputs, 3, 3), jnp.float32)
        expected[f"{name}.bias"] = jax.ShapeDtypeStruct((width,), jnp.float32)
        inputs = width
    try:
        tree.check(found, expected)
    except ValueError as error:
        raise ValueError(
            f"{os.fspath(path)}: {error}; give torchvision's VGG19 without batch norm, "
            "--config.gan.vgg19=PATH"
        ) from None
    return {
        layer: {
            "kernel": np.asarray(found[f"{name}.weight"], np.float32).transpose(2, 3, 1, 0),
            "bias": np.asarray(found[f"{name}.bias"], np.float32),
        }
        for layer, name in names.items()
    }


def _torch_names() -> dict[str, str]:
    """Names of the layers in torchvision, which counts every convolution, ReLU and pooling."""
    names, count = {}, 0
    for stage, widths in enumerate(_STAGES, 1):
        for i in range(1, len(widths) + 1):
            names[f"conv{stage}_{i}"] = f"features.{count}"
            count += 2  # the ReLU
        count += 1  # the pooling
    return names
