"""Fine-tuning an MLP-Mixer from ImageNet-21k at 224 pixels, with the published settings.

Command:   python -m vit_jax.main --config=configs/mixer.py:b16,cifar10 --workdir=W
           The weights are found in a bucket by their name; --config.pretrained=FILE takes others.
           Models: b16, b32, l16; data sets: see configs/presets.py, or without one
           --config.data.source=FOLDER.
Hardware:  one GPU or TPU; accum_steps keeps micro-batches at 64 images
Time:      not yet run
Score:     not yet run

Source: google-research/vision_transformer. The deviations are those of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(argument: str = "b16") -> ConfigDict:
    model, dataset, *_ = [*presets.split_argument(argument, 2), ""]
    config = presets.get_finetuning(224)

    config.model_name = presets.find_model(model, "Mixer")
    config.pretrained = config.model_name
    config.pretrained_dir = "gs://mixer_models/imagenet21k"

    presets.set_dataset(config, dataset)
    return config
