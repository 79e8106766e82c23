"""Optical flow: two frames in, by how many pixels each point of the first has moved out."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import flow_tiles, optical_flow
from vit_jax.tasks import plain
from vit_jax.tasks.base import Batch, Metric, Task


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by PROTOCOL/FIGURE, such as "sintel/epe", see `optical_flow.find_figure`."""
    del loss
    figure = optical_flow.find_figure(name)
    return Metric(figure.each, figure.finish, figure.needs)


def prepare(config: Any, model: Any) -> Callable[[jax.Array, Batch], Batch] | None:
    """Makes the noise that is added to frames to train on, see `optical_flow.add_noise`.

    Raises:
        ValueError: for noise of a deviation below 0 or above 255.
    """
    del model
    most = config.flow.noise
    if not 0 <= most <= 255:
        raise ValueError(f"flow.noise must be a deviation from 0 to 255, not {most}")
    return functools.partial(optical_flow.add_noise, most=most) if most else None


def baseline(model: Any, batch: Batch) -> jax.Array:
    """No flow at all, as between two equal frames."""
    del model
    return jnp.zeros_like(batch["flow"])


TASK = Task(
    name="flow",
    truths=("flow", "valid"),
    inputs=("image", "image2"),
    losses={"sequence": optical_flow.sequence},
    metric=get_metric,
    metrics=("chairs/epe", "chairs/1px", "chairs/3px", "chairs/5px"),
    kind="flow",
    settings=("flow.tile", "flow.iterations", "flow.noise"),
    prepare=prepare,
    baseline=baseline,
    answer=flow_tiles.make_answer,
    report=plain.report,
    predictor=plain.predictor(str),
)
