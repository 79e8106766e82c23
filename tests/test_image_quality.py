import functools
import math

import numpy as np
import pytest
import skimage.measure
import skimage.metrics

from tests.helpers import compute, noise, smooth_with_noise
from vit_jax import image_quality as iq


def pair(size):
    """Targets and worse images, two of each, some of whose values lie outside of [-1, 1]."""
    targets = np.stack([smooth_with_noise(size, 0), smooth_with_noise(size, 1)])
    noise = np.random.default_rng(2).normal(scale=0.2, size=targets.shape)
    return (0.8 * targets + 0.3 + noise).astype(np.float32), targets


def unit(x):
    return (np.clip(x, -1, 1).astype(np.float64) + 1) / 2


def skimage_ssim(x, y, data_range, channel_axis=-1):
    return skimage.metrics.structural_similarity(
        x, y, data_range=data_range, channel_axis=channel_axis, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False,
    )  # fmt: skip


@pytest.mark.parametrize("size", [(40, 57), (11, 90)])
def test_skimage(size):
    images, targets = pair(size)
    figures = compute(iq.skimage, images, targets)
    for i in range(2):
        x, y = unit(images[i]), unit(targets[i])
        psnr = skimage.metrics.peak_signal_noise_ratio(y, x, data_range=1)
        np.testing.assert_allclose(figures["psnr"][i], psnr, atol=1e-4)
        np.testing.assert_allclose(figures["ssim"][i], skimage_ssim(x, y, 1), atol=1e-5)


def test_basicsr():
    images, targets = pair((40, 57))
    for border in (0, 3):
        figures = compute(functools.partial(iq.basicsr, border=border), images, targets)
        x, y = (np.round(unit(z[0]) * 255) for z in (images, targets))
        if border:
            x, y = (z[border:-border, border:-border] for z in (x, y))
        weights = np.array([65.481, 128.553, 24.966]) / 255
        luma_x, luma_y = x @ weights + 16, y @ weights + 16
        expected = {
            "psnr": 20 * math.log10(255 / np.sqrt(np.mean((x - y) ** 2))),
            "psnr_y": 20 * math.log10(255 / np.sqrt(np.mean((luma_x - luma_y) ** 2))),
            "ssim": skimage_ssim(x, y, 255),
            "ssim_y": skimage_ssim(luma_x, luma_y, 255, channel_axis=None),
        }
        assert set(figures) == {*expected, "psnr_b", "psnr_b_y"}
        for name, value in expected.items():
            np.testing.assert_allclose(figures[name][0], value, rtol=1e-5, err_msg=name)


def average_by_loop(x, size):
    """Adaptive average pooling from its definition."""
    result = np.zeros((*size, x.shape[-1]))
    for i, j in np.ndindex(*size):
        rows = slice(i * x.shape[0] // size[0], math.ceil((i + 1) * x.shape[0] / size[0]))
        columns = slice(j * x.shape[1] // size[1], math.ceil((j + 1) * x.shape[1] / size[1]))
        result[i, j] = x[rows, columns].mean(axis=(0, 1))
    return result


@pytest.mark.parametrize(("size", "small"), [((390, 411), (195, 205)), ((383, 400), (383, 400))])
def test_dehazeformer(size, small):
    """Python rounds 383 / 256 to 1 and 390 / 256 to 2."""
    images, targets = pair(size)
    figures = compute(iq.dehazeformer, images, targets)
    x, y = unit(images[0]), unit(targets[0])
    np.testing.assert_allclose(figures["psnr"][0], 10 * np.log10(1 / np.mean((x - y) ** 2)), 1e-5)
    if small != size:
        x, y = average_by_loop(x, small), average_by_loop(y, small)
    np.testing.assert_allclose(figures["ssim"][0], skimage_ssim(x, y, 1), atol=1e-5)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(413, 550), (257, 300), (620, 460)])
def test_dehazeformer_and_ms_ssim_as_pytorch_msssim_has_them(size):
    import pytorch_msssim
    import torch
    import torch.nn.functional as F

    images, targets = pair(size)
    x, y = (torch.from_numpy(unit(z).astype(np.float32).transpose(0, 3, 1, 2)) for z in
            (images, targets))  # fmt: skip
    psnr = [float(10 * torch.log10(1 / F.mse_loss(a, b))) for a, b in zip(x, y)]
    ratio = max(1, round(min(size) / 256))
    small = (int(size[0] / ratio), int(size[1] / ratio))
    pooled = (F.adaptive_avg_pool2d(z, small) for z in (x, y))
    ssim = pytorch_msssim.ssim(*pooled, data_range=1, size_average=False)
    figures = compute(iq.dehazeformer, images, targets)
    np.testing.assert_allclose(figures["psnr"], psnr, atol=1e-5)
    np.testing.assert_allclose(figures["ssim"], ssim, atol=1e-5)

    expected = pytorch_msssim.ms_ssim(x, y, data_range=1, size_average=False)
    found = compute(iq.ms_ssim, *(z.numpy().transpose(0, 2, 3, 1) for z in (x, y)))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_equal_images():
    _, targets = pair((24, 30))
    for protocol in iq.PROTOCOLS.values():
        figures = compute(protocol, targets, targets)
        assert np.isinf(figures["psnr"]).all()
        np.testing.assert_allclose(figures["ssim"], 1, atol=1e-6)
    _, targets = pair((170, 180))
    np.testing.assert_allclose(compute(iq.ms_ssim, targets, targets), 1, atol=1e-6)


def test_images_that_are_too_small():
    small = np.zeros((1, 10, 40, 3), np.float32)
    with pytest.raises(ValueError, match="at least 11 pixels"):
        iq.ssim(small, small)
    large = np.zeros((1, 160, 400, 3), np.float32)
    with pytest.raises(ValueError, match="whose sides exceed 160 pixels"):
        iq.ms_ssim(large, large)
    with pytest.raises(
        ValueError, match=r"unknown protocol 'x'; .*there are: dehazeformer, basicsr"
    ):
        iq.get_protocol("x")


def blocking_by_loop(x):
    """The blocking effect factor of one (h, w) channel, from its definition."""
    h, w = x.shape
    edges, others = [], []
    for j in range(w - 1):
        (edges if (j + 1) % 8 == 0 else others).append(((x[:, j] - x[:, j + 1]) ** 2).sum())
    for i in range(h - 1):
        (edges if (i + 1) % 8 == 0 else others).append(((x[i] - x[i + 1]) ** 2).sum())
    count = h * (w // 8 - 1) + w * (h // 8 - 1)
    edge, other = sum(edges) / count, sum(others) / (h * (w - 1) + w * (h - 1) - count)
    return np.log2(8) / np.log2(min(h, w)) * (edge - other) if edge > other else 0.0


@pytest.mark.parametrize("size", [(32, 40), (33, 47)])
def test_psnr_b(size):
    target = np.round((noise((1, *size, 2)) + 1) * 127.5)
    blocks = np.kron(noise((1, 7, 7, 2)) * 20, np.ones((1, 8, 8, 1)))[:, : size[0], : size[1]]
    for image in (target * 0.2 + blocks, target + 3):
        error = np.mean((image - target) ** 2, axis=(0, 1, 2))
        blocking = np.array([blocking_by_loop(image[0, ..., c]) for c in range(2)])
        expected = np.mean(10 * np.log10(255**2 / (error + blocking)))
        found = iq.psnr_b(image.astype(np.float32), target.astype(np.float32), 255)
        np.testing.assert_allclose(found, [expected], rtol=1e-5)
    assert blocking_by_loop((target * 0.2 + blocks)[0, ..., 0]) > 0
    small = noise((1, 11, 15, 3))
    np.testing.assert_allclose(
        iq.psnr_b(small, small + 0.1), iq.psnr(small, small + 0.1), rtol=1e-5
    )
