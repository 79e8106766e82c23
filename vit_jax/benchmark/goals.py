"""How fast ours is to be beside others, and whether it is."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vit_jax.benchmark.models import PYTORCH, TIMM
from vit_jax.benchmark.plain_flax import PLAIN
from vit_jax.benchmark.starting import COLD, UNROLLED

PEAK = "the device's peak"  # what a goal for the MFU is over
PLAIN_TF_DATA, PILLOW, SIMPLEJPEG = "plain tf.data", "Pillow", "simplejpeg and Pillow"
CV2_AREA = "simplejpeg and cv2's INTER_AREA"
CV2_LINEAR = "simplejpeg and cv2 without antialiasing"
_READERS = (PLAIN_TF_DATA, PILLOW, SIMPLEJPEG, CV2_AREA, CV2_LINEAR)
_LARGEST_DEVIATION = 1.0  # of 255, of results that are still the same
PRODUCT = "product: 1576 x 768 by 768 x 3072"  # the case of the libraries' matrix products

_TIMM = (TIMM, f"{TIMM} compiled")
_EAGER, _COMPILED = (PYTORCH,), (f"{PYTORCH} compiled",)
_PYTORCH = _EAGER + _COMPILED
_COMPUTED_BY_PYTORCH = {*_TIMM, *_PYTORCH}


@dataclasses.dataclass(frozen=True)
class Goal:
    """How much faster ours is to be than the best of some others.

    Attributes:
        number: of the table in which the goals were set.
        ratio: least median time of the others by ours.
        over: names of the others; those that did not run are left out, and those whose results
            deviate by more than one of 255 levels. Or `PEAK`, and the ratio is the MFU.
        limit: what was found to stand in the way where it was not met, and on which processor.
    """

    number: int
    ratio: float
    over: tuple[str, ...]
    limit: str = ""


_PRODUCTS = (
    "on an AMD EPYC five sixths of the time go to matrix products and attention, at the rate of "
    "the product; chunks of two images, which a model cannot choose for its caller, gained 8 %"
)
_BACKWARD = (
    "on an AMD EPYC 520 of a ViT-S_16 step's 800 ms are matrix products at the rate of MKL, which "
    "all have alike, and some 120 attention, at less than half of it; attention with a backward "
    "pass of its own, queries, keys and values by one product, other forms of the products for the "
    "weights' gradients, and the gradient's norm apart from Adam gained 3 % or less each"
)
_PASSES = (
    "on an AMD EPYC products, attention and convolutions take 81 of DehazeFormer-T's 133 ms; the "
    "others are passes over all values, such as sums, that XLA does not join with them"
)
_WINDOWS = (
    "on an AMD EPYC products take 70 % of SwinIR-classical-x2's time, attention 16 % and copies "
    "around it 10 %; taking queries, keys and values apart before the windows are cut gained 4 %, "
    "other orders of the axes nothing"
)
_TRACED_ONCE = (
    "the longer of the two became shorter, since blocks that are alike are traced once: on an AMD "
    "EPYC from 10.7 to 6.9 s for ViT-L_16 unrolled, from 5.9 to 4.6 s for ViT-B_16 without the "
    "cache"
)
_READING = (
    "on an AMD EPYC ours was 0.92 to 1.13 times as fast as OpenCV's INTER_AREA in four runs, with "
    "a result half as far from the exact one; half of its time goes to decoding the crop"
)
_DEPTHWISE = (
    "on one core of an Intel Xeon ours took 18 ms for an image where compiled PyTorch took 21, "
    "and 165 for eight where it took 166; between the products of a block of the first stage, for "
    "eight images, GELU with the padding takes 2.5 ms and the depthwise convolution, a sum of nine "
    "shifted products, 4.7"
)
_CONVOLUTIONS = (
    "on one core of an Intel Xeon ours took 89 ms for an image where compiled PyTorch took 81, "
    "and 662 for eight where it took 574; XLA's convolutions of 3 x 3 run at about 55 billion "
    "multiplications in a second and its products at 70"
)
_RATES = (
    "two thirds of the multiplications are convolutions of 3 x 3, 1 x 5 and 5 x 1 in the decoder "
    "and products of 128 to 512 channels in the encoder, which on one core of an Intel Xeon run at "
    "60 to 65 billion in a second in XLA"
)

_OF_DEHAZING = (Goal(4, 2.5, _EAGER, _PASSES), Goal(4, 1.2, _COMPILED))

# Case, its suite before it -> goals on a CPU of any maker.
ON_CPU: dict[str, tuple[Goal, ...]] = {
    "inference: ViT-S_16, 224 x 224, batch 1": (Goal(1, 1.1, _TIMM),),
    "inference: ViT-B_16, 224 x 224, batch 1": (Goal(1, 1.1, _TIMM),),
    "inference: ViT-S_16, 224 x 224, batch 8": (
        Goal(2, 1.0, _TIMM, _PRODUCTS), Goal(2, 1.3, (PLAIN,), _PRODUCTS),
    ),
    "train: ViT-S_16, 224 x 224, batch 4": (
        Goal(3, 1.0, _TIMM, _BACKWARD), Goal(3, 1.15, (PLAIN,), _BACKWARD),
    ),
    "restore: DehazeFormer-T, 256 x 256, batch 1": _OF_DEHAZING,
    "restore: DehazeFormer-S, 256 x 256, batch 1": _OF_DEHAZING,
    "restore: DehazeFormer-B, 256 x 256, batch 1": _OF_DEHAZING,
    "restore: SwinIR-lightweight-x2, 128 x 128, batch 1": (
        Goal(5, 2.0, _EAGER, _WINDOWS), Goal(5, 1.1, _COMPILED, _WINDOWS),
    ),
    "restore: SwinIR-classical-x2, 128 x 128, batch 1": (Goal(5, 1.2, _PYTORCH, _WINDOWS),),
    "compile: ViT-L_16, step compiled: scanned layers": (
        Goal(6, 1 / 0.40, (UNROLLED,), _TRACED_ONCE),
    ),
    "compile: ViT-B_16, unrolled, step compiled: from the cache": (
        Goal(6, 1 / 0.35, (COLD,), _TRACED_ONCE),
    ),
    "compile: ViT-B_16, scanned, step compiled: from the cache": (
        Goal(6, 1 / 0.35, (COLD,), _TRACED_ONCE),
    ),
    "input: 200 JPEGs of 500 x 375 on one core": (Goal(7, 1.0, _READERS, _READING),),
    "inference: Swin-T-UPerNet, 256 x 256, batch 1": (Goal(13, 1.0, _PYTORCH),),
    "inference: EfficientFormerV2-S0, 224 x 224, batch 1": (Goal(13, 1.0, _TIMM, _DEPTHWISE),),
    "inference: EfficientFormerV2-S0, 224 x 224, batch 8": (Goal(13, 1.0, _TIMM, _DEPTHWISE),),
    "inference: ResNet-50, 224 x 224, batch 1": (Goal(13, 1.0, _TIMM, _CONVOLUTIONS),),
    "inference: ResNet-50, 224 x 224, batch 8": (Goal(13, 1.0, _TIMM, _CONVOLUTIONS),),
    "train: EfficientFormerV2-S0, 224 x 224, batch 8": (Goal(13, 1.0, _TIMM),),
    "inference: FlowFormer, 256 x 256, batch 1": (
        Goal(14, 1.3, _EAGER, _RATES), Goal(14, 1.1, _COMPILED, _RATES),
    ),
    "train: FlowFormer, 128 x 128, batch 1": (Goal(14, 1.3, _EAGER),),
}  # fmt: skip

# The same on an H100.
ON_ACCELERATOR: dict[str, tuple[Goal, ...]] = {
    "train: ViT-S_16, 224 x 224, batch 512": (Goal(8, 0.35, (PEAK,)), Goal(8, 1.1, _TIMM)),
    "train: ViT-B_16, 224 x 224, batch 256": (
        Goal(8, 0.45, (PEAK,)), Goal(8, 1.1, _TIMM), Goal(10, 2.5, (PLAIN,)),
        Goal(10, 1.25, (f"{PLAIN}, bfloat16",)),
    ),
    "train: ViT-L_16, 224 x 224, batch 128": (Goal(8, 0.50, (PEAK,)), Goal(8, 1.1, _TIMM)),
    "inference: ViT-B_16, 224 x 224, batch 256": (Goal(9, 0.55, (PEAK,)), Goal(9, 1.05, _TIMM)),
    "inference: ViT-L_16, 224 x 224, batch 256": (Goal(9, 0.60, (PEAK,)), Goal(9, 1.05, _TIMM)),
    "train: DehazeFormer-B, 256 x 256, batch 16": (Goal(11, 2.0, _EAGER),),
    "inference: Swin-T-UPerNet, 256 x 256, batch 16": (Goal(13, 1.0, _EAGER),),
    "train: EfficientFormerV2-S0, 224 x 224, batch 256": (Goal(13, 1.0, _TIMM),),
    "inference: EfficientFormerV2-S0, 224 x 224, batch 256": (Goal(13, 1.0, _TIMM),),
    "train: ResNet-50, 224 x 224, batch 256": (Goal(13, 1.0, _TIMM),),
    "inference: ResNet-50, 224 x 224, batch 256": (Goal(13, 1.0, _TIMM),),
}  # fmt: skip


def judge(goals: Mapping[str, Sequence[Goal]], cases: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Says of each goal whether it was met.

    Args:
        goals: by case.
        cases: what was found of each case: `rows` of `race.run`, or an `error`.

    Returns:
        By goal: `goal` (its number), `case`, `over` (the best of the others, or all of them),
        `wanted` and `found` ratios (the latter None if there is none), `state` ("met", "missed",
        "not comparable" where none of the others ran, "failed" or "not measured"), `product` (the
        ratio of the matrix products alone, where that plays a part, or None), `day` and `limit`.
    """
    product = product_ratio(cases)
    judged = []
    for case, of_case in goals.items():
        for goal in of_case:
            over, found, state = _look(goal, cases.get(case))
            judged.append({
                "goal": goal.number, "case": case, "over": over, "wanted": goal.ratio,
                "found": found, "state": state, "limit": goal.limit,
                "product": product if found and over in _COMPUTED_BY_PYTORCH else None,
                "day": cases.get(case, {}).get("date", ""),
            })  # fmt: skip
    return sorted(judged, key=lambda one: one["goal"])


def product_ratio(cases: Mapping[str, Any]) -> float | None:
    """How much faster a product of matrices is in XLA than in PyTorch; None if unknown."""
    rows = cases.get(PRODUCT, {}).get("rows", ())
    return rows[1]["ratio"] if len(rows) > 1 else None


def _look(goal: Goal, of_case: Mapping[str, Any] | None) -> tuple[str, float | None, str]:
    """What a goal is over, the ratio that was found, and its state."""
    everyone = " or ".join(goal.over)
    if of_case is None:
        return everyone, None, "not measured"
    if "error" in of_case:
        return everyone, None, "failed"
    over, found = _best_of(goal, of_case["rows"])
    if found is None:
        return everyone, None, "not comparable"
    return over, found, "met" if found >= goal.ratio else "missed"


def _best_of(goal: Goal, rows: Sequence[Mapping[str, Any]]) -> tuple[str, float | None]:
    """The fastest of those that a goal is over, and how much faster ours is."""
    if goal.over == (PEAK,):
        return PEAK, rows[0]["mfu"]
    others = [
        row
        for row in rows
        if row["contender"] in goal.over and (row.get("deviation") or 0) <= _LARGEST_DEVIATION
    ]
    if not others:
        return "", None
    best = min(others, key=lambda row: row["median_s"])
    return best["contender"], best["ratio"]


def format_goals(judged: Iterable[Mapping[str, Any]]) -> str:
    """Makes a Markdown table of what `judge` says, and lines of what stands in the way.

    Its "products" are how much faster the libraries' matrix products alone are.
    """
    judged = list(judged)
    if not judged:
        return "None is set for these cases."
    lines = [
        "| goal | case | beside | wanted | found | | day | products | found / products |",
        f"|{'---|' * 9}",
    ]
    for one in judged:
        found, product = one["found"], one["product"]
        cells = [
            str(one["goal"]), one["case"], one["over"], f"{one['wanted']:.2f}",
            "" if found is None else f"{found:.2f}", one["state"], one["day"],
            "" if product is None else f"{product:.2f}",
            "" if product is None else f"{found / product:.2f}",
        ]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    limits = dict.fromkeys(
        f"- goal {one['goal']}: {one['limit']}"
        for one in judged
        if one["state"] == "missed" and one["limit"]
    )
    return "\n".join(lines + (["", "Why goals were missed:", "", *limits] if limits else []))
