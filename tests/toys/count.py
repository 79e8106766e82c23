"""A task from outside of the package: how many blobs are there? Folders are called 0, 1, 2, ..."""

import jax.numpy as jnp
import numpy as np

from vit_jax.tasks import plain, register
from vit_jax.tasks.base import Metric, Task


def get_metric(name, loss):
    metrics = {
        "error": Metric(lambda out, batch: jnp.abs(out - batch["label"])),
        "bias": Metric(lambda out, batch: out - batch["label"], lambda each: abs(np.mean(each))),
    }
    if name not in metrics:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(metrics)}")
    return metrics[name]


register(
    Task(
        name="count",
        truths=("label",),
        losses={"mse": lambda out, batch: jnp.square(out - batch["label"])},
        metric=get_metric,
        metrics=("error",),
        report=plain.report,
        predictor=plain.predictor(lambda out: f"{out:.1f} blobs"),
    )
)
