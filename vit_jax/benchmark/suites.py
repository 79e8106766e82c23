"""The suites and their cases by default."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import jax

from vit_jax.benchmark import goals, starting
from vit_jax.benchmark.accelerator import SPECS
from vit_jax.benchmark.inference import infer, matrix_product
from vit_jax.benchmark.race import Case, Contender
from vit_jax.benchmark.training import train
from vit_jax.models import get_model

# Suite -> the cases of a CPU: model, images per call, side of the images.
_ON_CPU: dict[str, Sequence[tuple[str, int, int]]] = {
    "inference": [
        ("ViT-S_16", 1, 224), ("ViT-B_16", 1, 224), ("ViT-S_16", 8, 224),
        ("Swin-T-UPerNet", 1, 256), ("FlowFormer", 1, 256),
        ("EfficientFormerV2-S0", 1, 224), ("EfficientFormerV2-S0", 8, 224),
        ("ResNet-50", 1, 224), ("ResNet-50", 8, 224),
    ],
    "train": [("ViT-S_16", 4, 224), ("EfficientFormerV2-S0", 8, 224), ("FlowFormer", 1, 128)],
    "restore": [
        ("DehazeFormer-T", 1, 256), ("DehazeFormer-S", 1, 256), ("DehazeFormer-B", 1, 256),
        ("SwinIR-lightweight-x2", 1, 128), ("SwinIR-classical-x2", 1, 128),
    ],
}  # fmt: skip

PRODUCT = "product"  # the suite of the libraries' matrix products

# What is run on a CPU where no suite is named: five minutes on two cores.
SHORT = (
    goals.PRODUCT,
    "inference: ViT-B_16, 224 x 224, batch 1",
    "inference: ViT-S_16, 224 x 224, batch 8",
    "train: ViT-S_16, 224 x 224, batch 4",
    "restore: DehazeFormer-T, 256 x 256, batch 1",
    "restore: SwinIR-classical-x2, 128 x 128, batch 1",
    "input: 200 JPEGs of 500 x 375 on one core",
)


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
        wanted = [(model, batch or least, size or wanted[0][2])]
    elif not on_cpu:
        yield from _on_accelerators(suite, dtype or "bfloat16")
        return
    for name, images, side in wanted:
        yield make(name, images, side, dtype or ("float32" if on_cpu else "bfloat16"))


def _on_accelerators(suite: str, dtype: str) -> Iterator[Case]:
    for spec in SPECS:
        restores = get_model(spec.model).task == "restore"
        of_spec = "restore" if spec.suite == "inference" and restores else spec.suite
        if of_spec == suite:
            yield spec.make(dtype)


def _input() -> Iterator[Case]:
    def contenders(_: Path) -> Iterator[Contender]:
        from vit_jax.benchmark import data  # which reads by TensorFlow

        yield from data.read(200)

    # Decoders differ by a few of the 255 levels.
    yield Case("200 JPEGs of 500 x 375 on one core", contenders, 200, tolerance=0.05)


def _compile() -> Iterator[Case]:
    yield starting.scanned("ViT-L_16")
    for scan in (False, True):
        yield starting.cached("ViT-B_16", scan)


def _product() -> Iterator[Case]:
    yield matrix_product()


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
    PRODUCT: _product, "input": _input, "compile": _compile, "end_to_end": _end_to_end,
}  # fmt: skip
