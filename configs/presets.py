"""What several experiments share: names of models, fine-tuning, data sets, augmentation levels."""

import math
import re
from collections.abc import Collection, Mapping

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


def check_choice(what: str, choice: str, known: Collection[str]) -> None:
    """Raises a ValueError that lists what can be chosen, if something else was."""
    if choice not in known:
        raise ValueError(unknown(what, choice, [name for name in known if name]))


def get_pretraining() -> ConfigDict:
    """What trainings on ImageNet-1k share, and those of big_vision besides: 224 pixels, AdamW."""
    config = common.get_config()

    config.dtype = "bfloat16"

    config.data.source = "tfds:imagenet2012"
    config.data.tfds.train_split = "train[:99%]"
    config.data.tfds.val_split = "train[99%:]"
    config.data.tfds.test_split = "validation"
    config.data.tfds.shuffle_buffer = 250_000
    config.data.eval_pp = (
        "decode|resize_small(256, method='area', like='big_vision')|central_crop(224)|"
        "value_range(-1, 1)"
    )

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


def set_deit(config: ConfigDict) -> None:
    """How DeiT is trained on 224 pixels, which others took over.

    The learning rate is that of the epoch before, so that two have the lowest, and it falls as if
    there had been no warmup, whose height it never reaches: so does timm's scheduler.

    Source: Touvron et al., "Training data-efficient image transformers" (ICML 2021), the published
    code.
    """
    set_timm_augmentation(config, 224)
    config.data.eval_pp = (
        "decode|resize_small(256, method='bicubic', like='torchvision')|"
        "central_crop(224, like='torchvision')|normalize()"
    )

    config.batch_size = 1024
    config.total_epochs = 300.0
    config.whole_steps = True

    config.optim.learning_rate = 1e-3
    config.optim.momentum_dtype = "float32"
    config.optim.weight_decay = 0.05  # of the kernels alone
    config.optim.clip_norm = 0.0
    config.schedule.per_epoch = True
    config.schedule.shift = -1
    config.schedule.warmup_steps = 0
    config.schedule.warmup_epochs = 5.0
    config.schedule.warmup_from = 1e-6
    config.schedule.decay_spans_warmup = True
    config.schedule.final_fraction = 0.01


def set_timm_augmentation(config: ConfigDict, image_size: int) -> None:
    """The training images of DeiT, Swin and others: timm's rand-m9-mstd0.5-inc1, and mixing."""
    config.data.train_pp = (
        f"decode|inception_crop({image_size}, area=(0.08, 1.0), method='bicubic', "
        "like='torchvision')|flip_lr|timm_randaug(9, 0.5)|normalize()|random_erasing(0.25)"
    )
    config.label_smoothing = 0.1
    config.mixup_alpha = 0.8
    config.cutmix_alpha = 1.0
    config.metrics = ("accuracy", "top5_accuracy")


def set_masked_autoencoder(config: ConfigDict, model_name: str, image_size: int) -> None:
    """How a masked autoencoder is trained, on photos alone.

    Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), table 8.
    """
    config.model_name = model_name
    config.data.kind = "photos"
    config.data.train_pp = (
        f"decode|inception_crop({image_size}, area=(0.2, 1.0), method='bicubic', "
        "like='torchvision')|flip_lr|normalize()"
    )
    config.data.eval_pp = (
        f"decode|resize_small({image_size * 8 // 7}, method='bicubic', like='torchvision')|"
        f"central_crop({image_size}, like='torchvision')|normalize()"
    )

    config.loss = "normalized_pixels"
    config.metrics = ()
    config.best_metric = "loss"
    config.best_mode = "min"
    config.average_checkpoints = 1  # the last one

    config.optim.args.b2 = 0.95
    config.optim.weight_decay_on = "kernel$|cls$|mask_token$"
    config.optim.freeze = "pos_embedding$"  # sines and cosines


def set_masked_encoder(config: ConfigDict, model_name: str) -> None:
    """Makes a ViT of the form in which a masked autoencoder's encoder is fine-tuned.

    Source: as of `set_masked_autoencoder`, the published code.
    """
    config.model_name = model_name
    config.model.update(
        classifier="gap",  # of the patches, and then comes the norm
        class_token=True,
        head_norm=True,
        activation="gelu",
        dropout_rate=0.0,
        initialization="mae",
        position_resize="bicubic",
        preparation="imagenet",
    )


def level_of(model_name: str, level: str, published: Mapping[str, str]) -> str:
    """The augmentation level that is said, or without one the model's published one.

    Raises:
        ValueError: if none is said, and none was published.
    """
    if not level and model_name not in published:
        raise ValueError(
            f"say an augmentation level for {model_name}, one of {', '.join(AUGMENTATION_LEVELS)}, "
            f"behind a comma: there is a published one for {', '.join(published)} alone"
        )
    return level or published[model_name]


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
        f"decode|inception_crop({image_size}, like='big_vision')|flip_lr{randaug}|"
        "value_range(-1, 1)"
    )
    config.mixup_alpha = alpha
