"""Exports a trained model: python -m vit_jax.export --workdir=W DST.

DST decides about the format: NAME.stablehlo, NAME.onnx, or a folder for a TensorFlow SavedModel.
Each takes what the model does, (b, h, w, 3) float32 images prepared as the command prints, for any
b but one size; and gives (b, classes) logits, or images. A model of optical flow takes two of them,
and gives (b, h, w, 2). Two towers become two files, NAME-image and NAME-text, each of which gives
(b, d) embeddings of length 1; NAME.json says by what to multiply their products. BERT takes tokens,
segments and mask, and gives its states; a Transformer takes a source and what of the target is
written, each padded to 64 tokens, and gives the logits of what follows.
"""

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.machinery import cli, model_flags

if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from checkpoints import files
from vit_jax import ops

if TYPE_CHECKING:  # it takes seconds to import
    from vit_jax.pretrained import Pretrained

_LOG = logging.getLogger("vit_jax.export")  # also when it is run as __main__

# Of the outputs' largest value, since another compiler sums and rounds in another order.
_TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
_PLATFORMS = ("cpu", "cuda", "tpu")
_IMAGE_NAMES = ("images", "images2")
# In the order of any model's arguments.
_INPUT_NAMES = (*_IMAGE_NAMES, "tokens", "segments", "mask", "source", "target")

Apply = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """What becomes a file of its own.

    Attributes:
        name: of the model.
        suffix: of the file's name, before that of its format.
        apply: from variables and inputs to an array.
        variables: of the model.
        inputs: of one example.
        names: of the inputs.
        limits: of the inputs' values, see `Model.input_limits`.
        onnx: whether jax2onnx can write it.
        dtype: in which it computes.
    """

    name: str
    suffix: str
    apply: Apply
    variables: Any
    inputs: tuple[jax.ShapeDtypeStruct, ...]
    names: tuple[str, ...]
    limits: tuple[int, ...] = ()
    onnx: bool = True
    dtype: Any = jnp.float32

    def bound(self) -> Apply:
        """The function from the inputs to the output, with the weights in it."""
        return functools.partial(self.apply, jax.device_put(self.variables))

    def random_inputs(self, count: int, seed: int) -> tuple[np.ndarray, ...]:
        """Examples of noise: images from -1 to 1, and numbers of tokens."""
        from vit_jax import convert  # which takes seconds to import

        return convert.random_arrays(self.inputs, self.limits, count, seed)


def parts_of(pretrained: "Pretrained") -> list[Part]:
    """What a model is exported as: one part, or the two towers."""
    from vit_jax.embedder import has_two_towers

    model: Any = pretrained.model
    inputs = model.inputs(pretrained.image_size)
    shared: dict[str, Any] = dict(
        name=pretrained.name, variables=pretrained.variables, onnx=model.onnx, dtype=model.dtype
    )
    if has_two_towers(model):
        image, text = inputs

        def embed_image(variables: Any, images: jax.Array) -> jax.Array:
            return model.apply(variables, images, None)["image"]

        def embed_text(variables: Any, tokens: jax.Array) -> jax.Array:
            return model.apply(variables, None, tokens)["text"]

        towers = [
            Part(suffix="-image", apply=embed_image, inputs=(image,), names=("images",), **shared),
            Part(suffix="-text", apply=embed_text, inputs=(text,), names=("tokens",),
                 limits=model.input_limits[1:], **shared),
        ]  # fmt: skip
        return [_without(tower, other) for tower, other in zip(towers, ("txt", "img"))]
    if jnp.issubdtype(inputs[0].dtype, jnp.integer):  # words alone

        def states(variables: Any, *tokens: jax.Array) -> jax.Array:
            out = model.apply(variables, *tokens, train=False)
            return out["states"] if isinstance(out, dict) else out

        arguments = tuple(inspect.signature(model.__call__).parameters)
        of_words: dict[str, Any] = dict(names=arguments[: len(inputs)], limits=model.input_limits)
        return [Part(suffix="", apply=states, inputs=inputs, **of_words, **shared)]
    apply = functools.partial(model.apply, train=False)
    names = _IMAGE_NAMES[: len(inputs)]
    return [Part(suffix="", apply=apply, inputs=inputs, names=names, **shared)]


def _without(part: Part, submodule: str) -> Part:
    """The part without the parameters of a submodule that it does not use."""
    params = {k: v for k, v in part.variables["params"].items() if k != submodule}
    return dataclasses.replace(part, variables={**part.variables, "params": params})


def main(argv: Sequence[str]) -> int:
    """Exports, runs what was written and prints the largest difference from the model."""
    if len(argv) != 2:
        raise ValueError("say where to: NAME.stablehlo, NAME.onnx, or a folder for a SavedModel")
    if "://" in argv[1]:
        raise ValueError(f"cannot write to {argv[1]}: choose a local path")
    target = Path(argv[1]).expanduser()
    _refuse_if_there(target)
    write, read = _format_of(target)
    from vit_jax import weights  # which takes seconds to import

    model = model_flags.load()
    if target.suffix == ".onnx":  # ONNX Runtime has no convolution in bfloat16
        model = dataclasses.replace(model, model=model.model.clone(dtype=jnp.float32))
    parts = parts_of(model)
    targets = [target.with_name(f"{target.stem}{part.suffix}{target.suffix}") for part in parts]
    about = target.with_suffix(".json")
    for path in targets if len(parts) == 1 else (*targets, about):
        _refuse_if_there(path)
    folder = epath.Path(target if target.suffix == "" else target.parent)
    if len(parts) == 1:
        weights.check_labels_beside(folder, model.labels)
    with ops.portable():
        for part, path in zip(parts, targets):
            write(part, path)
    if len(parts) == 1:
        weights.write_labels_beside(folder, model.labels)
    else:
        _describe_towers(model, about)
    good = [_check(part, path, read(path)) for part, path in zip(parts, targets)]
    if model.eval_pp:
        print(f"images are to be prepared by {model.eval_pp}")
    if model.model.any_size:
        _LOG.info("for images of %d x %d pixels alone: say --image_size for others",
                  *model.image_size)  # fmt: skip
    return 0 if all(good) else 1


def _refuse_if_there(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} is there already: choose another name")


def _check(part: Part, target: Path, exported: Apply) -> bool:
    """Compares what was written with the model, and prints the largest difference."""
    apply = part.bound()
    differences = []
    for count in (1, 3):
        inputs = part.random_inputs(count, seed=count)
        expected = np.asarray(jax.jit(apply)(*inputs))
        largest = np.abs(expected).max()
        if not largest:
            _LOG.warning("all outputs are 0: the head has not been trained, and nothing is checked")
        differences.append(np.abs(exported(*inputs) - expected).max() / (largest or 1))
    shapes = [", ".join(map(str, array.shape[1:])) for array in (*inputs, expected)]
    *taken, given = [f"(b, {shape})" for shape in shapes]
    kind = " int32" if np.issubdtype(inputs[0].dtype, np.integer) else ""
    print(f"{target}: {part.name}, from {' and '.join(taken)}{kind} to {given}")
    print(f"largest relative difference from the model: {max(differences):.3g}")
    if not max(differences) <= _TOLERANCES[jnp.dtype(part.dtype).name]:
        _LOG.error("%s does not do what the model does: do not use it", target)
        return False
    return True


def _describe_towers(pretrained: "Pretrained", path: Path) -> None:
    """Writes, and prints, what the embeddings of two towers are used with."""
    from vit_jax.embedder import Embedder

    embedder = Embedder(pretrained)
    about = {
        "model": pretrained.name,
        "scale": embedder.scale,
        "bias": embedder.bias,
        "logits": "scale * image @ text.T + bias",
        "loss": "sigmoid of each logit" if embedder.has_bias else "softmax over the logits",
        "images": pretrained.eval_pp,
        "tokenizer": pretrained.model.tokenizer,
    }
    with files.written_whole(path) as partial:
        partial.write_text(json.dumps(about, indent=2) + "\n")
    print(f"embeddings have length 1; logits are {embedder.scale:.6g} * image @ text.T "
          f"+ {embedder.bias:.6g}")  # fmt: skip
    print(f"texts are to be cut by {pretrained.model.tokenizer}; {path} says all of it")


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


def write_stablehlo(part: Part, path: Path) -> None:
    """Writes a file that `jax.export.deserialize` reads, for CPU, NVIDIA GPU and TPU."""
    (batch,) = jax.export.symbolic_shape("b")
    inputs = [jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype) for leaf in part.inputs]
    exported = jax.export.export(jax.jit(part.bound()), platforms=_PLATFORMS)(*inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(path) as partial:
        partial.write_bytes(exported.serialize())


def read_stablehlo(path: Path) -> Apply:
    """Reads what `write_stablehlo` wrote, as a function of numpy arrays."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    return lambda *inputs: np.asarray(exported.call(*inputs))


def write_saved_model(part: Part, path: Path) -> None:
    """Writes the folder of a TensorFlow SavedModel, whose inputs are called as the part says.

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
        tf.TensorSpec((None, *leaf.shape[1:]), leaf.dtype, name)
        for name, leaf in zip(part.names, part.inputs)
    ]
    converted = jax2tf.convert(
        part.apply,
        polymorphic_shapes=[None, *["(b, ...)"] * len(specs)],
        native_serialization_platforms=_PLATFORMS,
    )
    module = tf.Module()
    module.weights = tf.nest.map_structure(tf.Variable, part.variables)
    module.serve = tf.function(
        lambda *inputs: converted(module.weights, *inputs), autograph=False, input_signature=specs
    )
    tf.saved_model.save(module, str(path), signatures=module.serve.get_concrete_function())


def read_saved_model(path: Path) -> Apply:
    """Reads what `write_saved_model` wrote, as a function of numpy arrays."""
    from input_pipeline.cpu_tf import tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    there = serve.structured_input_signature[1]
    names = [name for name in _INPUT_NAMES if name in there]

    def call(*inputs: np.ndarray) -> np.ndarray:
        given = {name: tf.constant(array) for name, array in zip(names, inputs)}
        return next(iter(serve(**given).values())).numpy()

    return call


def write_onnx(part: Part, path: Path) -> None:
    """Writes a file in ONNX, by jax2onnx.

    Raises:
        ValueError: for a model that it cannot write.
    """
    if not part.onnx:
        raise ValueError(
            f"{path}: jax2onnx cannot write {part.name}: export to NAME.stablehlo instead"
        )
    jax2onnx, _ = _import_onnx()
    path.parent.mkdir(parents=True, exist_ok=True)
    inputs = [jax.ShapeDtypeStruct(("B", *x.shape[1:]), x.dtype) for x in part.inputs]
    with _quiet():
        jax2onnx.to_onnx(part.bound(), inputs, return_mode="file", output_path=str(path))


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
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stdout(nowhere),
            warnings.catch_warnings(action="ignore"),
        ):
            yield
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    cli.run(main)
