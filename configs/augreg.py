"""Fine-tuning one of the 50,000 AugReg checkpoints (Steiner et al., "How to train your ViT?").

Command:   python -m vit_jax.main --config=configs/augreg.py:R_Ti_16 --workdir=W \
               --config.data.source=FOLDER
           A short name takes the best one by the bucket's index.csv; the name of a file, without
           .npz, takes that one. A data set of configs/presets.py can follow: R_Ti_16,cifar10.
Hardware:  one GPU or TPU; accum_steps keeps micro-batches at 64 images
Time:      not yet run
Score:     not yet run; published for B_32: 93.78 % of oxford_iiit_pet, with
           --config.optim.learning_rate=0.003

Source: google-research/vision_transformer. The deviations are those of configs/vit.py.
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(argument: str = "Ti_16") -> ConfigDict:
    model_or_filename, dataset, *_ = [*presets.split_argument(argument, 2), ""]
    config = presets.get_finetuning(384)

    config.model_name = presets.find_model(model_or_filename.split("-")[0], "ViT")
    config.model.dropout_rate = 0.0
    is_file = "-" in model_or_filename
    config.pretrained = model_or_filename if is_file else presets.augreg_name(config.model_name)
    config.pretrained_dir = "gs://vit_models/augreg"

    presets.set_dataset(config, dataset)
    config.data.train_pp = "decode|resize(448)|random_crop(384)|flip_lr|value_range(-1, 1)"
    config.total_steps = 500
    config.schedule.warmup_steps = 100
    return config
