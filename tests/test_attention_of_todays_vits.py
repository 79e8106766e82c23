"""Where the ViTs of today look: with other tokens than patches, rotary positions, biases, norms."""

import jax
import numpy as np
import pytest

from checkpoints import tree
from tests.helpers import noise, random_variables
from tests.todays_vits import CASES, SIZES
from vit_jax import attention_maps
from vit_jax.models import get_model


def small(size=(16, 24), **fields):
    """A ViT of today with variables, all of them noise; and images of (h, w)."""
    model = get_model("ViT-B_16", **{**SIZES, **fields, "patch_size": 8})
    return model, random_variables(model, size), noise((2, *size, 3))


@pytest.mark.parametrize("kind", CASES)
def test_of_todays_vits_the_weights_are_those_that_the_model_uses(kind):
    """By them, the values give what each layer gives; also of scanned blocks."""
    model, variables, images = small(**CASES[kind])

    def run(variables, images):
        maps = attention_maps.attention_maps(model, variables, images)
        return maps, model.apply(variables, images, capture_intermediates=True)[1]

    maps, state = jax.device_get(jax.jit(run)(variables, images))
    others = sum(model._other_tokens.values())
    assert maps.shape == (2, 2, 3, 6 + others, 6 + others)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
    for i, weights in enumerate(maps):
        name = "MultiHeadDotProductAttention_1"
        block = state["intermediates"]["Transformer"][f"encoderblock_{i}"][name]
        (values,), (given,) = block["value"]["__call__"], block["__call__"]
        out = variables["params"]["Transformer"][f"encoderblock_{i}"][name]["out"]
        expected = np.einsum("bhnm,bmhk,hkd->bnd", weights, values, out["kernel"]) + out["bias"]
        np.testing.assert_allclose(given, expected, atol=2e-5 * expected.std())
    scanned = model.clone(scan=True)
    found = jax.jit(lambda *args: attention_maps.attention_maps(scanned, *args))(
        tree.stack(variables), images
    )
    np.testing.assert_allclose(found, maps, atol=1e-5)


@pytest.mark.parametrize("kind", CASES)
def test_of_todays_vits_patches_alone_are_drawn(kind):
    """In the place where each is, weighted by who of all tokens the head sees."""
    model, variables, images = small(**CASES[kind])
    look = jax.jit(
        lambda *args: (
            attention_maps.look(model, *args),
            attention_maps.attention_maps(model, *args),
        )
    )
    (rolled, heads), maps = jax.device_get(look(variables, images))
    n = maps.shape[-1]
    if model.classifier == "map":
        assert heads.shape == (2, 3, 2, 3)
        np.testing.assert_allclose(heads.sum((2, 3)), 1, atol=1e-5)
        return
    seen = np.zeros(n)
    if model.classifier == "gap":
        seen[-6:] = 1 / 6
    else:
        seen[: 1 + model.distillation_token] = 1 / (1 + model.distillation_token)
    expected = np.einsum("n,bhnm->bhm", seen, maps[-1])[..., -6:]
    np.testing.assert_allclose(heads, expected.reshape(2, 3, 2, 3), atol=1e-6)
    layers = [(weights.mean(axis=1) + np.eye(n)) / 2 for weights in maps]
    expected = (seen @ (layers[1] @ layers[0]))[:, -6:]
    np.testing.assert_allclose(rolled, expected.reshape(2, 2, 3), atol=1e-6)
