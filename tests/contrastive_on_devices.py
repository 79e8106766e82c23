"""The losses of the golden pairs over a mesh; run as a process of its own, over four devices."""

import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import contrastive
from vit_jax.machinery import sharding

GOLDEN = np.load(Path(__file__).parent / "golden" / "image_text_losses.npz")
LOSSES = {
    "clip": contrastive.softmax,
    "siglip": contrastive.sigmoid,
    "siglip_trained": contrastive.sigmoid,
}
# Some rows are padding, in another order, so that one of four devices has nothing else.
ORDER = np.array([0, 1, 6, 7, 4, 5, 2, 3])
KEPT = np.array([1, 1, 0, 0, 1, 0, 1, 1], np.float32)


def normalized(x):
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def raw_of(name):
    t, b = (np.float32(GOLDEN.get(f"{name}/{key}", 0)) for key in "tb")
    return {"image": GOLDEN["image"], "text": GOLDEN["text"], "t": t, "b": b}


def out_of(raw):
    """A model's output, of raw embeddings, the log scale and the bias."""
    rows = jnp.ones(len(raw["image"]))
    return {
        "image": normalized(raw["image"]),
        "text": normalized(raw["text"]),
        "scale": jnp.exp(raw["t"]) * rows,
        "bias": raw["b"] * rows,
    }


def over(mesh, name, is_padded=False):
    """The loss of each row as `each`, and the gradients of their mean."""
    raw = raw_of(name)
    if is_padded:
        raw |= {key: raw[key][ORDER] for key in ("image", "text")}

    def of(raw, mask):
        with sharding.known(mesh):
            each = LOSSES[name](out_of(raw), {"_mask": mask} if is_padded else {})
        return jnp.mean(each), each

    rows, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)
    shardings = {"image": rows, "text": rows, "t": whole, "b": whole}
    function = jax.jit(jax.grad(of, has_aux=True), in_shardings=(shardings, rows))
    grads, each = function(raw, KEPT[ORDER])
    return jax.tree.map(np.asarray, {"each": each, **grads})


def planned(mesh, loss, count=4096, width=8):
    """How many floats XLA plans for what a loss of so many rows and its gradients make."""
    rows = sharding.batch_sharding(mesh)
    shapes = {"image": (count, width), "text": (count, width), "scale": (count,), "bias": (count,)}
    out = {k: jax.ShapeDtypeStruct(v, jnp.float32, sharding=rows) for k, v in shapes.items()}

    def mean(out):
        with sharding.known(mesh):
            return jnp.mean(loss(out, {}))

    compiled = jax.jit(jax.value_and_grad(mean)).lower(out).compile()
    return compiled.memory_analysis().temp_size_in_bytes // 4


if __name__ == "__main__":
    mesh = sharding.make_mesh(fsdp=2)
    floats = {name: planned(mesh, loss) for name, loss in LOSSES.items()}
    found = {
        f"{name}/{is_padded}": jax.tree.map(np.ndarray.tolist, over(mesh, name, is_padded))
        for name in LOSSES
        for is_padded in (False, True)
    }
    json.dump([jax.device_count(), floats, found], sys.stdout)
