"""Captions with the ids that published tokenizers give them, see tests/golden/tokenizers.npz."""

import json
from pathlib import Path

import numpy as np

GOLDEN = np.load(Path(__file__).parent / "golden" / "tokenizers.npz")


def read_json(key):
    """What a key holds as JSON, in bytes."""
    return json.loads(GOLDEN[key].tobytes())


CAPTIONS = read_json("captions")


def write_wordpiece(path):
    """BERT's own small vocabulary of the golden file."""
    path.write_text("".join(f"{piece}\n" for piece in read_json("wordpiece/vocab")))
    return path


def write_sentencepiece(path):
    """A small unigram model: pad 0, end 1, unknown 2."""
    path.write_bytes(GOLDEN["sentencepiece_unigram/model"].tobytes())
    return path
