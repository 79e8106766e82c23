"""DehazeFormer-T on haze made from clear photos; the demo, which needs no download.

Command:   make demo-dehaze, or: python -m input_pipeline.sample_photos PHOTOS, and then
           python -m vit_jax.main --config=configs/dehaze_demo.py --workdir=W
           --config.data.source=PHOTOS; any folder of clear photos will do
Hardware:  two CPU cores
Time:      7 minutes
Score:     PSNR 22.6 dB on 8 hazy versions of 2 photos not trained on, which have 16.5 dB; one seed
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "DehazeFormer-T"

    config.data.kind = "hazy_from_clear"
    config.data.train_pp = "inception_crop(96, (0.05, 1.0))|flip_lr|tint(0.3)|value_range(-1, 1)"
    config.data.eval_pp = "value_range(-1, 1)"
    config.data.haze.draws = 4

    config.batch_size = 4
    config.total_steps = 450

    config.loss = "l1"
    config.metrics = ("dehazeformer/psnr", "dehazeformer/ssim")

    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.01
    config.optim.weight_decay_on = ""
    config.optim.clip_norm = 1.0
    config.schedule.final_fraction = 0.01
    config.schedule.warmup_steps = 20

    config.ema_decay = 0.99

    config.eval_every = 450  # one photo validates, which had better choose nothing
    config.best_metric = "dehazeformer/psnr"
    return config
