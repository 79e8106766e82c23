"""Figures of merit of images: MSE, PSNR, PSNR-B, SSIM and MS-SSIM by protocol.

Scores are comparable only under one protocol, so a protocol's name goes with each figure. All
functions can be compiled; images are (b, h, w, c) and every result is (b,), unless it says else.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from input_pipeline.arguments import unknown

_TAPS, _SIGMA = 11, 1.5  # of SSIM's window
_K1, _K2 = 0.01, 0.03
_BLOCK = 8  # pixels, of JPEG's
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
_TOO_SMALL_FOR_MS_SSIM = (_TAPS - 1) * 2 ** (len(_MS_SSIM_WEIGHTS) - 1)  # pixels of a side

Images = jax.Array


def mse(images: Images, targets: Images) -> jax.Array:
    """Mean squared error over all pixels and channels, in the square of their unit.

    Args:
        images: (b, h, w, c).
        targets: like images.
    """
    return jnp.mean(jnp.square(images - targets), axis=(1, 2, 3))


def psnr(images: Images, targets: Images, data_range: float = 1.0) -> jax.Array:
    """Peak signal-to-noise ratio in dB over all pixels and channels; infinite if they are equal.

    Args:
        images: (b, h, w, c).
        targets: like images.
        data_range: largest minus smallest possible value.
    """
    return 10 * jnp.log10(data_range**2 / mse(images, targets))


def ssim(images: Images, targets: Images, data_range: float = 1.0) -> jax.Array:
    """Structural similarity: Gaussian window of 11 taps and deviation 1.5, without padding.

    Source: Wang et al., "Image quality assessment: from error visibility to structural similarity"
    (IEEE TIP 2004), as scikit-image computes it with gaussian_weights and population covariances.

    Args:
        images: (b, h, w, c), both sides at least 11.
        targets: like images.
        data_range: largest minus smallest possible value.

    Returns:
        (b,) mean over positions and channels.

    Raises:
        ValueError: if the images are smaller than the window.
    """
    similarity, _ = _ssim_by_channel(_planes(images), _planes(targets), data_range)
    return jnp.mean(similarity, axis=-1)


def psnr_b(images: Images, targets: Images, data_range: float = 1.0) -> jax.Array:
    """PSNR-B in dB, which also counts how much blocking of 8 x 8 pixels the images show.

    Source: Yim & Bovik, "Quality assessment of deblocked images" (IEEE TIP 2011).

    Args:
        images: (b, h, w, c).
        targets: like images.
        data_range: largest minus smallest possible value.

    Returns:
        (b,) mean over the channels.
    """
    error = jnp.mean(jnp.square(images - targets), axis=(1, 2)) + _blocking(images)
    return jnp.mean(10 * jnp.log10(data_range**2 / error), axis=-1)


def _blocking(x: jax.Array) -> jax.Array:
    """(b, c) blocking effect factor: squared steps between blocks over those inside of them."""
    x = _planes(x)
    at_edges = elsewhere = jnp.zeros(x.shape[:2])
    edges = others = 0
    for axis in (2, 3):
        steps = jnp.square(jnp.diff(x, axis=axis))
        along = jnp.sum(steps, axis=5 - axis)  # (b, c, steps)
        is_edge = np.arange(1, along.shape[2] + 1) % _BLOCK == 0
        at_edges += jnp.sum(along[..., is_edge], axis=2)
        elsewhere += jnp.sum(along[..., ~is_edge], axis=2)
        # One less than there are if 8 does not divide the side, as in the published codes.
        count = max((along.shape[2] + 1) // _BLOCK - 1, 0)
        edges += x.shape[5 - axis] * count
        others += x.shape[5 - axis] * (along.shape[2] - count)
    if not edges:
        return jnp.zeros_like(at_edges)
    at_edges, elsewhere = at_edges / edges, elsewhere / others
    scale = math.log2(_BLOCK) / math.log2(min(x.shape[2:]))
    return jnp.where(at_edges > elsewhere, scale * (at_edges - elsewhere), 0)


def ms_ssim(images: Images, targets: Images, data_range: float = 1.0) -> jax.Array:
    """Multi-scale structural similarity over five scales.

    Source: Wang et al., "Multiscale structural similarity for image quality assessment" (Asilomar
    2003), in the form of pytorch_msssim: negative contrast terms count as 0.

    Args:
        images: (b, h, w, c), the shorter side above 160.
        targets: like images.
        data_range: largest minus smallest possible value.

    Raises:
        ValueError: if the images are too small.
    """
    if not _has_ms_ssim(images):
        raise ValueError(
            f"MS-SSIM needs images whose sides exceed {_TOO_SMALL_FOR_MS_SSIM} pixels, "
            f"not {images.shape[1:3]}"
        )
    x, y = _planes(images), _planes(targets)
    product = jnp.ones(x.shape[:2])
    for level, weight in enumerate(_MS_SSIM_WEIGHTS):
        similarity, contrast = _ssim_by_channel(x, y, data_range)
        is_last = level == len(_MS_SSIM_WEIGHTS) - 1
        product *= jax.nn.relu(similarity if is_last else contrast) ** weight
        x, y = _halve(x), _halve(y)
    return jnp.mean(product, axis=-1)


def _has_ms_ssim(images: Images) -> bool:
    return min(images.shape[1:3]) > _TOO_SMALL_FOR_MS_SSIM


def _ssim_by_channel(x: jax.Array, y: jax.Array, data_range: float) -> tuple[jax.Array, jax.Array]:
    """(b, c) similarity and contrast term of planes, each the mean over positions."""
    if min(x.shape[2:]) < _TAPS:
        raise ValueError(f"SSIM needs images of at least {_TAPS} pixels, not {x.shape[2:]}")
    c1, c2 = (_K1 * data_range) ** 2, (_K2 * data_range) ** 2
    window = gaussian(_TAPS, _SIGMA)
    # Filtered as one, of which XLA makes a program of a quarter of the time.
    mean_x, mean_y, squares, products = filtered(
        jnp.stack([x, y, x * x + y * y, x * y]), window
    )  # fmt: skip
    variances = squares - mean_x**2 - mean_y**2
    covariance = products - mean_x * mean_y
    contrast = (2 * covariance + c2) / (variances + c2)
    similarity = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1) * contrast
    return jnp.mean(similarity, axis=(2, 3)), jnp.mean(contrast, axis=(2, 3))


def _planes(x: jax.Array) -> jax.Array:
    """(b, h, w, c) -> (b, c, h, w), whose rows CPUs go through faster than rows of few channels."""
    return jnp.moveaxis(x, -1, 1)


def gaussian(taps: int, sigma: float) -> np.ndarray:
    """A window of so many taps, whose sum is 1."""
    offsets = np.arange(taps) - (taps - 1) / 2
    window = np.exp(-(offsets**2) / (2 * sigma**2))
    return window / window.sum()


def filtered(x: jax.Array, window: np.ndarray) -> jax.Array:
    """Filters rows and columns of planes, (..., h, w), with the same window, without padding."""
    taps = len(window)
    h, w = (side - taps + 1 for side in x.shape[-2:])
    x = jnp.asarray(sum(x[..., i : i + h, :] * float(window[i]) for i in range(taps)))
    return jnp.asarray(sum(x[..., i : i + w] * float(window[i]) for i in range(taps)))


def _halve(x: jax.Array) -> jax.Array:
    """Averages 2 x 2 pixels of planes; odd sides get zeros in front, which count."""
    b, c, h, w = x.shape
    x = jnp.pad(x, ((0, 0), (0, 0), (h % 2, 0), (w % 2, 0)))
    return jnp.mean(x.reshape(b, c, -(-h // 2), 2, -(-w // 2), 2), axis=(3, 5))


def _average_to(x: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Averages to a smaller size, as PyTorch's adaptive average pooling does."""

    def weights(old: int, new: int) -> np.ndarray:
        rows = np.zeros((new, old), np.float32)
        for i in range(new):
            begin, end = i * old // new, -(-(i + 1) * old // new)
            rows[i, begin:end] = 1 / (end - begin)
        return rows

    rows, columns = (weights(old, new) for old, new in zip(x.shape[1:3], size))
    highest = jax.lax.Precision.HIGHEST
    return jnp.einsum("ih,jw,bhwc->bijc", rows, columns, x, precision=highest)


def _unit_range(x: jax.Array) -> jax.Array:
    """Clips the model's range of [-1, 1] and maps it to [0, 1]."""
    return (jnp.clip(x, -1, 1) + 1) / 2


def dehazeformer(images: Images, targets: Images) -> dict[str, jax.Array]:
    """DehazeFormer's protocol: no quantisation; SSIM at about 256 pixels.

    Args:
        images: (b, h, w, 3) in [-1, 1]; what lies outside is clipped.
        targets: like images.

    Returns:
        "psnr" and "ssim", each (b,).
    """
    x, y = _unit_range(images), _unit_range(targets)
    h, w = x.shape[1:3]
    factor = max(1, round(min(h, w) / 256))
    size = (int(h / factor), int(w / factor))
    return {"psnr": psnr(x, y), "ssim": ssim(_average_to(x, size), _average_to(y, size))}


def basicsr(images: Images, targets: Images, border: int = 0) -> dict[str, jax.Array]:
    """BasicSR's and SwinIR's protocol: 8-bit images, in RGB and in the luma of BT.601.

    Args:
        images: (b, h, w, 3) in [-1, 1]; what lies outside is clipped.
        targets: like images.
        border: pixels to leave out on each side; the factor of super-resolution.

    Returns:
        "psnr", "ssim", "psnr_b", and the same of luma, "psnr_y", "ssim_y" and "psnr_b_y"; each
        (b,). What is blocking is counted by channel.
    """
    x, y = (_eight_bits(z, border) for z in (images, targets))
    luma_x, luma_y = _luma(x), _luma(y)
    return {
        "psnr": psnr(x, y, 255),
        "ssim": ssim(x, y, 255),
        "psnr_b": psnr_b(x, y, 255),
        "psnr_y": psnr(luma_x, luma_y, 255),
        "ssim_y": ssim(luma_x, luma_y, 255),
        "psnr_b_y": psnr_b(luma_x, luma_y, 255),
    }


def _eight_bits(x: jax.Array, border: int) -> jax.Array:
    x = jnp.round(_unit_range(x) * 255)
    return x[:, border:-border, border:-border] if border else x


def _luma(x: jax.Array) -> jax.Array:
    """(b, h, w, 3) in [0, 255] -> (b, h, w, 1) in [16, 235], unrounded."""
    weights = np.array([65.481, 128.553, 24.966], np.float32) / 255
    return jnp.sum(x * weights, axis=-1, keepdims=True) + 16


def skimage(images: Images, targets: Images) -> dict[str, jax.Array]:
    """scikit-image's figures, without quantisation, with the Gaussian window of the paper.

    Args:
        images: (b, h, w, c) in [-1, 1]; what lies outside is clipped.
        targets: like images.

    Returns:
        "psnr" and "ssim", each (b,).
    """
    x, y = _unit_range(images), _unit_range(targets)
    return {"psnr": psnr(x, y), "ssim": ssim(x, y)}


PROTOCOLS: dict[str, Callable[..., dict[str, jax.Array]]] = {
    "dehazeformer": dehazeformer,
    "basicsr": basicsr,
    "skimage": skimage,
}


def get_protocol(name: str) -> Callable[..., dict[str, jax.Array]]:
    """Finds a protocol by name; a ValueError lists what there is."""
    if name not in PROTOCOLS:
        raise ValueError(unknown("protocol", name, PROTOCOLS))
    return PROTOCOLS[name]


def all_figures(
    protocol: str, images: Images, targets: Images, border: int = 0
) -> dict[str, jax.Array]:
    """A protocol's figures, and what it leaves open, of the images as it compares them.

    Args:
        protocol: a key of PROTOCOLS.
        images: (b, h, w, 3) in [-1, 1]; what lies outside is clipped.
        targets: like images.
        border: pixels to leave out on each side, by "basicsr" alone.

    Returns:
        What the protocol returns, and "mse", "psnr_b" and, of images with sides of more than 160
        pixels, "ms_ssim"; each (b,). "basicsr" has values from 0 to 255, the others from 0 to 1.

    Raises:
        ValueError: for an unknown protocol, or a border that it has not.
    """
    compute = get_protocol(protocol)
    if compute is basicsr:
        figures = basicsr(images, targets, border)
        x, y, largest = _eight_bits(images, border), _eight_bits(targets, border), 255.0
    elif border:
        raise ValueError(f"the protocol {protocol} leaves no border out; basicsr does")
    else:
        figures = compute(images, targets)
        x, y, largest = _unit_range(images), _unit_range(targets), 1.0
    figures["mse"] = mse(x, y)
    figures.setdefault("psnr_b", psnr_b(x, y, largest))
    if _has_ms_ssim(x):
        figures["ms_ssim"] = ms_ssim(x, y, largest)
    return figures
