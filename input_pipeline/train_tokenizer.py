"""Makes a vocabulary of one's own texts, for a model that is trained from the beginning.

    python -m input_pipeline.train_tokenizer texts.txt vocabulary/vocab.txt --kind=bert --size=8000

Texts are the lines of a .txt, or the captions of a data set, see `sources.captions_layouts`, of
which those to test are left out; for --kind=bpe and --kind=words the sentences of both languages,
see `sources.translation_files`. The same texts make the same file, which
`input_pipeline.tokenizers` reads: BERT's vocab.txt, CLIP's list of merges (.txt.gz), a model of
sentencepiece (.model), a tokenizer.json, or a list of words (words.txt). Weights of others keep
their own vocabulary.
"""

import collections
import gzip
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from etils import epath

from input_pipeline import vocabularies
from input_pipeline.arguments import Parser
from input_pipeline.sources import captions_files, captions_layouts, translation_files
from input_pipeline.tokenizers import KINDS, make_tokenizer

_FILES = {
    "bert": "vocab.txt", "clip": "bpe.txt.gz", "sentencepiece": "tokenizer.model",
    "bpe": "tokenizer.json", "words": "words.txt",
}  # fmt: skip
_BERT_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Captions that are called .txt all the same: Flickr8k's, and tables whose header names an image.
_TABLE = re.compile(r"\s*([^\t\n]+#\d+\t|\"?(image|file|photo)[\w ]*\"?\s*[,;|\t])", re.IGNORECASE)
_LONG = 1_000  # pieces of a text, to find out how many there are


def train_tokenizer(
    texts: Iterable[str], path: str | os.PathLike[str], kind: str, size: int
) -> str:
    """Writes a vocabulary in which frequent words are one piece, and others several.

    Source: Schuster and Nakajima, "Japanese and Korean voice search" (ICASSP 2012), for BERT's;
    Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units" (ACL 2016), for
    CLIP's and `bpe`; Kudo, "Subword Regularization" (ACL 2018), for sentencepiece's.

    Args:
        texts: to learn it from.
        path: of the file to write, whose name ends as such files do, or of the folder for it.
        kind: of `tokenizers.KINDS`, such as "bert".
        size: most pieces there are to be; few texts have fewer.

    Returns:
        The path of the file.

    Raises:
        ValueError: for another kind or ending, too small a size, no texts, or if a package of the
            extra `text` is not installed.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}")
    family = KINDS[kind].family
    file = _file_to_write(path, family)
    clean = KINDS[kind].clean
    cleaned = [text for text in map(clean, texts) if text.strip()]
    if not cleaned:
        raise ValueError(f"there is not a word to make {file} of")
    data = _TRAINERS[family](cleaned, size)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return str(file)


def _file_to_write(path: str | os.PathLike[str], family: str) -> epath.Path:
    name = _FILES[family]
    file = epath.Path(path)
    if file.is_dir() or not file.suffix:
        return file / name
    ending = "".join(epath.Path(name).suffixes)
    if not file.name.endswith(ending):
        raise ValueError(f"a vocabulary for {family} ends in {ending}, and {file} does not")
    return file


def _train_bert(texts: Sequence[str], size: int) -> bytes:
    tokenizers = vocabularies.load_package("tokenizers")
    cutter = tokenizers.Tokenizer(tokenizers.models.WordPiece(unk_token="[UNK]"))
    cutter.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    cutter.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    normalized = (cutter.normalizer.normalize_str(text) for text in texts)
    counts = collections.Counter(letter for text in normalized for letter in "".join(text.split()))
    # Not more letters than leave room for words; a letter is in two pieces.
    most = max((size - len(_BERT_SPECIALS)) // 4, 1)
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:most])
    first = [*_BERT_SPECIALS, *letters, *(f"##{letter}" for letter in letters)]
    _check_room(first, size)
    trainer = tokenizers.trainers.WordPieceTrainer(
        vocab_size=size,
        special_tokens=first,  # in this order, or theirs would be another in each process
        initial_alphabet=letters,
        limit_alphabet=len(letters),
        show_progress=False,
    )
    cutter.train_from_iterator(texts, trainer)
    pieces = cutter.get_vocab()
    return "".join(f"{piece}\n" for piece in sorted(pieces, key=pieces.__getitem__)).encode()


def _train_clip(texts: Sequence[str], size: int) -> bytes:
    tokenizers = vocabularies.load_package("tokenizers")
    letters = vocabularies.letters_of_bytes()
    first = [*letters, *(letter + "</w>" for letter in letters)]
    cutter = tokenizers.Tokenizer(tokenizers.models.BPE())
    cutter.pre_tokenizer = vocabularies.words_of_clip()
    _check_room(first, size - 2)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size - 2,
        special_tokens=first,
        initial_alphabet=letters,
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    cutter.train_from_iterator(texts, trainer)
    merges = [
        merge if isinstance(merge, str) else " ".join(merge)
        for merge in json.loads(cutter.to_str())["model"]["merges"]
    ]
    return gzip.compress("\n".join(["#version: 0.2", *merges, ""]).encode(), mtime=0)


def _train_bpe(texts: Sequence[str], size: int) -> bytes:
    """A tokenizer.json of pieces of bytes, so that no letter is unknown and no blank is lost."""
    tokenizers = vocabularies.load_package("tokenizers")
    specials = vocabularies.toys.WORDS[:3]  # <pad> must be 0
    first = [*specials, *vocabularies.letters_of_bytes()]
    _check_room(first, size)
    # The blank before the first word makes it the same piece there as inside of a sentence.
    cut = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    learning = tokenizers.Tokenizer(tokenizers.models.BPE())
    learning.pre_tokenizer = cut
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size, special_tokens=first, show_progress=False
    )
    learning.train_from_iterator(texts, trainer)
    learned = json.loads(learning.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in learned["merges"]]
    made = tokenizers.Tokenizer(tokenizers.models.BPE(learned["vocab"], merges))
    made.pre_tokenizer = cut
    made.decoder = tokenizers.decoders.ByteLevel()
    made.add_special_tokens(list(specials))
    return str(made.to_str(pretty=True)).encode()


def _train_words(texts: Sequence[str], size: int) -> bytes:
    """The most frequent words, a line each, after <pad>, <s>, </s> and <unk>."""
    first = [*vocabularies.toys.WORDS[:3], "<unk>"]
    _check_room(first, size)
    counts = collections.Counter(word for text in texts for word in text.split())
    known = sorted(counts.keys() - set(first), key=lambda word: (-counts[word], word))
    return "".join(f"{word}\n" for word in [*first, *known][:size]).encode()


def _check_room(first: Sequence[str], size: int) -> None:
    if size < len(first):
        raise ValueError(f"a vocabulary of {size} has no room for its {len(first)} letters")


def _train_sentencepiece(texts: Sequence[str], size: int) -> bytes:
    sentencepiece = vocabularies.load_package("sentencepiece")
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([line for text in texts for line in text.splitlines()]),
            model_writer=model,
            vocab_size=size,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            max_sentence_length=2**20,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"sentencepiece makes no vocabulary of {size} of it: {error}") from error
    return model.getvalue()


_TRAINERS = {"bert": _train_bert, "clip": _train_clip, "sentencepiece": _train_sentencepiece,
             "bpe": _train_bpe, "words": _train_words}  # fmt: skip


def read_sentences(path: str | os.PathLike[str], languages: tuple[str, str]) -> list[str]:
    """The lines of a .txt without tabs; or else both sides of translations, if they are to train.

    Args:
        path: see `translation_files.read`.
        languages: of two files, or of columns; see there.

    Raises:
        ValueError: if it cannot be read.
    """
    file = Path(path)
    if file.is_file() and file.suffix == ".txt":
        text = captions_files.read_text(file)
        if "\t" not in text:
            return text.splitlines()
    splits = translation_files.read(str(file), languages)
    chosen = [splits["train"]] if "train" in splits else splits.values()
    return [sentence for pairs in chosen for pair in pairs for sentence in pair]


def read_texts(path: str | os.PathLike[str]) -> list[str]:
    """The lines of a .txt; or else the captions of a file or folder, as far as they are to train.

    Raises:
        ValueError: if it cannot be read.
    """
    file = Path(path)
    if file.is_dir():
        splits = captions_layouts.find(file).splits
        chosen = [splits["train"]] if "train" in splits else splits.values()
        return [text for images in chosen for image in images for text in image.captions]
    text = captions_files.read_text(file)
    if file.suffix == ".txt" and not _TABLE.match(text):
        return text.splitlines()
    rows = captions_files.read(file)
    to_train = [row for row in rows if row.split == "train"]
    return [caption for row in to_train or rows for caption in row.captions]


def describe(path: str, kind: str, texts: Sequence[str]) -> str:
    """A line about a vocabulary, and about how long the texts are by it."""
    tokenizer = make_tokenizer(f"{kind}({_LONG})", path)
    specials = (tokenizer.begin is not None) + (tokenizer.end is not None)
    lengths = [len(tokenizer.pieces(text)) + specials for text in texts]
    return (
        f"{path}: {tokenizer.vocabulary_size} pieces; of {len(texts)} texts, half have at most "
        f"{int(np.median(lengths))}, 99 % at most {int(np.percentile(lengths, 99))}, and the "
        f"longest has {max(lengths)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the vocabulary; returns the exit code."""
    parser = Parser("input_pipeline.train_tokenizer", __doc__)
    parser.add_argument(
        "texts", help="a file of texts, or a file or folder of captions or of translations"
    )
    parser.add_argument("out", help="the file to write, or a folder for it")
    parser.add_argument("--kind", choices=list(KINDS), default="bert", help="what is to read it")
    parser.add_argument("--size", type=int, default=8000, help="most pieces")
    of_two = "of two files of translations, or of a table's columns"
    parser.add_argument("--source_language", default="", help=of_two)
    parser.add_argument("--target_language", default="", help=of_two)
    parsed = parser.read(arguments)
    try:
        languages = (parsed.source_language, parsed.target_language)
        is_translation = KINDS[parsed.kind].family in ("bpe", "words")
        if any(languages) and not is_translation:
            raise ValueError("languages are for --kind=bpe and --kind=words")
        texts = (
            read_sentences(parsed.texts, languages) if is_translation else read_texts(parsed.texts)
        )
        path = train_tokenizer(texts, parsed.out, parsed.kind, parsed.size)
        print(describe(path, parsed.kind, texts))
    except (ValueError, OSError, ModuleNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
