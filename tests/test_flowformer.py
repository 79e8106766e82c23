"""FlowFormer: golden outputs and activations, batches, sizes, iterations, warm start, memory."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz, torch
from tests.golden_recipe import recipe_array, recipe_weights
from tests.helpers import noise, random_variables
from vit_jax import pretrained, weights
from vit_jax.models import flowformer, flowformer_decoder, flowformer_encoder, get_model

GOLDEN = np.load(Path(__file__).parent / "golden" / "flowformer.npz")
# RAFT's encoder, and a cost encoder with all that the published ones have.
TINY = dict(encoder="raft", tokens=2, features=16, depth=1, context_features=8, iterations=2)


def golden_pair(seed, shape):
    """Both images as they were drawn, in [-1, 1]."""
    random = np.random.RandomState(seed)
    drawn = (random.uniform(0, 255, (1, 3, *shape)).astype(np.float32) for _ in range(2))
    return [2 * image.transpose(0, 2, 3, 1) / 255 - 1 for image in drawn]


def assert_golden(found, name, step=1e-4):
    expected = GOLDEN[name]
    np.testing.assert_allclose(found, expected, atol=step * expected.std(), err_msg=name)


def pair(shape, seed=0):
    """Smooth images, and the same moved by some pixels."""
    random = np.random.default_rng(seed)
    phases = random.uniform(0, 6, (shape[0], 1, 1, 3))
    y, x = np.mgrid[: shape[1], : shape[2]][..., None]
    image, image2 = (
        np.sin((x - dx) / 5 + phases) * np.cos((y + dx) / 7 + 2 * phases) for dx in (0, 2)
    )
    return image.astype(np.float32), image2.astype(np.float32)


@functools.cache
def tiny(**fields):
    model = get_model("FlowFormer", **TINY, **fields)
    return model, random_variables(model, (16, 16), deviation=0.05)


@functools.cache
def compiled(model, **options):
    return jax.jit(functools.partial(model.apply, **options))


def test_golden_output_and_activations():
    model = get_model("FlowFormer-small", iterations=2)
    variables = recipe_weights(model, (64, 96))
    wanted = ("__call__", "embed", "_similarities")
    capture = compiled(
        model, train=True, low=True, capture_intermediates=lambda module, name: name in wanted
    )
    (flows, low), state = capture(variables, *golden_pair(21, (64, 96)))  # measured 6e-6 at most
    assert flows.shape == (2, 1, 64, 96, 2)
    assert flows.dtype == low.dtype == jnp.float32
    assert_golden(flows[-1, :, 1::3, 1::3], "small_acts/output")
    assert_golden(low, "small_acts/low")

    def found(path):
        tree = state["intermediates"]
        for part in path.split("/"):
            tree = tree[part]
        return np.asarray(tree[0])

    def tokens(path):
        x = found(f"cost_encoder{path}/__call__")
        return x.transpose(0, 2, 3, 1, 4).reshape(96, 4, 32)[::12, :, ::2]

    assert_golden(found("feature_encoder/__call__")[:1, ..., ::32], "small_acts/feature_image1")
    assert_golden(found("feature_conv/__call__")[1:, ..., ::32], "small_acts/feature1x1_image2")
    assert_golden(found("context_encoder/__call__")[..., ::16], "small_acts/context")
    assert_golden(found("cost_encoder/embedding/embed")[::12, :, ::2], "small_acts/patch_embed")
    embedded = found("cost_encoder/embedding/__call__")
    assert_golden(embedded[::12, :, ::2], "small_acts/input_layer")
    assert_golden(tokens("/layer0"), "small_acts/encoder_layer0")
    for block in ("local", "global"):
        x = found(f"cost_encoder/{block}0/__call__")[:, 0].reshape(1, 96, 32)
        assert_golden(x[:, ::3, ::2], f"small_acts/{block}_block")
    assert_golden(tokens(""), "small_acts/memory")
    assert_golden(found("decoder/_similarities")[:, ::12], "small_acts/gma_attention", 3e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FlowFormer", "FlowFormer-small"])
def test_golden_output(name):
    model = get_model(name, iterations=4)
    variables = recipe_weights(model, (64, 64))
    image, _ = golden_pair(0, (128, 192))
    flow = compiled(model)(variables, image, np.roll(image, (2, 3), (1, 2)))  # measured 3e-6
    key = f"{name.lower().replace('-', '_')}/output"
    assert_golden(flow[:, 1::4, 1::4], key)


def test_golden_gated_recurrent_unit():
    """However many of its inputs' channels are constant."""
    shapes = {1: (6, 16, 1, 5), 2: (6, 16, 5, 1)}
    params = {}
    for name in (f"conv{gate}{i}" for gate in "zrq" for i in (1, 2)):
        kernel = recipe_array(f"{name}.weight", shapes[int(name[-1])])
        bias = recipe_array(f"{name}.bias", (6,))
        params[name] = {"kernel": kernel.transpose(2, 3, 1, 0), "bias": bias}
    for constant in (4, 7):
        gru = flowformer_decoder.SepConvGRU(6, constant, 10 - constant)
        given, changing = np.split(GOLDEN["gru/gru_x"], [constant], axis=-1)
        prepared = gru.apply({"params": params}, given)
        state = flowformer_decoder.gru_step(prepared, GOLDEN["gru/gru_h"], changing)
        assert_golden(state, "gru/gru_out", 3e-5)


@pytest.mark.slow
def test_each_pair_of_a_batch_is_as_it_is_alone():
    """In the published code it sees another pair's context."""
    model, variables = tiny()
    images = pair((2, 24, 40))
    together = compiled(model)(variables, *images)
    assert np.abs(together[0] - together[1]).max() > 10 * 1e-4 * together.std()
    for i in range(2):
        alone = compiled(model)(variables, *(x[i : i + 1] for x in images))
        np.testing.assert_allclose(alone[0], together[i], atol=1e-4 * together.std())


@pytest.mark.slow
def test_what_training_returns():
    """Every iteration's flow: the last is that of the evaluation."""
    model, variables = tiny()
    images = pair((2, 24, 40))
    flows, low = compiled(model, train=True, low=True)(variables, *images)
    assert flows.shape == (2, 2, 24, 40, 2)
    assert low.shape == (2, 3, 5, 2)
    flow = compiled(model)(variables, *images)
    np.testing.assert_allclose(flows[-1], flow, atol=1e-4 * flow.std())
    once = compiled(model.clone(iterations=1))(variables, *images)
    np.testing.assert_allclose(flows[0], once, atol=1e-4 * flow.std())
    assert np.abs(flows[1] - flows[0]).max() > 0.01 * flow.std()


@pytest.mark.parametrize("padding", ["sintel", pytest.param("kitti", marks=pytest.mark.slow)])
def test_sides_that_8_does_not_divide(padding):
    """They are padded with the border's pixels, and cut off again, as in a picture made so."""
    model, variables = tiny(padding=padding)
    images = pair((1, 19, 33))
    top, left = {"sintel": (2, 3), "kitti": (0, 3)}[padding]
    border = ((0, 0), (top, 5 - top), (left, 7 - left), (0, 0))
    padded = [np.pad(x, border, mode="edge") for x in images]
    flow = compiled(model)(variables, *images)
    assert flow.shape == (1, 19, 33, 2)
    whole = compiled(model)(variables, *padded)
    np.testing.assert_allclose(
        flow, whole[:, top : top + 19, left : left + 33], atol=1e-3 * whole.std()
    )


@pytest.mark.slow
def test_warm_start():
    """A decoder that changes nothing gives back what it begins with, 8 times larger."""
    model, variables = tiny()
    last = jax.tree.map(np.zeros_like, variables["params"]["decoder"]["flow_head"]["conv2"])
    variables = jax.tree.map(lambda x: x, variables)
    variables["params"]["decoder"]["flow_head"]["conv2"] = last
    initial = np.broadcast_to(np.float32([1.5, -0.5]), (1, 3, 5, 2))
    flow, low = compiled(model, low=True)(variables, *pair((1, 24, 40)), initial=initial)
    np.testing.assert_array_equal(low, initial)
    inner = flow[:, 8:16, 8:32]  # beyond the border lie zeros
    np.testing.assert_allclose(inner, np.broadcast_to([12.0, -4.0], inner.shape), rtol=1e-5)


@pytest.mark.slow
def test_cost_maps_embedded_in_parts(monkeypatch):
    encoder = flowformer_encoder.CostEncoder(tokens=2, features=16, depth=0, context_features=0)
    cost, context = noise((2, 3, 5, 3, 5)), noise((2, 3, 5, 256), 1)
    variables = jax.jit(encoder.init)(jax.random.key(0), cost, context)
    whole = jax.jit(encoder.apply)(variables, cost, context)
    monkeypatch.setattr(flowformer_encoder, "_CHUNK", 1)
    lowered = jax.jit(encoder.apply).lower(variables, cost, context)
    assert "while" in lowered.as_text()
    np.testing.assert_allclose(lowered.compile()(variables, cost, context), whole, atol=1e-5)


@pytest.mark.slow
def test_gradients_are_the_same_in_parts_and_computed_again(monkeypatch):
    model, variables = tiny()
    images = pair((1, 24, 40))

    def loss(variables, model):
        return jnp.mean(model.apply(variables, *images, train=True) ** 2)

    whole = jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, model)
    monkeypatch.setattr(flowformer_encoder, "_CHUNK", 1)
    again = model.clone(remat=True)
    parts = jax.jit(jax.value_and_grad(loss), static_argnums=1)(variables, again)
    (value, grads), (value2, grads2) = whole, parts
    np.testing.assert_allclose(value, value2, rtol=1e-5)
    most = max(np.abs(x).max() for x in jax.tree.leaves(grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4 * most), grads, grads2)


@pytest.mark.slow
def test_bfloat16():
    model, variables = tiny()
    images = pair((1, 24, 40))
    flow = compiled(model)(variables, *images)
    short = compiled(model.clone(dtype=jnp.bfloat16))(variables, *images)
    assert short.dtype == jnp.float32
    difference = np.abs(short - flow).mean() / flow.std()
    assert 1e-5 < difference < 0.3


def test_places_are_encoded_as_published():
    """With 3.14 in place of pi, and [sin x, cos x, sin y, cos y]."""
    encoded = flowformer_encoder.sine_encoding(np.float32([[20.0, 100.0]]), 12)
    x, y = (3.14 * at / 200 * np.arange(3) for at in (20, 100))
    expected = np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)])[None]
    np.testing.assert_allclose(encoded, expected, atol=1e-6)


@pytest.mark.parametrize(
    "fields", [TINY, pytest.param(dict(depth=1), marks=pytest.mark.slow)], ids=["raft", "twins"]
)
def test_there_and_back(fields):
    """Also what the published files hold and nothing uses."""
    model = get_model("FlowFormer", **fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((16, 16)))
    variables = jax.tree.map(lambda x: noise(x.shape, x.size % 97), shapes)
    state_dict = torch.to_state_dict(variables, model)
    unused = state_dict["memory_decoder.att.pos_emb.rel_height.weight"]
    np.testing.assert_array_equal(unused, variables["params"]["decoder"]["rel_height"])
    places = state_dict["memory_decoder.att.pos_emb.rel_ind"]
    assert places.shape == (160, 160)
    assert (places[0, 0], places[0, 159], places[159, 0]) == (159, 318, 0)
    back = torch.from_state_dict(state_dict, model)
    jax.tree.map(np.testing.assert_array_equal, back, dict(variables))


def test_both_encoders_begin_with_weights_of_twins(tmp_path, monkeypatch):
    small = dict(embed_dims=(128, 256, 32, 32), depths=(2, 2, 1, 1), num_classes=3)
    monkeypatch.setitem(flowformer.TWINS, "Twins-SVT-L", small)
    of_twins = random_variables(get_model("Twins-SVT-L", **small), (32, 32))["params"]
    npz.save(tmp_path / "twins.npz", of_twins)
    model = get_model("FlowFormer", depth=0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((16, 16)))
    init = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    found = pretrained.adapt(weights.read(tmp_path / "twins.npz"), init, model, (16, 16))["params"]
    for encoder in ("feature_encoder", "context_encoder"):
        loaded = found[encoder].pop("svt")
        first = {part for part in of_twins if re.match("(embed|positions|stage)[01]", part)}
        assert set(loaded) == first
        for part, arrays in loaded.items():
            jax.tree.map(np.testing.assert_array_equal, arrays, of_twins[part])
    assert not any(np.any(x) for x in jax.tree.leaves(found))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(encoder="resnet"), "encoder='resnet' is not one of"),
        (dict(padding="zero"), "padding='zero' is not one of"),
        (dict(iterations=0), "iterations must be at least 1, not 0"),
        (dict(features=12), "features=12 must be divisible by its 8 heads"),
        (dict(dropout=1.0), r"dropout must lie in \[0, 1\), not 1.0"),
    ],
)
def test_what_does_not_fit(fields, message):
    model = get_model("FlowFormer", **{**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), *model.inputs((16, 16)))


def test_shapes_that_do_not_fit():
    model = get_model("FlowFormer", **TINY)
    image = jax.ShapeDtypeStruct((1, 16, 24, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"the second image must have the shape of the first"):
        jax.eval_shape(
            model.init, jax.random.key(0), image, jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
        )
    start = jnp.zeros((1, 16, 24, 2))
    with pytest.raises(ValueError, match=r"initial must have shape \(1, 2, 3, 2\)"):
        jax.eval_shape(
            functools.partial(model.init, initial=start), jax.random.key(0), image, image
        )
