"""Pretraining a ViT on ImageNet-1k for 300 epochs, as AugReg did.

Command:   python -m vit_jax.main --config=configs/vit_i1k.py:B_16,medium1 --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           The model, and one of AugReg's augmentation levels: none, light1, light2, medium1,
           medium2, strong1, strong2.
Hardware:  a TPU slice of 32 cores or more, or 8 GPUs
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(argument: str = "B_16") -> ConfigDict:
    model, level, *_ = [*presets.split_argument(argument, 2), "medium1"]
    config = presets.get_pretraining()

    config.model_name = presets.find_model(model, "ViT")
    config.model.dropout_rate = 0.0
    config.model.head_bias_init = -6.9
    presets.set_augmentation(config, level, 224)

    config.batch_size = 4096
    config.total_epochs = 300.0
    config.loss = "sigmoid_xent"
    return config
