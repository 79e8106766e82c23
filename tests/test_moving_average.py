"""The moving average of parameters, as it begins."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from tests.helpers import tiny_digits_config
from tests.test_train import largest_gap, run_steps
from vit_jax import experiment, moving_average


def averages(values, **config):
    """The averages after each of some values, begun at 0."""
    config = ConfigDict({"ema_decay": 0.999, "ema_warmup": False, **config})
    average, found = jnp.zeros(()), []
    for step, value in enumerate(values):
        average = moving_average.follow(config, jnp.float32(value), average, jnp.int32(step))
        found.append(float(average))
    return found


def test_warmup_forgets_what_the_run_began_with():
    with_it, without = averages([1.0] * 10, ema_warmup=True), averages([1.0] * 10)
    np.testing.assert_allclose(with_it[0], 0.9, rtol=1e-6)
    np.testing.assert_allclose(with_it[1], 1 - 0.1 * 2 / 11, rtol=1e-6)
    np.testing.assert_allclose(1 - with_it[9], 1 / 92378, rtol=0.02)
    np.testing.assert_allclose(without, 1 - 0.999 ** np.arange(1, 11), rtol=1e-4)


def test_warmup_ends_at_the_decay():
    config = ConfigDict({"ema_decay": 0.5, "ema_warmup": True})
    decays = [float(moving_average.decay_at(config, step)) for step in range(12)]
    np.testing.assert_allclose(decays[:8], [(1 + t) / (10 + t) for t in range(8)], rtol=1e-6)
    assert decays[8:] == [0.5] * 4


@pytest.mark.slow
def test_a_step_averages_by_its_number():
    """Two updates of a run, of which the second has another decay than the first."""
    config = tiny_digits_config()
    config.ema_decay, config.ema_warmup = 0.9, True
    start = experiment.build(config).init_state().params
    one, _ = run_steps(config, steps=1)
    two, _ = run_steps(config, steps=2)
    expected = start
    for decay, params in ((1 / 10, one.params), (2 / 11, two.params)):
        expected = jax.tree.map(lambda a, b, d=decay: d * a + (1 - d) * b, expected, params)
    assert largest_gap(two.ema_params, expected) < 1e-6


def test_a_warmup_of_nothing_is_refused():
    config = tiny_digits_config()
    config.ema_warmup = True
    with pytest.raises(ValueError, match=r"say of which decay, --config\.ema_decay=0\.999"):
        experiment.build(config)
