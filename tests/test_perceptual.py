import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.conftest import noise
from vit_jax import perceptual

# torchvision's configuration E, less its last pooling.
WIDTHS = [64, 64, "M", 128, 128, "M", *[256] * 4, "M", *[512] * 4, "M", *[512] * 4]


def state_dict_of(widths, seed=0):
    """Random weights with torchvision's names."""
    random = np.random.default_rng(seed)
    arrays, inputs, n = {}, 3, 0
    for width in widths:
        if width == "M":
            n += 1
            continue
        kernel = random.normal(scale=(2 / (9 * inputs)) ** 0.5, size=(width, inputs, 3, 3))
        bias = random.normal(scale=0.1, size=width)
        arrays[f"features.{n}.weight"] = kernel.astype(np.float32)
        arrays[f"features.{n}.bias"] = bias.astype(np.float32)
        inputs, n = width, n + 2
    return arrays


def small_vgg19(monkeypatch, path, divisor=32):
    """Makes VGG19 narrower, and writes random weights for it; with a classifier besides."""
    stages = tuple(tuple(w // divisor for w in stage) for stage in perceptual._STAGES)
    monkeypatch.setattr(perceptual, "_STAGES", stages)
    arrays = state_dict_of([w if w == "M" else w // divisor for w in WIDTHS])
    torch.write(path, {**arrays, "classifier.0.weight": np.zeros((4, 7), np.float32)})
    return path


@pytest.mark.parity
def test_features_are_those_of_torchvisions_network(tmp_path):
    import torch as pytorch
    from torch import nn

    layers, inputs = [], 3
    for width in WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    network = nn.Sequential(*layers[:-1])  # up to conv5_4, without its ReLU
    arrays = state_dict_of(WIDTHS)
    network.load_state_dict({k[9:]: pytorch.from_numpy(v) for k, v in arrays.items()})
    torch.write(tmp_path / "vgg19.pth", {**arrays, "classifier.6.bias": np.zeros(1000)})
    params = perceptual.load_vgg19(tmp_path / "vgg19.pth")
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 20_024_384

    images, targets = noise((2, 40, 50, 3), 1), noise((2, 40, 50, 3), 2)
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    expected = []
    for x in (images, targets):
        x = pytorch.from_numpy(((x + 1) / 2 - mean) / std).permute(0, 3, 1, 2)
        with pytorch.no_grad():
            expected.append(network(x).permute(0, 2, 3, 1).numpy())
    features = jax.jit(perceptual.vgg19_features)(params, images)
    assert features.shape == (2, 2, 3, 512)
    assert features.min() < 0
    # Rounding over sixteen layers: 1.05e-5 of the deviation was measured.
    np.testing.assert_allclose(features, expected[0], atol=3e-5 * expected[0].std())
    distance = jax.jit(perceptual.distance)(params, images, targets)
    np.testing.assert_allclose(
        distance, np.abs(expected[0] - expected[1]).mean((1, 2, 3)), rtol=1e-5
    )


def test_distance(tmp_path, monkeypatch):
    params = perceptual.load_vgg19(small_vgg19(monkeypatch, tmp_path / "vgg19.safetensors"))
    images, targets = noise((2, 32, 48, 3), 1), noise((2, 32, 48, 3), 2)
    targets[1] = images[1]
    apart, same = perceptual.distance(params, images, targets)
    assert apart > 0.01
    assert same == 0
    to_images, to_targets = jax.grad(
        lambda *both: perceptual.distance(params, *both).sum(), argnums=(0, 1)
    )(images, targets)
    assert np.abs(to_images[0]).max() > 0
    assert np.isfinite(to_images).all()
    assert not to_targets.any()


def test_wrong_files_and_sizes(tmp_path, monkeypatch):
    path = small_vgg19(monkeypatch, tmp_path / "vgg19.safetensors")
    params = perceptual.load_vgg19(path)
    for shape in ((1, 15, 40, 3), (1, 32, 32, 1)):
        with pytest.raises(ValueError, match="sides of at least 16 pixels, not"):
            perceptual.vgg19_features(params, jnp.zeros(shape))
    arrays = torch.read(path)
    arrays["features.3.weight"] = arrays.pop("features.2.weight")
    arrays["features.5.bias"] = np.zeros(9, np.float32)
    torch.write(path, arrays)
    with pytest.raises(
        ValueError,
        match=r"vgg19.safetensors: .*missing: features.2.weight; extra: features.3.weight; of "
        r"another shape: features.5.bias \(9,\) in place of \(4,\)\); give torchvision's VGG19",
    ):
        perceptual.load_vgg19(path)
    with pytest.raises(ValueError, match="there is no file"):
        perceptual.load_vgg19(tmp_path / "none.pth")
