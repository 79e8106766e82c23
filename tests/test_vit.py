import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from checkpoints import npz, tree
from vit_jax import ops
from vit_jax.models import get_model

GOLDEN = Path(__file__).parent / "golden"
TINY = dict(num_classes=3, patch_size=4, hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32)


def tiny(**overrides):
    return get_model("ViT-Ti_16", **{**TINY, **overrides})


def init(model, images):
    """Initialises, with a head that is not zero."""
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    kernel = params["head"]["kernel"]
    params["head"]["kernel"] = jax.random.normal(jax.random.key(9), kernel.shape)
    return {"params": params}


def apply(model, variables, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))(variables, images)


@pytest.fixture
def images():
    return jax.random.uniform(jax.random.key(3), (2, 8, 12, 3), minval=-1, maxval=1)


SMALL = dict(num_classes=7, patch_size=8, hidden_size=48, num_heads=3, num_layers=2, mlp_dim=96)
GOLDEN_MODELS = {
    "vit_small_cfg": ("ViT-B_16", SMALL),
    "vit_gap_rep_cfg": ("ViT-B_16", dict(SMALL, classifier="gap", representation_size=20)),
    "hybrid_small_cfg": (
        "R50+ViT-B_16",
        dict(SMALL, patch_size=1, resnet_layers=(1, 2), resnet_width_factor=0.5),
    ),
    "mixer_small_cfg": (
        "Mixer-B_16",
        dict(
            num_classes=7, patch_size=8, num_blocks=2, hidden_dim=40, tokens_mlp_dim=24,
            channels_mlp_dim=80,
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("file", GOLDEN_MODELS)
@pytest.mark.parametrize("scan", [False, True])
def test_golden_output(file, scan, tmp_path):
    name, fields = GOLDEN_MODELS[file]
    if scan and name.startswith("Mixer"):
        pytest.skip("the Mixer has no scan")
    with np.load(GOLDEN / f"{file}.npz") as golden:
        images, expected = golden["input"], golden["output"]
        params = {k.removeprefix("params/"): golden[k] for k in golden if k.startswith("params/")}
    np.savez(tmp_path / "weights.npz", **params)
    params = npz.load(tmp_path / "weights.npz")

    model = get_model(name, **fields, **({"scan": True} if scan else {}))
    params = tree.stack(params) if scan else params
    out = apply(model, {"params": params}, images)
    np.testing.assert_allclose(out, expected, atol=2e-6)  # measured 3e-7

    # The names and shapes are the model's own, so nothing was passed over.
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)


@pytest.mark.parametrize(
    ("classifier", "shape"),
    [
        ("token", (2, 3)),
        ("gap", (2, 3)),
        ("map", (2, 3)),
        ("unpooled", (2, 6, 3)),
        ("token_unpooled", (2, 7, 3)),
    ],
)
def test_classifiers(images, classifier, shape):
    model = tiny(classifier=classifier)
    variables = init(model, images)
    assert apply(model, variables, images).shape == shape
    features = tiny(classifier=classifier, num_classes=0)
    assert apply(features, variables, images).shape == (*shape[:-1], 16)


def test_pooling_is_of_the_unpooled_tokens(images):
    variables = init(tiny(classifier="unpooled"), images)
    unpooled = apply(tiny(classifier="unpooled"), variables, images)
    gap = apply(tiny(classifier="gap"), variables, images)
    np.testing.assert_allclose(gap, unpooled.mean(axis=1), atol=1e-5)

    variables = init(tiny(classifier="token_unpooled"), images)
    tokens = apply(tiny(classifier="token_unpooled"), variables, images)
    token = apply(tiny(classifier="token"), variables, images)
    np.testing.assert_allclose(token, tokens[:, 0], atol=1e-5)


def test_only_position_embeddings_know_the_order_of_patches(images):
    """Reversing the columns of patches: 12 pixels are 3 patches of 4."""
    b, h, w, c = images.shape
    moved = images.reshape(b, h, 3, 4, c)[:, :, ::-1].reshape(b, h, w, c)
    for kind, knows in (("none", False), ("sincos2d", True), ("learned", True)):
        model = tiny(position_embedding=kind, classifier="gap")
        variables = init(model, images)
        change = jnp.abs(apply(model, variables, images) - apply(model, variables, moved)).max()
        assert (change > 1e-3) == knows, kind


def test_sincos2d_by_the_formula():
    table = np.asarray(ops.sincos2d_position_embedding(2, 3, 8))
    assert table.shape == (1, 6, 8)
    for row in range(2):
        for column in range(3):
            w = [1 / 10000 ** (k / (8 / 4 - 1)) for k in range(2)]
            expected = [f(p * v) for p in (column, row) for f in (np.sin, np.cos) for v in w]
            np.testing.assert_allclose(table[0, 3 * row + column], expected, atol=1e-6)


def test_sincos2d_leaves_the_class_token_alone(images):
    """With a class token in front, the patches get the same positions as without."""
    model = tiny(position_embedding="sincos2d", num_layers=0, classifier="token_unpooled")
    variables = init(model, images)
    with_token = apply(model, variables, images)
    without = tiny(position_embedding="sincos2d", num_layers=0, classifier="unpooled")
    np.testing.assert_allclose(with_token[:, 1:], apply(without, variables, images), atol=1e-6)


@pytest.mark.parametrize(
    "overrides", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}]
)
def test_scan_and_remat_change_nothing(images, overrides):
    variables = init(tiny(), images)
    other = tiny(**overrides)
    stack = tree.stack if other.scan else lambda params: params

    def value(model, params):
        return jnp.sum(apply(model, {"params": params}, images) ** 2)

    def value_and_grad(model, params):
        return jax.jit(jax.value_and_grad(functools.partial(value, model)))(params)

    expected, grads = value_and_grad(tiny(), variables["params"])
    actual, other_grads = value_and_grad(other, stack(variables["params"]))
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    largest = max(float(jnp.abs(g).max()) for g in jax.tree.leaves(grads))
    for a, b in zip(jax.tree.leaves(stack(grads)), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6 * largest)


def test_stack_and_unstack_are_inverse(images):
    block = init(tiny(num_layers=1), images)["params"]["Transformer"]["encoderblock_0"]
    blocks = {f"encoderblock_{i}": jax.tree.map(lambda x, i=i: x + i, block) for i in range(11)}
    params = {"Transformer": blocks, "cls": jnp.zeros(3)}
    stacked = tree.stack(params)
    assert [name for name in stacked["Transformer"] if "block" in name] == ["encoderblock"]
    again = tree.unstack(stacked)
    assert jax.tree.structure(again) == jax.tree.structure(params)
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again, params))
    assert jax.tree.structure(tree.unstack(params)) == jax.tree.structure(params)


def test_scan_initialises_each_layer_differently(images):
    params = init(tiny(scan=True), images)["params"]
    kernel = params["Transformer"]["encoderblock"]["MlpBlock_3"]["Dense_0"]["kernel"]
    assert kernel.shape == (2, 16, 32)
    assert float(jnp.abs(kernel[0] - kernel[1]).max()) > 0.1


def test_bfloat16_computes_in_bfloat16_and_stays_close(images):
    variables = init(tiny(), images)
    half = tiny(dtype="bfloat16")
    out = apply(half, variables, images)
    assert out.dtype == jnp.float32
    exact = apply(tiny(), variables, images)
    gap = float(jnp.abs(out - exact).max() / exact.std())
    assert 0 < gap < 0.1
    text = jax.jit(half.apply).lower(variables, images).as_text()
    assert "dot_general" in text
    assert "bf16" in text
    params = init(half, images)["params"]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))


@pytest.mark.parametrize(
    "rate", ["dropout_rate", "attention_dropout_rate", "stochastic_depth_rate"]
)
@pytest.mark.parametrize("scan", [False, True])
def test_dropout_acts_in_training_only(images, rate, scan):
    model = tiny(**{rate: 0.5}, scan=scan)
    variables = init(model, images)
    plain = apply(tiny(scan=scan), variables, images)
    np.testing.assert_array_equal(apply(model, variables, images), plain)

    def train(key):
        return model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(key)})

    train = jax.jit(train)
    np.testing.assert_array_equal(train(0), train(0))
    assert any(float(jnp.abs(train(0) - train(key)).max()) > 1e-4 for key in (1, 2, 3))


def test_stochastic_depth_drops_whole_examples_and_keeps_the_mean():
    x = jnp.ones((4000, 3, 2))
    y = np.asarray(ops.stochastic_depth(x, 0.25, jax.random.key(0)))
    assert (y == y[:, :1, :1]).all()
    np.testing.assert_allclose(np.unique(y), [0, 4 / 3], rtol=1e-6)
    np.testing.assert_allclose(y.mean(), 1, atol=0.03)


def test_attention_is_the_softmax_of_scaled_products(images):
    """One layer of attention against the formula, in float64."""
    model = tiny(num_layers=1)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), init(model, images)["params"])
    block = params["Transformer"]["encoderblock_0"]
    attention = block["MultiHeadDotProductAttention_1"]
    x = np.random.default_rng(0).normal(size=(2, 5, 16))

    def project(name):
        kernel, bias = attention[name]["kernel"], attention[name]["bias"]
        return np.einsum("bnd,dhk->bhnk", x, kernel) + bias[:, None]

    q, k, v = project("query"), project("key"), project("value")
    logits = np.einsum("bhnk,bhmk->bhnm", q, k) / np.sqrt(8)
    weights = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    mixed = np.einsum("bhnm,bhmk->bnhk", weights, v)
    expected = np.einsum("bnhk,hkd->bnd", mixed, attention["out"]["kernel"])
    expected += attention["out"]["bias"]

    from vit_jax.models.vit import MultiHeadAttention

    actual = MultiHeadAttention(num_heads=2).apply({"params": attention}, x, x)
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "overrides", "message"),
    [
        ((1, 8, 10, 3), {}, "8 x 10 pixels cannot be cut into patches of 4 x 4"),
        ((8, 8, 3), {}, r"shape \(b, h, w, c\)"),
        ((1, 8, 8, 3), {"num_heads": 3}, "hidden_size=16 is not divisible by num_heads=3"),
        ((1, 8, 8, 3), {"num_heads": 0}, "num_heads must be at least 1"),
        ((1, 8, 8, 3), {"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\)"),
        ((1, 8, 8, 3), {"classifier": "mean"}, "classifier='mean' is not one of"),
        ((1, 8, 8, 3), {"position_embedding": "rotary"}, "is not one of"),
        ((1, 8, 8, 3), {"attention_implementation": "flash"}, "is not one of"),
        ((1, 8, 8, 3), {"hidden_size": 18, "position_embedding": "sincos2d"}, "multiple of 4"),
    ],
)
def test_wrong_input(shape, overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny(**overrides).init(jax.random.key(0), jnp.zeros(shape))


def test_another_image_size_says_that_the_positions_do_not_fit(images):
    variables = init(tiny(), images)
    with pytest.raises(ValueError, match="images of the size the weights were made for"):
        apply(tiny(), variables, images[:, :, :8])


def test_initial_values(images):
    params = jax.jit(tiny(head_bias_init=-6.9).init)(jax.random.key(0), images)["params"]
    assert not params["cls"].any()
    assert not params["head"]["kernel"].any()
    np.testing.assert_allclose(params["head"]["bias"], -6.9)
    big = init(tiny(hidden_size=256), images)["params"]["Transformer"]
    np.testing.assert_allclose(big["posembed_input"]["pos_embedding"].std(), 0.02, rtol=0.1)
    query = big["encoderblock_0"]["MultiHeadDotProductAttention_1"]["query"]["kernel"]
    np.testing.assert_allclose(query.std(), np.sqrt(2 / (256 + 256)), rtol=0.05)
    bias = big["encoderblock_0"]["MlpBlock_3"]["Dense_1"]["bias"]
    np.testing.assert_allclose(bias.std(), 1e-6, rtol=0.2)


@pytest.mark.parametrize(
    ("old", "new"),
    [((4, 4), (8, 8)), ((14, 14), (24, 24)), ((7, 5), (3, 9)), ((6, 4), (6, 4)), ((1, 3), (2, 1))],
)
def test_position_embeddings_are_resized_with_aligned_corners(old, new):
    table = np.random.default_rng(0).normal(size=(1, old[0] * old[1], 5)).astype(np.float32)
    resized = ops.resize_position_embedding(table, old, new)
    zoom = (new[0] / old[0], new[1] / old[1], 1)
    expected = scipy.ndimage.zoom(table.reshape(*old, 5).astype(np.float64), zoom, order=1)
    np.testing.assert_allclose(resized, expected.reshape(1, -1, 5), atol=1e-6)
    if old == new:
        np.testing.assert_array_equal(resized, table)


@pytest.mark.parametrize("dropout", [0.0, 1e-7])
def test_tokens_that_fill_up_an_odd_number_change_nothing(dropout, monkeypatch):
    """As where attention is fused, which wants an even number to train on, and drops nothing."""
    model = tiny(classifier="token", attention_dropout_rate=dropout)
    images = jax.random.uniform(jax.random.key(3), (2, 16, 16, 3), minval=-1, maxval=1)
    params = init(model, images)["params"]  # of 17 tokens

    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        return jnp.sum(jnp.sin(model.apply({"params": params}, images, train=True, rngs=rngs)))

    expected = jax.jit(jax.value_and_grad(loss))(params)
    seen, attention = set(), ops.attention

    def seeing(q, k, v, **kwargs):
        seen.add((q.shape[1], kwargs["length"]))
        return attention(q, k, v, **kwargs)

    monkeypatch.setattr(ops, "fuses_attention", lambda q: True)
    monkeypatch.setattr(ops, "attention", seeing)
    jax.clear_caches()  # of blocks that were traced before
    found = jax.jit(jax.value_and_grad(loss))(params)
    assert seen == ({(17, None)} if dropout else {(18, 17)})
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), found, expected
    )
