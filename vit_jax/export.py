"""Exports a trained model: python -m vit_jax.export --workdir=W DST.

DST decides about the format: NAME.stablehlo, NAME.onnx, or a folder for a TensorFlow SavedModel.
Each takes (b, h, w, 3) float32 images, for any b but one size, prepared as the command prints; and
gives (b, classes) logits, or images.
"""

import contextlib
import dataclasses
import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from checkpoints import files
from vit_jax import ops
from vit_jax.machinery import cli, model_flags

if TYPE_CHECKING:  # it takes seconds to import
    from vit_jax.pretrained import Pretrained

_LOG = logging.getLogger("vit_jax.export")  # also when it is run as __main__

# Of the outputs' largest value, since another compiler sums and rounds in another order.
_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_PLATFORMS = ("cpu", "cuda", "tpu")

Apply = Callable[[Any], Any]


def main(argv: Sequence[str]) -> int:
    """Exports, runs what was written and prints the largest difference from the model."""
    if len(argv) != 2:
        raise ValueError("say where to: NAME.stablehlo, NAME.onnx, or a folder for a SavedModel")
    if "://" in argv[1]:
        raise ValueError(f"cannot write to {argv[1]}: choose a local path")
    target = Path(argv[1]).expanduser()
    if target.exists():
        raise ValueError(f"{target} is there already: choose another name")
    write, read = _format_of(target)
    from vit_jax import pretrained  # takes seconds to import

    model = model_flags.load()
    if target.suffix == ".onnx":  # ONNX Runtime has no convolution in bfloat16
        model = dataclasses.replace(model, model=model.model.clone(dtype=jnp.float32))
    folder = epath.Path(target if target.suffix == "" else target.parent)
    pretrained.check_labels_beside(folder, model.labels)
    with ops.portable():
        write(model, target)
    pretrained.write_labels_beside(folder, model.labels)

    apply, exported = _apply(model), read(target)
    differences = []
    for count in (1, 3):
        images = np.random.default_rng(count).uniform(-1, 1, (count, *model.image_size, 3))
        images = images.astype(np.float32)
        expected = np.asarray(jax.jit(apply)(images))
        largest = np.abs(expected).max()
        if not largest:
            _LOG.warning("all logits are 0: this head has not been trained, and nothing is checked")
        differences.append(np.abs(exported(images) - expected).max() / (largest or 1))
    height, width = model.image_size
    output = ", ".join(map(str, expected.shape[1:]))
    print(f"{target}: {model.name}, from (b, {height}, {width}, 3) to (b, {output})")
    print(f"images are to be prepared by {model.eval_pp}")
    if model.model.predicts == "target":
        _LOG.info("for images of %d x %d pixels alone: say --image_size for others", height, width)
    print(f"largest relative difference from the model: {max(differences):.3g}")
    if not max(differences) <= _TOLERANCES[jnp.dtype(model.model.dtype).name]:
        _LOG.error("%s does not do what the model does: do not use it", target)
        return 1
    return 0


def _format_of(target: Path) -> tuple[Callable[..., None], Callable[[Path], Apply]]:
    """The functions that write and read the format that a path's suffix means."""
    formats = {
        ".stablehlo": (write_stablehlo, read_stablehlo),
        ".onnx": (write_onnx, read_onnx),
        "": (write_saved_model, read_saved_model),
    }
    if target.suffix not in formats:
        raise ValueError(
            f"{target}: the suffix must be .stablehlo or .onnx, or none for the folder of a "
            "SavedModel"
        )
    if target.suffix == ".onnx":
        _import_onnx()
    return formats[target.suffix]


def _apply(model: "Pretrained") -> Apply:
    """The function from (b, h, w, 3) images to outputs, with the weights in it."""
    return functools.partial(model.model.apply, jax.device_put(model.variables), train=False)


def write_stablehlo(model: "Pretrained", path: Path) -> None:
    """Writes a file that `jax.export.deserialize` reads, for CPU, NVIDIA GPU and TPU."""
    (batch,) = jax.export.symbolic_shape("b")
    images = jax.ShapeDtypeStruct((batch, *model.image_size, 3), np.float32)
    exported = jax.export.export(jax.jit(_apply(model)), platforms=_PLATFORMS)(images)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(path) as partial:
        partial.write_bytes(exported.serialize())


def read_stablehlo(path: Path) -> Apply:
    """Reads what `write_stablehlo` wrote, as a function of numpy arrays."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda images: np.asarray(exported.call(images))


def write_saved_model(model: "Pretrained", path: Path) -> None:
    """Writes the folder of a TensorFlow SavedModel; its input is called `images`.

    Raises:
        ValueError: if TensorFlow could not run it.
    """
    from jax.experimental import jax2tf

    from input_pipeline.cpu_tf import tf

    if jax.__version_info__ >= (0, 11) and tuple(map(int, tf.__version__.split(".")[:2])) < (2, 22):
        raise ValueError(
            f"TensorFlow {tf.__version__} cannot run what JAX {jax.__version__} exports: install "
            "JAX 0.10 (constraints.txt), or export to NAME.stablehlo"
        )
    converted = jax2tf.convert(
        functools.partial(model.model.apply, train=False),
        polymorphic_shapes=[None, "(b, ...)"],
        native_serialization_platforms=_PLATFORMS,
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, model.variables)
    images = tf.TensorSpec((None, *model.image_size, 3), tf.float32, name="images")
    module.serve = tf.function(
        lambda images: converted(module.weights, images), autograph=False, input_signature=[images]
    )
    tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())


def read_saved_model(path: Path) -> Apply:
    """Reads what `write_saved_model` wrote, as a function of numpy arrays."""
    from input_pipeline.cpu_tf import tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    return lambda images: next(iter(serve(images=tf.constant(images)).values())).numpy()


def write_onnx(model: "Pretrained", path: Path) -> None:
    """Writes a file in ONNX, by jax2onnx."""
    jax2onnx, _ = _import_onnx()
    path.parent.mkdir(parents=True, exist_ok=True)
    images = ("B", *model.image_size, 3)
    with _quiet():
        jax2onnx.to_onnx(_apply(model), [images], return_mode="file", output_path=str(path))


def read_onnx(path: Path) -> Apply:
    """Reads what `write_onnx` wrote, with ONNX Runtime, as a function of numpy arrays."""
    _, onnxruntime = _import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def _import_onnx() -> tuple[Any, Any]:
    try:
        import jax2onnx
        import onnxruntime
    except ImportError:
        raise ValueError("ONNX needs another extra: pip install 'vit_jax[onnx]'") from None
    return jax2onnx, onnxruntime


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallows what jax2onnx prints about its own workings."""
    logging.disable(logging.WARNING)
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    cli.run(main)
