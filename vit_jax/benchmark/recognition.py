"""ViT and Swin beside timm and a ViT of flax's own modules: inference, and training steps."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vit_jax.benchmark import plain_flax
from vit_jax.benchmark.race import OURS, Case, Contender, Goal, bytes_of, has_torch, jitted
from vit_jax.losses import softmax_xent
from vit_jax.models import get_model

EAGER, COMPILED, PLAIN = "timm", "timm compiled", "plain flax"

# Multiplications and additions of one image of 224 x 224 pixels, in billions, counted as pairs.
GMACS = {"ViT-Ti_16": 1.26, "ViT-S_16": 4.61, "ViT-B_16": 17.58, "ViT-L_16": 61.6,
         "ViT-H_14": 167.4, "Swin-T": 4.51, "Swin-B": 15.47}  # fmt: skip

_TIMM = {
    "ViT-Ti_16": "vit_tiny_patch16_224",
    "ViT-S_16": "vit_small_patch16_224",
    "ViT-B_16": "vit_base_patch16_224",
    "ViT-L_16": "vit_large_patch16_224",
    "ViT-H_14": "vit_huge_patch14_224",
    "Swin-T": "swin_tiny_patch4_window7_224",
    "Swin-S": "swin_small_patch4_window7_224",
    "Swin-B": "swin_base_patch4_window7_224",
}
_RATE = 1e-3
_COMPARED_STEPS = 3


def inference(name: str, batch: int, size: int, dtype: str, goals: tuple[Goal, ...] = ()) -> Case:
    """Logits of a batch of images."""

    def contenders(_: Path) -> Iterator[Contender]:
        model, variables, images, _ = make_inputs(name, batch, size, dtype)
        apply = jax.jit(functools.partial(model.apply, train=False))
        yield jitted(OURS, apply, variables, images)
        plain = make_plain(model)
        if dtype == "float32" and plain:
            yield jitted(PLAIN, jax.jit(plain.apply), variables, images)
        if name in _TIMM and has_torch("timm"):
            yield from _timm_inference(model, variables, images, _TIMM[name], dtype)

    return Case(
        f"{name}, batch {batch}", contenders, batch, _flops(name, batch, size, 2),
        1e-4 if dtype == "float32" else 0.05, goals,
    )  # fmt: skip


def matrix_product() -> Case:
    """A product as in a ViT-B of batch 8: how much of a ratio is that of the libraries alone."""
    rows, inner, columns = 8 * 197, 768, 3072

    def contenders(_: Path) -> Iterator[Contender]:
        random = np.random.default_rng(0)
        a = random.standard_normal((rows, inner), np.float32)
        b = random.standard_normal((inner, columns), np.float32)
        yield jitted(OURS, jax.jit(jnp.matmul), jnp.asarray(a), jnp.asarray(b))
        if has_torch():
            from vit_jax.benchmark import torch_contender

            yield torch_contender.product(a, b)

    return Case(f"product of {rows} x {inner} and {inner} x {columns}", contenders)


def train(
    name: str,
    batch: int,
    size: int,
    dtype: str,
    goals: tuple[Goal, ...] = (),
    remat: bool = False,
) -> Case:
    """Steps of AdamW on one batch."""

    def contenders(_: Path) -> Iterator[Contender]:
        model, variables, images, labels = make_inputs(name, batch, size, dtype, remat)
        yield _training(OURS, functools.partial(model.apply, train=True), variables, images, labels)
        plain = make_plain(model)
        if dtype == "float32" and plain:
            yield _training(PLAIN, plain.apply, variables, images, labels)
        if name in _TIMM and has_torch("timm"):
            yield _timm_training(model, variables, images, labels, _TIMM[name], dtype)

    return Case(
        f"{name}, batch {batch}", contenders, batch, _flops(name, batch, size, 6),
        1e-3 if dtype == "float32" else 0.05, goals,
    )  # fmt: skip


def make_step(apply: Callable[..., jax.Array], tx: optax.GradientTransformation) -> Any:
    """Makes the function ((params, optimizer state), images, labels) -> (new state, loss)."""

    def loss_of(params: Any, images: jax.Array, labels: jax.Array) -> jax.Array:
        return jnp.mean(softmax_xent(apply({"params": params}, images), {"label": labels}))

    def step(state: Any, images: jax.Array, labels: jax.Array) -> Any:
        params, opt_state = state
        loss, grads = jax.value_and_grad(loss_of)(params, images, labels)
        updates, opt_state = tx.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    return jax.jit(step, donate_argnums=0)


def _training(
    name: str, apply: Callable[..., jax.Array], variables: Any, images: jax.Array, labels: jax.Array
) -> Contender:
    tx = optax.adamw(_RATE)
    make_state = jax.jit(lambda params: (jax.tree.map(jnp.copy, params), tx.init(params)))
    state = make_state(variables["params"])
    step = make_step(apply, tx).lower(state, images, labels).compile()

    def call() -> jax.Array:
        nonlocal state
        state, loss = step(state, images, labels)
        return jax.block_until_ready((state, loss))[1]

    return Contender(name, call, lambda: _losses(call), lambda: bytes_of(step))


def _losses(call: Callable[[], Any]) -> np.ndarray:
    return np.array([float(call()) for _ in range(_COMPARED_STEPS)])


def make_inputs(name: str, batch: int, size: int, dtype: str, remat: bool = False) -> Any:
    """Makes a model, variables of which none is 0, images and labels.

    Raises:
        ValueError: if the model does not classify.
    """
    model = get_model(name, dtype=dtype, **({"remat": True} if remat else {}))
    if model.predicts != "label":
        raise ValueError(f"{name} predicts no labels: time it with the suite restore")
    for field in ("dropout_rate", "drop_path_rate"):
        if getattr(model, field, 0):
            model = model.clone(**{field: 0.0})  # the others' would be another
    random = np.random.default_rng(0)
    images = jnp.asarray(random.uniform(-1, 1, (batch, size, size, 3)), jnp.float32)
    variables = jax.jit(model.init)(jax.random.key(0), images[:1])
    variables = jax.tree.map(
        lambda x: x + np.float32(0.02) * random.standard_normal(x.shape, np.float32), variables
    )
    return model, variables, images, jnp.arange(batch, dtype=jnp.int32) % model.num_classes


def make_plain(model: Any) -> plain_flax.VisionTransformer | None:
    """Makes the same model of flax's own modules, if they can."""
    if getattr(model, "classifier", "") != "token" or model.resnet_layers is not None:
        return None
    fields = plain_flax.VisionTransformer.__dataclass_fields__
    names = [name for name in fields if name not in ("parent", "name")]
    return plain_flax.VisionTransformer(**{name: getattr(model, name) for name in names})


def _flops(name: str, batch: int, size: int, per_mac: int) -> float | None:
    known = name in GMACS and size == 224
    return per_mac * GMACS[name] * 1e9 * batch if known else None


def _timm_inference(
    model: Any, variables: Any, images: jax.Array, name: str, dtype: str
) -> Iterator[Contender]:
    import torch

    from vit_jax.benchmark import torch_contender

    theirs = torch_contender.load(_create(name, images.shape[1]), variables, model)
    inputs = torch_contender.images(images)
    yield torch_contender.contender(EAGER, theirs, inputs, dtype)
    if torch_contender.can_compile():
        yield torch_contender.contender(
            COMPILED, torch.compile(theirs, dynamic=False), inputs, dtype
        )


def _timm_training(
    model: Any, variables: Any, images: jax.Array, labels: jax.Array, name: str, dtype: str
) -> Contender:
    import torch

    from vit_jax.benchmark import torch_contender

    theirs = torch_contender.load(_create(name, images.shape[1]), variables, model).train()
    inputs = torch_contender.images(images)
    targets = torch.tensor(np.asarray(labels), dtype=torch.int64, device=inputs.device)
    optimizer = torch.optim.AdamW(theirs.parameters(), _RATE, weight_decay=1e-4, fused=True)

    def call() -> Any:
        with torch_contender.precision(dtype):
            loss = torch.nn.functional.cross_entropy(theirs(inputs), targets)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch_contender.wait()
        return loss.detach()

    return Contender(EAGER, call, lambda: _losses(call), torch_contender.own_bytes(call))


def _create(name: str, size: int) -> Any:
    import timm

    tanh = {"act_layer": "gelu_tanh"} if name.startswith("vit") else {}
    return timm.create_model(name, img_size=size, num_classes=1000, **tanh)
