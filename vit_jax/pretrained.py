"""Weights that others, or earlier runs, have trained: found, read, and fitted to a model."""

import csv
import dataclasses
import functools
import io
import logging
import math
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from etils import epath
from flax import traverse_util

from checkpoints import files, npz, packages, torch, tree
from checkpoints.train_state import Checkpointer
from vit_jax.models import get_model, list_models
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

SUFFIXES = (".npz", *torch.SAFETENSORS, *torch.PICKLED)


def find(pretrained: str, folder: str) -> str:
    """Says which file `config.pretrained` means.

    Args:
        pretrained: a path or an address, which is returned as it is; or a name inside `folder`:
            with a "-" that of a file, less its suffix .npz; else an AugReg short name such as
            "R_Ti_16", which means the file pretrained on ImageNet-21k that did best on its own
            validation images, according to the folder's index.csv.
        folder: `config.pretrained_dir`.

    Returns:
        The path or address of the weights.

    Raises:
        ValueError: if the folder or its index.csv does not have it.
    """
    is_path = "/" in pretrained or pretrained.endswith(SUFFIXES) or os.path.exists(pretrained)
    if is_path or packages.is_packaged(pretrained):
        return pretrained
    if not folder:
        raise ValueError(
            f"pretrained={pretrained!r} is no file here, and no folder is given in which to look "
            "for that name: say --config.pretrained=PATH, or --config.pretrained_dir=FOLDER"
        )
    folder = folder.rstrip("/")
    if "-" in pretrained:
        return f"{folder}/{pretrained}.npz"
    index = f"{folder}/index.csv"
    reader = csv.DictReader(io.StringIO(files.fetch(index).read_text()))
    lacking = {"ds", "final_val", "filename"} - set(reader.fieldnames or ())
    if lacking:
        raise ValueError(f"{index} lacks the column(s) {', '.join(sorted(lacking))}")
    rows = [
        row for row in reader if row["ds"] == "i21k" and row["filename"].split("-")[0] == pretrained
    ]
    rows = [row for row in rows if row["final_val"] and math.isfinite(float(row["final_val"]))]
    if not rows:
        raise ValueError(f"{index} knows no {pretrained!r} that was pretrained on i21k")
    best = max(rows, key=lambda row: float(row["final_val"]))
    return f"{folder}/{best['filename']}.npz"


def get_absolute(pretrained: str) -> str:
    """Makes a local path absolute; an address or a name stays as it is."""
    is_address = "://" in pretrained or packages.is_packaged(pretrained)
    if is_address or not os.path.exists(os.path.expanduser(pretrained)):
        return pretrained
    return os.path.abspath(os.path.expanduser(pretrained))


@dataclasses.dataclass(frozen=True)
class Weights:
    """What a file or a run's folder holds, before it is known whether it fits a model.

    Attributes:
        path: as it was given.
        arrays: by their names: ours, or timm's if `is_torch`.
        is_torch: whether names and layout are those of PyTorch.
        workdir: the run that the weights belong to, or None.
    """

    path: str
    arrays: dict[str, np.ndarray]
    is_torch: bool
    workdir: Workdir | None

    @functools.cached_property
    def labels(self) -> tuple[str, ...] | None:
        """Class names that lie beside the weights, or None."""
        if self.workdir is not None:
            return self.workdir.read_labels()
        if files.is_download(self.path):
            return None
        beside = epath.Path(self.path).expanduser().parent / "labels.txt"
        return read_labels(beside) if beside.exists() else None

    @functools.cached_property
    def image_size(self) -> tuple[int, int] | None:
        """(h, w) of the images that the run evaluated; None without a run, or for any size."""
        if self.workdir is None:
            return None
        config = self.workdir.read_config()
        if get_model(config.model_name).predicts == "target":
            return None
        from input_pipeline import preprocess  # TensorFlow takes seconds to import

        return preprocess.output_shape(config.data.eval_pp)[:2]

    def head_fields(self, model: nn.Module) -> dict[str, Any]:
        """Fields of a classifier that the weights decide: how many classes, and pre_logits."""
        flat = self.arrays
        if not hasattr(model, "num_classes"):
            return {}
        if self.is_torch:
            bias = flat.get(f"{torch.names_of(model, found=flat)['head']}.bias")
            fields = {"representation_size": None}
        else:
            bias = flat.get("head/bias")
            pre_logits = flat.get("pre_logits/bias")
            fields = {"representation_size": None if pre_logits is None else len(pre_logits)}
        if not hasattr(model, "representation_size"):
            fields = {}
        return {**fields, "num_classes": 0 if bias is None else len(bias)}

    def may_be_of(self, model: nn.Module) -> bool:
        """Whether the names are those of a model's blocks; spares most models a closer look."""
        names = torch.names_of(model, found=self.arrays if self.is_torch else None)
        blocks = {k: v for k, v in names.items() if "block" in k}
        wanted = {v.partition("[")[0] for v in blocks.values()} if self.is_torch else set(blocks)
        dot = "." if self.is_torch else "/"
        return wanted <= {name.rpartition(dot)[0] for name in self.arrays} | set(self.arrays)

    def params(self, model: nn.Module) -> dict[str, Any]:
        """The parameters with our names, unrolled, whether or not they are all that a model has.

        Args:
            model: that timm's names are looked up for; its head does not matter.
        """
        arrays = self.arrays
        if self.is_torch:
            arrays = torch.rename(arrays, tree.unrolled(model).clone(**self.head_fields(model)))
        return traverse_util.unflatten_dict(arrays, sep="/")


def read(path: str | os.PathLike[str]) -> Weights:
    """Reads weights.

    Args:
        path: a .npz, .safetensors or .pth file, local or at an address that
            `checkpoints.files.fetch` takes, the folder of a run, or package:NAME.

    Returns:
        The weights.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    path = os.fspath(path)
    if packages.is_packaged(path):
        return Weights(path, packages.read(path), True, None)
    workdir = _find_workdir(path)
    if workdir is not None:
        params = npz.load(workdir.weights) if workdir.weights.exists() else _read_best(workdir)
        return Weights(path, traverse_util.flatten_dict(params, sep="/"), False, workdir)
    found = files.fetch(path)
    if found.suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: weights are a file that ends in one of {', '.join(SUFFIXES)}, or the folder "
            "of a run"
        )
    if found.suffix == ".npz":
        arrays = traverse_util.flatten_dict(npz.load(found), sep="/")
        return Weights(path, arrays, False, None)
    return Weights(path, torch.read(found), True, None)


def _find_workdir(path: str) -> Workdir | None:
    """The run whose folder, or whose weights.npz, the path is."""
    if files.is_download(path):
        return None
    workdir = Workdir(path)
    if not path.endswith(SUFFIXES):
        if workdir.path.exists() and not workdir.path.is_dir():
            return None
        if not workdir.has_config:
            raise ValueError(f"{path} holds no run, and is no file. {files.ALTERNATIVES}")
        return workdir
    beside = Workdir(workdir.path.parent)
    return beside if beside.weights == workdir.path and beside.has_config else None


def _read_best(workdir: Workdir) -> dict[str, Any]:
    """Parameters of the best checkpoint of a run that has not written its weights.npz yet."""
    config = workdir.read_config()
    if not workdir.checkpoints.exists():
        raise ValueError(
            f"{workdir.path} has no weights yet, neither weights.npz nor checkpoints: train first"
        )
    with Checkpointer(
        workdir.checkpoints, config.keep_checkpoints, config.best_metric, config.best_mode
    ) as checkpointer:
        if checkpointer.best_step is None:
            raise ValueError(f"{workdir.checkpoints} holds no checkpoint: train first")
        state = checkpointer.restore_as_saved(checkpointer.best_step)
    params = state["params"] if state.get("ema_params") is None else state["ema_params"]
    return tree.unstack(jax.tree.map(np.asarray, params))


def adapt(
    weights: Weights,
    init: Mapping[str, Any],
    model: nn.Module,
    image_size: tuple[int, int],
    old_size: tuple[int, int] | None = None,
    class_names: Sequence[str] | None = None,
    dont_load: str = "",
) -> dict[str, Any]:
    """Fits weights to a model that is to be fine-tuned.

    A head for other classes is replaced by the model's own, as is one without the pre_logits that
    it stood on; position embeddings are resized. Everything else must fit exactly.

    Args:
        weights: from `read`.
        init: the model's own initial parameters, unrolled.
        model: to be fine-tuned.
        image_size: (h, w) of its images.
        old_size: (h, w) of the images that the weights were trained with; None: that of their run,
            or of a square.
        class_names: of the model's head; None compares the number of classes alone.
        dont_load: regular expression; parameters in whose path it is found stay as initialised,
            and may be missing from the file, extra in it, or of another shape. "" is none.

    Returns:
        Parameters like `init`, of the same types.

    Raises:
        ValueError: with sorted lists of what is missing, extra, or of another shape.
    """
    old = traverse_util.flatten_dict(weights.params(model), sep="/")
    new = traverse_util.flatten_dict(init, sep="/")
    regex = _compile(dont_load, (*old, *new))
    # What is not loaded need not fit; but the class token says how the positions are to be read.
    old = {k: v for k, v in old.items() if k == "cls" or not (dont_load and regex.search(k))}
    params = traverse_util.unflatten_dict(old, sep="/")
    old_size = old_size or weights.image_size or _image_size(weights, params, model, image_size)
    shapes = jax.tree.map(np.shape, params)
    params = model.resize_params(params, old_size, image_size)
    if jax.tree.map(np.shape, params) != shapes:
        _LOG.info("resized for images of %s pixels, from %s", _by(image_size), _by(old_size))
    old = traverse_util.flatten_dict(params, sep="/")
    reason = _why_new_head(old, new, weights.labels, class_names)
    if reason:
        _LOG.info("the head begins anew: %s", reason)
    own = {"head"} if reason else set()
    if "pre_logits/kernel" in old and "pre_logits/kernel" not in new:
        _LOG.info("pre_logits is left out: the model has none")
        own.add("pre_logits")

    def is_own(name: str) -> bool:
        return name.split("/")[0] in own or bool(dont_load and regex.search(name))

    for name in sorted(name for name in new if dont_load and regex.search(name)):
        _LOG.info("%s stays as initialised", name)
    loaded = {name: array for name, array in old.items() if not is_own(name)}
    try:
        tree.check(loaded, {name: array for name, array in new.items() if not is_own(name)})
    except ValueError as error:
        raise ValueError(
            f"{weights.path}: {error}. {_what_fits(weights)}; --config.dont_load=REGEX leaves "
            "parameters as they were initialised"
        ) from None
    loaded = {name: np.asarray(array, new[name].dtype) for name, array in loaded.items()}
    return traverse_util.unflatten_dict({**new, **loaded}, sep="/")


def _image_size(
    weights: Weights, params: Mapping[str, Any], model: nn.Module, new: tuple[int, int]
) -> tuple[int, int]:
    try:
        return model.image_size(params)
    except KeyError:  # tree.check will say what is missing
        return new
    except ValueError as error:
        raise ValueError(
            f"{weights.path}: {error}: say the size of the images they were made for, "
            "--config.pretrained_size='(HEIGHT, WIDTH)'"
        ) from None


def _why_new_head(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    old_names: Sequence[str] | None,
    new_names: Sequence[str] | None,
) -> str:
    """Says why a head cannot be kept; "" if it can."""
    if "head/bias" not in new:
        return ""
    if "head/bias" not in old:
        return "the file has none"
    before, now = len(old["head/bias"]), len(new["head/bias"])
    if before != now:
        return f"it was for {before} classes, and is for {now} now"
    if "pre_logits/kernel" in old and "pre_logits/kernel" not in new:
        return "it stood on pre_logits"
    known = old_names is not None and new_names is not None and len(old_names) == before
    if known and tuple(old_names) != tuple(new_names):
        return f"it was for other {before} classes"
    return ""


def _compile(pattern: str, names: Sequence[str]) -> re.Pattern[str]:
    try:
        regex = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"dont_load={pattern!r} is not a regular expression: {error}") from None
    if not any(map(regex.search, names)):
        raise ValueError(
            f"dont_load={pattern!r} is found in none of: {', '.join(sorted(set(names)))}"
        )
    return regex


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A model with its weights, ready for use.

    Attributes:
        name: of the model.
        fields: of the model that differ from the published ones.
        model: with as many classes as the head has, if it has one; unrolled.
        variables: its variables, numpy.
        image_size: (h, w) of the images that it takes, or of an example if it takes any.
        labels: class names, or None if they are not known.
        eval_pp: preprocessing of a file, see `input_pipeline.preprocess`.
        loss: name of the loss that it was trained with; it decides how logits are read.
    """

    name: str
    fields: Mapping[str, Any]
    model: nn.Module
    variables: dict[str, Any]
    image_size: tuple[int, int]
    labels: tuple[str, ...] | None
    eval_pp: str
    loss: str


def load(
    path: str | os.PathLike[str],
    name: str | None = None,
    fields: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
    labels: str | None = None,
    old_size: tuple[int, int] | None = None,
) -> Pretrained:
    """Loads a model for use.

    Args:
        path: as for `read`.
        name: of the model, for a file without a run; found out if only one model fits.
        fields: of the model that differ from the published ones, for a file without a run.
        image_size: (h, w) to use it at; None for what it was trained with.
        labels: a file with a class name per line, "imagenet1k" or "none"; None for the labels.txt
            beside the weights, if there is one.
        old_size: (h, w) that the weights were made for, where no run and no square tells.

    Returns:
        The model with its weights.

    Raises:
        ValueError: if something is missing or does not fit; the message says what.
    """
    weights = read(path)
    eval_pp = loss = None
    if weights.workdir is not None:
        if name or fields:
            raise ValueError(
                f"{path} is a run, which says itself which model it is: leave --model and --field"
            )
        config = weights.workdir.read_config()
        name, eval_pp, loss = config.model_name, config.data.eval_pp, config.loss
        fields = {**config.model, "dtype": config.dtype}
    if name is None:
        name = _identify_one(weights)
    fields = dict(fields or {})
    model = tree.unrolled(get_model(name, **fields))
    head = weights.head_fields(model)
    wrong = [k for k, v in head.items() if fields.get(k, v) != v]
    if wrong:
        raise ValueError(f"{path} has {wrong[0]}={head[wrong[0]]}, and not {fields[wrong[0]]}")
    model = model.clone(**head)
    params = weights.params(model)
    old_size = old_size or weights.image_size or _square_or(image_size, path, model, params)
    size = image_size or old_size
    if size != old_size:
        params = model.resize_params(params, old_size, size)
        if eval_pp and model.predicts == "label":
            eval_pp = _resize_preprocessing(eval_pp, size)
    shapes = tree.shapes(model, size)
    try:
        tree.check(params, shapes)
    except ValueError as error:
        raise ValueError(f"{path}: {error}. {_what_fits(weights)}") from None
    return Pretrained(
        name=name,
        fields=fields,
        model=model,
        variables={"params": jax.tree.map(lambda a, s: np.asarray(a, s.dtype), params, shapes)},
        image_size=size,
        labels=_labels(labels, weights.labels, getattr(model, "num_classes", 0)),
        eval_pp=eval_pp
        or (_preprocessing(model, size) if model.predicts == "label" else "value_range(-1, 1)"),
        loss=loss or {"label": "softmax_xent", "target": "l1"}[model.predicts],
    )


def _square_or(
    image_size: tuple[int, int] | None, path: Any, model: nn.Module, params: Mapping[str, Any]
) -> tuple[int, int]:
    """The size that weights were made for: a square, or else that which is wanted."""
    try:
        return model.image_size(params)
    except KeyError as error:
        raise ValueError(f"{path} is not for this model: it lacks {error}") from None
    except ValueError as error:
        if image_size is None:
            raise ValueError(
                f"{path}: {error}: say the size of the images they were made for, "
                "--pretrained_size=HEIGHTxWIDTH"
            ) from None
        return image_size


def standard_preprocessing(size: tuple[int, int]) -> str:
    """The evaluation's preprocessing of the published fine-tunings: a plain resize."""
    return f"decode|resize({_side(size)})|value_range(-1, 1)"


def _preprocessing(model: nn.Module, size: tuple[int, int]) -> str:
    """The evaluation's preprocessing of a model's published weights."""
    if not hasattr(model, "input_values"):
        return standard_preprocessing(size)
    if size[0] != size[1]:
        return f"decode|resize({size}, method='bicubic')|{model.input_values}"
    shorter = round(size[0] * 8 / 7)  # 256 for 224
    return (
        f"decode|resize_small({shorter}, method='bicubic')|central_crop({size[0]})|"
        f"{model.input_values}"
    )


def _resize_preprocessing(spec: str, size: tuple[int, int]) -> str:
    """The same preprocessing to another size, if a plain resize is what makes the size."""
    plain = re.fullmatch(
        r"((?:decode|grayscale_to_rgb)\|)?(resize\()(\d+|\(\d+, *\d+\))([^|]*\))"
        r"(\|(?:value_range|normalize)\([^|]*\))",
        spec.replace(" |", "|").replace("| ", "|"),
    )
    if plain is None:
        raise ValueError(
            f"this run prepares images by {spec!r}, which --image_size cannot change: leave it out"
        )
    begin, resize, _, rest, end = plain.groups(default="")
    return f"{begin}{resize}{_side(size)}{rest}{end}"


def _side(size: tuple[int, int]) -> str:
    return str(size[0] if size[0] == size[1] else size)


def identify(weights: Weights) -> list[str]:
    """Names of the published models that weights fit, whatever their image size and classes."""
    return [name for name in list_models() if _fits(weights, name)]


def _what_fits(weights: Weights) -> str:
    return f"It fits {' and '.join(identify(weights)) or 'no published model as it is'}"


def _fits(weights: Weights, name: str) -> bool:
    model = get_model(name)
    if not weights.may_be_of(model):
        return False
    model = model.clone(**weights.head_fields(model))
    try:
        params = weights.params(model)
        tree.check(params, tree.shapes(model, model.image_size(params)))
    except (ValueError, KeyError):
        return False
    return True


def _identify_one(weights: Weights) -> str:
    names = identify(weights)
    if len(names) != 1:
        found = f"it fits {' and '.join(names)}" if names else "it fits none of them"
        raise ValueError(
            f"{weights.path}: say which model it is, --model=NAME; of the published ones {found}"
        )
    return names[0]


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads a file with a class name per line."""
    try:
        return tuple(epath.Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read the labels {os.fspath(path)}: {reason}") from None


def check_labels_beside(folder: epath.Path, labels: Sequence[str] | None) -> None:
    """Raises a ValueError if a folder already names other classes, or any where none are known."""
    path = folder / "labels.txt"
    if path.exists() and (labels is None or read_labels(path) != tuple(labels)):
        raise ValueError(f"{path} names the classes of other weights: choose another folder")


def write_labels_beside(folder: epath.Path, labels: Sequence[str] | None) -> None:
    """Writes class names, if they are known, to a folder where weights lie."""
    if labels is not None:
        Workdir(folder).write_labels(labels)


def _labels(wanted: str | None, beside: Sequence[str] | None, count: int) -> tuple[str, ...] | None:
    if wanted == "none" or not count:
        return None
    if wanted == "imagenet1k":
        # The builder of another data set spells out the names; imagenet2012's has the synsets.
        from tensorflow_datasets.datasets.siscore.labels import IMAGENET_LABELS_LIST

        names, where = tuple(IMAGENET_LABELS_LIST), wanted
    elif wanted:
        names, where = read_labels(wanted), wanted
    elif beside is not None:
        names, where = tuple(beside), "the labels.txt beside the weights"
    else:
        return None
    if len(names) != count:
        raise ValueError(
            f"{where} has {len(names)} names, but the head has {count} classes: say which are "
            "meant, --labels=FILE with a name per line, or --labels=none"
        )
    return names
