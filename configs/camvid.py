"""Segmentation of streets: what one can train on two CPU cores, from nothing.

Command:   python -m vit_jax.main --config=configs/camvid.py --workdir=W \
               --config.data.source=CAMVID
           Also camvid.py:VT-FPN, on a ResNet-18; both have narrow decoders. CAMVID has the folders
           train, trainannot, val and valannot of SegNet's version, of 480 x 360 pixels. A folder
           of your own images and masks will do as well, see docs/data.md.
Hardware:  two CPU cores
Time:      8 minutes of processor time on an Intel Xeon; VT-FPN 12, with total_steps=800
Score:     8 photos to train on, 4 of another drive: mIoU 0.233, where all of it a building has
           0.028; VT-FPN 0.203
"""

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown

_SIDE = 224
_MODELS = {
    "FPN": ("FPN-EfficientFormerV2-S0", dict(features=128)),
    "VT-FPN": ("VT-FPN-R50", dict(encoder="ResNet-18", features=64)),
}


def get_config(decoder: str = "FPN") -> ConfigDict:
    if decoder not in _MODELS:
        raise ValueError(unknown("decoder", decoder, _MODELS))
    config = common.get_config()

    config.model_name, fields = _MODELS[decoder]
    config.model.update(fields)

    config.data.kind = "segmentation"
    config.data.train_pp = (
        f"decode|scale_jitter(360, 480)|class_balanced_crop({_SIDE})|flip_lr|"
        f"photometric_distortion|normalize()|pad_to({_SIDE}, mode='constant')"
    )
    config.data.eval_pp = "decode|normalize()"
    config.data.cache = True
    config.segment.window = _SIDE

    config.batch_size = 4
    config.total_steps = 400
    config.loss = "pixel_xent"
    config.metrics = ("miou", "pixel_accuracy", "mean_accuracy")
    config.best_metric = "miou"

    config.optim.learning_rate = 2e-3
    config.optim.weight_decay = 0.01
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 20

    config.eval_every = 100
    config.log_every = 20
    return config
