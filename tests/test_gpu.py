"""What a GPU must do as well as a CPU does: pytest -m gpu. It needs no TensorFlow."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import common
from input_pipeline import MadeUp
from tests.helpers import noise, random_variables
from vit_jax import experiment, ops
from vit_jax.machinery import sharding
from vit_jax.models import get_model
from vit_jax.ops import compiling
from vit_jax.step import make_train_step
from vit_jax.tasks import get_task

pytestmark = pytest.mark.gpu

SMALL = {
    "ViT-S_16": dict(patch_size=8, hidden_size=128, num_layers=2, num_heads=2, mlp_dim=256),
    "Swin-T": dict(embed_dim=32, depths=(2, 2), num_heads=(1, 2), drop_path_rate=0.0),
    "DehazeFormer-T": dict(depths=(1, 2, 2, 1, 1)),
    "SwinIR-lightweight-x2": dict(depths=(2,), num_heads=(6,), drop_path_rate=0.0),
    "Mixer-B_16": dict(
        patch_size=8, num_blocks=2, hidden_dim=64, tokens_mlp_dim=32, channels_mlp_dim=128
    ),
    "RRDB-x4": dict(num_blocks=1),
    "ResNet-50": dict(depths=(1, 1, 2, 1)),
    "EfficientFormerV2-S0": {},
    "VT-R18": dict(),
    "FPN-R50": dict(encoder="ResNet-18"),
    "Swin-T-UPerNet": dict(features=64, auxiliary_features=32, drop_path_rate=0.0),
}


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if jax.default_backend() != "gpu":
        pytest.skip(f"JAX finds no GPU here, but {jax.devices()[0]}")


def error(found, expected):
    """Largest difference by the largest magnitude."""
    found, expected = (np.asarray(x, np.float64) for x in (found, expected))
    assert np.isfinite(found).all()
    return np.max(np.abs(found - expected)) / np.max(np.abs(expected))


def on_cpu(function, *args):
    """The function's value, and those of its arguments' gradients, in float32 on the CPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        args = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, np.float32)), args)
        return jax.jit(function)(*args)


def with_gradients(function):
    """Makes a function that returns its value, and gradients of a sum with fixed weights."""

    def both(*args):
        out, pull = jax.vjp(function, *args)
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *pull(weights.astype(out.dtype))

    return both


@pytest.mark.parametrize("tokens", [64, 197, 577])
@pytest.mark.parametrize("implementation", [None, "xla", "cudnn"])
def test_attention_and_its_gradients(implementation, tokens):
    """In bfloat16, against float32 on the CPU; the inputs are the same."""
    q, k, v = (jnp.asarray(noise((2, tokens, 3, 64), seed), jnp.bfloat16) for seed in range(3))
    expected = on_cpu(with_gradients(ops.attention), q, k, v)
    attend = functools.partial(ops.attention, implementation=implementation)
    for ours, reference in zip(jax.jit(with_gradients(attend))(q, k, v), expected):
        assert error(ours, reference) < 0.015  # 8 bits are a step of 0.004


@pytest.mark.parametrize(("tokens", "length"), [(64, None), (77, None), (78, 77)])
@pytest.mark.parametrize("is_masked", [False, True])
def test_causal_attention_and_its_gradients(is_masked, tokens, length):
    """As towers of texts have it, in bfloat16, against float32 on the CPU."""
    q, k, v = (jnp.asarray(noise((2, tokens, 3, 64), seed), jnp.bfloat16) for seed in range(3))
    mask = np.arange(tokens) < [[tokens], [tokens // 2]] if is_masked else None
    attend = functools.partial(ops.attention, length=length, mask=mask, causal=True)
    expected = on_cpu(with_gradients(attend), q, k, v)
    for ours, reference in zip(jax.jit(with_gradients(attend))(q, k, v), expected):
        assert error(ours, reference) < 0.015


def choose_for_cpu(monkeypatch, value):
    monkeypatch.setattr(compiling, "is_for_cpu", lambda: value)
    jax.clear_caches()


@pytest.mark.parametrize("op", ["conv", "depthwise_conv", "attention", "attention_with_bias"])
def test_what_ops_choose_for_a_cpu_is_the_same(op, monkeypatch):
    """Both ways on the GPU, in float32 of full precision."""
    if op.startswith("attention"):
        bias = [noise((1, 3, 49, 49), 3)] if op == "attention_with_bias" else []
        args = [*(noise((2, 49, 3, 32), seed) for seed in range(3)), *bias]
        function = ops.attention
    else:
        inputs = 1 if op == "depthwise_conv" else 8
        args = [noise((2, 20, 22, 8)), noise((5, 5, inputs, 8), 1)]
        function = getattr(ops, op)
    found = []
    for is_for_cpu in (True, False):
        choose_for_cpu(monkeypatch, is_for_cpu)
        with jax.default_matmul_precision("highest"):
            found.append(jax.jit(with_gradients(function))(*args))
    for one, other in zip(*found):
        assert error(one, other) < 1e-5


@pytest.mark.parametrize("shift", [(0, 0), (3, 3)])
@pytest.mark.parametrize(("window", "channels"), [((7, 7), 32), ((8, 8), 30), ((8, 8), 10)])
def test_window_attention_and_its_gradients(window, channels, shift):
    heads, (h, w) = 2, (2 * window[0], 3 * window[1])
    qkv = jnp.asarray(noise((2, h, w, 3 * heads * channels)), jnp.bfloat16)
    table = jnp.asarray(noise(((2 * window[0] - 1) * (2 * window[1] - 1), heads), 1))
    function = functools.partial(ops.window_attention, window=window, shift=shift)
    expected = on_cpu(with_gradients(function), qkv, table)
    for ours, reference in zip(jax.jit(with_gradients(function))(qkv, table), expected):
        assert error(ours, reference) < 0.015


@pytest.mark.parametrize("name", SMALL)
def test_models_against_the_cpu(name):
    """In float32 of full precision, and in bfloat16."""
    size = (64, 64)
    model = get_model(name, **SMALL[name])
    variables = random_variables(model, size, deviation=0.06)
    images = noise((2, *size, 3))
    expected = on_cpu(model.apply, variables, images)
    apply = jax.jit(model.apply)
    with jax.default_matmul_precision("highest"):
        assert error(apply(variables, images), expected) < 2e-5
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)
    assert error(half(variables, images), expected) < 0.03


def make_experiment(name, size=64, **settings):
    config = common.get_config()
    config.model_name, config.dtype = name, "bfloat16"
    config.model.update(SMALL[name])
    config.batch_size, config.total_steps = 8 * jax.device_count(), 100
    config.optim.learning_rate = 1e-3
    config.schedule.name = "constant"
    model = get_model(name, **SMALL[name])
    task = get_task(model)
    config.loss, config.metrics, config.best_metric = next(iter(task.losses)), (), "loss"
    config.update(settings)
    (truth,) = task.truths
    classes = 0 if truth == "target" else 10
    data = MadeUp((size, size, 3), config.batch_size, classes, model.upscale, truth=truth)
    return experiment.build(config, data)


def run(exp, steps):
    """Losses of some steps; and whether the state that each step took is given up."""
    state, step = exp.init_state(), make_train_step(exp)
    losses = []
    for batch in sharding.to_devices(exp.data.train_batches(), exp.mesh):
        before, (state, metrics) = state, step(state, batch)
        assert all(x.is_deleted() for x in jax.tree.leaves(before.params))
        losses.append(float(metrics["loss"]))
        if len(losses) == steps:
            return losses


@pytest.mark.parametrize("name", SMALL)
def test_the_loss_falls_and_buffers_are_donated(name):
    losses = run(make_experiment(name), 10)
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.95 * losses[0]


def test_fsdp_over_all_devices():
    with_fsdp = run(make_experiment("ViT-S_16", fsdp=jax.device_count()), 5)
    np.testing.assert_allclose(with_fsdp, run(make_experiment("ViT-S_16"), 5), rtol=2e-3)


@pytest.mark.parametrize("name", ["ViT-S_16", "Swin-T", "SwinIR-lightweight-x2"])
def test_remat(name):
    model = {**SMALL[name], "remat": True}
    expected = run(make_experiment(name), 5)
    np.testing.assert_allclose(run(make_experiment(name, model=model), 5), expected, rtol=5e-3)
