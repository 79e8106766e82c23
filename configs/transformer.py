"""The Transformer as published, from English to German, on WMT 2014's 4.5 million pairs.

Command:   python -m input_pipeline.train_tokenizer PAIRS VOCABULARY --kind=bpe --size=37000
           python -m vit_jax.main --config=configs/transformer.py:base --workdir=W
           --config.text.vocabulary=VOCABULARY, and :big. The data are those of TFDS, or
           --config.data.source=PAIRS, a folder with train.en, train.de, val.en and so on.
Hardware:  GPUs or TPUs; the paper's were eight P100
Time:      not yet run; the paper's took 12 hours (base) and 3.5 days (big)
Score:     not yet run; the paper's are 27.3 (base) and 28.4 (big) BLEU on newstest2014, counted on
           tokenised texts with compounds split, which sacrebleu's figures are not

Source: Vaswani et al., "Attention Is All You Need" (NeurIPS 2017), sections 5 and 6.1. Deviations:
attention has biases, as in PyTorch; checkpoints are averaged by steps and not by minutes; a batch
holds pairs of one bucket of lengths, its tokens counted with their padding.
"""

from ml_collections import ConfigDict

from configs import common
from input_pipeline.arguments import unknown

# The model, its width, the run's steps, the checkpoints averaged, and ten minutes of it in steps.
_SIZES = {
    "base": ("Transformer-base", 512, 100_000, 5, 1500),
    "big": ("Transformer-big", 1024, 300_000, 20, 600),
}
_WARMUP = 4000


def get_config(size: str = "base") -> ConfigDict:
    if size not in _SIZES:
        raise ValueError(unknown("size", size, _SIZES))
    name, width, steps, averaged, every = _SIZES[size]
    config = common.get_config()

    config.model_name = name
    config.model.tokenizer = "bpe(256)"

    config.data.kind = "translation"
    config.data.source = "tfds:wmt14_translate/de-en"
    config.data.tfds.val_split = "validation"
    config.data.translation.source_language = "en"
    config.data.translation.target_language = "de"
    config.data.translation.batch_tokens = 25_000
    config.data.train_pp = ""
    config.data.eval_pp = ""

    config.batch_size = 32  # of which a batch has multiples, see batch_tokens
    config.total_steps = steps

    config.loss = "smoothed_tensor2tensor(0.1)"
    config.metrics = ("bleu", "token_accuracy", "perplexity")
    config.best_metric = "bleu"
    config.translate.beams = 4
    config.translate.length_penalty = 0.6
    config.translate.extra_length = 50

    config.optim.name = "adam"
    config.optim.learning_rate = (width * _WARMUP) ** -0.5  # the highest, after the warm-up
    config.optim.args.update(b1=0.9, b2=0.98, eps=1e-9)
    config.schedule.name = "noam"
    config.schedule.warmup_steps = _WARMUP

    config.average_checkpoints = averaged
    config.checkpoint_every = every
    config.eval_every = 10 * every
    return config
