"""Pretraining a ViT on ImageNet-1k for 300 epochs, as AugReg did.

Command:   python -m vit_jax.main --config=configs/vit_i1k.py:B_16 --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           The model, and one of AugReg's augmentation levels: none, light1, light2, medium1,
           medium2, strong1, strong2. Published for Ti_16 is light1, for S_32 medium1, for S_16,
           B_32, B_16 and L_16 medium2; other models need theirs: vit_i1k.py:H_14,strong1.
Hardware:  a TPU slice of 32 cores or more, or 8 GPUs
Time:      not yet run
Score:     not yet run

Source: Steiner et al., "How to train your ViT?" (TMLR 2022), and big_vision's configuration. Weight
decay is 0.1 times the learning rate here, which is the 1e-4 times the schedule there.
Deviations: the shares of mixup are the same on all devices; JPEGs are decoded by TensorFlow's
accurate method in place of its fast one.
"""

from ml_collections import ConfigDict

from configs import presets
from vit_jax.models import get_model

_LEVELS = {
    "ViT-Ti_16": "light1", "ViT-S_32": "medium1", "ViT-S_16": "medium2", "ViT-B_32": "medium2",
    "ViT-B_16": "medium2", "ViT-L_16": "medium2",
}  # fmt: skip


def get_config(argument: str = "B_16") -> ConfigDict:
    model, level, *_ = [*presets.split_argument(argument, 2), ""]
    config = presets.get_pretraining()

    config.model_name = presets.find_model(model, "ViT")
    config.model.dropout_rate = 0.0
    config.model.head_bias_init = -6.9
    fields = get_model(config.model_name).values_of(["hidden_size", "classifier"])
    if fields["classifier"] == "token":
        config.model.representation_size = fields["hidden_size"]
        config.model.placed = False  # positions are those of the patches alone
    presets.set_augmentation(config, presets.level_of(config.model_name, level, _LEVELS), 224)

    config.batch_size = 4096
    config.total_epochs = 300.0
    config.loss = "sigmoid_xent"

    config.average_checkpoints = 1  # the last one
    return config
