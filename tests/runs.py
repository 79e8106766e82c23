"""What runs leave behind, compared and waited for."""

import time

import jax
import numpy as np

from checkpoints import npz
from checkpoints.train_state import Checkpointer
from vit_jax.workdir import Workdir


def assert_same_runs(one, other, has_means=True):
    """Both have the same last state, with the optimizer's and the averages, metrics and weights.

    Args:
        one: a workdir.
        other: another one.
        has_means: whether both made the same steps between two lines of the training; a run that
            was continued between them has means over fewer.
    """
    states = []
    for workdir in map(Workdir, (one, other)):
        config = workdir.read_config()
        with Checkpointer(
            workdir.checkpoints, config.keep_checkpoints, config.best_metric, config.best_mode
        ) as checkpointer:
            states.append(checkpointer.restore_as_saved(checkpointer.latest_step))
    assert states[0]["opt_state"]
    jax.tree.map(np.testing.assert_array_equal, *states)
    weights = [npz.load(workdir / "weights.npz") for workdir in (one, other)]
    jax.tree.map(np.testing.assert_array_equal, *weights)
    lines = [Workdir(workdir).read_metrics() for workdir in (one, other)]
    for line in (*lines[0], *lines[1]):
        line.pop("data_wait", None)  # a time
        if line["split"] == "train" and not has_means:
            line.pop("loss")
            line.pop("grad_norm")
    assert lines[0] == lines[1]


def wait_for_a_checkpoint(workdir):
    """Waits until training is under way; 10 minutes at most."""
    for _ in range(6000):
        if Workdir(workdir)._has_checkpoint():
            return
        time.sleep(0.1)
    raise TimeoutError("no checkpoint was written")
