"""What a config can add to the loss of a task in a training step."""

from typing import Any, ClassVar

import jax

from vit_jax.tasks.base import Batch, Out

Metrics = dict[str, jax.Array]


class Part:
    """Adds to a loss, and may make a step of its own after the model's; by itself does neither.

    Attributes:
        constants: arrays that the step needs and does not change, such as a frozen network's.
        follows: whether `follow` does anything.
    """

    constants: Any
    follows: ClassVar[bool] = False

    def add(
        self, total: jax.Array, constants: Any, state: Any, out: Out, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        """Adds to the loss.

        Args:
            total: () the loss so far.
            constants: this part's, as arguments of the compiled step.
            state: the `experiment.TrainState` before the step.
            out: the model's output, through which gradients flow.
            batch: of the step.

        Returns:
            () the loss, and metrics.
        """
        del constants, state, out, batch
        return total, {}

    def follow(self, before: Any, after: Any, out: Out, batch: Batch) -> tuple[Any, Metrics]:
        """Makes a step of its own.

        Args:
            before: the state before the model's step.
            after: the state after it.
            out: what the model made before it.
            batch: of the step.

        Returns:
            The next state, and metrics.
        """
        del before, out, batch
        return after, {}
