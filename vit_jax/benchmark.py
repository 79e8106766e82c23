"""Times a model on this machine: python -m vit_jax.benchmark [inference] [train] [--model=NAME]."""

import functools
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from absl import flags

from vit_jax import cli
from vit_jax.inference_time import describe_machine, measure
from vit_jax.losses import softmax_xent
from vit_jax.models import get_model

_MODEL = flags.DEFINE_string("model", "ViT-S_16", "Name of the model.")
_BATCH = flags.DEFINE_integer("batch_size", 4, "Images per step.", lower_bound=1)
_SIZE = flags.DEFINE_integer("image_size", 224, "Side of the images in pixels.", lower_bound=1)
_DTYPE = flags.DEFINE_string("dtype", "float32", "Compute type.")
_STEPS = flags.DEFINE_integer("steps", 10, "Steps that are timed, after one more.", lower_bound=1)
_JSON = flags.DEFINE_string("json", None, "File for the results.")


def main(argv: Sequence[str]) -> int:
    """Runs the suites, all of them by default, and prints a table."""
    suites = argv[1:] or list(_SUITES)
    for suite in suites:
        if suite not in _SUITES:
            raise ValueError(f"unknown suite {suite!r}; there are: {', '.join(_SUITES)}")
    where = describe_machine()
    print(f"{_MODEL.value}, batch {_BATCH.value}, {_SIZE.value} pixels, {_DTYPE.value}; {where}")
    print(f"{'suite':10}{'compile s':>12}{'median ms':>12}{'least ms':>12}{'images/s':>12}")
    results = []
    for suite in suites:
        result = {"suite": suite, **_time(*_SUITES[suite]())}
        results.append(result)
        print(
            f"{suite:10}{result['compile_s']:12.2f}{result['median_ms']:12.1f}"
            f"{result['least_ms']:12.1f}{result['images_per_s']:12.1f}"
        )
    if _JSON.value is not None:
        settings = {flag.name: flag.value for flag in (_MODEL, _BATCH, _SIZE, _DTYPE)}
        report = {"machine": where, **settings, "results": results}
        Path(_JSON.value).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def _time(step: Any, args: tuple[Any, ...], carry: bool) -> dict[str, float]:
    """Times a jitted function as the flags say; see `measure`."""
    compile_s, seconds = measure(step, args, 1, _STEPS.value, carry)
    median = statistics.median(seconds)
    return {
        "compile_s": compile_s,
        "median_ms": 1000 * median,
        "least_ms": 1000 * min(seconds),
        "images_per_s": _BATCH.value / median,
    }


def _inference() -> tuple[Any, tuple[Any, ...], bool]:
    model, images, _ = _model_and_data()
    variables = jax.jit(model.init)(jax.random.key(0), images)
    return jax.jit(functools.partial(model.apply, train=False)), (variables, images), False


def _train() -> tuple[Any, tuple[Any, ...], bool]:
    model, images, labels = _model_and_data()
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    tx = optax.adamw(1e-3)

    def loss_of(params: Any) -> jax.Array:
        rngs = {"dropout": jax.random.key(1)}
        out = model.apply({"params": params}, images, train=True, rngs=rngs)
        return jnp.mean(softmax_xent(out, {"label": labels}))

    def step(state: Any) -> Any:
        params, opt_state = state
        updates, opt_state = tx.update(jax.grad(loss_of)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return jax.jit(step, donate_argnums=0), ((params, jax.jit(tx.init)(params)),), True


def _model_and_data() -> tuple[Any, jax.Array, jax.Array]:
    model = get_model(_MODEL.value, dtype=_DTYPE.value)
    shape = (_BATCH.value, _SIZE.value, _SIZE.value, 3)
    images = jax.random.uniform(jax.random.key(2), shape, minval=-1, maxval=1)
    labels = jnp.arange(_BATCH.value, dtype=jnp.int32) % model.num_classes
    return model, images, labels


_SUITES = {"inference": _inference, "train": _train}


if __name__ == "__main__":
    cli.run(main)
