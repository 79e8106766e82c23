import functools
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import npz, torch, tree
from configs import common
from input_pipeline import colour
from tests.golden_recipe import recipe_weights
from tests.helpers import noise, tiny_digits_config
from vit_jax import convert, experiment, export, models, pretrained, train
from vit_jax import weights as weight_files
from vit_jax.models import get_model, resnet
from vit_jax.workdir import Workdir

GOLDEN = Path(__file__).parent / "golden" / "resnet.npz"
TINY = dict(depths=(1, 2), width=4, num_classes=5)


def make(name="ResNet-18", seed=0, **fields):
    """A model, and variables none of which is 0 or 1."""
    model = get_model(name, **{**TINY, **fields})
    random = np.random.default_rng(seed)
    flat = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree.shapes(model, (32, 32))):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        values = random.normal(scale=0.2, size=leaf.shape) + name.endswith(("scale", "var"))
        flat[name] = np.abs(values).astype(np.float32) if name.endswith("var") else values
    flat = {name: values.astype(np.float32) for name, values in flat.items()}
    return model, tree.split(traverse_util.unflatten_dict(flat, sep="/"))


def apply(model, variables, images, **kwargs):
    return jax.jit(functools.partial(model.apply, **kwargs))(variables, images)


@pytest.mark.parametrize("which", ["18", pytest.param("50", marks=pytest.mark.slow)])
def test_golden_output_and_activations(which):
    model = get_model(f"ResNet-{which}", num_classes=11)
    variables = recipe_weights(model, (64, 64))
    golden = np.load(GOLDEN)
    images = (golden[f"resnet{which}/image"] / 255 - colour.IMAGENET_MEAN) / colour.IMAGENET_STD

    @jax.jit
    def both(variables, images):
        return model.apply(variables, images), model.apply(variables, images, feature_maps=True)

    out, maps = both(variables, images.astype(np.float32))
    expected = golden[f"resnet{which}/output"]
    np.testing.assert_allclose(out, expected, atol=1e-5 * expected.std())  # measured 1.5e-6
    for i, (found, step, every) in enumerate(zip(maps, (3, 2, 1, 1), (8, 16, 32, 64))):
        expected = golden[f"resnet{which}/layer{i + 1}"]
        np.testing.assert_allclose(
            found[:, ::step, ::step, ::every], expected, atol=1e-5 * expected.std()
        )


@pytest.mark.parametrize("bottleneck", [False, True])
def test_feature_maps_of_any_size_and_number(bottleneck):
    model, variables = make(bottleneck=bottleneck, depths=(1, 1, 1))
    maps = apply(model, variables, noise((2, 37, 50, 3)), feature_maps=True)
    c = 16 if bottleneck else 4
    assert [x.shape for x in maps] == [(2, 10, 13, c), (2, 5, 7, 2 * c), (2, 3, 4, 4 * c)]
    assert model.feature_strides == (4, 8, 16)
    assert model.stride == 16
    features = apply(model.clone(num_classes=0), variables, noise((2, 37, 50, 3)))
    np.testing.assert_allclose(features, maps[-1].mean(axis=(1, 2)), rtol=1e-5)


def test_a_bottlenecks_stride_lies_in_its_3x3_convolution():
    """So that a pixel which a strided 1x1 convolution would pass over is seen."""
    block = resnet.Block(width=2, stride=2, bottleneck=True, train=False, drops=False)
    x = np.zeros((1, 4, 4, 8), np.float32)
    variables = block.init(jax.random.key(0), x, 0.0)
    changed = x.copy()
    changed[0, 1, 1] = 1.0
    difference = block.apply(variables, changed, 0.0) - block.apply(variables, x, 0.0)
    assert np.abs(difference).max() > 0


@pytest.mark.slow
def test_every_parameter_receives_a_finite_gradient_and_statistics_move():
    model, variables = make(bottleneck=True, remat=True, drop_path_rate=0.1)
    images = noise((4, 32, 48, 3))

    @jax.jit
    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        out, state = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )  # fmt: skip
        return jnp.sum(out[:, :2] ** 2), state

    (_, state), grads = loss(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name
    moved = jax.tree.map(
        lambda new, old: np.abs(new - old).max() > 0, state["batch_stats"], variables["batch_stats"]
    )
    assert all(jax.tree.leaves(moved))


def test_initialisation():
    model = get_model("ResNet-18", depths=(1, 1), num_classes=10)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    block = variables["params"]["stage1_block0"]
    assert np.std(block["conv1"]["kernel"]) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.02)
    assert np.abs(variables["params"]["head"]["kernel"]).max() <= 1 / 128**0.5
    np.testing.assert_array_equal(block["bn2"]["scale"], 1)


@pytest.mark.parametrize(
    ("naming", "downsampling", "norm", "head"),
    [
        ("torchvision", "layer2.0.downsample.0.weight", "layer2.1.bn2.running_var", "fc.bias"),
        ("detectron2", "res3.0.shortcut.weight", "res3.1.conv2.norm.running_var", "linear.bias"),
    ],
)
def test_names_in_pytorchs_files(naming, downsampling, norm, head, tmp_path):
    model, variables = make()
    state_dict = torch.to_state_dict(variables, model, naming)
    assert state_dict[downsampling].shape == (8, 4, 1, 1)
    assert state_dict[norm].shape == (8,)
    assert state_dict[head].shape == (5,)
    assert "layer1.0.downsample.0.weight" not in state_dict
    torch.write(tmp_path / "a.safetensors", state_dict)
    loaded = pretrained.load(tmp_path / "a.safetensors")
    assert loaded.model == model
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, variables)
    assert loaded.eval_pp.endswith("central_crop(224)|normalize()")


@pytest.mark.slow
def test_a_published_files_model_is_found(tmp_path):
    for name in ("ResNet-34", "ResNet-50"):
        model = get_model(name)
        zeros = jax.tree.map(
            lambda leaf: np.zeros(leaf.shape, np.float32), tree.shapes(model, (224, 224))
        )
        torch.write(tmp_path / "a.safetensors", torch.to_state_dict(tree.split(zeros), model))
        weights = weight_files.read(tmp_path / "a.safetensors")
        assert pretrained.what_fits(weights) == f"It fits {name}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depths": (1, 0)}, r"depths=\(1, 0\) must be a positive number for each stage"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"drop_path_rate": 1.0}, r"drop_path_rate must lie in \[0, 1\), not 1.0"),
    ],
)
def test_wrong_settings(fields, message):
    model = get_model("ResNet-18", **{**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 24, 24, 3)))


# A run of a small one.


def make_config():
    config = tiny_digits_config()
    config.model_name = "ResNet-18"
    config.model = type(config)({"depths": (1, 1), "width": 4, "drop_path_rate": 0.1})
    config.ema_decay = 0.5
    config.accum_steps = 2
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resnet") / "run"
    return Workdir(folder), train.train_and_evaluate(make_config(), folder)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_its_averaged_statistics_are_what_is_evaluated_and_written(run):
    workdir, _ = run
    stored = npz.load(workdir.weights)
    assert np.abs(stored["stage1_block0"]["downsample_bn"]["mean"]).max() > 1e-4
    assert_same(tree.merge(pretrained.load(workdir.path).variables), stored)


@pytest.mark.slow
def test_a_run_resumes_bit_for_bit(run, tmp_path):
    old, figures = run
    workdir = Workdir(shutil.copytree(old.path, tmp_path / "run"))
    whole = npz.load(workdir.weights)
    shutil.rmtree(workdir.checkpoints / "6")  # as if it had been stopped after step 3
    workdir.weights.unlink()
    assert train.train_and_evaluate(make_config(), workdir.path) == figures
    assert_same(npz.load(workdir.weights), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "suffix", [".npz", ".safetensors", pytest.param(".pth", marks=pytest.mark.parity)]
)
def test_a_runs_weights_go_through_files(run, tmp_path, suffix):
    if suffix == ".pth":
        pytest.importorskip("torch")
    before = pretrained.load(run[0].path)
    convert.write(tmp_path / f"a{suffix}", before)
    after = pretrained.load(tmp_path / f"a{suffix}")
    assert (after.name, after.model.depths, after.model.width) == ("ResNet-18", (1, 1), 4)
    assert_same(after.variables, before.variables)


@pytest.mark.slow
def test_a_run_is_exported(run, tmp_path):
    model = pretrained.load(run[0].path)
    (part,) = export.parts_of(model)
    export.write_stablehlo(part, tmp_path / "a.stablehlo")
    images = convert.random_inputs(model, 3, seed=1)
    expected = model.model.apply(model.variables, *images)
    found = export.read_stablehlo(tmp_path / "a.stablehlo")(*images)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_published_file_is_where_fine_tuning_begins(tmp_path):
    model, variables = make(depths=(1, 1), num_classes=7)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict(variables, model, "detectron2"))
    config = make_config()
    config.pretrained = str(tmp_path / "a.safetensors")
    state = experiment.build(config).init_state()
    assert_same(state.model_state["batch_stats"], variables["batch_stats"])
    np.testing.assert_array_equal(
        state.params["conv1"]["kernel"], variables["params"]["conv1"]["kernel"]
    )
    assert state.params["head"]["bias"].shape == (10,)


def test_all_variants_have_a_count():
    assert resnet.PARAMETER_COUNTS.items() <= models.list_models().items()
    assert resnet.VARIANTS.keys() == resnet.PARAMETER_COUNTS.keys()


@pytest.mark.parametrize(
    ("spec", "warns"),
    [
        ("decode|normalize()", False),
        ("decode | normalize | pad_to(64, mode='constant')", False),
        ("decode|value_range(-1, 1)|pad_to(64)", True),
    ],
)
def test_values_that_published_weights_do_not_expect_are_said(spec, warns, caplog):
    config = common.get_config()
    config.pretrained, config.data.train_pp = "a.pth", spec
    experiment._warn_of_values(config, get_model("ResNet-18"))
    assert ("data.train_pp ends otherwise" in caplog.text) == warns
