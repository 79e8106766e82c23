from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from vit_jax import schedules


def schedule(learning_rate=0.1, total_steps=100, steps_per_epoch=10.0, **changes):
    config = common.get_config().schedule
    config.update(changes)
    return schedules.make_schedule(config, learning_rate, total_steps, steps_per_epoch)


@pytest.mark.parametrize("name", sorted({*schedules.SCHEDULES} - {"poly", "onecycle", "noam"}))
def test_warmup_rises_to_the_peak(name):
    rate = schedule(name=name, warmup_steps=10)
    np.testing.assert_allclose([rate(i) for i in range(11)], np.arange(11) / 100, rtol=1e-5)
    rate = schedule(name=name, warmup_steps=10, warmup_from=0.02)
    np.testing.assert_allclose([rate(i) for i in (0, 5, 10)], [0.02, 0.06, 0.1], rtol=1e-5)


@pytest.mark.parametrize("width", [512, 1024])
def test_noam_by_golden_rates(width):
    with np.load(Path(__file__).parent / "golden" / "noam.npz") as golden:
        steps, expected = golden["steps"], golden[f"lr_d{width}"] * 1e-4
    peak = (width * 4000) ** -0.5
    rate = schedule(peak, total_steps=300_000, name="noam", warmup_steps=4000)
    found = [rate(jnp.asarray(step - 1, jnp.int32)) for step in steps]  # which count from 1 there
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(max(found), peak, rtol=1e-6)
    floored = schedule(
        peak, total_steps=300_000, name="noam", warmup_steps=4000, final_fraction=0.5
    )
    np.testing.assert_allclose(floored(299_999), peak / 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "halfway"), [("constant", 0.1), ("cosine", 0.055), ("linear", 0.055)]
)
def test_decay(name, halfway):
    final = 0.0 if name == "constant" else 0.1
    rate = schedule(name=name, final_fraction=final)
    np.testing.assert_allclose(rate(0), 0.1, rtol=1e-6)
    np.testing.assert_allclose(rate(50), halfway, rtol=1e-5)
    np.testing.assert_allclose(rate(100), 0.1 if name == "constant" else 0.01, rtol=1e-5)


def test_rsqrt_and_its_floor():
    rate = schedule(name="rsqrt", timescale=10, warmup_steps=10, final_fraction=0.4)
    np.testing.assert_allclose(rate(40), 0.05, rtol=1e-5)  # 30 after the warmup: 1/sqrt(4)
    np.testing.assert_allclose(rate(90), 0.04, rtol=1e-5)


def test_poly():
    """mmsegmentation's: the warmup is a factor of what decays from the first step on."""
    rate = schedule(name="poly", power=0.9, warmup_steps=20, warmup_from=1e-3, final_fraction=0.01)
    for step in (0, 7, 19, 20, 60, 100):
        decayed = (0.1 - 0.001) * (1 - step / 100) ** 0.9 + 0.001
        warm = 1 - max(1 - step / 20, 0) * (1 - 1e-2)
        np.testing.assert_allclose(rate(step), decayed * warm, rtol=1e-5)


def test_one_cycle():
    """PyTorch's OneCycleLR, as RAFT and FlowFormer are trained, in units of 1e-4."""
    expected = np.load(Path(__file__).parent / "golden" / "flow_onecycle.npz")["lr"]
    rate = schedule(2.5e-4, total_steps=1000, name="onecycle")
    rates = jax.vmap(rate)(np.arange(len(expected))) * 1e4
    np.testing.assert_allclose(rates, expected, rtol=2e-5)
    assert [round(float(rates[i]), 4) for i in (0, 54, 1000)] == [0.1, 2.5, 0.2369]


@pytest.mark.parametrize("name", schedules.SCHEDULES)
def test_a_rate_of_0_remains_0(name):
    warmup = 0 if name == "onecycle" else 10
    rate = schedule(learning_rate=0.0, name=name, warmup_steps=warmup)
    assert [float(rate(step)) for step in (0, 5, 50)] == [0, 0, 0]


def test_warmup_in_epochs():
    rate = schedule(warmup_epochs=2.0)
    np.testing.assert_allclose([rate(10), rate(20)], [0.05, 0.1], rtol=1e-5)


def test_a_warmup_that_is_too_long_becomes_a_tenth_of_the_run(caplog):
    rate = schedule(total_steps=30, warmup_steps=30)
    np.testing.assert_allclose([rate(i) for i in (0, 15)], [0, 0.05], rtol=1e-5)
    assert not caplog.messages
    for changes in ({"warmup_steps": 31}, {"warmup_epochs": 3.1}):
        caplog.clear()
        rate = schedule(total_steps=30, **changes)
        np.testing.assert_allclose([rate(i) for i in range(4)], [0, 0.1 / 3, 0.2 / 3, 0.1])
        assert rate(29) < 0.001
        (message,) = caplog.messages
        assert message.startswith("the warmup of 31 steps does not fit into the run's 30: it has 3")
    assert schedule(total_steps=1, warmup_steps=9, warmup_from=0.01)(0) == pytest.approx(0.1)
    assert schedule(total_steps=100, name="noam", warmup_steps=4000)(9) == pytest.approx(0.1)


def test_a_run_that_ends_before_its_first_milestone_says_so(caplog):
    schedule(name="multistep", milestones=(99, 200))
    assert not caplog.messages
    schedule(name="multistep", milestones=(100, 200))
    assert caplog.messages == [
        "the learning rate does not fall in the run's 100 steps, since the first of "
        "schedule.milestones is 100"
    ]


def test_exponential_decay_by_epochs_after_a_warmup_from_a_rate_of_its_own():
    """As Visual Transformers are trained: .01 to .16 in 5 epochs, then .9875 of it in each."""
    rate = schedule(
        0.16, 1000, 20.0, name="exponential", gamma=0.9875, per_epoch=True, warmup_epochs=5.0,
        warmup_from=0.01,
    )  # fmt: skip
    rising = [rate(20 * epoch) for epoch in range(6)]
    np.testing.assert_allclose(rising, np.linspace(0.01, 0.16, 6), rtol=1e-5)
    assert rate(99) == rate(80)
    np.testing.assert_allclose([rate(100), rate(119)], 0.16, rtol=1e-5)
    np.testing.assert_allclose([rate(120), rate(139)], 0.16 * 0.9875, rtol=1e-5)
    np.testing.assert_allclose(rate(500), 0.16 * 0.9875**20, rtol=1e-5)
    between = schedule(0.1, 1000, 20.0, name="exponential", gamma=0.25)
    np.testing.assert_allclose(between(10), 0.05, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": -1}, "the warmup must not be negative, and is of -1 steps"),
        ({"name": "step"}, "unknown schedule 'step'; .*there are: constant, cosine"),
        ({"name": "poly", "power": 0.0}, "schedule.power must be above 0, not 0.0"),
        ({"final_fraction": 2.0}, r"must lie in \[0, 1\]"),
        ({"name": "constant", "final_fraction": 0.1}, "constant does not decay"),
        ({"name": "exponential", "final_fraction": 0.1}, "exponential does not decay"),
        ({"warmup_from": 0.2, "warmup_steps": 9}, "must lie between 0 and the learning rate 0.1"),
        ({"name": "noam"}, "the schedule noam decays by the length of its warmup: set schedule"),
        ({"name": "noam", "warmup_steps": 9, "warmup_from": 0.01}, "noam rises from 0: set"),
        ({"name": "onecycle", "warmup_steps": 5}, "onecycle has a warmup and an end of its own"),
        ({"name": "onecycle", "final_fraction": 0.1}, "onecycle has a warmup and an end of its"),
        ({"warmup_from": 0.01}, "must lie between 0 and the learning rate 0.1, and needs a warmup"),
        ({"restarts": 0}, "restarts=0 is for schedule.name=cosine: 1 is one decay"),
        ({"restarts": 2, "name": "linear"}, "restarts=2 is for schedule.name=cosine"),
        ({"decay_epochs": -1.0}, "decay_epochs must not be negative, not -1.0"),
    ],
)
def test_wrong_schedules(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


def test_cosine_per_epoch():
    config = common.get_config().schedule
    config.update(per_epoch=True, final_fraction=0.01)
    rate = schedules.make_schedule(config, 4e-4, total_steps=45, steps_per_epoch=4.5)
    epochs = np.arange(10)
    expected = 4e-6 + (4e-4 - 4e-6) * (1 + np.cos(np.pi * epochs / 10)) / 2
    np.testing.assert_allclose([rate(np.ceil(4.5 * e)) for e in epochs], expected, rtol=1e-5)
    assert rate(4) == rate(0)
    assert rate(5) < rate(4)


def test_a_decay_that_ends_before_the_run():
    rate = schedule(total_steps=120, decay_epochs=10.0, final_fraction=0.1)
    np.testing.assert_allclose([rate(50), rate(100), rate(119)], [0.055, 0.01, 0.01], rtol=1e-5)


@pytest.mark.parametrize(("per_epoch", "steps"), [(False, 1), (True, 10)])
def test_a_shift_is_of_steps_or_epochs(per_epoch, steps):
    plain, late = (schedule(shift=shift, per_epoch=per_epoch) for shift in (0, -1))
    assert [late(steps * i) for i in range(4)] == [plain(steps * max(i - 1, 0)) for i in range(4)]
    early = schedule(name="multistep", milestones=(30,), shift=1)
    np.testing.assert_allclose([early(28), early(29)], [0.1, 0.05], rtol=1e-5)


def test_a_decay_that_spans_the_warmup():
    rate = schedule(name="linear", warmup_steps=20, decay_spans_warmup=True)
    np.testing.assert_allclose([rate(10), rate(20), rate(50)], [0.05, 0.08, 0.05], rtol=1e-5)


def test_restarts_begin_with_the_second_rate():
    rate = schedule(restarts=2, final_fraction=0.5)
    np.testing.assert_allclose([rate(0), rate(25), rate(50), rate(75)], [0.1, 0.075, 0.05, 0.075])
    assert rate(51) == rate(1) < rate(0)
    assert rate(100) == pytest.approx(0.05)


@pytest.mark.parametrize("examples", [7, 63, 64, 100])
def test_epochs_of_whole_steps(examples):
    config = common.get_config()
    config.update(total_epochs=2.5, whole_steps=True)
    whole = max(examples // 8, 1)
    assert schedules.count_steps(config, examples / 8) == (round(2.5 * whole), whole)
    config.whole_steps = False
    assert schedules.count_steps(config, examples / 8)[1] == examples / 8
    config.total_steps = 5
    assert schedules.count_steps(config, examples / 8)[0] == 5
