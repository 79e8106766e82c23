import functools
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import npz, torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import noise, tiny_digits_config
from vit_jax import convert, experiment, export, pretrained, train
from vit_jax.models import get_model, visual_transformer
from vit_jax.models.visual_tokens import Form, PositionEncoding, Projector, VTModule
from vit_jax.workdir import Workdir

GOLDEN = Path(__file__).parent / "golden" / "visual_transformer.npz"
TINY = dict(
    depths=(1, 1, 1), width=4, num_modules=2, num_tokens=4, token_dim=8, num_classes=5,
    num_heads=2, groups=2, kqv_groups=2, position_size=4,
)  # fmt: skip

# The golden files' names of the layers of a module.
EQUATIONS = {
    "tokenizer/filter": "tokenizer.W_A",
    "tokenizer/recurrent": "tokenizer.W_T_R",
    "tokenizer/value": "tokenizer.W_V",
    "transformer/key": "transformer.K",
    "transformer/query": "transformer.Q",
    "transformer/value": "transformer.V",
    "transformer/fc1": "transformer.F1",
    "transformer/fc2": "transformer.F2",
    "projector/query": "projector.W_Q",
    "projector/key": "projector.W_K",
    "projector/value": "projector.W_V",
}
APPENDIX = {
    "tokenizer/filter": "tokenizer.conv_token_coef",
    "tokenizer/query": "tokenizer.conv_query",
    "tokenizer/key": "tokenizer.conv_key",
    "tokenizer/value": "tokenizer.conv_value",
    "tokenizer/position/conv": "tokenizer.ds_conv",
    "tokenizer/position/out": "tokenizer.ds_out",
    "tokenizer/position/mix": "tokenizer.pos_conv",
    "tokenizer/token": "tokenizer.conv_token",
    "transformer/key": "transformer.k_conv",
    "transformer/query": "transformer.q_conv",
    "transformer/value": "transformer.v_conv",
    "transformer/fc": "transformer.ff_conv",
    "projector/value": "projector.proj_value_conv",
    "projector/key": "projector.proj_key_conv",
    "projector/query": "projector.proj_query_conv",
}


def to_flax(array):
    """(out, in, h, w) -> (h, w, in, out); a 1x1 convolution's -> (in, out)."""
    if array.ndim == 4 and array.shape[2] > 1:
        return array.transpose(2, 3, 1, 0)
    return array.reshape(array.shape[:2]).T if array.ndim > 1 else array


def golden_params(names, prefix, layers):
    """Parameters of a module, by our names, of arrays that are drawn by the golden file's."""
    flat = {}
    for ours, theirs in layers.items():
        for leaf, end in (("kernel", ""), ("kernel", ".weight"), ("bias", ".bias")):
            name = f"{prefix}.{theirs}{end}"
            if name in names:
                array = recipe_array(name, names[name])
                is_1x1_conv = ours == "tokenizer/position/out" and leaf == "kernel"
                array = to_flax(array) if end else array
                flat[f"{ours}/{leaf}"] = array[None, None] if is_1x1_conv else array
    return traverse_util.unflatten_dict(flat, sep="/")


def assert_close(found, expected, name):
    np.testing.assert_allclose(found, expected, atol=1e-5 * expected.std(), err_msg=name)


def check_golden(form, names, prefix, layers, golden, x, folder):
    """Applies two modules, compares all that they make, and returns the tokens."""
    tokens = None
    for i in range(2):
        params = golden_params(names, f"{prefix}vt{i}", layers)
        apply = jax.jit(functools.partial(VTModule(form).apply, capture_intermediates=True))
        (x, tokens), state = apply({"params": params}, x, tokens)
        made = state["intermediates"]["tokenizer"]["__call__"][0]
        assert_close(made, golden[f"{folder}/tokens{i}"], f"tokens{i}")
        assert_close(tokens, golden[f"{folder}/tokens_out{i}"], f"tokens_out{i}")
        assert_close(x, golden[f"{folder}/x_out{i}"], f"x_out{i}")
    return tokens


@pytest.mark.parametrize(
    ("folder", "form"),
    [
        ("literal", Form(4, 12, scaling=False, value_projections=False)),
        ("extended", Form(4, 20)),
    ],
)
def test_golden_equations(folder, form):
    golden = np.load(GOLDEN)
    names = json.loads(str(golden["names"]))
    tokens = check_golden(form, names, f"{folder}.", EQUATIONS, golden, golden["x"], folder)
    weight, bias = (recipe_array(k, names[k]) for k in (f"{folder}.head.W", f"{folder}.head.bias"))
    logits = np.asarray(tokens).mean(axis=1) @ weight + bias
    assert_close(logits, golden[f"{folder}/logits"], "logits")  # measured 4e-7


def test_golden_appendix():
    golden = np.load(GOLDEN)
    form = Form(8, 24, "appendix", num_heads=4, groups=4, kqv_groups=2, position_size=6)
    names = json.loads(str(golden["appendix/names"]))
    check_golden(form, names, "", APPENDIX, golden, golden["appendix/x"], "appendix")


def make(**fields):
    """A tiny model, and variables for it."""
    model = get_model("VT-R18", **{**TINY, **fields})
    return model, draw(tree.shapes(model, (32, 32)))


def draw(shapes):
    """Variables of such shapes; variances are positive."""
    flat = traverse_util.flatten_dict(shapes, sep="/")
    flat = {
        name: 0.5 * noise(leaf.shape, i) + name.endswith(("/var", "/scale"))
        for i, (name, leaf) in enumerate(flat.items())
    }
    return tree.split(traverse_util.unflatten_dict(flat, sep="/"))


FORMS = {
    "equations": {},
    "literal": dict(scaling=False, value_projections=False, token_dim=16),
    "appendix": dict(form="appendix", channels=12),
    "all renewed, no positions": dict(form="appendix", renew_half=False, position_size=0),
}


@pytest.mark.parametrize(
    "form",
    [
        name if name in ("equations", "appendix") else pytest.param(name, marks=pytest.mark.slow)
        for name in FORMS
    ],
)
def test_every_parameter_receives_a_finite_gradient(form):
    model, variables = make(**FORMS[form], dropout_rate=0.1, drop_path_rate=0.1)
    images = noise((4, 48, 64, 3))

    @jax.jit
    @jax.grad
    def grad(params):
        out, _ = model.apply(
            {**variables, "params": params}, images, train=True, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(2)},
        )  # fmt: skip
        return jnp.sum(out[:, :2] ** 2)

    # A bias that moves all scores of a softmax alike has none.
    indifferent = ("filter']['bias", "key']['bias") if "form" in FORMS[form] else ()
    for path, leaf in jax.tree_util.tree_leaves_with_path(grad(variables["params"])):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(leaf).all(), name
        assert np.abs(leaf).max() > 0 or any(part in name for part in indifferent), name


@pytest.mark.parametrize("form", FORMS)
def test_shapes_tell_the_fields(form):
    model, variables = make(**FORMS[form])
    shapes = {
        k: v.shape for k, v in traverse_util.flatten_dict(variables["params"], sep="/").items()
    }
    for field, value in model.fields_in(shapes).items():
        assert getattr(model, field) == value, field


@pytest.mark.slow
def test_the_head_reads_the_mean_of_the_last_modules_tokens():
    model, variables = make()
    images = noise((2, 40, 56, 3))
    out, state = model.apply(variables, images, capture_intermediates=True)
    _, tokens = state["intermediates"]["module1"]["__call__"][0]
    features = model.clone(num_classes=0).apply(variables, images)
    np.testing.assert_allclose(features, tokens.mean(axis=1), rtol=1e-5)
    head = variables["params"]["head"]
    np.testing.assert_allclose(out, features @ head["kernel"] + head["bias"], rtol=1e-5, atol=1e-6)
    assert "projector" not in variables["params"]["module1"]


@pytest.mark.slow
def test_what_goes_in_the_order_of_pixels_comes_out_in_it():
    """Without positions, tokens do not depend on where the pixels are."""
    for form in (Form(4, 8), Form(4, 8, "appendix", num_heads=2, groups=2, kqv_groups=2,
                                  position_size=0)):  # fmt: skip
        module, x = VTModule(form), noise((1, 3, 4, 12))
        variables = module.init(jax.random.key(0), x)
        y, tokens = module.apply(variables, x)
        turned, same = module.apply(variables, x[:, ::-1, ::-1])
        np.testing.assert_allclose(same, tokens, atol=1e-6)
        np.testing.assert_allclose(turned[:, ::-1, ::-1], y, atol=1e-6)


def test_positions_are_those_of_the_pixels():
    encoding = PositionEncoding(6)
    pictures = np.zeros((1, 12, 18, 1, 1), np.float32)
    variables = encoding.init(jax.random.key(0), pictures)
    found = {
        float(encoding.apply(variables, pictures + (np.arange(12 * 18) == 18 * y + x).reshape(
            1, 12, 18, 1, 1))[0, 0, 0])
        for y, x in ((0, 0), (6, 3), (2, 15))
    }  # fmt: skip
    assert len(found) == 3


def test_a_projector_tells_pixels_by_its_queries():
    """A product with keys that are projected first is that of projected pixels with keys."""
    x, tokens = noise((1, 2, 3, 5)), noise((1, 4, 7), 1)
    projector = Projector(Form(4, 7))
    variables = projector.init(jax.random.key(0), x, tokens)
    kernels = {k: v["kernel"] for k, v in variables["params"].items()}
    scores = (x @ kernels["query"]) @ np.swapaxes(tokens @ kernels["key"], 1, 2)[:, None]
    weights = jax.nn.softmax(scores / 5**0.5)
    expected = x + weights @ (tokens @ kernels["value"])[:, None]
    np.testing.assert_allclose(projector.apply(variables, x, tokens), expected, atol=1e-6)


def test_parameters_of_the_appendixs_form():
    """Within 1 % of the published 19.2 million of R34, with a projector in the last module."""
    model = get_model("VT-R34", form="appendix", channels=512)
    shapes = tree.shapes(model, (224, 224))
    count = sum(
        leaf.size
        for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
        if path[-1].key not in ("mean", "var")
    )
    assert count == 18_282_044
    projector = sum(leaf.size for leaf in jax.tree.leaves(shapes["module0"]["projector"]))
    assert (count + projector) / 1e6 == pytest.approx(19.2, rel=0.01)
    assert visual_transformer.VARIANTS.keys() == visual_transformer.PARAMETER_COUNTS.keys()


@pytest.mark.parametrize("has_last_stage", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_resnets_file_begins_the_backbone(has_last_stage, tmp_path):
    depths = (1, 1, 1, 1) if has_last_stage else (1, 1, 1)
    resnet = get_model("ResNet-18", depths=depths, width=4, num_classes=9)
    variables = draw(tree.shapes(resnet, (32, 32)))
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict(variables, resnet))
    config = make_config()
    config.pretrained = str(tmp_path / "a.safetensors")
    state = experiment.build(config).init_state()
    for found, of_file in (
        (state.params, variables["params"]),
        (state.model_state["batch_stats"], variables["batch_stats"]),
    ):
        for block in ("bn1", "stage2_block0"):
            jax.tree.map(np.testing.assert_array_equal, found["backbone"][block], of_file[block])
    assert "stage3_block0" not in state.params["backbone"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"form": "x"}, r"form='x' is not one of \('equations', 'appendix'\)"),
        ({"value_projections": False}, "token_dim must be the image's 16 channels, not 8"),
        ({"form": "appendix", "num_tokens": 3}, "half of num_tokens=3 cannot be renewed"),
        ({"form": "appendix", "channels": 15}, "the image's channels, 15, must be divisible by"),
        ({"form": "appendix", "kqv_groups": 3}, "token_dim, 4, must be divisible by kqv_groups=3"),
        ({"num_tokens": 0}, "num_tokens must be at least 1, not 0"),
        ({"num_modules": 0}, "num_modules must be at least 1, not 0"),
        ({"dropout_rate": 1.0}, r"dropout_rate must lie in \[0, 1\), not 1.0"),
        ({"position_size": -1}, "position_size must be at least 0, not -1"),
    ],
)
def test_wrong_settings(fields, message):
    model = get_model("VT-R18", **{**TINY, **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))


# A run of a small one.


def make_config():
    config = tiny_digits_config()
    config.model_name = "VT-R18"
    fields = {k: v for k, v in TINY.items() if k != "num_classes"}
    config.model = type(config)({**fields, "dropout_rate": 0.1, "drop_path_rate": 0.1})
    config.data.train_pp = "grayscale_to_rgb|resize(16)|normalize()"
    config.data.eval_pp = "grayscale_to_rgb|resize(16)|normalize()"
    config.ema_decay = 0.5
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vt") / "run"
    return Workdir(folder), train.train_and_evaluate(make_config(), folder)


def assert_same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


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
    after = pretrained.load(tmp_path / f"a{suffix}", "VT-R18", before.fields)
    assert_same(after.variables, before.variables)
    assert "VT-R18 with depths=(1, 1, 1)" in convert.inspect(tmp_path / f"a{suffix}")


@pytest.mark.slow
def test_a_run_is_exported(run, tmp_path):
    model = pretrained.load(run[0].path)
    (part,) = export.parts_of(model)
    export.write_stablehlo(part, tmp_path / "a.stablehlo")
    images = convert.random_inputs(model, 3, seed=1)
    expected = model.model.apply(model.variables, *images)
    found = export.read_stablehlo(tmp_path / "a.stablehlo")(*images)
    np.testing.assert_allclose(found, expected, atol=1e-5)
