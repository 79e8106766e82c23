"""Made-up pairs, and which of them are kept for evaluation."""

import zlib

import numpy as np
import pytest

from input_pipeline import toys


def test_numbers_in_words():
    spelled = {
        0: "zero", 7: "seven", 10: "ten", 19: "nineteen", 20: "twenty", 42: "forty two",
        100: "one hundred", 712: "seven hundred twelve", 1000: "one thousand",
        30_005: "thirty thousand five", 999_999: "nine hundred ninety nine thousand nine hundred "
        "ninety nine",
    }  # fmt: skip
    assert {number: toys.spell(number) for number in spelled} == spelled
    assert len({toys.spell(number) for number in range(30_000)}) == 30_000


def test_the_words():
    assert len(toys.WORDS) == len(set(toys.WORDS)) == 43
    assert toys.WORDS[:4] == ("<pad>", "<s>", "</s>", "zero")
    assert toys.WORDS[-11:] == ("thousand", *"0123456789")


def read(source):
    """The number that words say."""
    whole = here = 0
    for word in source.split():
        if word == "thousand":
            whole, here = 1000 * here, 0
        else:
            value = 100 if word == "hundred" else toys.WORDS.index(word) - 3
            value = value if value < 20 or word == "hundred" else 10 * (value - 18)
            here = here * value if word == "hundred" else here + value
    return whole + here


@pytest.mark.parametrize(
    ("name", "most", "answer"),
    [
        ("reversal", 12, lambda source: source[::-1]),
        ("number_words", 6, lambda source: " ".join(str(read(source)))),
    ],
)
def test_pairs(name, most, answer):
    made = toys.make(name, 3000, 0)
    assert {split: len(pairs) for split, pairs in made.items()} == {
        "train": 3000, "val": 500, "test": 1000,
    }  # fmt: skip
    for pairs in made.values():
        assert all(target == answer(source) for source, target in pairs)
        assert {word for pair in pairs for text in pair for word in text.split()} <= {
            *toys.WORDS[3:]
        }
    lengths = np.bincount([len(target.split()) for _, target in made["train"]])
    # As many of each length, but for the tenth that is held out of the longer ones.
    expected = 3000 / (3 + 0.9 * (most - 3))
    assert lengths[0] == 0
    np.testing.assert_allclose(lengths[1:4], expected, rtol=0.25)
    np.testing.assert_allclose(lengths[4:], 0.9 * expected, rtol=0.25)
    assert len(lengths) == most + 1
    assert made == toys.make(name, 3000, 0)
    assert made["train"] != toys.make(name, 3000, 1)["train"]
    # More to train on are these and others.
    more = toys.make(name, 4000, 0)
    assert more["train"][:3000] == made["train"]
    assert (more["val"], more["test"]) == (made["val"], made["test"])


@pytest.mark.parametrize("name", ["reversal", "number_words"])
def test_what_is_held_out(name):
    made = toys.make(name, 3000, 0)
    for source, target in [*made["val"], *made["test"]]:
        assert zlib.crc32(source.encode()) % 10 == 0
        assert len(target.split()) > 3
    assert all(
        zlib.crc32(source.encode()) % 10 or len(target.split()) <= 3
        for source, target in made["train"]
    )
    held_out = [*made["val"], *made["test"]]
    assert len(set(held_out)) == 1500
    assert not set(held_out) & set(made["train"])


def test_there_must_be_such_a_toy():
    with pytest.raises(ValueError, match="'toy:sums': the toys are reversal, number_words"):
        toys.make("sums", 10, 0)
    with pytest.raises(ValueError, match=r"data\.translation\.examples must be at least 1, not 0"):
        toys.make("reversal", 0, 0)
