"""The suites and their cases by default."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import jax

from vit_jax.benchmark import models, plain_flax, starting
from vit_jax.benchmark.accelerator import SPECS
from vit_jax.benchmark.inference import infer
from vit_jax.benchmark.race import Case, Goal
from vit_jax.benchmark.training import train
from vit_jax.models import get_model

_TIMM, _TIMM_COMPILED = models.TIMM, f"{models.TIMM} compiled"
_PYTORCH, _PYTORCH_COMPILED = models.PYTORCH, f"{models.PYTORCH} compiled"

# What stands in the way of goals, measured on two cores of an AMD EPYC with AVX-512.
_PRODUCTS = (
    "five sixths of the time go to matrix products and attention, at the rate of the product "
    "above; chunks of two images, which a model cannot choose for its caller, gained 8 %"
)
_BACKWARD = (
    "half of a step are matrix products, which both have; attention with a backward pass of its "
    "own gained 3 %"
)
_PASSES = (
    "products, attention and convolutions take 81 of DehazeFormer-T's 133 ms; the others "
    "are passes over all values, such as sums, that XLA does not join with them. Eager PyTorch "
    "took 403 ms for it alone in a process, but 256 where glibc kept the memory that it frees "
    "(MALLOC_TRIM_THRESHOLD_, MALLOC_MMAP_THRESHOLD_), as it does after other cases"
)
_WINDOWS = (
    "in SwinIR-classical-x2 products take 70 % of the time, attention 16 % and copies around it "
    "10 %; taking queries, keys and values apart before the windows are cut gained 4 %, other "
    "orders of the axes nothing. Eager PyTorch takes 1.1 times as long where memory is not kept"
)
_TRACED_ONCE = (
    "the longer of the two became shorter, since blocks that are alike are traced once: from 10.7 "
    "to 6.9 s for ViT-L_16 unrolled, from 5.9 to 4.6 s for ViT-B_16 without the cache"
)
_ANTIALIASING = (
    "of 2.5 ms for an image, decoding its crop takes 0.9 and resizing with antialiasing 1.0, "
    "which OpenCV is not asked for"
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

# Suite -> the cases of a CPU: model, images per call, side of the images, goals.
_ON_CPU: dict[str, Sequence[tuple[str, int, int, tuple[Goal, ...]]]] = {
    "inference": [
        ("ViT-S_16", 1, 224, (Goal(1, 1.30, (_TIMM, _TIMM_COMPILED)),)),
        ("ViT-B_16", 1, 224, (Goal(1, 1.30, (_TIMM, _TIMM_COMPILED)),)),
        (
            "ViT-S_16", 8, 224,
            (
                Goal(2, 1.05, (_TIMM, _TIMM_COMPILED), _PRODUCTS),
                Goal(2, 1.30, (plain_flax.PLAIN,), _PRODUCTS),
            ),
        ),
        ("Swin-T-UPerNet", 1, 256, (Goal(13, 1.0, (_PYTORCH, _PYTORCH_COMPILED)),)),
        (
            "FlowFormer", 1, 256,
            (Goal(14, 1.3, (_PYTORCH,), _RATES), Goal(14, 1.1, (_PYTORCH_COMPILED,), _RATES)),
        ),
    ]
    + [
        (name, images, 224, (Goal(13, 1.0, (_TIMM, _TIMM_COMPILED), limit),))
        for name, limit in (("EfficientFormerV2-S0", _DEPTHWISE), ("ResNet-50", _CONVOLUTIONS))
        for images in (1, 8)
    ],
    "train": [
        (
            "ViT-S_16", 4, 224,
            (
                Goal(3, 1.10, (_TIMM,), _BACKWARD),
                Goal(3, 1.15, (plain_flax.PLAIN,), _BACKWARD),
            ),
        ),
        ("EfficientFormerV2-S0", 8, 224, (Goal(13, 1.0, (_TIMM,)),)),
        ("FlowFormer", 1, 128, (Goal(14, 1.3, (_PYTORCH,)),)),
    ],
    "restore": [
        (
            f"DehazeFormer-{size}", 1, 256,
            (Goal(4, 2.5, (_PYTORCH,), _PASSES), Goal(4, 1.2, (_PYTORCH_COMPILED,))),
        )
        for size in "TSB"
    ]
    + [
        (
            f"SwinIR-{kind}-x2", 1, 128,
            (Goal(5, 2.0, (_PYTORCH,), _WINDOWS), Goal(5, 1.1, (_PYTORCH_COMPILED,), _WINDOWS)),
        )
        for kind in ("lightweight", "classical")
    ],
}  # fmt: skip


def of_models(
    suite: str, model: str | None, batch: int | None, size: int | None, dtype: str | None
) -> Iterator[Case]:
    """Makes the cases of inference, train or restore: of one model, or the default ones.

    Args:
        suite: which.
        model: name; None for the default ones.
        batch: images per call, of that model; by default 1, to train on for each device.
        size: side of its images; that of the first default one by default.
        dtype: compute type; float32 on a CPU and bfloat16 elsewhere by default.
    """
    on_cpu = jax.default_backend() == "cpu"
    make = train if suite == "train" else infer
    wanted = _ON_CPU[suite]
    if model is not None:
        least = jax.device_count() if suite == "train" else 1
        wanted = [(model, batch or least, size or wanted[0][2], ())]
    elif not on_cpu:
        yield from _on_accelerators(suite, dtype or "bfloat16")
        return
    for name, images, side, goals in wanted:
        yield make(name, images, side, dtype or ("float32" if on_cpu else "bfloat16"), goals)


def _on_accelerators(suite: str, dtype: str) -> Iterator[Case]:
    for spec in SPECS:
        restores = get_model(spec.model).task == "restore"
        of_spec = "restore" if spec.suite == "inference" and restores else spec.suite
        if of_spec == suite:
            yield spec.make(dtype)


def _input() -> Iterator[Case]:
    from vit_jax.benchmark import data  # which reads by TensorFlow

    goals = ((1.4, data.PLAIN), (1.0, data.FASTEST))
    yield data.read(tuple(Goal(7, ratio, (over,), _ANTIALIASING) for ratio, over in goals))


def _compile() -> Iterator[Case]:
    yield starting.scanned("ViT-L_16", (Goal(6, 1 / 0.40, (starting.UNROLLED,), _TRACED_ONCE),))
    for scan in (False, True):
        yield starting.cached(
            "ViT-B_16", scan, (Goal(6, 1 / 0.35, (starting.COLD,), _TRACED_ONCE),)
        )


def _end_to_end() -> Iterator[Case]:
    on_cpu = jax.default_backend() == "cpu"
    if jax.default_backend() != "tpu":  # which one process has for itself
        yield starting.predict("ViT-S_16")
        yield starting.predict("DehazeFormer-T")
    if on_cpu:
        yield starting.train_on_files("ViT-Ti_16", 16, "float32")
    else:
        yield starting.train_on_files("ViT-B_16", 256, "bfloat16")


OF_MODELS = tuple(_ON_CPU)
OTHERS: dict[str, Callable[[], Iterable[Case]]] = {
    "input": _input, "compile": _compile, "end_to_end": _end_to_end,
}  # fmt: skip
