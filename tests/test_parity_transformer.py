"""Comparison of the Transformer with torch.nn.Transformer: make parity."""

import importlib

import jax
import numpy as np
import pytest

from checkpoints import torch as torch_format
from tests.helpers import random_variables
from vit_jax.models import get_model

pytestmark = pytest.mark.parity

TINY = dict(
    vocabulary_size=29, hidden_size=24, num_layers=2, num_heads=3, mlp_dim=40, norm_epsilon=1e-5
)


@pytest.fixture(scope="module")
def torch():
    return importlib.import_module("torch")


def theirs(torch, pre_norm, activation, state_dict):
    """PyTorch's module with our weights, every one of which it must have a place for."""
    module = torch.nn.Transformer(
        24, 3, 2, 2, 40, dropout=0.0, activation=activation, batch_first=True, norm_first=pre_norm
    ).eval()
    own = {k: torch.tensor(v) for k, v in state_dict.items() if k.startswith(("enc", "dec"))}
    module.load_state_dict(own, strict=True)
    return module


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("pre_norm", [False, True])
def test_both_ways(torch, pre_norm, activation, monkeypatch):
    # The fast path of nested tensors leaves zeros at padding.
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    model = get_model(
        "Transformer-base", **TINY, pre_norm=pre_norm, final_norm=True, activation=activation
    )
    variables = random_variables(model, (1, 1))
    state_dict = torch_format.to_state_dict(variables, model)
    module = theirs(torch, pre_norm, activation, state_dict)
    random = np.random.default_rng(0)
    source, target = (random.integers(3, 29, (3, n)).astype(np.int32) for n in (8, 6))
    source[1, 5:] = 0
    source[2, 1:] = 0

    embedding = torch.tensor(state_dict["embedding.weight"])
    table = torch.tensor(np.array(_sinusoids(8, 24)), dtype=torch.float32)
    words, written = (
        embedding[torch.tensor(ids).long()] * 24**0.5 + table[: ids.shape[1]]
        for ids in (source, target)
    )
    padding = torch.tensor(source == 0)
    with torch.no_grad():
        memory = module.encoder(words, src_key_padding_mask=padding)
        states = module(
            words,
            written,
            tgt_mask=torch.nn.Transformer.generate_square_subsequent_mask(6),
            src_key_padding_mask=padding,
            memory_key_padding_mask=padding,
        )
        logits = states @ embedding.T
    apply = jax.jit(
        lambda v: (model.apply(v, source, method="encode"), model.apply(v, source, target))
    )
    for found, expected in zip(apply(variables), (memory.numpy(), logits.numpy()), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())

    trained = {k: v.numpy() for k, v in module.state_dict().items()}
    back = torch_format.from_state_dict(
        {**trained, "embedding.weight": state_dict["embedding.weight"]}, model
    )
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def _sinusoids(length, width):
    """The paper's formula, number by number."""
    return [
        [
            (np.cos if i % 2 else np.sin)(position / 10_000 ** (2 * (i // 2) / width))
            for i in range(width)
        ]
        for position in range(length)
    ]


def test_the_published_form_has_no_norm_at_the_end(torch):
    model = get_model("Transformer-base", **TINY)
    state_dict = torch_format.to_state_dict(random_variables(model, (1, 1)), model)
    nn = torch.nn
    layer = nn.TransformerEncoderLayer(24, 3, 40)
    module = nn.Transformer(
        24, 3, dropout=0.0, batch_first=True,
        custom_encoder=nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
        custom_decoder=nn.TransformerDecoder(nn.TransformerDecoderLayer(24, 3, 40), 2),
    )  # fmt: skip
    module.load_state_dict(
        {k: torch.tensor(v) for k, v in state_dict.items() if k != "embedding.weight"}, strict=True
    )
