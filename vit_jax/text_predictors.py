"""What `predict` does with texts: words in the place of [MASK], and embeddings."""

import csv
import dataclasses
import functools
import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import in_memory, photos
from vit_jax.tasks import base

_LOG = logging.getLogger(__name__)

MASK = "[MASK]"
POOLS = ("mean", "first", "pooler")
_SUFFIX = ".txt"
BATCH = 32
STEP = 32  # texts are filled up to multiples of so many tokens, so that few programs are made
_CSV, _NPZ = PurePath("embeddings.csv"), PurePath("embeddings.npz")


class Text(NamedTuple):
    """A text that a person gives.

    Attributes:
        path: of its file, or what says that it was typed.
        line: its number in the file, or among those that were typed, from 1 on.
        text: itself.
    """

    path: Path
    line: int
    text: str


TYPED = Path("command line")
_ERRORS = "surrogatepass"  # of texts in memory, in which bytes that were typed may be no UTF-8


def find_items(
    arguments: Sequence[str | os.PathLike[str]],
    name: Callable[[Path], str] = lambda path: path.name,
) -> list[base.Item]:
    """Reads texts: each argument that is a file has one per line; others are texts themselves.

    Args:
        arguments: texts, files, and folders with files whose names end in .txt.
        name: of the results of a file.

    Returns:
        An item for each file, and one for all that was typed; see `texts_in`.

    Raises:
        ValueError: if an argument looks like a file that is not there, a file cannot be read, or
            there is no text.
    """
    by_path: dict[Path, list[bytes]] = {}
    for path, data in _sources(arguments):
        by_path.setdefault(path, []).append(data)
    found = [
        _item([(path, data) for data in everything], name(path))
        for path, everything in by_path.items()
    ]
    if not any(item.count for item in found):
        raise ValueError("there are no texts: give some in quotation marks, or a file with a line "
                         "each")  # fmt: skip
    return [item for item in found if item.count]


def take_texts(things: Sequence[Any]) -> list[base.Item]:
    """One item of all texts that a program has; raises a ValueError for what is none."""
    for thing in things:
        if not isinstance(thing, str):
            raise ValueError(f"a text is a str, and not {in_memory.say(thing)}")
    return [_item([(TYPED, _encode(text)) for text in things], TYPED.name)]


def texts_in(item: base.Item) -> list[Text]:
    """The texts of an item in order, less the empty lines of files."""
    found: list[Text] = []
    typed = 0
    for i, path in enumerate(item.paths):
        if path == TYPED:
            typed += 1
            found.append(Text(path, typed, item.read(i).decode(errors=_ERRORS)))
        else:
            lines = enumerate(lines_of(path, item.read(i)), 1)
            found += [Text(path, n, line.strip()) for n, line in lines if line.strip()]
    return found


def lines_of(path: Path, data: bytes) -> list[str]:
    """The lines of a file's contents; raises a ValueError if they are no text."""
    try:
        text = io.TextIOWrapper(io.BytesIO(data), "utf-8-sig").read()
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot read the texts {path}: {photos.explain(error)}") from None
    return text.removesuffix("\n").split("\n")


def _sources(arguments: Sequence[str | os.PathLike[str]]) -> Iterator[tuple[Path, bytes]]:
    """The contents of files, and what was typed, as bytes."""
    for argument in arguments:
        argument = str(os.fspath(argument))
        if not argument.strip():
            continue
        path = Path(argument)
        try:
            is_file, is_folder = path.is_file(), path.is_dir()
        except OSError:  # too long for a name
            is_file = is_folder = False
        if is_folder:
            inside = sorted(p for p in path.rglob("*") if p.name.lower().endswith(_SUFFIX))
            yield from ((file, _contents(file)) for file in inside)
        elif is_file:
            yield path, _contents(path)
        elif argument.lower().endswith(_SUFFIX) and not any(map(str.isspace, argument)):
            raise ValueError(f"there is no file {argument}")
        else:
            yield TYPED, _encode(argument)


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read the texts {path}: {photos.explain(error)}") from None


def _encode(text: str) -> bytes:
    return text.encode(errors=_ERRORS)


def _item(sources: Sequence[tuple[Path, bytes]], name: str | PurePath) -> base.Item:
    paths, data = zip(*sources)
    item = base.Item(paths, PurePath(name), data=data)
    return dataclasses.replace(item, count=len(texts_in(item)))


class _Reader:
    """Tokens of texts, and what a model makes of them, batch by batch.

    Args:
        pretrained: the model.
        apply: from a model, its variables and tokens, segments and mask, to arrays with a row each.
    """

    def __init__(self, pretrained: base.Pretrained, apply: Callable[..., Any]) -> None:
        from input_pipeline import tokenizers

        model = pretrained.model
        self.tokenizer = tokenizers.make_tokenizer(model.tokenizer, pretrained.vocabulary)
        check_vocabulary(pretrained, self.tokenizer)
        self._apply = jax.jit(functools.partial(apply, model))
        self._variables = jax.device_put(pretrained.variables)

    def read(self, texts: Sequence[str], *more: np.ndarray) -> tuple[np.ndarray, np.ndarray, Any]:
        """Reads at most `BATCH` texts.

        Args:
            texts: of which a [MASK] is one.
            *more: (texts, ...) that the model's function takes besides.

        Returns:
            (texts, n) int32 tokens, (texts,) bool whether a text was cut, and what came of it.
        """
        tokens, is_cut = self.tokenizer.encode(texts, masks=True)
        mask = tokens != self.tokenizer.pad
        n = min(-(-int(mask.sum(axis=1).max()) // STEP) * STEP, tokens.shape[1])
        spare = [(0, BATCH - len(texts)), (0, 0)]
        rows = (np.pad(x[:, :n], spare) for x in (tokens, np.zeros_like(tokens), mask))
        out = jax.device_get(self._apply(self._variables, *rows, *more))
        return tokens[:, :n], is_cut, jax.tree.map(lambda leaf: leaf[: len(texts)], out)


def check_vocabulary(pretrained: base.Pretrained, tokenizer: Any) -> None:
    """Raises a ValueError unless a vocabulary has as many words as a model."""
    if tokenizer.vocabulary_size != pretrained.model.vocabulary_size:
        raise ValueError(
            f"{pretrained.name} has {pretrained.model.vocabulary_size} words, and the vocabulary "
            f"{tokenizer.vocabulary} {tokenizer.vocabulary_size}: say which is its own, "
            "--vocabulary=FILE"
        )


def batches(texts: Sequence[Text]) -> Iterator[Sequence[Text]]:
    """Texts in groups of `BATCH`."""
    for i in range(0, len(texts), BATCH):
        yield texts[i : i + BATCH]


def where(text: Text) -> str:
    """Says of which line of which file a text is."""
    return f"line {text.line} of {text.path}" if text.path != TYPED else f"text {text.line}"


def say_cut(text: Text, tokenizer: str, done: str) -> None:
    """Says that a text has more pieces than the tokenizer of such a spec makes."""
    _LOG.warning("%s is too long for %s, and its end is not %s", where(text), tokenizer, done)


class WordTeller:
    """Says which words are the likeliest in the place of each [MASK].

    Args:
        pretrained: a model with `heads`.
        count: how many words.

    Raises:
        ValueError: if the model tells none, or not so many.
    """

    header = ("line", "text", "filled", "words")
    has_files = False
    find = staticmethod(find_items)
    take = staticmethod(take_texts)

    def __init__(self, pretrained: base.Pretrained, count: int) -> None:
        model = pretrained.model
        if not model.heads:
            raise ValueError(
                f"{pretrained.name} has no head that tells words, and embeds texts alone: add "
                "--embed and --output=FOLDER"
            )
        if not 1 <= count <= model.vocabulary_size:
            raise ValueError(
                f"--words must lie between 1 and the model's {model.vocabulary_size}, not {count}"
            )

        def apply(model: Any, variables: Any, *inputs: jax.Array) -> Any:
            words = model.apply(variables, *inputs)["words"]
            return jax.lax.top_k(jax.nn.softmax(words), count)

        self._reader = _Reader(pretrained, apply)

    def outputs(self, item: base.Item) -> Sequence[PurePath]:
        del item
        return ()

    def answers(self, items: Sequence[base.Item]) -> Iterator[base.Answer]:
        for item in items:
            for batch in batches(texts_in(item)):
                yield from self._answer(batch)

    def _answer(self, texts: Sequence[Text]) -> Iterator[base.Answer]:
        tokens, is_cut, (shares, ids) = self._reader.read([text.text for text in texts])
        for i, text in enumerate(texts):
            places = np.flatnonzero(tokens[i] == self._reader.tokenizer.mask)
            missing = text.text.count(MASK) - len(places)
            if missing or not len(places):
                what = f"is too long, and {missing} of its {MASK} were cut off" if missing else (
                    f"has no {MASK} to fill in")  # fmt: skip
                yield base.Answer(text.path, problems=(f"{where(text)} {what}: {text.text!r}",))
                continue
            if is_cut[i]:
                say_cut(text, self._reader.tokenizer.spec, "looked at")
            said = [self._say(shares[i, place], ids[i, place]) for place in places]
            filled = text.text
            for place in places:
                filled = filled.replace(MASK, self._word(ids[i, place, 0]), 1)
            line = f"{text.text}: {' | '.join(said)}"
            row = (text.line, text.text, filled, " | ".join(said))
            value = [self._words(shares[i, place], ids[i, place]) for place in places]
            yield base.Answer(text.path, line, row, value=value)

    def _say(self, shares: np.ndarray, ids: np.ndarray) -> str:
        return ", ".join(f"{self._word(i)} {share:.1%}" for i, share in zip(ids, shares))

    def _words(self, shares: np.ndarray, ids: np.ndarray) -> dict[str, float]:
        """Probabilities by word; of pieces that read alike, the likeliest one's."""
        words = {self._word(i): float(share) for i, share in zip(ids[::-1], shares[::-1])}
        return dict(reversed(words.items()))

    def _word(self, i: int) -> str:
        return self._reader.tokenizer.decode([i]) or f"[{i}]"


class Embedder:
    """Writes the embeddings of texts, as arrays and as a table.

    Args:
        pretrained: the model.
        pool: one of `POOLS`; all are of length 1 afterwards.
        writes: whether there is a folder for results.

    Raises:
        ValueError: if the model has no pooler, and that is wanted.
    """

    header = ()
    has_files = True
    take = staticmethod(take_texts)

    def __init__(self, pretrained: base.Pretrained, pool: str, writes: bool) -> None:
        if pool == "pooler" and not pretrained.model.pooler:
            raise ValueError(f"{pretrained.name} has no pooler: take --pool=mean or first")

        self._writes = writes
        self._reader = _Reader(pretrained, functools.partial(embed, pool=pool))

    def find(self, arguments: Sequence[str | os.PathLike[str]]) -> list[base.Item]:
        """One item for all texts, see `find_items`."""
        items = find_items(arguments)
        sources = [(path, item.read(i)) for item in items for i, path in enumerate(item.paths)]
        return [_item(sources, _NPZ)]

    def outputs(self, item: base.Item) -> Sequence[PurePath]:
        del item
        return (_NPZ, _CSV)

    def answers(self, items: Sequence[base.Item]) -> Iterator[base.Answer]:
        """An answer for each text, the last of which has the files of all of an item."""
        for item in items:
            yield from self._embed(texts_in(item))

    def _embed(self, texts: Sequence[Text]) -> Iterator[base.Answer]:
        found: list[np.ndarray] = []
        for batch in batches(texts):
            _, is_cut, rows = self._reader.read([text.text for text in batch])
            found.extend(rows)
            for text, cut, row in zip(batch, is_cut, rows):
                if cut:
                    say_cut(text, self._reader.tokenizer.spec, "embedded")
                is_last = len(found) == len(texts) and text is batch[-1]
                files = _files(texts, np.stack(found)) if is_last and self._writes else {}
                line = f"{where(text)} is embedded"
                yield base.Answer(text.path, line, files=files, value=row)


def _files(texts: Sequence[Text], embeddings: np.ndarray) -> Mapping[PurePath, bytes]:
    arrays = io.BytesIO()
    np.savez(
        arrays,
        embeddings=embeddings,
        texts=[text.text for text in texts],
        files=[str(text.path) for text in texts],
        lines=[text.line for text in texts],
    )
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    numbers = range(embeddings.shape[1])
    writer.writerow(["file", "line", "text", *(f"embedding_{i}" for i in numbers)])
    for text, row in zip(texts, embeddings):
        writer.writerow([*text, *(f"{value:.9g}" for value in row)])
    data = table.getvalue().encode("utf-8", errors="surrogateescape")
    return {_NPZ: arrays.getvalue(), _CSV: data}


def embed(
    model: Any,
    variables: Any,
    tokens: jax.Array,
    segments: jax.Array | None,
    mask: jax.Array,
    pool: str = "mean",
) -> jax.Array:
    """Embeds texts.

    Args:
        model: a BERT.
        variables: of it.
        tokens: (b, n) int32.
        segments: (b, n) int32, or None.
        mask: (b, n), not 0 for tokens that are none of the padding.
        pool: "mean" of the states of these tokens, [CLS] and [SEP] among them, as
            sentence-transformers takes it; "first", the state of [CLS]; or "pooler".

    Returns:
        (b, d) float32, of length 1.
    """
    assert pool in POOLS
    out = model.clone(heads=False).apply(variables, tokens, segments, mask)
    if pool == "mean":
        weights = mask.astype(jnp.float32)[..., None]
        rows = (out["states"] * weights).sum(axis=1) / jnp.maximum(weights.sum(axis=1), 1)
    else:
        rows = out["pooled"] if pool == "pooler" else out["states"][:, 0]
    return rows / jnp.maximum(jnp.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
