"""The GPU's kernel, interpreted on a CPU; tests/test_gpu.py runs it where it belongs."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas

from tests.helpers import noise
from vit_jax import ops
from vit_jax.ops import window_kernel

pytestmark = pytest.mark.skipif(window_kernel.triton is None, reason="this JAX has no Triton")


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch):
    monkeypatch.setattr(
        pallas, "pallas_call", functools.partial(pallas.pallas_call, interpret=True)
    )


# Sizes that need no filling up, which the interpreter cannot leave out as a GPU does.
@pytest.mark.parametrize(
    ("window", "heads", "channels", "shift", "windows"),
    [
        ((8, 8), 2, 16, (0, 0), (2, 3)),
        ((8, 8), 1, 32, (4, 4), (2, 3)),
        ((4, 8), 2, 16, (2, 0), (2, 3)),
        ((8, 8), 2, 16, (4, 4), (1, 2)),  # as in Swin's dense form: one window, which is shifted
    ],
)
def test_it_computes_what_xla_does_and_the_gradients(window, heads, channels, shift, windows):
    h, w = (count * side for count, side in zip(windows, window))
    n = window[0] * window[1]
    qkv, bias = noise((2, h, w, 3 * heads * channels)), noise((heads, n, n), seed=1)
    weights = noise((2, h, w, heads * channels), seed=2)
    found = []

    def with_gradients(attend, qkv, bias):
        attend = functools.partial(attend, window=window, shift=shift)
        out, pull = jax.vjp(attend, qkv, bias)
        return out, *pull(jnp.asarray(weights))

    for attend in (ops.biased_window_attention, window_kernel.attend):
        found.append(jax.jit(functools.partial(with_gradients, attend))(qkv, bias))
    for one, other in zip(*found):
        np.testing.assert_allclose(one, other, atol=2e-6 * np.abs(one).max())


def test_it_is_for_gpus_alone():
    assert not window_kernel.fits(jnp.zeros((1, 8, 8, 48), jnp.bfloat16), 1, (8, 8))
