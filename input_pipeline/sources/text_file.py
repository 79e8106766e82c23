"""Texts for BERT: a file, or a folder of files, with a sentence per line.

A blank line, and the end of a file, ends a document. A folder may hold folders, or files, whose
names are those of splits, such as train and test.txt; else documents are split off to validate and
to test on, see `splitting`, by what they say, so that one that is there twice is in one split.
All texts are in memory, as numbers: four bytes a token.
"""

import hashlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from input_pipeline import files, word_pairs
from input_pipeline.cpu_tf import tf
from input_pipeline.sources import splitting
from input_pipeline.sources.base import Example, IndexedSource
from input_pipeline.word_pairs import Ids

_LOG = logging.getLogger(__name__)

SUFFIX = ".txt"
TRUTHS = ("tokens", "segments", "mask", "positions", "words", "next")

Document = tuple[str, ...]  # its sentences


class Tokenizer(Protocol):
    """What makes numbers of sentences: that of BERT, see `input_pipeline.tokenizers`."""

    @property
    def length(self) -> int: ...

    @property
    def vocabulary_size(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def cls(self) -> int: ...

    @property
    def sep(self) -> int: ...

    @property
    def mask(self) -> int: ...

    def pieces(self, text: str) -> list[int]:
        """The numbers of a text, without special ones."""


def splits(config: Any, tokenizer: Tokenizer) -> dict[str, IndexedSource]:
    """Makes the sources of a file or folder.

    Args:
        config: `config.data`; of it `source`, `val_fraction`, `split_seed`, and `text.passes`, how
            often the documents to train on are cut into pairs, which are different each time.
        tokenizer: of the model. Its length is that of an example.

    Returns:
        Sources by split name, whose examples are `tokens`, `segments` and `mask`, see
        `word_pairs.pack`; `positions` and `words`, see `word_pairs.mask_words`; and `next`,
        () int32, 0 if the second segment follows the first. What is masked is drawn anew in every
        epoch, and is always the same in evaluation.

    Raises:
        ValueError: if there is no text, or it cannot be read.
    """
    if config.text.passes < 1:
        raise ValueError(f"data.text.passes must be at least 1, not {config.text.passes}")
    found = {split: _read_all(paths) for split, paths in _find(Path(config.source)).items()}
    parts = splitting.split_off_scenes(found, _digest, config)
    ids = Ids(
        tokenizer.pad, tokenizer.cls, tokenizer.sep, tokenizer.mask, tokenizer.vocabulary_size
    )
    return {
        split: _make_source(split, documents, config, tokenizer, ids)
        for split, documents in parts.items()
    }


def _make_source(
    split: str, documents: Sequence[Document], config: Any, tokenizer: Tokenizer, ids: Ids
) -> IndexedSource:
    numbers = [[tokenizer.pieces(line) for line in document] for document in documents]
    numbers = [[line for line in document if line] for document in numbers]
    sizes = [np.array([len(line) for line in document]) for document in numbers if document]
    tokens = np.array([i for document in numbers for line in document for i in line], np.int32)
    passes = config.text.passes if split == "train" else 1
    length = tokenizer.length
    pairs = word_pairs.choose_pairs(sizes, length, passes, config.split_seed)
    if not len(pairs):
        raise ValueError(f"{config.source}: the texts to {split} on have no words")
    _LOG.info(
        "%s: %s documents of %s sentences and %s tokens make %s pairs of %d tokens",
        split, *(f"{n:,}" for n in (len(sizes), sum(map(len, sizes)), len(tokens), len(pairs))),
        length,
    )  # fmt: skip
    digest = hashlib.sha256(tokens.tobytes() + pairs.astype("<i8").tobytes()).hexdigest()[:16]
    return IndexedSource(
        columns={"row": np.arange(len(pairs)), "pair": pairs},
        truths=TRUTHS,
        has_image=False,
        digest=digest,
        loader=_Loader(tokens, length, ids),
        finisher=_Finisher(ids),
    )


class _Loader:
    """Puts the segments of a pair together; nothing is masked yet."""

    def __init__(self, tokens: np.ndarray, length: int, ids: Ids) -> None:
        self._tokens, self._length, self._ids = tokens, length, ids

    def __call__(self, row: Example) -> Example:
        keys = ("tokens", "segments", "mask")
        made = tf.numpy_function(self._pack, [row["pair"]], [tf.int32] * 3, stateful=False)
        packed = {key: tf.ensure_shape(made[i], (self._length,)) for i, key in enumerate(keys)}
        nothing = tf.zeros((word_pairs.count_masked(self._length),), tf.int32)
        is_random = tf.cast(row["pair"][4], tf.int32)
        return {**packed, "positions": nothing, "words": nothing, "next": is_random}

    def _pack(self, pair: np.ndarray) -> list[np.ndarray]:
        first, second = (self._tokens[pair[i] : pair[i + 1]] for i in (0, 2))
        return list(word_pairs.pack(first, second, self._length, self._ids).values())


class _Finisher:
    """Masks words of a pair."""

    def __init__(self, ids: Ids) -> None:
        self._ids = ids

    def __call__(self, example: Example, seed: tf.Tensor) -> Example:
        arguments = [example["tokens"], example["mask"], seed]
        made = tf.numpy_function(self._mask, arguments, [tf.int32] * 3, stateful=False)
        keys = ("tokens", "positions", "words")
        shaped = {key: tf.ensure_shape(made[i], example[key].shape) for i, key in enumerate(keys)}
        return {**example, **shaped}

    def _mask(self, tokens: np.ndarray, mask: np.ndarray, seed: np.ndarray) -> list[np.ndarray]:
        numbers = seed.view(np.uint32).tolist()
        return list(word_pairs.mask_words(tokens, mask, self._ids, numbers).values())


def _find(source: Path) -> Mapping[str, list[Path]]:
    """Files by split; "all" if there are no splits."""
    if source.is_file():
        return {"all": [source]}
    folders = splitting.find_splits(source)
    if "all" not in folders:
        return {split: _list(folder) for split, folder in folders.items()}
    found = _list(source)
    named: dict[str, list[Path]] = {}
    for path in found:
        named.setdefault(splitting.split_of(path.stem) or "all", []).append(path)
    if "train" not in named:
        return {"all": found}
    files.tell_left_out(source, named.pop("all", []), "files are of no split and are left out")
    return named


def _list(folder: Path) -> list[Path]:
    found = [path for path in files.list_files(folder) if path.name.lower().endswith(SUFFIX)]
    if not found:
        raise ValueError(f"{folder} holds no texts, files whose names end in {SUFFIX}")
    return found


def _read_all(paths: Sequence[Path]) -> list[Document]:
    return [document for path in paths for document in read_documents(path)]


def read_documents(path: Path) -> Iterator[Document]:
    """Yields the documents of a file: sentences, a line each; none is empty.

    Raises:
        ValueError: if it cannot be read, or is no text in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read the text {path}: {reason}") from None
    sentences: list[str] = []
    for line in (*text.split("\n"), ""):
        if line.strip():
            sentences.append(line.strip())
        elif sentences:
            yield tuple(sentences)
            sentences = []


def _digest(document: Document) -> str:
    return hashlib.sha256("\n".join(document).encode()).hexdigest()
