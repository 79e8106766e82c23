import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import common
from vit_jax import optim

PARAMS = {
    "dense": {"kernel": jnp.ones((3, 2)), "bias": jnp.ones(2)},
    "head": {"kernel": jnp.full((2, 4), 2.0), "bias": jnp.zeros(4)},
}
GRADS = jax.tree.map(lambda p: jnp.full_like(p, 0.5), PARAMS)


def schedule(learning_rate=0.1, total_steps=100, steps_per_epoch=10.0, **changes):
    config = common.get_config().schedule
    config.update(changes)
    return optim.make_schedule(config, learning_rate, total_steps, steps_per_epoch)


def optimizer(learning_rate=0.1, **changes):
    config = common.get_config().optim
    config.update(changes)
    return optim.make_optimizer(config, optax.constant_schedule(learning_rate), PARAMS)


def update(tx, steps=1):
    state = tx.init(PARAMS)
    params = PARAMS
    for _ in range(steps):
        updates, state = tx.update(GRADS, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("name", sorted({*optim.SCHEDULES} - {"poly", "onecycle", "noam"}))
def test_warmup_rises_from_above_zero_to_the_peak(name):
    rate = schedule(name=name, warmup_steps=10)
    np.testing.assert_allclose([rate(i) for i in range(10)], np.arange(1, 11) / 100, rtol=1e-5)
    np.testing.assert_allclose(rate(10), 0.1, rtol=1e-5)


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


@pytest.mark.parametrize("name", optim.SCHEDULES)
def test_a_rate_of_0_remains_0(name):
    warmup = 0 if name == "onecycle" else 10
    rate = schedule(learning_rate=0.0, name=name, warmup_steps=warmup)
    assert [float(rate(step)) for step in (0, 5, 50)] == [0, 0, 0]


def test_warmup_in_epochs():
    rate = schedule(warmup_epochs=2.0)
    np.testing.assert_allclose(rate(9), 0.05, rtol=1e-5)
    np.testing.assert_allclose(rate(19), 0.1, rtol=1e-5)


def test_a_warmup_that_is_too_long_becomes_a_tenth_of_the_run(caplog):
    rate = schedule(total_steps=30, warmup_steps=30)
    np.testing.assert_allclose([rate(i) for i in (0, 29)], [0.1 / 30, 0.1], rtol=1e-5)
    assert not caplog.messages
    for changes in ({"warmup_steps": 31}, {"warmup_epochs": 3.1}):
        caplog.clear()
        rate = schedule(total_steps=30, **changes)
        np.testing.assert_allclose([rate(i) for i in range(4)], [0.1 / 3, 0.2 / 3, 0.1, 0.1])
        assert rate(29) < 0.001
        (message,) = caplog.messages
        assert message.startswith("the warmup of 31 steps does not fit into the run's 30: it has 3")
    assert schedule(total_steps=1, warmup_steps=9, warmup_from=0.01)(0) == pytest.approx(0.01)
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
    np.testing.assert_allclose([rate(0), rate(99)], [0.01, 0.16], rtol=1e-5)
    np.testing.assert_allclose(np.diff([rate(i) for i in range(100)]), 0.15 / 99, rtol=1e-2)
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
        ({"warmup_from": 0.01}, "needs a warmup of at least two steps, not 0"),
    ],
)
def test_wrong_schedules(changes, message):
    with pytest.raises(ValueError, match=message):
        schedule(**changes)


@pytest.mark.parametrize(
    ("name", "args", "reference"),
    [
        ("sgd", {"momentum": 0.8, "nesterov": True}, optax.sgd(0.1, 0.8, nesterov=True)),
        ("sgd", {}, optax.sgd(0.1, 0.9)),
        ("adam", {"b2": 0.95}, optax.adam(0.1, b2=0.95)),
        ("adamw", {"eps": 1e-6}, optax.adamw(0.1, eps=1e-6, weight_decay=0.0)),
        ("lion", {}, optax.lion(0.1, weight_decay=0.0)),
        ("adafactor", {"momentum": 0.9}, optax.adafactor(0.1, momentum=0.9)),
        ("rmsprop", {"momentum": 0.8, "eps": 1e-3}, optax.rmsprop(0.1, momentum=0.8, eps=1e-3)),
    ],
)
def test_optimizers_are_optax_s(name, args, reference):
    ours, _ = update(optimizer(name=name, args=args), steps=3)
    theirs, _ = update(reference, steps=3)
    # Adafactor multiplies by the learning rate earlier; the order is the only difference.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ours, theirs)
    assert float(jnp.abs(ours["dense"]["kernel"] - 1).min()) > 0.01


def test_weight_decay_is_decoupled_and_on_kernels():
    with_decay, _ = update(optimizer(weight_decay=0.3))
    without, _ = update(optimizer())
    np.testing.assert_allclose(
        with_decay["head"]["kernel"], without["head"]["kernel"] - 0.1 * 0.3 * 2.0, rtol=1e-5
    )
    np.testing.assert_array_equal(with_decay["dense"]["bias"], without["dense"]["bias"])
    by_pattern, _ = update(optimizer(weight_decay=0.3, weight_decay_on="^dense/"))
    np.testing.assert_array_equal(by_pattern["head"]["kernel"], without["head"]["kernel"])
    np.testing.assert_allclose(by_pattern["dense"]["bias"], without["dense"]["bias"] - 0.03, 1e-5)


def test_coupled_weight_decay_is_part_of_the_gradient():
    """As PyTorch's SGD has it; with momentum it grows as the gradient does."""
    params, _ = update(optimizer(weight_decay=0.3, name="sgd", coupled_weight_decay=True), steps=2)
    value, trace = 2.0, 0.0
    for _ in range(2):
        trace = 0.9 * trace + 0.5 + 0.3 * value
        value -= 0.1 * trace
    np.testing.assert_allclose(params["head"]["kernel"], value, rtol=1e-5)
    without, _ = update(optimizer(name="sgd"), steps=2)
    np.testing.assert_array_equal(params["dense"]["bias"], without["dense"]["bias"])
    everywhere = optimizer(
        weight_decay=0.3, name="sgd", coupled_weight_decay=True, weight_decay_on=""
    )
    assert (
        update(everywhere)[0]["dense"]["bias"] < update(optimizer(name="sgd"))[0]["dense"]["bias"]
    ).all()


def test_coupled_weight_decay_is_not_clipped():
    clipped, _ = update(
        optimizer(weight_decay=0.3, name="sgd", coupled_weight_decay=True, clip_norm=1e-6)
    )
    np.testing.assert_allclose(clipped["head"]["kernel"], 2 - 0.1 * 0.3 * 2, rtol=1e-4)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_bfloat16_momentum(name):
    args = {"momentum": 0.9} if name == "adafactor" else {}
    _, state = update(optimizer(name=name, momentum_dtype="bfloat16", args=args))
    types = [leaf.dtype for leaf in jax.tree.leaves(state)]
    assert types.count(jnp.bfloat16) == 4
    _, state = update(optimizer(name=name, args=args))
    assert jnp.bfloat16 not in [leaf.dtype for leaf in jax.tree.leaves(state)]


def test_clipping():
    tx = optimizer(name="sgd", args={"momentum": 0.0}, learning_rate=1.0, clip_norm=1.0)
    params, _ = update(tx)
    change = jax.tree.map(lambda a, b: a - b, params, PARAMS)
    np.testing.assert_allclose(optax.tree.norm(change), 1.0, rtol=1e-5)


def test_clipping_by_the_norm_of_each_outputs_weights():
    settings = dict(name="sgd", args={"momentum": 0.0}, learning_rate=1.0)
    params, _ = update(optimizer(**settings, adaptive_clip=0.01))
    free, _ = update(optimizer(**settings))
    for group, leaves in PARAMS.items():
        for name, before in leaves.items():
            change, wanted = before - params[group][name], before - free[group][name]
            axis = 0 if before.ndim == 2 else None  # (inputs, outputs), or a bias
            norm, length = (np.linalg.norm(x, axis=axis, keepdims=True) for x in (before, wanted))
            share = np.minimum(1, 0.01 * np.maximum(norm, 1e-3) / np.maximum(length, 1e-6))
            assert share.min() < 0.5
            np.testing.assert_allclose(change, wanted * share, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize(
    ("shape", "fits"),
    [((3, 3, 4, 8), True), ((1, 1, 8), True), ((4, 2, 8), False), ((2, 3, 3, 4, 8), False)],
)
def test_adaptive_clipping_knows_the_outputs_of_a_weight(shape, fits):
    config = common.get_config().optim
    config.adaptive_clip = 0.01
    make = functools.partial(optim.make_optimizer, config, optax.constant_schedule(0.1))
    if fits:
        make({"dense": {"kernel": jnp.ones(shape)}})
        return
    with pytest.raises(ValueError, match=r"dense/kernel has the shape .*: set it to 0"):
        make({"dense": {"kernel": jnp.ones(shape)}})


def test_freezing_leaves_parameters_and_makes_no_state():
    tx = optimizer(freeze="^dense/", weight_decay=0.1, clip_norm=1.0)
    params, state = update(tx)
    jax.tree.map(np.testing.assert_array_equal, params["dense"], PARAMS["dense"])
    assert float(jnp.abs(params["head"]["bias"]).min()) > 0
    shapes = [leaf.shape for leaf in jax.tree.leaves(state)]
    assert (3, 2) not in shapes
    assert shapes.count((2, 4)) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "adagrad"}, "unknown optimizer 'adagrad'; .*there are: sgd, adam"),
        ({"name": "adam", "weight_decay": 0.1}, "set optim.name to adamw"),
        (
            {"args": {"beta2": 0.9}},
            "unknown argument of adamw 'beta2'; .*for optim.args there are: b1, b2",
        ),
        (
            {"name": "sgd", "args": {"b1": 0.9}},
            "unknown argument of sgd 'b1'; .*momentum, nesterov",
        ),
        ({"momentum_dtype": "float8"}, "is not one of"),
        ({"freeze": "encoder"}, "'encoder' is found in none of: dense/bias, dense/kernel"),
        ({"freeze": "."}, "freezes every parameter"),
        ({"freeze": "("}, "not a regular expression"),
        ({"weight_decay": 0.1, "weight_decay_on": "w$"}, "found in none of"),
    ],
)
def test_wrong_optimizers(changes, message):
    with pytest.raises(ValueError, match=message):
        optimizer(**changes)


def test_cosine_per_epoch():
    config = common.get_config().schedule
    config.update(per_epoch=True, final_fraction=0.01)
    rate = optim.make_schedule(config, 4e-4, total_steps=45, steps_per_epoch=4.5)
    epochs = np.arange(10)
    expected = 4e-6 + (4e-4 - 4e-6) * (1 + np.cos(np.pi * epochs / 10)) / 2
    np.testing.assert_allclose([rate(np.ceil(4.5 * e)) for e in epochs], expected, rtol=1e-5)
    assert rate(4) == rate(0)
    assert rate(5) < rate(4)
