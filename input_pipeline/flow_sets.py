"""The data sets of optical flow, by number, and how each is augmented at a stage of training.

Source: the training code of Teed and Deng, "RAFT" (ECCV 2020), which FlowFormer's follows.
"""

import dataclasses
from collections.abc import Mapping

Range = tuple[float, float]


@dataclasses.dataclass(frozen=True)
class FlowSet:
    """A data set.

    Attributes:
        name: of it.
        is_sparse: whether the flow of few pixels is known, as of a laser's. Such a flow is never
            interpolated.
    """

    name: str
    is_sparse: bool


# The field `set` of an example, () int32, is a row of this table: add new ones at its end.
SETS = (
    FlowSet("chairs", is_sparse=False),
    FlowSet("things", is_sparse=False),
    FlowSet("sintel", is_sparse=False),
    FlowSet("kitti", is_sparse=True),
    FlowSet("hd1k", is_sparse=True),
    FlowSet("own", is_sparse=False),  # a person's own pairs, with .flo or .pfm
    FlowSet("own_sparse", is_sparse=True),  # with PNGs as KITTI's
)


@dataclasses.dataclass(frozen=True)
class Stage:
    """How the images of a stage of training are augmented.

    Attributes:
        scales: lowest and highest exponent of 2 by which images are enlarged, by name of the set.
        other_scales: the same of sets that are not in `scales`.
        flips: whether images are mirrored.
    """

    scales: Mapping[str, Range]
    other_scales: Range
    flips: bool = True

    def scales_of(self, name: str) -> Range:
        """Lowest and highest exponent of 2 for a set of `SETS`."""
        return self.scales.get(name, self.other_scales)


STAGES = {
    "chairs": Stage({}, (-0.1, 1.0)),
    "things": Stage({}, (-0.4, 0.8)),
    "sintel": Stage({"kitti": (-0.3, 0.5), "hd1k": (-0.5, 0.2)}, (-0.2, 0.6)),
    "kitti": Stage({}, (-0.2, 0.4), flips=False),
}


def number(name: str) -> int:
    """The row of `SETS` with a set of this name."""
    return [row.name for row in SETS].index(name)
