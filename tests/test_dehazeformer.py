import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import npz, torch
from tests.commands import run
from tests.golden_recipe import golden_images, recipe_weights
from tests.helpers import noise, random_params
from vit_jax import convert, pretrained
from vit_jax.models import get_model
from vit_jax.tasks import classify

GOLDEN = Path(__file__).parent / "golden" / "dehazeformer.npz"
TINY = dict(
    hidden_sizes=(8, 12, 16, 12, 8), depths=(1, 2, 2, 1, 1), num_heads=(2, 2, 2, 1, 1),
    attention_ratios=(0, 0.5, 1, 0, 0),
)  # fmt: skip


@pytest.mark.parametrize(
    ("case", "name", "size"),
    [
        ("dehazeformer_t", "DehazeFormer-T", (64, 64)),
        ("dehazeformer_t_30x41", "DehazeFormer-T", (30, 41)),
        pytest.param("dehazeformer_m", "DehazeFormer-M", (64, 64), marks=pytest.mark.slow),
    ],
)
def test_golden_output_and_activations(case, name, size):
    model = get_model(name)
    variables = recipe_weights(model, size)
    apply = functools.partial(model.apply, capture_intermediates=True)
    out, state = jax.jit(apply)(variables, golden_images(size))
    golden = np.load(GOLDEN)
    expected = golden[f"{case}/output"]
    np.testing.assert_allclose(out, expected, atol=2e-5 * expected.std())  # measured 5e-6

    captured = {
        module: calls["__call__"][0]
        for module, calls in state["intermediates"].items()
        if "__call__" in calls
    }
    activations = [k for k in golden if k.startswith(f"{case}/act/")]
    assert len(activations) == {"dehazeformer_t": 9, "dehazeformer_m": 2}.get(case, 0)
    for key in activations:
        module = key.rpartition("/")[2]
        if module.startswith("layer"):
            module = f"{module}_block{model.depths[int(module[-1]) - 1] - 1}"
        found = np.asarray(captured[module])[:, ::5, ::7]
        np.testing.assert_allclose(found, golden[key], atol=2e-5 * golden[key].std(), err_msg=key)


@pytest.mark.parametrize(
    ("conv", "size"), [("depthwise", (25, 25)), ("depthwise", (26, 33)), ("full", (40, 31))]
)
def test_any_size(conv, size):
    model, params = random_params("DehazeFormer-T", size, conv=conv, **TINY)
    out = jax.jit(model.apply)({"params": params}, noise((2, *size, 3)))
    assert out.shape == (2, *size, 3)
    assert out.dtype == jnp.float32
    assert np.isfinite(out).all()


def test_every_parameter_receives_a_finite_gradient():
    fields = {**TINY, "depths": (1, 2, 1, 0, 0)}
    model, params = random_params("DehazeFormer-T", (26, 33), **fields)
    images = noise((1, 26, 33, 3))

    def loss(params):
        return jnp.sum(model.apply({"params": params}, images, train=True) ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        assert np.abs(grad).max() > 0, name


def test_the_whole_image_matters():
    """The statistics are of the image, so a change in one corner is felt in the other."""
    model, params = random_params("DehazeFormer-T", (64, 64), **TINY)
    apply = jax.jit(model.apply)
    images = noise((1, 64, 64, 3))
    changed = images.copy()
    changed[:, :4, :4] += 1
    difference = np.abs(apply({"params": params}, images) - apply({"params": params}, changed))
    assert difference[:, 60:, 60:].max() > 1e-6


@pytest.mark.slow
def test_initialisation():
    model = get_model("DehazeFormer-T", depths=(0, 0, 1, 0, 0))
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    gain = (8 * 1) ** -0.25
    block = params["layer3_block0"]
    std = {
        "V": gain * (2 / (96 + 96)) ** 0.5,
        "QK": (2 / (96 + 192)) ** 0.5,
        "conv": gain * (2 / (25 + 25 * 96)) ** 0.5,
    }
    for name, expected in std.items():
        assert np.std(block["attn"][name]["kernel"]) == pytest.approx(expected, rel=0.06), name
        assert not block["attn"][name]["bias"].any()
    norm = block["norm1"]
    assert (norm["meta1"]["bias"] == 1).all()
    assert not norm["meta2"]["bias"].any()
    assert np.std(norm["meta1"]["kernel"]) == pytest.approx(0.02, rel=0.3)
    embed = params["patch_embed"]
    for leaf in (embed["kernel"], embed["bias"]):
        assert 0.8 * 27**-0.5 < np.abs(leaf).max() <= 27**-0.5


@pytest.mark.slow
def test_bfloat16_stays_close():
    model, params = random_params("DehazeFormer-T", (32, 40), **TINY)
    images = noise((1, 32, 40, 3))
    out = jax.jit(model.apply)({"params": params}, images)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)({"params": params}, images)
    assert half.dtype == jnp.float32
    assert 0 < np.abs(half - out).mean() < 0.05 * np.std(out)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["DehazeFormer-T", "DehazeFormer-M"])
def test_official_files(name, tmp_path):
    model, params = random_params(name, (32, 32))
    state_dict = torch.to_state_dict({"params": params}, model)
    last = f"layer3.blocks.{model.depths[2] - 1}"
    assert state_dict[f"{last}.attn.QK.weight"].shape == (192, 96, 1, 1)
    assert state_dict[f"{last}.norm1.weight"].shape == (1, 96, 1, 1)
    assert state_dict[f"{last}.attn.attn.meta.2.weight"].shape == (6, 256)
    back = torch.from_state_dict(state_dict, model)
    jax.tree.map(np.testing.assert_array_equal, back, {"params": params})
    with pytest.raises(ValueError, match="missing: layer1"):
        torch.from_state_dict(state_dict, get_model("DehazeFormer-S"))

    torch.write(tmp_path / "a.safetensors", {f"module.{k}": v for k, v in state_dict.items()})
    loaded = pretrained.load(tmp_path / "a.safetensors", name)
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, {"params": params})
    assert loaded.labels is None


@pytest.mark.slow
def test_the_convert_command(tmp_path):
    _, params = random_params("DehazeFormer-T", (32, 32), **TINY)
    npz.save(tmp_path / "a.npz", params)
    model = ["--model=DehazeFormer-T", *[f"--field={key}={value}" for key, value in TINY.items()]]
    result = run("convert", tmp_path / "a.npz", tmp_path / "b.safetensors", *model)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("largest difference of the outputs: 0, of values up to ")
    assert result.stderr.endswith("b.safetensors: DehazeFormer-T\n")


def test_official_files_are_recognised(tmp_path):
    _, params = random_params("DehazeFormer-T", (32, 32))
    npz.save(tmp_path / "a.npz", params)
    text = convert.inspect(tmp_path / "a.npz")
    assert text.endswith("of 687,404 numbers; it fits DehazeFormer-T")
    with pytest.raises(ValueError, match="these weights have no head to classify with"):
        classify.Classifier(pretrained.load(tmp_path / "a.npz"))
    with pytest.raises(ValueError, match=r"\(missing: layer1_block4/.*It fits DehazeF\w+-T$"):
        pretrained.load(tmp_path / "a.npz", "DehazeFormer-S")


@pytest.mark.parametrize(
    ("overrides", "size", "message"),
    [
        ({}, (20, 40), "images of 20 x 40 pixels are too small for DehazeFormer: .* at least 25"),
        ({"depths": (1, 1)}, (32, 32), r"depths must be 5 numbers of at least 0, not \(1, 1\)"),
        ({"hidden_sizes": (8, 12, 16, 12, 16)}, (32, 32), "first and last"),
        ({"num_heads": (3, 2, 2, 1, 1)}, (32, 32), "not divisible by num_heads"),
        ({"conv": "none"}, (32, 32), "conv='none' is not one of"),
    ],
)
def test_wrong_settings(overrides, size, message):
    model = get_model("DehazeFormer-T", **{**TINY, **overrides})
    with pytest.raises(ValueError, match=message):
        model.init(jax.random.key(0), jnp.zeros((1, *size, 3)))
    with pytest.raises(ValueError, match="attention_ratios must be of type tuple"):
        get_model("DehazeFormer-T", attention_ratios=("a",))
