import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax.models import get_model, list_models

# Parameters with 1000 classes at 224 pixels, of the published models.
PARAMETER_COUNTS = {
    "ViT-Ti_16": 5_717_416,
    "ViT-S_16": 22_050_664,
    "ViT-S_32": 22_878_952,
    "ViT-B_8": 86_576_872,
    "ViT-B_16": 86_567_656,
    "ViT-B_32": 88_224_232,
    "ViT-L_16": 304_326_632,
    "ViT-L_32": 306_535_400,
    "ViT-H_14": 632_045_800,
    "ViT-S_16-gap-norep": 22_049_896,
    "ViT-S_32-gap-norep": 22_878_184,
    "ViT-B_16-gap-norep": 86_566_120,
    "ViT-B_32-gap-norep": 88_222_696,
}


def test_every_model_has_a_golden_count():
    assert sorted(PARAMETER_COUNTS) == list_models()


@pytest.mark.parametrize("name", sorted(PARAMETER_COUNTS))
def test_parameter_count(name):
    model = get_model(name)
    images = jnp.zeros((1, 224, 224, 3))
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images))
    assert sum(x.size for x in jax.tree.leaves(variables)) == PARAMETER_COUNTS[name]
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(variables))


@pytest.mark.parametrize("name", ["ViT-L_16", "ViT-H_14"])
def test_published_dropout(name):
    assert get_model(name).dropout_rate == 0.1
    assert get_model("ViT-B_16").dropout_rate == 0


def test_overrides():
    model = get_model("ViT-B_16", num_classes=5, dtype="bfloat16", dropout_rate=0)
    assert (model.num_classes, model.hidden_size) == (5, 768)
    assert model.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("ViT-B16", {}, "did you mean 'ViT-B_16'.*ViT-Ti_16"),
        ("ViT-B_16", {"depth": 3}, "no field 'depth'; its fields are: num_classes, patch_size"),
        ("ViT-B_16", {"num_layers": "3"}, "num_layers must be of type int, not '3'"),
        ("ViT-B_16", {"num_layers": True}, "num_layers must be of type int, not True"),
        ("ViT-B_16", {"remat": 1}, "remat must be of type bool"),
        ("ViT-B_16", {"dropout_rate": "a"}, "dropout_rate must be of type float"),
        ("ViT-B_16", {"representation_size": 2.5}, "of type int or NoneType"),
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


@pytest.mark.parametrize("classifier", ["token", "gap", "map"])
def test_every_parameter_receives_a_finite_gradient(classifier):
    model = get_model(
        "ViT-Ti_16", num_classes=3, patch_size=4, hidden_size=12, num_layers=1, num_heads=2,
        mlp_dim=16, representation_size=8, classifier=classifier, dropout_rate=0.1,
        attention_dropout_rate=0.1,
    )  # fmt: skip
    images = jax.random.normal(jax.random.key(1), (4, 8, 12, 3))
    params = jax.jit(model.init)(jax.random.key(0), images)["params"]
    params["head"]["kernel"] = jnp.ones_like(params["head"]["kernel"]).at[0].set(-1.0)

    def loss(params):
        rngs = {"dropout": jax.random.key(2)}
        out = model.apply({"params": params}, images, train=True, rngs=rngs)
        return jnp.sum(out[:, 0] ** 2 + out[:, 1])

    for path, grad in jax.tree_util.tree_leaves_with_path(jax.jit(jax.grad(loss))(params)):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        # The key's bias adds the same to every logit of a softmax, so its gradient is 0.
        assert "key" in name or np.abs(grad).max() > 0, name
