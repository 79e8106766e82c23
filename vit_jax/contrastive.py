"""Images and texts that belong together: losses that compare a whole batch, and retrieval.

The losses take a batch that may be spread over the devices of a mesh, which they find by
`jax.sharding.get_abstract_mesh()`, see `machinery.sharding.known`. No device ever holds the matrix
of all pairs: of B images and as many texts, b of them its own, the softmax loss makes the products
of at most 512 of its rows with B columns at a time, and the sigmoid loss those of b with b.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(2021), figure 3; Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023),
algorithm 1 and section 3.3. Where the latter sums over the devices, each row has its own sum here.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, PartitionSpec

Arrays = Mapping[str, jax.Array]

_NEVER = -1e30  # a logit of what is no choice; finite, since -inf less itself is not a number
_ROWS_AT_ONCE = 512  # of a device, whose products with all columns are in memory
_QUERIES_AT_ONCE = 1024


def softmax(out: Arrays, batch: Arrays) -> jax.Array:
    """Half the cross-entropy of finding the text of each image, and half that of the reverse.

    Args:
        out: `image` and `text` (b, d), each of length 1, and the `scale` of their products (b,).
        batch: `_mask` (b,), if there is one; a row where it is 0 counts 0 and is no choice of
            others.

    Returns:
        (b,) float32, the halves of row i and of column i; their mean is the loss.
    """
    image, text, scale = (out[key].astype(jnp.float32) for key in ("image", "text", "scale"))
    rows = functools.partial(_on_each_device, _mesh(), _softmax_rows)
    return rows(image, text, scale, _real(batch, len(image)))


def sigmoid(out: Arrays, batch: Arrays) -> jax.Array:
    """The sum of the losses of each image with every text: is this one its own?

    Args:
        out: `image` and `text` (b, d), each of length 1, and (b,) each the `scale` of their
            products and the `bias` that is added.
        batch: `_mask` (b,), if there is one; pairs with a row where it is 0 count 0.

    Returns:
        (b,) float32, the sums of the rows; their mean is the loss.
    """
    keys = ("image", "text", "scale", "bias")
    image, text, scale, bias = (out[key].astype(jnp.float32) for key in keys)
    return _sigmoid(_mesh(), image, text, scale, bias, _real(batch, len(image)))


def _mesh() -> AbstractMesh | None:
    """The mesh over which batches are spread; None if nobody says."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty else mesh


def _real(batch: Arrays, count: int) -> jax.Array:
    """(b,) bool, False for padding."""
    return batch["_mask"] > 0 if "_mask" in batch else jnp.ones(count, bool)


def _on_each_device(
    mesh: AbstractMesh | None, function: Callable[..., Any], *arrays: jax.Array
) -> Any:
    """Calls a function of the axes of the batch and of arrays on each device, with its own rows."""
    if mesh is None:
        return function((), *arrays)
    spec = PartitionSpec(mesh.axis_names)
    on_rows = functools.partial(function, mesh.axis_names)
    return jax.shard_map(on_rows, mesh=mesh, in_specs=spec, out_specs=spec)(*arrays)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    """(n, d) and (d, ...) to (n, ...), at full precision: a scale of 100 will multiply them."""
    return jnp.matmul(x, y, precision=jax.lax.Precision.HIGHEST)


def _softmax_rows(
    axes: tuple[str, ...], image: jax.Array, text: jax.Array, scale: jax.Array, real: jax.Array
) -> jax.Array:
    """The loss of a device's rows, against the columns of all devices."""

    def everyones(x: jax.Array) -> jax.Array:
        return jax.lax.all_gather(x, axes, tiled=True) if axes else x

    is_choice = everyones(real)
    own = jnp.sum(image * text, axis=-1)

    def one_way(queries: jax.Array, keys: jax.Array) -> jax.Array:
        @jax.checkpoint  # or what is made of the products would be kept
        def cross_entropy(row: tuple[jax.Array, ...]) -> jax.Array:
            query, its_own, its_scale = row
            # Less its own: what is lost to rounding is then of the loss, and not of the logits.
            logits = its_scale * (_products(keys, query) - its_own)
            return jax.nn.logsumexp(jnp.where(is_choice, logits, _NEVER))

        return jax.lax.map(cross_entropy, (queries, own, scale), batch_size=_ROWS_AT_ONCE)

    there = one_way(image, everyones(text))
    back = one_way(text, everyones(image))
    return jnp.where(real, (there + back) / 2, 0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sigmoid(mesh: AbstractMesh | None, *arrays: jax.Array) -> jax.Array:
    """The sigmoid loss of `image`, `text`, `scale`, `bias` and which rows are `real`.

    Its derivative is written out, because JAX's would keep the texts of every device: here they go
    round once more, and their gradients with them.
    """
    return _on_each_device(mesh, _sigmoid_rows, *arrays)


def _sigmoid_forward(
    mesh: AbstractMesh | None, *arrays: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return _sigmoid(mesh, *arrays), arrays


def _sigmoid_backward(
    mesh: AbstractMesh | None, arrays: tuple[jax.Array, ...], cotangent: jax.Array
) -> tuple[jax.Array | None, ...]:
    return (*_on_each_device(mesh, _sigmoid_gradients, *arrays, cotangent), None)


_sigmoid.defvjp(_sigmoid_forward, _sigmoid_backward)


def _sigmoid_rows(
    axes: tuple[str, ...],
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    real: jax.Array,
) -> jax.Array:
    """The loss of a device's images with all texts, which pass by."""

    def add(_: Any, carry: Any) -> Any:
        total, guests = carry
        guests = _pass_on(axes, guests)
        return total + _pairs(False, image, scale, bias, guests[0], real, guests[1]), guests

    own = _pairs(True, image, scale, bias, text, real, real)
    return jax.lax.fori_loop(1, _count(axes), add, (own, (text, real)))[0]


def _sigmoid_gradients(
    axes: tuple[str, ...],
    image: jax.Array,
    text: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    real: jax.Array,
    cotangent: jax.Array,
) -> tuple[jax.Array, ...]:
    """What `_sigmoid_rows` has as gradients of `image`, `text`, `scale` and `bias`."""

    def gradients(is_own: bool, guest: jax.Array, is_real: jax.Array) -> tuple[jax.Array, ...]:
        def pairs(
            image: jax.Array, scale: jax.Array, bias: jax.Array, text: jax.Array
        ) -> jax.Array:
            return _pairs(is_own, image, scale, bias, text, real, is_real)

        return jax.vjp(pairs, image, scale, bias, guest)[1](cotangent)

    def add(_: Any, carry: Any) -> Any:
        ours, guests = carry
        text, is_real, theirs = _pass_on(axes, guests)
        *more, of_text = gradients(False, text, is_real)
        return [a + b for a, b in zip(ours, more)], (text, is_real, theirs + of_text)

    *ours, theirs = gradients(True, text, real)
    ours, guests = jax.lax.fori_loop(1, _count(axes), add, (ours, (text, real, theirs)))
    of_text = _pass_on(axes, guests[2])  # one step more, and the round is complete
    return ours[0], of_text, ours[1], ours[2]


def _pairs(
    is_own: bool,
    image: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    text: jax.Array,
    is_image: jax.Array,
    is_text: jax.Array,
) -> jax.Array:
    """(b,) losses of images with b texts, of which number i is that of image i or none is."""
    logits = scale[:, None] * _products(image, text.T) + bias[:, None]
    signs = 2 * jnp.eye(len(image)) - 1 if is_own else -1
    loss = jax.nn.softplus(-signs * logits)  # which is -log(sigmoid(signs * logits))
    return jnp.sum(jnp.where(is_image[:, None] & is_text, loss, 0), axis=-1)


def _count(axes: tuple[str, ...]) -> int:
    return jax.lax.axis_size(axes) if axes else 1


def _pass_on(axes: tuple[str, ...], tree: Any) -> Any:
    """Gives each device what the one before it has; the last device's goes to the first."""
    count = _count(axes)
    if count == 1:
        return tree
    to_next = [(i, (i + 1) % count) for i in range(count)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, axes, to_next), tree)


# Retrieval.


def text_to_image_ranks(image: np.ndarray, text: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """How many images come before a text's own, 0 if none does.

    Args:
        image: (n, d) embeddings.
        text: (m, d).
        owners: (m,) which image each text belongs to.

    Returns:
        (m,) int64. Of images that are equally like the text, the one of the lower number comes
        first.
    """
    parts = []
    for i in range(0, len(text), _QUERIES_AT_ONCE):
        own = owners[i : i + _QUERIES_AT_ONCE]
        likeness = text[i : i + _QUERIES_AT_ONCE] @ image.T
        parts.append(_before(likeness, own))
    return np.concatenate(parts)


def image_to_text_ranks(image: np.ndarray, text: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """How many texts come before the first of an image's own, see `text_to_image_ranks`.

    Returns:
        (n,) int64; an image without a text has all texts before it.
    """
    parts = []
    for i in range(0, len(image), _QUERIES_AT_ONCE):
        likeness = image[i : i + _QUERIES_AT_ONCE] @ text.T
        is_own = owners == np.arange(i, i + len(likeness))[:, None]
        best = np.argmax(np.where(is_own, likeness, -np.inf), axis=1)
        before = _before(likeness, best)
        parts.append(np.where(is_own.any(axis=1), before, len(text)))
    return np.concatenate(parts)


def _before(likeness: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """How many columns of each row come before the chosen one; all if it is NaN, or they are."""
    own = np.take_along_axis(likeness, chosen[:, None], axis=1)
    is_later = np.arange(likeness.shape[1]) >= chosen[:, None]
    return np.sum(~((likeness < own) | ((likeness == own) & is_later)), axis=1)


def recall(ranks: np.ndarray, k: int) -> float:
    """The share of ranks, counted from 0, that are among the first k."""
    return float(np.mean(ranks < k))
