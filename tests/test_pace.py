"""How often a run is evaluated where its config does not say: for few photos and for many."""

from types import SimpleNamespace

import pytest

from tests.helpers import tiny_digits_config
from vit_jax import experiment, pace


def evaluated_at(steps, examples, batch_size, val):
    """The steps of the evaluations of a run."""
    splits = {"val": SimpleNamespace(num_examples=val)} if val else {}
    data = SimpleNamespace(
        steps_per_epoch=examples / batch_size, batch_size=batch_size, splits=splits
    )
    run = SimpleNamespace(total_steps=steps, eval_every=pace.eval_every(steps, data))
    found = range(run.eval_every, steps + 1, run.eval_every)
    return sorted({*found, steps})


@pytest.mark.parametrize(
    ("steps", "examples", "batch_size", "val", "first", "count"),
    [
        (200, 16, 16, 4, 2, 100),  # 16 photos for 200 epochs
        (250, 16, 16, 4, 3, 84),  # the last at the end
        (60, 16, 8, 4, 2, 30),  # each epoch
        (100, 1_000_000, 512, 1000, 10, 10),  # less than an epoch
        (20, 1_000_000, 512, 50_000, 20, 1),  # to evaluate is more than to train
        (200, 1_000_000, 512, 50_000, 98, 3),  # as much
        (5_859, 1_000_000, 512, 50_000, 585, 11),  # three epochs
        (175_800, 1_000_000, 512, 50_000, 1953, 91),  # 90 epochs, one of 1953.125 steps
        (585_900, 1_000_000, 512, 50_000, 3 * 1953, 100),  # 300 epochs
        (6, 10, 64, 0, 1, 6),
        (1000, 8, 64, 2, 10, 100),  # a batch is several epochs
    ],
)
def test_evaluations_are_neither_too_many_nor_too_few(
    steps, examples, batch_size, val, first, count
):
    found = evaluated_at(steps, examples, batch_size, val)
    assert (found[0], len(found)) == (first, count)


def test_what_a_config_says_counts():
    config = tiny_digits_config()
    config.total_steps, config.eval_every = 60, 7
    assert experiment.build(config).eval_every == 7
    config.unlock()
    config.eval_every = None
    assert experiment.build(config).eval_every == 6  # an epoch has 20 steps
    config.unlock()
    config.total_steps = 2100
    assert experiment.build(config).eval_every == 40
