"""Converts weights: python -m vit_jax.convert SRC DST [--model=NAME], or --inspect=FILE.

With --classes, a model of images and texts becomes a classifier, see `vit_jax.zero_shot`.
"""

# ruff: noqa: E402

import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from absl import flags

from vit_jax import prompts
from vit_jax.machinery import cli, model_flags

_LOG = logging.getLogger("vit_jax.convert")  # also when it is run as __main__

_INSPECT = flags.DEFINE_string(
    "inspect", None, "Print what weights hold, and which model they fit, and do nothing else."
)
_NAMING = flags.DEFINE_string(
    "naming",
    None,
    "Whose names a .safetensors or .pth file gets, of a model with several: timm or official for "
    "Swin, timm or transformers for ViT, open_clip or transformers for CLIP and SigLIP, basicsr or "
    "esrgan for RRDB; unset: the first of them. Reading takes any.",
)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "Of a model of images and texts, write a classifier of these: a file with a name per line, "
    "imagenet1k, another known set, or names with commas between them.",
)
_PROMPTS = flags.DEFINE_string(
    "prompts",
    None,
    "Sentences into which each of --classes is put: imagenet80, imagenet7, or one's own with {} "
    f"for the class and | between them; unset: {prompts.DEFAULT!r}.",
)


if __name__ == "__main__":
    cli.parse_early()  # before what takes seconds to import

import jax
import numpy as np
import optax
from etils import epath
from flax import traverse_util

from checkpoints import files, npz, torch, tree
from checkpoints.train_state import Checkpointer
from vit_jax import class_names, embedder, experiment, identify, optim, pretrained, zero_shot
from vit_jax.models import get_model
from vit_jax.pretrained import Pretrained
from vit_jax.weights import SUFFIXES, Weights, check_labels_beside, read, write_labels_beside
from vit_jax.workdir import Workdir

_TOLERANCE = 1e-5  # of the outputs' largest value
_FOLDER = re.compile(r"[^.].*?\.\d+|[^.]+")  # of a run: its name may have a dot in a number


def main(argv: Sequence[str]) -> int:
    """Converts, runs the model on both sides and prints the largest difference; or inspects."""
    if _INSPECT.value is not None:
        if len(argv) > 1:
            raise ValueError(f"--inspect={_INSPECT.value} stands alone, without {argv[1]}")
        model_flags.load_plugins()
        print(inspect(_INSPECT.value, model_flags.KEY.value))
        return 0
    if len(argv) != 3:
        raise ValueError("say what to convert to what: SRC DST")
    source, target = argv[1:]
    if "://" not in target and epath.Path(target).expanduser().exists():
        raise ValueError(f"{target} is there already: choose another name")
    before = _as_classifier(model_flags.load_from(source))
    write(target, before, _NAMING.value)
    num_classes = before.model.num_classes if before.model.has_field("num_classes") else 0
    classes = f", {num_classes} classes" if num_classes else ""
    _LOG.info("wrote %s: %s%s", target, before.name, classes)

    says_itself = epath.Path(target).suffix not in torch.PICKLED
    name, fields = (None, None) if says_itself else (before.name, before.fields)
    after = pretrained.load(target, name, fields, old_size=before.image_size)
    # The features as well, since a head that has not been trained yet gives 0 for all of them.
    agree = True
    for what in ("features", "logits") if num_classes else ("outputs",):
        expected, found = (run(model, what != "features") for model in (before, after))
        named = expected if isinstance(expected, dict) else {what: expected}
        for name in named:  # each for itself, since the scale of two towers is a large number
            of_it = found[name] if isinstance(expected, dict) else found
            pairs = list(zip(jax.tree.leaves(named[name]), jax.tree.leaves(of_it)))
            largest = max(float(np.abs(a).max()) for a, _ in pairs)
            difference = max(float(np.abs(a - b).max()) for a, b in pairs)
            print(f"largest difference of the {name}: {difference:.3g}, "
                  f"of values up to {largest:.3g}")  # fmt: skip
            agree = agree and difference <= _TOLERANCE * largest
    if not agree:
        _LOG.error("%s does not do what %s does: do not use it", target, source)
        return 1
    return 0


def _as_classifier(model: Pretrained) -> Pretrained:
    """The classifier of --classes that a model of images and texts makes, if they are said."""
    if _CLASSES.value is None:
        if _PROMPTS.value is not None:
            raise ValueError(f"--prompts={_PROMPTS.value} is for --classes, which says which")
        if embedder.has_two_towers(model.model) and model.labels:
            raise ValueError("--labels names no classes of two towers: --classes makes a head")
        return model
    zero_shot.check(model)
    templates = prompts.find(_PROMPTS.value or "")
    names = class_names.find(_CLASSES.value, "--classes")
    _LOG.info("%d classes, each by %d prompt(s) such as %r", len(names), len(templates),
              templates[0].replace("{}", prompts.readable(names[0])))  # fmt: skip
    return zero_shot.make_classifier(model, names, templates)


def run(model: Pretrained, with_head: bool) -> Any:
    """Applies a model to two fixed examples of noise.

    Args:
        model: from `pretrained.load`.
        with_head: whether with its own heads; else they are of noise, the same for each model, so
            that what precedes them shows in the outputs.
    """
    variables = dict(model.variables)
    if not with_head:
        variables["params"] = _with_heads_of_noise(variables["params"], model.model.class_heads)
    inputs = random_inputs(model, 2, seed=0)
    return jax.device_get(jax.jit(model.model.apply)(variables, *inputs))


def _with_heads_of_noise(params: Any, heads: Sequence[str]) -> Any:
    random = np.random.default_rng(0)
    flat = traverse_util.flatten_dict(params, sep="/")
    for name in sorted(flat):
        if name.startswith(tuple(f"{head}/" for head in heads)):
            array = flat[name]
            noise = random.normal(size=array.shape) / max(array[..., 0].size, 1) ** 0.5
            flat[name] = noise.astype(array.dtype)
    return traverse_util.unflatten_dict(flat, sep="/")


def random_inputs(model: Pretrained, count: int, seed: int) -> tuple[np.ndarray, ...]:
    """Examples of noise for a model: images from -1 to 1, and tokens that it has."""
    inputs = model.model.inputs(model.image_size)
    return random_arrays(inputs, model.model.input_limits, count, seed)


def random_arrays(
    inputs: Sequence[jax.ShapeDtypeStruct], limits: Sequence[int], count: int, seed: int
) -> tuple[np.ndarray, ...]:
    """Noise in the place of inputs of one example.

    Args:
        inputs: for one example.
        limits: of their values, see `Model.input_limits`; () if all are images.
        count: of examples.
        seed: of the noise.
    """
    random = np.random.default_rng(seed)
    return tuple(
        (random.integers(0, limit, shape) if limit else random.uniform(-1, 1, shape)).astype(dtype)
        for limit, shape, dtype in (
            (limit, (count, *leaf.shape[1:]), leaf.dtype)
            for limit, leaf in zip(limits or (0,) * len(inputs), inputs)
        )
    )


def write(path: str | os.PathLike[str], model: Pretrained, naming: str | None = None) -> None:
    """Writes weights, and beside them labels.txt and the vocabulary, if these are known.

    Args:
        path: a .npz, .safetensors or .pth file, or a folder, which becomes that of a run.
        model: from `pretrained.load`.
        naming: of PyTorch's names, see `checkpoints.torch.names_of`.

    Raises:
        ValueError: if the path is of no such kind or would overwrite other labels, another
            vocabulary or a run, or if the format has no place for one of the parameters.
    """
    path = os.fspath(path)
    if naming is not None and not path.endswith((*torch.SAFETENSORS, *torch.PICKLED)):
        raise ValueError(f"--naming={naming} is for .safetensors and .pth, and not for {path}")
    if files.is_download(path):
        raise ValueError(f"cannot write to {path}: choose a local path or gs://")
    found = epath.Path(path).expanduser()
    if found.suffix not in SUFFIXES:
        if not _FOLDER.fullmatch(found.name) or found.is_file():
            raise ValueError(
                f"{path}: weights are written to a file that ends in one of "
                f"{', '.join(SUFFIXES)}, or to the folder of a run, which has no suffix"
            )
        _write_workdir(Workdir(path), model)
        return
    check_labels_beside(found.parent, model.labels)
    pretrained.check_vocabulary_beside(found.parent, model)
    found.parent.mkdir(parents=True, exist_ok=True)
    made_for = pretrained.say_all(model)
    if found.suffix == ".npz":
        npz.save(found, tree.merge(model.variables), made_for, model.model.npz_names())
    else:
        arrays = _to_state_dict(model, naming)
        torch.write(found, arrays, made_for)
        if found.suffix not in torch.SAFETENSORS and made_for.fields:
            fields = " ".join(f"--field={k}={v}" for k, v in sorted(made_for.fields.items()))
            _LOG.warning("%s has no place for what its model is: use it with --model=%s %s",
                         found, model.name, fields)  # fmt: skip
    write_labels_beside(found.parent, model.labels)
    pretrained.write_vocabulary(found.parent, model)


def _to_state_dict(model: Pretrained, naming: str | None) -> dict[str, np.ndarray]:
    """Arrays by PyTorch's names: of a classifier that words made, by those with room for all."""
    is_of_words = model.model.values_of(["cosine"]).get("cosine")
    for other in model.model.torch_namings if is_of_words and naming is None else ():
        try:
            return torch.to_state_dict(model.variables, model.model, other)
        except ValueError:
            continue
    return torch.to_state_dict(model.variables, model.model, naming)


def _write_workdir(workdir: Workdir, model: Pretrained) -> None:
    """Makes a run's folder, as training would leave it after no steps."""
    if workdir.path.exists():
        raise ValueError(f"{workdir.path} is there already: choose another folder")
    config = pretrained.config_of(model)
    tx = optim.make_optimizer(config.optim, optax.constant_schedule(0), model.variables["params"])
    state = jax.jit(lambda: experiment.new_state(config, model.variables, tx))()

    workdir.claim(config, {} if model.labels is None else {"classes": list(model.labels)})
    write_labels_beside(workdir.path, model.labels)
    pretrained.write_vocabulary(workdir.vocabulary, model)
    with Checkpointer(workdir.checkpoints, 1, config.best_metric, config.best_mode) as checkpointer:
        checkpointer.save(0, state, None)
    made_for = pretrained.say_made_for(model.name, config.model)
    npz.save(workdir.weights, tree.merge(model.variables), made_for, model.model.npz_names())


def inspect(path: str, key: str = "") -> str:
    """Describes weights: every array with shape and type, their number, and the model they fit.

    The arguments are those of `weights.read`.
    """
    weights = read(path, key)
    stored = weights.arrays  # of a .npz, as the file has them rather than as they are read
    if weights.workdir is None and not weights.is_torch:
        stored = npz.read(path)
    rows = [
        (name, " x ".join(map(str, array.shape)) or "scalar", str(array.dtype))
        for name, array in stored.items()
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip() for row in rows]
    count = sum(array.size for array in stored.values())
    lines.append(f"{len(rows)} arrays of {count:,} numbers; {_describe_model(weights)}")
    return "\n".join(lines)


def _describe_model(weights: Weights) -> str:
    if weights.workdir is not None:
        config = weights.workdir.read_config()
        fields = "".join(f", {name}={value}" for name, value in sorted(config.model.items()))
        return f"it is a run of {config.model_name}{fields}"
    names = identify.identify(weights)
    if not names:
        relative = identify.find_relative(weights)
        if relative is not None and not relative.problem:
            return f"it fits {relative}"
        closest = "" if relative is None else f"; the closest is {relative}: {relative.problem}"
        return f"it fits none of the published models with square images{closest}"
    model = get_model(names[0])
    if not model.has_field("num_classes"):
        return f"it fits {' and '.join(names)}"
    model = model.clone(**weights.head_fields(model))
    fitting = f"it fits {' and '.join(names)}, with {model.num_classes} classes and images of"
    if model.any_size:
        return f"{fitting} any size"
    height, width = model.image_size(weights.tree(model))
    return f"{fitting} {height} x {width} pixels"


if __name__ == "__main__":
    cli.run(main)
