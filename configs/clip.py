"""CLIP from nothing, by the settings that were published.

Command:   python -m vit_jax.main --config=configs/clip.py:B_32 --workdir=W \
               --config.data.source=CAPTIONS --config.text.vocabulary=bpe_simple_vocab_16e6.txt.gz
           Also clip.py:B_16 and L_14. The vocabulary may be left out where open_clip_torch is
           installed
Hardware:  planned for hundreds of accelerators; the published ones had 256 V100 for 12 days (L/14)
Time:      unknown
Score:     not yet run; published, of 400 million images and texts: 63.2 % of ImageNet without a
           label seen, B/16 68.6 %, L/14 75.3 %

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(ICML 2021), section 2.5 and tables 18 to 20.
"""

from ml_collections import ConfigDict

from configs import presets
from vit_jax.models import get_model

_LEARNING_RATES = {"CLIP-L_14": 4e-4}


def get_config(argument: str = "B_32") -> ConfigDict:
    name = presets.find_model(argument, "CLIP")
    config = presets.get_contrastive(name)
    side = get_model(name).usual_size[0]

    config.data.source = ""  # theirs was never published
    # "A random square crop from resized images is the only data augmentation."
    values = config.data.eval_pp.rpartition("|")[2]
    config.data.train_pp = (
        f"decode|resize_small({side}, 'bicubic', like='torchvision')|random_crop({side})|{values}"
    )

    config.batch_size = 32_768
    config.total_epochs = 32.0

    config.optim.name = "adamw"
    config.optim.learning_rate = _LEARNING_RATES.get(name, 5e-4)
    config.optim.args.update(b1=0.9, b2=0.98, eps=1e-6)
    config.optim.weight_decay = 0.2
    config.optim.weight_decay_on = "(kernel|embedding)$"  # all but gains, biases and the scale
    config.schedule.warmup_steps = 2_000

    config.eval_every = 5_000
    config.checkpoint_every = 1_000
    return config
