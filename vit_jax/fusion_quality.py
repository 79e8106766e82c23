"""Figures of merit of image fusion: (h, w) grey images of 8 bits, A and B fused to F.

All functions can be compiled; every result is a number, of double precision where JAX has it
(jax_enable_x64).
"""

import math

import jax
import jax.numpy as jnp

from vit_jax.image_quality import filtered, gaussian

SMALLEST_FOR_VIF = 41  # pixels of a side


def entropy(fused: jax.Array) -> jax.Array:
    """EN: entropy of the grey levels in bits."""
    return _entropy(jnp.bincount(fused.ravel(), length=256))


def _entropy(counts: jax.Array) -> jax.Array:
    p = counts / jnp.sum(counts)
    return -jnp.sum(jnp.where(p > 0, p * jnp.log2(jnp.where(p > 0, p, 1)), 0))


def mutual_information(fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """MI: what the fused image's grey levels say of those of A, and of B, in bits."""

    def of(x: jax.Array) -> jax.Array:
        pairs = fused.ravel().astype(jnp.int32) * 256 + x.ravel()
        joint = _entropy(jnp.bincount(pairs, length=256 * 256))
        return entropy(fused) + entropy(x) - joint

    return of(a) + of(b)


def spatial_frequency(fused: jax.Array) -> jax.Array:
    """SF: root of the mean squared differences along rows and along columns, of 0 to 255."""
    f = fused.astype(float)
    return jnp.sqrt(
        jnp.mean(jnp.diff(f, axis=0) ** 2) + jnp.mean(jnp.diff(f, axis=1) ** 2)
    )  # fmt: skip


def standard_deviation(fused: jax.Array) -> jax.Array:
    """SD: of the whole image as a population, of 0 to 255."""
    return jnp.sqrt(jnp.mean(jnp.square(_centred(fused))))


def average_gradient(fused: jax.Array) -> jax.Array:
    """AG: mean length of the gradient by central differences, over (h - 1)(w - 1), of 0 to 255."""
    gy, gx = jnp.gradient(fused.astype(float))
    h, w = fused.shape
    return jnp.sum(jnp.sqrt((gx**2 + gy**2) / 2)) / ((h - 1) * (w - 1))


def correlation(fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """CC: mean of the correlations with A and with B."""
    return (_correlation(a, fused) + _correlation(b, fused)) / 2


def sum_of_correlations_of_differences(
    fused: jax.Array, a: jax.Array, b: jax.Array
) -> jax.Array:  # fmt: skip
    """SCD: correlation of F - B with A, plus that of F - A with B.

    Source: Aslantas & Bendes, "A new image quality metric for image fusion" (AEU 2015).
    """
    f, a, b = (x.astype(float) for x in (fused, a, b))
    return _correlation(f - b, a) + _correlation(f - a, b)


def _centred(x: jax.Array) -> jax.Array:
    """Takes the mean off; where all values are equal, exactly 0 is left, whatever is rounded."""
    x = x.astype(float) - x[0, 0]
    return x - jnp.mean(x)


def _correlation(x: jax.Array, y: jax.Array) -> jax.Array:
    x, y = _centred(x), _centred(y)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


def visual_information_fidelity(fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """VIF: of F with A for reference, plus with B.

    Source: Sheikh & Bovik, "Image information and visual quality" (IEEE TIP 2006), in the pixel
    domain, over four scales, with noise of variance 2.

    Raises:
        ValueError: if a side has less than 41 pixels, of which the fourth scale keeps nothing.
    """
    if min(fused.shape) < SMALLEST_FOR_VIF:
        raise ValueError(f"VIF needs images of at least {SMALLEST_FOR_VIF} pixels a side")
    return _vif(a, fused) + _vif(b, fused)


def _vif(reference: jax.Array, image: jax.Array) -> jax.Array:
    x, y = (z.astype(float) for z in (reference, image))
    noise, tiny = 2.0, 1e-10
    numerator = denominator = jnp.float32(0)
    for scale in range(4):
        taps = 2 ** (4 - scale) + 1
        window = gaussian(taps, taps / 5)
        if scale:
            x, y = filtered(jnp.stack([x, y]), window)[:, ::2, ::2]
        means = filtered(jnp.stack([x, y, x * x, y * y, x * y]), window)
        mean_x, mean_y, square_x, square_y, products = means
        var_x = jax.nn.relu(square_x - mean_x**2)
        var_y = jax.nn.relu(square_y - mean_y**2)
        covariance = products - mean_x * mean_y
        gain = covariance / (var_x + tiny)
        rest = var_y - gain * covariance
        gain, rest = jnp.where(var_x < tiny, 0, gain), jnp.where(var_x < tiny, var_y, rest)
        var_x = jnp.where(var_x < tiny, 0, var_x)
        gain, rest = jnp.where(var_y < tiny, 0, gain), jnp.where(var_y < tiny, 0, rest)
        rest = jnp.where(gain < 0, var_y, rest)
        gain = jax.nn.relu(gain)
        rest = jnp.maximum(rest, tiny)
        numerator += jnp.sum(jnp.log10(1 + gain**2 * var_x / (rest + noise)))
        denominator += jnp.sum(jnp.log10(1 + var_x / noise))
    return (numerator + tiny) / (denominator + tiny)


def edge_preservation(fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Qabf: how much of the edges of A and B is kept in F; 0 to 1.

    Source: Xydeas & Petrovic, "Objective image fusion performance measure" (Electronics Letters
    2000); Sobel gradients with zeros around the image.
    """
    gradients = [_sobel(x, "constant") for x in (fused, a, b)]
    (g_f, angle_f), *sources = [(g, _angle(sx, sy)) for g, sx, sy in gradients]
    kept = total = jnp.float32(0)
    for g, angle in sources:
        strength = jnp.where(g == g_f, g_f, _smaller_by_larger(g, g_f))
        direction = 1 - jnp.abs(angle - angle_f) / (math.pi / 2)
        quality = (
            0.9994 / (1 + jnp.exp(-15 * (strength - 0.5)))
            * 0.9879 / (1 + jnp.exp(-22 * (direction - 0.8)))
        )  # fmt: skip
        kept += jnp.sum(quality * g)
        total += jnp.sum(g)
    return kept / total


def fusion_artifacts(fused: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """Nabf: edges of F that are stronger than those of both A and B; 0 is best.

    Source: Shreyamsha Kumar, "Image fusion based on pixel significance using cross bilateral
    filter" (SIViP 2015); Sobel gradients over 8, reflecting at the border.
    """
    gradients = [_sobel(x, "symmetric") for x in (fused, a, b)]  # as SciPy reflects
    (g_f, angle_f), *sources = [(g / 8, _angle(sx, sy)) for g, sx, sy in gradients]
    added = (g_f > sources[0][0]) & (g_f > sources[1][0])
    artifacts = total = jnp.float32(0)
    for g, angle in sources:
        strength = jnp.where((g == 0) | (g_f == 0), 0, _smaller_by_larger(g, g_f))
        direction = jnp.abs(jnp.abs(angle - angle_f) - math.pi / 2) * 2 / math.pi
        quality = jnp.sqrt(
            0.9999 / (1 + jnp.exp(-19 * (strength - 0.5)))
            * 0.9995 / (1 + jnp.exp(-22 * (direction - 0.5)))
        )  # fmt: skip
        weight = jnp.where(g >= 2, g**1.5, 0.001)
        artifacts += jnp.sum(jnp.where(added, (1 - quality) * weight, 0))
        total += jnp.sum(weight)
    return artifacts / total


def _sobel(x: jax.Array, mode: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Length of the gradient, and its horizontal and vertical component."""
    x = jnp.pad(x.astype(float), 1, mode=mode)
    smooth_rows = x[:-2] + 2 * x[1:-1] + x[2:]
    smooth_columns = x[:, :-2] + 2 * x[:, 1:-1] + x[:, 2:]
    sx = smooth_rows[:, 2:] - smooth_rows[:, :-2]
    sy = smooth_columns[2:] - smooth_columns[:-2]
    return jnp.sqrt(sx**2 + sy**2), sx, sy


def _angle(sx: jax.Array, sy: jax.Array) -> jax.Array:
    return jnp.where(sx == 0, math.pi / 2, jnp.arctan(sy / jnp.where(sx == 0, 1, sx)))


def _smaller_by_larger(x: jax.Array, y: jax.Array) -> jax.Array:
    larger = jnp.maximum(x, y)
    return jnp.minimum(x, y) / jnp.where(larger == 0, 1, larger)
