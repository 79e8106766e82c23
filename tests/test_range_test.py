"""The learning-rate range test."""

import csv
import re

import numpy as np
import pytest

from tests.helpers import tiny_digits_config
from vit_jax import range_test

RATES = np.geomspace(1e-7, 1, 100)


def test_it_finds_where_the_loss_falls_and_where_it_is_lowest():
    """A loss that falls from 2 to 1 around 1e-4, and rises from 1e-2 on."""
    losses = 2 - 1 / (1 + (1e-4 / RATES) ** 2) + (RATES / 0.1) ** 2
    found = range_test.summarize(RATES, losses)
    # The moving average is late by some steps, each of a factor of 1.18.
    assert 1e-4 < found.steepest < 5e-4
    assert 5e-3 < found.lowest < 5e-2
    np.testing.assert_allclose(found.smoothed[0], losses[0])


def test_a_constant_loss_is_its_own_average():
    found = range_test.summarize(RATES, np.full(100, 2.0))
    np.testing.assert_allclose(found.smoothed, 2.0)


def test_a_loss_that_is_never_finite_is_no_curve():
    with pytest.raises(
        ValueError, match=r"not finite, or diverges, after 3 steps .* check the data"
    ):
        range_test.summarize(RATES[:3], np.ones(3))


@pytest.mark.slow
def test_a_vit_on_digits(tmp_path, capsys):
    found = range_test.run(tiny_digits_config(), tmp_path)
    assert 1e-6 < found.steepest < found.lowest <= 1.0
    assert found.smoothed.min() < 0.9 * found.smoothed[0]
    with (tmp_path / "lr_find.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row["learning_rate"]) for row in rows], found.rates)
    np.testing.assert_allclose(found.rates[:2], RATES[:2], rtol=1e-5)
    assert (tmp_path / "lr_find.png").stat().st_size > 5000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lr_find.csv", "lr_find.png"]
    said = capsys.readouterr().out
    assert re.search(r"^--config\.optim\.learning_rate=[\d.e-]+$", said, re.MULTILINE)


def test_losses_that_grow_without_bound_end_it():
    assert not range_test._has_diverged([2.0, 1.0, 9.0])  # too early to know
    assert range_test._has_diverged([2.0, 1.0, 1.0, 1.0, 1.0, 4.1])
    assert not range_test._has_diverged([5.0, 1.0, 1.0, 1.0, 1.0, 4.1])  # below where it began
