"""Masked autoencoders on ImageNet-1k without its labels, and the fine-tuning after that.

Command:   python -m vit_jax.main --config=configs/mae.py:B_16 --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           python -m vit_jax.main --config=configs/mae.py:B_16,finetune --workdir=W2 \
               --config.data.tfds.data_dir=TFDS_FOLDER --config.pretrained=W
           Also L_16 and H_14. With --config.data.source=FOLDER the first takes any photos, and the
           second images in a folder for each class; --config.pretrained=hf://facebook/vit-mae-base
           are the authors' weights.
Hardware:  64 GPUs or a TPU slice for the first, 8 GPUs for the second
Time:      not yet run
Score:     not yet run; published: 83.7, 85.9, 86.9 % (B_16, L_16, H_14) after 1600 epochs

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), table 8 and 9,
and the published code.
Deviations: a hundredth of the training images is kept apart, to watch the loss, and to choose the
checkpoint of the fine-tuning; --config.data.tfds.train_split=train
--config.data.tfds.val_split=validation trains on all. The kernels of queries, keys and values begin
as normal numbers of the published deviation, in place of uniform ones, and the head of the
fine-tuning as zeros. bfloat16 in place of float16.
"""

from ml_collections import ConfigDict

from configs import presets

_EPOCHS = {"B_16": 100.0, "L_16": 50.0, "H_14": 50.0}  # of the fine-tuning, as are those below
_RATES = {"B_16": 2e-3, "L_16": 4e-3, "H_14": 4e-3}  # 5e-4 or 1e-3 for 256 images
_LAYER_DECAYS = {"B_16": 0.65, "L_16": 0.75, "H_14": 0.75}
_DROP_PATHS = {"B_16": 0.1, "L_16": 0.2, "H_14": 0.3}


def get_config(argument: str = "B_16") -> ConfigDict:
    size, phase, *_ = [*presets.split_argument(argument, 2), ""]
    presets.check_choice("size", size, _EPOCHS)
    presets.check_choice("phase", phase, ("", "finetune"))
    config = presets.get_pretraining()

    config.whole_steps = True
    config.optim.momentum_dtype = "float32"
    config.optim.weight_decay = 0.05
    config.optim.clip_norm = 0.0
    config.schedule.warmup_steps = 0
    if phase:
        _set_finetuning(config, size)
    else:
        _set_pretraining(config, size)
    return config


def _set_pretraining(config: ConfigDict, size: str) -> None:
    presets.set_masked_autoencoder(config, f"MaskedAutoencoder-{size}", 224)

    config.batch_size = 4096
    config.total_epochs = 800.0
    config.optim.learning_rate = 2.4e-3  # 1.5e-4 for 256 images
    config.schedule.warmup_epochs = 40.0


def _set_finetuning(config: ConfigDict, size: str) -> None:
    presets.set_masked_encoder(config, f"ViT-{size}")
    config.model.stochastic_depth_rate = _DROP_PATHS[size]

    presets.set_timm_augmentation(config, 224)
    config.data.eval_pp = (
        "decode|resize_small(256, method='bicubic', like='torchvision')|"
        "central_crop(224, like='torchvision')|normalize()"
    )

    config.batch_size = 1024
    config.total_epochs = _EPOCHS[size]
    config.optim.learning_rate = _RATES[size]
    config.optim.layer_decay = _LAYER_DECAYS[size]
    config.schedule.warmup_epochs = 5.0
    config.schedule.final_fraction = 1e-6 / _RATES[size]
