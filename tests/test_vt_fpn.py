import functools

import jax
import numpy as np
import pytest

from tests.helpers import noise
from vit_jax.models import vt_fpn

SIDES = ((8, 12), (4, 6), (2, 3), (1, 2))
TINY = dict(features=8, num_tokens=2, token_dim=6)


def make_maps(seed=0):
    return [noise((1, *sides, 4 * 2**i), seed + i) for i, sides in enumerate(SIDES)]


def draw(module, seed=0):
    """Variables of a module for these maps."""
    shapes = jax.eval_shape(module.init, jax.random.key(0), make_maps())
    leaves, tree = jax.tree.flatten(shapes)
    return tree.unflatten([noise(leaf.shape, seed + i) for i, leaf in enumerate(leaves)])


def apply(module, variables, maps):
    return jax.jit(functools.partial(module.apply))(variables, maps)


def test_levels_hear_of_each_other_through_their_tokens_alone():
    """Without the tokens that the Transformer takes from other levels each stands for itself."""
    neck = vt_fpn.VTNeck(**TINY)
    maps = make_maps()
    variables = draw(neck)
    before = apply(neck, variables, maps)
    assert [x.shape for x in before] == [(1, *sides, 8) for sides in SIDES]
    changed = apply(neck, variables, [*maps[:3], maps[3] + 1.0])
    for old, new in zip(before, changed):
        assert np.abs(new - old).max() > 1e-5

    params = dict(variables["params"])
    params["transformer"] = jax.tree.map(np.zeros_like, params["transformer"])
    alone = {"params": params}  # the tokens pass as they are
    before, changed = (apply(neck, alone, x) for x in (maps, [*maps[:3], maps[3] + 1.0]))
    for old, new in zip(before[:3], changed[:3]):
        np.testing.assert_array_equal(old, new)
    assert np.abs(changed[3] - before[3]).max() > 1e-3


@pytest.mark.slow
def test_it_is_made_of_the_modules_of_a_visual_transformer():
    """Level by level, with the kernels alone; maps are of order 1."""
    neck = vt_fpn.VTNeck(**TINY)
    maps = make_maps()
    variables = draw(neck)
    p = jax.tree.map(np.asarray, variables["params"])

    def kernel(module, layer):
        return p[module][layer]["kernel"]

    levels = [
        x @ p[f"lateral{i}"]["kernel"][0, 0] + p[f"lateral{i}"]["bias"] for i, x in enumerate(maps)
    ]
    flat = [x.reshape(1, -1, 8) for x in levels]
    tokens = []
    for i, x in enumerate(flat):
        weights = jax.nn.softmax(x @ kernel(f"tokenizer{i}", "filter"), axis=1)
        tokens.append(np.swapaxes(weights, 1, 2) @ (x @ kernel(f"tokenizer{i}", "value")))
    t = np.concatenate(tokens, axis=1)
    scores = (t @ kernel("transformer", "key")) @ np.swapaxes(
        t @ kernel("transformer", "query"), 1, 2
    )
    t = t + jax.nn.softmax(scores / 6**0.5, axis=-1) @ (t @ kernel("transformer", "value"))
    t = t + np.maximum(t @ kernel("transformer", "fc1"), 0) @ kernel("transformer", "fc2")
    for i, found in enumerate(apply(neck, variables, maps)):
        own, name = t[:, 2 * i : 2 * i + 2], f"projector{i}"
        scores = (flat[i] @ kernel(name, "query")) @ np.swapaxes(own @ kernel(name, "key"), 1, 2)
        added = jax.nn.softmax(scores / 8**0.5, axis=-1) @ (own @ kernel(name, "value"))
        expected = levels[i] + np.asarray(added).reshape(levels[i].shape)
        np.testing.assert_allclose(found, expected, atol=2e-5)


@pytest.mark.slow
def test_the_decoder_has_logits_gradients_and_names():
    decoder = vt_fpn.VTFPN(3, head_features=32, **TINY)
    maps = make_maps()
    variables = draw(decoder)

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        out = decoder.apply({"params": params}, maps, train=True)
        return (out**2).sum(), out

    (_, out), grads = loss(variables["params"])
    assert out.shape == (1, *SIDES[0], 3)
    assert out.dtype == np.float32
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert np.isfinite(grad).all()
        assert np.abs(grad).max() > 0, jax.tree_util.keystr(path)
    names = vt_fpn.VTFPN.torch_names(4)
    leaves = {
        jax.tree_util.keystr(path[:-1], simple=True, separator="/")
        for path, _ in jax.tree_util.tree_leaves_with_path(variables["params"])
    }
    assert leaves == names.keys()
    assert len(set(names.values())) == len(names)


def test_at_its_full_size_it_has_as_many_parameters_as_said():
    """Of the pyramid on a ResNet-50: 1x1 convolutions, four tokenizers and projectors, and one
    Transformer of five square matrices."""
    neck = vt_fpn.VTNeck()
    maps = [
        jax.ShapeDtypeStruct((1, 8 // 2**i, 8 // 2**i, 256 * 2**i), np.float32) for i in range(4)
    ]
    shapes = jax.eval_shape(neck.init, jax.random.key(0), maps)
    lateral = 256 * (256 + 512 + 1024 + 2048) + 4 * 256
    level = 256 * 8 + 256 * 1024 + 256 * 256 + 2 * 1024 * 256
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == lateral + 4 * level + 5 * 1024**2 == 9_643_008


def test_wrong_settings():
    with pytest.raises(ValueError, match="num_tokens must be at least 1, not 0"):
        jax.eval_shape(vt_fpn.VTNeck(num_tokens=0).init, jax.random.key(0), make_maps())
