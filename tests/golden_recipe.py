"""Weights and images with which golden outputs were measured, made from nothing but names."""

import zlib

import jax
import numpy as np

from checkpoints import torch, tree


def recipe_weights(model, size, naming=None):
    """Variables of a model for images of (h, w) pixels, drawn by their names in PyTorch."""
    zeros = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, np.float32), {"params": tree.shapes(model, size)}
    )
    state_dict = {}
    for name, array in torch.to_state_dict(zeros, model, naming).items():
        random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(array.shape)
        if array.ndim > 1:
            random *= float(np.prod(array.shape[1:])) ** -0.5 * 0.7
        elif name.endswith("weight"):
            random = 1 + 0.1 * random
        else:
            random *= 0.1
        state_dict[name] = random.astype(np.float32)
    return torch.from_state_dict(state_dict, model, size)


def golden_images(size, low=-1.0):
    """(1, h, w, 3) float32 from `low` to 1, as they were drawn in PyTorch's order of axes."""
    images = np.random.RandomState(0).uniform(low, 1, (1, 3, *size)).astype(np.float32)
    return images.transpose(0, 2, 3, 1)
