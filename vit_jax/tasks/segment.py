from vit_jax import segmentation
from vit_jax.tasks.base import Batch, Metric, Task
import numpy as np


def get_metric(name: str, loss: str) -> Metric:
    """Finds a metric by name, see `segmentation.split_figures`.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    del loss
    known = segmentation.FIGURES
    if name not in known:
        raise ValueError(f"unknown metric {name!r}; of masks there are: {', '.join(known)}")

    def finish(each: np.ndarray) -> float:
        counts = np.sum(each, axis=0, dtype=np.int64)
        return float(segmentation.split_figures(counts)[name])

    return Metric(segmentation.count_pixels, finish)
TASK = Task(name="segment",truths=("mask",),losses={"pixel_xent": segmentation.pixel_xent, "pixel_xent_all": segmentation.pixel_xent_all, "dice": segmentation.dice},
 metric=get_metric, report=None, predictor=None)
