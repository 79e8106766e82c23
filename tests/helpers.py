"""What more than one file of tests uses: tiny models, images, data and configs.

TensorFlow is imported where it is needed, since some machines on which models are tested have none.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import PIL
from PIL import Image

from configs import common
from vit_jax.models import get_model

# Those without compression. Gradio, of the page, wants an older one.
READS_YCBCR_TIFF = int(PIL.__version__.split(".")[0]) >= 13
TINY = dict(patch_size=4, hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32)
TINY_HYBRID = dict(TINY, patch_size=1, resnet_layers=(2, 1), resnet_width_factor=0.5)
TINY_MIXER = dict(patch_size=4, num_blocks=2, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=32)
TINY_DEHAZEFORMER = dict(
    hidden_sizes=(8, 8, 8, 8, 8), depths=(1, 2, 1, 1, 1), num_heads=(1, 1, 2, 1, 1),
    mlp_ratios=(1.0, 2.0, 2.0, 1.0, 1.0),
)  # fmt: skip
TINY_SWIN = dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3)
TINY_SWINIR = dict(embed_dim=8, depths=(2,), num_heads=(2,), window_size=4)
FULL = "value_range(-1, 1)"
COLORS = {"blue": (30, 30, 200), "red": (200, 30, 30)}
AUGREG_INDEX = """\
name,ds,final_val,filename,adapt_filename
R+ViT-Ti/16,i21k,0.30,R_Ti_16-i21k-weak,x
R+ViT-Ti/16,i21k,0.41,R_Ti_16-i21k-best,y
R+ViT-Ti/16,i21k,0.41,R_Ti_16-i21k-best,z
R+ViT-Ti/16,i1k,0.99,R_Ti_16-i1k-other,x
R+ViT-Ti/16,i21k,,R_Ti_16-i21k-failed,x
ViT-Ti/16,i21k,0.5,Ti_16-i21k-best,x
"""


def random_params(name, size, seed=0, **fields):
    """A model, and parameters none of which is 0 or 1, as numpy arrays; size is (h, w)."""
    model = get_model(name, **fields)
    images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    random = np.random.default_rng(seed)
    return model, jax.tree.map(
        lambda leaf: random.normal(scale=0.2, size=leaf.shape).astype(np.float32), shapes
    )


def random_variables(model, size, seed=0, deviation=0.2, multiply=("var", "scale")):
    """Variables for images of (h, w) pixels: noise, around 1 where they multiply, and else 0."""
    random = np.random.default_rng(seed)

    def draw(path, leaf):
        noise = random.normal(scale=deviation, size=leaf.shape).astype(np.float32)
        return np.exp(noise) if path[-1].key in multiply else noise

    shapes = jax.eval_shape(model.init, jax.random.key(0), *model.inputs(size))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def written_as_read(variables, model, state_dict):
    """Checks that variables become the state dict that they were read from, by its naming.

    Returns:
        The naming.
    """
    from checkpoints import torch

    naming = torch.naming_of(state_dict, model)
    written = torch.to_state_dict(variables, model, naming)
    wanted = torch.without_buffers(state_dict, model)
    assert {*written} == {*wanted}
    for key, array in wanted.items():
        np.testing.assert_array_equal(written[key], array, err_msg=key)
    return naming


def noise(shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def write_image(path: Path, color: tuple[int, int, int], size=(20, 16), seed: int = 0) -> Path:
    """Writes a noisy image of one colour; size is (width, height)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-20, 20, (size[1], size[0], 3))
    Image.fromarray(np.clip(np.array(color) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def write_classes(folder: Path, count: int, suffix: str = ".png", start: int = 0) -> None:
    """Writes folder/{blue,red}/{n}.png."""
    for name, color in COLORS.items():
        for i in range(start, start + count):
            write_image(folder / name / f"{i}{suffix}", color, seed=i)


def smooth(size, seed):
    """An (h, w, 3) uint8 picture without noise."""
    cells = np.random.default_rng(seed).integers(0, 255, (4, 4, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(cells).resize(size[::-1], Image.BICUBIC))


def smooth_with_noise(size, seed, channels=3):
    """A smooth image with some noise, in [-1, 1]."""
    import scipy.ndimage

    random = np.random.default_rng(seed)
    image = scipy.ndimage.gaussian_filter(random.normal(size=(*size, channels)), (5, 5, 0))
    image = image / np.abs(image).max() + 0.1 * random.normal(size=image.shape)
    return np.clip(image, -1, 1).astype(np.float32)


def compute(function, *images):
    return jax.tree.map(np.asarray, jax.jit(function)(*images))


def write_pairs(folder, sizes, start=0, suffix=".png"):
    """Writes hazy/N_1.png and GT/N_1.png; the hazy one is the clear one made brighter."""
    for i, size in enumerate(sizes, start):
        clear = smooth(size, i)
        hazy = (clear * 0.5 + 110).astype(np.uint8)
        for name, pixels in (("GT", clear), ("hazy", hazy)):
            (folder / name).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / name / f"{i}_1{suffix}")


def write_same_pairs(folder, names, hazy="hazy", clear="GT"):
    for name in names:
        write_image(folder / hazy / name, (200, 200, 200))
        write_image(folder / clear / name, (100, 100, 100))


def saved(mode, path, **options):
    pixels = smooth((30, 40), 5)
    image = Image.fromarray(pixels)
    if mode in ("RGBA", "LA"):
        image.putalpha(Image.fromarray(pixels[..., 0]))
    image.convert(mode).save(path, **options)
    return path


def photo(size, begin=0):
    """An (h, w, 3) uint8 part of a real photo."""
    from skimage import data

    return data.astronaut()[begin : begin + size[0], 100 : 100 + size[1]]


def shrink(image, factor):
    import tensorflow as tf

    from input_pipeline.resampling import shrink_bicubic

    return shrink_bicubic(tf.constant(image), factor).numpy()


def to_grey_levels(x):
    return np.round((x + 1) * 127.5).astype(np.uint8)


def tiny_digits_config():
    """A run of a few seconds on the digits."""
    config = common.get_config()
    config.model_name = "ViT-Ti_16"
    config.model.update(patch_size=4, hidden_size=32, num_layers=1, num_heads=2, mlp_dim=32)
    config.model.classifier = "gap"
    config.data.source = "digits"
    config.data.train_pp = "grayscale_to_rgb|value_range(-1, 1)"
    config.data.eval_pp = "grayscale_to_rgb|resize(8)|value_range(-1, 1)"
    config.batch_size = 64
    config.optim.learning_rate = 1e-2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    return config


def pairs_config(source):
    config = common.get_config()
    config.model_name = "DehazeFormer-T"
    config.model.update(TINY_DEHAZEFORMER)
    config.data.kind = "pairs"
    config.data.source = str(source)
    config.data.train_pp = f"pad_to(32)|random_crop(32)|flip_lr|rot90|{FULL}"
    config.data.eval_pp = FULL
    config.batch_size = 2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    config.loss = "l1 + 0.1 * ssim"
    config.metrics = ("dehazeformer/psnr", "dehazeformer/ssim")
    config.best_metric = "dehazeformer/psnr"
    config.benchmark = "SOTS-indoor"
    config.optim.learning_rate = 2e-3
    return config


def degraded_config(source, model="SwinIR-lightweight-x2", **degradation):
    config = common.get_config()
    config.model_name = model
    config.model.update(TINY_SWINIR)
    config.data.kind = "degraded"
    config.data.source = str(source)
    config.data.train_pp = f"random_crop(24)|flip_lr|rot90|{FULL}"
    config.data.eval_pp = FULL
    config.data.degradation.update(degradation)
    config.batch_size = 2
    config.total_steps = 6
    config.eval_every = 3
    config.log_every = 1
    config.loss = "charbonnier(4e-9)"
    config.metrics = ("basicsr/psnr_y", "basicsr/psnr_b")
    config.best_metric = "basicsr/psnr_y"
    config.optim.learning_rate = 2e-3
    return config


def data_config(source, kind="classes", **changes):
    config = common.get_config().data
    config.source, config.kind = str(source), kind
    if kind != "classes":
        config.train_pp = f"random_crop(8)|{FULL}"
        config.eval_pp = FULL
    config.update(changes)
    return config


def sizes(config, **arguments):
    from input_pipeline.sources import get_splits

    return {name: source.num_examples for name, source in get_splits(config, **arguments).items()}


def dataset(config, **arguments):
    """The data of a run's config."""
    from input_pipeline import get_dataset

    return get_dataset(config.data, config.batch_size, seed=0, **arguments)
