"""Scikit-learn's handwritten digits: 1,797 real images of 8 x 8 pixels that need no download.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI repository (1998);
scikit-learn ships its test part.
"""

from typing import Any

import numpy as np

from input_pipeline.sources.base import IndexedSource, Source

TEST_EXAMPLES = 360
VAL_EXAMPLES = 180


def splits(config: Any) -> dict[str, Source]:
    """Makes the three splits: 360 test and 180 validation digits, 1,257 to train on.

    Args:
        config: `config.data`; `split_seed` decides which digit goes where, classes in proportion.

    Returns:
        Sources "train", "val" and "test" of (8, 8, 1) uint8 images.

    Raises:
        ValueError: if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets, model_selection
    except ImportError:
        raise ValueError(
            "data.source='digits' needs scikit-learn: pip install 'vit_jax[demo]'"
        ) from None
    digits = datasets.load_digits()
    images = np.round(digits.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = digits.target.astype(np.int32)

    rest, test = model_selection.train_test_split(
        np.arange(len(labels)),
        test_size=TEST_EXAMPLES,
        random_state=config.split_seed,
        stratify=labels,
    )
    train, val = model_selection.train_test_split(
        rest, test_size=VAL_EXAMPLES, random_state=config.split_seed, stratify=labels[rest]
    )
    names = tuple(str(name) for name in digits.target_names)
    parts = {"train": train, "val": val, "test": test}
    return {
        split: IndexedSource({"image": images[rows], "label": labels[rows]}, names)
        for split, rows in parts.items()
    }
