import functools
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz, torch, tree
from tests.golden_recipe import recipe_weights
from tests.helpers import TINY, noise, random_params, random_variables
from vit_jax import convert, identify, ops, pretrained, weights
from vit_jax.models import MODELS, get_model
from vit_jax.models.resnet import ResNet
from vit_jax.models.simple_pyramid import SimplePyramid
from vit_jax.models.swin import Swin
from vit_jax.models.vit import VisionTransformer

GOLDEN = np.load(Path(__file__).parent / "golden" / "upernet_swin.npz")
UPERNET = dict(encoder="Swin-golden", features=32, auxiliary_features=16, num_classes=6)


@pytest.fixture
def encoder(monkeypatch):
    """Small encoders by name."""
    golden = dict(embed_dim=24, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window_size=4)
    tiny = dict(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=3)
    monkeypatch.setitem(MODELS, "Swin-golden", (Swin, golden))
    monkeypatch.setitem(MODELS, "Swin-tiny", (Swin, tiny))
    monkeypatch.setitem(MODELS, "ResNet-tiny", (ResNet, dict(depths=(1,) * 4, width=8)))
    monkeypatch.setitem(MODELS, "ViT-tiny", (VisionTransformer, {**TINY, "patch_size": 16}))


def images_of(case):
    return (GOLDEN[f"{case}/image"].astype(np.float32) / 255 - 0.5) / 0.25


@pytest.mark.parametrize("case", [pytest.param("large", marks=pytest.mark.slow), "small"])
def test_golden_upernet(case, encoder):
    """Of `small`, the deepest maps are no larger than a window, and shifted all the same."""
    images, model = images_of(case), get_model("Swin-T-UPerNet", **UPERNET)
    variables = recipe_weights(model, images.shape[1:3], "mmsegmentation")
    apply = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    logits, state = apply(variables, images)
    parts = state["intermediates"]
    maps = parts["backbone"]["__call__"][0]
    found = {f"act/stage{i}": x for i, x in enumerate(maps)}
    found["act/stage0"], found["act/stage1"] = maps[0][..., ::8], maps[1][..., ::2]
    found["act/psp"] = jax.nn.relu(parts["decode_head"]["bottleneck"]["bn"]["__call__"][0])
    found["logits"], found["aux_logits"] = logits, parts["auxiliary_head"]["__call__"][0]
    found["hf_logits_corner"] = ops.resize_bilinear(logits, images.shape[1:3])[:, :32, :32]
    steps = {"logits": 3, "act/stage0": 5, "act/stage1": 3, "act/stage2": 2, "hf_logits_corner": 4}
    for name, x in found.items():
        if f"{case}/{name}" not in GOLDEN:
            continue
        step = max(1, steps.get(name, 1) - (case == "small"))
        expected = GOLDEN[f"{case}/{name}"]
        np.testing.assert_allclose(
            x[:, ::step, ::step], expected, atol=3e-5 * expected.std(), err_msg=name
        )


def test_transformers_names(encoder):
    """Those of the published files, of which each has its place in mmsegmentation's."""
    model = get_model("Swin-T-UPerNet", **UPERNET)
    variables = random_variables(model, (32, 32))
    ours, theirs = (
        torch.to_state_dict(variables, model, naming)
        for naming in ("mmsegmentation", "transformers")
    )
    places = json.loads(str(GOLDEN["transformers_names"]))
    assert theirs.keys() == places.keys()
    for name, (place, *part) in places.items():
        expected = np.split(ours[place], 3)[part[0]] if part else ours[place]
        np.testing.assert_array_equal(theirs[name], expected, err_msg=name)
    found = torch.from_state_dict(theirs, model)
    jax.tree.map(np.testing.assert_array_equal, found, variables)


@pytest.mark.slow
@pytest.mark.parametrize("naming", ["mmsegmentation", "transformers"])
def test_a_published_file_says_what_it_is(naming, encoder, monkeypatch, tmp_path):
    fields = {k: v for k, v in UPERNET.items() if k != "num_classes"}
    for name, changes in {"golden-UPerNet": {}, "golden-FPN": {"decoder": "fpn"}}.items():
        kind, own = MODELS["Swin-T-UPerNet"]
        monkeypatch.setitem(MODELS, name, (kind, {**own, **fields, **changes}))
    counts = dict.fromkeys(MODELS, 1_000_000)  # rather than to build all
    monkeypatch.setattr(identify, "list_models", lambda: counts)
    model = get_model("golden-UPerNet", num_classes=6)
    variables = random_variables(model, (32, 32))
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict(variables, model, naming))
    loaded = pretrained.load(tmp_path / "a.safetensors")
    assert (loaded.name, loaded.model.num_classes) == ("golden-UPerNet", 6)
    said = convert.inspect(tmp_path / "a.safetensors")
    assert said.endswith("it fits golden-UPerNet, with 6 classes and images of any size")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    without = {
        k: v
        for k, v in torch.to_state_dict(variables, model, naming).items()
        if not k.startswith("auxiliary_head")
    }
    torch.write(tmp_path / "b.safetensors", without)
    relative = identify.find_relative(weights.read(tmp_path / "b.safetensors"))
    assert str(relative) == "golden-UPerNet with auxiliary_features=0"


def test_a_classifier_alone_does_not_segment(encoder, tmp_path):
    classifier, params = random_params("Swin-tiny", (64, 64), window_size=4)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict({"params": params}, classifier))
    with pytest.raises(ValueError, match="of the backbone of Swin-T-UPerNet alone, with which a"):
        pretrained.load(
            tmp_path / "a.safetensors", "Swin-T-UPerNet", {**UPERNET, "encoder": "Swin-tiny"}
        )


@pytest.mark.slow
def test_weights_of_another_encoder_are_said_to_be_such(encoder, tmp_path):
    other, params = random_params("ViT-B_16", (32, 32), num_classes=5, **TINY)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict({"params": params}, other))
    model = get_model("Swin-T-UPerNet", **{**UPERNET, "encoder": "Swin-tiny"})
    init = random_variables(model, (32, 32))
    with pytest.raises(ValueError, match=r"do not fit the model .*It fits ViT"):
        pretrained.adapt(weights.read(tmp_path / "a.safetensors"), init, model, (32, 32))


def test_what_is_said_of_a_head_that_is_kept_begins_it_anew(encoder, tmp_path, caplog):
    model = get_model("Swin-T-UPerNet", **UPERNET)
    old, init = random_variables(model, (32, 32)), random_variables(model, (32, 32), seed=1)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict(old, model))
    for pattern in ("", None):
        if pattern is None:
            pattern = re.search(r"dont_load='(.+)' begins it anew", caplog.text)[1]
        found = pretrained.adapt(
            weights.read(tmp_path / "a.safetensors"), init, model, (32, 32),
            class_names=list("abcdef"), dont_load=pattern,
        )  # fmt: skip
        for part in ("decode_head", "auxiliary_head"):
            bias = found["params"][part]["classifier"]["conv_seg"]["bias"]
            expected = init if pattern else old
            expected = expected["params"][part]["classifier"]["conv_seg"]["bias"]
            np.testing.assert_array_equal(bias, expected)


@pytest.mark.parametrize("naming", ["official", "transformers", "npz"])
def test_a_classifier_begins_the_backbone(naming, encoder, tmp_path):
    """The norms of the maps, which it lacks, stay as initialised, as do the heads."""
    classifier, params = random_params("Swin-tiny", (64, 96), window_size=4)
    path = tmp_path / ("a.npz" if naming == "npz" else "a.safetensors")
    if naming == "npz":
        npz.save(path, params)
    else:
        torch.write(path, torch.to_state_dict({"params": params}, classifier, naming))
    fields = {**UPERNET, "encoder": "Swin-tiny"}
    model = get_model("Swin-T-UPerNet", **fields)
    init = random_variables(model, (64, 96), seed=1)
    found = pretrained.adapt(weights.read(path), init, model, (64, 96), old_size=(64, 96))
    backbone = found["params"]["backbone"]
    kernel = params["stage2_block1"]["attn"]["qkv"]["kernel"]
    np.testing.assert_array_equal(backbone["stage2_block1"]["attn"]["qkv"]["kernel"], kernel)
    table = backbone["stage3_block0"]["attn"]["relative_position_bias_table"]
    assert table.shape == (25, 2)  # of 3 x 3 windows, whatever the file's were
    for part in ("norm0", "norm3"):
        jax.tree.map(
            np.testing.assert_array_equal, backbone[part], init["params"]["backbone"][part]
        )
    jax.tree.map(
        np.testing.assert_array_equal,
        found["params"]["decode_head"],
        init["params"]["decode_head"],
    )
    assert jax.tree.map(np.shape, found) == jax.tree.map(np.shape, init)


def test_other_classes_begin_both_heads_anew(encoder, tmp_path):
    model = get_model("Swin-T-UPerNet", **{**UPERNET, "encoder": "Swin-tiny"})
    variables = random_variables(model, (32, 32))
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict(variables, model))
    other = model.clone(num_classes=3)
    init = random_variables(other, (32, 32), seed=1)
    found = pretrained.adapt(weights.read(tmp_path / "a.safetensors"), init, other, (64, 64))[
        "params"
    ]
    for head in ("decode_head", "auxiliary_head"):
        last = found[head].pop("classifier")["conv_seg"]["kernel"]
        own = init["params"][head]["classifier"]["conv_seg"]["kernel"]
        np.testing.assert_array_equal(last, own)
        old = {k: v for k, v in variables["params"][head].items() if k != "classifier"}
        jax.tree.map(np.testing.assert_array_equal, found[head], old)


@pytest.mark.parametrize(
    ("encoder_name", "decoder", "size", "some"),
    [
        ("Swin-tiny", "fpn", (50, 70), "backbone.layers.2.blocks.1.attn.qkv.weight"),
        ("ResNet-tiny", "fpn", (50, 70), "backbone.bottom_up.res3.0.conv2.norm.running_var"),
        ("ResNet-tiny", "vt-fpn", (50, 70), "backbone.vt_projector3.query.weight"),
        pytest.param(
            "ResNet-tiny",
            "upernet",
            (50, 70),
            "backbone.layer2.0.conv1.weight",
            marks=pytest.mark.slow,
        ),
        ("ViT-tiny", "upernet", (48, 80), "pyramid.at4.up1.weight"),
    ],
)
def test_any_encoder_with_any_decoder(encoder_name, decoder, size, some, encoder):
    fields = dict(encoder=encoder_name, decoder=decoder, features=64, num_classes=3)
    model = get_model("FPN-R50", **fields, auxiliary_features=8)
    variables = random_variables(model, size)
    state_dict = torch.to_state_dict(variables, model)
    assert some in state_dict
    back = torch.from_state_dict(state_dict, model, size)
    jax.tree.map(np.testing.assert_array_equal, back, variables)

    @jax.jit
    def train(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        return model.apply(variables, images, train=True, rngs=rngs, mutable=["batch_stats"])

    outputs, _ = train(variables, noise((2, *size, 3)))
    assert outputs["logits"].shape == (2, -(-size[0] // 4), -(-size[1] // 4), 3)
    assert outputs["auxiliary"].shape == (2, -(-size[0] // 16), -(-size[1] // 16), 3)
    assert all(np.isfinite(x).all() for x in outputs.values())


@pytest.mark.slow
def test_every_parameter_receives_a_finite_gradient(encoder):
    fields = dict(UPERNET, encoder="Swin-tiny", drop_path_rate=0.1, remat=True)
    model = get_model("Swin-T-UPerNet", **fields)
    variables = random_variables(model, (48, 40))
    images, rngs = noise((4, 48, 40, 3)), {"dropout": jax.random.key(1)}

    def loss(params, stats):
        both = {"params": params, "batch_stats": stats}
        outputs, new = model.apply(both, images, train=True, rngs=rngs, mutable=["batch_stats"])
        return sum(jnp.mean(x[..., :2] ** 2) for x in outputs.values()), new

    grads, new = jax.jit(jax.grad(loss, has_aux=True))(
        variables["params"], variables["batch_stats"]
    )
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name
    old_means = jax.tree.leaves(variables["batch_stats"])
    assert all((a != b).any() for a, b in zip(old_means, jax.tree.leaves(new["batch_stats"])))


def test_sizes_that_parameters_depend_on(encoder):
    """Positions are those of a size; what has none takes images of any."""
    model = get_model("FPN-ViT-B_16", encoder="ViT-tiny")
    params = tree.shapes(model, (48, 48))
    assert not model.any_size
    assert model.image_size(params) == (48, 48)
    resized = model.resize_params(random_variables(model, (48, 48))["params"], (48, 48), (32, 64))
    shape = resized["backbone"]["Transformer"]["posembed_input"]["pos_embedding"].shape
    assert shape == (1, 9, 16)
    for name in ("Swin-tiny", "ResNet-tiny"):
        assert get_model("FPN-R50", encoder=name).any_size
    assert not get_model("Swin-tiny").any_size


def test_a_pyramid_of_one_map():
    pyramid = SimplePyramid(8)
    x = noise((1, 3, 5, 8))
    maps, variables = pyramid.init_with_output(jax.random.key(0), x)
    assert [m.shape for m in maps] == [(1, 6, 10, 4), (1, 3, 5, 8), (1, 2, 3, 8), (1, 1, 2, 8)]
    np.testing.assert_array_equal(maps[1], x)
    np.testing.assert_array_equal(maps[3][0, 0, 1], x[0, :, 4].max(0))
    kernel, bias = (np.asarray(variables["params"]["at4_up0"][k]) for k in ("kernel", "bias"))
    # Pixel (i, j) of four is channel 4 k + 2 i + j of the product, as a transposed convolution has.
    expected = x[0, 1, 2] @ kernel[0, 0] + bias
    np.testing.assert_allclose(maps[0][0, 3, 4], expected[2::4], atol=1e-5)
    with pytest.raises(ValueError, match="from one at a power of 2, and not 14"):
        SimplePyramid(14).init(jax.random.key(0), x)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"decoder": "x"}, "decoder='x' is not one of fpn, vt-fpn, upernet"),
        ({"features": 0}, "features must be at least 1, not 0"),
        ({"features": 96}, "features=96 must be divisible by 64"),
        ({"encoder": "RRDB-x4"}, "encoder='RRDB-x4' gives no feature maps"),
        ({"encoder": "Mixer-B_16"}, "encoder='Mixer-B_16' gives no feature maps"),
        ({"encoder": "Resnet-50"}, "unknown model 'Resnet-50'; did you mean 'ResNet-50'"),
    ],
)
def test_wrong_settings(fields, message):
    model = get_model("FPN-R50", **fields)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
