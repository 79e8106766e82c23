"""Compiling, starting, and training from files in place of an array."""

import functools
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image

from checkpoints import npz, tree
from configs import common
from vit_jax import experiment
from vit_jax.benchmark import plain_flax
from vit_jax.benchmark.race import OURS, Case, Contender
from vit_jax.benchmark.training import make_plain_step
from vit_jax.experiment import Experiment
from vit_jax.machinery import sharding
from vit_jax.models import get_model
from vit_jax.step import make_train_step

UNROLLED, COLD, SYNTHETIC = "unrolled", "cold", "synthetic data"

_STEPS = 4  # of training between two looks at the clock


def scanned(name: str) -> Case:
    """Tracing and compiling a training step with scan over the layers, and without."""

    def contenders(_: Path) -> Iterator[Contender]:
        ours = {scan: get_model(name, scan=scan, dropout_rate=0.0) for scan in (True, False)}
        yield Contender(OURS, lambda: _compile_afresh(ours[True], None))
        yield Contender(UNROLLED, lambda: _compile_afresh(ours[False], None))
        for who, plain in plain_flax.like(ours[False]):
            yield Contender(who, functools.partial(_compile_afresh, plain, None))

    return Case(f"{name}, step compiled: scanned layers", contenders)


def cached(name: str, scan: bool) -> Case:
    """The same with the program in the persistent compilation cache, and without."""

    def contenders(folder: Path) -> Iterator[Contender]:
        model = get_model(name, scan=scan, dropout_rate=0.0)
        _compile_afresh(model, folder)
        yield Contender(OURS, lambda: _compile_afresh(model, folder))
        yield Contender(COLD, lambda: _compile_afresh(model, None))

    how = "scanned" if scan else "unrolled"
    return Case(f"{name}, {how}, step compiled: from the cache", contenders)


def _compile_afresh(model: nn.Module, cache: Path | None) -> None:
    """Traces and compiles a training step of batch 4, as in a new process."""
    batch = {
        "image": jax.ShapeDtypeStruct((4, 224, 224, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
    }
    step, make_state = make_plain_step(model)
    jax.clear_caches()
    compilation_cache.reset_cache()
    old = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", cache and str(cache))
    try:
        params = jax.eval_shape(model.init, jax.random.key(0), batch["image"])["params"]
        step.lower(jax.eval_shape(make_state, params), batch).compile()
    finally:
        jax.config.update("jax_compilation_cache_dir", old)
        compilation_cache.reset_cache()


def predict(name: str) -> Case:
    """The command predict with one image, when its program is in the cache and when it is not."""

    def contenders(folder: Path) -> Iterator[Contender]:
        model = get_model(name)
        side = 256 if model.any_size else 224
        image, weights = folder / "photo.png", folder / "weights.npz"
        Image.effect_noise((side, side), 50).convert("RGB").save(image)
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, side, side, 3)))
        npz.save(weights, tree.merge(variables))
        outputs = (folder / "out" / str(i) for i in itertools.count())

        def run(cache: str) -> None:
            command = [
                sys.executable, "-m", "vit_jax.predict", f"--checkpoint={weights}",
                f"--model={name}", f"--compilation_cache={cache}", str(image),
            ]  # fmt: skip
            if model.any_size:
                command += [f"--output={next(outputs)}"]
            env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
            result = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
            if result.returncode:
                raise ValueError(f"{' '.join(command)} failed: {result.stderr}")

        run(f"{folder}/cache")
        yield Contender(OURS, lambda: run(f"{folder}/cache"))
        yield Contender(COLD, lambda: run(""))

    return Case(f"predict, {name}, one image: program in the cache", contenders)


def train_on_files(name: str, batch: int, dtype: str) -> Case:
    """Training steps on JPEGs, each read and augmented again, and on one batch that is there."""

    def contenders(folder: Path) -> Iterator[Contender]:
        from vit_jax.benchmark import data  # which reads by TensorFlow

        data.write_folder(folder, 200)
        config = common.get_config()
        config.model_name, config.dtype, config.batch_size = name, dtype, batch
        config.data.source, config.total_steps = str(folder), 10**6
        exp = experiment.build(config)
        step = make_train_step(exp)
        read = sharding.to_devices(exp.data.train_batches(), exp.mesh)
        yield _training(OURS, exp, step, read)
        yield _training(SYNTHETIC, exp, step, itertools.repeat(next(read)))

    return Case(f"{name}, {_STEPS} steps of batch {batch}: JPEGs", contenders, _STEPS * batch)


def _training(name: str, exp: Experiment, step: Any, batches: Iterator[Any]) -> Contender:
    state = exp.init_state()

    def call() -> None:
        nonlocal state
        for batch in itertools.islice(batches, _STEPS):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    return Contender(name, call)
