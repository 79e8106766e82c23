"""DehazeFormer-T on haze made from clear photos: the dehazer that comes with the package.

Command:   python -m vit_jax.main --config=configs/dehazer.py --workdir=W
           --config.data.source=PHOTOS; a folder with train/ and val/ of clear photos, those of the
           shipped weights are in docs/dehazer.md
Hardware:  two CPU cores
Time:      20 minutes
Score:     PSNR 23.3 dB on 22 images of SOTS-outdoor, 21.5 on 19 of SOTS-indoor, 16.9 on 20 of
           I-HAZE, none of them trained on; hazy they have 15.0, 13.2 and 14.5
"""

from ml_collections import ConfigDict

from configs import dehaze_demo


def get_config() -> ConfigDict:
    config = dehaze_demo.get_config()

    # Parts of every size, so that what a window sees is near at one time and far at another.
    config.data.train_pp = "inception_crop(96, (0.02, 1.0))|flip_lr|value_range(-1, 1)"
    config.data.haze.beta = (0.3, 2.0)
    config.data.haze.airlight = (0.6, 1.0)
    config.data.haze.draws = 2

    config.total_steps = 1700
    config.ema_decay = 0.995
    config.schedule.warmup_steps = 100

    config.eval_every = 1700
    config.checkpoint_every = 100
    return config
