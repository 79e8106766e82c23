"""LiT: a tower of texts learns to fit the embeddings of a tower of images that is locked.

Command:   python -m vit_jax.main --config=configs/lit.py:B16B_2 --workdir=W
           Also lit.py:B16B, L16L, L16S and L16Ti. Images begin with AugReg's weights, and BERT with
           google's from the hub; --config.pretrained and --config.text.pretrained take others.
           lit.py:B16B_2,paper is the long training, on --config.data.source
Hardware:  planned for 128 TPUv4 cores, as the published ones were
Time:      unknown
Score:     not yet run; published of the short one, B16B, on COCO: 47.2 % recall@1 from images to
           texts, 32.1 % back, and 20.7 % of ImageNet without a label seen; of the long one, B16B_2:
           51.6 %, 31.8 % and 73.9 %

Sources: for the short one big_vision's lit_coco.py; for the long one Zhai et al., "LiT: Zero-Shot
Transfer with Locked-image text Tuning" (CVPR 2022), and the model card of vision_transformer.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown
from vit_jax.models import get_model

_STEPS = {"LiT-B16B": 30_000}  # of the published ones; the others had 60,000
_BERTS = {
    "LiT-B16B": "hf://google-bert/bert-base-uncased",
    "LiT-B16B_2": "hf://google-bert/bert-base-uncased",
    "LiT-L16L": "hf://google-bert/bert-large-uncased",
}


def get_config(argument: str = "B16B_2") -> ConfigDict:
    variant, recipe = [*presets.split_argument(argument, 2), "coco"][:2]
    name = presets.find_model(variant, "LiT")
    config = presets.get_contrastive(name)

    config.pretrained = presets.augreg_name(f"ViT-{name.removeprefix('LiT-')[0]}_16")
    config.pretrained_dir = "gs://vit_models/augreg"
    config.text.pretrained = _BERTS.get(name, "")
    # Locked but for the projection of B16B, which published towers of images do not have.
    config.optim.freeze = "^img/(?!pre_logits)"
    if get_model(name).embedding_size:
        config.dont_load = "^img/pre_logits"

    if recipe == "coco":
        _set_coco(config)
    elif recipe == "paper":
        _set_paper(config)
    else:
        raise ValueError(unknown("recipe", recipe, ("coco", "paper")))
    return config


def _set_coco(config: ConfigDict) -> None:
    config.data.train_pp = "decode|resize(224)|flip_lr|randaug(2, 10)|value_range(-1, 1)"
    config.batch_size = 4096
    config.total_steps = 5_000
    config.optim.name = "adamw"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 10.0  # times the learning rate it is the published .01
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 150
    config.eval_every = 500


def _set_paper(config: ConfigDict) -> None:
    config.data.source = ""  # theirs were CC12M and YFCC100M
    config.data.train_pp = config.data.eval_pp
    config.batch_size = 16_384
    config.total_steps = _STEPS.get(config.model_name, 60_000)
    config.optim.name = "adafactor"
    # As big_vision's; optax's own would multiply by the parameters' scale, and clip.
    config.optim.args.update(
        min_dim_size_to_factor=32, momentum=0.9, multiply_by_parameter_scale=False,
        clipping_threshold=None,
    )  # fmt: skip
    config.optim.momentum_dtype = "bfloat16"
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.1  # times the learning rate it is the published 1e-4
    config.optim.clip_norm = 1.0
    config.schedule.warmup_steps = 10_000
    config.eval_every = 5_000
    config.checkpoint_every = 1_000
