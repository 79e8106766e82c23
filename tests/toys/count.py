"""A task from outside of the package: how many blobs are there? Images are called COUNT_*.png."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np

from input_pipeline.sources import Kind, register_kind
from vit_jax.tasks import plain, register
from vit_jax.tasks.base import Metric, Task


def mse(out, batch):
    return jnp.square(out - batch["count"])


def get_metric(name, loss):
    metrics = {
        "error": Metric(lambda out, batch: jnp.abs(out - batch["count"])),
        "bias": Metric(lambda out, batch: out - batch["count"], lambda each: abs(np.mean(each))),
    }
    if name not in metrics:
        raise ValueError(f"unknown metric {name!r}; there are: {', '.join(metrics)}")
    return metrics[name]


def splits(config):
    from input_pipeline.cpu_tf import tf
    from input_pipeline.sources.base import IndexedSource

    def source(folder):
        paths = sorted(folder.glob("*.png"))
        counts = np.array([int(path.name.split("_")[0]) for path in paths], np.float32)
        return IndexedSource(
            {"path": np.array([str(path) for path in paths]), "count": counts},
            truths=("count",),
            loader=lambda row: {**row, "image": tf.io.read_file(row["path"])},
            names=tuple(path.name for path in paths),
        )

    return {name: source(Path(config.source) / name) for name in ("train", "val")}


register_kind("blobs", Kind(splits, ("count",)))
register(
    Task(
        name="count",
        truths=("count",),
        losses={"mse": mse},
        metric=get_metric,
        metrics=("error",),
        kind="blobs",
        report=plain.report,
        predictor=plain.predictor(lambda out: f"{out:.1f} blobs"),
    )
)
