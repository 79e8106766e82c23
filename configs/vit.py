"""Fine-tuning a ViT or hybrid from ImageNet-21k at 384 pixels, with the published settings.

Command:   python -m vit_jax.main --config=configs/vit.py:b16,cifar10 --workdir=W
           The weights are found in a bucket by their name; --config.pretrained=FILE takes others.
           Models: b16, l16, r50_l32, ...; data sets: see configs/presets.py, or without one
           --config.data.source=FOLDER.
Hardware:  one GPU or TPU; accum_steps keeps micro-batches at 64 images
Time:      not yet run
Score:     not yet run; published (B/16, B/32, L/16, L/32, R50+B/16): cifar10 99.02, 98.88, 99.13,
           99.06, 98.72 %; cifar100 92.06, 92.31, 92.91, 93.29, 90.88 %; imagenet2012 84.53, 81.66,
           84.47, 81.89, 83.72 %

Source: google-research/vision_transformer.
Deviations: images are resized with antialiasing and rounded, where there they are not antialiased
and keep fractions (like='big_vision' in both strings does not antialias, and cuts fractions off);
the best checkpoint on the images kept apart is evaluated, where there it is the last
(--config.average_checkpoints=1).
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(argument: str = "b16") -> ConfigDict:
    model, dataset, *_ = [*presets.split_argument(argument, 2), ""]
    model_name = presets.find_model(model, "ViT")
    config = presets.get_finetuning(presets.fit_image_size(384, model_name))

    config.model_name = model_name
    config.pretrained = config.model_name
    config.pretrained_dir = "gs://vit_models/imagenet21k"

    presets.set_dataset(config, dataset)
    if (config.model_name, dataset) == ("ViT-B_16", "cifar10"):
        config.optim.learning_rate = 0.01
    return config
