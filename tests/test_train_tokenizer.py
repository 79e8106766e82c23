"""Vocabularies of one's own texts."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from input_pipeline import train_tokenizer as command
from input_pipeline.tokenizers import KINDS, make_tokenizer
from input_pipeline.train_tokenizer import train_tokenizer
from tests.commands import ROOT

TEXTS = [
    f"{who} {does} {where}"
    for who in ("A cat", "Two dogs", "The child", "a man in a red coat")
    for does in ("sleeps", "is sleeping", "runs", "is running", "eats, \u201cnow\u201d")
    for where in ("on the table.", "in the snow", "under a tree")
]
NAMES = {"bert": "vocab.txt", "clip": "bpe.txt.gz", "sentencepiece": "tokenizer.model",
         "bpe": "tokenizer.json", "words": "words.txt"}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_read_and_knows_its_words(tmp_path, kind):
    size = {"clip": 560, "bpe": 300}.get(kind, 90)
    path = train_tokenizer(iter(TEXTS), tmp_path, kind, size)
    assert path == str(tmp_path / NAMES[KINDS[kind].family])
    tokenizer = make_tokenizer(f"{kind}(24)", tmp_path)
    assert tokenizer.vocabulary_size <= size
    if kind not in ("sentencepiece_lit", "bpe", "words"):  # in whose texts case matters
        ids = tokenizer(["The child runs", "the CHILD runs"])
        np.testing.assert_array_equal(ids[0], ids[1])
    assert tokenizer.words.roles.get("unknown", -1) not in tokenizer.pieces(TEXTS[0])
    assert len(tokenizer.pieces("sleeping")) < len("sleeping")
    decoded = tokenizer.decode(tokenizer([TEXTS[0]])[0])
    if kind in ("bpe", "words"):
        assert decoded == TEXTS[0]
    assert decoded.lower().replace(" ", "") == TEXTS[0].lower().replace(" ", "")


@pytest.mark.parametrize("kind", ["bert", "clip", "siglip", "bpe", "words"])
def test_the_same_texts_make_the_same_file(tmp_path, kind):
    """In other processes as well, where sets have other orders."""
    path = train_tokenizer(TEXTS, tmp_path / "here", kind, 600)
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS), encoding="utf-8")
    arguments = [tmp_path / "texts.txt", tmp_path / "there", f"--kind={kind}", "--size=600"]
    result = subprocess.run(
        [sys.executable, "-m", "input_pipeline.train_tokenizer", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    (there,) = (tmp_path / "there").iterdir()
    assert there.read_bytes() == (tmp_path / "here" / there.name).read_bytes()
    assert path == str(tmp_path / "here" / there.name)


@pytest.mark.parametrize("kind", ["bert", "clip", "siglip"])
def test_texts_are_learned_as_they_are_read(tmp_path, kind):
    path = train_tokenizer([text.upper() for text in TEXTS], tmp_path, kind, 560)
    assert len(make_tokenizer(f"{kind}(8)", path).pieces("sleeping")) < 5


def test_rare_letters_make_room_for_words(tmp_path):
    path = train_tokenizer([*TEXTS, "Ω一丁七万丈三上下"], tmp_path, "bert", 90)
    tokenizer = make_tokenizer("bert(8)", path)
    assert tokenizer.pieces("一 cat")[0] == tokenizer.words.roles["unknown"]
    assert tokenizer.decode(tokenizer.pieces("the")) == "the"


def test_what_it_says(tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("\n".join([*TEXTS, TEXTS[0] * 5]), encoding="utf-8")
    out = tmp_path / "own" / "words.txt"
    assert command.main([str(tmp_path / "texts.txt"), str(out), "--size=120"]) == 0
    tokenizer = make_tokenizer("bert(200)", out)
    longest = 1 + len(tokenizer.pieces(TEXTS[0] * 5))
    line = capsys.readouterr().out
    assert line.startswith(f"{out}: {tokenizer.vocabulary_size} pieces; of 61 texts, half have at")
    assert line.endswith(f"and the longest has {longest}\n")


@pytest.mark.parametrize(
    ("kind", "name", "size", "texts", "message"),
    [
        ("berd", "v.txt", 99, TEXTS, "kind must be one of clip, bert, .*, not 'berd'"),
        ("bert", "v.json", 99, TEXTS, r"a vocabulary for bert ends in \.txt, and .*v\.json does"),
        ("clip", "v.txt", 999, TEXTS, r"a vocabulary for clip ends in \.txt\.gz, and"),
        ("bpe", "v.json", 258, TEXTS, r"a vocabulary of 258 has no room for its 259 letters"),
        ("words", "v.txt", 3, TEXTS, r"a vocabulary of 3 has no room for its 4 letters"),
        ("bert", "v.txt", 3, TEXTS, r"a vocabulary of 3 has no room for its 7 letters"),
        ("clip", "v.txt.gz", 513, TEXTS, r"a vocabulary of 511 has no room for its 512 letters"),
        ("siglip", "v.model", 5, TEXTS, r"sentencepiece makes no vocabulary of 5 of it"),
        ("bert", "v.txt", 99, ["", " \n"], r"there is not a word to make .*v\.txt of"),
    ],
)
def test_what_cannot_be(tmp_path, kind, name, size, texts, message):
    with pytest.raises(ValueError, match=message):
        train_tokenizer(texts, tmp_path / name, kind, size)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", 'image,caption\na.jpg,One\nb.jpg,"Two, too"\n'),
        ("captions.txt", 'image,caption\na.jpg,One\nb.jpg,"Two, too"\n'),
        ("tokens.txt", "a.jpg#0\tOne\nb.jpg#1\tTwo, too\n"),
        ("a.jsonl", '{"image": "a.jpg", "text": "One"}\n{"image": "b", "text": "Two, too"}\n'),
        ("a.tsv", "image\tcaption\tsplit\na\tOne\ttrain\nb\tNo\ttest\nc\tTwo, too\ttrain\n"),
        ("lines.txt", "One\nTwo, too\n"),
        ("about.txt", "Images of one#1 thing\nTwo, too\n"),
    ],
)
def test_texts_of_files(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    expected = ["Images of one#1 thing" if name == "about.txt" else "One", "Two, too"]
    assert command.read_texts(tmp_path / name) == expected


def test_sentences_of_translations(tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("Ein Hund\tA dog\nEine Katze\tA cat\n")
    expected = ["Ein Hund", "A dog", "Eine Katze", "A cat"]
    assert command.read_sentences(tmp_path / "pairs.tsv", ("", "")) == expected
    (tmp_path / "pairs.txt").write_text("Ein Hund\tA dog\n")
    assert command.read_sentences(tmp_path / "pairs.txt", ("", "")) == expected[:2]
    (tmp_path / "lines.txt").write_text("Ein Hund\nEine Katze\n")
    assert command.read_sentences(tmp_path / "lines.txt", ("", "")) == expected[::2]
    for split, end in [("train", ""), ("test", " mehr")]:
        (tmp_path / "two" / split).mkdir(parents=True)
        (tmp_path / "two" / split / "a.de").write_text(f"Ein Hund{end}\nEine Katze{end}\n")
        (tmp_path / "two" / split / "a.en").write_text(f"A dog{end}\nA cat{end}\n")
    arguments = [str(tmp_path / "two"), str(tmp_path), "--kind=words"]
    languages = ["--source_language=de", "--target_language=en"]
    assert command.main([*arguments, *languages]) == 0
    words = "A Ein Eine Hund Katze cat dog"
    assert (tmp_path / "words.txt").read_text().split()[4:] == words.split()
    assert command.main(arguments) == 2
    assert "end in data.translation.source_language" in capsys.readouterr().err
    assert command.main([str(tmp_path / "lines.txt"), str(tmp_path), *languages]) == 2
    assert "languages are for --kind=bpe and --kind=words" in capsys.readouterr().err


def test_texts_beside_photos(tmp_path):
    for split, text in [("train", "One\nTwo, too\n"), ("test", "No\n")]:
        (tmp_path / split).mkdir()
        (tmp_path / split / "a.txt").write_text(text)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "a.jpg")
    assert command.read_texts(tmp_path) == ["One", "Two, too"]


def test_errors_of_the_command(tmp_path, capsys):
    assert command.main([str(tmp_path / "no.txt"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: cannot read {tmp_path}/no.txt")
    (tmp_path / "latin.txt").write_bytes("Café".encode("latin-1"))
    assert command.main([str(tmp_path / "latin.txt"), str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path}/latin.txt line 1: the byte 0xe9")
