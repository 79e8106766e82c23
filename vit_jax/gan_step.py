"""The training step of a generator whose loss is adversarial, perceptual or both.

Source: Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (ECCV
Workshops 2018).
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from vit_jax import ops, perceptual
from vit_jax.experiment import Experiment, TrainState
from vit_jax.losses import get_loss
from vit_jax.machinery import sharding

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]
GanStep = Callable[[TrainState, Batch], tuple[TrainState, Metrics]]


def make_gan_step(exp: Experiment) -> GanStep:
    """Makes the jitted function (state, batch) -> (state, metrics); the old state is used up.

    The generator makes a step on `generator_loss`, the sum of config.loss and of the perceptual and
    the adversarial loss with their weights; then the discriminator makes one, on the images that
    the generator made before.

    The metrics are those of `train.make_train_step`, of which `loss` is config.loss alone, to be
    compared with the validation's, and `grad_norm` that of generator_loss; besides, where they are
    on, `perceptual`, `generator_adversarial`, `discriminator_loss` and `discriminator_norm`.

    Raises:
        ValueError: if the weights of VGG19 are not there or do not fit.
    """
    config, gan, adversary = exp.config, exp.config.gan, exp.adversary
    loss_fn = get_loss(config.loss, exp.model.predicts)

    def loss_of(params: Any, state: TrainState, batch: Batch, key: jax.Array, vgg19: Any) -> Any:
        out, model_state = exp.forward(params, state.model_state, batch["image"], key)
        target = batch["target"]
        metrics = {"loss": jnp.mean(loss_fn(out, batch))}
        total = metrics["loss"]
        if gan.perceptual_weight:
            metrics["perceptual"] = jnp.mean(perceptual.distance(vgg19, out, target))
            total += gan.perceptual_weight * metrics["perceptual"]
        if adversary:
            adversarial = adversary.generator_loss(state.adversary, target, out)
            metrics["generator_adversarial"] = adversarial
            total += gan.weight * adversarial
        return total, (out, model_state, {**metrics, "generator_loss": total})

    def gan_step(vgg19: Any, state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(jax.random.key(config.seed), state.step)
        grad_of = jax.grad(loss_of, has_aux=True)
        grads, (out, model_state, losses) = grad_of(state.params, state, batch, key, vgg19)
        new_state, metrics = exp.update(state, grads, model_state)
        metrics = {**losses, **metrics}
        if adversary:
            adversary_state, more = adversary.update(state.adversary, batch["target"], out)
            new_state = new_state.replace(adversary=adversary_state)
            metrics |= more
        return new_state, metrics

    whole = sharding.replicated(exp.mesh)
    vgg19 = None
    if gan.perceptual_weight:
        vgg19 = jax.device_put(perceptual.load_vgg19(gan.vgg19), whole)
    jitted = jax.jit(
        gan_step,
        in_shardings=(whole, exp.state_sharding, sharding.batch_sharding(exp.mesh)),
        out_shardings=(exp.state_sharding, whole),
        donate_argnums=1,
        compiler_options=ops.compiler_options(),
    )
    # As an argument, since 80 MB of constants would slow down compiling and fill its cache.
    return functools.partial(jitted, vgg19)
