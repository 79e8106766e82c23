"""Swin on ImageNet-1k, as published: for 300 epochs at 224 pixels, then for 30 at 384.

Command:   python -m vit_jax.main --config=configs/swin.py:T --workdir=W \
               --config.data.tfds.data_dir=TFDS_FOLDER
           Also S, B, L; and B-384 or L-384, with windows of 12, for which --config.pretrained=FILE
           names weights of 224 pixels. With --config.data.source=FOLDER and
           --config.pretrained=FILE.pth the others fine-tune published weights on a folder of
           images.
Hardware:  8 GPUs of 40 GiB or more, or a TPU slice
Time:      not yet run
Score:     not yet run; published: 81.2, 83.2, 83.5 % (T, S, B), and 84.5 % (B-384)

Source: Liu et al., "Swin Transformer" (ICCV 2021), appendix A2.1 and the published code.
Deviations: a hundredth of the training images is kept apart to choose the checkpoint, where the
published code logs the highest accuracy on the images to test on;
--config.data.tfds.train_split=train --config.data.tfds.val_split=validation does so. bfloat16 in
place of float16. Images are decoded to the pixels of TensorFlow's accurate method, not of Pillow.
There is no L of ImageNet-1k alone, nor T and S of 384 pixels, to compare with.
"""

from ml_collections import ConfigDict

from configs import presets
from input_pipeline.arguments import unknown
from vit_jax.models import swin

_SIZE, _LARGE = 224, 384


def get_config(variant: str = "T") -> ConfigDict:
    names = [name.removeprefix("Swin-") for name in swin.VARIANTS]
    if variant not in names:
        raise ValueError(unknown("variant", variant, names))
    is_large = variant.endswith("-384")
    config = presets.get_pretraining()

    config.model_name = f"Swin-{variant}"

    presets.set_timm_augmentation(config, _LARGE if is_large else _SIZE)
    shown = (
        f"resize({_LARGE}, method='bicubic', like='torchvision')"
        if is_large
        else "resize_small(256, method='bicubic', like='torchvision')|"
        f"central_crop({_SIZE}, like='torchvision')"
    )
    config.data.eval_pp = f"decode|{shown}|normalize()"

    config.batch_size = 1024
    config.whole_steps = True

    config.optim.momentum_dtype = "float32"
    config.optim.clip_norm = 5.0
    config.schedule.warmup_steps = 0
    config.schedule.shift = -1  # the scheduler is called after the first update
    if is_large:
        config.total_epochs = 30.0
        config.optim.learning_rate = 4e-5
        config.optim.weight_decay = 1e-8  # of the kernels alone
        config.schedule.warmup_epochs = 5.0
    else:
        config.total_epochs = 300.0
        config.optim.learning_rate = 1e-3  # 5e-4 for 512 images, and so are the two below
        config.optim.weight_decay = 0.05
        config.schedule.warmup_epochs = 20.0
    config.schedule.warmup_from = config.optim.learning_rate / 1000
    config.schedule.final_fraction = 0.01
    return config
