"""What the encoder's blocks have for towers of texts, and what the head of a ViT may see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.helpers import TINY, noise, random_variables
from vit_jax import ops
from vit_jax.models import get_model
from vit_jax.models.attention import MultiHeadAttention
from vit_jax.models.encoder import Encoder

MASK = np.array([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0]], bool)


@pytest.mark.parametrize(
    ("mask", "causal", "length"),
    [(None, True, None), (MASK, False, None), (MASK, True, None), (None, False, 3)],
)
def test_attention_with_dropout_hides_the_same(mask, causal, length):
    """It takes another implementation, and so do the weights that are looked at."""
    x = noise((2, 5, 8))
    still = MultiHeadAttention(num_heads=2, causal=causal)
    variables = still.init(jax.random.key(0), x, x)
    hidden = {"mask": mask, "length": length}
    expected, state = still.apply(variables, x, x, **hidden, mutable=["intermediates"])
    np.testing.assert_allclose(expected, still.apply(variables, x, x, **hidden), atol=1e-6)
    rngs = {"dropout": jax.random.key(1)}
    dropping = still.clone(attention_dropout_rate=1e-7, deterministic=False)
    found = dropping.apply(variables, x, x, **hidden, rngs=rngs)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    (seen,) = state["intermediates"]["attention"]
    allowed = np.tri(5, dtype=bool) if causal else np.ones((5, 5), bool)
    allowed = allowed & (np.arange(5) < (length or 5))
    first = allowed if mask is None else allowed & MASK[0]
    assert np.all((np.asarray(seen[0]) > 0) == first)


def encoder(**fields):
    fields = {**dict(num_layers=2, num_heads=2, mlp_dim=24, grid=(1, 7)), **fields}
    return Encoder(position_embedding="none", **fields)


@pytest.mark.parametrize("scan", [False, True])
def test_a_causal_encoder_does_not_see_what_comes_after(scan):
    model = encoder(causal=True, scan=scan)
    x = noise((1, 7, 16))
    changed = x.copy()
    changed[:, 4:] += noise((1, 3, 16), 1)
    variables = jax.jit(model.init)(jax.random.key(0), x)
    before, after = (np.asarray(jax.jit(model.apply)(variables, y)) for y in (x, changed))
    np.testing.assert_allclose(after[:, :4], before[:, :4], atol=1e-6)
    assert np.abs(after[:, 4:] - before[:, 4:]).max() > 0.1


@pytest.mark.slow
def test_a_causal_encoder_is_padded_to_an_even_number_of_tokens_alike(monkeypatch):
    """As where attention is fused, with the tokens that fill up being hidden."""
    x = noise((1, 7, 16))
    model = encoder(causal=True, deterministic=False)
    variables = model.init(jax.random.key(0), x)
    expected = model.apply(variables, x)
    seen, attention = set(), ops.attention

    def seeing(q, k, v, **kwargs):
        seen.add((q.shape[1], kwargs["length"], kwargs["causal"]))
        return attention(q, k, v, **kwargs)

    monkeypatch.setattr(ops, "fuses_attention", lambda q: True)
    monkeypatch.setattr(ops, "attention", seeing)
    jax.clear_caches()  # of blocks that were traced before
    np.testing.assert_allclose(model.apply(variables, x), expected, atol=1e-6)
    assert seen == {(8, 7, True)}


def test_the_norm_before_the_blocks_and_the_epsilon_of_all():
    """Of tokens of a deviation of 1e-3, an epsilon of 1e-5 is felt by every norm."""
    x = 1e-3 * noise((1, 7, 16))
    plain, model = (encoder(num_layers=0, pre_norm=pre, norm_epsilon=1e-5) for pre in (False, True))
    variables = model.init(jax.random.key(0), x)
    assert set(variables["params"]) == {"pre_norm", "encoder_norm"}

    def norm(x):
        centred = x - x.mean(axis=-1, keepdims=True)
        return centred / np.sqrt(centred.var(axis=-1, keepdims=True) + 1e-5)

    np.testing.assert_allclose(model.apply(variables, x), norm(norm(x)), atol=1e-5)
    np.testing.assert_allclose(plain.apply(variables, x), norm(x), atol=1e-5)


def test_what_a_head_sees():
    """A dense layer with tanh, linear or without a bias, and its direction alone."""
    images = noise((2, 8, 8, 3))

    def features(**fields):
        model = get_model("ViT-Ti_16", **TINY, num_classes=0, representation_size=5, **fields)
        variables = random_variables(model, (8, 8))
        return variables["params"], np.asarray(jax.jit(model.apply)(variables, images))

    params, linear = features(representation="linear")
    _, tanh = features()
    np.testing.assert_allclose(tanh, np.tanh(linear), atol=1e-6)
    _, cosine = features(representation="linear", cosine=True)
    unit = linear / np.linalg.norm(linear, axis=1, keepdims=True)
    np.testing.assert_allclose(cosine, unit, atol=1e-6)
    fewer, projected = features(representation="projection", patch_bias=False)
    assert set(fewer["pre_logits"]) == {"kernel"}
    assert set(fewer["embedding"]) == {"kernel"}
    assert projected.shape == (2, 5)
    model = get_model("ViT-Ti_16", **TINY, num_classes=0, representation_size=5,
                      representation="projection")  # fmt: skip
    variables = {**params, "pre_logits": {"kernel": params["pre_logits"]["kernel"]}}
    found = jax.jit(model.apply)({"params": variables}, images)
    np.testing.assert_allclose(found + params["pre_logits"]["bias"], linear, atol=1e-5)
    with pytest.raises(ValueError, match="representation='relu' is not one of"):
        model.clone(representation="relu").init(jax.random.key(0), jnp.ones((1, 8, 8, 3)))


@pytest.mark.parametrize(("old", "new"), [((8, 6), (4, 3)), ((4, 5), (9, 5))])
def test_positions_that_are_resized_by_a_bicubic_filter(old, new):
    """It is Pillow's, which is antialiased."""
    table = noise((1, old[0] * old[1], 3))
    found = np.asarray(ops.resize_position_embedding(table, old, new, "bicubic"))
    for channel in range(3):
        image = Image.fromarray(table[0, :, channel].reshape(old))
        expected = np.asarray(image.resize(new[::-1], Image.BICUBIC))
        np.testing.assert_allclose(found[0, :, channel].reshape(new), expected, atol=1e-5)
