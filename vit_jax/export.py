"""Exports a trained model: python -m vit_jax.export --workdir=W DST.

DST decides about the format: NAME.stablehlo, NAME.onnx, or a folder for a TensorFlow SavedModel.
Each takes what the model does, by name: (b, h, w, 3) float32 `images`, prepared as the description
says, for any b but one size. It gives (b, classes) `logits`, or with --probabilities these; or
`restored` images, or what else the task calls its output. A model of optical flow takes `images2`
as well, and gives (b, h, w, 2) `flow`. Two towers become two files, NAME-image and NAME-text, each
of which gives (b, d) `embeddings` of length 1. BERT takes `tokens`, `segments` and `mask`, and
gives its `states`; a Transformer takes a `source` and what of the `target` is written, each padded
to 64 tokens, and gives the logits of what follows.

Each describes itself, see `Part.describe`: a file of ONNX in its metadata, an entry for each key; a
SavedModel by its signature `describe`, which gives JSON as `description`; and NAME.stablehlo by
NAME.json beside it.
"""

# ruff: noqa: E402

import contextlib
import dataclasses
import functools
import inspect
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from vit_jax.machinery import cli, model_flags

_PROBABILITIES = flags.DEFINE_bool(
    "probabilities", False, "Give probabilities in place of logits: softmax, or sigmoid, is inside."
)

if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import jax
import jax.numpy as jnp
import numpy as np

from checkpoints import files
from vit_jax import ops
from vit_jax.tasks.base import Output

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
        output: what comes out.
        facts: that the description has besides the inputs and the output.
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
    output: Output
    facts: Mapping[str, Any]
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

    def describe(self) -> dict[str, Any]:
        """What another program must know to use it, to be written as JSON.

        Returns:
            `model`, its name; `inputs` and `outputs` by name, each with `shape`, whose "b" is any
            number, and `dtype`. Logits also say which function of their last axis leads
            `to_probabilities`, "softmax" or "sigmoid". Then, as far as they apply: `preprocessing`
            of images, see `preprocessing.describe`; the `tokenizer` of texts, see
            `input_pipeline.tokenizers`; `labels`, the names of the classes in their order; and of
            two towers `scale`, `bias`, and how `logits` and `probabilities` are made of these.
        """
        out = jax.eval_shape(self.apply, self.variables, *self.inputs)
        given = {self.output.name: _say_array(out)}
        if self.output.activation:
            given[self.output.name]["to_probabilities"] = self.output.activation
        taken = {name: _say_array(array) for name, array in zip(self.names, self.inputs)}
        return {"model": self.name, "inputs": taken, "outputs": given, **self.facts}


def _say_array(array: Any) -> dict[str, Any]:
    return {"shape": ["b", *array.shape[1:]], "dtype": jnp.dtype(array.dtype).name}


def parts_of(pretrained: "Pretrained", probabilities: bool = False) -> list[Part]:
    """What a model is exported as: one part, or the two towers.

    Args:
        pretrained: the model.
        probabilities: whether to make these of the logits.

    Raises:
        ValueError: if there are none.
    """
    from vit_jax.embedder import has_two_towers
    from vit_jax.tasks import get_task

    model: Any = pretrained.model
    output = get_task(model).output(model, pretrained.loss)
    if probabilities and not output.activation:
        raise ValueError(
            f"{pretrained.name} gives {output.name}, of which no probabilities can be made: leave "
            "--probabilities out"
        )
    if has_two_towers(model):
        return _towers_of(pretrained, output)
    inputs = model.inputs(pretrained.image_size)
    is_words = jnp.issubdtype(inputs[0].dtype, jnp.integer)
    arguments = tuple(inspect.signature(model.__call__).parameters) if is_words else _IMAGE_NAMES

    def apply(variables: Any, *given: jax.Array) -> jax.Array:
        out = model.apply(variables, *given, train=False)
        out = out[output.name] if isinstance(out, Mapping) else out
        return getattr(jax.nn, output.activation)(out) if probabilities else out

    facts = _facts_of_words(pretrained) if is_words else _facts_of_images(pretrained)
    if output.activation and pretrained.labels is not None:
        facts["labels"] = list(pretrained.labels)
    return [
        Part(
            name=pretrained.name,
            suffix="",
            apply=apply,
            variables=pretrained.variables,
            inputs=inputs,
            names=arguments[: len(inputs)],
            output=Output("probabilities") if probabilities else output,
            facts=facts,
            limits=model.input_limits,
            onnx=model.onnx,
            dtype=model.dtype,
        )
    ]


def _towers_of(pretrained: "Pretrained", output: Output) -> list[Part]:
    """The tower of images and that of texts, each with what both embeddings are used with."""
    from vit_jax.embedder import Embedder

    model: Any = pretrained.model
    image, text = model.inputs(pretrained.image_size)
    embedder = Embedder(pretrained)
    both = {
        "scale": embedder.scale,
        "bias": embedder.bias,
        "logits": "scale * image @ text.T + bias",
        "probabilities": "sigmoid of each logit" if embedder.has_bias else "softmax over the texts",
    }

    def embed_image(variables: Any, images: jax.Array) -> jax.Array:
        return model.apply(variables, images, None)["image"]

    def embed_text(variables: Any, tokens: jax.Array) -> jax.Array:
        return model.apply(variables, None, tokens)["text"]

    shared: dict[str, Any] = dict(
        name=pretrained.name, output=output, onnx=model.onnx, dtype=model.dtype
    )
    return [
        Part(suffix="-image", apply=embed_image, variables=_without(pretrained.variables, "txt"),
             inputs=(image,), names=("images",), facts={**_facts_of_images(pretrained), **both},
             **shared),
        Part(suffix="-text", apply=embed_text, variables=_without(pretrained.variables, "img"),
             inputs=(text,), names=("tokens",), facts={**_facts_of_words(pretrained), **both},
             limits=model.input_limits[1:], **shared),
    ]  # fmt: skip


def _without(variables: Mapping[str, Any], submodule: str) -> dict[str, Any]:
    """Variables without the parameters of a submodule that is not used."""
    return {**variables, "params": {k: v for k, v in variables["params"].items() if k != submodule}}


def _facts_of_images(pretrained: "Pretrained") -> dict[str, Any]:
    from vit_jax import preprocessing

    spec = pretrained.eval_pp
    return {"preprocessing": preprocessing.describe(spec)} if spec else {}


def _facts_of_words(pretrained: "Pretrained") -> dict[str, Any]:
    return {"tokenizer": pretrained.model.tokenizer}


def main(argv: Sequence[str]) -> int:
    """Exports, runs what was written and prints the largest difference from the model."""
    if len(argv) != 2:
        raise ValueError("say where to: NAME.stablehlo, NAME.onnx, or a folder for a SavedModel")
    if "://" in argv[1]:
        raise ValueError(f"cannot write to {argv[1]}: choose a local path")
    target = Path(argv[1]).expanduser()
    _refuse_if_there(target)
    write, read = _format_of(target)
    model = model_flags.load()
    if target.suffix == ".onnx":  # ONNX Runtime has no convolution in bfloat16
        model = dataclasses.replace(model, model=model.model.clone(dtype=jnp.float32))
    parts = parts_of(model, _PROBABILITIES.value)
    targets = [target.with_name(f"{target.stem}{part.suffix}{target.suffix}") for part in parts]
    for path in targets:
        _refuse_if_there(path)
        if target.suffix == ".stablehlo":
            _refuse_if_there(_description_beside(path))
    with ops.portable():
        for part, path in zip(parts, targets):
            write(part, path)
    good = [_check(part, path, read(path)) for part, path in zip(parts, targets)]
    _say_facts(parts)
    if model.model.any_size:
        _LOG.info("for images of %d x %d pixels alone: say --image_size for others",
                  *model.image_size)  # fmt: skip
    return 0 if all(good) else 1


def _refuse_if_there(path: Path) -> None:
    if path.exists():
        raise ValueError(f"{path} is there already: choose another name")


def _check(part: Part, target: Path, exported: Apply) -> bool:
    """Compares what was written with the model, and prints what it is and the difference."""
    apply = part.bound()
    differences = []
    for count in (1, 3):
        inputs = part.random_inputs(count, seed=count)
        expected = np.asarray(jax.jit(apply)(*inputs))
        largest = np.abs(expected).max()
        if not largest:
            _LOG.warning("all outputs are 0: the head has not been trained, and nothing is checked")
        differences.append(np.abs(exported(*inputs) - expected).max() / (largest or 1))
    about = part.describe()
    taken, given = (_in_words(about[key]) for key in ("inputs", "outputs"))
    print(f"{target}: {part.name}, from {taken} to {given}")
    print(f"largest relative difference from the model: {max(differences):.3g}")
    if not max(differences) <= _TOLERANCES[jnp.dtype(part.dtype).name]:
        _LOG.error("%s does not do what the model does: do not use it", target)
        return False
    return True


def _in_words(arrays: Mapping[str, Any]) -> str:
    said = [f"{k} ({', '.join(map(str, v['shape']))}) {v['dtype']}" for k, v in arrays.items()]
    return " and ".join(said)


def _say_facts(parts: Sequence[Part]) -> None:
    """Prints what a person must know to use the parts; it is in what was written, too."""
    facts = {key: value for part in parts for key, value in part.facts.items()}
    if "preprocessing" in facts:
        print(f"images are to be prepared by {facts['preprocessing']['spec']}")
    if "tokenizer" in facts:
        print(f"texts are to be cut by {facts['tokenizer']}")
    if "scale" in facts:
        print(f"embeddings have length 1; logits are {facts['scale']:.6g} * image @ text.T "
              f"+ {facts['bias']:.6g}")  # fmt: skip


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
    """Writes a file that `jax.export.deserialize` reads, for CPU, NVIDIA GPU and TPU.

    Its function takes the inputs by name, and returns a dict of the output. NAME.json beside it
    describes the part.
    """
    (batch,) = jax.export.symbolic_shape("b")
    inputs = {
        name: jax.ShapeDtypeStruct((batch, *leaf.shape[1:]), leaf.dtype)
        for name, leaf in zip(part.names, part.inputs)
    }
    apply = part.bound()

    def serve(**given: jax.Array) -> dict[str, jax.Array]:
        return {part.output.name: apply(*(given[name] for name in part.names))}

    exported = jax.export.export(jax.jit(serve), platforms=_PLATFORMS)(**inputs)
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.written_whole(path) as partial:
        partial.write_bytes(exported.serialize())
    with files.written_whole(_description_beside(path)) as partial:
        partial.write_text(json.dumps(part.describe(), indent=2) + "\n")


def _description_beside(path: Path) -> Path:
    return path.with_suffix(".json")


def read_stablehlo(path: Path) -> Apply:
    """Reads what `write_stablehlo` wrote, as a function of numpy arrays."""
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    _, there = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    names = [name for name in _INPUT_NAMES if name in there]
    return lambda *inputs: _only_output(exported.call(**dict(zip(names, inputs))))


def _only_output(outputs: Mapping[str, Any]) -> np.ndarray:
    (output,) = outputs.values()
    return np.asarray(output)


def write_saved_model(part: Part, path: Path) -> None:
    """Writes the folder of a TensorFlow SavedModel.

    Its signature `serving_default` takes the inputs and gives the output, by name; `describe` takes
    nothing, and gives the part's description as the string `description`.

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
        lambda *inputs: {part.output.name: converted(module.weights, *inputs)},
        autograph=False,
        input_signature=specs,
    )
    about = json.dumps(part.describe())
    module.describe = tf.function(lambda: {"description": tf.constant(about)}, input_signature=[])
    signatures = {"serving_default": module.serve, "describe": module.describe}
    tf.saved_model.save(
        module, str(path), {k: v.get_concrete_function() for k, v in signatures.items()}
    )


def read_saved_model(path: Path) -> Apply:
    """Reads what `write_saved_model` wrote, as a function of numpy arrays."""
    from input_pipeline.cpu_tf import tf

    loaded = tf.saved_model.load(str(path))
    serve = loaded.signatures["serving_default"]
    there = serve.structured_input_signature[1]
    names = [name for name in _INPUT_NAMES if name in there]

    def call(*inputs: np.ndarray) -> np.ndarray:
        given = {name: tf.constant(array) for name, array in zip(names, inputs)}
        return _only_output(serve(**given))

    return call


def write_onnx(part: Part, path: Path) -> None:
    """Writes a file in ONNX, by jax2onnx, with the part's description in its metadata.

    There, an entry for each key, what is no string is JSON.

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
        jax2onnx.to_onnx(
            part.bound(),
            inputs,
            return_mode="file",
            output_path=str(path),
            input_names=part.names,
            output_names=[part.output.name],
        )
    import onnx  # which comes with jax2onnx

    model = onnx.load(str(path), load_external_data=False)  # large weights are in another file
    about = part.describe().items()
    onnx.helper.set_model_props(
        model, {k: v if isinstance(v, str) else json.dumps(v) for k, v in about}
    )
    onnx.save(model, str(path))


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
