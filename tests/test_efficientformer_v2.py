import functools
import importlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import npz, torch, tree
from tests import helpers
from tests.golden_recipe import recipe_array, recipe_weights
from tests.helpers import TINY, noise, random_params, tiny_digits_config
from vit_jax import experiment, pretrained
from vit_jax.models import efficientformer_blocks, get_model
from vit_jax.models.efficientformer_blocks import Attention, Block

GOLDEN = Path(__file__).parent / "golden" / "efficientformer_v2.npz"
NAME = "EfficientFormerV2-S0"
SMALL = dict(
    embed_dims=(4, 6, 8, 10), depths=(1, 1, 2, 1), attention_depths=(1, 1),
    mlp_ratios=(2, 1, 2, 3, 2), num_heads=2, key_dim=4, num_classes=5,
)  # fmt: skip
MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def random_variables(size, seed=0, **fields):
    """A small model, and variables with layer scales and statistics that matter."""
    model = get_model(NAME, **{**SMALL, **fields})
    return model, helpers.random_variables(
        model, size, seed, multiply=("var", "scale", "ls1", "ls2")
    )


def apply(model, variables, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))(variables, images)


def difference(found, expected):
    return np.abs(np.asarray(found) - expected).max() / expected.std()


@pytest.mark.parametrize(
    ("case", "size"),
    [pytest.param("64", (64, 64), marks=pytest.mark.slow), ("96x160", (96, 160))],
)
def test_golden_output_and_activations(case, size):
    """The second has tables of a rectangle, which tell rows from columns."""
    golden = {
        key.partition("/")[2]: value
        for key, value in np.load(GOLDEN).items()
        if key.startswith(f"{case}/")
    }
    model = get_model(NAME, num_classes=11)
    variables = recipe_weights(model, size)
    images = np.float32((golden["image"] / 255 - MEAN) / DEVIATION)

    @jax.jit
    def compute(variables, images):
        out, state = model.apply(variables, images, capture_intermediates=True)
        maps = model.apply(variables, images, feature_maps=True)
        return out, maps, state["intermediates"]

    out, maps, inside = compute(variables, images)
    found = {"output": out, "stem": jax.nn.gelu(inside["stem2"]["__call__"][0], approximate=False)}
    found |= {head: inside[head]["__call__"][0] for head in ("head", "head_dist")}
    found |= {f"stage{i}": x for i, x in enumerate(maps)}
    assert [x.shape for x in maps] == [
        (1, size[0] // 2**i, size[1] // 2**i, c) for i, c in enumerate(model.embed_dims, 2)
    ]
    channels = {"stem": 16, "stage0": 8, "stage1": 8, "stage2": 4, "stage3": 2}
    for name, expected in golden.items():
        if name == "image":
            continue
        ours = np.asarray(found[name])
        if name in channels:
            steps = [-(-a // b) for a, b in zip(ours.shape[1:3], expected.shape[1:3])]
            ours = ours[:, :: steps[0], :: steps[1], :: channels[name]]
        assert difference(ours, expected) < 1e-5, name  # measured 2e-6


def test_places_of_position_biases():
    index = efficientformer_blocks._bias_index((2, 3), 1)
    assert index.shape == (6, 6)
    assert index[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert index[4].tolist() == [4, 3, 4, 1, 0, 1]  # the middle of the second row
    assert efficientformer_blocks._bias_index((3, 4), 2).tolist()[3] == [
        10, 9, 8, 9, 6, 5, 4, 5, 2, 1, 0, 1,
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("size", [(37, 50), (8, 130)])
def test_any_size(size):
    """Sides that nothing divides; maps of 3 x 4 and 1 x 9 in the third stage."""
    model, variables = random_variables(size)
    assert model.feature_strides == (4, 8, 16, 32)
    images = noise((2, *size, 3))
    maps = apply(model, variables, images, feature_maps=True)
    assert [x.shape for x in maps] == [
        (2, *(-(-side // stride) for side in size), channels)
        for stride, channels in zip(model.feature_strides, model.embed_dims)
    ]
    assert all(np.isfinite(x).all() for x in maps)
    headless = {name: dict(values) for name, values in variables.items()}
    for name in ("head", "head_dist", "norm"):
        headless["params"].pop(name)
    again = apply(model.clone(num_classes=0), headless, images, feature_maps=True)
    jax.tree.map(np.testing.assert_array_equal, again, maps)
    out = apply(model, variables, images)
    assert out.shape == (2, 5)
    np.testing.assert_allclose(
        apply(model, variables, images[:1]), out[:1], atol=1e-5 * np.std(out)
    )


@pytest.mark.slow
def test_attention_on_an_odd_map_is_that_of_an_even_one_cut():
    """Zeros beyond the border are what convolutions see there anyway."""
    attention = Attention(3, num_heads=2, key_dim=4, stride=2)
    x = noise((1, 5, 7, 3))
    variables = attention.init(jax.random.key(0), x)
    even = attention.apply(variables, np.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0))))
    np.testing.assert_allclose(attention.apply(variables, x), even[:, :5, :7], atol=1e-6)


@pytest.mark.slow
def test_every_parameter_receives_a_gradient():
    """But those that softmax takes for a shift of all keys alike."""
    model, variables = random_variables((40, 72))
    images = noise((3, 40, 72, 3))

    def loss(params):
        return jnp.sum(model.apply({**variables, "params": params}, images)[:, :2] ** 2)

    grads = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(variables["params"]), sep="/")
    shifts = ("attn/k/conv/bias", "attn/k/bn/bias", "talking_head1/bias")
    largest = max(np.abs(grad).max() for grad in grads.values())
    for name, grad in grads.items():
        assert np.isfinite(grad).all(), name
        found = np.abs(grad).max() / largest
        assert found < 1e-6 if name.endswith(shifts) else found > 1e-6, (name, found)


@pytest.mark.slow
def test_training_moves_the_statistics_and_keeps_the_heads_apart():
    model, variables = random_variables((32, 32), distilled=True, remat=True, drop_path_rate=0.3)
    images = noise((4, 32, 32, 3))

    @jax.jit
    def step(variables):
        def loss(params):
            out, state = model.apply(
                {**variables, "params": params}, images, train=True,
                rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"],
            )  # fmt: skip
            return jnp.sum(out["logits"] ** 2) + jnp.sum(jnp.sin(out["distilled"])), (out, state)

        return jax.value_and_grad(loss, has_aux=True)(variables["params"])

    (_, (out, state)), grads = step(variables)
    assert sorted(out) == ["distilled", "logits"]
    assert out["logits"].shape == out["distilled"].shape == (4, 5)
    assert np.abs(out["logits"] - out["distilled"]).max() > 0.01
    stem = variables["batch_stats"]["stem1"]["bn"]
    moved = state["batch_stats"]["stem1"]["bn"]
    kernel, bias = (variables["params"]["stem1"]["conv"][name] for name in ("kernel", "bias"))
    x = jax.lax.conv_general_dilated(
        images, kernel, (2, 2), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = np.asarray(x + bias)
    for name, value in (("mean", x.mean((0, 1, 2))), ("var", x.var((0, 1, 2)))):
        np.testing.assert_allclose(moved[name], 0.9 * stem[name] + 0.1 * value, rtol=1e-4)
    for head in ("head", "head_dist"):
        assert np.abs(grads[head]["kernel"]).max() > 0
    assert all(np.isfinite(grad).all() for grad in jax.tree.leaves(grads))


@pytest.mark.slow
def test_evaluation_takes_the_mean_of_both_heads():
    model, variables = random_variables((32, 32), distilled=True)
    params = variables["params"]
    images = noise((2, 32, 32, 3))
    x = apply(model.clone(num_classes=0), variables, images)
    logits = [x @ params[head]["kernel"] + params[head]["bias"] for head in ("head", "head_dist")]
    np.testing.assert_allclose(
        apply(model, variables, images), (logits[0] + logits[1]) / 2, atol=1e-5
    )


@pytest.mark.slow
def test_stochastic_depth_is_on_both_residuals():
    block = Block(mlp_ratio=2, num_heads=2, key_dim=2, stride=1, drops=True, train=False)
    x = noise((64, 2, 2, 3))
    variables = block.init({"params": jax.random.key(0), "dropout": jax.random.key(0)}, x, 0.5)
    variables["params"]["ls1"] = variables["params"]["ls2"] = jnp.ones(3)
    whole = block.clone(drops=False).apply(variables, x, 0.5)
    attending = block.clone(drops=False).apply(
        {**variables, "params": {**variables["params"], "ls2": jnp.zeros(3)}}, x, 0.5
    )
    out = block.apply(variables, x, 0.5, rngs={"dropout": jax.random.key(1)})
    # What is left of each example: neither, attention alone, doubled, or another two.
    untouched = np.isclose(out, x, atol=1e-6).all((1, 2, 3))
    attended = np.isclose(out, x + 2 * (attending - x), atol=1e-5).all((1, 2, 3))
    assert 8 <= untouched.sum() <= 24
    assert 8 <= attended.sum() <= 24
    assert not np.isclose(out, whole, atol=1e-5).all((1, 2, 3)).any()


def test_a_rate_that_rises_from_block_to_block(monkeypatch):
    seen = []
    call = Block.__call__
    monkeypatch.setattr(
        Block, "__call__", lambda self, x, rate: (seen.append(rate), call(self, x, rate))[1]
    )
    model = get_model(NAME, **SMALL, drop_path_rate=0.4)
    with jax.disable_jit():
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    np.testing.assert_allclose(seen, [0, 0.1, 0.2, 0.3, 0.4])


@pytest.mark.slow
def test_tables_for_other_sizes():
    model, variables = random_variables((64, 64))
    params = variables["params"]
    assert model.image_size(params) == (64, 64)
    same = model.resize_params(params, (64, 64), (50, 64))
    jax.tree.map(np.testing.assert_array_equal, same, params)  # the maps have the same sides

    larger = model.resize_params(params, (64, 64), (96, 160))
    for path, (old, new) in {
        ("downsample3", "attn"): ((4, 4), (6, 10)),
        ("stage2_block1", "attn"): ((2, 2), (3, 5)),
        ("stage3_block0", "attn"): ((2, 2), (3, 5)),
    }.items():
        before, after = (
            np.asarray(leaves[path[0]][path[1]]["attention_biases"]).reshape(2, *grid)
            for leaves, grid in ((params, old), (larger, new))
        )
        np.testing.assert_allclose(after[:, 0, 0], before[:, 0, 0], atol=1e-6)
        np.testing.assert_allclose(after[:, -1, -1], before[:, -1, -1], atol=1e-6)
        np.testing.assert_allclose(after[:, 0, -1], before[:, 0, -1], atol=1e-6)
        if old == (2, 2):
            middle = before.mean((1, 2))
            np.testing.assert_allclose(after[:, 1, 2], middle, atol=1e-6)
    fitted = {**variables, "params": larger}
    assert np.isfinite(apply(model, fitted, noise((1, 96, 160, 3)))).all()
    with pytest.raises(ValueError, match="images that are no squares"):
        model.image_size(larger)
    with pytest.raises(ValueError, match="a table of 60 position biases is not that of images of"):
        model.resize_params(larger, (64, 64), (96, 96))


@pytest.mark.slow
def test_initialisation():
    model = get_model(NAME, **SMALL)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    params = variables["params"]
    assert set(np.asarray(params["stage2_block1"]["ls1"])) == {np.float32(1e-5)}
    assert not params["downsample3"]["attn"]["attention_biases"].any()
    bound = (9 * 3) ** -0.5
    assert 0.8 * bound < np.abs(params["stem1"]["conv"]["kernel"]).max() <= bound
    assert "attn" not in params["stage2_block0"]
    assert "talking_head1" not in params["downsample3"]["attn"]


@pytest.mark.parametrize(
    "suffix", [".npz", ".safetensors", pytest.param(".pth", marks=pytest.mark.parity)]
)
@pytest.mark.parametrize("naming", ["timm", "official"])
def test_files(naming, suffix, tmp_path):
    model, variables = random_variables((32, 32))
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        npz.save(path, tree.merge(variables))
    else:
        state_dict = torch.to_state_dict(variables, model, naming)
        block = {"timm": "stages.2.blocks.1", "official": "network.4.1"}[naming]
        state_dict[f"{block}.token_mixer.attention_bias_idxs"] = np.zeros((1, 1))
        state_dict[f"{block}.token_mixer.ab"] = np.zeros((2, 1, 1))
        scale = state_dict[f"{block}.{'ls1.gamma' if naming == 'timm' else 'layer_scale_1'}"]
        assert scale.shape == ((8,) if naming == "timm" else (8, 1, 1))
        torch.write(path, state_dict)
    loaded = pretrained.load(path, NAME, SMALL)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert loaded.eval_pp.endswith("central_crop(32)|normalize()")


@pytest.mark.parity
def test_official_files_are_recognised(tmp_path):
    """By the names and shapes alone, with what training scripts put around the weights."""
    import torch as pytorch

    model, variables = random_variables((64, 64))
    state_dict = torch.to_state_dict(variables, model, "official")
    names = set(state_dict)
    assert {"patch_embed.0.weight", "patch_embed.4.running_var", "network.5.attn.q.local.0.bias",
            "network.1.proj.weight", "network.3.norm.bias", "network.5.conv.weight",
            "network.5.bn.running_mean", "network.4.1.token_mixer.stride_conv.0.weight",
            "network.6.0.token_mixer.proj.2.weight", "network.0.0.mlp.mid_norm.weight",
            "dist_head.bias", "network.5.attn.q.proj.0.weight"} <= names  # fmt: skip
    tensors = {name: pytorch.from_numpy(array) for name, array in state_dict.items()}
    pytorch.save({"model": tensors, "epoch": 3}, tmp_path / "a.pth")
    loaded = pretrained.load(tmp_path / "a.pth")
    fields = ("embed_dims", "depths", "attention_depths", "mlp_ratios", "num_heads", "key_dim")
    assert loaded.model.values_of(fields) == model.values_of(fields)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)


@pytest.mark.slow
def test_a_teacher_has_a_head_of_its_own(tmp_path):
    fields = dict(TINY, patch_size=4, num_classes=10)
    _, params = random_params("ViT-Ti_16", (8, 8), **fields)
    npz.save(tmp_path / "a.npz", params, pretrained.say_made_for("ViT-Ti_16", fields))
    config = tiny_digits_config()
    config.model_name = NAME
    config.model = {name: value for name, value in SMALL.items() if name != "num_classes"}
    assert not experiment.build(config.copy_and_resolve_references()).model.distilled
    config.distill.teacher = str(tmp_path / "a.npz")
    assert experiment.build(config.copy_and_resolve_references()).model.distilled
    config.model.distilled = False
    with pytest.raises(ValueError, match=r"model\.distilled=False and distill\.teacher=.* do not"):
        experiment.build(config)


@pytest.mark.parity
@pytest.mark.parametrize("size", [(64, 64), (96, 160), (224, 224)])
def test_timm_computes_the_same(size):
    """Both ways, with layer scales and statistics that matter, as they do not when they begin."""
    importlib.import_module("tests.torchvision_operators")
    import timm
    import torch as pytorch

    theirs = timm.create_model("efficientformerv2_s0", img_size=size, num_classes=11)
    images = noise((2, *size, 3))

    def theirs_of(state_dict):
        tensors = {k: pytorch.from_numpy(np.array(v)) for k, v in state_dict.items()}
        theirs.load_state_dict(tensors, strict=True)
        theirs.train().eval()  # it keeps biases that it has looked up, until it is trained
        with pytorch.no_grad():
            return theirs(pytorch.from_numpy(images.transpose(0, 3, 1, 2))).numpy()

    model = get_model(NAME, num_classes=11)
    run = jax.jit(model.apply)
    variables = recipe_weights(model, size)
    found = run(variables, images)
    assert difference(found, theirs_of(torch.to_state_dict(variables, model))) < 1e-5

    state_dict = {
        name: recipe_array(f"other.{name}", tensor.shape)
        for name, tensor in theirs.state_dict().items()
    }
    read = torch.from_state_dict(state_dict, model, size)
    assert difference(run(read, images), theirs_of(state_dict)) < 1e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"depths": (1, 1, 2)}, r"depths=\(1, 1, 2\) must be 4 numbers, one for each stage"),
        ({"attention_depths": (1,)}, r"attention_depths=\(1,\) must be 2 numbers, one for each of"),
        (
            {"mlp_ratios": (2, 2)},
            r"mlp_ratios=\(2, 2\) must be a positive number for each of the 5",
        ),
        ({"num_heads": 0}, "num_heads=0 at least 1"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), not 1.0"),
    ],
)
def test_wrong_settings(overrides, message):
    model = get_model(NAME, **{**SMALL, **overrides})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
