"""Texts as rows of numbers."""

import random
import shutil
import string
import threading

import ftfy
import numpy as np
import pytest

from input_pipeline import tokenizers, vocabularies
from input_pipeline.tokenizers import canonicalize, make_tokenizer, shorten_pair
from input_pipeline.train_tokenizer import train_tokenizer
from tests.golden_texts import (
    CAPTIONS,
    GOLDEN,
    read_json,
    write_sentencepiece,
    write_wordpiece,
)

WORDS = ["a cat sleeps on the table", "two dogs run through deep snow", "a child eats"] * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A vocabulary of each family."""
    folder = tmp_path_factory.mktemp("vocabularies")
    write_wordpiece(folder / "vocab.txt")
    write_sentencepiece(folder / "spiece.model")
    train_tokenizer(WORDS, folder / "bpe.txt.gz", "clip", 560)
    return folder


# Ids.


def test_berts_ids(folder):
    tokenizer = make_tokenizer("bert_pair(800)", folder)
    ids, is_cut = tokenizer.encode(CAPTIONS)
    assert ids.dtype == np.int32
    assert ids.shape == (12, 800)
    for row, expected in zip(ids, read_json("wordpiece/ids_json"), strict=True):
        assert row[: len(expected)].tolist() == expected
        assert not row[len(expected) :].any()
    assert not is_cut.any()
    assert (tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask) == (0, 2, 3, 4)
    assert (tokenizer.begin, tokenizer.end) == (2, 3)
    assert tokenizer.vocabulary_size == len(read_json("wordpiece/vocab"))
    assert tokenizer.vocabulary == str(folder / "vocab.txt")


def test_lits_ids_of_berts_vocabulary_have_no_end(folder):
    ids, is_cut = make_tokenizer("bert(16)", folder).encode(CAPTIONS)
    for row, cut, expected in zip(ids, is_cut, read_json("wordpiece/ids_json"), strict=True):
        inner = expected[:-1]  # without [SEP]
        assert row.tolist() == (inner + [0] * 16)[:16]
        assert cut == (len(inner) > 16)


@pytest.mark.parametrize(
    ("spec", "key"), [("sentencepiece_lit(16)", "ids_lit_16"), ("siglip(16)", "ids_siglip_16")]
)
def test_sentencepieces_ids(folder, spec, key):
    tokenizer = make_tokenizer(spec, folder)
    np.testing.assert_array_equal(tokenizer(CAPTIONS), GOLDEN[f"sentencepiece_unigram/{key}"])
    assert tokenizer.pad == tokenizer.end == 1
    assert tokenizer.begin is None


def test_siglip2_fills_with_another_piece_than_its_end(folder):
    ids = make_tokenizer("siglip2(16)", folder)(CAPTIONS)
    expected = GOLDEN["sentencepiece_unigram/ids_siglip_16"]
    is_padding = np.cumsum(expected == 1, axis=1) > 1
    np.testing.assert_array_equal(ids, np.where(is_padding, 0, expected))


def test_prompts_of_siglip_lose_their_punctuation(folder):
    assert [canonicalize(text) for text in CAPTIONS] == read_json("canonical")
    expected = GOLDEN["sentencepiece_unigram/ids_siglip_canonical_16"]
    np.testing.assert_array_equal(
        make_tokenizer("siglip(16)", folder).of_prompts(CAPTIONS), expected
    )
    bert = make_tokenizer("bert(16)", folder)
    np.testing.assert_array_equal(bert.of_prompts(CAPTIONS), bert(CAPTIONS))


def test_clips_ids_of_an_own_vocabulary(folder):
    tokenizer = make_tokenizer("clip(8)", folder)
    size = tokenizer.vocabulary_size
    assert (tokenizer.begin, tokenizer.end, tokenizer.pad) == (size - 2, size - 1, 0)
    ids, is_cut = tokenizer.encode(["", "a cat", "A  CAT\n", "a cat sleeps on the table today"])
    assert ids[0].tolist() == [size - 2, size - 1, 0, 0, 0, 0, 0, 0]
    np.testing.assert_array_equal(ids[1], ids[2])
    assert ids[1, :2].tolist() == [size - 2, 256 + ord("a") - ord("!")]  # a</w>
    assert ids[3, -1] == size - 1  # what is cut keeps its end
    assert is_cut.tolist() == [False, False, False, True]
    assert tokenizer.is_cut(["a cat", "a cat sleeps on the table today"]).tolist() == [False, True]
    # Never seen in training, but bytes have pieces for everything.
    assert tokenizer.decode(tokenizer.pieces("Ünïcode 🐱 1 + 23")) == "ünïcode 🐱 1 + 2 3"


@pytest.mark.parametrize("pad_to", [3, 8])
def test_pairs(folder, pad_to):
    tokenizer = make_tokenizer(f"bert_pair({7 + pad_to})", folder)
    ids, segments = tokenizer.encode_pairs(["cat bird"], ["red"])
    cat, bird, red = (tokenizer.pieces(word) for word in ("cat", "bird", "red"))
    row = [2, *cat, *bird, 3, *red, 3]
    assert ids[0].tolist() == row + [0] * (7 + pad_to - len(row))
    assert segments[0].tolist() == [0, 0, 0, 0, 1, 1] + [0] * (1 + pad_to)
    with pytest.raises(ValueError, match="2 texts have no pairs in 1"):
        tokenizer.encode_pairs(["cat", "bird"], ["red"])


def test_what_just_fits_is_not_cut(folder):
    for spec, specials in [
        ("bert({})", 1),
        ("bert_pair({})", 2),
        ("clip({})", 2),
        ("siglip({})", 1),
    ]:
        count = len(make_tokenizer(spec.format(8), folder).pieces("under the tree"))
        full = make_tokenizer(spec.format(count + specials), folder)
        ids, is_cut = full.encode(["under the tree"])
        assert not is_cut.any()
        assert (ids[0] != full.pad).sum() >= count + specials - (full.pad == full.end)
        shorter = make_tokenizer(spec.format(count + specials - 1), folder)
        assert shorter.is_cut(["under the tree"]).all()
        if full.end is not None:
            assert shorter(["under the tree"])[0, -1] == full.end


def test_pairs_are_cut_at_the_longer_ones_end(folder):
    assert shorten_pair([1, 2, 3, 4], [5, 6], 4) == ([1, 2], [5, 6])
    assert shorten_pair([1, 2], [3, 4, 5], 3) == ([1, 2], [3])
    assert shorten_pair([1], [2], 5) == ([1], [2])
    ids, segments = make_tokenizer("bert_pair(8)", folder).encode_pairs([CAPTIONS[8]], ["red cat"])
    assert (ids[0] == 3).sum() == 2
    assert segments[0].tolist() == [0, 0, 0, 0, 0, 1, 1, 1]


# What texts can do to it.


def test_no_text_makes_pieces_that_stand_for_no_words(folder):
    names = "[CLS] [SEP] [PAD] [MASK] <pad> </s> <unk> <|startoftext|> <|endoftext|>"
    for spec, roles in [
        ("bert_pair(200)", ("begin", "end", "pad", "mask")),
        ("siglip(200)", ("end", "pad")),
        ("clip(200)", ("begin", "end")),
    ]:
        tokenizer = make_tokenizer(spec, folder)
        found = set(tokenizer.pieces(names))
        assert not found & {tokenizer.words.roles[role] for role in roles}
        assert len(found) > 5


def test_a_mask_is_one_only_where_it_is_asked_for(folder):
    tokenizer = make_tokenizer("bert_pair(12)", folder)
    cat, on = tokenizer.pieces("cat")[0], tokenizer.pieces("on")[0]
    assert tokenizer(["cat [MASK] on"], masks=True)[0, :6].tolist() == [2, cat, 4, on, 3, 0]
    assert tokenizer(["[MASK][MASK]"], masks=True)[0, :5].tolist() == [2, 4, 4, 3, 0]
    assert 4 not in tokenizer(["cat [MASK] on"])
    assert tokenizer.decode(tokenizer(["cat [MASK] on"], masks=True)[0]) == "cat [MASK] on"
    with pytest.raises(ValueError, match="has no piece for mask"):
        make_tokenizer("siglip(8)", folder)(["[MASK]"], masks=True)


def test_texts_that_are_none(folder):
    tokenizer = make_tokenizer("bert(4)", folder)
    assert tokenizer([]).shape == (0, 4)
    assert make_tokenizer("siglip(4)", folder)([]).shape == (0, 4)
    for wrong in ("a cat", b"a cat"):
        with pytest.raises(ValueError, match="a list of texts is expected, and not one text"):
            tokenizer(wrong)
    with pytest.raises(ValueError, match=r"texts must be str, and .* is bytes"):
        tokenizer([b"a cat"])


@pytest.mark.parametrize("spec", ["bert(8)", "clip(8)", "siglip(8)", "sentencepiece_lit(8)"])
@pytest.mark.parametrize("text", ["\ud83d", "a\0b", "\u200b\ufeff", "a" * 10_000, "\n\t "])
def test_odd_texts(folder, spec, text):
    tokenizer = make_tokenizer(spec, folder)
    ids = tokenizer([text])
    assert ids.shape == (1, 8)
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary_size


def test_case_is_folded_as_lit_was_trained_and_bert_was_not():
    folded = tokenizers.KINDS["bert"].clean("Straße ½ № ① ﬁne Café")
    assert folded.replace("\u0301", "") == "strasse 1\u20442 no 1 fine café".replace("\u0301", "")
    assert tokenizers.KINDS["bert_pair"].clean("Straße ½") == "Straße ½"


def test_a_vocabulary_with_upper_case_keeps_it(tmp_path):
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "Haus", "haus", "é", "e", "É"]
    (tmp_path / "vocab.txt").write_text("\n".join(pieces))
    tokenizer = make_tokenizer("bert(4)", tmp_path)
    assert tokenizer(["Haus", "haus", "é", "É"])[:, 1].tolist() == [5, 6, 7, 9]
    (tmp_path / "vocab.txt").write_text("\n".join(p for p in pieces if p not in "HausÉ"))
    tokenizer = make_tokenizer("bert(4)", tmp_path)
    assert tokenizer(["Haus", "haus", "É"])[:, 1].tolist() == [5, 5, 7]


def test_what_plain_ascii_is_spared_would_not_change_it():
    """CLIP's texts are mended by ftfy, which takes most of the time, but for most of them."""
    clean, draw = tokenizers.KINDS["clip"].clean, random.Random(0)
    letters = string.printable + "&&;;#<>" + "aeiou" * 3 + "\x00\x07\x1b\x7f"
    pieces = ["&amp;", "&lt;", "&#39;", "&amp;lt;", "\x1b[1m", "\r\n", "''", "``", "<b>"]
    for _ in range(500):
        text = "".join(draw.choices([*letters, *pieces], k=draw.randrange(12)))
        mended = ftfy.fix_text(text)
        for _ in range(2):
            mended = tokenizers.html.unescape(mended)
        assert clean(text) == " ".join(mended.split()).lower(), repr(text)
    assert clean("schÃ¶n &amp;amp; ﬁne\tCafé") == "schön & fine café"


# Back to words.


def test_words_of_ids(folder):
    bert = make_tokenizer("bert_pair(32)", folder)
    assert bert.decode(bert(["Three cats, sleeping!"])[0]) == "three cats, sleeping!"
    first = bert.encode_pairs(["a cat"], ["red"])[0][0]
    assert bert.decode(first) == "a cat red"
    clip = make_tokenizer("clip(32)", folder)
    assert clip.decode(clip(["A cat, and 12"])[0]) == "a cat , and 1 2"
    siglip = make_tokenizer("siglip(32)", folder)
    assert siglip.decode(siglip(["Under the dog"])[0]) == "under the dog"


# Sizes.


def test_what_does_not_fit_a_model(folder):
    tokenizer = make_tokenizer("bert(16)", folder)
    size = tokenizer.vocabulary_size
    tokenizer.check_fits(size, 16)
    with pytest.raises(
        ValueError, match=rf"has 30,522 pieces.*vocab\.txt has {size}:.*_size={size}"
    ):
        tokenizer.check_fits(30_522, 16)
    with pytest.raises(ValueError, match=r"texts of 64 pieces, and bert\(16\) makes 16"):
        tokenizer.check_fits(size, 64)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("clip", r"tokenizer 'clip': write it with its length, such as clip\(77\)"),
        ("clip(77", "write it with its length"),
        ("clip(-1)", "write it with its length"),
        ("clop(77)", "did you mean 'clip'.*there are: clip, bert, bert_pair, sentencepiece_lit"),
        ("clip(2)", "the length must be at least 3"),
        ("bert(1)", "the length must be at least 2"),
    ],
)
def test_specs_that_are_none(spec, message):
    with pytest.raises(ValueError, match=message):
        make_tokenizer(spec)


# In the input pipeline.


def test_threads_share_a_tokenizer(folder):
    texts = [f"{caption} {i}" for i in range(20) for caption in CAPTIONS]
    for spec in ("bert(16)", "clip(16)", "siglip(16)"):
        tokenizer = make_tokenizer(spec, folder)
        expected, found = tokenizer(texts), {}

        def run(i, tokenizer=tokenizer, found=found):
            found[i] = tokenizer(texts)

        threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 4
        for ids in found.values():
            np.testing.assert_array_equal(ids, expected)


def test_a_copy_in_another_folder(folder, tmp_path):
    for spec in ("bert(8)", "clip(8)"):
        tokenizer = make_tokenizer(spec, folder)
        (tmp_path / spec).mkdir()
        for file in tokenizer.words.files:
            shutil.copy(file, tmp_path / spec)
        copy = make_tokenizer(spec, tmp_path / spec)
        assert copy.vocabulary != tokenizer.vocabulary
        np.testing.assert_array_equal(copy(CAPTIONS), tokenizer(CAPTIONS))


def test_what_is_missing_is_said(folder, monkeypatch):
    def find(name):
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(vocabularies.importlib, "import_module", find)
    for spec, name in [("bert(8)", "tokenizers"), ("siglip(8)", "sentencepiece")]:
        with pytest.raises(
            ModuleNotFoundError, match=rf"needs {name} .*pip install 'vit_jax\[text"
        ):
            make_tokenizer(spec, folder)
