"""Classes as averages of embeddings of prompts."""

from pathlib import Path

import numpy as np
import pytest

from vit_jax import class_embeddings

GOLDEN = np.load(Path(__file__).parent / "golden" / "image_text_losses.npz")
PROMPTS = ("a photo of a {}.", "the {}, which is a {}", "{}")


def letters(texts):
    """Tokens (n, 4): how often each of four letters occurs."""
    return np.array([[text.count(letter) for letter in "aeio"] for text in texts], np.int32)


def test_the_average_is_of_directions():
    """Each prompt counts alike, whatever its embedding's length."""
    embeddings = GOLDEN["zero_shot/embeddings"]
    expected = GOLDEN["zero_shot/classifier"]
    np.testing.assert_allclose(class_embeddings.average(embeddings), expected, atol=1e-6)
    longer = embeddings * np.arange(1, 8)[:, None]
    np.testing.assert_allclose(class_embeddings.average(longer), expected, atol=1e-6)


@pytest.mark.parametrize("at_once", [256, 5, 6])
def test_each_class_is_read_in_each_prompt(at_once, monkeypatch):
    monkeypatch.setattr(class_embeddings, "_TEXTS_AT_ONCE", at_once)
    names = ("cat", "a red car", "{}")
    matrix = np.random.default_rng(0).normal(size=(4, 7))
    sizes = []

    def embed(tokens):
        sizes.append(len(tokens))
        return tokens @ matrix + 1

    found = class_embeddings.embed_classes(embed, letters, names, PROMPTS)
    assert found.shape == (3, 7)
    assert found.dtype == np.float32
    assert len(set(sizes)) == 1
    texts = ["a photo of a a red car.", "the a red car, which is a a red car", "a red car"]
    each = letters(texts) @ matrix + 1
    mean = (each / np.linalg.norm(each, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(found[1], mean / np.linalg.norm(mean), atol=1e-6)


@pytest.mark.parametrize(
    ("names", "prompts", "message"),
    [
        ((), PROMPTS, "there is no class to embed"),
        (("cat",), (), "there is no prompt"),
        (("cat",), ("a photo",), "'a photo' has no {} for the name of a class"),
    ],
)
def test_what_is_missing_is_said(names, prompts, message):
    with pytest.raises(ValueError, match=message):
        class_embeddings.embed_classes(lambda tokens: tokens, letters, names, prompts)
