"""Which parts of the data sets of optical flow are trained on, and how often each.

Source of the weights: the training code of Teed and Deng, "RAFT" (ECCV 2020).
"""

import re
from collections.abc import Collection

from input_pipeline.sources.flow_pairs import PARTS

Weights = dict[str, int]  # how often an epoch shows each pair, by part

MIXTURES: dict[str, Weights] = {
    "chairs": {"chairs": 1},
    "things": {"things_clean": 1, "things_final": 1},
    "sintel": {
        "sintel_clean": 100, "sintel_final": 100, "kitti": 200, "hd1k": 5, "things_clean": 1,
    },
    "sintel_things": {"sintel_clean": 100, "sintel_final": 100, "things_clean": 1},
    "kitti": {"kitti": 1},
}  # fmt: skip

_TERM = re.compile(r"\s*(?:(\d{1,6})\s*\*)?\s*(\w+)\s*")


def weights_of(text: str, there: Collection[str], key: str, folder: str) -> Weights:
    """Reads a mixture.

    Args:
        text: the name of one of `MIXTURES`; or parts with their weights, as in
            "100 * sintel_clean + kitti"; or "" for all that there is.
        there: the parts that a folder has.
        key: of the config that said so.
        folder: where the parts are.

    Returns:
        The weights by part.

    Raises:
        ValueError: if it is no mixture, or a part is not there.
    """
    weights = MIXTURES.get(text.strip()) or _parse(text, key) or dict.fromkeys(there, 1)
    lacking = [part for part in weights if part not in there]
    if lacking:
        raise ValueError(
            f"{key}={text!r} needs {', '.join(lacking)}, and {folder} has {', '.join(there)}"
        )
    return weights


def _parse(text: str, key: str) -> Weights:
    weights: Weights = {}
    for term in text.split("+") if text.strip() else ():
        match = _TERM.fullmatch(term)
        if match is None or match[2] not in PARTS or match[2] in weights or match[1] == "0":
            raise ValueError(
                f"{key}={text!r}: {term.strip()!r} is no new part with its weight; write such as "
                f"'100 * sintel_clean + kitti', of {', '.join(PARTS)}; or one of "
                f"{', '.join(MIXTURES)}"
            )
        weights[match[2]] = int(match[1] or 1)
    return weights
