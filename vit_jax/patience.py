"""When a training is given up early."""

from collections.abc import Iterable, Mapping
from typing import Any


class Patience:
    """Counts evaluations since the best one, for `config.early_stopping`.

    Args:
        config: of the run.
        lines: of its metrics.jsonl, those of a run that is continued.
        start: steps made before; later lines do not count.
    """

    def __init__(self, config: Any, lines: Iterable[Mapping[str, Any]], start: int) -> None:
        self._allowed = config.early_stopping
        self._metric = config.best_metric
        self._sign = 1 if config.best_mode == "max" else -1
        self._best_step = 0
        self._best: float | None = None
        self._since = 0
        for line in lines:
            if line["split"] == "val" and line["step"] <= start:
                self.add(line["step"], line)

    def add(self, step: int, figures: Mapping[str, Any]) -> None:
        """Takes the figures of an evaluation; one as good as the best is no better."""
        value = self._sign * figures[self._metric]
        if self._best is None or value > self._best:
            self._best, self._best_step, self._since = value, step, 0
        else:
            self._since += 1

    def is_over(self) -> bool:
        """Whether there were as many evaluations without a better one as are allowed."""
        return 0 < self._allowed <= self._since

    def __str__(self) -> str:
        return (
            f"stopped early, since in {self._since} evaluations no {self._metric} was better than "
            f"that of step {self._best_step}"
        )
