"""Configs against published code: learning rates, weight decay, augmentation and sizes."""

import importlib
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from checkpoints import torch
from configs import common
from input_pipeline import preprocess
from tests import helpers
from vit_jax import optim, schedules
from vit_jax.models import get_model

_GOLDEN = Path(__file__).parent / "golden"
LEARNING_RATES = json.loads((_GOLDEN / "recipes_lr.json").read_text())

_IMAGENET = 1_281_167
_MINUS_MINIVAL = 1_268_355  # 99 %
_HAZY = 13_990

# Recipe -> config and its argument, images to train on, and what differs from it.
RECIPES = {
    "vit_i1k": ("vit_i1k", "B_16", _MINUS_MINIVAL, {}),
    "vit_s16_i1k": ("vit_s16_i1k", "mlp", _MINUS_MINIVAL, {}),
    "vit_s16_i1k_300ep": ("vit_s16_i1k", "mlp", _MINUS_MINIVAL, {"total_epochs": 300.0}),
    "mixer_i1k": ("mixer_i1k", "B_16", _MINUS_MINIVAL, {}),
    "google_vit_finetune_cifar": ("vit", "b32,cifar10", 49_000, {}),
    "augreg_finetune": ("augreg", "B_32,oxford_iiit_pet", 3_312, {}),
    "swin_224": ("swin", "T", _IMAGENET, {}),
    "swin_384_from_224": ("swin", "B-384", _IMAGENET, {}),
    "deit": ("deit", "S", _IMAGENET, {}),
    "efficientformer_v2": ("efficientformer_v2", "S0", _IMAGENET, {}),
    "mae_pretrain": ("mae", "B_16", _IMAGENET, {}),
    "mae_finetune_b": ("mae", "B_16,finetune", _IMAGENET, {}),
    "mae_finetune_l": ("mae", "L_16,finetune", _IMAGENET, {}),
    "dehazeformer_indoor_T": ("dehazeformer", "indoor,T", _HAZY, {}),
    "dehazeformer_indoor_S_B_M": ("dehazeformer", "indoor,S", _HAZY, {}),
    "dehazeformer_indoor_D_W_L": ("dehazeformer", "indoor,L", _HAZY, {}),
    "swinir_sr_kair": ("swinir", "classical,x2", 800, {}),
    "swinir_sr_basicsr": (
        "swinir", "classical,x2", 800,
        {"schedule.shift": 0, "schedule.milestones": (250_000, 400_000, 450_000, 475_000)},
    ),
    "swinir_denoise_jpeg_kair": ("swinir", "denoise-color,15", 800, {}),
    "rrdb_psnr": ("rrdb", "x4", 800, {}),
    "esrgan": ("esrgan", "x4", 800, {}),
}  # fmt: skip
# DeiT III needs LAMB and a loss of several classes.
_ABSENT = {"deit3_b_192"}


def load(name, argument):
    return importlib.import_module(f"configs.{name}").get_config(argument)


@pytest.mark.parametrize("recipe", RECIPES)
def test_learning_rates(recipe):
    golden = LEARNING_RATES[recipe]
    name, argument, images, changes = RECIPES[recipe]
    config = load(name, argument)
    config.update_from_flattened_dict(changes)
    assert config.batch_size == golden["batch"]
    steps, per_epoch = schedules.count_steps(config, images / config.batch_size)
    assert steps == golden["total_updates"]
    assert per_epoch == golden.get("steps_per_epoch", per_epoch)
    rate = schedules.make_schedule(config.schedule, config.optim.learning_rate, steps, per_epoch)
    updates = np.array([int(update) for update in golden["lr"]], np.int32)
    found = jax.jit(jax.vmap(rate))(updates)
    np.testing.assert_allclose(found, list(golden["lr"].values()), rtol=1e-6, atol=1e-12)


def test_no_published_schedule_is_left_out():
    assert {*RECIPES} | _ABSENT == {*LEARNING_RATES}


PARAMETER_GROUPS = json.loads((_GOLDEN / "param_groups.json").read_text())
_SMALL = dict(num_layers=3, hidden_size=8, num_heads=2, mlp_dim=8)


_AVERAGED = dict(classifier="gap", class_token=True, head_norm=True)
_GROUPED = {  # model and fields of each golden
    "vit_token": ("ViT-B_16", {}),
    "vit_avg": ("ViT-B_16", _AVERAGED),
    "vit_map": ("ViT-B_16", dict(classifier="map")),
    "vit_prenorm_registers_layerscale": (
        "ViT-B_16",
        dict(pre_norm=True, registers=4, layer_scale=1.0, placed=False, patch_bias=False),
    ),
    "deit_distilled": ("ViT-B_16", dict(distillation_token=True)),
    "beit2": (
        "ViT-B_16",
        dict(
            _AVERAGED, layer_scale=1.0, position_embedding="none", relative_bias=True, biases="qv"
        ),
    ),
    "swin": ("Swin-T", dict(depths=(2, 3), num_heads=(2, 4), embed_dim=8)),
}


@pytest.mark.parametrize("group", PARAMETER_GROUPS)
def test_rates_and_weight_decay_of_each_parameter(group):
    """Those of timm, MAE and Swin: a factor of the rate, and the weight decay."""
    whose, _, kind = group.rpartition("/")
    name, fields = _GROUPED[kind.removesuffix("_official")]
    model = get_model(name, **{**(_SMALL if name == "ViT-B_16" else {}), **fields})
    images = jnp.zeros((1, 32, 32, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    decay = 0.65 if whose in ("timm", "mae") else 1.0
    settings = {"layer_decay": decay}
    if group == "mae/vit_token":  # for which the last norm is no part of the last block
        settings["multipliers"] = (("encoder_norm", 1 / decay),)
    # timm decays what asks for the pooling, which has three axes.
    on = "kernel$|probe$" if kind == "vit_map" else "kernel$"
    rates = _steps(model, ones, ones, **settings)
    zeros = jax.tree.map(np.zeros_like, ones)
    decays = _steps(model, ones, zeros, **settings, weight_decay=0.05, weight_decay_on=on)
    for name, (factor, weight_decay) in PARAMETER_GROUPS[group].items():
        np.testing.assert_allclose(rates[name], factor, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(decays[name], factor * weight_decay, rtol=1e-5, err_msg=name)


def _steps(model, params, grads, **settings):
    """By how much plain descent at a rate of 1 lowers parameters, by PyTorch's names."""
    config = common.get_config().optim
    config.update(name="sgd", args={"momentum": 0.0}, **settings)
    tx = optim.make_optimizer(config, lambda _: 1.0, params, model.layer_patterns())
    updates, _ = tx.update(grads, tx.init(params), params)
    return torch.to_state_dict({"params": jax.tree.map(jnp.negative, updates)}, model)


def _plain(path, shape):
    """timm's rule, which Swin, DeiT and others follow: weights of more than one axis."""
    name = path.rpartition("/")[2]
    tables = {
        "bias",
        "relative_position_bias_table",
        "attention_biases",
        "pos_embedding",
        "cls",
        "dist",
    }
    return len(shape) > 1 and name not in tables


def _of_mae(path, shape):
    """MAE's pretraining decays its tokens, too, and not the positions, which stay as they are."""
    return _plain(path, shape) or path.endswith(("cls", "mask_token"))


_NARROW = dict(num_heads=2, key_dim=4, mlp_ratios=(2, 1, 2, 3, 2))
# Config, argument -> fields of a smaller model, which parameters decay, and by how much at the
# highest rate: the decay times the rate, which for big_vision is that of its configuration.
DECAYS = {
    ("vit_i1k", "Ti_16"): (helpers.TINY, _plain, 1e-4),
    ("vit_i21k", "B_16"): (helpers.TINY, _plain, 1e-4),
    ("vit_s16_i1k", "mlp"): (helpers.TINY, _plain, 1e-4),
    ("mixer_i1k", "B_16"): (helpers.TINY_MIXER, _plain, 1e-4),
    ("swin", "T"): (helpers.TINY_SWIN, _plain, 1e-3 * 0.05),
    ("swin", "B-384"): (helpers.TINY_SWIN, _plain, 4e-5 * 1e-8),
    ("deit", "S-distilled"): (helpers.TINY, _plain, 1e-3 * 0.05),
    ("twins", "S"): (
        dict(embed_dims=(32, 64), depths=(2, 2), reductions=(2, 1)), _plain, 1e-3 * 0.05,
    ),
    ("efficientformer_v2", "S0"): (
        dict(embed_dims=(4, 6, 8, 10), depths=(1, 1, 2, 1), attention_depths=(1, 1), **_NARROW),
        _plain, 1e-3 * 0.025,
    ),
    ("dehazeformer", "indoor,T"): (helpers.TINY_DEHAZEFORMER, lambda path, shape: True, 4e-6),
    ("mae", "B_16"): (
        dict(helpers.TINY, decoder_hidden_size=8, decoder_num_layers=1, decoder_num_heads=2),
        _of_mae, 2.4e-3 * 0.05,
    ),
    ("mae", "B_16,finetune"): (helpers.TINY, _plain, 2e-3 * 0.05),
    ("swinir", "classical,x2"): (helpers.TINY_SWINIR, None, 0.0),
    ("rrdb", "x4"): ({}, None, 0.0),
    ("esrgan", "x4"): ({}, None, 0.0),
    ("vit", "b16,cifar10"): ({}, None, 0.0),
    ("augreg", "B_32"): ({}, None, 0.0),
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), DECAYS)
def test_weight_decay_of_each_parameter(name, argument):
    fields, decays, highest = DECAYS[name, argument]
    config = load(name, argument)
    assert config.optim.weight_decay * config.optim.learning_rate == pytest.approx(highest)
    if decays is None:
        return
    model = get_model(config.model_name, **{**config.model, **fields})
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), shapes)
    config.optim.args = ConfigDict()
    config.optim.update(name="sgd", weight_decay=1.0, momentum_dtype="float32", layer_decay=1.0)
    tx = optim.make_optimizer(config.optim, lambda _: 1.0, ones)

    @jax.jit
    def decay(params):
        return tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)[0]

    for path, leaf in traverse_util.flatten_dict(decay(ones), sep="/").items():
        assert np.asarray(leaf).all() == decays(path, leaf.shape), path


_TIMM = (
    "decode|inception_crop(224, area=(0.08, 1.0), method='bicubic', like='torchvision')|flip_lr|"
    "timm_randaug(9, 0.5)|normalize()|random_erasing(0.25)"
)
_TIMM_SHOWN = (
    "decode|resize_small(256, method='bicubic', like='torchvision')|"
    "central_crop(224, like='torchvision')|normalize()"
)
_BIG_VISION = (
    "decode|inception_crop(224, like='big_vision')|flip_lr|randaug(2, {})|value_range(-1, 1)"
)
_BIG_VISION_SHOWN = (
    "decode|resize_small(256, method='area', like='big_vision')|central_crop(224)|"
    "value_range(-1, 1)"
)
_IN_BIG_VISION = {
    "data.eval_pp": _BIG_VISION_SHOWN, "optim.name": "adamw", "optim.momentum_dtype": "bfloat16",
    "optim.clip_norm": 1.0, "cutmix_alpha": 0.0, "label_smoothing": 0.0, "ema_decay": 0.0,
    "average_checkpoints": 1, "data.tfds.train_split": "train[:99%]",
    "data.tfds.shuffle_buffer": 250_000,
}  # fmt: skip
_IN_TIMM = {
    "data.train_pp": _TIMM, "data.eval_pp": _TIMM_SHOWN, "optim.name": "adamw", "ema_decay": 0.0,
    "optim.momentum_dtype": "float32", "label_smoothing": 0.1, "mixup_alpha": 0.8,
    "cutmix_alpha": 1.0, "loss": "softmax_xent",
}  # fmt: skip
_KAIR = {
    "optim.name": "adam", "ema_decay": 0.999, "optim.clip_norm": 0.0, "schedule.warmup_steps": 0,
    "schedule.name": "multistep", "schedule.gamma": 0.5,
}  # fmt: skip
# What else the sources say, by config and argument; see `DECAYS` and `RECIPES` for the rest.
FACTS = {
    ("vit_i1k", "Ti_16"): {
        **_IN_BIG_VISION, "mixup_alpha": 0.0, "data.train_pp": _BIG_VISION.format(0),
        "model.representation_size": 192,
    },
    ("vit_i1k", "B_16"): {
        **_IN_BIG_VISION, "mixup_alpha": 0.5, "data.train_pp": _BIG_VISION.format(15),
        "model.representation_size": 768, "model.placed": False, "model.head_bias_init": -6.9,
        "loss": "sigmoid_xent", "model.dropout_rate": 0.0,
    },
    ("vit_i1k", "S_32"): {"mixup_alpha": 0.2, "data.train_pp": _BIG_VISION.format(15)},
    ("vit_i21k", "B_16"): {
        "mixup_alpha": 0.2, "data.train_pp": _BIG_VISION.format(10), "model.classifier": "gap",
        "model.representation_size": None, "model.head_bias_init": -10.0, "loss": "sigmoid_xent",
        "batch_size": 4096, "total_epochs": 300.0,
    },
    ("vit_i21k", "S_16"): {"mixup_alpha": 0.0, "data.train_pp": _BIG_VISION.format(0)},
    ("vit_s16_i1k", "mlp"): {
        **_IN_BIG_VISION, "mixup_alpha": 0.2, "data.train_pp": _BIG_VISION.format(10),
        "model.representation_size": 384, "loss": "softmax_xent", "model.classifier": "gap",
        "model.position_embedding": "sincos2d",
    },
    ("vit_s16_i1k", "linear"): {"model.representation_size": None},
    ("mixer_i1k", "B_16"): {
        **_IN_BIG_VISION, "mixup_alpha": 0.5, "data.train_pp": _BIG_VISION.format(15),
        "model.head_bias_init": -6.9, "loss": "sigmoid_xent", "optim.momentum_dtype": "float32",
        "model.stochastic_depth_rate": 0.1,
    },
    ("swin", "T"): {**_IN_TIMM, "optim.clip_norm": 5.0},
    ("swin", "B-384"): {
        **_IN_TIMM, "optim.clip_norm": 5.0, "data.train_pp": _TIMM.replace("224", "384"),
        "data.eval_pp": "decode|resize(384, method='bicubic', like='torchvision')|normalize()",
    },
    ("twins", "S"): {**_IN_TIMM, "optim.clip_norm": 5.0},
    ("deit", "B"): {
        **_IN_TIMM, "optim.clip_norm": 0.0, "model_name": "DeiT-B_16", "ema_decay": 0.0,
        "model.stochastic_depth_rate": 0.1,
    },
    ("deit", "Ti-distilled"): {
        "model_name": "DeiT-Ti_16-distilled", "distill.kind": "hard", "distill.weight": 0.5,
    },
    ("efficientformer_v2", "S0"): {
        **_IN_TIMM, "optim.clip_norm": 0.0, "optim.adaptive_clip": 0.01, "distill.weight": 0.5,
        "distill.kind": "hard",
    },
    ("mae", "L_16"): {
        "data.train_pp": "decode|inception_crop(224, area=(0.2, 1.0), method='bicubic', "
        "like='torchvision')|flip_lr|normalize()",
        "optim.args.b2": 0.95, "optim.clip_norm": 0.0, "average_checkpoints": 1,
        "loss": "normalized_pixels", "batch_size": 4096, "total_epochs": 800.0,
        "optim.freeze": "pos_embedding$",
    },
    ("mae", "L_16,finetune"): {
        **_IN_TIMM, "optim.clip_norm": 0.0, "optim.layer_decay": 0.75, "batch_size": 1024,
        "model.stochastic_depth_rate": 0.2, "model.classifier": "gap", "model.head_norm": True,
    },
    ("dehazeformer", "indoor,T"): {
        "loss": "l1", "optim.name": "adamw", "optim.clip_norm": 0.0, "ema_decay": 0.0,
        "data.train_pp": "pad_to(256)|random_crop(256)|flip_lr|rot90|value_range(-1, 1)",
    },
    ("dehazeformer", "outdoor,S"): {
        "data.train_pp": "pad_to(256)|random_crop(256)|flip_lr|value_range(-1, 1)",
    },
    ("dehazeformer", "indoor,L"): {
        "data.train_pp": "pad_to(256)|random_crop(256, edge_decay=0.1)|flip_lr|rot90|"
        "value_range(-1, 1)",
    },
    ("swinir", "classical,x2"): {
        **_KAIR, "loss": "l1", "data.train_pp": "random_crop(128)|flip_lr|rot90|value_range(-1, 1)",
    },
    ("swinir", "lightweight,x3"): {
        **_KAIR, "batch_size": 64, "total_steps": 500_000,
        "data.train_pp": "random_crop(192)|flip_lr|rot90|value_range(-1, 1)",
    },
    ("swinir", "jpeg-gray,40"): {
        **_KAIR, "batch_size": 8, "loss": "charbonnier(4e-9)", "data.degradation.quality": 40,
        "data.train_pp": "random_crop(126)|flip_lr|rot90|value_range(-1, 1)",
    },
    ("rrdb", "x4"): {
        "loss": "l1", "optim.args.b1": 0.9, "optim.args.b2": 0.99, "ema_decay": 0.999,
        "data.train_pp": "random_crop(128)|flip_lr|rot90|value_range(-1, 1)",
    },
    ("esrgan", "x4"): {
        "loss": "0.005 * l1", "optim.args.b1": 0.9, "optim.args.b2": 0.99, "gan.weight": 0.005,
        "gan.perceptual_weight": 1.0,
    },
    ("vit", "b32,imagenet2012"): {
        "optim.name": "sgd", "optim.args.momentum": 0.9, "optim.momentum_dtype": "bfloat16",
        "optim.clip_norm": 1.0, "total_steps": 20_000, "batch_size": 512,
    },
    ("augreg", "B_32"): {
        "data.train_pp": "decode|resize(448)|random_crop(384)|flip_lr|value_range(-1, 1)",
        "model.dropout_rate": 0.0,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "argument"), FACTS)
def test_facts_of_the_sources(name, argument):
    config = load(name, argument)
    found = {key: _get(config, key) for key in FACTS[name, argument]}
    assert found == FACTS[name, argument]
    if config.data.kind == "classes":  # or raise
        preprocess.build(config.data.train_pp, train=True)
        preprocess.build(config.data.eval_pp, train=False)


def _get(config, key):
    for part in key.split("."):
        config = config[part]
    return config


def test_models_without_a_published_level_need_one():
    for name in ("vit_i1k", "vit_i21k"):
        with pytest.raises(ValueError, match="say an augmentation level for ViT-H_14, one of none"):
            load(name, "H_14")
        assert load(name, "H_14,strong2").mixup_alpha == 0.8
