"""Twins-SVT on ImageNet-1k for 300 epochs, as published.

Command:   python -m vit_jax.main --config=configs/twins.py:S --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           Also B, L. With --config.data.source=FOLDER and --config.pretrained=FILE.pth it
           fine-tunes published weights on a folder of images.
Hardware:  8 GPUs of 40 GiB or more, or a TPU slice
Time:      not yet run
Score:     not yet run; the paper, quoted from memory: 81.7, 83.2, 83.7 % (S, B, L)

Source: Chu et al., "Twins" (NeurIPS 2021), section 4.1, whose augmentation is that of DeiT.
Deviations: images are not repeated within an epoch of a third of them (repeated augmentation); a
share of the training images is kept apart to choose the checkpoint. The learning rate of each epoch
is that of DeiT's code, which Twins' is made from.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown
from vit_jax.models import twins


def get_config(variant: str = "S") -> ConfigDict:
    names = [name.removeprefix("Twins-SVT-") for name in twins.VARIANTS]
    if variant not in names:
        raise ValueError(unknown("variant", variant, names))
    config = presets.get_pretraining()

    config.model_name = f"Twins-SVT-{variant}"

    presets.set_deit(config)
    config.optim.clip_norm = 5.0
    return config
