"""Pretraining a ViT on ImageNet-21k for 300 epochs, as AugReg did.

Command:   python -m vit_jax.main --config=configs/vit_i21k.py:B_16,light2 --workdir=W \
               --config.data.source=FOLDER
           The model, and one of AugReg's augmentation levels: none, light1, light2, medium1,
           medium2, strong1, strong2. FOLDER holds train/CLASS/IMAGE; tfds:NAME does as well.
Hardware:  a TPU slice of 64 cores or more
Time:      not yet run
Score:     not yet run
"""

from ml_collections import ConfigDict

from configs import vit_i1k


def get_config(argument: str = "B_16,light2") -> ConfigDict:
    config = vit_i1k.get_config(argument)

    config.model.head_bias_init = -10.0
    config.data.source = ""
    config.data.val_fraction = 0.01
    return config
