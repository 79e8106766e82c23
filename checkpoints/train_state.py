"""Checkpoints of a whole train state, with orbax: asynchronous, the last few and the best."""

import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN


@dataclasses.dataclass(frozen=True)
class _Chosen:
    """Preserves the checkpoints whose steps a function chooses of all that there are."""

    choose: Callable[[Sequence[int]], Collection[int]]

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        chosen = self.choose(steps)
        return [step in chosen for step in steps]


class Checkpointer:
    """Saves train states and finds them again.

    Args:
        directory: where the checkpoints lie, one folder per step.
        keep: how many of the last to keep, besides the best.
        best_metric: the metric that decides which is the best.
        best_mode: "max" or "min".
        also: which to keep besides, of the steps of all that there are, in order.

    Raises:
        ValueError: if `keep` or `best_mode` does not fit.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        keep: int,
        best_metric: str,
        best_mode: str,
        also: Callable[[Sequence[int]], Collection[int]] = lambda steps: (),
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep_checkpoints must be at least 1, not {keep}")
        if best_mode not in ("max", "min"):
            raise ValueError(f"best_mode must be 'max' or 'min', not {best_mode!r}")

        def score(metrics: Mapping[str, float]) -> float:
            return metrics[best_metric]

        best = BestN(
            get_metric_fn=score,
            reverse=best_mode == "min",
            n=1,
            keep_checkpoints_without_metrics=False,
        )
        self.directory = epath.Path(directory).resolve()
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=score,
                best_mode=best_mode,
                preservation_policy=AnyPreservationPolicy([LatestN(keep), best, _Chosen(also)]),
            ),
            item_handlers=ocp.StandardCheckpointHandler(),  # or it knows no shapes before a save
        )

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the last complete checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the best checkpoint; of the last if none was saved with metrics."""
        best = self._manager.best_step()
        return self.latest_step if best is None else best

    def save(self, step: int, state: Any, metrics: Mapping[str, float] | None) -> None:
        """Starts to write a state; returns when the arrays may be changed again.

        Raises:
            OSError: if that fails, or writing the one before did.
        """
        with self._explained():
            self._manager.save(
                step,
                args=ocp.args.StandardSave(state),
                metrics=None if metrics is None else dict(metrics),
            )

    def check(self) -> None:
        """Raises an OSError if what is written in the background has failed."""
        with self._explained():
            self._manager.check_for_errors()

    def restore(self, step: int, abstract_state: Any) -> Any:
        """Reads a state.

        Args:
            step: of the checkpoint.
            abstract_state: tree of `jax.ShapeDtypeStruct` with the shardings wanted. If it is a
                dataclass, its fields that are None need not be in the checkpoint, which can be
                older than they are.

        Returns:
            The state.

        Raises:
            ValueError: if the checkpoint holds another state.
        """
        if not dataclasses.is_dataclass(abstract_state) or isinstance(abstract_state, type):
            return self._restore(step, abstract_state)
        fields = {
            f.name: getattr(abstract_state, f.name) for f in dataclasses.fields(abstract_state)
        }
        saved = self._manager.item_metadata(step) or fields
        known = {name: part for name, part in fields.items() if part is not None or name in saved}
        return dataclasses.replace(abstract_state, **self._restore(step, known))

    def _restore(self, step: int, abstract_state: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.StandardRestore(abstract_state))
        except ValueError as error:
            raise ValueError(
                f"{self.directory}/{step} does not fit the run's config: {error}"
            ) from error

    def restore_as_saved(self, step: int) -> dict[str, Any]:
        """Reads a state without knowing its shape: a tree of numpy arrays."""
        saved = self._manager.item_metadata(step)
        abstract = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), saved)
        return self.restore(step, abstract)

    def wait(self) -> None:
        """Waits until what was saved is on disk; raises an OSError if that failed."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the folder; raises an OSError if writing failed."""
        with self._explained():
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Says where writing failed; TensorStore raises a ValueError for a full disk."""
        try:
            yield
        except (OSError, ValueError) as error:
            code = re.search(r"os_error_code='(\d+)'", str(error))
            number = int(code[1]) if code else getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error).splitlines()[0]
            # Not latest_step, which may count the one that has just failed.
            saved = [int(path.name) for path in self.directory.iterdir() if path.name.isdigit()]
            last = f"step {max(saved)}" if saved else "the beginning"
            raise OSError(
                f"cannot write a checkpoint to {self.directory}: {reason}. Mend that, and run the "
                f"same command to continue from {last}"
            ) from error

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
