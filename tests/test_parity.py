"""Comparison with timm, which reads what we write and writes what we read: make parity."""

import importlib
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checkpoints import npz, torch
from configs import common
from tests.golden_recipe import recipe_array
from tests.helpers import noise, random_params
from vit_jax import optim, pretrained, train
from vit_jax.models import get_model

pytestmark = pytest.mark.parity

SWIN = "swin_tiny_patch4_window7_224"
TANH = {"act_layer": "gelu_tanh"}  # as the published weights were trained; timm's default is erf

# Ours, timm's, the image size, timm's arguments, and the largest difference of logits of order 1.
# A hybrid's convolutions standardise their kernels with another epsilon in timm. Swin's windows are
# 7 x 7 and divide all; 7 x 7 with padding, and 5 x 6 at last; 12 x 12, and 6 x 6 at last. Those of
# Twins are always 7 x 7, and padded in the second of its cases.
CASES = {
    "Ti_16": ("ViT-Ti_16", "vit_tiny_patch16_224", 224, TANH, 2e-5),
    "Ti_16 exact": ("ViT-Ti_16", "vit_tiny_patch16_224", 224, {}, 2e-5),
    "B_16": ("ViT-B_16", "vit_base_patch16_224", 224, TANH, 2e-5),
    "B_16 at 384": ("ViT-B_16", "vit_base_patch16_384", 384, TANH, 2e-5),
    "gap": (
        "ViT-S_16-gap-norep", "vit_small_patch16_224", 224,
        dict(TANH, global_pool="avg", class_token=False, fc_norm=False), 2e-5,
    ),
    "R_Ti_16": ("R+ViT-Ti_16", "vit_tiny_r_s16_p8_224", 224, TANH, 2e-5),
    "R26_S_32": ("R26+ViT-S_32", "vit_small_r26_s32_224", 224, TANH, 5e-4),
    "Mixer": ("Mixer-B_16", "mixer_b16_224", 224, {}, 2e-5),
    "Swin": ("Swin-T", SWIN, 224, {}, 2e-5),
    "Swin at 160 x 192": ("Swin-T", SWIN, (160, 192), dict(img_size=(160, 192)), 2e-5),
    "Twins": ("Twins-SVT-S", "twins_svt_small", 224, {}, 2e-5),
    "Twins at 160 x 192": ("Twins-SVT-S", "twins_svt_small", (160, 192), {}, 2e-5),
    "Swin-384 at 192": ("Swin-T-384", SWIN, 192, dict(img_size=192, window_size=12), 2e-5),
}  # fmt: skip


@pytest.fixture(scope="module")
def timm():
    importlib.import_module("tests.torchvision_operators")
    import timm

    return timm


@pytest.fixture(scope="module", params=CASES)
def case(request, timm):
    """Our model with random weights, timm's without, and the tolerance."""
    ours, theirs, size, kwargs, tolerance = CASES[request.param]
    fields = {"activation": "gelu"} if "exact" in request.param else {}
    model, size = get_model(ours, **fields), np.broadcast_to(size, 2)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    random = np.random.default_rng(0)
    params = jax.tree.map_with_path(
        lambda path, x: np.float32(
            (path[-1].key == "scale") + random.normal(scale=0.03, size=x.shape)
        ),
        shapes,
    )
    if "Mixer" in ours:
        kwargs = {"act_layer": timm.layers.get_act_layer("gelu_tanh")}
    return model, params, timm.create_model(theirs, num_classes=1000, **kwargs), size, tolerance


def apply(model, params, images):
    return np.asarray(jax.jit(model.apply)({"params": params}, images))


def apply_timm(model, images):
    import torch

    with torch.no_grad():
        return model.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()


def test_rates_of_layers_are_timms(case, timm):
    from timm.optim import param_groups_layer_decay

    model, params, theirs, _, _ = case
    if not model.layer_patterns():
        pytest.skip("no layers are known of such models")
    settings = dict(
        name="sgd", layer_decay=0.7, args={"momentum": 0.0}, weight_decay=0.5, weight_decay_on=""
    )
    config = common.get_config().optim
    config.update(settings)
    rate = optax.constant_schedule(1.0)
    tx = optim.make_optimizer(config, rate, params, model.layer_patterns())
    zeros, ones = (jax.tree.map(make, params) for make in (jnp.zeros_like, jnp.ones_like))
    updates, _ = tx.update(zeros, tx.init(params), ones)
    ours = torch.to_state_dict({"params": jax.tree.map(lambda x: -2 * x, updates)}, model)
    names = {id(parameter): name for name, parameter in theirs.named_parameters()}
    for group in param_groups_layer_decay(theirs, layer_decay=0.7):
        for name in (names[id(parameter)] for parameter in group["params"]):
            np.testing.assert_allclose(ours[name], group["lr_scale"], rtol=1e-5, err_msg=name)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors", ".pth"])
def test_timm_reads_what_we_write(case, timm, tmp_path, suffix):
    model, params, theirs, size, tolerance = case
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        if not hasattr(theirs, "load_pretrained"):
            pytest.skip("timm reads such files of ViTs alone")
        npz.save(path, params)
        theirs.load_pretrained(str(path))
    else:
        torch.write(path, torch.to_state_dict({"params": params}, model))
        timm.models.load_checkpoint(theirs, str(path), strict=True)
    images = noise((2, *size, 3))
    expected = apply(model, params, images)
    assert np.abs(expected).max() > 0.3
    np.testing.assert_allclose(apply_timm(theirs, images), expected, atol=tolerance)


def test_we_read_what_timm_writes(case, timm, tmp_path):
    import safetensors.torch
    import torch as pytorch

    model, _, theirs, size, tolerance = case
    pytorch.manual_seed(0)
    state_dict = {
        name: tensor + 0.02 * pytorch.randn(tensor.shape)
        for name, tensor in theirs.state_dict().items()
    }
    theirs.load_state_dict(state_dict)
    pytorch.save({"state_dict": {f"module.{k}": v for k, v in state_dict.items()}},
                 tmp_path / "a.pth")  # fmt: skip
    safetensors.torch.save_file(state_dict, tmp_path / "a.safetensors")
    images = noise((2, *size, 3), seed=1)
    expected = apply_timm(theirs, images)
    for file in ("a.pth", "a.safetensors"):
        params = torch.from_state_dict(torch.read(tmp_path / file), model, size)["params"]
        np.testing.assert_allclose(apply(model, params, images), expected, atol=tolerance)


def test_hybrids_differ_by_the_epsilon_alone(case):
    """With our epsilon in timm's convolutions, R26+S/32 agrees to 3e-6 in place of 2e-5."""
    import torch as pytorch
    from timm.layers import StdConv2dSame
    from timm.layers.padding import pad_same

    model, params, theirs, size, _ = case
    convolutions = [m for m in theirs.modules() if isinstance(m, StdConv2dSame)]
    if not convolutions:
        pytest.skip("no hybrid")

    def forward(self, x):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        weight = weight / (weight.std(dim=(1, 2, 3), keepdim=True, correction=0) + 1e-5)
        if self.same_pad:
            x = pad_same(x, self.kernel_size, self.stride, self.dilation)
        padding = 0 if self.same_pad else self.padding
        return pytorch.nn.functional.conv2d(x, weight, self.bias, self.stride, padding)

    state_dict = torch.to_state_dict({"params": params}, model)
    theirs.load_state_dict({k: pytorch.from_numpy(np.array(v)) for k, v in state_dict.items()})
    images = noise((2, *size, 3))
    for module in convolutions:
        module.forward = types.MethodType(forward, module)
    try:
        found = apply_timm(theirs, images)
    finally:
        for module in convolutions:
            del module.forward
    np.testing.assert_allclose(found, apply(model, params, images), atol=5e-5)


def test_timm_reads_official_names_of_swin(timm):
    """And we: officially a stage ends with the merging that the next one begins with in timm."""
    import torch as pytorch
    from timm.models.swin_transformer import checkpoint_filter_fn

    model, params = random_params("Swin-T", (224, 224))
    official = torch.to_state_dict({"params": params}, model, "official")
    official["layers.0.blocks.1.attn_mask"] = np.zeros((64, 49, 49), np.float32)
    official["layers.0.blocks.0.attn.relative_position_index"] = np.zeros((49, 49), np.int64)
    jax.tree.map(
        np.testing.assert_array_equal, torch.from_state_dict(official, model)["params"], params
    )
    tensors = {name: pytorch.from_numpy(array) for name, array in official.items()}
    found = checkpoint_filter_fn({"model": tensors}, timm.create_model(SWIN))
    expected = torch.to_state_dict({"params": params}, model, "timm")
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    ("window", "size"), [(7, (160, 160)), (7, (160, 192)), (12, (192, 192)), (12, (384, 384))]
)
def test_position_biases_of_swin_for_other_windows(timm, window, size):
    """They become what timm makes of them where it reads those for 224 pixels, windows of 7."""
    import torch as pytorch
    from timm.models.swin_transformer import checkpoint_filter_fn

    _, params = random_params("Swin-T", (224, 224))
    model = get_model("Swin-T", window_size=window)
    theirs = timm.create_model(SWIN, img_size=size, window_size=window)
    state_dict = torch.to_state_dict({"params": params}, model)
    tensors = {name: pytorch.from_numpy(array) for name, array in state_dict.items()}
    expected = checkpoint_filter_fn(tensors, theirs)
    theirs.load_state_dict(expected, strict=True)
    resized = model.resize_params(params, (224, 224), size)
    for name, array in torch.to_state_dict({"params": resized}, model).items():
        np.testing.assert_allclose(array, expected[name], atol=2e-6, err_msg=name)


def test_attention_pooling(timm):
    import torch as pytorch

    theirs = timm.models.vision_transformer.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2, num_classes=7,
        global_pool="map", class_token=False, act_layer="gelu_tanh",
    )  # fmt: skip
    pytorch.manual_seed(0)
    state_dict = {
        k: v + 0.1 * pytorch.randn(v.shape) for k, v in theirs.state_dict().items()
    }  # fmt: skip
    theirs.load_state_dict(state_dict)
    model = get_model(
        "ViT-B_16", patch_size=8, hidden_size=48, num_layers=2, num_heads=3, mlp_dim=96,
        num_classes=7, classifier="map",
    )  # fmt: skip
    arrays = {k: v.numpy() for k, v in state_dict.items()}
    params = torch.from_state_dict(arrays, model)["params"]
    images = noise((2, 32, 32, 3))
    np.testing.assert_allclose(
        apply(model, params, images), apply_timm(theirs, images), atol=2e-5
    )  # fmt: skip


def test_timm_reads_what_was_fine_tuned(folder_config, timm, tmp_path):
    """From a file of 1000 classes at 64 pixels to two classes at 48 pixels, and on to timm."""
    model = get_model("ViT-Ti_16")
    images = jnp.zeros((1, 64, 64, 3))
    npz.save(tmp_path / "a.npz", jax.jit(model.init)(jax.random.key(0), images)["params"])
    folder_config.model = {}
    folder_config.pretrained = str(tmp_path / "a.npz")
    folder_config.data.train_pp = "decode|resize(48)|value_range(-1, 1)"
    folder_config.data.eval_pp = folder_config.data.train_pp
    folder_config.optim.learning_rate = 1e-3
    folder_config.total_steps = 2
    train.train_and_evaluate(folder_config, tmp_path / "w")

    theirs = timm.create_model("vit_tiny_patch16_224", img_size=48, num_classes=2, **TANH)
    theirs.load_pretrained(str(tmp_path / "w" / "weights.npz"))
    ours = pretrained.load(tmp_path / "w")
    assert ours.image_size == (48, 48)
    images = noise((2, 48, 48, 3))
    expected = apply(ours.model, ours.variables["params"], images)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_allclose(apply_timm(theirs, images), expected, atol=2e-5)


def test_files_with_more_than_weights(tmp_path):
    import torch as pytorch

    pytorch.save({"epoch": 3, "weight": pytorch.zeros(2)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a\.pth holds more than weights: epoch"):
        torch.read(tmp_path / "a.pth")
    pytorch.save(pytorch.nn.Linear(1, 1), tmp_path / "b.pth")
    with pytest.raises(ValueError, match=r"b\.pth holds torch\.nn.*Linear.* in place of a dict"):
        torch.read(tmp_path / "b.pth")
    pytorch.save([1], tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"c\.pth holds a list in place of a dict"):
        torch.read(tmp_path / "c.pth")
    (tmp_path / "d.pth").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"d\.pth is no PyTorch file"):
        torch.read(tmp_path / "d.pth")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("DehazeFormer-T", {}),
        ("DehazeFormer-M", {}),
        ("SwinIR-lightweight-x2", {}),
        ("SwinIR-real-L-x4", dict(depths=(2, 2), num_heads=(8, 8))),
        ("SwinIR-classical-x3", dict(depths=(2,), num_heads=(6,))),
        ("SwinIR-jpeg-gray", dict(depths=(2, 2), num_heads=(6, 6))),
    ],
)
def test_what_the_benchmark_compares_restoration_with(name, fields):
    """The module in PyTorch takes our weights by name, and restores a size that needs padding."""
    import torch as pytorch

    from vit_jax.benchmark import models, torch_contender

    model, params = random_params(name, (64, 64), **fields)
    theirs = models.in_pytorch(name, model, (30, 41))
    theirs = torch_contender.load(theirs, {"params": params}, model)
    images = noise((2, 30, 41, 3))
    with pytorch.inference_mode():
        found = theirs(torch_contender.images(images)).numpy().transpose(0, 2, 3, 1)
    expected = apply(model, params, images)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", ["FlowFormer", "FlowFormer-small"])
def test_what_the_benchmark_compares_flow_with(name):
    """The same, of two pairs: the last flow in evaluation, and all of them in training."""
    import torch as pytorch

    from vit_jax.benchmark import models, torch_contender

    model, variables = models.make(name, 64, "float32", iterations=2, depth=1)
    theirs = models.in_pytorch(name, model, (62, 70))
    theirs = torch_contender.load(theirs, variables, model)
    both = [noise((2, 62, 70, 3), seed) for seed in range(2)]
    given = [torch_contender.images(images) for images in both]
    with pytorch.inference_mode():
        found = theirs(*given).numpy().transpose(0, 2, 3, 1)
        every = theirs.train()(*given).numpy().transpose(0, 1, 3, 4, 2)
    expected = np.asarray(jax.jit(lambda *x: model.apply(variables, *x, train=True))(*both))
    np.testing.assert_allclose(every, expected, atol=1e-4 * np.abs(expected).max())
    np.testing.assert_array_equal(every[-1], found)
    assert expected.std() > 0.1


# With batch norms, whose statistics go along.

RESNETS = {"ResNet-18": "resnet18", "ResNet-50": "resnet50"}


@pytest.fixture(params=RESNETS)
def resnets(request, timm):
    """Our ResNet, and timm's with weights that are neither 0 nor 1."""
    import torch as pytorch

    theirs = timm.create_model(RESNETS[request.param], num_classes=11)
    state_dict = {
        name: pytorch.from_numpy(recipe_array(name, tuple(tensor.shape)))
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    theirs.load_state_dict(state_dict, strict=False)
    return get_model(request.param, num_classes=11), theirs


def test_resnets_are_timms_both_ways(resnets, timm, tmp_path):
    import torch as pytorch

    model, theirs = resnets
    images = noise((2, 97, 70, 3), seed=1)
    expected = apply_timm(theirs, images)
    pytorch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    variables = torch.from_state_dict(torch.read(tmp_path / "theirs.pth"), model)
    found = np.asarray(jax.jit(model.apply)(variables, images))
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std())
    torch.write(tmp_path / "ours.safetensors", torch.to_state_dict(variables, model))
    again = timm.create_model(
        RESNETS[f"ResNet-{18 if not model.bottleneck else 50}"], num_classes=11
    )
    timm.models.load_checkpoint(again, str(tmp_path / "ours.safetensors"), strict=True)
    np.testing.assert_array_equal(apply_timm(again, images), expected)


def test_feature_maps_of_resnets_are_timms(resnets, timm):
    import torch as pytorch

    model, theirs = resnets
    name = RESNETS[f"ResNet-{18 if not model.bottleneck else 50}"]
    maps = timm.create_model(name, features_only=True, out_indices=(1, 2, 3, 4))
    maps.load_state_dict(theirs.state_dict(), strict=False)
    images = noise((1, 66, 49, 3), seed=2)
    with pytorch.no_grad():
        expected = maps.eval()(pytorch.from_numpy(images.transpose(0, 3, 1, 2)))
    state_dict = {k: v.numpy() for k, v in theirs.state_dict().items()}
    variables = torch.from_state_dict(state_dict, model)
    found = jax.jit(lambda x: model.apply(variables, x, feature_maps=True))(images)
    assert len(found) == len(expected) == 4
    for ours, other in zip(found, expected):
        other = other.numpy().transpose(0, 2, 3, 1)
        np.testing.assert_allclose(ours, other, atol=1e-5 * other.std())
