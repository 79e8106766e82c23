"""Small images with captions, and a tokenizer of theirs."""

import json

import numpy as np
from PIL import Image

from tests.helpers import data_config

SPEC = "decode|resize(4)|value_range(0, 255)"


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(text.encode(encoding))
    return path


def photos(folder, *names):
    """Grey images, of which the i-th has the value 10 i."""
    for i, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 6), (10 * i,) * 3).save(folder / name)


def captions_config(source, **changes):
    config = data_config(source, "captions", train_pp=SPEC, eval_pp=SPEC, val_fraction=0.0)
    config.captions.update(changes)
    return config


class Letters:
    """A token per byte, padded with 9."""

    length, pad, digest = 4, 9, "letters"

    def __call__(self, texts):
        rows = [list(text.encode())[: self.length] for text in texts]
        return np.array([row + [self.pad] * (self.length - len(row)) for row in rows], np.int64)

    def is_cut(self, texts):
        return np.array([len(text.encode()) > self.length for text in texts])
