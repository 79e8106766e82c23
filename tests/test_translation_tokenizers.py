"""The tokenizers of translations: pieces of a tokenizer.json, and words."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from input_pipeline import toys
from input_pipeline.tokenizers import find_vocabulary, make_tokenizer
from input_pipeline.train_tokenizer import train_tokenizer

TEXTS = ["Ein Hund läuft durch den tiefen Schnee.", "Two dogs run through the deep snow."] * 4
STRANGE = ["日本語 🐱 Ünï­code", "a  b\u00a0c", "<s> x </s> <pad>", "é vs é", "\x00\x1f~"]


@pytest.fixture(scope="module")
def bpe(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("bpe"), "bpe", 320)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return train_tokenizer(TEXTS, tmp_path_factory.mktemp("words"), "words", 100)


def test_pieces(bpe):
    tokenizer = make_tokenizer("bpe(20)", bpe)
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, 1, 2)
    assert tokenizer.vocabulary_size == 310  # of so few texts
    ids, is_cut = tokenizer.encode(["the dogs"])
    pieces = tokenizer.pieces("the dogs")
    assert min(pieces) > 2
    assert len(pieces) == 2  # which were frequent
    assert ids.tolist() == [[1, *pieces, 2] + [0] * 16]
    assert not is_cut.any()
    # A source has no begin, and so room for one more piece.
    assert tokenizer(["the dogs"], begins=False).tolist() == [[*pieces, 2] + [0] * 17]
    cut, is_cut = tokenizer.encode([" ".join(["the"] * 19)], begins=False)
    assert not is_cut.any()
    assert cut[0, -1] == 2
    cut, is_cut = tokenizer.encode([" ".join(["the"] * 19)])
    assert is_cut.all()
    assert cut[0, -1] == 2
    # Words are the same pieces wherever they stand.
    assert pieces == [*tokenizer.pieces("the"), *tokenizer.pieces("dogs")]


def test_pieces_give_any_text_back(bpe):
    tokenizer = make_tokenizer("bpe(100)", bpe)
    for text in [*TEXTS[:2], *STRANGE]:
        pieces = tokenizer.pieces(text)
        assert min(pieces) > 2  # no text is the begin, the end or the pad
        assert tokenizer.decode(pieces) == text
        for begins in (True, False):
            assert tokenizer.decode(tokenizer([text], begins=begins)[0]) == text
    # What comes after the end is none of it.
    assert tokenizer.decode([1, *tokenizer.pieces("the"), 2, *tokenizer.pieces("dogs")]) == "the"
    assert tokenizer.decode([1, 2]) == tokenizer.decode([]) == ""


def test_roles_are_found_by_name_wherever_they_are(bpe, tmp_path):
    """Such as in what transformers has beside its translation models."""
    content = json.loads(Path(bpe).read_text(encoding="utf-8"))
    names = {"<s>": "[CLS]", "</s>": "[SEP]", "<pad>": "[PAD]"}
    for token in content["added_tokens"]:
        token["content"] = names[token["content"]]
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {names.get(piece, piece): i for piece, i in vocabulary.items()}
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    tokenizer = make_tokenizer("bpe(8)", tmp_path)
    np.testing.assert_array_equal(tokenizer(TEXTS[:2]), make_tokenizer("bpe(8)", bpe)(TEXTS[:2]))
    assert tokenizer.digest != make_tokenizer("bpe(8)", bpe).digest
    del content["added_tokens"][1]
    content["model"]["vocab"]["[OTHER]"] = content["model"]["vocab"].pop("[CLS]")
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"tokenizer.json has no piece for begin"):
        make_tokenizer("bpe(8)", tmp_path)


def test_words(words):
    tokenizer = make_tokenizer("words(6)", words)
    listed = Path(words).read_text().split()
    assert listed[:4] == ["<pad>", "<s>", "</s>", "<unk>"]
    assert listed[4:] == sorted(listed[4:])  # all are there as often
    ids, is_cut = tokenizer.encode(["the  dogs cat <s>", "run run run run run"])
    the, dogs, run = (listed.index(word) for word in ("the", "dogs", "run"))
    assert ids.tolist() == [[1, the, dogs, 3, 3, 2], [1, run, run, run, run, 2]]
    assert is_cut.tolist() == [False, True]
    assert tokenizer.decode(ids[0]) == "the dogs <unk> <unk>"
    assert tokenizer.decode([the, 2, dogs]) == "the"
    assert (tokenizer.pad, tokenizer.begin, tokenizer.end) == (0, 1, 2)


def test_frequent_words_come_first(tmp_path):
    path = train_tokenizer(["a b b c c c <unk>", "c b"], tmp_path, "words", 6)
    assert Path(path).read_text() == "<pad>\n<s>\n</s>\n<unk>\nc\nb\n"


def test_words_of_the_toys():
    tokenizer = make_tokenizer("words(12)")
    assert tokenizer.vocabulary == ""
    assert tokenizer.words.files == ()
    assert tokenizer.vocabulary_size == 43
    text = "seven hundred twelve"
    assert tokenizer([text], begins=False).tolist() == [[10, 31, 15, 2] + [0] * 8]
    assert tokenizer.decode(tokenizer([text])[0]) == text
    for word in ("million", "<s>", "<unk>", "Seven"):
        message = f"the vocabulary of the toys has no word '{word}' among its 40, and no <unk> for"
        with pytest.raises(ValueError, match=message):
            tokenizer([word])
    assert find_vocabulary("", "words(12)") == ""


def test_an_own_list_has_other_numbers_than_the_toys(words, tmp_path):
    assert make_tokenizer("words(9)", words).digest != make_tokenizer("words(9)").digest
    (tmp_path / "words.txt").write_text("\n".join(toys.WORDS))
    text = ["seven hundred twelve"]
    copy = make_tokenizer("words(9)", tmp_path)
    np.testing.assert_array_equal(copy(text), make_tokenizer("words(9)")(text))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.removesuffix(b"\n"),
    ],
)
def test_lists_as_editors_save_them(words, tmp_path, change):
    (tmp_path / "list.txt").write_bytes(change(Path(words).read_bytes()))
    found = make_tokenizer("words(9)", tmp_path / "list.txt")(TEXTS)
    np.testing.assert_array_equal(found, make_tokenizer("words(9)", words)(TEXTS))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<pad>\n<s>\na\n", "it must begin with <pad>, <s>, </s>, each in a line of its own"),
        ("<pad>\n<s>\n</s>\na\nb\na\n", "'a' stands there twice"),
        ("<pad>\n<s>\n</s>\na\n\nb\n", "line 5 is not one word: ''"),
        ("<pad>\n<s>\n</s>\nto be\n", "line 4 is not one word: 'to be'"),
        ("a\nb\n", "is a vocabulary of bert, and words is expected: a list of words, the first"),
        ("<pad>\n<s>\n</s>\nGr\udcfc\n", "is no vocabulary of words: UnicodeDecodeError"),
    ],
)
def test_lists_that_are_none(tmp_path, content, message):
    path = tmp_path / "words.txt"
    path.write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        make_tokenizer("words(9)", path)


def test_a_vocabulary_of_another_family(bpe, words, tmp_path):
    with pytest.raises(ValueError, match=r"is a vocabulary of words, and bpe is expected: a tok"):
        make_tokenizer("bpe(9)", words)
    with pytest.raises(ValueError, match="and words is expected"):
        make_tokenizer("words(9)", bpe)
    with pytest.raises(
        ValueError, match=r"no vocabulary at .*: it takes a tokenizer.json, such as"
    ):
        make_tokenizer("bpe(9)", tmp_path)
    with pytest.raises(
        ValueError, match=r"no vocabulary is known: it takes a tokenizer.json, such"
    ):
        make_tokenizer("bpe(9)")
    with pytest.raises(ValueError, match=r"no vocabulary at .*: it takes a list of words"):
        make_tokenizer("words(9)", tmp_path)
    (tmp_path / "tokenizer.json").write_text('{"model": {"type": "BPE", "vocab": 3}}')
    with pytest.raises(ValueError, match=r"cannot be read as a tokenizer.json"):
        make_tokenizer("bpe(9)", tmp_path)


def test_a_copy_in_a_folder_is_found(bpe, words, tmp_path):
    for spec, path in (("bpe(9)", bpe), ("words(9)", words)):
        tokenizer = make_tokenizer(spec, path)
        for file in tokenizer.words.files:
            shutil.copy(file, tmp_path)
        assert find_vocabulary(tmp_path, spec) == str(tmp_path / path.rsplit("/", 1)[1])
        assert make_tokenizer(spec, tmp_path).digest == tokenizer.digest
