"""Texts of examples, which a tokenizer makes numbers of."""

import logging
import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from input_pipeline.cpu_tf import tf
from input_pipeline.fields import TEXTS, Fields

_LOG = logging.getLogger(__name__)

_COUNTED_AT_ONCE = 4096
_MOST_COUNTED = 100_000  # of half a million captions to count the cut ones takes half a minute

_SIDES = re.compile(r"\b(left|right)\b", re.IGNORECASE)


class Tokenize(Protocol):
    """What makes numbers of texts, such as those of `input_pipeline.tokenizers`.

    Attributes:
        length: of what it makes, in tokens.
        pad: the token that fills up a text.
        digest: tells its vocabulary from others.
    """

    @property
    def length(self) -> int: ...

    @property
    def pad(self) -> int: ...

    @property
    def digest(self) -> str: ...

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns (texts, length) int32."""

    def is_cut(self, texts: Sequence[str]) -> np.ndarray:
        """Returns (texts,) bool, whether something of a text is not in its tokens."""


def tokenized(fields: Fields, tokenize: Tokenize) -> Fields:
    """Replaces texts by their tokens.

    Args:
        fields: of which `text` () and `captions` (k,) are replaced if they are strings.
        tokenize: makes the tokens.

    Returns:
        The fields, with `text` (n,) int32 and `captions` (k, n) int32, in which the rows of those
        that are "" hold nothing but `pad`.
    """

    def tokens_of(data: np.ndarray) -> np.ndarray:
        texts = [text.decode("utf-8") for text in np.ravel(data)]
        return np.asarray(tokenize(texts), np.int32).reshape(*np.shape(data), tokenize.length)

    def captions_of(data: np.ndarray) -> np.ndarray:
        tokens = np.full((len(data), tokenize.length), tokenize.pad, np.int32)
        is_there = data != b""
        if is_there.any():
            tokens[is_there] = tokens_of(data[is_there])
        return tokens

    made = {}
    for key in TEXTS:
        if key in fields and fields[key].dtype == tf.string:
            text = fields[key]
            function = captions_of if text.shape.rank else tokens_of
            tokens = tf.numpy_function(function, [text], tf.int32, stateful=False)
            made[key] = tf.ensure_shape(tokens, (*text.shape, tokenize.length))
    return {**fields, **made}


def tell_cut(split: str, there: Sequence[str], tokenize: Tokenize) -> None:
    """Warns, once, of the texts of a split that are longer than what a tokenizer makes of them.

    Of more than 100,000 every second is looked at, or every third, and so on.
    """
    cut: list[str] = []
    looked_at = there[:: -(-len(there) // _MOST_COUNTED) or 1]
    for i in range(0, len(looked_at), _COUNTED_AT_ONCE):
        some = looked_at[i : i + _COUNTED_AT_ONCE]
        cut += [text for text, is_cut in zip(some, tokenize.is_cut(some)) if is_cut]
    if cut:
        _LOG.warning(
            "%s: %d of %d texts are longer than %d tokens, and their ends are cut off, such as %r",
            split, len(cut), len(looked_at), tokenize.length, cut[0],
        )  # fmt: skip


def warn_of_mirroring(names: Sequence[str], there: Sequence[str]) -> None:
    """Warns if images are mirrored to train on, and what is said of them tells left from right.

    Args:
        names: of the ops of the images' preprocessing.
        there: texts to train on.
    """
    sided = [text for text in there if _SIDES.search(text)] if "flip_lr" in names else []
    if sided:
        _LOG.warning(
            "data.train_pp has flip_lr, which mirrors images, and %d of %d texts say left or "
            "right, such as %r: take it out unless that does not matter",
            len(sided), len(there), sided[0],
        )  # fmt: skip
