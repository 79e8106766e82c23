"""Pretraining a ViT on ImageNet-1k for 300 epochs, as AugReg did.

Command:   python -m vit_jax.main --config=configs/vit_i1k.py:B_16,medium1 --workdir=W \
               --config.data.data_dir=TFDS_FOLDER
           The model, and one of AugReg's augmentation levels: none, light1, light2, medium1,
           medium2, strong1, strong2.
Hardware:  a TPU slice of 32 cores or more, or 8 GPUs
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import common, presets


def get_config(argument: str = "B_16") -> ConfigDict:
    model, level, *_ = [*presets.split_argument(argument, 2), "medium1"]
    config = common.get_config()

    config.model_name = presets.find_model(model, "ViT")
    config.model.dropout_rate = 0.0
    config.model.head_bias_init = -6.9
    config.dtype = "bfloat16"

    config.data.source = "tfds:imagenet2012"
    config.data.train_split = "train[:99%]"
    config.data.val_split = "train[99%:]"
    config.data.test_split = "validation"
    config.data.shuffle_buffer = 250_000
    presets.set_augmentation(config, level, 224)
    config.data.eval_pp = "decode|resize_small(256)|central_crop(224)|value_range(-1, 1)"

    config.batch_size = 4096
    config.total_epochs = 300.0
    config.loss = "sigmoid_xent"
    config.optim.name = "adamw"
    config.optim.momentum_dtype = "bfloat16"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1  # of the kernels; times the learning rate it is 1e-4
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 10_000

    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    return config
