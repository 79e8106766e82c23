import functools

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
