"""What is said of a flow: the loss of a sequence of guesses, and figures by protocol.

A flow is (b, h, w, 2) float32: for each pixel of the first frame, by how many pixels to the right
and down it has moved in the second.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.arguments import unknown

Batch = Mapping[str, Any]
Flow = jax.Array

REACH = 140  # pixels from the border of what is occluded, beyond which no class of Sintel's begins


def is_valid(batch: Batch, max_flow: float = np.inf) -> jax.Array:
    """(b, h, w): where `valid` is at least 0.5, and `flow` is shorter than max_flow pixels."""
    length = jnp.linalg.norm(batch["flow"], axis=-1)
    return (batch["valid"] >= 0.5) & (length < max_flow)  # not where the length is no number


def _truth(batch: Batch, valid: jax.Array) -> Flow:
    """`flow`, 0 where it is not valid: files have anything there, also what is no number."""
    return jnp.where(valid[..., None], batch["flow"], 0).astype(jnp.float32)


def sequence(out: Flow, batch: Batch, gamma: float = 0.8, max_flow: float = 400.0) -> jax.Array:
    """Absolute errors of a sequence of guesses, of which later ones count more.

    Args:
        out: (n, b, h, w, 2) guesses, the last one best; or (b, h, w, 2), which is the last alone.
        batch: `flow` (b, h, w, 2), and `valid` (b, h, w), 1 where it is known.
        gamma: a guess counts gamma times as much as the next one; the last counts 1.
        max_flow: pixels that move as far or farther do not count.

    Returns:
        (b,) float32, whose mean over a batch is the published loss. Each guess has the mean over
        all pixels and both components, those that do not count being 0.

    Raises:
        ValueError: for a shape that is not that of guesses of `flow`.

    Source: Teed and Deng, "RAFT" (ECCV 2020), equation 7, as their code computes it; FlowFormer's.
    """
    guesses = out if out.ndim == 5 else out[None]
    if guesses.shape[1:] != batch["flow"].shape:
        raise ValueError(
            f"a flow of {batch['flow'].shape} has guesses of (n, *that), and the model gives "
            f"{out.shape}"
        )
    valid = is_valid(batch, max_flow)
    errors = jnp.abs(guesses.astype(jnp.float32) - _truth(batch, valid))
    means = jnp.mean(jnp.where(valid[..., None], errors, 0), axis=(2, 3, 4))
    weights = gamma ** np.arange(len(guesses) - 1, -1, -1, dtype=np.float32)
    return jnp.sum(weights[:, None] * means, axis=0)


def endpoint_error(flow: Flow, batch: Batch) -> jax.Array:
    """(b, h, w) float32 lengths in pixels of a flow's difference to the truth; 0 where not valid.

    Raises:
        ValueError: for a flow of another shape than the truth.
    """
    if flow.shape != batch["flow"].shape:
        raise ValueError(f"a flow of {flow.shape} cannot be compared with {batch['flow'].shape}")
    valid = is_valid(batch)
    error = jnp.linalg.norm(flow.astype(jnp.float32) - _truth(batch, valid), axis=-1)
    return jnp.where(valid, error, 0)


def median_flow(batch: Batch) -> Flow:
    """Each truth's own median, by component, everywhere: no constant is much nearer to it."""
    valid = is_valid(batch)[..., None]
    middle = jnp.nanmedian(jnp.where(valid, batch["flow"], jnp.nan), axis=(1, 2), keepdims=True)
    return jnp.broadcast_to(jnp.nan_to_num(middle), batch["flow"].shape)


def occlusion_distance(occluded: jax.Array, reach: int = REACH) -> jax.Array:
    """How far pixels are from the border of what is occluded.

    Args:
        occluded: (b, h, w), at least 0.5 where a pixel is not seen in the second frame.
        reach: pixels up to which it is computed.

    Returns:
        (b, h, w) float32 pixels from the centre of each to that of the nearest that is occluded
        while it is not, or the other way round: 1 beside the border. Infinite beyond the reach.
    """
    is_occluded = occluded >= 0.5
    to_occluded, to_seen = (_distance(x, reach) for x in (is_occluded, ~is_occluded))
    distance = jnp.where(is_occluded, to_seen, to_occluded)
    return jnp.where(distance <= reach, distance, jnp.inf)


def _distance(there: jax.Array, reach: int) -> jax.Array:
    """(b, h, w) distances to the nearest pixel of a (b, h, w) mask: first along columns, then rows.

    Source: Felzenszwalb and Huttenlocher, "Distance Transforms of Sampled Functions" (2012); the
    minimum over a row is taken within the reach, and not by its lower envelope.
    """
    height, width = there.shape[1:]
    rows = jnp.arange(height, dtype=jnp.float32)[:, None]
    above = jax.lax.cummax(jnp.where(there, rows, -jnp.inf), axis=1)
    below = jax.lax.cummin(jnp.where(there, rows, jnp.inf), axis=1, reverse=True)
    squared = jnp.square(jnp.minimum(rows - above, below - rows))
    reach = min(reach, width - 1)
    padded = jnp.pad(squared, ((0, 0), (0, 0), (reach, reach)), constant_values=jnp.inf)

    def nearer(step: jax.Array, best: jax.Array) -> jax.Array:
        beside = jax.lax.dynamic_slice_in_dim(padded, step, width, axis=2)
        return jnp.minimum(best, beside + jnp.square(step - reach).astype(jnp.float32))

    return jnp.sqrt(jax.lax.fori_loop(0, 2 * reach + 1, nearer, squared))


# Figures. Each is made of two numbers per pair: a sum over those of its pixels that count, and how
# many these are.


class Figure(NamedTuple):
    """A figure of flows.

    Attributes:
        value: from (b, h, w) errors and lengths of the true flow, in pixels, to what is averaged.
        counts: from those lengths and the batch to (b, h, w), which of the valid pixels count.
        needs: of a batch, besides `flow` and `valid`.
        by_pair: whether it is the mean of the pairs' own means, and not that over all pixels.
        of_median: whether it is not of the model's flow, but of `median_flow`.
    """

    value: Callable[[jax.Array, jax.Array], jax.Array]
    counts: Callable[[jax.Array, Batch], jax.Array] | None = None
    needs: tuple[str, ...] = ()
    by_pair: bool = False
    of_median: bool = False

    def each(self, out: Flow, batch: Batch) -> jax.Array:
        """(b, 2) float32: sums, and numbers of pixels."""
        valid = is_valid(batch)
        flow = median_flow(batch) if self.of_median else out
        error, length = endpoint_error(flow, batch), jnp.linalg.norm(_truth(batch, valid), axis=-1)
        counted = valid if self.counts is None else valid & self.counts(length, batch)
        values = jnp.where(counted, self.value(error, length), 0)
        return jnp.stack([x.sum(axis=(1, 2), dtype=jnp.float32) for x in (values, counted)], axis=1)

    def finish(self, each: np.ndarray) -> float:
        """The figure of a split's (pairs, 2) numbers, in float64; NaN if no pixel counts."""
        sums, counts = each.astype(np.float64).T
        there = counts > 0
        if not there.any():
            return np.nan
        if self.by_pair:
            return float(np.mean(own_figures(each)[there]))
        return float(sums.sum() / counts.sum())


def own_figures(each: np.ndarray) -> np.ndarray:
    """(pairs,) figures of the pairs themselves, of a figure's (pairs, 2) numbers; NaN of none."""
    sums, counts = each.astype(np.float64).T
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def _error(error: jax.Array, length: jax.Array) -> jax.Array:
    del length
    return error


def _within(pixels: float) -> Callable[[jax.Array, jax.Array], jax.Array]:
    """Whether an error is below some pixels, in percent."""
    return lambda error, length: jnp.where(error < pixels, 100.0, 0.0)


def _is_outlier(error: jax.Array, length: jax.Array) -> jax.Array:
    """Whether an error is above 3 pixels and 5 % of the flow, in percent; one that is no number is.

    Source: Menze and Geiger, "Object Scene Flow for Autonomous Vehicles" (CVPR 2015).
    """
    return jnp.where((error <= 3) | (error <= 0.05 * length), 0.0, 100.0)


def _moves(low: float, high: float) -> Callable[[jax.Array, Batch], jax.Array]:
    return lambda length, batch: (length >= low) & (length < high)


def _lies(low: float, high: float) -> Callable[[jax.Array, Batch], jax.Array]:
    def lies(length: jax.Array, batch: Batch) -> jax.Array:
        del length
        distance = occlusion_distance(batch["occluded"])
        return (distance >= low) & (distance < high)

    return lies


def _make_figures() -> dict[str, Figure]:
    pixels = {f"{n}px": Figure(_within(n)) for n in (1, 3, 5)}
    needs = ("occluded",)
    sintel = {
        "epe": Figure(_error),
        "epe_matched": Figure(_error, lambda length, batch: batch["occluded"] < 0.5, needs),
        "epe_unmatched": Figure(_error, lambda length, batch: batch["occluded"] >= 0.5, needs),
        "d0-10": Figure(_error, _lies(0, 10), needs),
        "d10-60": Figure(_error, _lies(10, 60), needs),
        "d60-140": Figure(_error, _lies(60, REACH), needs),
        "s0-10": Figure(_error, _moves(0, 10)),
        "s10-40": Figure(_error, _moves(10, 40)),
        "s40+": Figure(_error, _moves(40, np.inf)),
    }
    protocols = {
        "chairs": {"epe": Figure(_error), **pixels},
        "sintel": {**sintel, **pixels},
        "kitti": {"epe": Figure(_error, by_pair=True), "f1_all": Figure(_is_outlier)},
        "constant": {"epe": Figure(_error, of_median=True)},
    }
    return {f"{name}/{k}": v for name, figures in protocols.items() for k, v in figures.items()}


FIGURES = _make_figures()


def find_figure(name: str) -> Figure:
    """Finds a figure by PROTOCOL/FIGURE.

    `epe` is the mean length of the error in pixels: of "kitti" the mean of the pairs' means, else
    over all valid pixels of a split, and by "sintel" of those that are seen in the second frame or
    not (`matched`, `unmatched`), lie so many pixels from the border of what is occluded (`d`), or
    move so fast (`s`). `Npx` is the percentage of pixels whose error is below N pixels; `f1_all`
    that of outliers. "constant/epe" is that of each truth's own median, whatever the model says.

    Raises:
        ValueError: for an unknown name; it lists what there is.
    """
    if name not in FIGURES:
        raise ValueError(unknown("metric", name, FIGURES, "of flows "))
    return FIGURES[name]


def add_noise(
    key: jax.Array, batch: Batch, most: float, images: tuple[str, ...] = ("image", "image2")
) -> Batch:
    """Adds Gaussian noise of one deviation, drawn for the batch, to both frames.

    Args:
        key: of the draw.
        batch: with (b, h, w, 3) frames in [-1, 1]; so are those that come.
        most: largest deviation, of 255; each up to it is as likely.
        images: keys of the frames.

    Source: RAFT's training, which FlowFormer took over.
    """
    deviation_key, *keys = jax.random.split(key, 1 + len(images))
    deviation = jax.random.uniform(deviation_key, maxval=most * 2 / 255)
    noisy = {
        name: jnp.clip(batch[name] + deviation * jax.random.normal(k, batch[name].shape), -1, 1)
        for name, k in zip(images, keys)
    }
    return {**batch, **noisy}
