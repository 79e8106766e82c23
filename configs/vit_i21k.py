"""Pretraining a ViT on ImageNet-21k for 300 epochs, as big_vision does.

Command:   python -m vit_jax.main --config=configs/vit_i21k.py:B_16 --workdir=W \
               --config.data.source=FOLDER
           FOLDER holds train/CLASS/IMAGE; tfds:NAME does as well. The model, and one of AugReg's
           augmentation levels: none, light1, light2, medium1, medium2, strong1, strong2. By
           big_vision Ti_16 and S_32 take none, S_16 light1, B_32 and B_16 light2, L_16 medium2;
           other models need theirs. The weights that AugReg recommends took others: Ti_16 and S_32
           none, S_16, B_32 and R26_S_32 light1, B_16 and R50_L_32 medium1, L_16 strong1 (and 0.03
           in place of 0.1 as optim.weight_decay for Ti_16 and S_16), on a class token.
Hardware:  a TPU slice of 64 cores or more
Time:      not yet run
Score:     not yet run

Source: Steiner et al., "How to train your ViT?" (TMLR 2022), and big_vision's configuration. The
deviations are those of configs/vit_i1k.py; and a hundredth of the images is kept apart to watch,
where big_vision keeps 51,200.
"""

from ml_collections import ConfigDict

from configs import presets, vit_i1k

_LEVELS = {
    "ViT-Ti_16": "none", "ViT-S_32": "none", "ViT-S_16": "light1", "ViT-B_32": "light2",
    "ViT-B_16": "light2", "ViT-L_16": "medium2",
}  # fmt: skip


def get_config(argument: str = "B_16") -> ConfigDict:
    model, level, *_ = [*presets.split_argument(argument, 2), ""]
    name = presets.find_model(model, "ViT")
    config = vit_i1k.get_config(f"{model},{presets.level_of(name, level, _LEVELS)}")

    config.model.head_bias_init = -10.0
    config.model.representation_size = None
    config.model.classifier = "gap"
    config.data.source = ""
    config.data.val_fraction = 0.01
    return config
