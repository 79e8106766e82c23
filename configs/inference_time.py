"""Timing a model's inference on random images.

Command:   python -m vit_jax.main --mode=benchmark --config=configs/inference_time.py --workdir=W \
               --config.model_name=R26+ViT-S_32 --config.batch_size=64 --config.dtype=bfloat16
Hardware:  any
Time:      seconds, and the compilation
Score:     prints the images per second and device; W/inference_time.json has all figures
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()

    config.model_name = "ViT-B_16"
    config.model = ConfigDict()  # fields that differ, such as num_classes
    config.dtype = "float32"
    config.image_size = (224, 224)  # height and width

    config.batch_size = 8  # over all devices
    config.warmup_steps = 3
    config.steps = 20  # that are timed
    config.seed = 0
    return config
