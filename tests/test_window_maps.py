"""Attention within windows, against a computation with a matrix of all pixels by all."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import TINY_DEHAZEFORMER, TINY_SWIN, TINY_SWINIR, noise, random_params
from vit_jax import attention_maps
from vit_jax.ops import window_maps
from vit_jax.ops.windows import window_weights

# Image, and fields. Neither windows nor merging divide the maps.
SWIN = ("Swin-T", (30, 44), dict(TINY_SWIN, num_classes=5))
DENSE = ("Swin-T", (30, 44), dict(TINY_SWIN, num_classes=5, dense=True))
SWINIR = ("SwinIR-lightweight-x2", (9, 14), TINY_SWINIR)
DEHAZEFORMER = (
    "DehazeFormer-T", (26, 35), dict(TINY_DEHAZEFORMER, attention_ratios=(0, 1, 1, 0, 0)),
)  # fmt: skip
CASES = {"swin": SWIN, "dense": DENSE, "swinir": SWINIR, "dehazeformer": DEHAZEFORMER}


def look(name, size, fields):
    """The maps, and what the modules gave, by name."""
    model, params = random_params(name, size, **fields)
    images = noise((2, *size, 3))

    def run(params):
        maps = attention_maps.attention_maps(model, {"params": params}, images)
        return maps, model.apply({"params": params}, images, capture_intermediates=True)[1]

    maps, state = jax.jit(run)(params)
    return jax.device_get(maps), state["intermediates"], params


def pixels_of(x, window, shift, pads_first):
    """(h, w) numbers of the pixels where the windows see them; -1 is padding."""
    border = [(0, -side % w) for side, w in zip(x.shape, window)]
    if pads_first:
        return np.roll(np.pad(x, border, constant_values=-1), [-s for s in shift], (0, 1))
    return np.pad(np.roll(x, [-s for s in shift], (0, 1)), border, constant_values=-1)


def biases_of(table, window):
    """(heads, n, n) biases of the n pixels of a window."""
    h, w = window
    out = np.zeros((table.shape[1], h, w, h, w))
    for i, j, k, m in np.ndindex(h, w, h, w):
        out[:, i, j, k, m] = table[(i - k + h - 1) * (2 * w - 1) + j - m + w - 1]
    return out.reshape(-1, h * w, h * w)


def full_attention(qkv, bias, window, shift=(0, 0)):
    """(b, heads, H W, H W) weights of all pixels to all, most of which windows and masks hide."""
    b, height, width, _ = qkv.shape
    q, k, _ = np.moveaxis(qkv.reshape(b, height * width, 3, len(bias), -1), 2, 0)
    scores = np.einsum("bqhc,bkhc->bhqk", q, k) / np.sqrt(q.shape[-1])
    grid = np.mgrid[:height, :width].reshape(2, -1)
    inside = grid[0] % window[0] * window[1] + grid[1] % window[1]
    scores = scores + bias[:, inside[:, None], inside]
    for axis, side, w, s in zip(grid, (height, width), window, shift):
        region = (axis >= side - w).astype(int) + (axis >= side - s) if s else 0 * axis
        for of_pixel in (axis // w, region):
            scores = np.where(of_pixel[:, None] == of_pixel, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def over_pixels(weights, queries, keys, count):
    """(b, heads, count, count) of those who ask, summed over what shows the same pixel."""
    out = np.zeros((*weights.shape[:2], count, count))
    for query, pixel in enumerate(queries.ravel()):
        for key, seen in enumerate(keys.ravel()):
            if pixel >= 0 and seen >= 0:
                out[:, :, pixel, seen] += weights[:, :, query, key]
    return out


def given(state, block, *names):
    (out,) = functools.reduce(lambda tree, name: tree[name], names, state[block])["__call__"]
    return np.asarray(out)


def swin(state, params, stage, i, is_dense):
    block = f"stage{stage}_block{i}"
    h, w = [(8, 11), (4, 6)][stage]
    window, shift = (3, 3), (i, i)
    bias = biases_of(params[block]["attn"]["relative_position_bias_table"], window)
    pixels = pixels_of(np.arange(h * w).reshape(h, w), window, shift, is_dense)
    weights = full_attention(given(state, block, "attn", "qkv"), bias, window, shift)
    return over_pixels(weights, pixels, pixels, h * w)


def swinir(state, params, i):
    (h, w), block, window, shift = SWINIR[1], f"group0_block{i}", (4, 4), (2 * i, 2 * i)
    bias = biases_of(params[block]["attn"]["relative_position_bias_table"], window)
    pixels = np.arange(h * w).reshape(h, w)
    border = [(0, -side % 4) for side in (h, w)]
    keys = np.roll(np.pad(pixels, border, mode="reflect"), [-s for s in shift], (0, 1))
    queries = pixels_of(pixels, window, shift, pads_first=True)
    weights = full_attention(given(state, block, "attn", "qkv"), bias, window, shift)
    return over_pixels(weights, queries, keys, h * w)


def dehazeformer(state, stage, i):
    """Of images of 26 x 35 pixels, mirrored to 28 x 36, the maps of half as many."""
    block, begin = f"layer{stage}_block{i}", 4 * i
    h, w = [(14, 18), (7, 9)][stage - 2]
    parts = (given(state, block, "attn", name) for name in ("QK", "V"))
    border = [(begin, -(begin + side) % 8) for side in (h, w)]
    qkv = np.pad(np.concatenate([*parts], -1), [(0, 0), *border, (0, 0)], mode="reflect")
    weights = full_attention(qkv, given(state, block, "attn", "attn")[0], (8, 8))
    pixels = np.arange(h * w).reshape(h, w)
    queries = np.pad(pixels, border, constant_values=-1)
    return over_pixels(weights, queries, np.pad(pixels, border, mode="reflect"), h * w)


def expected_of(case, state, params):
    """Full matrices of the layers."""
    if case == "swinir":
        return [swinir(state, params, i) for i in (0, 1)]
    if case == "dehazeformer":
        return [dehazeformer(state, *block) for block in ((2, 0), (2, 1), (3, 0))]
    blocks = ((0, 0), (0, 1), (1, 0), (1, 1))
    return [swin(state, params, *block, is_dense=case == "dense") for block in blocks]


@pytest.fixture(scope="module")
def computed():
    """Of a case, once: maps and full matrices."""
    found = {}

    def compute(case):
        if case not in found:
            maps, state, params = look(*CASES[case])
            found[case] = maps, expected_of(case, state, params)
        return found[case]

    return compute


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_maps_are_those_of_all_pixels_to_all(case, computed):
    maps, full = computed(case)
    assert len(maps) == len(full)
    for layer, expected in zip(maps, full):
        b, heads = expected.shape[:2]
        h, w = layer.size
        assert h * w == expected.shape[-1]
        np.testing.assert_allclose(layer.weights.sum(-1), 1, atol=1e-6)
        for row, column in ((0, 0), (h - 1, w - 1), (h // 2, w // 3), (h - 2, 1)):
            of_one = expected[:, :, row * w + column].reshape(b, heads, h, w)
            found = np.asarray(layer.at(row, column))
            np.testing.assert_allclose(found, of_one, atol=2e-6)
            assert np.all(found[of_one == 0] < 1e-30)  # other windows, and what a mask hides
        received = expected.sum(axis=2).reshape(b, heads, h, w)
        np.testing.assert_allclose(layer.received(), received, atol=2e-5)
        if case in ("swinir", "dehazeformer"):  # which have no padding but mirror images
            np.testing.assert_allclose(np.mean(received, axis=(2, 3)), 1, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_rollout_is_the_product_of_the_matrices(case, computed):
    maps, full = computed(case)
    layers = [(m.mean(axis=1) + np.eye(m.shape[-1])) / 2 for m in full]
    h, w = maps[-1].size
    total = np.full((2, 1, h * w), 1 / (h * w))
    of_one = np.zeros((2, h, w))
    of_one[:, 1, 2] = 1
    asked = of_one.reshape(2, 1, h * w)
    for i in reversed(range(len(layers))):
        total, asked = total @ layers[i], asked @ layers[i]
        if i and maps[i - 1].size != maps[i].size:
            merged = merging(maps[i - 1].size)
            total, asked = total @ merged, asked @ merged
    found = window_maps.window_rollout(maps)
    np.testing.assert_allclose(found, total.reshape(found.shape), atol=1e-7)
    found = window_maps.window_rollout(maps, of_one)
    np.testing.assert_allclose(found, asked.reshape(found.shape), atol=1e-6)


def merging(size):
    """(h w / 4, h w): each merged pixel draws on those that there are of its 2 x 2."""
    h, w = size
    height, width = -(-h // 2), -(-w // 2)
    out = np.zeros((height * width, h * w))
    for i in range(h * w):
        out[i // w // 2 * width + i % w // 2, i] = 1
    return out / out.sum(axis=1, keepdims=True)


def test_what_swin_looks_at():
    """What its head averages: all of the last map alike."""
    name, size, fields = SWIN
    model, params = random_params(name, size, **fields)
    rolled, heads = jax.jit(functools.partial(attention_maps.look, model))(
        {"params": params}, noise((2, *size, 3))
    )
    maps, *_ = look(*SWIN)
    np.testing.assert_allclose(rolled, window_maps.window_rollout(maps), atol=1e-6)
    of_each = [[maps[-1].at(row, column) for row in range(4)] for column in range(6)]
    expected = np.mean(of_each, axis=(0, 1)).reshape(2, 4, 24) @ merging((8, 11))
    np.testing.assert_allclose(heads, expected.reshape(2, 4, 8, 11), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["swin", "swinir"])
def test_looking_changes_nothing(case):
    name, size, fields = CASES[case]
    fields = dict(fields, depths=(2,), num_heads=(2,))
    model, params = random_params(name, size, **fields)
    images = noise((1, *size, 3))
    seen, state = model.apply({"params": params}, images, mutable=["intermediates"])
    np.testing.assert_array_equal(seen, model.apply({"params": params}, images))
    assert len(jax.tree.leaves(state)) == 2
    assert jax.eval_shape(model.init, jax.random.key(0), images).keys() == {"params"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "overrides"), [("swin", {"remat": True}), ("dehazeformer", {"part_side": 8})]
)
def test_what_saves_memory_shows_the_same(case, overrides, computed):
    maps, _ = computed(case)
    name, size, fields = CASES[case]
    others, *_ = look(name, size, fields | overrides)
    assert len(others) == len(maps)
    for other, layer in zip(others, maps):
        np.testing.assert_allclose(other.at(1, 2), layer.at(1, 2), atol=1e-6)


def test_half_precision_is_seen_in_full():
    qkv, table = jnp.asarray(noise((1, 4, 4, 3 * 8)), jnp.bfloat16), noise((9, 2), 1)
    weights = window_weights(qkv, table, (2, 2))
    assert weights.dtype == jnp.float32
    expected = full_attention(np.asarray(qkv, np.float32), biases_of(table, (2, 2)), (2, 2))
    first = [0, 1, 4, 5]
    np.testing.assert_allclose(weights[:, 0], expected[:, :, first][..., first], atol=1e-6)


def test_blocks_come_in_their_order():
    """The tenth after the ninth."""
    axis = window_maps.rolled_axis(1, 1, 0)
    blocks = {
        f"stage{i // 11}_block{i % 11}": {
            "attn": {"attention": (window_maps.WindowMaps(np.full((1,) * 5, i), axis, axis),)}
        }
        for i in range(13)
    }

    class Model:
        def apply(self, *args, **kwargs):
            return None, {"intermediates": blocks}

    maps = attention_maps.attention_maps(Model(), {}, np.zeros((1, 1, 1, 3)))
    assert [layer.weights.item() for layer in maps] == list(range(13))


def test_pixels_and_maps_that_are_not_there(computed):
    maps, _ = computed("swin")
    with pytest.raises(ValueError, match=r"no pixel at row 8, column 0 of a map of 8 x 11: rows"):
        maps[0].at(8, 0)
    with pytest.raises(ValueError, match="a map of 4 x 6 does not become one of 8 x 11 by merging"):
        window_maps.window_rollout([maps[3], maps[0]])
