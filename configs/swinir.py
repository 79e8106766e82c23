"""SwinIR as published, on a folder of clean photos, of which it makes small, noisy or JPEG ones.

Command:   python -m vit_jax.main --config=configs/swinir.py:lightweight,x2 --workdir=W
           --config.data.source=FOLDER; also classical,x2 (x3, x4, x8), lightweight,x3 (x4),
           denoise-color,25 (15, 50), denoise-gray,25, jpeg-color,40 (10, 20, 30), jpeg-gray,40.
           Another folder to test on: --config.data.test_source=FOLDER. Pairs of small and large
           images: --config.data.kind=pairs.
Hardware:  one GPU of 40 GiB or more; not yet run in full
Time:      not yet run
Score:     not yet run; a run of half an hour on four photos is in docs/restoration.md

Source: Liang et al., "SwinIR" (ICCV Workshops 2021), and the settings files of the published code
(KAIR), which halves the learning rate one update before the milestones; in BasicSR, whose Adam has
--config.optim.args.b2=0.99, it is at them (--config.schedule.shift=0).
There, models for factors above 2 begin with the weights of factor 2 and have half as many steps
between the milestones, and classical ones are trained on crops of 48 or 64 pixels, here 48 unless
it is x2; those for noise of 25 and 50 begin with the weights of 15. A share of the photos is kept
apart to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common
from configs.presets import split_argument
from input_pipeline.arguments import unknown
from vit_jax.models import swinir

_TASKS = ("classical", "lightweight", "denoise-color", "denoise-gray", "jpeg-color", "jpeg-gray")


def get_config(argument: str = "lightweight,x2") -> ConfigDict:
    task, degree = split_argument(argument, 2) if "," in argument else (argument, "")
    if task not in _TASKS:
        raise ValueError(unknown("task", task, _TASKS))
    config = common.get_config()

    config.data.kind = "degraded"
    config.data.eval_pp = "value_range(-1, 1)"
    config.data.val_fraction = 0.02

    config.optim.name = "adam"
    config.optim.learning_rate = 2e-4
    config.schedule.name = "multistep"
    config.schedule.shift = 1
    config.ema_decay = 0.999

    config.eval_every = 5_000
    config.log_every = 100
    if task in ("classical", "lightweight"):
        _set_super_resolution(config, task, degree)
    else:
        _set_same_size(config, task, degree)
    config.best_metric = config.metrics[0]
    return config


def _set_super_resolution(config: ConfigDict, task: str, degree: str) -> None:
    name = f"SwinIR-{task}-{degree}"
    if name not in swinir.VARIANTS:
        known = [n.rpartition("-")[2] for n in swinir.VARIANTS if n.startswith(f"SwinIR-{task}-")]
        raise ValueError(f"say by how much {task} enlarges, one of {', '.join(known)}: {task},x2")
    scale = int(degree.removeprefix("x"))
    config.model_name = name

    crop = scale * (64 if task == "lightweight" or scale == 2 else 48)
    config.data.train_pp = f"random_crop({crop})|flip_lr|rot90|value_range(-1, 1)"

    config.batch_size = 64 if task == "lightweight" else 32
    config.total_steps = 500_000
    config.loss = "l1"
    config.metrics = ("basicsr/psnr_y", "basicsr/ssim_y")

    config.schedule.milestones = (250_000, 400_000, 450_000, 475_000, 500_000)


def _set_same_size(config: ConfigDict, task: str, degree: str) -> None:
    is_noise = task.startswith("denoise")
    if not degree.isdigit():
        raise ValueError(f"say how strongly photos are degraded: {task},{25 if is_noise else 40}")
    config.model_name = f"SwinIR-{task}"

    crop = 128 if is_noise else 126  # whole windows
    config.data.train_pp = f"random_crop({crop})|flip_lr|rot90|value_range(-1, 1)"
    config.data.degradation.grayscale = task.endswith("gray")
    if is_noise:
        config.data.degradation.sigma = float(degree)
    else:
        config.data.degradation.quality = int(degree)

    config.batch_size = 8
    config.total_steps = 1_600_000
    config.loss = "charbonnier(4e-9)"  # 1e-9 for values from 0 to 1
    config.metrics = ("basicsr/psnr", "basicsr/ssim", *(() if is_noise else ("basicsr/psnr_b",)))

    config.schedule.milestones = (800_000, 1_200_000, 1_400_000, 1_500_000, 1_600_000)
