"""DehazeFormer as published, on pairs of hazy and clear images.

Command:   python -m vit_jax.main --config=configs/dehazeformer.py:indoor,T --workdir=W
           --config.data.source=FOLDER; also outdoor, reside6k and rshaze; T, S, B, M, D, W, L
Hardware:  one GPU of 24 GiB or more; not yet run in full
Time:      not yet run
Score:     not yet run; a run of a few minutes on 14 pairs is in docs/restoration.md

Source: Song et al., "Vision Transformers for Single Image Dehazing" (TIP 2023), and the settings
files of the published code, whose last epoch is one more than they say, at the lowest rate.
Deviations: the best checkpoint is chosen there on the test images, and here on a few scenes that
are split off the training images; float32 in place of mixed float16; batches run on over the end
of an epoch, which leaves out no images.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from configs.presets import split_argument
from input_pipeline.arguments import unknown


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What distinguishes a data set: T trains with twice the learning rate and batch of S, B, M."""

    epochs: float
    learning_rate: float  # of T
    augmentation: str
    val_pp: str
    val_fraction: float
    benchmark: str = ""
    has_wide: bool = False  # whether settings of D, W and L were published


_FULL, _CENTRE = "value_range(-1, 1)", "pad_to(256)|central_crop(256)|value_range(-1, 1)"
_RECIPES = {
    "indoor": Recipe(300, 4e-4, "flip_lr|rot90", _FULL, 0.01, "SOTS-indoor", has_wide=True),
    "outdoor": Recipe(30, 4e-4, "flip_lr", _CENTRE, 0.01),
    "reside6k": Recipe(1000, 2e-4, "flip_lr", _CENTRE, 0.02, "RESIDE-6K"),
    "rshaze": Recipe(150, 4e-4, "flip_lr|rot90", _FULL, 0.002),
}
# Variant -> batch size, share of T's learning rate, edge_decay.
_VARIANTS = {
    "T": (32, 1, 0.0),
    "S": (16, 1 / 2, 0.0), "B": (16, 1 / 2, 0.0), "M": (16, 1 / 2, 0.0),
    "D": (8, 1 / 4, 0.1), "W": (8, 1 / 4, 0.1), "L": (8, 1 / 4, 0.1),
}  # fmt: skip


def get_config(argument: str = "indoor,T") -> ConfigDict:
    recipe_name, variant = [*split_argument(argument, 2), "T"][:2]
    if recipe_name not in _RECIPES:
        raise ValueError(unknown("recipe", recipe_name, _RECIPES))
    recipe = _RECIPES[recipe_name]
    known = [v for v in _VARIANTS if recipe.has_wide or _VARIANTS[v][1] >= 1 / 2]
    if variant not in known:
        raise ValueError(f"{recipe_name} has no variant {variant!r}; it has: {', '.join(known)}")
    batch_size, share, edge_decay = _VARIANTS[variant]
    config = common.get_config()

    config.model_name = f"DehazeFormer-{variant}"

    config.data.kind = "pairs"
    crop = f"random_crop(256, edge_decay={edge_decay})" if edge_decay else "random_crop(256)"
    config.data.train_pp = f"pad_to(256)|{crop}|{recipe.augmentation}|value_range(-1, 1)"
    config.data.val_pp = recipe.val_pp
    config.data.eval_pp = _FULL
    config.data.val_fraction = recipe.val_fraction

    config.batch_size = batch_size
    config.total_epochs = recipe.epochs + 1
    config.whole_steps = True

    config.loss = "l1"
    config.metrics = ("dehazeformer/psnr", "dehazeformer/ssim")
    config.benchmark = recipe.benchmark

    config.optim.name = "adamw"
    config.optim.learning_rate = recipe.learning_rate * share
    config.optim.weight_decay = 0.01
    config.optim.weight_decay_on = ""  # all parameters
    config.schedule.final_fraction = 0.01
    config.schedule.per_epoch = True
    config.schedule.decay_epochs = recipe.epochs

    config.best_metric = "dehazeformer/psnr"
    return config
