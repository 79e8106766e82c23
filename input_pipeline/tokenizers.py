"""Texts become rows of numbers, just as each model was trained to see them.

A spec names the model's way and the length of a row: `clip(77)`. Length, padding, case, and what
stands first and last are all part of it, since a text tower takes anything else without a word and
answers with nonsense. The vocabulary is a file, see `vocabularies`.
"""

import dataclasses
import hashlib
import html
import os
import re
import string
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
from etils import epath

from input_pipeline import vocabularies
from input_pipeline.arguments import unknown
from input_pipeline.vocabularies import Vocabulary

_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a family of models is given texts.

    Attributes:
        family: of its vocabulary, see `vocabularies`.
        begin: the role of the piece before the text, "" for none.
        end: of the one after it, which a text too long keeps.
        pad: of those that fill the row.
        clean: what is done to a text first.
        plain: what is done to a prompt of a class before that.
        stops: whether what stands after the first end is no text.
    """

    family: str
    begin: str
    end: str
    pad: str
    clean: Callable[[str], str]
    plain: Callable[[str], str] = str
    stops: bool = False


def _clean_for_clip(text: str) -> str:
    """Mends wrongly decoded text and HTML, leaves one blank between words, and lowers.

    Source: openai/CLIP's clip/simple_tokenizer.py.
    """
    if not text.isascii() or not text.isprintable() or "&" in text:  # or it changes nothing
        text = html.unescape(html.unescape(vocabularies.load_package("ftfy").fix_text(text)))
    return " ".join(text.split()).lower()


def _fold(text: str) -> str:
    """Folds case as TensorFlow Text does, which LiT was trained with: it spells `½` and `№` out.

    BERT's own tokenizer only lowers and drops accents.
    """
    if text.isascii():
        return text
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def canonicalize(text: str) -> str:
    """Leaves words in lower case, without ASCII's punctuation, and one blank between any two.

    Source: google-research/big_vision's evaluators/proj/image_text/prompt_engineering.py.
    """
    return " ".join(text.replace("_", " ").translate(_NO_PUNCTUATION).lower().split())


def _whole(text: str) -> str:
    """Without halves of characters, which no file has, but a command line can."""
    if not isinstance(text, str):
        raise ValueError(f"texts must be str, and {text!r} is {type(text).__name__}: decode it")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


KINDS = {
    "clip": Kind("clip", "begin", "end", "zero", _clean_for_clip, stops=True),
    "bert": Kind("bert", "begin", "", "pad", _fold),
    "bert_pair": Kind("bert", "begin", "end", "pad", str),
    "sentencepiece_lit": Kind("sentencepiece", "", "end", "end", str),
    "siglip": Kind("sentencepiece", "", "end", "end", str.lower, canonicalize),
    "siglip2": Kind("sentencepiece", "", "end", "pad", str.lower, canonicalize),
    "bpe": Kind("bpe", "begin", "end", "pad", str, stops=True),
    "words": Kind("words", "begin", "end", "pad", str, stops=True),
}


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """Turns texts into rows of numbers; from `make_tokenizer`. Threads may share it.

    Attributes:
        spec: that it was made of.
        kind: that the spec names.
        length: numbers in a row.
        words: its vocabulary.
    """

    spec: str
    kind: Kind
    length: int
    words: Vocabulary

    @property
    def vocabulary(self) -> str:
        """Path of the vocabulary's file."""
        return self.words.path

    @property
    def digest(self) -> str:
        """16 digits of a hash of the vocabulary's files: another makes other numbers of a text."""
        data = b"".join(epath.Path(file).read_bytes() for file in self.words.files)
        data = data or self.words.decode(range(self.words.size)).encode()  # the toys have no file
        return hashlib.sha256(data).hexdigest()[:16]

    @property
    def vocabulary_size(self) -> int:
        """How many pieces there are."""
        return self.words.size

    @property
    def pad(self) -> int:
        """The number that fills a row."""
        return 0 if self.kind.pad == "zero" else self._role(self.kind.pad)

    @property
    def begin(self) -> int | None:
        """The number before a text, BERT's [CLS]; None if there is none."""
        return self._role(self.kind.begin) if self.kind.begin else None

    @property
    def end(self) -> int | None:
        """The number after a text, BERT's [SEP]; None if there is none."""
        return self._role(self.kind.end) if self.kind.end else None

    @property
    def cls(self) -> int:
        """BERT's [CLS]."""
        return self._role("begin")

    @property
    def sep(self) -> int:
        """BERT's [SEP]."""
        return self._role("end")

    @property
    def mask(self) -> int:
        """BERT's [MASK]."""
        return self._role("mask")

    def _role(self, role: str) -> int:
        if role not in self.words.roles:
            raise ValueError(f"the vocabulary {self.vocabulary} has no piece for {role}")
        return self.words.roles[role]

    def encode(
        self, texts: Sequence[str], masks: bool = False, begins: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives the rows of texts, and whether they were cut.

        Args:
            texts: n of them.
            masks: whether `[MASK]` in a text is the mask; else it is text, as are all such names.
            begins: whether the begin stands before a text, if there is one; a source to translate
                has none.

        Returns:
            (n, length) int32, and (n,) bool: whether a text has more pieces than there is room for,
            so that its end is lost.

        Raises:
            ValueError: if it is a text, and not several; or there is no mask.
        """
        before = [self.begin] if begins and self.begin is not None else []
        after = [] if self.end is None else [self.end]
        room = self.length - len(before) - len(after)
        ids = np.full((len(texts), self.length), self.pad, np.int32)
        is_cut = np.zeros(len(texts), bool)
        for i, pieces in enumerate(self._pieces(texts, masks)):
            row = [*before, *pieces[:room], *after]
            ids[i, : len(row)] = row
            is_cut[i] = len(pieces) > room
        return ids, is_cut

    def __call__(
        self, texts: Sequence[str], masks: bool = False, begins: bool = True
    ) -> np.ndarray:
        """(n, length) int32 of n texts, see `encode`."""
        return self.encode(texts, masks, begins)[0]

    def is_cut(self, texts: Sequence[str]) -> np.ndarray:
        """(n,) bool: which of n texts are too long, see `encode`."""
        return self.encode(texts)[1]

    def of_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """(n, length) int32 of n prompts with the names of classes in them.

        SigLIP's published figures are of prompts without punctuation, which its texts have.
        """
        return self([self.kind.plain(prompt) for prompt in prompts])

    def encode_pairs(
        self, first: Sequence[str], second: Sequence[str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Gives pairs of texts as BERT sees them: `[CLS] first [SEP] second [SEP]`.

        What is too long is taken from the end of the longer one, piece by piece.

        Args:
            first: n texts.
            second: n texts.

        Returns:
            (n, length) int32, and the segments, (n, length) int32: 1 for the second text and its
            [SEP], else 0.
        """
        if len(first) != len(second):
            raise ValueError(f"{len(first)} texts have no pairs in {len(second)}")
        ids = np.full((len(first), self.length), self.pad, np.int32)
        segments = np.zeros_like(ids)
        for i, pair in enumerate(zip(self._pieces(first), self._pieces(second), strict=True)):
            a, b = shorten_pair(*pair, self.length - 3)
            row = [self.cls, *a, self.sep, *b, self.sep]
            ids[i, : len(row)] = row
            segments[i, len(a) + 2 : len(row)] = 1
        return ids, segments

    def pieces(self, text: str, masks: bool = False) -> list[int]:
        """The numbers of a text's pieces alone, however many there are."""
        return self._pieces([text], masks)[0]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turns numbers back into words, without what stands for none; case and more are lost."""
        silent = {n for role, n in self.words.roles.items() if role not in ("unknown", "mask")}
        numbers = [int(number) for number in ids]
        if self.kind.stops and self.end in numbers:  # CLIP's padding is a piece of text, too
            numbers = numbers[: numbers.index(self.end)]
        return self.words.decode([n for n in numbers if n not in silent]).strip()

    def _pieces(self, texts: Sequence[str], masks: bool = False) -> list[list[int]]:
        if isinstance(texts, str | bytes):
            raise ValueError(f"a list of texts is expected, and not one text: [{texts!r}]")
        if masks:
            return [self._with_masks(text.split("[MASK]")) for text in texts]
        return self.words.encode([self.kind.clean(_whole(text)) for text in texts])

    def _with_masks(self, parts: list[str]) -> list[int]:
        """Pieces of the parts of a text, with the mask between any two."""
        found = [pieces for part in self._pieces(parts) for pieces in (part, [self.mask])]
        return [number for pieces in found[:-1] for number in pieces]

    def check_fits(self, vocabulary_size: int, text_length: int) -> None:
        """Raises a ValueError unless a text tower's sizes are those of the rows.

        An embedding of another size would be read at the wrong places without a word.
        """
        if vocabulary_size != self.vocabulary_size:
            raise ValueError(
                f"the model has {vocabulary_size:,} pieces, and the vocabulary {self.vocabulary} "
                f"has {self.vocabulary_size:,}: it is another one than the model's, which "
                "--vocabulary=PATH names, or --config.text.vocabulary=PATH in training; a model "
                "that is trained from the beginning takes --config.model.vocabulary_size="
                f"{self.vocabulary_size}"
            )
        if text_length != self.length:
            raise ValueError(
                f"the model takes texts of {text_length} pieces, and {self.spec} makes "
                f"{self.length}: --config.model.text_length={self.length}"
            )


def make_tokenizer(spec: str, vocabulary: str | os.PathLike[str] = "") -> Tokenizer:
    """Makes a tokenizer.

    Args:
        spec: `clip(77)`; `bert(16)` as LiT has it, [CLS] and no [SEP]; `bert_pair(128)`, BERT's own
            [CLS] ... [SEP]; `sentencepiece_lit(16)`; `siglip(64)`; `siglip2(64)`; and to translate
            `bpe(128)`, any tokenizer.json with <pad>, <s> and </s> or such, and `words(32)`, what
            stands between blanks. The number is that of the pieces in a row.
        vocabulary: path of its file, of a folder or of weights beside which it lies, or "" for that
            of an installed package, and of `words` that of the toys; see
            `vocabularies.find_vocabulary`.

    Raises:
        ValueError: if the spec cannot be read, or there is no such vocabulary.
        ModuleNotFoundError: if a package of the extra `text` is not installed.
    """
    kind, length = parse(spec)
    words = vocabularies.read_vocabulary(vocabulary, kind.family)
    if kind.family == "bert" and not words.folds:
        kind = dataclasses.replace(kind, clean=str)
    tokenizer = Tokenizer(spec, kind, length, words)
    if kind.family == "clip":
        vocabularies.load_package("ftfy")  # asked for now, and not at the first umlaut
    tokenizer([])  # or raises, for a vocabulary that lacks what begins, ends or fills a row
    if kind.family == "bert" and tokenizer.pad != 0:
        raise ValueError(f"{words.path}: [PAD] must be 0, which models hide, not {tokenizer.pad}")
    if kind.family == "clip" and tokenizer.end != words.size - 1:
        raise ValueError(
            f"{words.path}: the end must have the greatest number of {words.size}, by which models "
            f"find it, not {tokenizer.end}"
        )
    return tokenizer


def find_vocabulary(path: str | os.PathLike[str], spec: str) -> str:
    """Path of the vocabulary that a spec's texts take; "" if there is none.

    Args:
        path: of weights or of a folder; see `vocabularies.find_vocabulary`.
        spec: see `make_tokenizer`.
    """
    return vocabularies.find_vocabulary(path, parse(spec)[0].family)


def parse(spec: str) -> tuple[Kind, int]:
    """What a spec names, and its length; see `make_tokenizer` for the errors."""
    match = re.fullmatch(r"\s*(\w+)\s*\(\s*(\d+)\s*\)\s*", spec)
    if match is None:
        raise ValueError(f"tokenizer {spec!r}: write it with its length, such as clip(77)")
    name, length = match[1], int(match[2])
    if name not in KINDS:
        raise ValueError(unknown("tokenizer", name, KINDS))
    kind = KINDS[name]
    least = 1 + bool(kind.begin) + bool(kind.end)
    if length < least:
        raise ValueError(f"tokenizer {spec!r}: the length must be at least {least}")
    return kind, length


def shorten_pair(
    first: Sequence[int], second: Sequence[int], most: int
) -> tuple[list[int], list[int]]:
    """Takes pieces from the end of the longer of two texts until there are `most` of both."""
    a, b = list(first), list(second)
    while len(a) + len(b) > most:
        (a if len(a) > len(b) else b).pop()
    return a, b
