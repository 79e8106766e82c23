"""Pretraining a ViT-S/16 on ImageNet-1k for 90 epochs, the plain baseline.

Source: Beyer et al., "Better plain ViT baselines for ImageNet-1k" (2022), who reach 76.5 %.

Command:   python -m vit_jax.main --config=configs/vit_s16_i1k.py --workdir=W \
               --config.data.data_dir=TFDS_FOLDER
Hardware:  8 TPU cores or GPUs
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import common, presets


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "ViT-S_16"
    config.model.position_embedding = "sincos2d"
    config.model.classifier = "gap"
    config.dtype = "bfloat16"

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train[:99%]"
    config.data.val_split = "train[99%:]"
    config.data.test_split = "validation"
    config.data.shuffle_buffer = 250_000
    presets.set_augmentation(config, "light2", 224)  # RandAugment(2, 10) and mixup 0.2
    config.data.eval_pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"

    config.batch_size = 1024
    config.total_epochs = 90.0
    config.optim.name = "adamw"
    config.optim.momentum_dtype = "bfloat16"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1  # of the kernels; times the learning rate it is 1e-4
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 10_000

    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    return config
