import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tests.helpers import noise
from vit_jax import ops
from vit_jax.ops import attending, compiling


def test_windows():
    x = noise((2, 6, 9, 5))
    windows = ops.to_windows(x, 3)
    assert windows.shape == (2 * 2 * 3, 9, 5)
    np.testing.assert_array_equal(windows[6 + 4, 5], x[1, 3 + 1, 3 + 2])


def test_pixel_shuffle():
    x = noise((2, 3, 4, 8))
    y = ops.pixel_shuffle(x, 2)
    assert y.shape == (2, 6, 8, 2)
    for c, i, j in np.ndindex(2, 2, 2):
        np.testing.assert_array_equal(y[:, i::2, j::2, c], x[..., 4 * c + 2 * i + j])


def agree(ours, expected, *args):
    """Values and gradients of two functions."""
    np.testing.assert_allclose(ours(*args), expected(*args), rtol=2e-6, atol=1e-5)
    everything = tuple(range(len(args)))
    grads = [
        jax.grad(lambda *args, f=f: jnp.sum(jnp.sin(f(*args))), everything)(*args)
        for f in (ours, expected)
    ]
    close = functools.partial(np.testing.assert_allclose, rtol=2e-6, atol=1e-5)
    jax.tree.map(close, *grads)


@pytest.mark.parametrize(("side", "stride"), [(5, 1), (3, 2), (7, 3)])
def test_depthwise_convolution(side, stride):
    def convolved(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )  # fmt: skip

    ours = functools.partial(ops.depthwise_conv, stride=stride)
    agree(ours, convolved, noise((2, 20, 17, 4)), noise((side, side, 1, 4), 1))


def test_rows(monkeypatch):
    x = noise((2, 3, 4, 5))
    np.testing.assert_array_equal(ops.as_rows(x), x.reshape(24, 5))
    monkeypatch.setattr(ops.compiling, "is_for_cpu", lambda: False)
    assert ops.as_rows(x) is x


@pytest.mark.parametrize(("height", "width", "features"), [(3, 3, 6), (1, 2, 24), (5, 3, 1)])
def test_convolution(height, width, features):
    """Also with the rows more that XLA's choice of library needs on a CPU."""

    def expected(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    agree(ops.conv, expected, noise((2, 9, 8, 20)), 0.2 * noise((height, width, 20, features), 1))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (1, 5), (5, 1), (1, 1), (7, 7)])
def test_convolution_in_a_loop(height, width):
    """Its gradients, which are not left to XLA, are those of the convolution."""

    def expected(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    agree(ops.looped_conv, expected, noise((2, 9, 8, 5)), 0.2 * noise((height, width, 5, 3), 1))


@pytest.mark.parametrize("bias", [None, (1, 2, 5, 7), (3, 2, 5, 7)])
def test_attention(bias):
    """Before the heads are moved: as the function that computes it on accelerators."""
    q, k, v = (noise((3, n, 2, 4), seed) for seed, n in enumerate((5, 7, 7)))
    args = [q, k, v] if bias is None else [q, k, v, noise(bias, 3)]
    agree(ops.attention, jax.nn.dot_product_attention, *args)


MASK = np.array([[1, 1, 0, 1, 0, 1], [0, 0, 1, 0, 1, 1]], bool)


def masked_attention(q, k, v, mask, causal):
    """In float64, query by query."""
    out = np.zeros(q.shape)
    for b, i, head in np.ndindex(q.shape[:3]):
        seen = (np.ones(k.shape[1], bool) if mask is None else mask[b]).copy()
        if causal:
            seen[i + 1 :] = False
        if seen.any():
            scores = np.exp(k[b, seen, head].astype(np.float64) @ q[b, i, head] / 8**0.5)
            out[b, i, head] = scores / scores.sum() @ v[b, seen, head]
    return out


@pytest.mark.parametrize("implementation", [None, "xla"])
@pytest.mark.parametrize(("mask", "causal"), [(None, True), (MASK, False), (MASK, True)])
def test_attention_that_is_masked(implementation, mask, causal):
    """The second text has nothing to attend to at first, if it is causal, and 0 comes of that."""
    q, k, v = qkv(6)
    attend = functools.partial(
        ops.attention, implementation=implementation, mask=mask, causal=causal
    )
    out, *grads = with_gradients(attend, [q, k, v])
    np.testing.assert_allclose(out, masked_attention(q, k, v, mask, causal), atol=1e-6)
    assert np.any(out[1, :2]) != (causal and mask is not None)
    assert all(np.isfinite(grad).all() for grad in grads)
    nothing = ops.attention(q, k, v, mask=np.zeros((2, 6), bool), implementation=implementation)
    assert not np.any(nothing)


def test_attention_that_is_masked_takes_a_bias_and_a_length_as_well():
    q, k, v = qkv(6)
    bias = noise((2, 3, 6, 6), 5)
    found = ops.attention(q, k, v, bias, length=4, mask=MASK)
    hidden = np.where(MASK & (np.arange(6) < 4), 0, -1e9)[:, None, None]
    np.testing.assert_allclose(found, ops.attention(q, k, v, bias + hidden), atol=1e-6)


def test_what_computes_attention_on_a_gpu(monkeypatch):
    """cuDNN, as long as there is no mask."""
    seen = []

    def compute(q, k, v, bias=None, *, is_causal, implementation, **lengths):
        seen.append((implementation, is_causal, bias is not None))
        return q

    monkeypatch.setattr(compiling, "is_for_cpu", lambda: False)
    monkeypatch.setattr(attending, "fuses_attention", lambda q: q.dtype == jnp.bfloat16)
    monkeypatch.setattr(jax.nn, "dot_product_attention", compute)
    half = [x.astype(jnp.bfloat16) for x in qkv(6)]
    ops.attention(*half)
    ops.attention(*half, causal=True)
    ops.attention(*half, mask=MASK)
    ops.attention(*qkv(6))
    ops.attention(*half, implementation="xla")
    assert seen == [
        ("cudnn", False, False),
        ("cudnn", True, False),
        ("xla", False, True),
        ("xla", False, False),
        ("xla", False, False),
    ]


def test_attention_keeps_its_type_and_a_softmax_in_float32():
    q, k, v = (30 * noise((1, 64, 2, 16), seed) for seed in range(3))
    half = [x.astype(jnp.bfloat16) for x in (q, k, v)]
    found = ops.attention(*half)
    assert found.dtype == jnp.bfloat16
    expected = ops.attention(*(x.astype(jnp.float32) for x in half))
    np.testing.assert_allclose(found.astype(jnp.float32), expected, rtol=0.02, atol=0.3)


def test_reflection():
    x = np.arange(12.0).reshape(1, 3, 4, 1)
    padded = np.asarray(ops.reflect_pad(x, 1, 2))[0, :, :, 0]
    np.testing.assert_array_equal(padded, np.pad(x[0, :, :, 0], ((1, 1), (2, 2)), "reflect"))
    bottom = np.asarray(ops.reflect_pad(x, 0, 0, 2, 1))[0, :, :, 0]
    np.testing.assert_array_equal(bottom, np.pad(x[0, :, :, 0], ((0, 2), (0, 1)), "reflect"))
    assert ops.reflect_pad(x, 0, 0) is x


def test_reflection_of_too_little():
    with pytest.raises(ValueError, match="images of 3 x 4 pixels are too small"):
        ops.reflect_pad(np.zeros((1, 3, 4, 1)), 3, 0)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gelu(dtype):
    """With its gradient, against float64."""
    x = jnp.linspace(-8, 8, 4001).astype(dtype)
    x64 = np.asarray(x, np.float64)
    cdf = 0.5 * np.array([math.erfc(-v / math.sqrt(2)) for v in x64])
    atol = 1e-6 if dtype == jnp.float32 else 0.03
    assert ops.gelu(x).dtype == dtype
    np.testing.assert_allclose(ops.gelu(x).astype(jnp.float32), x64 * cdf, atol=atol)
    slope = jax.grad(lambda x: jnp.sum(ops.gelu(x).astype(jnp.float32)))(x).astype(jnp.float32)
    density = np.exp(-0.5 * x64**2) / math.sqrt(2 * math.pi)
    np.testing.assert_allclose(slope, cdf + x64 * density, atol=atol)


def test_quick_gelu():
    """With its gradient, against float64; the two GELUs are others."""
    x = np.linspace(-8, 8, 101)
    share = 1 / (1 + np.exp(-1.702 * x))
    function = ops.activation("quick_gelu")
    np.testing.assert_allclose(function(jnp.float32(x)), x * share, atol=1e-6)
    slope = jax.vmap(jax.grad(function))(jnp.float32(x))
    np.testing.assert_allclose(slope, share + 1.702 * x * share * (1 - share), atol=1e-5)
    assert np.abs(ops.gelu(jnp.float32(x)) - x * share).max() > 0.01


def test_vectors_of_unit_length():
    x = noise((3, 5))
    x[1] = 0
    found, pull = jax.vjp(ops.unit_length, x)
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(found, x / (lengths + 1e-8), atol=1e-6)
    assert np.isfinite(pull(noise((3, 5), 1))[0]).all()


def qkv(tokens, keys=None):
    keys = keys or tokens
    return [noise((2, n, 3, 8), seed) for seed, n in enumerate((tokens, keys, keys))]


def with_gradients(function, args):
    out, pull = jax.vjp(function, *args)
    return out, *pull(jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape))


@pytest.mark.parametrize("implementation", [None, "xla"])
def test_attention_to_the_first_tokens(implementation):
    q, k, v = qkv(6, keys=9)
    expected = ops.attention(q, k[:, :5], v[:, :5])
    found = ops.attention(q, k, v, implementation=implementation, length=5)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("length", [None, 5])
def test_attention_that_is_differentiated_for_even_numbers_alone(length):
    seen = []

    def even_alone(q, k, v, *, length):
        seen.append((q.shape[1], k.shape[1], length))
        return ops.attention(q, k, v, length=length)

    args = qkv(7, keys=9)
    apply = functools.partial(even_alone, length=length)
    function = functools.partial(attending._differentiable_if_even, apply)
    expected = with_gradients(functools.partial(ops.attention, length=length), args)
    np.testing.assert_allclose(function(*args), expected[0], atol=1e-6)
    assert seen == [(7, 9, length)]
    for one, other in zip(with_gradients(function, args), expected):
        np.testing.assert_allclose(one, other, atol=1e-6)
    assert seen[1:] == [(8, 10, length or 9)]


@pytest.mark.parametrize(
    "op",
    [
        "patch_conv",
        "pointwise_conv",
        "gelu",
        "gelu_tanh",
        "quick_gelu",
        "depthwise_conv",
        "attention",
    ],
)
def test_what_is_chosen_for_a_cpu_computes_the_same(op, monkeypatch):
    args = {
        "patch_conv": [noise((2, 8, 12, 3)), noise((4, 4, 3, 5), 1)],
        "depthwise_conv": [noise((2, 8, 9, 4)), noise((3, 3, 1, 4), 1)],
        "pointwise_conv": [noise((2, 8, 9, 4)), noise((1, 1, 4, 5), 1)],
        "attention": qkv(6),
    }.get(op, [noise((4, 7))])
    strided = {"stride": 2} if op == "pointwise_conv" else {}
    found = []
    for is_for_cpu in (True, False):
        monkeypatch.setattr(compiling, "is_for_cpu", lambda value=is_for_cpu: value)
        found.append(with_gradients(functools.partial(getattr(ops, op), **strided), args))
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, atol=2e-5)


@pytest.mark.slow
def test_what_others_are_to_run_has_nothing_for_one_gpu(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert ops.compiler_options() is None  # of another maker
    monkeypatch.setattr(compiling, "cuda_capability", lambda: 9.0)
    monkeypatch.setattr(compiling, "_is_known", lambda name, value: "triton" in name)
    assert ops.compiler_options() == {"xla_gpu_enable_triton_gemm": False}
    with ops.portable():
        assert ops.compiler_options() is None
        assert not ops.fuses_attention(jnp.zeros((1, 4, 1, 64), jnp.bfloat16))
        x = jnp.ones((2, 3))
        assert ops.row_major(x) is x
    assert ops.compiler_options()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_enable_triton_gemm=true")
    assert not ops.compiler_options()


def test_an_option_that_xla_does_not_have_is_not_known():
    assert not compiling._is_known("xla_no_such_option", True)
    assert compiling._is_known("xla_gpu_enable_cublaslt", True)
    assert ops.cuda_capability() == 0


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_larger_images(factor):
    image = noise((1, 9, 13, 2))
    found = np.asarray(ops.bicubic_upsample(image, factor))
    for channel in range(2):  # Pillow has the same filter, and another border
        expected = Image.fromarray(image[0, ..., channel]).resize(
            (13 * factor, 9 * factor), Image.BICUBIC
        )
        inside = np.s_[2 * factor : -2 * factor, 2 * factor : -2 * factor]
        np.testing.assert_allclose(
            found[0, ..., channel][inside], np.asarray(expected)[inside], atol=1e-5
        )
    line = np.broadcast_to(np.arange(9.0)[None, :, None, None], (1, 9, 3, 1))
    mirrored = np.concatenate([line[:, ::-1], line, line[:, ::-1]], axis=1)
    far = ops.bicubic_upsample(mirrored, factor)[:, 9 * factor : 18 * factor]
    np.testing.assert_allclose(ops.bicubic_upsample(line, factor), far, atol=1e-5)


def test_attention_hides_what_a_bias_of_minus_infinity_says():
    """Also where nothing is left, and a mask for each head and query hides more."""
    q, k, v = qkv(5)
    bias = noise((2, 3, 5, 5), 7)
    bias[:, :, 2] = -np.inf
    bias[0, 1, 3, :4] = -np.inf
    mask = noise((2, 3, 5, 5), 8) > -0.5

    def attend(q, k, v, bias):
        return ops.attention(q, k, v, bias, mask=mask, causal=True)

    out, *grads = with_gradients(attend, [q, k, v, jnp.asarray(bias)])
    seen = mask & np.tri(5, dtype=bool) & np.isfinite(bias)
    scores = np.einsum("bnhc,bmhc->bhnm", q, k).astype(np.float64) / 8**0.5
    weights = np.where(seen, np.exp(scores + np.where(seen, bias, 0)), 0)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(out, np.einsum("bhnm,bmhc->bnhc", weights, v), atol=1e-6)
    assert not np.any(out[:, 2])
    assert all(np.isfinite(grad).all() for grad in grads)
