"""Random weights for VGG19, and a narrower one."""

import numpy as np

from checkpoints import torch
from vit_jax import perceptual

# torchvision's configuration E, less its last pooling.
VGG19_WIDTHS = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4]


def torchvision_state_dict(widths, seed=0):
    """Random weights with torchvision's names."""
    random = np.random.default_rng(seed)
    arrays, inputs, n = {}, 3, 0
    for width in widths:
        if width == "M":
            n += 1
            continue
        kernel = random.normal(scale=(2 / (9 * inputs)) ** 0.5, size=(width, inputs, 3, 3))
        bias = random.normal(scale=0.1, size=width)
        arrays[f"features.{n}.weight"] = kernel.astype(np.float32)
        arrays[f"features.{n}.bias"] = bias.astype(np.float32)
        inputs, n = width, n + 2
    return arrays


def small_vgg19(monkeypatch, path, divisor=32):
    """Makes VGG19 narrower, and writes random weights for it; with a classifier besides."""
    stages = tuple(tuple(w // divisor for w in stage) for stage in perceptual._STAGES)
    monkeypatch.setattr(perceptual, "_STAGES", stages)
    arrays = torchvision_state_dict([w if w == "M" else w // divisor for w in VGG19_WIDTHS])
    torch.write(path, {**arrays, "classifier.0.weight": np.zeros((4, 7), np.float32)})
    return path
