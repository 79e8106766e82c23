"""EfficientFormerV2 on ImageNet-1k for 300 epochs, by the labels and by a teacher.

Command:   python -m vit_jax.main --config=configs/efficientformer_v2.py:S0 --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER --config.distill.teacher=FILE
           Also S1, S2, L. FILE is a trained classifier of the same classes whose preprocessing ends
           with normalize() as well, such as a Swin; without it the labels alone teach. With
           --config.data.source=FOLDER and --config.pretrained=FILE.pth it fine-tunes published
           weights on a folder of images.
Hardware:  8 GPUs, or a TPU slice
Time:      not yet run
Score:     not yet run; published: 75.7, 79.0, 81.6, 83.3 % (S0, S1, S2, L), with 450 epochs 76.2,
           79.7, 82.0, 83.5 %

Source: Li et al., "Rethinking Vision Transformers for MobileNet Size and Speed" (ICCV 2023), and
the published training code, whose defaults the rest are.

What was published and has no counterpart here: the teacher, a RegNetY-16GF, is no model of this
repository; each image thrice in an epoch of a third of all (repeated augmentation).
Deviations: the adaptive clipping counts the biases of attention by offsets, and not by heads;
bfloat16 in place of float32 (--config.dtype=float32); a share of the training images is kept apart
to choose the checkpoint. The published code keeps averaged weights too (--config.ema_decay=0.99996)
but evaluates and publishes the others, and so does this.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown
from vit_jax.models import efficientformer_v2


def get_config(variant: str = "S0") -> ConfigDict:
    names = [name.removeprefix("EfficientFormerV2-") for name in efficientformer_v2.VARIANTS]
    if variant not in names:
        raise ValueError(unknown("variant", variant, names))
    config = presets.get_pretraining()

    config.model_name = f"EfficientFormerV2-{variant}"

    presets.set_deit(config)
    config.distill.kind = "hard"
    config.distill.weight = 0.5

    config.optim.weight_decay = 0.025  # of the kernels: not of norms, biases, or attention_biases
    config.optim.adaptive_clip = 0.01
    config.schedule.warmup_from = 1e-5
    return config
