"""The dehazer that comes with the package, tuned on photos made hazy; the demo, without a download.

Command:   make demo-dehaze, or: python -m input_pipeline.sample_photos PHOTOS, and then
           python -m vit_jax.main --config=configs/dehaze_demo.py --workdir=W
           --config.data.source=PHOTOS; any folder of clear photos will do
Hardware:  two CPU cores
Time:      4 minutes
Score:     PSNR 25.3 to 26.1 dB by three seeds on 8 hazy versions of 2 photos not trained on, which
           have 16.5 dB
"""

from ml_collections import ConfigDict

from configs import dehazer


def get_config() -> ConfigDict:
    config = dehazer.get_config()

    config.pretrained = "package:dehazer"

    config.data.haze.beta = (0.6, 1.8)
    config.data.haze.airlight = (0.7, 1.0)
    config.data.haze.draws = 4

    config.total_steps = 200
    config.optim.learning_rate = 3e-4
    config.schedule.warmup_steps = 20
    config.ema_decay = 0.98

    config.eval_every = 200
    config.checkpoint_every = None
    return config
