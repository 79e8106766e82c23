"""Published weights of two towers, fine-tuned on your own images and captions.

Command:   python -m vit_jax.main --config=configs/captions.py:CLIP-B_32 --workdir=W \
               --config.pretrained=FILE --config.data.source=CAPTIONS
           FILE may be hf://OWNER/REPOSITORY; any other model of images and texts will do as well.
           What CAPTIONS may look like says docs/data.md. --config.optim.freeze=^img/ leaves the
           images' tower as it is, for few captions
Hardware:  one GPU; or a CPU and a smaller batch, with --config.accum_steps to keep it large
Time:      unknown
Score:     with published weights not yet run; configs/captions_small.py trains from nothing

The settings are ours: a small learning rate for both towers, and none of it for long.
"""

from ml_collections import ConfigDict

from configs import presets


def get_config(argument: str = "CLIP-B_32") -> ConfigDict:
    config = presets.get_contrastive(argument)

    config.data.source = ""
    config.data.tfds.update(train_split="train", val_split="")
    config.data.train_pp = config.data.eval_pp

    config.batch_size = 256
    config.accum_steps = 4
    config.total_epochs = 10.0

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-5
    config.optim.args.update(b2=0.98, eps=1e-6)
    config.optim.weight_decay = 0.1
    config.optim.clip_norm = 1.0
    config.schedule.warmup_epochs = 0.5

    config.log_every = 10
    return config
