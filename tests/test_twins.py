import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.helpers import noise, random_params
from vit_jax import pretrained
from vit_jax.models import get_model

TINY = dict(embed_dims=(8, 16), depths=(2, 1), head_dim=4, window_size=3, reductions=(4, 2),
            num_classes=5)  # fmt: skip


def apply(model, params, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))({"params": params}, images)


def layer_norm(x, p, epsilon=1e-6):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def softmax_attention(q, k, v, head_dim):
    """One head after another, of (n, c) queries, (m, c) keys and values."""
    parts = []
    for i in range(0, q.shape[1], head_dim):
        head = slice(i, i + head_dim)
        scores = np.exp(q[:, head] @ k[:, head].T / np.sqrt(head_dim))
        parts.append(scores / scores.sum(-1, keepdims=True) @ v[:, head])
    return np.concatenate(parts, axis=-1)


def local_attention(x, p, window, head_dim):
    h, w, c = x.shape
    padded = np.pad(x, ((0, -h % window), (0, -w % window), (0, 0)))
    q, k, v = np.split(dense(padded, p["qkv"]), 3, axis=-1)
    out = np.zeros_like(padded)
    for i in range(0, padded.shape[0], window):
        for j in range(0, padded.shape[1], window):
            part = np.s_[i : i + window, j : j + window]
            flat = (y[part].reshape(-1, c) for y in (q, k, v))
            out[part] = softmax_attention(*flat, head_dim).reshape(window, window, c)
    return dense(out[:h, :w], p["proj"])


def global_attention(x, p, side, head_dim):
    h, w, c = x.shape
    cut = x[: h // side * side, : w // side * side]
    patches = (
        cut.reshape(h // side, side, w // side, side, c).swapaxes(1, 2).reshape(-1, side**2 * c)
    )
    keys = dense(patches, {"kernel": p["sr"]["kernel"].reshape(-1, c), "bias": p["sr"]["bias"]})
    k, v = np.split(dense(layer_norm(keys, p["norm"], 1e-5), p["kv"]), 2, axis=-1)
    q = dense(x, p["q"]).reshape(-1, c)
    return dense(softmax_attention(q, k, v, head_dim).reshape(h, w, c), p["proj"])


def test_a_stage_by_plain_numpy():
    """Windows that do not divide the map, and keys that leave its last row and column out."""
    from scipy.special import erf

    model, params = random_params("Twins-SVT-S", (28, 36), **TINY)
    image = noise((28, 36, 3))
    patches = image.reshape(7, 4, 9, 4, 3).swapaxes(1, 2).reshape(7, 9, 48)
    embed = params["embed0"]
    x = dense(patches, {**embed["proj"], "kernel": embed["proj"]["kernel"].reshape(48, 8)})
    x = layer_norm(x, embed["norm"], 1e-5)
    for i in range(2):
        p = params[f"stage0_block{i}"]
        y = layer_norm(x, p["norm1"])
        x = x + (global_attention(y, p["attn"], 4, 4) if i else local_attention(y, p["attn"], 3, 4))
        y = dense(layer_norm(x, p["norm2"]), p["mlp_fc1"])
        x = x + dense(y * (1 + erf(y / np.sqrt(2))) / 2, p["mlp_fc2"])
        if not i:
            padded, kernel = np.pad(x, ((1, 1), (1, 1), (0, 0))), params["positions0"]["kernel"]
            steps = [(a, b) for a in range(3) for b in range(3)]
            around = sum(padded[a : a + 7, b : b + 9] * kernel[a, b, 0] for a, b in steps)
            x = x + around + params["positions0"]["bias"]
    first, second = apply(model, params, image[None], feature_maps=True)
    np.testing.assert_allclose(first[0], x, atol=2e-5 * x.std())
    assert second.shape == (1, 4, 5, 16)  # of padded patches


@pytest.mark.parametrize("size", [(4, 40), (11, 37)])
def test_any_size(size):
    """Also where a map is smaller than what becomes one key."""
    model, params = random_params("Twins-SVT-S", size, **TINY)
    out = apply(model, params, noise((2, *size, 3)))
    assert out.shape == (2, 5)
    assert np.isfinite(out).all()


def test_every_parameter_receives_a_finite_gradient():
    fields = dict(TINY, remat=True, drop_path_rate=0.1, depths=(2, 2))
    model, params = random_params("Twins-SVT-S", (32, 48), **fields)
    images = noise((4, 32, 48, 3))

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        return jnp.sum(model.apply({"params": params}, images, train=True, rngs=rngs)[:, :2] ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name


@pytest.mark.slow
def test_initialisation():
    model = get_model(
        "Twins-SVT-S", embed_dims=(64, 128), depths=(2, 1), reductions=(4, 1), num_classes=0
    )
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    for kernel, deviation in (
        (params["stage1_block0"]["attn"]["qkv"]["kernel"], 0.02),
        (params["stage0_block1"]["attn"]["sr"]["kernel"], np.sqrt(2 / (16 * 64))),
        (params["embed0"]["proj"]["kernel"], np.sqrt(2 / (16 * 64))),
        (params["positions1"]["kernel"], np.sqrt(2 / 9)),
    ):
        assert np.std(kernel) == pytest.approx(deviation, rel=0.06)
    assert not params["embed0"]["proj"]["bias"].any()


@pytest.mark.slow
def test_files(tmp_path):
    """Of the first stages alone, which are found to be just that."""
    fields = dict(embed_dims=(64, 128), depths=(2, 2), reductions=(8, 4))
    model, params = random_params("Twins-SVT-S", (64, 64), **fields)
    state_dict = torch.to_state_dict({"params": params}, model)
    assert state_dict["blocks.1.1.attn.sr.weight"].shape == (128, 128, 4, 4)
    assert state_dict["pos_block.0.proj.0.weight"].shape == (64, 1, 3, 3)
    torch.write(tmp_path / "a.safetensors", state_dict)
    loaded = pretrained.load(tmp_path / "a.safetensors", labels="none")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": params})
    assert {key: loaded.fields[key] for key in fields} == fields
    assert (
        loaded.eval_pp == "decode|resize_small(256, method='bicubic')|central_crop(224)|normalize()"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1,)}, r"depths=\(1,\) must have a number from 1 on for each of the 2 stages"),
        ({"reductions": (0, 1)}, r"reductions=\(0, 1\) must have a number from 1 on"),
        ({"head_dim": 3}, "the 8 channels of stage 0 are not divisible by head_dim=3"),
        ({"window_size": 0}, "window_size must be at least 1, not 0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), not 1.0"),
    ],
)
def test_wrong_settings(overrides, message):
    model = get_model("Twins-SVT-S", **{**TINY, **overrides})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))
