"""A small FlowFormer on pairs made from photos; needs no download.

Command:   python -m input_pipeline.sample_photos PHOTOS --kind=flow_from_photos,
           and then
           python -m vit_jax.main --config=configs/flow_photos.py --workdir=W
           --config.data.source=PHOTOS; any folder of photos will do
Hardware:  two CPU cores
Time:      13 minutes of processor time on an Intel Xeon
Score:     4 photos to train on, 32 pairs made of 2 others: EPE 2.98 pixels, where no motion has
           7.79 and each pair's own median 6.98
"""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
    config = common.get_config()

    config.model_name = "FlowFormer-small"
    config.model.update(width=48, iterations=3)

    config.data.kind = "flow_from_photos"
    config.data.train_pp = "value_range(-1, 1)"
    config.data.eval_pp = "value_range(-1, 1)"
    config.data.motion.size = (64, 96)
    config.data.motion.shift = 6.0
    config.data.motion.rotation = 20.0
    config.data.motion.zoom = 1.3
    config.data.motion.warp = 2.0
    config.data.motion.pieces = (0, 1)
    config.data.motion.draws = 16

    config.batch_size = 4
    config.total_steps = 1500

    config.loss = "sequence"
    config.metrics = ("chairs/epe", "constant/epe", "chairs/1px", "chairs/3px", "chairs/5px")

    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 1e-4
    config.optim.weight_decay_on = ""
    config.optim.clip_norm = 1.0
    config.schedule.name = "onecycle"

    config.eval_every = 500
    config.log_every = 50
    config.best_metric = "chairs/epe"
    config.best_mode = "min"
    return config
