"""Tokenizers beside those of open_clip and transformers, with published vocabularies."""

import gzip
import json
import unicodedata
from pathlib import Path

import ftfy
import numpy as np
import pytest
import tokenizers as hf

from input_pipeline import vocabularies
from input_pipeline.tokenizers import make_tokenizer
from tests.golden_texts import CAPTIONS, GOLDEN, read_json, write_sentencepiece

pytestmark = pytest.mark.parity

SPECIALS = ["<|endoftext|> a", "<end_of_text> b", "[CLS] a [SEP]", "[MASK]", "</s> <eos> <pad>"]


@pytest.fixture(scope="module")
def clip():
    return make_tokenizer("clip(77)")


@pytest.fixture(scope="module")
def texts():
    """Captions, and letters of all kinds."""
    random = np.random.default_rng(0)
    ranges = [(32, 127), (160, 592), (880, 1424), (0x2000, 0x2200), (0x4E00, 0x4F00),
              (0x1F300, 0x1F6FF)]  # fmt: skip

    def word():
        low, high = ranges[random.integers(len(ranges))]
        letters = map(chr, random.integers(low, high, random.integers(1, 9)))
        # What is a letter of those that Unicode has not given out, each library says otherwise.
        return "".join(letter for letter in letters if unicodedata.category(letter) != "Cn")

    return [*CAPTIONS, *(" ".join(word() for _ in range(6)) for _ in range(300))]


def test_the_published_vocabulary_of_clip(clip):
    ids, is_cut = clip.encode(CAPTIONS)
    np.testing.assert_array_equal(ids, GOLDEN["clip/ids_openai"])
    np.testing.assert_array_equal(is_cut, GOLDEN["clip/too_long"])
    decoded = [clip.decode(clip.pieces(caption)) for caption in CAPTIONS]
    assert decoded == [text.strip() for text in read_json("clip/decoded")]
    assert clip.vocabulary_size == 49_408


def test_open_clip(clip, texts):
    """It spells its specials as `<end_of_text>`, which a text can have; ours makes none of it."""
    from tests import torchvision_operators  # noqa: F401  before open_clip

    import open_clip  # isort: skip

    theirs = open_clip.get_tokenizer("ViT-B-32")
    np.testing.assert_array_equal(clip(texts), theirs(texts).numpy())
    ours = clip(["<|endoftext|> a", "<end_of_text> b"])
    found = theirs(["<|endoftext|> a", "<end_of_text> b"]).numpy()
    np.testing.assert_array_equal(ours[0], found[0])
    assert (ours == 49_407).sum(axis=1).tolist() == [1, 1]
    assert (found[1] == 49_407).sum() == 2


def test_the_published_vocabulary_of_bert():
    tokenizer = make_tokenizer("bert_pair(300)")
    for row, expected in zip(tokenizer(CAPTIONS), read_json("bert/ids_full_json"), strict=True):
        assert row.tolist() == expected + [0] * (300 - len(expected))
    np.testing.assert_array_equal(
        make_tokenizer("bert(16)")(CAPTIONS), GOLDEN["bert/ids_lit_16_tf_text"]
    )
    pairs = [(0, 1), (3, 4), (6, 7)]
    ids, segments = tokenizer.encode_pairs(*([CAPTIONS[i] for i in side] for side in zip(*pairs)))
    expected = zip(read_json("bert/pair_ids_json"), read_json("bert/pair_segments_json"))
    for row, segment, (own, of_segment) in zip(ids, segments, expected, strict=True):
        assert row.tolist() == own + [0] * (300 - len(own))
        assert segment.tolist() == of_segment + [0] * (300 - len(own))


def test_transformers_bert(texts, tmp_path):
    from transformers import BertTokenizer

    ours = make_tokenizer("bert_pair(64)")
    pieces = Path(ours.vocabulary).read_text(encoding="utf-8").splitlines()
    theirs = BertTokenizer(vocab={piece: i for i, piece in enumerate(pieces)})
    expected = theirs(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    np.testing.assert_array_equal(ours(texts), expected)
    masked = ["The capital of France is [MASK].", "[MASK]"]
    expected = theirs(masked, padding="max_length", max_length=64)["input_ids"]
    np.testing.assert_array_equal(ours(masked, masks=True), expected)
    theirs.save_pretrained(tmp_path)
    read = make_tokenizer("bert_pair(64)", tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(read([*texts, *SPECIALS]), ours([*texts, *SPECIALS]))


def test_transformers_clip(clip, texts, tmp_path):
    """Its file, cleaned as ours is, gives OpenAI's ids; by itself it lets HTML and mojibake be."""
    from transformers import CLIPTokenizer

    content = hf_content(clip)
    theirs = CLIPTokenizer(vocab=content["vocab"], merges=[tuple(m) for m in content["merges"]])
    expected = theirs(texts, padding="max_length", truncation=True, max_length=77)["input_ids"]
    ours = clip(texts)
    ours[np.cumsum(ours == 49_407, axis=1) > 0] = 49_407  # with which it fills up rows
    differing = [text for text, a, b in zip(texts, ours, expected) if a.tolist() != b]
    # It lowers letter by letter, where Python, and OpenAI, know of sigma at a word's end.
    assert all(ftfy.fix_text(text) != text or set(text) & {"&", "Σ"} for text in differing)
    assert 1 <= len(differing) < len(texts) // 4
    theirs.save_pretrained(tmp_path)
    read = make_tokenizer("clip(77)", tmp_path)
    assert read.vocabulary == str(tmp_path / "tokenizer.json")
    np.testing.assert_array_equal(read([*texts, *SPECIALS]), clip([*texts, *SPECIALS]))
    assert [read.decode(row) for row in read(texts)] == [clip.decode(row) for row in clip(texts)]


def hf_content(tokenizer):
    """The vocabulary of a CLIP, as in a tokenizer.json."""
    lines = gzip.decompress(Path(tokenizer.vocabulary).read_bytes()).decode().split("\n")
    merges = [line.split() for line in lines[1 : 48_894 + 1]]
    letters = vocabularies.letters_of_bytes()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    return {"vocab": {piece: i for i, piece in enumerate(pieces)}, "merges": merges}


def test_transformers_siglip(tmp_path):
    from transformers import SiglipTokenizer

    path = write_sentencepiece(tmp_path / "spiece.model")
    theirs = SiglipTokenizer(str(path))
    ours = make_tokenizer("siglip(16)", path)
    found = theirs(CAPTIONS, padding="max_length", truncation=True, max_length=16)["input_ids"]
    expected = ours.of_prompts(CAPTIONS)  # it strips punctuation of all texts
    np.testing.assert_array_equal(found, expected)


def test_transformers_siglip2(tmp_path):
    from transformers import Siglip2Tokenizer

    texts = [text.lower() for text in CAPTIONS]
    trained = hf.Tokenizer(hf.models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    trained.normalizer = hf.normalizers.Replace(" ", "▁")
    first = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = hf.trainers.BpeTrainer(vocab_size=400, special_tokens=first, show_progress=False)
    trained.train_from_iterator(texts[:8], trainer)
    model = json.loads(trained.to_str())["model"]
    theirs = Siglip2Tokenizer(
        vocab=model["vocab"], merges=[tuple(merge) for merge in model["merges"]]
    )
    theirs.save_pretrained(tmp_path)
    ours = make_tokenizer("siglip2(64)", tmp_path)
    found = ours(CAPTIONS)
    for row, caption in zip(found, CAPTIONS, strict=True):
        pieces = theirs(caption, add_special_tokens=False)["input_ids"][:63]
        assert row.tolist() == (pieces + [1] + [0] * 64)[:64]
    assert found[8, -1] == 1
    assert ours.vocabulary_size == 400
