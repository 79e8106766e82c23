"""Exports a trained model: python -m vit_jax.export --workdir=W DST.

DST decides about the format: NAME.stablehlo, NAME.onnx, or a folder for a TensorFlow SavedModel.
Each takes what the model does, (b, h, w, 3) float32 images prepared as the command prints, for any
b but one size; and gives (b, classes) logits, or images. A model of optical flow takes two of them,
and gives (b, h, w, 2).
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

Apply = Callable[..., Any]


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
    from vit_jax import convert, weights  # which take seconds to import

    model = model_flags.load()
    if target.suffix == ".onnx":  # ONNX Runtime has no convolution in bfloat16
        model = dataclasses.replace(model, model=model.model.clone(dtype=jnp.float32))
    folder = epath.Path(target if target.suffix == "" else target.parent)
    weights.check_labels_beside(folder, model.labels)
    with ops.portable():
        write(model, target)
    weights.write_labels_beside(folder, model.labels)

    apply, exported = _apply(model), read(target)
    differences = []
    for count in (1, 3):
        inputs = convert.random_inputs(model, count, seed=count)
        expected = np.asarray(jax.jit(apply)(*inputs))
        largest = np.abs(expected).max()
        if not largest:
            _LOG.warning("all outputs are 0: the head has not been trained, and nothing is checked")
        differences.append(np.abs(exported(*inputs) - expected).max() / (largest or 1))
    height, width = model.image_size
    shapes = [", ".join(map(str, array.shape[1:])) for array in (*inputs, expected)]
    *taken, given = [f"(b, {shape})" for shape in shapes]
    print(f"{target}: {model.name}, from {' and '.join(taken)} to {given}")
    print(f"images are to be prepared by {model.eval_pp}")
    if model.model.any_size:
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
    """The function from the model's inputs to its output, with the weights in it."""
    return functools.partial(model.model.apply, jax.device_put(model.variables), train=False)


def write_stablehlo(model: "Pretrained", path: Path) -> None:
    """Writes a file that `jax.export.deserialize` reads, for CPU, NVIDIA GPU and TPU."""
    (batch,) = jax.export.symbolic_shape("b")
    inputs = [
        jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)
        for leaf in model.model.inputs(model.image_size)
    ]
    exported = jax.export.export(jax.jit(_apply(model)), platforms=_PLATFORMS)(*inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(path) as partial:
        partial.write_bytes(exported.serialize())


def read_stablehlo(path: Path) -> Apply:
    """Reads what `write_stablehlo` wrote, as a function of numpy arrays."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda *inputs: np.asarray(exported.call(*inputs))


def write_saved_model(model: "Pretrained", path: Path) -> None:
    """Writes the folder of a TensorFlow SavedModel; its inputs are called `images`, `images2`, ...

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
    specs = [
        tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype, f"images{i}" if i > 1 else "images")
        for i, leaf in enumerate(model.model.inputs(model.image_size), start=1)
    ]
    converted = jax2tf.convert(
        functools.partial(model.model.apply, train=False),
        polymorphic_shapes=[None, *["(b, ...)"] * len(specs)],
        native_serialization_platforms=_PLATFORMS,
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, model.variables)
    module.serve = tf.function(
        lambda *inputs: converted(module.weights, *inputs), autograph=False, input_signature=specs
    )
    tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())


def read_saved_model(path: Path) -> Apply:
    """Reads what `write_saved_model` wrote, as a function of numpy arrays."""
    from input_pipeline.cpu_tf import tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    names = sorted(serve.structured_input_signature[1])

    def call(*inputs: np.ndarray) -> np.ndarray:
        given = {name: tf.constant(array) for name, array in zip(names, inputs)}
        return next(iter(serve(**given).values())).numpy()

    return call


def write_onnx(model: "Pretrained", path: Path) -> None:
    """Writes a file in ONNX, by jax2onnx.

    Raises:
        ValueError: for a model that it cannot write.
    """
    if not model.model.onnx:
        raise ValueError(
            f"{path}: jax2onnx cannot write {model.name}: export to NAME.stablehlo instead"
        )
    jax2onnx, _ = _import_onnx()
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = [("B", *leaf.shape[1:]) for leaf in model.model.inputs(model.image_size)]
    with _quiet():
        jax2onnx.to_onnx(_apply(model), inputs, return_mode="file", output_path=str(path))


def read_onnx(path: Path) -> Apply:
    """Reads what `write_onnx` wrote, with ONNX Runtime, as a function of numpy arrays."""
    _, onnxruntime = _import_onnx()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    return lambda *inputs: session.run(None, dict(zip(names, inputs)))[0]


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
