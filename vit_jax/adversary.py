"""The discriminator of adversarial training, its losses, and its updates.

Source: Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (ECCV
Workshops 2018): a network like VGG, and the relativistic average losses of Jolicoeur-Martineau,
"The relativistic discriminator" (2018).
"""

import dataclasses
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from vit_jax import ops, optim
from vit_jax.parts import Metrics, Part
from vit_jax.schedules import Schedule
from vit_jax.tasks.base import Batch, Out

_STAGES = (1, 2, 4, 8, 8)  # channels of each stage, in those of the first
_STRIDE = 2 ** len(_STAGES)
_HIDDEN = 100

# PyTorch's default for kernels: uniform within 1 / sqrt(fan_in).
_KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


def _relu(x: jax.Array) -> jax.Array:
    return ops.leaky_relu(x, 0.2)


class Discriminator(nn.Module):
    """Tells real images from generated ones of one size.

    Each of five stages has a convolution of 3 x 3 and one of 4 x 4 with a stride of 2; two dense
    layers follow, so that the parameters are for images of the size that they were made for. The
    batch norms take their statistics over the whole batch, on whatever devices it lies.

    Attributes:
        num_features: channels of the first stage.
        dtype: compute type; parameters, the norms' statistics and the output stay float32.
    """

    num_features: int = 64
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Judges images.

        Args:
            images: (b, h, w, c) float32, about [-1, 1].
            train: whether the norms use, and average, the batch's statistics.

        Returns:
            (b,) float32 logits, high for real images.

        Raises:
            ValueError: if the size of the images, or num_features, does not fit.
        """
        self._validate(images)
        x = images
        for stage, multiple in enumerate(_STAGES):
            for i, (side, stride) in enumerate([(3, 1), (4, 2)]):
                has_norm = (stage, i) != (0, 0)
                x = nn.Conv(
                    self.num_features * multiple, (side, side), strides=stride, padding=1,
                    use_bias=not has_norm, kernel_init=_KERNEL_INIT, dtype=self.dtype,
                    name=f"conv{stage}_{i}",
                )(x)  # fmt: skip
                if has_norm:
                    x = nn.BatchNorm(
                        use_running_average=not train, momentum=0.9, dtype=self.dtype,
                        name=f"norm{stage}_{i}",
                    )(x)  # fmt: skip
                x = _relu(x)
        x = self._dense(_HIDDEN, "hidden")(x.reshape(x.shape[0], -1))
        return self._dense(1, "head")(_relu(x)).astype(jnp.float32)[:, 0]

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=name)

    def _validate(self, images: jax.Array) -> None:
        if self.num_features < 1:
            raise ValueError(f"gan.num_features must be at least 1, not {self.num_features}")
        h, w = images.shape[1:3]
        if h % _STRIDE or w % _STRIDE or not h * w:
            raise ValueError(
                f"the discriminator takes images whose sides are multiples of {_STRIDE} pixels, "
                f"not {h} x {w}: change the crop in data.train_pp"
            )


def relativistic_loss(preferred: jax.Array, other: jax.Array) -> jax.Array:
    """How far images are from looking more real than the others do on average, and vice versa.

    The discriminator's loss prefers the real ones, the generator's the generated ones.

    Source: Jolicoeur-Martineau (2018), eqs. 16 and 17; halved, as in ESRGAN's code, for which the
    published weight is.

    Args:
        preferred: (b,) logits of those that should look more real.
        other: (b,) logits.

    Returns:
        () float32, in nats; log 2 where both look alike.
    """
    above = preferred - jnp.mean(other)
    below = other - jnp.mean(preferred)
    return (jnp.mean(jax.nn.softplus(-above)) + jnp.mean(jax.nn.softplus(below))) / 2


class AdversaryState(flax.struct.PyTreeNode):
    """What a discriminator carries from step to step.

    Attributes:
        params: its parameters, float32.
        batch_stats: the averaged statistics of its norms.
        opt_state: the state of its optimizer.
    """

    params: Any
    batch_stats: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True)
class Adversary:
    """A discriminator in training.

    Attributes:
        model: the network.
        tx: its optimizer.
        image_shape: (h, w, c) of what it judges.
    """

    model: Discriminator
    tx: optax.GradientTransformation
    image_shape: tuple[int, ...]

    def init(self, seed: int) -> AdversaryState:
        """Initialises a state."""
        variables = _init(self.model, self.image_shape, seed)
        params = variables["params"]
        return AdversaryState(params, variables["batch_stats"], self.tx.init(params))

    def generator_loss(self, state: AdversaryState, real: jax.Array, fake: jax.Array) -> jax.Array:
        """Computes what the generator is to make small.

        Args:
            state: of the discriminator, through which gradients flow to `fake`.
            real: (b, h, w, c) images of the data.
            fake: (b, h, w, c) images of the generator.

        Returns:
            () float32, see `relativistic_loss`.
        """
        logits, _ = self._judge(state.params, state.batch_stats, real, fake)
        return relativistic_loss(logits["fake"], logits["real"])

    def update(
        self, state: AdversaryState, real: jax.Array, fake: jax.Array
    ) -> tuple[AdversaryState, dict[str, jax.Array]]:
        """Trains the discriminator by a step, on images as `generator_loss` takes them.

        Returns:
            The next state, and metrics: `discriminator_loss`, and `discriminator_norm`, that of the
            parameters after the step.
        """

        def loss_of(params: Any) -> tuple[jax.Array, Any]:
            logits, batch_stats = self._judge(params, state.batch_stats, real, fake)
            return relativistic_loss(logits["real"], logits["fake"]), batch_stats

        (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"discriminator_loss": loss, "discriminator_norm": optax.tree.norm(params)}
        return AdversaryState(params, batch_stats, opt_state), metrics

    def _judge(
        self, params: Any, batch_stats: Any, real: jax.Array, fake: jax.Array
    ) -> tuple[dict[str, jax.Array], Any]:
        """Gives the logits of both, which are batches of their own to the norms, as in ESRGAN."""
        logits = {}
        for name, images in (("real", real), ("fake", fake)):
            logits[name], new = self.model.apply(
                {"params": params, "batch_stats": batch_stats},
                images,
                train=True,
                mutable=["batch_stats"],
            )
            batch_stats = new["batch_stats"]
        return logits, batch_stats


@dataclasses.dataclass(frozen=True)
class Adversarial(Part):
    """The adversarial loss of a training step, and the discriminator's own step after it.

    Attributes:
        adversary: the discriminator.
        weight: of the loss.
    """

    adversary: Adversary
    weight: float

    constants = None
    follows = True

    def add(
        self, total: jax.Array, constants: Any, state: Any, out: Out, batch: Batch
    ) -> tuple[jax.Array, Metrics]:
        del constants
        loss = self.adversary.generator_loss(state.adversary, batch["target"], out)
        return total + self.weight * loss, {"generator_adversarial": loss}

    def follow(self, before: Any, after: Any, out: Out, batch: Batch) -> tuple[Any, Metrics]:
        own, metrics = self.adversary.update(before.adversary, batch["target"], out)
        return after.replace(adversary=own), metrics


def make_adversary(
    config: ConfigDict, schedule: Schedule, image_shape: tuple[int, ...]
) -> Adversary:
    """Makes the discriminator that a config asks for, with the generator's kind of optimizer.

    Args:
        config: of the run. What `optim` says of parameters by their names, and of layers, is for
            the generator alone.
        schedule: the learning rate of both.
        image_shape: (h, w, c) of the images that the generator makes when it is trained.

    Returns:
        The discriminator.

    Raises:
        ValueError: if the size of the images or a setting does not fit.
    """
    model = Discriminator(config.gan.num_features, jnp.dtype(config.dtype))
    params = jax.eval_shape(lambda: _init(model, image_shape, config.seed))["params"]
    optimizer = config.optim.copy_and_resolve_references()
    optimizer.update(freeze="", freeze_steps=0, layer_decay=1.0, multipliers=())
    return Adversary(model, optim.make_optimizer(optimizer, schedule, params), image_shape)


def _init(model: Discriminator, image_shape: tuple[int, ...], seed: int) -> Any:
    return model.init(jax.random.key(seed), jnp.zeros((1, *image_shape), jnp.float32))
