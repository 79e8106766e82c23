"""Learning rates by layer and by name, and freezing for a while."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from checkpoints import tree
from configs import common
from vit_jax import optim
from vit_jax.models import get_model

# What timm 1.0.31 multiplies the rates by in a ViT of three blocks, with a decay of .65: of the
# stem, the blocks, the last norm of one with a class token, and the head.
VIT = {
    "embedding/kernel": 0.17850625,
    "cls": 0.17850625,
    "Transformer/posembed_input/pos_embedding": 0.17850625,
    "Transformer/encoderblock_0/LayerNorm_0/scale": 0.274625,
    "Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel": 0.4225,
    "Transformer/encoderblock_2/MlpBlock_3/Dense_1/bias": 0.65,
    "Transformer/encoder_norm/scale": 0.65,
    "head/kernel": 1.0,
}
# And in a Swin of two stages, of two and three blocks.
SWIN = {
    "patch_embed/kernel": 0.075418890625,
    "patch_norm/scale": 0.075418890625,
    "stage0_block0/attn/relative_position_bias_table": 0.1160290625,
    "stage0_block1/mlp_fc1/kernel": 0.17850625,
    "merging1/reduction/kernel": 0.274625,
    "stage1_block0/norm1/scale": 0.274625,
    "stage1_block1/attn/proj/kernel": 0.4225,
    "stage1_block2/attn/qkv/kernel": 0.65,
    "norm/scale": 0.65,
    "head/bias": 1.0,
}


def params_of(name, **fields):
    model = get_model(name, num_classes=3, **fields)
    zeros = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), zeros))["params"]
    return model, jax.tree.map(lambda leaf: jnp.ones(leaf.shape), shapes)


def a_vit(**fields):
    sizes = {"num_layers": 3, "hidden_size": 8, "num_heads": 2, "mlp_dim": 8}
    return params_of("ViT-Ti_16", **sizes, **fields)


def changes(params, layers=(), steps=1, **settings):
    """By how much a step of plain descent at a rate of 1 lowers parameters whose gradient is 1."""
    config = common.get_config().optim
    config.update(name="sgd", **settings)
    config.args.update(momentum=0.0)
    tx = optim.make_optimizer(config, optax.constant_schedule(1.0), params, layers)
    state = tx.init(params)
    ones = jax.tree.map(jnp.ones_like, params)
    for _ in range(steps):
        updates, state = tx.update(ones, state, params)
    return traverse_util.flatten_dict(jax.tree.map(lambda leaf: -leaf, updates), sep="/")


def check(found, expected):
    for path, factor in expected.items():
        np.testing.assert_allclose(found[path], factor, rtol=1e-6, err_msg=path)


def test_layers_of_a_vit_decay_as_timms():
    model, params = a_vit()
    check(changes(params, model.layer_patterns(), layer_decay=0.65), VIT)


def test_stacked_blocks_have_a_rate_each():
    model, params = a_vit(scan=True)
    found = changes(params, model.layer_patterns(), layer_decay=0.65)
    check(
        traverse_util.flatten_dict(
            tree.unstack(traverse_util.unflatten_dict(found, sep="/")), sep="/"
        ),
        VIT,
    )


def test_layers_of_swin_decay_as_timms():
    model, params = params_of("Swin-T", embed_dim=8, depths=(2, 3), num_heads=(2, 2))
    check(changes(params, model.layer_patterns(), layer_decay=0.65), SWIN)


@pytest.mark.parametrize(
    "name", ["ViT-Ti_16", "ViT-S_16-gap-norep", "R26+ViT-S_32", "Swin-T", "Mixer-B_16"]
)
def test_every_layer_of_a_model_is_found(name):
    model = get_model(name, num_classes=3)
    zeros = jnp.zeros((1, *model.usual_size, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), zeros))["params"]
    paths = traverse_util.flatten_dict(shapes, sep="/")
    for pattern in model.layer_patterns():
        assert any(re.search(pattern, path) for path in paths), pattern
    left = {
        p.split("/")[0] for p in paths if not any(re.search(q, p) for q in model.layer_patterns())
    }
    assert left == {"head"}


def test_multipliers_are_by_name_and_the_first_counts():
    _, params = a_vit()
    found = changes(params, multipliers=(("^head/bias", 3.0), ("^head", 10), ("cls", 0.5)))
    check(found, {"head/bias": 3.0, "head/kernel": 10.0, "cls": 0.5, "embedding/bias": 1.0})
    model, params = a_vit()
    found = changes(params, model.layer_patterns(), layer_decay=0.5, multipliers=(("cls", 3.0),))
    check(found, {"cls": 3 * 0.5**4, "embedding/bias": 0.5**4})


def test_weight_decay_is_multiplied_too():
    model, params = a_vit()
    found = changes(params, model.layer_patterns(), layer_decay=0.5, weight_decay=0.1)
    check(found, {"head/kernel": 1.1, "head/bias": 1.0, "embedding/kernel": 1.1 * 0.5**4})


def test_frozen_parameters_may_be_trained_later():
    _, params = a_vit()
    for steps, factor in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)):
        found = changes(params, steps=steps, freeze="^(?!head)", freeze_steps=2)
        check(found, {"cls": factor, "head/kernel": 1.0})


def test_what_is_frozen_for_good_has_no_factor():
    model, params = a_vit()
    found = changes(params, model.layer_patterns(), layer_decay=0.5, freeze="^embedding")
    check(found, {"embedding/kernel": 0.0, "cls": 0.5**4})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer_decay": 0.0}, r"must lie in \(0, 1\], not 0.0"),
        ({"layer_decay": 0.9}, "is for ViT, Swin and MLP-Mixer, .*optim.multipliers"),
        ({"multipliers": (("^gone", 2.0),)}, "'\\^gone' is found in none of: Transformer/"),
        ({"multipliers": (("(", 2.0),)}, "not a regular expression"),
        ({"multipliers": (("cls", 0.0),)}, "'cls' must be above 0, not 0.0: optim.freeze"),
        ({"multipliers": ("cls", 2.0)}, "are pairs such as"),
        ({"freeze_steps": 3}, "which is unset"),
    ],
)
def test_wrong_settings(settings, message):
    _, params = a_vit()
    with pytest.raises(ValueError, match=message):
        changes(params, **settings)
