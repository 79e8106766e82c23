"""A ViT on a folder of images, one subfolder per class, from scratch.

Command:   python -m vit_jax.main --config=configs/folder.py --workdir=W --config.data.source=FOLDER
Hardware:  anything; the defaults suit a CPU
Time:      5 to 8 minutes for 540 images on two cores, with other work beside
Score:     24 % on 200 test images of 10 CIFAR-10 classes, from 540 training images
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "ViT-Ti_16"
    config.model.position_embedding = "sincos2d"
    config.model.classifier = "gap"

    config.data.train_pp = "decode|inception_crop(128)|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = "decode|resize(128)|value_range(-1, 1)"

    config.batch_size = 32
    config.total_epochs = 30.0
    config.optim.learning_rate = 5e-4
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 3.0
    return config
