"""The encoder-decoder against golden outputs, and what its masks and its cache promise."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import random_variables
from vit_jax import identify, pretrained, token_losses
from vit_jax import weights as weights_files
from vit_jax.models import get_model
from vit_jax.models.transformer import PARAMETER_COUNTS, Transformer

GOLDEN = Path(__file__).parent / "golden" / "transformer.npz"
TINY = dict(
    vocabulary_size=23, hidden_size=32, num_layers=2, num_heads=4, mlp_dim=64, norm_epsilon=1e-5
)
FORMS = {"post": {}, "post_final": {"final_norm": True}, "pre_final": {"pre_norm": True}}


def tiny(**fields):
    return get_model("Transformer-base", **{**TINY, **fields})


@functools.cache
def compiled(model, method=None):
    """The model's method as a jitted function; whole numbers may be traced."""
    return jax.jit(functools.partial(model.apply, method=method), static_argnames="length")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


def weights(golden, model):
    """Variables of a model, of those names in PyTorch that it has."""
    shapes = json.loads(str(golden["names"]))
    unused = [] if model.torch_names().get("encoder/norm") else ["encoder.norm", "decoder.norm"]
    unused += ["generator"] if model.tied else []
    kept = {name: s for name, s in shapes.items() if not name.startswith(tuple(unused))}
    return torch.from_state_dict({k: recipe_array(k, s) for k, s in kept.items()}, model)


def assert_near(found, expected):
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std(), rtol=0)


def steps(model, variables, source, target, length):
    """Logits (b, n, v) of the target's tokens, given one by one."""
    memory = compiled(model, "encode")(variables, source)
    cache = compiled(model, "start")(variables, memory, source, length=length)
    step = compiled(model, "decode_step")
    logits = []
    for i in range(target.shape[1]):
        out, cache = step(variables, target[:, i], i, cache)
        logits.append(out)
    return jnp.stack(logits, axis=1), cache


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("form", FORMS)
def test_golden_outputs(golden, form, scan):
    model = tiny(**FORMS[form], tied=False, scan=scan)
    variables = weights(golden, model)
    source, target = golden["src"], golden["tgt"]

    @jax.jit
    def compute(variables):
        memory = model.apply(variables, source, method="encode")
        tied = model.clone(tied=True)
        return (
            memory,
            *(each.apply(variables, target, memory, source, method="decode")
              for each in (tied, model)),
        )  # fmt: skip

    for found, name in zip(compute(variables), ("memory", "logits", "logits_untied"), strict=True):
        assert found.dtype == jnp.float32
        assert_near(found, golden[f"{form}/{name}"])


@pytest.mark.parametrize(
    ("form", "scan"),
    [("pre_final", False)]
    + [
        pytest.param(form, scan, marks=pytest.mark.slow)
        for form, scan in (("post", False), ("post", True), ("pre_final", True))
    ],
)
def test_steps_with_a_cache_are_the_whole(golden, form, scan):
    model = tiny(**FORMS[form], tied=False, scan=scan)
    variables = weights(golden, model)
    found, cache = steps(model, variables, golden["src"], golden["tgt"], length=11)
    expected = golden[f"{form}/logits_untied"]
    assert_near(found, expected)
    np.testing.assert_array_equal(found.argmax(-1), expected.argmax(-1))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(cache)} == {3}, "or no beam could gather it"


@pytest.mark.parametrize("name", PARAMETER_COUNTS)
def test_parameter_counts(name):
    model = get_model(name, scan=True)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((1, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == PARAMETER_COUNTS[name]


@pytest.fixture(scope="module")
def example():
    """A tiny model, its variables, a source with padding, and a target."""
    model = tiny(pre_norm=True, num_layers=1)
    random = np.random.default_rng(0)
    source = random.integers(3, 23, (2, 7)).astype(np.int32)
    source[1, 4:] = 0
    target = random.integers(3, 23, (2, 6)).astype(np.int32)
    return model, random_variables(model, (1, 1)), source, target


def test_a_later_token_changes_nothing_before_it(example):
    model, variables, source, target = example
    before = np.asarray(compiled(model)(variables, source, target))
    for j in range(1, target.shape[1]):
        other = target.copy()
        other[:, j] = 3 + (other[:, j] + 1) % 20
        after = np.asarray(compiled(model)(variables, source, other))
        np.testing.assert_array_equal(after[:, :j], before[:, :j])
        assert (after[:, j] != before[:, j]).any()


def test_more_padding_of_the_source_changes_nothing(example):
    model, variables, source, target = example
    padded = np.pad(source, ((0, 0), (0, 5)))
    found = compiled(model)(variables, padded, target)
    expected = compiled(model)(variables, source, target)
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    alone = compiled(model)(variables, source[1:, :4], target[1:])
    np.testing.assert_allclose(alone[0], expected[1], atol=1e-6 * np.abs(expected).max())
    no_mask = model.clone(pad=22)  # as it would be if nothing were hidden
    assert np.abs(compiled(no_mask)(variables, padded, target) - expected).max() > 1e-3


def test_an_empty_source_gives_numbers(example):
    model, variables, source, target = example
    nothing = np.zeros_like(source)
    assert np.isfinite(compiled(model)(variables, nothing, target)).all()


@pytest.mark.parametrize(
    "fields",
    [{}, pytest.param({"pre_norm": True, "tied": False}, marks=pytest.mark.slow)],
    ids=str,
)
def test_gradients_reach_every_parameter(example, fields):
    _, _, source, target = example
    model = tiny(num_layers=1, **fields)
    variables = random_variables(model, (1, 1))
    source = np.concatenate([source, np.zeros_like(source[:1])])  # one of nothing but padding
    target = np.concatenate([target, target[:1]])

    def loss(variables):
        logits = model.apply(variables, source, target)[:, :-1]
        return token_losses.smoothed_torch(logits, target[:, 1:]).mean()

    grads = jax.jit(jax.grad(loss))(variables)["params"]
    for name, leaf in traverse_util.flatten_dict(grads, sep="/").items():
        assert np.isfinite(leaf).all(), name
        # Keys' biases add the same to all scores of a query.
        least = 0 if name.endswith("key/bias") else 1e-7
        assert np.abs(leaf).max() >= least, name


def test_without_a_mask_or_positions(example):
    """What the failing signatures of training stand on."""
    model, variables, source, target = example
    other = target.copy()
    other[:, -1] = 3
    peeking = model.clone(causal=False)
    one, two = (compiled(peeking)(variables, source, each) for each in (target, other))
    assert np.abs(one[:, 0] - two[:, 0]).max() > 1e-3
    bag = model.clone(positions=False)
    turned = np.concatenate([source[:1, ::-1]])
    one, two = (compiled(bag)(variables, each, target[:1]) for each in (source[:1], turned))
    np.testing.assert_allclose(one, two, atol=1e-5)
    one, two = (compiled(model)(variables, each, target[:1]) for each in (source[:1], turned))
    assert np.abs(one - two).max() > 1e-3


def test_scanned_blocks_compute_the_same(example):
    _, _, source, target = example
    plain = tiny()
    variables = random_variables(plain, (1, 1))
    scanned = plain.clone(scan=True)
    own = tree.stack(variables)
    shapes = jax.eval_shape(scanned.init, jax.random.key(0), source, target)
    tree.check(own["params"], shapes["params"])
    jax.tree.map(np.testing.assert_array_equal, tree.unstack(own), variables)
    found = compiled(scanned)(own, source, target)
    np.testing.assert_allclose(found, compiled(plain)(variables, source, target), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields", [{"scan": True}, {"remat": True}, {"scan": True, "remat": True}], ids=str
)
def test_scanned_and_recomputed_blocks_have_the_same_gradients(example, fields):
    _, _, source, target = example
    plain = tiny(pre_norm=True)
    other = plain.clone(**fields)
    variables = random_variables(plain, (1, 1))
    own = tree.stack(variables) if other.scan else variables

    def loss(model, variables):
        return (model.apply(variables, source, target) ** 2).mean()

    (one, grads), (two, others) = (
        jax.jit(jax.value_and_grad(functools.partial(loss, model)))(v)
        for model, v in ((plain, variables), (other, own))
    )
    np.testing.assert_allclose(one, two, rtol=1e-5)
    most = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(grads))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * most),
        tree.unstack(grads), tree.unstack(others),
    )  # fmt: skip


def test_bfloat16_comes_close(example):
    model, variables, source, target = example
    expected = compiled(model)(variables, source, target)
    half = model.clone(dtype=jnp.bfloat16)
    found = compiled(half)(variables, source, target)
    assert found.dtype == jnp.float32
    error = np.abs(found - expected).max() / expected.std()
    assert 1e-4 < error < 0.1


@pytest.mark.slow
def test_steps_in_bfloat16(example):
    model, variables, source, target = example
    half = model.clone(dtype=jnp.bfloat16)
    expected = compiled(half)(variables, source, target)
    found, _ = steps(half, variables, source, target, length=6)
    assert np.abs(found - expected).max() / expected.std() < 0.1


def test_initial_values():
    model = tiny(hidden_size=64, tied=False, num_heads=2, num_layers=1)
    variables = jax.jit(model.init)(jax.random.key(0), *(jnp.ones((1, 4), int),) * 2)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    np.testing.assert_allclose(flat["token_embedding"].std(), 64**-0.5, rtol=0.05)
    for name, leaf in flat.items():
        if name.endswith("kernel"):
            sides = leaf.reshape(64, -1).shape if leaf.ndim == 3 else leaf.shape
            bound = (6 / sum(sides)) ** 0.5  # Xavier's
            assert 0.9 * bound < np.abs(leaf).max() <= bound, name
        elif name != "token_embedding":
            np.testing.assert_allclose(leaf, float(name.endswith("scale")), atol=1e-5)


@pytest.mark.slow
def test_dropout_needs_training_and_differs_by_key(example):
    model, variables, source, target = example
    model = model.clone(dropout_rate=0.5, attention_dropout_rate=0.5)
    apply = jax.jit(functools.partial(model.apply, train=True))
    one, two, again = (
        apply(variables, source, target, rngs={"dropout": jax.random.key(seed)})
        for seed in (0, 1, 0)
    )
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - two).max() > 1e-2
    undisturbed = compiled(model)(variables, source, target)
    np.testing.assert_array_equal(undisturbed, compiled(example[0])(variables, source, target))


@pytest.mark.parametrize("scan", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_attention_is_there_to_be_seen(example, scan):
    _, _, source, target = example
    model = tiny(scan=scan)
    variables = random_variables(model, (1, 1))
    apply = jax.jit(functools.partial(model.apply, mutable="intermediates"))
    _, seen = apply(variables, source, target)
    flat = traverse_util.flatten_dict(tree.unstack(seen["intermediates"]), sep="/")
    shapes = {
        "encoder/encoderblock_1/self_attention/attention": (2, 4, 7, 7),
        "decoder/decoderblock_1/self_attention/attention": (2, 4, 6, 6),
        "decoder/decoderblock_1/cross_attention/attention": (2, 4, 6, 7),
    }
    assert len(flat) == 6
    for name, shape in shapes.items():
        (found,) = flat[name]
        assert found.shape == shape
        np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=1e-5)
        if "decoder/decoderblock_1/self" in name:
            assert not np.triu(found, 1).any()
        else:
            assert not found[1, ..., 4:].any()


def test_names_in_pytorch_both_ways_and_sizes_read_off_them(golden):
    for fields in (*FORMS.values(), {"tied": False, "pre_norm": True}):
        model = tiny(**fields, num_layers=1)
        variables = random_variables(model, (1, 1))
        state_dict = torch.to_state_dict(variables, model)
        assert set(state_dict) <= set(json.loads(str(golden["names"])))
        back = torch.from_state_dict(state_dict, model)
        jax.tree.map(np.testing.assert_array_equal, back, variables)
        deep = Transformer(**Transformer.deepest)
        shapes, known = torch.shapes_by_our_names(state_dict, deep)
        assert known == 1
        read = Transformer.fields_in(shapes)
        expected = model.values_of(read)
        expected["final_norm"] = True
        assert read == {k: expected[k] for k in read}
        assert ("final_norm" in read) == bool(model.final_norm or model.pre_norm)


@pytest.mark.slow
def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="hidden_size=30 must be even, and divisible by"):
        tiny(hidden_size=30).init(jax.random.key(0), *(jnp.ones((1, 4), int),) * 2)
    variables = random_variables(tiny(), (1, 1))
    with pytest.raises(ValueError, match=r"source must be tokens of shape \(b, n\), not \(4,\)"):
        tiny().apply(variables, jnp.ones(4, int), jnp.ones((1, 4), int))
    with pytest.raises(ValueError, match=r"target must be tokens of shape \(b, n\), not \(1, 0\)"):
        tiny().apply(variables, jnp.ones((1, 4), int), jnp.ones((1, 0), int))


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_of_pytorch_s_names_says_what_it_is_of(tmp_path, tied):
    """Of nn.Transformer with its norms at the end, of PyTorch's epsilon."""
    model = tiny(final_norm=True, num_layers=1, tied=tied)
    variables = random_variables(model, (1, 1))
    path = tmp_path / "a.safetensors"
    torch.write(path, torch.to_state_dict(variables, model))
    read = weights_files.read(path)
    match = identify.find_relative(read)
    assert match.name == "Transformer-base"
    assert not match.problem
    assert match.untold == ("num_heads",)
    sizes = {k: v for k, v in TINY.items() if k not in ("num_heads", "norm_epsilon")}
    expected = {**sizes, "num_layers": 1, "final_norm": True}
    assert match.fields == (expected if tied else {**expected, "tied": False})
    assert read.unseen_fields(model) == {"norm_epsilon": 1e-5}
    with pytest.raises(ValueError, match="does not say with which pre_norm it was trained"):
        pretrained.load(path, "Transformer-base", {**match.fields, "num_heads": 4})
