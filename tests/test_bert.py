import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import packages, torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import random_variables
from vit_jax import identify, masked_words, weights
from vit_jax.losses import get_loss
from vit_jax.models import get_model
from vit_jax.models.bert import BertEncoder
from vit_jax.tasks import TASKS

GOLDEN = Path(__file__).parent / "golden" / "bert_small.npz"
TINY = dict(vocabulary_size=60, length=20, hidden_size=48, num_layers=2, num_heads=3, mlp_dim=96)
LOSS = "masked_words + next_sentence"


def tiny(**fields):
    return get_model("BERT-base", **{**TINY, **fields})


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return dict(file)


@pytest.fixture(scope="module")
def state_dict(golden):
    shapes = json.loads(str(golden["names"]))
    return {name: recipe_array(name, shape) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def example():
    """A tiny model, its variables, and tokens, segments and mask of two texts."""
    model = tiny()
    random = np.random.default_rng(0)
    tokens = random.integers(5, 60, (2, 12)).astype(np.int32)
    segments = (np.arange(12) > 5).astype(np.int32) * np.ones((2, 1), np.int32)
    mask = (np.arange(12) < [[12], [7]]).astype(np.int32)
    return model, random_variables(model, (1, 1)), (tokens, segments, mask)


def assert_near(found, expected, what=""):
    np.testing.assert_allclose(found, expected, atol=3e-5 * expected.std(), rtol=0, err_msg=what)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh"])
def test_golden_outputs_and_losses(golden, state_dict, activation):
    model = tiny(activation=activation)
    variables = torch.from_state_dict(state_dict, model)
    inputs = (golden[key] for key in ("input_ids", "token_type_ids", "attention_mask"))
    capture = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    out, state = capture(variables, *inputs)
    expected = {
        name.removeprefix(f"{'gelu_erf' if activation == 'gelu' else activation}/"): array
        for name, array in golden.items()
    }
    inside = state["intermediates"]["encoder"]
    for found, name in (
        (out["states"], "last_hidden_state"),
        (out["pooled"], "pooler_output"),
        (out["words"], "prediction_logits"),
        (out["next"], "seq_relationship_logits"),
        (inside["embedding_norm"]["__call__"][0], "act/embedded"),
        (inside["encoderblock_0"]["__call__"][0][0], "act/layer_0"),
    ):
        assert_near(found, expected[name], name)
    batch = {"words": golden["labels"], "next": golden["next_sentence_label"]}
    counts = (batch["words"] >= 0).sum(axis=1)
    assert len(set(counts)) > 1, "or it would not matter how texts are weighed"
    batch = masked_words.add_weight(jax.random.key(0), batch)
    for loss, name in (("masked_words", "mlm_loss"), (LOSS, "mlm_plus_nsp_loss")):
        found = get_loss(loss, TASKS["masked_words"].losses)(out, batch).mean()
        np.testing.assert_allclose(found, expected[name], rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("BERT-base", (108_891_648, 109_482_240, 110_106_428)),
        ("BERT-large", (334_092_288, 335_141_888, 336_226_108)),
    ],
)
def test_parameter_counts_with_and_without_heads(name, counts):
    for (pooler, heads), count in zip([(False, False), (True, False), (True, True)], counts):
        model = get_model(name, pooler=pooler, heads=heads, scan=True)
        shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((1, 1)))
        assert sum(x.size for x in jax.tree.leaves(shapes)) == count


@pytest.mark.slow
def test_initial_values():
    variables = jax.jit(tiny().init)(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))
    for name, leaf in traverse_util.flatten_dict(variables["params"], sep="/").items():
        if leaf.ndim > 1:
            assert 0 < np.abs(leaf).max() <= 0.04 + 1e-6, name  # two deviations
            assert 0.01 < leaf.std() < 0.02, name
        else:
            np.testing.assert_array_equal(leaf, float(name.endswith("scale")), err_msg=name)


def test_norms_add_next_to_nothing(example):
    """An epsilon of 1e-5 would weigh more than the variance of small embeddings."""
    _, variables, (tokens, segments, _) = example
    encoder = BertEncoder("gelu", **TINY).clone(num_layers=0)
    params = dict(variables["params"]["encoder"])
    small = {k: 1e-3 * v if k.endswith("_embedding") else v for k, v in params.items()}
    found, expected = (
        jax.jit(encoder.apply)({"params": each}, tokens, segments) for each in (small, params)
    )
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_what_is_masked_or_not_asked_for_does_not_matter(example):
    model, variables, (tokens, segments, mask) = example
    apply = jax.jit(model.apply)
    whole = apply(variables, tokens, segments, mask)
    changed = apply(variables, np.where(mask, tokens, 3), segments, mask)
    np.testing.assert_allclose(whole["states"][1, :7], changed["states"][1, :7], atol=1e-6)
    np.testing.assert_allclose(whole["next"], changed["next"], atol=1e-6)
    assert not np.allclose(whole["states"][1, 7:], changed["states"][1, 7:], atol=0.1)
    alone = apply(variables, tokens[1:, :7], segments[1:, :7])
    np.testing.assert_allclose(alone["words"][0], whole["words"][1, :7], atol=1e-5)
    positions = np.array([[3, 3, 11], [0, 6, 1]], np.int32)
    some = apply(variables, tokens, segments, mask, positions)
    for row in range(2):
        expected = whole["words"][row, positions[row]]
        np.testing.assert_allclose(some["words"][row], expected, atol=1e-5)
    first = apply(variables, tokens, np.zeros_like(tokens), mask)["states"]
    assert not np.allclose(first, whole["states"], atol=0.1)
    np.testing.assert_allclose(apply(variables, tokens, None, mask)["states"], first, atol=1e-6)


def test_every_parameter_learns_and_the_embedding_by_both_ends(example):
    model, variables, (tokens, segments, mask) = example
    batch = {"words": np.array([[7, -1], [8, 9]]), "next": np.array([0, 1])}
    positions = np.array([[2, 0], [1, 4]])
    loss = get_loss(LOSS, TASKS["masked_words"].losses)

    @jax.jit
    def grad_of(variables, positions):
        def total(variables):
            return loss(model.apply(variables, tokens, segments, mask, positions), batch).mean()

        return jax.grad(total)(variables)["params"]

    for name, leaf in traverse_util.flatten_dict(grad_of(variables, positions), sep="/").items():
        assert np.isfinite(leaf).all(), name
        if not name.endswith("key/bias"):  # which moves all scores alike
            assert np.abs(leaf).max() > 1e-6, name
    table = grad_of(variables, positions)["encoder"]["token_embedding"]
    unseen = np.setdiff1d(np.arange(60), tokens)
    assert len(unseen) > 5
    assert (np.abs(table[unseen]).max(axis=1) > 0).all()  # through the decoder alone


def test_scanned_and_recomputed_blocks(example):
    model, variables, inputs = example
    expected = jax.jit(model.apply)(variables, *inputs)["words"]
    scanned = jax.jit(tiny(scan=True, remat=True).apply)(tree.stack(variables), *inputs)
    np.testing.assert_allclose(scanned["words"], expected, atol=1e-5)


def test_dropout(example):
    """After the embeddings and each branch, and of attention's weights: of either kind alone."""
    _, variables, inputs = example
    encoder = {"params": variables["params"]["encoder"]}

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def states(dropout_rate, attention_dropout_rate, key):
        model = BertEncoder("gelu", **TINY).clone(
            num_layers=1, dropout_rate=dropout_rate, attention_dropout_rate=attention_dropout_rate
        )
        return model.apply(encoder, *inputs, train=True, rngs={"dropout": key})

    still = states(0.0, 0.0, jax.random.key(0))
    np.testing.assert_array_equal(still, states(0.0, 0.0, jax.random.key(1)))
    for rates in ((0.1, 0.0), (0.0, 0.1)):
        first, second = (states(*rates, jax.random.key(i)) for i in range(2))
        assert not np.allclose(first, second, atol=0.05), rates
        assert not np.allclose(first, still, atol=0.05), rates


def test_errors(example):
    model, variables, _ = example
    with pytest.raises(ValueError, match=r"n from 1 to 20, .* not \(1, 21\): cut the text"):
        model.apply(variables, np.zeros((1, 21), np.int32))
    with pytest.raises(ValueError, match="hidden_size=48 must be divisible by num_heads=5"):
        tiny(num_heads=5).init(jax.random.key(0), np.zeros((1, 4), np.int32))
    batch = {"words": np.zeros((1, 1), np.int32), "next": np.zeros(1, np.int32)}
    losses = TASKS["masked_words"].losses
    with pytest.raises(ValueError, match=r"set model\.heads to True"):
        losses["masked_words"]({}, batch)
    with pytest.raises(ValueError, match="take next_sentence out of loss and metrics"):
        losses["next_sentence"]({}, batch)
    with pytest.raises(ValueError, match=r"unknown metric 'bleu'; .*there are: masked_accuracy"):
        TASKS["masked_words"].metric("bleu", LOSS)


# Names in PyTorch's files.


def test_names_both_ways(state_dict):
    model = tiny()
    variables = torch.from_state_dict(state_dict, model)
    back = torch.to_state_dict(variables, model)
    assert back.keys() == state_dict.keys()
    for name, array in state_dict.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    bare = torch.to_state_dict(variables, model, "BertModel")
    np.testing.assert_array_equal(
        bare["encoder.layer.1.attention.self.key.weight"],
        state_dict["bert.encoder.layer.1.attention.self.key.weight"],
    )
    jax.tree.map(np.testing.assert_array_equal, torch.from_state_dict(bare, model), variables)


def test_old_files(state_dict):
    """With gamma and beta, the decoder that is the embedding, and numbers of positions."""
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"): array
        for name, array in state_dict.items()
    }
    assert sum("gamma" in name for name in old) == 6
    old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"]
    old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"]
    old["bert.embeddings.position_ids"] = np.arange(20)[None]
    model = tiny()
    expected = torch.from_state_dict(state_dict, model)
    jax.tree.map(np.testing.assert_array_equal, torch.from_state_dict(old, model), expected)


@pytest.mark.slow
def test_relatives_are_recognised(state_dict):
    def relative(arrays):
        return identify.find_relative(weights.Weights("x", arrays, True, None))

    found = relative(state_dict)
    assert (found.name, found.problem, found.is_sure) == ("BERT-base", "", False)
    assert dict(found.fields) == {k: v for k, v in TINY.items() if k != "num_heads"}
    bare = {k.removeprefix("bert."): v for k, v in state_dict.items() if "cls." not in k}
    found = relative(bare)
    assert not found.problem
    assert found.fields["heads"] is False


def test_minilm_in_its_package(monkeypatch, tmp_path):
    row = packages.find("package:minilm-l6")
    model = get_model(row.model, **row.fields)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs((1, 1)))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 22_713_216  # published as 22.7 M
    monkeypatch.setattr("importlib.metadata.distribution", _no_distribution)
    for read in (packages.read, packages.find_vocabulary):
        with pytest.raises(ValueError, match=r"not installed: pip install 'vit_jax\[minilm\]'"):
            read("package:minilm-l6")
    assert packages.find_vocabulary("package:realesrgan-x4plus") == ""


def _no_distribution(name):
    raise packages.importlib.metadata.PackageNotFoundError(name)


# Losses and figures.


def test_the_mean_of_the_weighed_losses_is_that_of_all_masked_words():
    random = np.random.default_rng(0)
    logits = random.normal(size=(4, 3, 7)).astype(np.float32)
    words = np.array([[1, 2, 3], [4, -1, -1], [0, 6, -1], [-1, -1, -1]])
    nll = -np.take_along_axis(
        logits - np.log(np.exp(logits).sum(axis=2, keepdims=True)),
        np.maximum(words, 0)[..., None],
        axis=2,
    )[..., 0]
    expected = nll[words >= 0].mean()
    batch = masked_words.add_weight(jax.random.key(0), {"words": words})
    word_loss = jax.jit(masked_words.word_loss)
    each = word_loss({"words": logits}, batch)
    np.testing.assert_allclose(each.mean(), expected, rtol=1e-6)
    halves = [each[i::2].mean() for i in range(2)]  # micro-batches, of the weight of the whole
    np.testing.assert_allclose(np.mean(halves), expected, rtol=1e-6)
    unweighed = word_loss({"words": logits}, {"words": words})
    np.testing.assert_allclose(unweighed[1], nll[1, 0], rtol=1e-6)
    assert unweighed[3] == 0
    guesses = logits.argmax(axis=2)
    for name, figure in {
        "perplexity": np.exp(expected),
        "masked_accuracy": (guesses == words)[words >= 0].mean(),
    }.items():
        metric = masked_words.FIGURES[name]
        each_of = jax.jit(metric.each)
        each = np.concatenate(  # batch by batch
            [each_of({"words": logits[i : i + 1]}, {"words": words[i : i + 1]})
             for i in range(4)]
        )  # fmt: skip
        np.testing.assert_allclose(metric.finish(each), figure, rtol=1e-5)


def test_next_accuracy():
    out = {"next": np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]])}
    each = masked_words.FIGURES["next_accuracy"].each(out, {"next": np.array([0, 1, 1])})
    np.testing.assert_array_equal(each, [1, 1, 0])
