"""How often a run is evaluated where its config does not say."""

import math
from typing import Any

_FEWEST = 10  # evaluations of a run
_MOST = 100


def eval_every(total_steps: int, data: Any) -> int:
    """Steps between evaluations: an epoch, where that is neither too often nor too seldom.

    A run of more than 100 epochs is evaluated at most 100 times, each after a whole number of
    epochs. One of fewer than 10 epochs is evaluated ten times, unless there are more examples to
    validate than are trained on between, so that evaluating never is most of the work.

    Args:
        total_steps: of the run.
        data: with its `steps_per_epoch`, `batch_size` and `splits`, see `input_pipeline.Dataset`.
    """
    epoch = max(round(data.steps_per_epoch), 1)
    if total_steps > _MOST * epoch:
        return epoch * math.ceil(total_steps / (_MOST * epoch))
    val = data.splits.get("val")
    batches = math.ceil(val.num_examples / data.batch_size) if val is not None else 1
    return min(epoch, max(total_steps // _FEWEST, batches, 1))
