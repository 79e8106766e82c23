"""Optical flow: two frames in, by how many pixels each point of the first has moved out."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import flow_tiles, optical_flow
from vit_jax.options import FlowOptions
from vit_jax.tasks import plain
from vit_jax.tasks.base import (
    Batch,
    Metric,
    Output,
    Panel,
    Predictor,
    Pretrained,
    Report,
    Task,
)


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


def make_report(data: Any, split: str, config: Any) -> Report:
    """Makes the report of a split, see `Task.report`."""
    from vit_jax.flow_report import FlowReport  # which imports this package

    return FlowReport(data.splits[split].names, config)


# A person's frames.


def make_predictor(pretrained: Pretrained, options: FlowOptions, output: Path | None) -> Predictor:
    """Makes what estimates the flow of a person's frames and videos.

    Raises:
        ValueError: for options that do not fit.
    """
    from vit_jax import flow_predictor  # which imports this package

    given = {name: value for name, value in vars(options).items() if value is not None}
    return flow_predictor.FlowPredictor(pretrained, flow_predictor.Settings(**given), output)


def make_panel(pretrained: Pretrained) -> Panel:
    """Both frames with the flow in colours, and the flow as a file."""
    predictor = make_predictor(pretrained, FlowOptions(compare=True), Path())

    def answer(first: str, second: str) -> Sequence[Any]:
        found = plain.ask(predictor, (first, second))
        by_ending = {file.suffix: (file.name, data) for file, data in found.files.items()}
        drawn = [data for file, data in found.files.items() if file.parts[0] == "compare"]
        return next(iter(drawn), None), by_ending[".flo"]

    asks = {"First frame": "image", "Second frame": "image"}
    says = "drop two frames of a video to see what moves where"
    return Panel(says, asks, {"Flow": "picture", "As .flo": "file"}, answer)


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
    output=lambda model, loss: Output("flow"),
    answer=flow_tiles.make_answer,
    report=make_report,
    predictor=make_predictor,
    options=FlowOptions,
    usage="--output=OUT FRAME1 FRAME2",
    panel=make_panel,
)
