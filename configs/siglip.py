"""SigLIP from nothing: each image and each text are asked by themselves whether they fit.

Command:   python -m vit_jax.main --config=configs/siglip.py:B_16 --workdir=W \
               --config.data.source=CAPTIONS --config.text.vocabulary=VOCABULARY.model
           Also siglip.py:L_16-256, So400m_14, ... and siglip.py:SigLIP2-B_16
Hardware:  planned for a TPU pod
Time:      unknown
Score:     not yet run; published, of 40 billion examples of WebLI: 76.0 % of ImageNet without a
           label seen

Source: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023). The length of the
warmup is ours.
"""

from ml_collections import ConfigDict

from configs import presets

_EXAMPLES = 40e9


def get_config(argument: str = "B_16") -> ConfigDict:
    family = "SigLIP2" if argument.startswith("SigLIP2") else "SigLIP"
    config = presets.get_contrastive(presets.find_model(argument, family))

    config.data.source = ""  # theirs was never published
    config.data.train_pp = config.data.eval_pp

    config.batch_size = 32_768
    config.total_steps = round(_EXAMPLES / config.batch_size)

    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.args.update(b1=0.9, b2=0.95)  # with .999 large batches are unstable
    config.optim.weight_decay = 0.1  # times the learning rate it is the published 1e-4
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 10_000

    config.eval_every = 20_000
    config.checkpoint_every = 1_000
    return config
