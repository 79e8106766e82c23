import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.helpers import noise
from tests.small_vgg19 import VGG19_WIDTHS, small_vgg19, torchvision_state_dict
from vit_jax import perceptual


@pytest.mark.parity
def test_features_are_those_of_torchvisions_network(tmp_path):
    import torch as pytorch
    from torch import nn

    layers, inputs = [], 3
    for width in VGG19_WIDTHS:
        if width == "M":
            layers.append(nn.MaxPool2d(2, 2))
        else:
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    network = nn.Sequential(*layers[:-1])  # up to conv5_4, without its ReLU
    arrays = torchvision_state_dict(VGG19_WIDTHS)
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


@pytest.mark.slow
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
