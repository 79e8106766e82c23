"""Tiny models of images and texts, with a vocabulary that nobody has to download."""

import numpy as np

from tests.helpers import TINY, random_variables
from vit_jax import preprocessing, pretrained
from vit_jax.models import get_model

WORDS = ("a", "photo", "of", "cat", "dog", "red", "blue", "car", ".", "the", "bad")
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS)
FIELDS = dict(
    TINY, embedding_size=24, text_hidden_size=16, text_num_layers=1, text_num_heads=2,
    text_mlp_dim=32, text_length=8, vocabulary_size=len(VOCABULARY), tokenizer="bert(8)",
    image_side=16,
)  # fmt: skip
CLIP = dict(FIELDS, text_pool="last")
SIGLIP = dict(FIELDS, embedding_size=None, text_head="linear")


def write_vocabulary(folder):
    path = folder / "vocab.txt"
    path.write_text("".join(f"{word}\n" for word in VOCABULARY))
    return path


def make(folder, name="CLIP-B_32", fields=CLIP, seed=0):
    """A model of noise, whose scale and bias are about those of trained ones, for 16 x 16."""
    model = get_model(name, **fields)
    variables = random_variables(model, (16, 16), seed)
    variables["params"]["t"] = np.array([3.0], np.float32)
    if model.has_bias:
        variables["params"]["b"] = np.array([-2.5], np.float32)
    return pretrained.Pretrained(
        name=name,
        fields=fields,
        model=model,
        variables=variables,
        image_size=(16, 16),
        labels=None,
        eval_pp=preprocessing.choose(model, (16, 16), (16, 16), None),
        loss="sigmoid" if model.has_bias else "softmax",
        vocabulary=str(write_vocabulary(folder)),
    )
