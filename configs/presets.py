"""What several experiments share: names of models, fine-tuning, data sets, augmentation levels."""

import math
import re

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown
from vit_jax.models import AUGREG_NAMES, get_model, list_models

# TFDS name -> splits (train, val, test) and the steps of the published fine-tunings.
DATASETS = {
    "cifar10": (("train[:98%]", "train[98%:]", "test"), 10_000),
    "cifar100": (("train[:98%]", "train[98%:]", "test"), 10_000),
    "imagenet2012": (("train[:99%]", "train[99%:]", "validation"), 20_000),
    "oxford_flowers102": (("train", "validation", "test"), 500),
    "oxford_iiit_pet": (("train[:90%]", "train[90%:]", "test"), 500),
}

# AugReg's levels: mixup's alpha, and the magnitude of two RandAugment layers, None for no layers.
# Source: Steiner et al., "How to train your ViT?" (TMLR 2022).
AUGMENTATION_LEVELS = {
    "none": (0.0, None),
    "light1": (0.0, 0),
    "light2": (0.2, 10),
    "medium1": (0.2, 15),
    "medium2": (0.5, 15),
    "strong1": (0.5, 20),
    "strong2": (0.8, 20),
}


def split_argument(argument: str, most: int) -> list[str]:
    """Splits what follows the colon of --config=FILE:ARGUMENT at its commas.

    Raises:
        ValueError: if there are more than `most` parts.
    """
    parts = [part.strip() for part in argument.split(",")]
    if len(parts) > most:
        raise ValueError(f"the config takes {most} argument(s), and not {argument!r}")
    return parts


def find_model(key: str, family: str) -> str:
    """Finds a model by a short key such as b16 or r50_l32, whatever its case and punctuation.

    Args:
        key: of the model, or its name.
        family: "ViT", "Mixer", "CLIP", ..., which its name begins with, or has after a "+", and
            the key may leave out.

    Raises:
        ValueError: if there is no such model.
    """
    names = {
        _plain(name.replace(f"{family}-", "")): name
        for name in list_models()
        if re.search(rf"(^|\+){family}-", name)
    }
    found = names.get(_plain(key.replace(f"{family}-", "")))
    if found is None:
        raise ValueError(unknown(family, key, names))
    return found


# Towers of images alone on the hub, those of models of images and texts.
_TOWERS = {
    "ViT-B_32-CLIP": "openai/clip-vit-base-patch32",
    "ViT-B_16-CLIP": "openai/clip-vit-base-patch16",
    "ViT-L_14-CLIP": "openai/clip-vit-large-patch14",
    "ViT-B_16-SigLIP": "google/siglip-base-patch16-224",
    "ViT-B_32-SigLIP": "google/siglip2-base-patch32-256",
    "ViT-L_16-SigLIP": "google/siglip-large-patch16-256",
    "ViT-So400m_14-SigLIP": "google/siglip-so400m-patch14-224",
    "ViT-So400m_16-SigLIP": "google/siglip2-so400m-patch16-256",
    "ViT-g-opt_16-SigLIP": "google/siglip2-giant-opt-patch16-256",
}


def published_weights(model_name: str) -> str:
    """Where weights of a Vision Transformer are published: AugReg's short name, or on the hub.

    Raises:
        ValueError: if neither AugReg nor the authors of CLIP and SigLIP have published any.
    """
    if model_name in _TOWERS:
        return f"hf://{_TOWERS[model_name]}"
    return augreg_name(model_name)


def augreg_name(model_name: str) -> str:
    """AugReg's short name of a model, such as R26_S_32.

    Raises:
        ValueError: if AugReg published none.
    """
    for short, name in AUGREG_NAMES.items():
        if name == model_name:
            return short
    raise ValueError(f"AugReg has no {model_name}; there are: {', '.join(AUGREG_NAMES)}")


def fit_image_size(image_size: int, model_name: str) -> int:
    """The image size, or the next larger one that the model can cut into patches."""
    stride = get_model(model_name).stride
    return math.ceil(image_size / stride) * stride


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


def set_dataset(config: ConfigDict, name: str) -> None:
    """Sets a TFDS data set's splits and steps; without a name, the data are still to be said.

    Raises:
        ValueError: if the name has no preset.
    """
    if not name:
        return
    if name not in DATASETS:
        raise ValueError(
            f"{unknown('preset of a data set', name, DATASETS)}. For any other leave it out, and "
            "say --config.data.source=FOLDER or tfds:NAME"
        )
    splits, steps = DATASETS[name]
    config.data.source = f"tfds:{name}"
    names = ("train_split", "val_split", "test_split")
    config.data.tfds.update(dict(zip(names, splits)))
    config.total_steps = steps


def get_finetuning(image_size: int) -> ConfigDict:
    """The published settings of fine-tuning; source: google-research/vision_transformer."""
    config = common.get_config()

    config.data.train_pp = f"decode|inception_crop({image_size})|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = f"decode|resize({image_size})|value_range(-1, 1)"

    config.batch_size = 512
    config.accum_steps = 8
    config.total_steps = 10_000
    config.optim.name = "sgd"
    config.optim.args.momentum = 0.9
    config.optim.momentum_dtype = "bfloat16"
    config.optim.learning_rate = 0.03
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 500

    config.eval_every = 100
    return config


def get_pretraining() -> ConfigDict:
    """What the pretrainings share: ImageNet-1k, 224 pixels, AdamW; source: big_vision."""
    config = common.get_config()

    config.dtype = "bfloat16"

    config.data.source = "tfds:imagenet2012"
    config.data.tfds.train_split = "train[:99%]"
    config.data.tfds.val_split = "train[99%:]"
    config.data.tfds.test_split = "validation"
    config.data.tfds.shuffle_buffer = 250_000
    config.data.eval_pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"

    config.optim.name = "adamw"
    config.optim.momentum_dtype = "bfloat16"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1  # of the kernels; times the learning rate it is 1e-4
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 10_000

    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    return config


def get_contrastive(model_name: str) -> ConfigDict:
    """What trainings of two towers share: captions, COCO's if no other are named, and recalls.

    A model that adds a bias is trained by the sigmoid loss, and any other by the softmax loss.
    """
    config = common.get_config()
    config.model_name = model_name
    config.dtype = "bfloat16"
    model = get_model(model_name)

    config.data.kind = "captions"
    config.data.source = "tfds:coco_captions"  # by Karpathy's splits
    config.data.tfds.train_split = "train+restval"
    config.data.tfds.val_split = "val"
    config.data.eval_pp = model.preprocessing(model.usual_size)

    config.loss = "sigmoid" if model.values_of(["has_bias"])["has_bias"] else "softmax"
    config.metrics = tuple(
        f"{direction}/recall@{k}"
        for direction in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    )
    config.best_metric = "text_to_image/recall@1"
    return config


def set_augmentation(config: ConfigDict, level: str, image_size: int) -> None:
    """Sets mixup and the training images' preprocessing to one of AugReg's levels.

    Raises:
        ValueError: for an unknown level.
    """
    if level not in AUGMENTATION_LEVELS:
        raise ValueError(unknown("level", level, AUGMENTATION_LEVELS))
    alpha, magnitude = AUGMENTATION_LEVELS[level]
    randaug = "" if magnitude is None else f"|randaug(2, {magnitude})"
    config.data.train_pp = (
        f"decode|inception_crop({image_size})|flip_lr{randaug}|value_range(-1, 1)"
    )
    config.mixup_alpha = alpha
