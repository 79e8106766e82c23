"""Fine-tuning on your folder of images at 224 pixels, on whatever machine there is.

Command:   python -m vit_jax.main --config=configs/finetune.py:S_16 --workdir=W \
               --config.data.source=FOLDER
           The weights are AugReg's best for that model, from their bucket;
           --config.pretrained=FILE takes others, such as hf://timm/vit_small_patch16_224.augreg_in21k
           finetune.py:ViT-B_32-CLIP is a tower of images, of the authors' weights on the hub or of
           any FILE of CLIP; so are ViT-B_16-SigLIP and the others of docs/weights.md.
           finetune.py:DINOv2-S_14 takes those of docs/published.md; so do DeiT, MAE, DINOv3, ...
           timm's names will do as well, such as finetune.py:vit_small_patch14_dinov2.lvd142m
Hardware:  a CPU will do for a few hundred images
Time:      1 minute for 60 steps of 8 images with a ViT-Ti on two cores
Score:     with published weights not yet run; docs/fine-tuning.md fine-tunes our own
"""

from ml_collections import ConfigDict

from checkpoints.published import PUBLISHED
from configs import presets
from vit_jax.models import get_model, resolve, vit_today


def get_config(argument: str = "S_16") -> ConfigDict:
    config = presets.get_finetuning(224)

    name, said = resolve(argument)
    is_today = name in vit_today.VARIANTS
    config.model_name = name if is_today else presets.find_model(name, "ViT")
    config.model.dropout_rate = 0.0
    values = get_model(config.model_name).input_values or "value_range(-1, 1)"
    for key in ("train_pp", "eval_pp"):
        config.data[key] = config.data[key].replace("value_range(-1, 1)", values)
    if is_today:
        weights = next(row for row in PUBLISHED.values() if row.model == name)
        config.pretrained = weights.name
        config.model.update(weights.fields)
    else:
        config.pretrained = presets.published_weights(config.model_name)
    config.model.update(said)
    if name != argument and "." in argument:  # timm's name of weights
        config.pretrained = f"hf://timm/{argument}"
    config.pretrained_dir = "gs://vit_models/augreg"

    config.batch_size = 32
    config.accum_steps = 1
    config.total_steps = 300
    config.optim.learning_rate = 0.01
    config.schedule.warmup_steps = 30
    config.eval_every = 50
    config.log_every = 10
    return config
