"""Swin with UPerNet on ADE20K, as published.

Command:   python -m vit_jax.main --config=configs/upernet.py:T --workdir=W \
               --config.data.source=ADE_FOLDER --config.pretrained=SWIN.pth
           Also S and B. The folder has images/training, images/validation and annotations beside
           them; the weights are those of a Swin classifier, which begin the backbone.
Hardware:  8 GPUs of 16 GiB or more, or a TPU slice
Time:      not yet run
Score:     not yet run; published: mIoU 44.5 (T), 47.6 (S) and 48.1 (B) at one scale, and 45.8, 49.5
           and 49.7 with --config.segment.scales='(0.5, 0.75, 1, 1.25, 1.5, 1.75)'
           --config.segment.flip

Source: Liu et al., "Swin Transformer" (ICCV 2021), appendix A2.3, and the settings of its authors'
fork of mmsegmentation. There no part of the training images is kept apart: the last weights are
those of the figures, or the best on the validation images, which the evaluation is of as well.
"""

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown
from vit_jax.models import segmenter

_SIZE, _LONG = 512, 2048


def get_config(variant: str = "T") -> ConfigDict:
    name = f"Swin-{variant}-UPerNet"
    if name not in segmenter.VARIANTS:
        raise ValueError(unknown("variant", variant, "TSB"))
    config = common.get_config()

    config.model_name = name

    config.data.kind = "segmentation"
    config.data.masks.classes = "ade20k"
    config.data.train_pp = (
        f"decode|scale_jitter({_SIZE}, {_LONG}, 0.5, 2.0)|class_balanced_crop({_SIZE}, 0.75)|"
        f"flip_lr|photometric_distortion|normalize()|pad_to({_SIZE}, mode='constant')"
    )
    config.data.eval_pp = f"decode|resize_within({_SIZE}, {_LONG}, masks=False)|normalize()"

    config.batch_size = 16
    config.total_steps = 160_000
    config.loss = "pixel_xent_all(0.4)"
    config.metrics = ("miou", "pixel_accuracy", "mean_accuracy")
    config.best_metric = "miou"
    config.eval_every = 16_000

    config.optim.learning_rate = 6e-5
    config.optim.weight_decay = 0.01
    # All but position biases and layer norms; the heads' batch norms, called bn, are decayed.
    config.optim.weight_decay_on = r"^(?!.*(norm|relative_position_bias_table))"
    config.schedule.name = "poly"
    config.schedule.power = 1.0
    config.schedule.warmup_steps = 1_500
    config.schedule.warmup_from = 6e-11  # a millionth of the rate
    return config
