"""A small ViT on scikit-learn's handwritten digits, from scratch; the demo.

Command:   python -m vit_jax.main --config=configs/digits.py --workdir=runs/digits
Hardware:  two CPU cores
Time:      70 s of training
Score:     98.3 % on 360 test digits
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "ViT-Ti_16"
    config.model.patch_size = 4
    config.model.classifier = "map"
    config.model.hidden_size = 96
    config.model.num_layers = 4
    config.model.num_heads = 4
    config.model.mlp_dim = 192

    config.data.source = "digits"
    config.data.train_pp = "grayscale_to_rgb|resize(16)|shift(2)|value_range(-1, 1)"
    config.data.eval_pp = "grayscale_to_rgb|resize(16)|value_range(-1, 1)"

    config.batch_size = 64
    config.total_epochs = 100.0
    config.label_smoothing = 0.1
    config.mixup_alpha = 0.2
    config.ema_decay = 0.99
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 3.0

    config.eval_every = 250
    return config
