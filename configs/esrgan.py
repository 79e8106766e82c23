"""ESRGAN: RRDB fine-tuned with a discriminator and a perceptual loss, on any folder of photos.

Command:   python -m vit_jax.main --config=configs/esrgan.py:x4 --workdir=W
           --config.data.source=FOLDER --config.pretrained=PSNR_WEIGHTS --config.gan.vgg19=VGG19
           also x2; PSNR_WEIGHTS are of the same RRDB trained for PSNR (a run's folder or a file),
           VGG19 are torchvision's weights (a file or an address)
Hardware:  one GPU; not yet run
Time:      not yet run
Score:     not yet run

Source: Wang et al., "ESRGAN: Enhanced Super-Resolution Generative Adversarial Networks" (ECCV
Workshops 2018), section 4.1 and the published code. Images are in [-1, 1] here, so that 0.01 times
the L1 of those in [0, 1] is 0.005 times ours. Published for x4.
"""

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown

_VARIANTS = ("x4", "x2")


def get_config(variant: str = "x4") -> ConfigDict:
    if variant not in _VARIANTS:
        raise ValueError(unknown("variant", variant, _VARIANTS))
    config = common.get_config()

    config.model_name = f"RRDB-{variant}"

    config.data.kind = "degraded"
    config.data.train_pp = "random_crop(128)|flip_lr|rot90|value_range(-1, 1)"
    config.data.eval_pp = "value_range(-1, 1)"
    # Nothing is split off to choose a checkpoint by: PSNR falls while images come to look better,
    # so that the first would be the best. The last one is taken, if FOLDER has no val either.
    config.data.val_fraction = 0.0

    config.batch_size = 16
    config.total_steps = 400_000

    config.loss = "0.005 * l1"
    config.gan.weight = 0.005
    config.gan.perceptual_weight = 1.0
    config.metrics = ("basicsr/psnr_y", "basicsr/ssim_y")

    config.optim.name = "adam"
    config.optim.learning_rate = 1e-4
    config.optim.args.b1 = 0.9
    config.optim.args.b2 = 0.99
    config.schedule.name = "multistep"
    config.schedule.milestones = (50_000, 100_000, 200_000, 300_000)
    config.schedule.gamma = 0.5

    config.eval_every = 5000
    config.best_metric = "basicsr/psnr_y"
    return config
