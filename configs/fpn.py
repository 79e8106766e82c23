"""Panoptic FPN's semantic branch, and VT-FPN, on COCO-Stuff and LIP.

Command:   python -m vit_jax.main --config=configs/fpn.py:FPN-R50,coco_stuff --workdir=W \
               --config.data.source=FOLDER --config.pretrained=RESNET.pth
           Also FPN-R101, VT-FPN-R50 and VT-FPN-R101; and lip. The weights are those of a ResNet
           classifier, which begin the backbone.
Hardware:  8 GPUs of 16 GiB or more, or a TPU slice
Time:      not yet run
Score:     not yet run; published mIoU on COCO-Stuff: FPN 40.78 (R50) and 41.51 (R101), VT-FPN 41.00
           and 41.50; on LIP: VT-FPN 47.39 and 47.58

Source: Wu et al., "Visual Transformers" (ICCV 2021), which trains within detectron2. How long, and
at what sizes, is not known here: this is detectron2's own recipe for a panoptic FPN (Kirillov et
al., CVPR 2019; the schedule called 1x), with its sizes of images, of which crops are taken so that
a batch has one size; batch norms learn with the rest, where detectron2 keeps the pretrained
statistics of the backbone.
"""

from ml_collections import ConfigDict

from configs import common, presets
from input_pipeline.arguments import unknown
from input_pipeline.palettes import known_sets
from vit_jax.models import segmenter

# Set -> the bound of the shorter side, that of the longer one, and the side of the crops.
_SETS = {
    "coco_stuff": (800, 1333, 640),
    "lip": (473, 788, 473),
}
_MODELS = [name for name in segmenter.VARIANTS if name.startswith(("FPN-R", "VT-FPN-R"))]


def get_config(argument: str = "FPN-R50,coco_stuff") -> ConfigDict:
    name, data, *_ = [*presets.split_argument(argument, 2), "coco_stuff"]
    if name not in _MODELS:
        raise ValueError(unknown("model", name, _MODELS))
    if data not in _SETS:
        raise ValueError(unknown("set", data, _SETS))
    short, long, crop = _SETS[data]
    swapped = known_sets()[data].swapped  # labels of left and right
    flip = f"flip_lr(swap={swapped})" if swapped else "flip_lr"
    config = common.get_config()

    config.model_name = name

    config.data.kind = "segmentation"
    config.data.masks.classes = data
    config.data.train_pp = (
        f"decode|scale_jitter({short}, {long}, 0.8, 1.0)|class_balanced_crop({crop}, 1.0)|{flip}|"
        f"normalize()|pad_to({crop}, mode='constant')"
    )
    config.data.eval_pp = f"decode|resize_within({short}, {long}, masks=False)|normalize()"
    config.segment.swap = swapped

    config.batch_size = 16
    config.total_steps = 90_000
    config.loss = "pixel_xent"
    config.metrics = ("miou", "pixel_accuracy", "mean_accuracy")
    config.best_metric = "miou"
    config.eval_every = 10_000

    config.optim.name = "sgd"
    config.optim.args.momentum = 0.9
    config.optim.learning_rate = 0.02
    config.optim.weight_decay = 1e-4
    config.optim.weight_decay_on = r"^(?!.*(bn|norm))"  # detectron2 spares norms, and not biases
    config.optim.coupled_weight_decay = True
    config.schedule.name = "multistep"
    config.schedule.milestones = (60_000, 80_000)
    config.schedule.gamma = 0.1
    config.schedule.warmup_steps = 1_000
    config.schedule.warmup_from = 2e-5
    return config
