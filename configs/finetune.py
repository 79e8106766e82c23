"""Fine-tuning on your folder of images at 224 pixels, on whatever machine there is.

Command:   python -m vit_jax.main --config=configs/finetune.py:S_16 --workdir=W \
               --config.data.source=FOLDER
           The weights are AugReg's best for that model, from their bucket;
           --config.pretrained=FILE takes others, such as hf://timm/vit_small_patch16_224.augreg_in21k
           finetune.py:ViT-B_32-CLIP is a tower of images, of the authors' weights on the hub or of
           any FILE of CLIP; so are ViT-B_16-SigLIP and the others of docs/weights.md
Hardware:  a CPU will do for a few hundred images
Time:      1 minute for 60 steps of 8 images with a ViT-Ti on two cores
Score:     with published weights not yet run; docs/fine-tuning.md fine-tunes our own
"""

from ml_collections import ConfigDict

from configs import presets
from vit_jax.models import get_model


def get_config(argument: str = "S_16") -> ConfigDict:
    config = presets.get_finetuning(224)

    config.model_name = presets.find_model(argument, "ViT")
    config.model.dropout_rate = 0.0
    values = get_model(config.model_name).input_values or "value_range(-1, 1)"
    for key in ("train_pp", "eval_pp"):
        config.data[key] = config.data[key].replace("value_range(-1, 1)", values)
    config.pretrained = presets.published_weights(config.model_name)
    config.pretrained_dir = "gs://vit_models/augreg"

    config.batch_size = 32
    config.accum_steps = 1
    config.total_steps = 300
    config.optim.learning_rate = 0.01
    config.schedule.warmup_steps = 30
    config.eval_every = 50
    config.log_every = 10
    return config
