"""Pretraining an MLP-Mixer on ImageNet-1k for 300 epochs, as big_vision does.

Command:   python -m vit_jax.main --config=configs/mixer_i1k.py:B_16 --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           Published for B_16; also B_32, L_16.
Hardware:  a TPU slice of 32 cores or more, or 8 GPUs
Time:      not yet run
Score:     not yet run; published: 76.3 %, and 70.5 % after --config.total_epochs=60

Source: Tolstikhin et al., "MLP-Mixer" (NeurIPS 2021), and big_vision's configuration. Weight decay
is 0.1 times the learning rate here, which is the 1e-4 times the schedule there.
Deviations: the shares of mixup are the same on all devices; JPEGs are decoded by TensorFlow's
accurate method in place of its fast one.
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(model: str = "B_16") -> ConfigDict:
    config = presets.get_pretraining()

    config.model_name = presets.find_model(model, "Mixer")
    config.model.stochastic_depth_rate = 0.1
    config.model.head_bias_init = -6.9
    presets.set_augmentation(config, "medium2", 224)  # RandAugment(2, 15) and mixup 0.5

    config.batch_size = 4096
    config.total_epochs = 300.0
    config.loss = "sigmoid_xent"

    config.optim.momentum_dtype = "float32"
    config.schedule.name = "linear"
    config.schedule.final_fraction = 0.01

    config.average_checkpoints = 1  # the last one
    return config
