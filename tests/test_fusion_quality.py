import math

import jax
import numpy as np
import pytest
import sewar
import skimage.measure
from sklearn.metrics import mutual_info_score

from tests.helpers import compute, smooth_with_noise
from vit_jax import fusion_quality as fq


@pytest.fixture(autouse=True)
def double_precision():
    """As vit_jax.measure computes."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="module")
def fusion():
    """Fused image and sources: grey, 8 bits."""
    a, b = ((smooth_with_noise((60, 47), seed, 1)[..., 0] + 1) * 127.5 for seed in (3, 4))
    fused = 0.6 * a + 0.4 * b + np.random.default_rng(5).normal(scale=8, size=a.shape)
    return tuple(np.clip(x, 0, 255).astype(np.uint8) for x in (fused, a, b))


def test_information_of_fused_images(fusion):
    fused, a, b = fusion
    np.testing.assert_allclose(
        compute(fq.entropy, fused), skimage.measure.shannon_entropy(fused), rtol=1e-7
    )
    expected = sum(mutual_info_score(fused.ravel(), x.ravel()) for x in (a, b)) / math.log(2)
    np.testing.assert_allclose(compute(fq.mutual_information, *fusion), expected, rtol=1e-7)
    expected = sewar.vifp(a, fused) + sewar.vifp(b, fused)
    np.testing.assert_allclose(
        compute(fq.visual_information_fidelity, *fusion), expected, rtol=1e-7
    )


def correlation(x, y):
    return np.corrcoef(x.ravel(), y.ravel())[0, 1]


def test_statistics_of_fused_images(fusion):
    f, a, b = (x.astype(np.float64) for x in fusion)
    gy, gx = np.gradient(f)
    h, w = f.shape
    rows, columns = np.diff(f, axis=0), np.diff(f, axis=1)
    expected = {
        "spatial_frequency": np.sqrt((rows**2).mean() + (columns**2).mean()),
        "standard_deviation": f.std(),
        "average_gradient": np.sqrt((gx**2 + gy**2) / 2).sum() / ((h - 1) * (w - 1)),
        "correlation": (correlation(a, f) + correlation(b, f)) / 2,
        "sum_of_correlations_of_differences": correlation(f - b, a) + correlation(f - a, b),
    }
    for name, value in expected.items():
        args = fusion if "correlation" in name else fusion[:1]
        np.testing.assert_allclose(compute(getattr(fq, name), *args), value, rtol=1e-7)


def gradients_by_loop(image, mode):
    padded = np.pad(image.astype(np.float64), 1, mode=mode)
    sx, sy = np.zeros(image.shape), np.zeros(image.shape)
    for i, j in np.ndindex(image.shape):
        p = padded[i : i + 3, j : j + 3]
        sx[i, j] = p[0, 2] + 2 * p[1, 2] + p[2, 2] - p[0, 0] - 2 * p[1, 0] - p[2, 0]
        sy[i, j] = p[2, 0] + 2 * p[2, 1] + p[2, 2] - p[0, 0] - 2 * p[0, 1] - p[0, 2]
    angle = [math.atan(y / x) if x else math.pi / 2 for x, y in zip(sx.ravel(), sy.ravel())]
    return np.hypot(sx, sy), np.reshape(angle, image.shape)


def test_edges_of_fused_images(fusion):
    """Against loops over the pixels, written from the formulas."""
    flat = fusion[0].copy()
    flat[:20] = 7  # no gradient there
    for fused, a, b in (fusion, (flat, *fusion[1:])):
        (gf, af), (ga, aa), (gb, ab) = (gradients_by_loop(x, "constant") for x in (fused, a, b))
        kept = total = 0.0
        for g, angle in ((ga, aa), (gb, ab)):
            for p in np.ndindex(fused.shape):
                low, high = sorted((g[p], gf[p]))
                strength = gf[p] if low == high else low / high
                direction = 1 - abs(angle[p] - af[p]) / (math.pi / 2)
                quality = 0.9994 / (1 + math.exp(-15 * (strength - 0.5)))
                quality *= 0.9879 / (1 + math.exp(-22 * (direction - 0.8)))
                kept += quality * g[p]
                total += g[p]
        found = compute(fq.edge_preservation, fused, a, b)
        np.testing.assert_allclose(found, kept / total, rtol=1e-7)

        (gf, af), (ga, aa), (gb, ab) = (gradients_by_loop(x, "symmetric") for x in (fused, a, b))
        gf, ga, gb = gf / 8, ga / 8, gb / 8
        artifacts = total = 0.0
        for g, angle in ((ga, aa), (gb, ab)):
            for p in np.ndindex(fused.shape):
                low, high = sorted((g[p], gf[p]))
                strength = low / high if low else 0.0
                direction = abs(abs(angle[p] - af[p]) - math.pi / 2) * 2 / math.pi
                quality = 0.9999 / (1 + math.exp(-19 * (strength - 0.5)))
                quality *= 0.9995 / (1 + math.exp(-22 * (direction - 0.5)))
                weight = g[p] ** 1.5 if g[p] >= 2 else 0.001
                if gf[p] > ga[p] and gf[p] > gb[p]:
                    artifacts += (1 - math.sqrt(quality)) * weight
                total += weight
        found = compute(fq.fusion_artifacts, fused, a, b)
        np.testing.assert_allclose(found, artifacts / total, rtol=1e-7)
