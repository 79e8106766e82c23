"""Weights and images with which golden outputs were measured, made from nothing but names."""

import zlib

import jax
import numpy as np

from checkpoints import torch, tree


def recipe_array(name, shape):
    """float32 weights of a shape, drawn by their name in PyTorch."""
    random = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    if name.endswith("running_var"):
        random = np.exp(0.2 * random)
    elif name.endswith("running_mean"):
        random *= 0.1
    elif name.endswith("gamma") and "aggregator" not in name:  # which is FlowFormer's
        random = 0.5 + 0.1 * random
    elif len(shape) > 1:
        random *= float(np.prod(shape[1:])) ** -0.5 * 0.7
    elif name.endswith(("weight", "/scale")):
        random = 1 + 0.1 * random
    else:
        random *= 0.1
    return random.astype(np.float32)


def recipe_weights(model, size, naming=None):
    """Variables of a model for images of (h, w) pixels, drawn by their names in PyTorch."""
    zeros = tree.split(
        jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), tree.shapes(model, size))
    )
    names = torch.without_buffers(torch.to_state_dict(zeros, model, naming), model)
    state_dict = {name: recipe_array(name, array.shape) for name, array in names.items()}
    return torch.from_state_dict(state_dict, model, size)


def golden_images(size, low=-1.0):
    """(1, h, w, 3) float32 from `low` to 1, as they were drawn in PyTorch's order of axes."""
    images = np.random.RandomState(0).uniform(low, 1, (1, 3, *size)).astype(np.float32)
    return images.transpose(0, 2, 3, 1)
