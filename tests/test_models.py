import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from tests.helpers import TINY_MIXER, noise, random_params
from vit_jax.models import (
    AUGREG_NAMES,
    MODELS,
    PUBLISHED_SCORES,
    clip,
    dehazeformer,
    get_model,
    list_models,
    siglip,
    swinir,
)


def test_the_models_are_listed_with_their_names_and_sizes():
    models = list_models()
    assert list(models) == sorted(models)
    assert models["ViT-B_16"] == 86_567_656
    assert set(models) == set(MODELS)


_QUICK = {kind: name for name, (kind, _) in sorted(MODELS.items(), reverse=True)}.values()


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in _QUICK else pytest.mark.slow)
        for name in list_models()
    ],
)
def test_parameter_count(name):
    model = get_model(name)
    size = (384, 384) if name.startswith("Swin") and name.endswith("-384") else model.usual_size
    scan = {"scan": True} if model.has_field("scan") else {}  # which is quicker to trace
    init = model.clone(**scan).init
    variables = jax.eval_shape(init, jax.random.key(0), *model.inputs(size))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == list_models()[name]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))
    # What shows in the shapes of the parameters are the model's own fields.
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    for field, value in model.fields_in(unrolled({k: x.shape for k, x in flat.items()})).items():
        own = getattr(model, field)
        assert own == value or (field == "layer_scale" and None not in (own, value)), field


def unrolled(shapes):
    """Shapes of a scanned model's parameters -> those of the same one unrolled."""
    found = {}
    for name, shape in shapes.items():
        stacked = re.fullmatch(r"(.*(?:en|de)coderblock)/(.+)", name)
        if stacked is None:
            found[name] = shape
            continue
        before, after = stacked.groups()
        found |= {f"{before}_{i}/{after}": shape[1:] for i in range(shape[0])}
    return found


def test_scores_of_all_models_are_kept():
    """Also of models in different files on the same test set."""
    for file in (dehazeformer, swinir, clip, siglip):
        for benchmark, (count, scores) in file.PUBLISHED_SCORES.items():
            assert PUBLISHED_SCORES[benchmark][0] == count
            assert PUBLISHED_SCORES[benchmark][1].items() >= scores.items()


def test_too_many_blocks():
    for name, fields in (("ViT-B_16", dict(num_layers=1001)), ("Swin-T", dict(depths=[1, 2**20]))):
        with pytest.raises(ValueError, match="would take for ever to compile; at most 1000"):
            get_model(name, **fields)


def test_augreg_names():
    names = "B_16 B_32 B_8 L_16 R26_B_32 R26_S_32 R50_L_32 R_Ti_16 S_16 S_32 Ti_16"
    assert set(names.split()) == set(AUGREG_NAMES)
    assert get_model("R26_S_32") == get_model("R26+ViT-S_32")
    assert get_model("R_Ti_16", num_classes=3).resnet_layers == ()


@pytest.mark.parametrize("name", ["ViT-L_16", "ViT-H_14", "R50+ViT-B_16", "R50+ViT-L_32"])
def test_published_dropout(name):
    assert get_model(name).dropout_rate == 0.1
    assert get_model("ViT-B_16").dropout_rate == 0


def test_overrides():
    model = get_model("ViT-B_16", num_classes=5, dtype="bfloat16", dropout_rate=0)
    assert (model.num_classes, model.hidden_size) == (5, 768)
    assert model.dtype == jnp.bfloat16
    assert get_model("R+ViT-Ti_16", resnet_layers=[1, 2]).resnet_layers == (1, 2)  # from JSON


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ViT-B16", {}, "did you mean 'ViT-B_16'.*ViT-Ti_16"),
        ("ViT-B_16", {"depth": 3}, "no field 'depth'; its fields are: num_classes, patch_size"),
        ("ViT-B_16", {"num_layers": "3"}, "num_layers must be of type int, not '3'"),
        ("ViT-B_16", {"num_layers": True}, "num_layers must be of type int, not True"),
        ("ViT-B_16", {"num_layers": -1}, "num_layers=-1 must not be negative"),
        ("ViT-B_16", {"remat": 1}, "remat must be of type bool"),
        ("ViT-B_16", {"dropout_rate": "a"}, "dropout_rate must be of type float"),
        ("ViT-B_16", {"representation_size": 2.5}, "of type int or NoneType"),
        ("ViT-B_16", {"resnet_layers": (1, 2.0)}, r"of type tuple\[int, ...\] or NoneType"),
        (
            "Mixer-B_16",
            {"hidden_size": 8},
            "no field 'hidden_size'; did you mean 'hidden_dim'. its fields are: num_c",
        ),
        ("ViT-B_16", {"dtype": "int8"}, "not one of"),
        ("ViT-B_16", {"dtype": "half-ish"}, "not one of"),
    ],
)
def test_wrong_selection(name, overrides, message):
    with pytest.raises(ValueError, match=message):
        get_model(name, **overrides)


def test_importing_the_models_does_not_import_tensorflow():
    code = (
        "import sys, vit_jax.models; sys.exit(any(m.startswith('tensorflow') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


TINY_VIT = dict(
    patch_size=4, hidden_size=12, num_layers=1, num_heads=2, mlp_dim=16, representation_size=8,
    dropout_rate=0.1, attention_dropout_rate=0.1,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("ViT-Ti_16", dict(TINY_VIT, classifier="token")),
        ("ViT-Ti_16", dict(TINY_VIT, classifier="gap")),
        ("ViT-Ti_16", dict(TINY_VIT, classifier="map")),
        ("R26+ViT-S_32", dict(TINY_VIT, patch_size=1, resnet_layers=(1, 2))),
        ("Mixer-B_16", TINY_MIXER),
    ],
)
def test_every_parameter_receives_a_finite_gradient(name, overrides):
    model = get_model(name, num_classes=3, **overrides)
    images = jax.random.normal(jax.random.key(1), (4, 16, 24, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"]).at[0].set(-1.0)
    for stage in (k for k in params if k.startswith("block")):
        for unit in params[stage].values():
            unit["gn3"]["scale"] = jnp.ones_like(unit["gn3"]["scale"])  # it begins at 0

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        out = model.apply({"params": params}, images, train=True, rngs=rngs)
        return jnp.sum(out[:, 0] ** 2 + out[:, 1])

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        # The key's bias adds the same to every logit of a softmax, so its gradient is 0.
        assert "key" in name or np.abs(grad).max() > 0, name


@pytest.mark.parametrize(
    ("name", "overrides", "size"),
    [
        ("ViT-B_32", {}, 384),
        ("ViT-S_16-gap-norep", {}, 160),
        ("R+ViT-Ti_16", {}, 224),
        ("R50+ViT-B_16", {}, 256),
        ("Mixer-B_16", {}, 224),
        ("ViT-H_14", {"position_embedding": "none"}, 224),
    ],
)
def test_the_image_size_of_given_parameters(name, overrides, size):
    model = get_model(name, **overrides)
    images = jnp.zeros((1, size, size, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    assert model.image_size(params) == (size, size)


@pytest.mark.parametrize(("name", "side"), [("ViT-B_32", 32), ("Mixer-B_32", 32)])
def test_the_image_size_of_parameters_for_no_square(name, side):
    model = get_model(name)
    images = jnp.zeros((1, 4 * side, 7 * side, 3))
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), images))["params"]
    with pytest.raises(ValueError, match="28 patches, which do not make a square"):
        model.image_size(params)


@pytest.mark.parametrize("name", ["R26+ViT-S_32", "Mixer-B_32"])
def test_images_that_cannot_be_cut_into_patches(name):
    with pytest.raises(ValueError, match="images of 32 x 40 pixels cannot be cut into patches"):
        jax.eval_shape(get_model(name).init, jax.random.key(0), jnp.zeros((1, 32, 40, 3)))


def test_hybrids_check_their_resnet():
    images = jnp.zeros((1, 32, 32, 3))
    for overrides, message in [
        ({"resnet_layers": (1, 0)}, "resnet_layers must be positive"),
        ({"resnet_width_factor": 0.7}, "44 channels, which must be a multiple of 32"),
    ]:
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(get_model("R26+ViT-S_32", **overrides).init, jax.random.key(0), images)


def test_stochastic_depth_of_a_mixer():
    images = noise((1, 16, 16, 3))
    model = get_model("Mixer-B_16", num_classes=3, stochastic_depth_rate=0.9, **TINY_MIXER)
    _, params = random_params("Mixer-B_16", (16, 16), num_classes=3, **TINY_MIXER)

    @jax.jit
    def train(key):
        return model.apply({"params": params}, images, train=True, rngs={"dropout": key})

    outs = {float(train(jax.random.key(i))[0, 0]) for i in range(20)}
    # The first block stays, and the second's two branches are there or not, independently.
    assert 2 <= len({round(out, 4) for out in outs}) <= 4
    still = get_model("Mixer-B_16", num_classes=3, **TINY_MIXER).apply({"params": params}, images)
    np.testing.assert_array_equal(model.apply({"params": params}, images), still)
    with pytest.raises(ValueError, match=r"stochastic_depth_rate must lie in \[0, 1\), not 1"):
        model.clone(stochastic_depth_rate=1).apply({"params": params}, images)


def test_a_mixer_takes_only_as_many_patches_as_it_mixes():
    model = get_model("Mixer-B_16", num_classes=3, **TINY_MIXER)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
    assert jax.eval_shape(model.apply, variables, jnp.zeros((1, 24, 16, 3))).shape == (1, 3)
    with pytest.raises(ValueError, match="mix 24 patches, but this image size makes 16"):
        model.apply(variables, jnp.zeros((1, 16, 16, 3)))
