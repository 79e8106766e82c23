"""DeiT on ImageNet-1k for 300 epochs, by the labels alone or by a teacher as well.

Command:   python -m vit_jax.main --config=configs/deit.py:S --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           Also Ti and B; and Ti-distilled, S-distilled and B-distilled, of which half of the loss
           is by --config.distill.teacher=FILE, a trained classifier of the same classes whose
           preprocessing ends with normalize() as well, such as a Swin. Without one the mean of
           their two heads learns from the labels. With --config.data.source=FOLDER and
           --config.pretrained=deit-s_16-i1k they fine-tune published weights on a folder of images.
Hardware:  8 GPUs, or a TPU slice
Time:      not yet run
Score:     not yet run; published: 72.2, 79.9, 81.8 % (Ti, S, B), distilled 74.5, 81.2, 83.4 %

Source: Touvron et al., "Training data-efficient image transformers & distillation through
attention" (ICML 2021), and the published code.

What was published and has no counterpart here: the teacher, a RegNetY-16GF, is no model of this
repository; each image thrice in an epoch of a third of all (repeated augmentation).
Deviations: kernels begin as google-research's, by Xavier's rule, and heads as 0, where the
published code draws both from a normal distribution of deviation 0.02; bfloat16 in place of
float16; a share of the training images is kept apart to choose the checkpoint. The published code
keeps averaged weights too (--config.ema_decay=0.99996) but evaluates and publishes the others, and
so does this.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown

_ENDING = "-distilled"
_VARIANTS = [f"{size}{ending}" for size in ("Ti", "S", "B") for ending in ("", _ENDING)]


def get_config(variant: str = "S") -> ConfigDict:
    if variant not in _VARIANTS:
        raise ValueError(unknown("variant", variant, _VARIANTS))
    size, _, _ = variant.partition("-")
    config = presets.get_pretraining()

    config.model_name = f"DeiT-{size}_16{variant.removeprefix(size)}"
    config.model.stochastic_depth_rate = 0.1

    presets.set_deit(config)
    if variant.endswith(_ENDING):
        config.distill.kind = "hard"
        config.distill.weight = 0.5
    return config
