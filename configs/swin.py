"""Swin on ImageNet-1k for 300 epochs, as published.

Command:   python -m vit_jax.main --config=configs/swin.py:T --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           Also S, B, L, and T-384 and so on, with windows of 12 at 384 pixels. With
           --config.data.source=FOLDER and --config.pretrained=FILE.pth it fine-tunes published
           weights on a folder of images.
Hardware:  8 GPUs of 40 GiB or more, or a TPU slice
Time:      not yet run
Score:     not yet run

Source: Liu et al., "Swin Transformer" (ICCV 2021), appendix A2.1. Deviations: RandAugment has the
fixed magnitude 9 here, where the published one varies it by a deviation of 0.5; a share of the
training images is kept apart to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown
from vit_jax.models import swin


def get_config(variant: str = "T") -> ConfigDict:
    names = [name.removeprefix("Swin-") for name in swin.VARIANTS]
    if variant not in names:
        raise ValueError(unknown("variant", variant, names))
    size = 384 if variant.endswith("-384") else 224
    config = presets.get_pretraining()

    config.model_name = f"Swin-{variant}"

    config.data.train_pp = (
        f"decode|inception_crop({size}, area=(0.08, 1.0), method='bicubic')|flip_lr|randaug(2, 9)|"
        "random_erasing(0.25)|normalize()"
    )
    config.data.eval_pp = (
        f"decode|resize_small({round(size * 8 / 7)}, method='bicubic')|central_crop({size})|"
        "normalize()"
    )

    config.batch_size = 1024
    config.total_epochs = 300.0
    config.label_smoothing = 0.1
    config.mixup_alpha = 0.8
    config.cutmix_alpha = 1.0
    config.metrics = ("accuracy", "top5_accuracy")

    config.optim.learning_rate = 5e-4 * config.batch_size / 512
    config.optim.momentum_dtype = "float32"
    config.optim.weight_decay = 0.05  # of the kernels alone
    config.optim.clip_norm = 5.0
    config.schedule.warmup_steps = 0
    config.schedule.warmup_epochs = 20.0
    config.schedule.final_fraction = 5e-6 / config.optim.learning_rate
    return config
