"""What a step takes of memory, and batches of several shapes."""

import logging

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.machinery.memory import Measured


def test_a_step_is_compiled_once_for_each_shape(caplog):
    caplog.set_level(logging.INFO)
    traced = []

    @jax.jit
    def step(constant, state, batch):
        traced.append(batch["x"].shape)
        return state + constant * batch["x"].sum()

    measured = Measured(step, jnp.float32(2))
    assert measured.needs == ""
    state = jnp.float32(0)
    for length in (3, 5, 3, 5, 3):
        state = measured(state, {"x": np.ones((2, length), np.float32)})
    assert float(state) == 2 * 2 * (3 + 5 + 3 + 5 + 3)
    assert traced == [(2, 3), (2, 5)]
    assert caplog.text.count("a step takes") == 2
    assert measured.needs in caplog.text
