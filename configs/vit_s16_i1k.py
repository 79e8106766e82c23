"""Pretraining a ViT-S/16 on ImageNet-1k for 90 epochs, the plain baseline.

Command:   python -m vit_jax.main --config=configs/vit_s16_i1k.py --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           vit_s16_i1k.py:linear has a linear head in place of one with a hidden layer, and
           --config.total_epochs=300 trains for longer.
Hardware:  8 TPU cores or GPUs
Time:      not yet run
Score:     not yet run; published: 76.5 % with the hidden layer, which is big_vision's own
           configuration. 76.7 % is the report's row of the linear head.

Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k" (2022), and big_vision's
configuration. The deviations are those of configs/vit_i1k.py.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown

_HEADS = ("mlp", "linear")


def get_config(head: str = "mlp") -> ConfigDict:
    if head not in _HEADS:
        raise ValueError(unknown("head", head, _HEADS))
    config = presets.get_pretraining()

    config.model_name = "ViT-S_16"
    config.model.position_embedding = "sincos2d"
    config.model.classifier = "gap"
    config.model.dropout_rate = 0.0
    config.model.representation_size = 384 if head == "mlp" else None
    presets.set_augmentation(config, "light2", 224)  # RandAugment(2, 10) and mixup 0.2

    config.batch_size = 1024
    config.total_epochs = 90.0

    config.average_checkpoints = 1  # the last one
    return config
