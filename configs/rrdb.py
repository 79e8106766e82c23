"""RRDB trained for a high PSNR: ESRGAN's first stage, whose weights configs/esrgan.py begins with.

Command:   python -m vit_jax.main --config=configs/rrdb.py:x4 --workdir=W
           --config.data.source=FOLDER, a folder of clean photos; also x2 and x1 (which needs
           --config.data.degradation.quality=40 or the like, or pairs)
Hardware:  one GPU of 24 GiB or more
Time:      not yet run
Score:     not yet run

Source: Wang et al., "ESRGAN" (ECCV Workshops 2018), section 4.1, as trained anew in BasicSR: with
a cosine of the learning rate that begins anew three times, and averaged weights, where the paper
halves the rate after each 200,000 steps (--config.schedule.name=multistep
--config.schedule.restarts=1 --config.schedule.final_fraction=0
'--config.schedule.milestones=(200000,400000,600000,800000)').
Deviation: a share of the photos is kept apart to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown
from vit_jax.models import rrdb


def get_config(factor: str = "x4") -> ConfigDict:
    names = [name.removeprefix("RRDB-") for name in rrdb.VARIANTS]
    if factor not in names:
        raise ValueError(unknown("factor", factor, names))
    config = common.get_config()

    config.model_name = f"RRDB-{factor}"

    config.data.kind = "degraded"
    config.data.train_pp = "random_crop(128)|flip_lr|rot90|value_range(-1, 1)"
    config.data.eval_pp = "value_range(-1, 1)"
    config.data.val_fraction = 0.02

    config.batch_size = 16
    config.total_steps = 1_000_000
    config.loss = "l1"
    config.metrics = ("basicsr/psnr_y", "basicsr/ssim_y")

    config.optim.name = "adam"
    config.optim.learning_rate = 2e-4
    config.optim.args.b1 = 0.9
    config.optim.args.b2 = 0.99
    config.schedule.restarts = 4
    config.schedule.final_fraction = 1e-7 / config.optim.learning_rate
    config.ema_decay = 0.999

    config.eval_every = 5_000
    config.log_every = 100
    config.best_metric = "basicsr/psnr_y"
    return config
