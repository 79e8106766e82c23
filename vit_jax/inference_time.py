"""How fast a model classifies: python -m vit_jax.main --mode=benchmark."""

import functools
import json
import os
import platform
import re
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from ml_collections import ConfigDict

from configs import inference_time as defaults
from vit_jax import ops
from vit_jax.machinery import processes, sharding
from vit_jax.models import get_model


def run(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, Any]:
    """Times a model's inference on random images, spread over all devices.

    Prints a table, and writes the figures to inference_time.json in the workdir.

    Args:
        config: from `configs/inference_time.py`.
        workdir: folder for the file.

    Returns:
        What is written: the settings, `seconds` of each step, and the least, median and largest
        number of images per second and device.

    Raises:
        ValueError: if the config does not fit itself or the devices.
    """
    _check_settings(config)
    mesh = sharding.make_mesh(1)
    sharding.check_batch(mesh, config.batch_size, 1)
    model = get_model(config.model_name, **{"dtype": config.dtype, **config.model})
    key = jax.random.key(config.seed)
    shape = (config.batch_size, *config.image_size, 3)
    make_images = jax.jit(
        lambda: jax.random.uniform(key, shape, minval=-1, maxval=1),
        out_shardings=sharding.batch_sharding(mesh),
    )
    init = jax.jit(model.init, out_shardings=sharding.replicated(mesh))
    variables = init(key, jnp.zeros((1, *shape[1:])))

    apply = jax.jit(
        functools.partial(model.apply, train=False), compiler_options=ops.compiler_options()
    )
    compile_s, seconds = measure(
        apply, (variables, make_images()), config.warmup_steps, config.steps
    )

    rates = [config.batch_size / mesh.size / s for s in seconds]
    result = {
        **json.loads(config.to_json()),
        "machine": describe_machine(),
        "devices": mesh.size,
        "parameters": sum(x.size for x in jax.tree.leaves(variables)),
        "compile_s": compile_s,
        "seconds": seconds,
        "images_per_s_and_device": {
            "min": min(rates), "median": statistics.median(rates), "max": max(rates),
        },
    }  # fmt: skip
    if not processes.is_first():
        return result
    path = epath.Path(workdir).expanduser() / "inference_time.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2) + "\n")
    print(_format_result(result))
    print(f"the figures are in {path}")
    return result


def _check_settings(config: ConfigDict) -> None:
    known = defaults.get_config()
    unknown = sorted(set(config) - set(known))
    missing = sorted(set(known) - set(config))
    if unknown or missing:
        raise ValueError(
            "--mode=benchmark takes configs/inference_time.py, whose keys are "
            f"{', '.join(known)}; unknown: {', '.join(unknown) or 'none'}; missing: "
            f"{', '.join(missing) or 'none'}"
        )
    if len(config.image_size) != 2 or min(config.image_size) < 1:
        raise ValueError(f"image_size must be (height, width), not {config.image_size}")
    for name, least in (("batch_size", 1), ("steps", 1), ("warmup_steps", 0)):
        if config[name] < least:
            raise ValueError(f"{name} must be at least {least}, not {config[name]}")


def _format_result(result: dict[str, Any]) -> str:
    height, width = result["image_size"]
    rates = result["images_per_s_and_device"]
    rows = [
        ("model", f"{result['model_name']}, {result['parameters']:,} parameters"),
        ("machine", f"{result['devices']} x {result['machine']}"),
        ("batch", f"{result['batch_size']} of {height} x {width} pixels, {result['dtype']}"),
        ("compilation", f"{result['compile_s']:.2f} s"),
        ("steps", f"{result['steps']} after {result['warmup_steps']} to warm up"),
        *[(f"images/s, {which}", f"{rate:.1f} per device") for which, rate in rates.items()],
    ]
    return "\n".join(f"{name:18}{value}" for name, value in rows)


def describe_machine() -> str:
    """Says what the figures were measured on."""
    device = jax.devices()[0]
    kind = device.device_kind
    if device.platform == "cpu":
        names = re.findall(r"^model name\s*: (.*)", _read("/proc/cpuinfo"), re.MULTILINE)
        kind = f"{len(names) or os.cpu_count()} cores of {(names or ['a CPU'])[0]}"
    return f"{kind}, {platform.platform()}, jax {jax.__version__}"


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if Path(path).exists() else ""


def measure(
    step: Any, args: tuple[Any, ...], warmup: int, steps: int, carry: bool = False
) -> tuple[float, list[float]]:
    """Times a jitted function.

    Args:
        step: the function.
        args: its arguments.
        warmup: calls that are not timed.
        steps: calls that are.
        carry: whether each call takes the result of the one before in place of its one argument,
            as a training step does, which uses its argument up.

    Returns:
        Seconds of the compilation, and of each call.
    """
    start = time.perf_counter()
    compiled = step.lower(*args).compile()
    compile_s = time.perf_counter() - start
    seconds = []
    for i in range(warmup + steps):
        start = time.perf_counter()
        result = jax.block_until_ready(compiled(*args))
        if i >= warmup:
            seconds.append(time.perf_counter() - start)
        args = (result,) if carry else args
    return compile_s, seconds
