"""The gradient of a training step: of parts of a batch, of a whole one, and of some parameters."""

import functools
from types import SimpleNamespace

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.helpers import tiny_digits_config
from vit_jax import contrastive, experiment, optim, step
from vit_jax.machinery import sharding

ROWS = 12


class Towers(nn.Module):
    """Two towers with dropout, and statistics that change with each batch."""

    @nn.compact
    def __call__(self, image, text, train=False):
        out = {}
        for name, x in (("image", image), ("text", text)):
            x = nn.Dense(8, name=name)(x)
            x = nn.Dropout(0.3, deterministic=not train)(x)
            out[name] = x / jnp.linalg.norm(x, axis=-1, keepdims=True)
        seen = self.variable("batch_stats", "seen", jnp.zeros, ())
        if train:
            seen.value = 0.9 * seen.value + jnp.mean(image)
        scale = jnp.exp(self.param("t", nn.initializers.constant(1.0), (1,)))
        return {**out, "scale": jnp.broadcast_to(scale * (1 + seen.value), len(image))}


@pytest.fixture(scope="module")
def towers():
    """forward, loss_of, parameters, model_state, batch and key, as `step` has them."""
    model = Towers()
    random = np.random.default_rng(0)
    batch = {k: random.normal(size=(ROWS, 5)).astype(np.float32) for k in ("image", "text")}
    variables = model.init(jax.random.key(0), batch["image"], batch["text"])

    def forward(params, model_state, batch, key):
        return model.apply(
            {"params": params, **model_state}, batch["image"], batch["text"], train=True,
            rngs={"dropout": key}, mutable=["batch_stats"],
        )  # fmt: skip

    def loss_of(out, batch):
        loss = jnp.mean(contrastive.softmax(out, batch))
        return loss, {"loss": loss}

    state = {"batch_stats": {"seen": jnp.float32(0.5)}}
    return forward, loss_of, variables["params"], state, batch, jax.random.key(3)


def assert_near(actual, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7),
                 actual, expected)  # fmt: skip


@pytest.mark.parametrize("steps", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_whole_batch_is_compared_whatever_its_parts(towers, steps):
    """As if all parts had been in memory at once, each with its dropout and its statistics."""
    forward, loss_of, params, state, batch, key = towers

    def whole(params):
        parts, model_state = [], state
        for i, its_key in enumerate(jax.random.split(key, steps)):
            micro = {name: x[i::steps] for name, x in batch.items()}
            out, model_state = forward(params, model_state, micro, its_key)
            parts.append(out)
        out = jax.tree.map(lambda *x: jnp.stack(x, axis=1).reshape(ROWS, *x[0].shape[1:]), *parts)
        return loss_of(out, batch)[0], model_state

    (loss, model_state), grads = jax.jit(jax.value_and_grad(whole, has_aux=True))(params)
    accumulate = jax.jit(functools.partial(step._gradient_of_whole, steps, forward, loss_of))
    found = accumulate(params, state, batch, key)
    assert_near(found, (grads, None, model_state, {"loss": loss}))
    parts = jax.jit(functools.partial(step._averaged_gradient, steps, forward, loss_of))
    assert parts(params, state, batch, key)[3]["loss"] < 0.9 * loss  # has fewer negatives


def test_without_dropout_parts_make_no_difference(towers):
    _, loss_of, params, state, batch, key = towers

    def forward(params, model_state, batch, key):
        del key
        variables = {"params": params, **model_state}
        return Towers().apply(variables, batch["image"], batch["text"]), model_state

    at_once = jax.jit(functools.partial(step._gradient, forward, loss_of))
    in_parts = jax.jit(functools.partial(step._gradient_of_whole, 4, forward, loss_of))
    grads, _, _, metrics = at_once(params, state, batch, key)
    assert_near(in_parts(params, state, batch, key), (grads, None, state, metrics))


def test_an_output_without_rows_cannot_be_put_together(towers):
    forward, loss_of, params, state, batch, key = towers

    def with_scale(*args):
        out, model_state = forward(*args)
        return {**out, "scale": out["scale"][0]}, model_state

    with pytest.raises(ValueError, match=r"for each of 6 examples, and scale has the shape \(\)"):
        step._gradient_of_whole(2, with_scale, loss_of, params, state, batch, key)


# Frozen parameters.


def frozen_run(freeze, accum_steps=1):
    config = tiny_digits_config()
    config.optim.freeze = freeze
    config.accum_steps = accum_steps
    exp = experiment.build(config)
    batch = next(iter(sharding.to_devices(exp.data.train_batches(), exp.mesh)))
    return exp, exp.init_state(), batch


@pytest.mark.parametrize("accum_steps", [1, 2])
def test_frozen_parameters_cost_no_backward_pass(accum_steps):
    """Of a head alone it is next to nothing, and the forward pass a third of the whole."""
    costs = {}
    for freeze in ("", "^(?!head)"):
        exp, state, batch = frozen_run(freeze, accum_steps)
        train_step = step.make_train_step(exp)
        lowered = train_step.function.lower(*train_step.first, state, batch)
        costs[freeze] = lowered.cost_analysis()["flops"]
    assert costs["^(?!head)"] < 0.45 * costs[""]


def test_frozen_parameters_have_no_gradient_and_no_state():
    exp, state, batch = frozen_run("^(?!head)")
    train_step = step.make_train_step(exp)
    before = jax.device_get(state.params)
    sizes = sum(leaf.size for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim)
    assert sizes == 2 * sum(leaf.size for leaf in jax.tree.leaves(before["head"]))
    after, metrics = train_step(state, batch)
    head, expected = after.params.pop("head"), before.pop("head")
    jax.tree.map(np.testing.assert_array_equal, after.params, before)
    assert np.abs(np.asarray(head["kernel"]) - expected["kernel"]).max() > 0

    exp, state, _ = frozen_run("")
    gradients = jax.grad(
        lambda params: jnp.mean(
            exp.task.losses["softmax_xent"](
                exp.forward(params, {}, batch, jax.random.key(0))[0], batch
            )
        )
    )
    grads = jax.jit(gradients)(state.params)
    norm = np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(grads["head"])))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def freezing(pattern):
    return SimpleNamespace(freeze=pattern, freeze_steps=0)


def test_split_parameters_are_joined_again():
    params = {"img": {"a": 1, "b": 2}, "txt": {"a": 3}}
    assert optim.split(params, freezing("^img/a|txt")) == (
        {"img": {"a": None, "b": 2}, "txt": {"a": None}},
        {"img": {"a": 1, "b": None}, "txt": {"a": 3}},
    )
    for freeze in ("", "^img/a", "txt"):
        assert optim.join(*optim.split(params, freezing(freeze))) == params
    with pytest.raises(ValueError, match=r"optim\.freeze='head' is found in none of: img/a, "):
        optim.split(params, freezing("head"))


def test_a_model_can_hold_its_parameters_within_bounds(monkeypatch):
    exp, state, batch = frozen_run("")
    monkeypatch.setattr(
        type(exp.model), "constrain", lambda self, params: jax.tree.map(jnp.zeros_like, params)
    )
    state, metrics = step.make_train_step(exp)(state, batch)
    assert metrics["param_norm"] == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.params))


def test_each_micro_batch_has_a_dropout_key_of_its_own():
    """Of equal micro-batches, the gradients differ by their dropout alone."""
    params = {"w": jnp.ones(1000)}
    batch = {"image": jnp.ones((4, 1))}

    def forward(params, model_state, batch, key):
        return params["w"] * jax.random.bernoulli(key, 0.5, (1000,)), model_state

    def loss_of(out, batch):
        return jnp.mean(out), {}

    grads, *_ = step._averaged_gradient(2, forward, loss_of, params, {}, batch, jax.random.key(0))
    values, counts = np.unique(np.round(np.asarray(grads["w"]) * 1000, 3), return_counts=True)
    np.testing.assert_allclose(values, [0, 0.5, 1])
    assert (counts > 200).all()
