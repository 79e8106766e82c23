"""Attention in all its forms, against what PyTorch computes with weights made from names."""

import functools
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.golden_recipe import recipe_array, recipe_weights
from tests.helpers import noise
from vit_jax import ops
from vit_jax.models import attention, attention_blocks, encoder
from vit_jax.models.base import Model

GOLDEN = Path(__file__).parent / "golden" / "attention.npz"
SIZE = (5, 6)  # which these models do not ask for


class Alone(Model):
    """A block as a model, whose weights are read by their names in PyTorch."""

    block: nn.Module
    shapes: tuple[tuple[int, ...], ...]
    names: Any

    def inputs(self, image_size):
        return tuple(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in self.shapes)

    @nn.compact
    def __call__(self, *args, **kwargs):
        return self.block(*args, **kwargs)

    def torch_names(self, naming=""):
        return {f"block/{ours}": theirs for ours, theirs in self.names.items()}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        yield dict(file)


def alone(block, *shapes, names=None):
    """The block, variables of it, and their names and shapes in PyTorch."""
    model = Alone(block, shapes, names or block.torch_names())
    variables = recipe_weights(model, SIZE)
    written = torch.to_state_dict(variables, model)
    again = torch.from_state_dict(written, model, SIZE)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    params = variables["params"]["block"]
    return {"params": params}, {name: array.shape for name, array in written.items()}


def agree(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * expected.std())


def without_prefix(ours, theirs):
    """Names of an attention that is the whole model."""
    names = attention.torch_attention_names(ours, theirs)
    return {a.removeprefix(f"{ours}/"): b.removeprefix(f"{theirs}.") for a, b in names.items()}


@pytest.fixture(scope="module")
def three_heads(golden):
    block = attention.MultiHeadAttention(3)
    names = without_prefix("x", "x")
    variables, shapes = alone(block, (1, 5, 24), (1, 7, 24), names=names)
    assert shapes["in_proj_weight"] == (72, 24)
    return block, variables, {k.split("/")[1]: v for k, v in golden.items() if "multihead" in k}


def masks(z):
    """Which keys are attended to, and what is added to the scores, by the name of the output."""
    kept = ~z["key_padding"]
    allowed = ~z["attn_mask_bool"] & kept[:, None, None]
    return {
        "out": {},
        "out_padding": {"mask": kept},
        "out_bool": {"mask": allowed},
        "out_float": {"bias": z["attn_mask_float"][None, None]},
    }


@pytest.mark.parametrize("name", ["out", "out_padding", "out_bool", "out_float"])
def test_golden_heads_at_every_mask(three_heads, name):
    block, variables, z = three_heads
    out, state = block.apply(
        variables, z["q"], z["k"], values=z["v"], mutable=["intermediates"], **masks(z)[name]
    )
    agree(out, z[name])
    if name in ("out", "out_bool"):
        (weights,) = state["intermediates"]["attention"]
        agree(weights, z["w" + name.removeprefix("out")])


def test_golden_keys_and_values_of_their_own_widths(three_heads):
    """Whose weights PyTorch does not keep fused."""
    _, _, z = three_heads
    bias = np.split(recipe_array("in_proj_bias", (72,)), 3)
    params = {
        part: {
            "kernel": recipe_array(f"{part[0]}_proj_weight", (24, width)).T.reshape(width, 3, 8),
            "bias": bias[i].reshape(3, 8),
        }
        for i, (part, width) in enumerate({"query": 24, "key": 10, "value": 14}.items())
    }
    params["out"] = {
        "kernel": recipe_array("out_proj.weight", (24, 24)).T.reshape(3, 8, 24),
        "bias": recipe_array("out_proj.bias", (24,)),
    }
    block = attention.MultiHeadAttention(3, head_size=8)
    out = block.apply({"params": params}, z["q"], z["k_dim10"], values=z["v_dim14"])
    agree(out, z["out_kdim"])


def hidden_by(kind):
    """Arguments that hide keys: those of the last query are all hidden, but for "causal"."""
    mask = noise((2, 3, 6, 6), 3) > 0
    mask[:, :, -1] = False
    padding = np.array([[True] * 4 + [False] * 2, [False] * 6])
    bias = np.where(mask, noise((2, 3, 6, 6), 4), -np.inf)
    return {
        "mask": {"mask": mask},
        "padding": {"mask": padding},
        "causal": {},
        "causal and padding": {"mask": padding},
        "bias": {"bias": bias},
        "bias and mask": {"bias": bias, "mask": padding},
        "length and mask": {"mask": padding[:, ::-1], "length": 2},
    }[kind]


@pytest.mark.parametrize("dropout", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind",
    [
        "mask", "padding", "causal", "causal and padding", "bias", "bias and mask",
        "length and mask",
    ],
)  # fmt: skip
def test_gradients_are_finite_at_every_mask(kind, dropout):
    block = attention.MultiHeadAttention(
        3, causal="causal" in kind, attention_dropout_rate=dropout, deterministic=False
    )
    x = noise((2, 6, 12))
    variables = block.init(jax.random.key(0), x, x)
    apply = functools.partial(block.apply, rngs={"dropout": jax.random.key(1)})

    def loss(variables, x):
        out = apply(variables, x, x, **hidden_by(kind))
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(variables, x)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((grads, out)))
    nothing = variables["params"]["out"]["bias"]  # is all that a row without keys gives
    if kind in ("mask", "bias"):
        np.testing.assert_allclose(out[:, -1], np.broadcast_to(nothing, (2, 12)), atol=1e-7)
    if kind in ("padding", "causal and padding", "bias and mask", "length and mask"):
        np.testing.assert_allclose(out[1], np.broadcast_to(nothing, (6, 12)), atol=1e-7)
    if kind == "length and mask":
        np.testing.assert_allclose(out[0], np.broadcast_to(nothing, (6, 12)), atol=1e-7)


def tokens_first(x):
    return jnp.asarray(x.swapaxes(1, 2))


def test_golden_linear_attention(golden):
    q, k, v = (tokens_first(golden[f"linear_attention/{name}"]) for name in "qkv")
    mask = golden["linear_attention/key_mask"] > 0
    for name, options in {
        "elu_out": {}, "elu_causal_out": {"causal": True}, "elu_masked_out": {"mask": mask},
    }.items():  # fmt: skip
        out = ops.linear_attention(q, k, v, **options)
        agree(out, tokens_first(golden[f"linear_attention/{name}"]))


def test_causal_linear_attention_in_chunks():
    """Of which there are three here, the last of them not full, beside all products at once."""
    q, k, v = (noise((1, 150, 2, 4), seed) for seed in range(3))
    mask = noise((1, 150), 4) > -0.5
    mask[:, :3] = False

    def ours(q, k, v):
        return ops.linear_attention(q, k, v, mask, causal=True)

    def plain(q, k, v):
        f = jax.nn.elu(q) + 1, jax.nn.elu(k) + 1
        scores = jnp.einsum("bnhc,bmhc->bhnm", *f) * np.tri(150) * mask[:, None, None]
        total = scores.sum(-1, keepdims=True)
        return jnp.einsum("bhnm,bmhe->bnhe", scores / jnp.where(total > 0, total, 1), v)

    found, expected = (
        jax.jit(jax.value_and_grad(lambda *args, f=f: jnp.sum(jnp.sin(f(*args))), (0, 1, 2)))
        for f in (ours, plain)
    )
    (value, grads), (wanted, wanted_grads) = found(q, k, v), expected(q, k, v)
    assert float(value) == pytest.approx(float(wanted), rel=1e-5)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=1e-5), grads, wanted_grads)
    assert not np.any(ours(q, k, v)[:, :3])  # which have nothing to attend to


@pytest.mark.parametrize("causal", [False, True])
def test_linear_attention_to_nothing(causal):
    """Of the second sequence every key is masked, of the first those that come first."""
    q, k, v = (noise((2, 5, 2, 3), seed) for seed in range(3))
    mask = np.array([[False, False, True, True, True], [False] * 5])

    def loss(q, k, v):
        out = ops.linear_attention(q, k, v, mask, causal)
        return jnp.sum(jnp.sin(out)), out

    grads, out = jax.jit(jax.grad(loss, (0, 1, 2), has_aux=True))(q, k, v)
    assert not np.any(out[1])
    assert np.any(out[0, :2]) != causal
    assert all(np.isfinite(grad).all() and not np.any(grad[1]) for grad in grads)


def test_linear_attention_of_other_numbers_is_not_causal():
    q, k = noise((1, 3, 1, 2)), noise((1, 4, 1, 2))
    with pytest.raises(ValueError, match="not of 3 queries to 4 keys: give as many"):
        ops.linear_attention(q, k, k, causal=True)


@pytest.mark.parametrize("softmax_of_queries", [False, True])
def test_golden_linear_attention_of_images(golden, softmax_of_queries):
    block = attention_blocks.LinearAttention(4, 6, softmax_of_queries)
    variables, shapes = alone(block, (1, *SIZE, 12))
    assert shapes == {
        "to_qkv.weight": (72, 12, 1, 1), "to_out.weight": (12, 24, 1, 1), "to_out.bias": (12,),
    }  # fmt: skip
    out = block.apply(variables, np.moveaxis(golden["linear_attention/x"], 1, -1))
    name = "softmax_qk_scaled_out" if softmax_of_queries else "softmax_k_out"
    agree(out, np.moveaxis(golden[f"linear_attention/{name}"], 1, -1))


@pytest.mark.parametrize("form", attention_blocks.AXIAL_FORMS)
def test_golden_axial_attention(golden, form):
    block = attention_blocks.AxialAttention(3, form)
    variables, shapes = alone(block, (1, *SIZE, 12))
    assert shapes["col.in_proj_weight"] == (36, 12)
    x = golden["axial_attention/x"]
    agree(block.apply(variables, x), golden[f"axial_attention/{form}"])


def test_unknown_forms_of_axial_attention():
    with pytest.raises(ValueError, match="form='both' is not one of sum, sequential, residual"):
        attention_blocks.AxialAttention(3, "both").init(jax.random.key(0), noise((1, 2, 2, 3)))


@pytest.mark.parametrize("use_linear", [False, True])
def test_golden_spatial_transformer(golden, use_linear):
    block = attention_blocks.SpatialTransformer(2, 8, groups=8, use_linear=use_linear)
    variables, shapes = alone(block, (1, *SIZE, 32), (1, 4, 12))
    assert shapes["proj_in.weight"] == ((16, 32) if use_linear else (16, 32, 1, 1))
    assert shapes["transformer_blocks.0.attn2.to_k.weight"] == (16, 12)
    z = {k.split("/")[1]: v for k, v in golden.items() if "spatial" in k}
    x = np.moveaxis(z["x"], 1, -1)
    out = block.apply(variables, x, z["context"])
    agree(out, np.moveaxis(z["out_linear_projection" if use_linear else "out"], 1, -1))

    more = np.concatenate([z["context"], 9 * noise((2, 3, 12))], axis=1)
    masked = block.apply(variables, x, more, np.arange(7) < np.array([[4], [4]]))
    np.testing.assert_allclose(masked, out, atol=1e-6)


@pytest.mark.slow
def test_a_spatial_transformer_without_a_context():
    """Latent diffusion then attends to itself twice, and diffusers once."""
    x = noise((1, *SIZE, 8))
    make = functools.partial(attention_blocks.SpatialTransformer, 2, 4, depth=2, groups=4)
    twice, shapes = alone(make(), x.shape)
    once, fewer = alone(make(without_context="none"), x.shape)
    second = {name for name in shapes if "attn2" in name or "norm2" in name}
    assert len(second) == 2 * 7
    assert shapes.keys() - fewer.keys() == second
    y = make().apply(twice, x)
    assert np.abs(y - make(without_context="none").apply(once, x)).max() > 1e-3
    # With weights of 0 the second attention gives nothing, and both are the same.
    for i in range(2):
        out = twice["params"][f"block_{i}"]["attention2"]["out"]
        out["kernel"], out["bias"] = (np.zeros_like(out[name]) for name in ("kernel", "bias"))
    np.testing.assert_array_equal(
        make().apply(twice, x), make(without_context="none").apply(once, x)
    )


@pytest.mark.slow
@pytest.mark.parametrize("use_linear", [False, True])
def test_a_spatial_transformer_begins_as_the_identity(use_linear):
    x, context = noise((1, 2, 3, 8)), noise((1, 4, 5))
    block = attention_blocks.SpatialTransformer(
        2, 4, groups=4, use_linear=use_linear, dropout_rate=0.1
    )
    variables = jax.jit(block.init)(jax.random.key(0), x, context)
    rngs = {"dropout": jax.random.key(1)}
    np.testing.assert_array_equal(block.apply(variables, x, context, train=True, rngs=rngs), x)


@pytest.mark.parametrize(
    ("fields", "mask", "words"),
    [
        ({"groups": 3}, None, "groups=3 must divide the 8 channels"),
        ({"groups": 4, "without_context": "cross"}, None, "is not one of self_attention, none"),
        ({"groups": 4}, np.ones((1, 2), bool), "but there is none: give one"),
    ],
)
def test_what_a_spatial_transformer_refuses(fields, mask, words):
    block = attention_blocks.SpatialTransformer(2, 4, **fields)
    with pytest.raises(ValueError, match=words):
        block.init(jax.random.key(0), noise((1, 2, 2, 8)), mask=mask)


@pytest.mark.parametrize(("activation", "function"), [("gelu", "geglu"), ("relu", "reglu")])
def test_gated_feed_forward(activation, function):
    """By the formula: the first half times the activation of the second."""
    block = encoder.MlpBlock(6, activation, gated=True)
    x = noise((2, 3, 4))
    variables = block.init(jax.random.key(0), x)
    first, second = (variables["params"][f"Dense_{i}"] for i in range(2))
    assert first["kernel"].shape == (4, 12)
    inner, gate = np.split(x @ first["kernel"] + first["bias"], 2, axis=-1)
    gate = jax.nn.gelu(gate, approximate=False) if function == "geglu" else np.maximum(gate, 0)
    expected = (inner * gate) @ second["kernel"] + second["bias"]
    np.testing.assert_allclose(block.apply(variables, x), expected, atol=1e-6)


def test_golden_sinusoids():
    with np.load(GOLDEN.with_name("transformer.npz")) as file:
        expected = file["positions"]
    table = ops.sincos1d_position_embedding(*expected.shape)
    assert table.shape == (1, *expected.shape)
    agree(table[0], expected)
    with pytest.raises(ValueError, match="hidden_size must be even, not 5"):
        ops.sincos1d_position_embedding(3, 5)
