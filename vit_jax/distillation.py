"""Distillation: a trained classifier, the teacher, says besides the labels what should come out.

Source: Touvron et al., "Training data-efficient image transformers & distillation through
attention" (DeiT, ICML 2021), as its code has it; EfficientFormerV2 is trained in the same way.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vit_jax import pretrained, weights
from vit_jax.models.base import Model
from vit_jax.parts import Metrics, Part
from vit_jax.tasks.base import Batch, Out

# In what a model with a head for the teacher returns when it is trained. If it has a field of that
# name, that says whether there is a teacher.
DISTILLED = "distilled"


def hard_loss(logits: jax.Array, teacher: jax.Array) -> jax.Array:
    """Cross-entropy to the class that the teacher holds likeliest, in nats.

    Args:
        logits: (b, classes) of the model.
        teacher: (b, classes) logits.

    Returns:
        (b,) float32.
    """
    labels = jnp.argmax(teacher, axis=-1)
    return optax.softmax_cross_entropy_with_integer_labels(logits.astype(jnp.float32), labels)


def soft_loss(logits: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Kullback-Leibler divergence from the teacher's softened distribution.

    As in DeiT's code it is multiplied by the square of the temperature, and divided by the number
    of classes.

    Args:
        logits: (b, classes) of the model.
        teacher: (b, classes) logits.
        temperature: both are divided by it.

    Returns:
        (b,) float32.
    """
    ours, theirs = (
        jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, teacher)
    )
    return jnp.mean(jnp.exp(theirs) * (theirs - ours), axis=-1) * temperature**2


@dataclasses.dataclass(frozen=True)
class Distillation(Part):
    """A teacher's share of the loss.

    Attributes:
        model: the teacher.
        constants: its variables.
        kind: "hard" or "soft".
        weight: of the teacher's loss; that of the labels has the rest to 1.
        temperature: of the soft kind.
    """

    model: Model
    constants: Any
    kind: str
    weight: float
    temperature: float

    @classmethod
    def load(cls, config: ConfigDict, student: Any, data: Any) -> "Distillation":
        """Loads the teacher of `config.distill`, for the images that the student is trained on.

        Raises:
            ValueError: if it is not there, or is for other classes or other values of images.
        """
        where = f"distill.teacher={config.distill.teacher}"
        size = data.train_image_shape[:2]
        try:
            path = weights.find(config.distill.teacher, config.pretrained_dir)
            teacher = pretrained.load(path, image_size=size)
        except ValueError as error:
            raise ValueError(f"{where}, for images of {size} pixels: {error}") from None
        if teacher.model.task != student.task:
            raise ValueError(f"{where} is for {teacher.model.task}, the model for {student.task}")
        if teacher.model.num_classes != student.num_classes:
            raise ValueError(
                f"{where} tells {teacher.model.num_classes} classes apart, and the data has "
                f"{student.num_classes}"
            )
        names = data.class_names
        if teacher.labels is not None and names and tuple(teacher.labels) != tuple(names):
            raise ValueError(
                f"{where} has other classes, or has them in another order: {teacher.labels[:3]} "
                f"..., and the data {names[:3]} ..."
            )
        expected, prepared = (
            spec.rpartition("|")[2].replace(" ", "")
            for spec in (teacher.eval_pp, config.data.train_pp)
        )
        if expected != prepared:
            raise ValueError(
                f"{where} takes images whose preprocessing ends with {expected}, and data.train_pp "
                f"ends with {prepared}: let both end alike"
            )
        settings = config.distill
        return cls(
            teacher.model, teacher.variables, settings.kind, settings.weight, settings.temperature
        )

    def add(
        self, total: jax.Array, constants: Any, state: Any, out: Out, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        del state
        teacher: Any = self.model.apply(constants, batch["image"], train=False)
        # A model with one head learns from both by it, as DeiT does without its token.
        logits = out[DISTILLED] if isinstance(out, Mapping) else out
        if self.kind == "hard":
            each = hard_loss(logits, teacher)
        else:
            each = soft_loss(logits, teacher, self.temperature)
        loss = jnp.mean(each)
        return (1 - self.weight) * total + self.weight * loss, {"distillation": loss}
