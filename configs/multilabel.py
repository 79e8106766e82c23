"""A small ViT on images of several classes each: which handwritten digits are in a picture.

Command:   python -m input_pipeline.sample_photos DIGITS --kind=multilabel, and then
           python -m vit_jax.main --config=configs/multilabel.py --workdir=W \
               --config.data.source=DIGITS
           For photos of your own, see docs/data.md
Hardware:  two CPU cores
Time:      2.5 minutes of processor time on an AMD EPYC (family 25, model 17)
Score:     mean average precision 0.912, AUC 0.968, F1 0.832 on 400 test pictures
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

    config.data.kind = "multilabel"
    config.data.train_pp = "decode|resize(16)|shift(1)|value_range(-1, 1)"
    config.data.eval_pp = "decode|resize(16)|value_range(-1, 1)"

    config.batch_size = 64
    config.total_epochs = 40.0
    config.loss = "sigmoid_xent"  # each class by itself
    config.metrics = ("mean_average_precision", "auc", "f1")
    config.best_metric = "mean_average_precision"
    config.ema_decay = 0.99
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 3.0

    config.eval_every = 250
    return config
