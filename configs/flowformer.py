"""FlowFormer as published, stage after stage: chairs, things, sintel, kitti.

Command:   python -m vit_jax.main --config=configs/flowformer.py:chairs --workdir=CHAIRS
           --config.data.source=FOLDER, and then each of things, sintel and kitti with
           --config.pretrained=CHAIRS, or whichever run came before. FOLDER holds the data sets of
           the stage. As published, chairs begins with Twins-SVT-L's weights of ImageNet:
           --config.pretrained=TWINS_SVT_L.pth. Also chairs,small and so on: FlowFormer-small, which
           begins with none.
           A run on Sintel's training set, with tiles:
           python -m vit_jax.main --config=configs/flowformer.py:things --workdir=EVALUATION
           --config.pretrained=THINGS --config.total_steps=0 --config.data.source=
           --config.data.test_source=SINTEL --config.data.flow.test=sintel_clean
           --config.data.flow.mixture= --config.benchmark=Sintel-clean-train-tiles
Hardware:  several GPUs; not yet run
Time:      not yet run
Score:     not yet run; published after things, EPE on Sintel's training set, clean and final, with
           tiles: 0.94 and 2.33; without: 1.01 and 2.40

Source: Huang et al., "FlowFormer: A Transformer Architecture for Optical Flow" (ECCV 2022), and the
settings files of the published code. Deviation: of sets without a validation split a few scenes are
kept apart to choose the checkpoint.
"""

import dataclasses

from ml_collections import ConfigDict

from configs import common
from configs.presets import split_argument
from input_pipeline.arguments import unknown


@dataclasses.dataclass(frozen=True)
class Stage:
    """What distinguishes a stage of training."""

    crop: tuple[int, int]
    batch_size: int
    learning_rate: float
    weight_decay: float
    gamma: float  # of the loss
    steps: int
    tile: tuple[int, ...]  # to evaluate
    iterations: int  # likewise
    metrics: tuple[str, ...]


_CHAIRS = ("chairs/epe", "chairs/1px", "chairs/3px", "chairs/5px")
_SINTEL = ("sintel/epe", "sintel/1px", "sintel/3px", "sintel/5px")
_KITTI = ("kitti/epe", "kitti/f1_all")
_WIDE = (432, 960)
_STAGES = {
    "chairs": Stage((368, 496), 8, 2.5e-4, 1e-4, 0.8, 120_000, (), 32, _CHAIRS),
    "things": Stage(_WIDE, 6, 1.25e-4, 1e-4, 0.8, 120_000, _WIDE, 32, _SINTEL),
    "sintel": Stage(_WIDE, 6, 1.25e-4, 1e-5, 0.85, 120_000, _WIDE, 32, _SINTEL),
    "kitti": Stage(_WIDE, 6, 1.25e-4, 1e-5, 0.85, 50_000, (376, 720), 24, _KITTI),
}
_MODELS = {"": "FlowFormer", "small": "FlowFormer-small"}


def get_config(argument: str = "chairs") -> ConfigDict:
    name, variant = [*split_argument(argument, 2), ""][:2]
    if name not in _STAGES:
        raise ValueError(unknown("stage", name, _STAGES))
    if variant not in _MODELS:
        raise ValueError(f"unknown variant {variant!r}; there is: small")
    stage = _STAGES[name]
    config = common.get_config()

    config.model_name = _MODELS[variant]
    config.model.iterations = 12

    config.data.kind = "flow"
    config.data.flow.mixture = name
    config.data.train_pp = f"flow_augment({stage.crop}, '{name}')|value_range(-1, 1)"
    config.data.eval_pp = "value_range(-1, 1)"
    config.data.val_fraction = 0.05

    config.batch_size = stage.batch_size
    config.total_steps = stage.steps

    config.loss = f"sequence(gamma={stage.gamma})"
    config.metrics = stage.metrics
    config.flow.tile = stage.tile
    config.flow.iterations = stage.iterations
    config.flow.noise = 5.0

    config.optim.learning_rate = stage.learning_rate
    config.optim.weight_decay = stage.weight_decay
    config.optim.weight_decay_on = ""  # all parameters
    config.optim.clip_norm = 1.0
    config.schedule.name = "onecycle"

    config.eval_every = 10_000
    config.best_metric = stage.metrics[0]
    config.best_mode = "min"
    return config
