"""Small models of each task, loaded, whose answers cost nothing."""

import flax.linen as nn
import jax
import numpy as np

from tests.helpers import random_variables
from vit_jax import preprocessing
from vit_jax.models import get_model
from vit_jax.models.base import Model
from vit_jax.pretrained import Pretrained

_WORDS = dict(vocabulary_size=43, hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32)
_PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcd", "##b"]


def made(model, size=(16, 16), **known):
    """A model of noise, as it is when it is loaded."""
    variables = known.pop("variables", None)
    if variables is None:
        variables = jax.device_get(random_variables(model, size))
    defaults = dict(
        name=type(model).__name__, fields={}, model=model, variables=variables, image_size=size,
        labels=None, eval_pp=preprocessing.choose(model, size, size, None), loss="",
    )  # fmt: skip
    return Pretrained(**{**defaults, **known})


class Shade(Model):
    """Makes an image darker."""

    task = "restore"
    any_size = True

    @nn.compact
    def __call__(self, images, train=False):
        return images - self.param("shade", nn.initializers.ones, (1,)) / 2


class Thirds(Model):
    """Tells red, green and blue pixels apart."""

    num_classes: int = 3
    task = "segment"
    any_size = True

    @nn.compact
    def __call__(self, images, train=False):
        return images * self.param("scale", nn.initializers.ones, (1,))


class Moves(Model):
    """Says the difference of two frames."""

    task = "flow"
    any_size = True

    @nn.compact
    def __call__(self, image, image2, train=False):
        return (image2 - image)[..., :2] * self.param("scale", nn.initializers.ones, (1,))


def translating():
    """A Transformer of noise."""
    network = get_model("Transformer-base", tokenizer="words(8)", **_WORDS)
    variables = jax.jit(network.init)(jax.random.key(1), *(np.ones((1, 4), np.int32),) * 2)
    known = dict(variables=jax.device_get(variables), settings={"translate.extra_length": 3})
    return made(network, (1, 1), **known)


def filling_in(folder):
    """A BERT of noise, whose vocabulary lies in a folder."""
    path = folder / "vocab.txt"
    path.write_text("\n".join(_PIECES))
    network = get_model(
        "BERT-base", tokenizer="bert_pair(16)", vocabulary_size=len(_PIECES), length=16,
        hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32,
    )  # fmt: skip
    return made(network, (1, 1), name="BERT-base", vocabulary=str(path))
