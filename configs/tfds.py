"""A ViT on a data set of TensorFlow Datasets, from scratch; CIFAR-10 unless told otherwise.

Command:   python -m vit_jax.main --config=configs/tfds.py --workdir=W \
               --config.data.source=tfds:NAME --config.data.tfds.train_split='train[:90%]' \
               --config.data.tfds.val_split='train[90%:]' --config.data.tfds.test_split=test
Hardware:  one GPU
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "ViT-Ti_16"
    config.model.patch_size = 4
    config.model.position_embedding = "sincos2d"
    config.model.classifier = "gap"

    config.data.source = "tfds:cifar10"
    config.data.tfds.train_split = "train[:95%]"
    config.data.tfds.val_split = "train[95%:]"
    config.data.tfds.test_split = "test"
    config.data.train_pp = "decode|resize(32)|pad(4)|random_crop(32)|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = "decode|resize(32)|value_range(-1, 1)"

    config.batch_size = 512
    config.total_epochs = 200.0
    config.mixup_alpha = 0.2
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 10.0
    return config
