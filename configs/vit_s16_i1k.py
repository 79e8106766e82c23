"""Pretraining a ViT-S/16 on ImageNet-1k for 90 epochs, the plain baseline.

Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k" (2022), who reach 76.5 %.

Command:   python -m vit_jax.main --config=configs/vit_s16_i1k.py --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
Hardware:  8 TPU cores or GPUs
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import presets


def get_config() -> ConfigDict:
    config = presets.get_pretraining()

    config.model_name = "ViT-S_16"
    config.model.position_embedding = "sincos2d"
    config.model.classifier = "gap"
    presets.set_augmentation(config, "light2", 224)  # RandAugment(2, 10) and mixup 0.2

    config.batch_size = 1024
    config.total_epochs = 90.0
    return config
