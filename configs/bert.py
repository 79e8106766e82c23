"""BERT from scratch on texts: masked words, and whether a segment follows another.

Command:   python -m vit_jax.main --config=configs/bert.py:base --workdir=BASE
           --config.data.source=TEXTS --config.text.vocabulary=vocab.txt
           then, for its last tenth, in which texts are longer,
           python -m vit_jax.main --config=configs/bert.py:base,512 --workdir=BASE512
           --config.pretrained=BASE and the same two flags. TEXTS is a file, or a folder of files,
           with a sentence per line and a blank line between documents. Also large and large,512.
           A small one for what is at hand:
           python -m input_pipeline.sample_texts TEXTS.txt
           python -m input_pipeline.train_tokenizer TEXTS.txt VOCABULARY --size=8000
           python -m vit_jax.main --config=configs/bert.py:small --workdir=SMALL
           --config.data.source=TEXTS.txt --config.text.vocabulary=VOCABULARY
Hardware:  small: two CPU cores; base and large: TPUs or GPUs, not yet run
Time:      small: 15 minutes of processor time; base and large: not yet run
Score:     small, on 885 pairs of other documents: 34.2 % of the masked words right, perplexity
           57.4, and 80.0 % of whether a segment follows, of which "no" is right in 63 %;
           base and large: not yet run

Source: Devlin et al., "BERT: Pre-training of Deep Bidirectional Transformers for Language
Understanding" (NAACL 2019), appendix A.2, and the published code. Deviations: masks are drawn anew
in every epoch; Adam's moments are corrected for their begin and do not outlive the change of
length; a tenth of the documents is kept apart to choose the checkpoint.
"""

from ml_collections import ConfigDict

from configs import common
from configs.presets import split_argument
from input_pipeline.arguments import unknown

_MODELS = {"base": "BERT-base", "large": "BERT-large", "small": "BERT-base"}
_LONG = "512"
_STEPS = 1_000_000
_SHARE_OF_LONG = 0.1  # of the steps


def get_config(argument: str = "base") -> ConfigDict:
    size, length = [*split_argument(argument, 2), ""][:2]
    if size not in _MODELS:
        raise ValueError(unknown("size", size, _MODELS))
    if length not in ("", _LONG) or (length and size == "small"):
        raise ValueError(f"unknown argument {argument!r}; base and large can have ,{_LONG}")
    config = common.get_config()

    config.model_name = _MODELS[size]

    config.data.kind = "text"
    config.data.train_pp = ""
    config.data.eval_pp = ""
    config.data.val_fraction = 0.1

    config.loss = "masked_words + next_sentence"
    config.metrics = ("masked_accuracy", "next_accuracy", "perplexity")
    config.best_metric = "masked_accuracy"

    config.batch_size = 256
    config.optim.learning_rate = 1e-4
    config.optim.args.b1 = 0.9
    config.optim.args.b2 = 0.999
    config.optim.args.eps = 1e-6
    config.optim.weight_decay = 0.01
    config.optim.weight_decay_on = "kernel$|embedding$"  # neither norms nor biases
    config.optim.clip_norm = 1.0
    config.schedule.name = "linear"

    if size == "small":
        _make_small(config)
        return config
    config.eval_every = 10_000
    if length:
        config.model.tokenizer = f"bert_pair({_LONG})"
        config.total_steps = round(_STEPS * _SHARE_OF_LONG)
        config.optim.learning_rate *= _SHARE_OF_LONG  # where the first part ended
    else:
        config.total_steps = round(_STEPS * (1 - _SHARE_OF_LONG))
        config.schedule.warmup_steps = 10_000
        config.schedule.final_fraction = _SHARE_OF_LONG
    return config


def _make_small(config: ConfigDict) -> None:
    """A model of 1.5 M parameters that learns something in minutes."""
    config.model.tokenizer = "bert_pair(64)"
    config.model.length = 64
    config.model.hidden_size = 128
    config.model.num_layers = 2
    config.model.num_heads = 4
    config.model.mlp_dim = 512
    config.model.dropout_rate = 0.0
    config.model.attention_dropout_rate = 0.0
    config.data.val_fraction = 0.02
    config.data.text.passes = 2
    config.batch_size = 32
    config.total_steps = 4000
    config.optim.learning_rate = 2e-3
    config.schedule.warmup_steps = 200
    config.eval_every = 1000
