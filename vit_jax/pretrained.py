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

from checkpoints import files, formats, npz, packages, torch, tree
from checkpoints.train_state import Checkpointer
from vit_jax.identify import find_relative, identify, what_fits
from vit_jax.models import MODELS, get_model
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

# Fields of how a model is run, which are none of its weights' business.
_RUN = ("dtype", "scan", "remat", "attention_implementation", "band_rows")
_WHICH_GELU = (
    "%s does not say with which GELU it was trained; %s is taken. google-research trained with "
    "gelu_tanh, timm and DINOv2 do with gelu: --%s=gelu"
)
# Fields without which weights are computed wrongly, and that their names and shapes do not show.
_UNSEEN = ("activation", "num_heads")
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
    is_path = "/" in pretrained or pretrained.endswith(tuple(formats.OF_SUFFIX))
    if is_path or os.path.exists(pretrained) or packages.is_packaged(pretrained):
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
        made_for: what the file says of its model, or None.
    """

    path: str
    arrays: dict[str, np.ndarray]
    is_torch: bool
    workdir: Workdir | None
    made_for: formats.MadeFor | None = None

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
        names = torch.names_of(model, found=flat) if self.is_torch else {}
        bias, pre_logits = (
            flat.get(f"{names.get(part)}.bias" if self.is_torch else f"{part}/bias")
            for part in ("head", "pre_logits")
        )
        fields = {"representation_size": None if pre_logits is None else pre_logits.size}
        if not hasattr(model, "representation_size"):
            fields = {}
        return {**fields, "num_classes": 0 if bias is None else bias.size}

    def unseen_fields(self, model: nn.Module) -> dict[str, Any]:
        """Fields of the weights' model, as far as known, that their names and shapes do not show.

        Args:
            model: of the kind that they are for.
        """
        if self.workdir is not None:
            config = self.workdir.read_config()
            trained = get_model(config.model_name, **config.model)
            fields = {name: getattr(trained, name, None) for name in _UNSEEN}
        else:
            fields = dict(self.made_for.fields) if self.made_for else {}
            if self.is_torch and hasattr(model, "naming_fields"):
                naming = torch.naming_of(self.arrays, model)
                fields = {**model.naming_fields.get(naming, {}), **fields}
        return {name: v for name, v in fields.items() if name in _UNSEEN and hasattr(model, name)}

    def params(self, model: nn.Module) -> dict[str, Any]:
        """The parameters with our names, unrolled, whether or not they are all that a model has.

        Args:
            model: that timm's names are looked up for; its head does not matter.
        """
        arrays = self.arrays
        if self.is_torch:
            arrays = torch.rename(arrays, tree.unrolled(model).clone(**self.head_fields(model)))
        return traverse_util.unflatten_dict(arrays, sep="/")


def read(path: str | os.PathLike[str], key: str = "") -> Weights:
    """Reads weights.

    Args:
        path: a file of numpy's (.npz), of safetensors or of PyTorch, whatever its name, local or at
            an address that `checkpoints.files.fetch` takes; the folder of a run; or package:NAME.
        key: which weights of a PyTorch file with several, see `checkpoints.torch.read`.

    Returns:
        The weights.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    path = os.fspath(path)
    if packages.is_packaged(path):
        _check_no_key(path, key)
        row = packages.find(path)
        made_for = formats.MadeFor(row.model, row.fields)
        return Weights(path, packages.read(path), True, None, made_for)
    path = _hub_file(path)
    workdir = _find_workdir(path)
    if workdir is not None:
        _check_no_key(path, key)
        params = npz.load(workdir.weights) if workdir.weights.exists() else _read_best(workdir)
        return Weights(path, traverse_util.flatten_dict(params, sep="/"), False, workdir)
    found = files.fetch(path)
    kind = formats.find_format(found)
    if kind == formats.NPZ:
        _check_no_key(path, key)
        arrays = traverse_util.flatten_dict(npz.load(found), sep="/")
        return Weights(path, arrays, False, None, npz.read_made_for(found))
    arrays = torch.read(found, key)
    made_for = torch.read_made_for(found) if kind == formats.SAFETENSORS else None
    return Weights(path, arrays, True, None, made_for)


def _check_no_key(path: str, key: str) -> None:
    if key:
        raise ValueError(f"{path} holds one set of weights: leave the key {key!r} out")


def _hub_file(path: str) -> str:
    """The file of weights in a folder as transformers saves it; else the path itself."""
    folder = epath.Path(path).expanduser()
    if not files.is_download(path) and not path.endswith(SUFFIXES) and folder.is_dir():
        for name in ("model.safetensors", "pytorch_model.bin"):
            if (folder / name).exists() and not (folder / "data.json").exists():
                return os.fspath(folder / name)
    return path


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
    labels: str = "",
) -> dict[str, Any]:
    """Fits weights to a model that is to be fine-tuned.

    A head for other classes is replaced by the model's own, as is one without the pre_logits that
    it stood on; one for the same classes in another order is put in order; position embeddings are
    resized. Everything else must fit exactly.

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
        labels: a file with the weights' class names, a line each, or "imagenet1k"; "" for the
            labels.txt beside them, if there is one.

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
    _tell_unseen(weights, model)
    old_names = _old_names(weights, labels, len(old.get("head/bias", ())))
    reason = _why_new_head(old, new, old_names, class_names)
    if reason:
        _LOG.info("the head begins anew: %s", reason)
    elif class_names is not None and "head/bias" in new:
        old |= _ordered_head(old, old_names, class_names)
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
            f"{weights.path}: {error}. {what_fits(weights)}; --config.dont_load=REGEX "
            "leaves parameters as they were initialised"
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
    if old_names is not None and new_names is not None and {*old_names} != {*new_names}:
        return f"it was for other {before} classes"
    return ""


def _old_names(weights: Weights, labels: str, count: int) -> Sequence[str] | None:
    """The names of a head's classes, if they are known."""
    if labels and count:
        return _labels(labels, None, count, flag="--config.pretrained_labels")
    beside = weights.labels
    if beside is not None and len(beside) != count:
        if count:
            _LOG.warning("the labels.txt beside %s has %d names, and its head %d classes: it is "
                         "passed over", weights.path, len(beside), count)  # fmt: skip
        return None
    return beside


def _ordered_head(
    old: Mapping[str, Any], old_names: Sequence[str] | None, new_names: Sequence[str]
) -> dict[str, Any]:
    """The head, its classes in the order of the data; says which is assumed if it is not known."""
    head = {name: np.asarray(old[name]) for name in old if name.split("/")[0] == "head"}
    if old_names is None:
        _LOG.warning(
            "the head is kept, and its %d classes are taken to be, in this order: %s. If they are "
            "others or in another order, say --config.pretrained_labels=FILE, a name per line; "
            "--config.dont_load='^head/' begins it anew",
            len(new_names), _some(new_names),
        )  # fmt: skip
        return head
    if tuple(old_names) == tuple(new_names):
        return head
    _LOG.info("the head's classes are put in the order of the data's")
    order = [old_names.index(name) for name in new_names]
    return {name: array[..., order] for name, array in head.items()}


def _some(names: Sequence[str], most: int = 20) -> str:
    rest = f", ... {names[-1]}" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _tell_unseen(weights: Weights, model: nn.Module) -> None:
    """Says if a model computes otherwise than the weights' own, or if that is not known."""
    known = weights.unseen_fields(model)
    for name, value in known.items():
        if getattr(model, name) != value:
            _LOG.warning(
                "%s was trained with %s=%s, and the model has %s: say --config.model.%s=%s",
                weights.path, name, value, getattr(model, name), name, value,
            )  # fmt: skip
    if weights.is_torch and "activation" not in known and hasattr(model, "activation"):
        _LOG.info(_WHICH_GELU, weights.path, model.activation, "config.model.activation")


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
    key: str = "",
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
        key: which weights of a PyTorch file with several, see `checkpoints.torch.read`.

    Returns:
        The model with its weights.

    Raises:
        ValueError: if something is missing or does not fit; the message says what.
    """
    weights = read(path, key)
    eval_pp = loss = None
    if weights.workdir is not None:
        if name or fields:
            raise ValueError(
                f"{path} is a run, which says itself which model it is: leave --model and --field"
            )
        config = weights.workdir.read_config()
        name, eval_pp, loss = config.model_name, config.data.eval_pp, config.loss
        fields = {**config.model, "dtype": config.dtype}
    fields = dict(fields or {})
    made_for = weights.made_for
    if made_for is not None and made_for.model in MODELS and name in (None, made_for.model):
        name, fields = made_for.model, {**made_for.fields, **fields}
    if name is None:
        name, read_fields = _choose_model(weights)
        fields = {**read_fields, **fields}
    if weights.workdir is None:
        fields = {**weights.unseen_fields(get_model(name)), **fields}
    model = tree.unrolled(get_model(name, **fields))
    head = weights.head_fields(model)
    wrong = [k for k, v in head.items() if fields.get(k, v) != v]
    if wrong:
        raise ValueError(f"{path} has {wrong[0]}={head[wrong[0]]}, and not {fields[wrong[0]]}")
    model = model.clone(**head)
    if weights.is_torch and hasattr(model, "activation") and "activation" not in fields:
        _LOG.info(_WHICH_GELU, path, model.activation, "field=activation")
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
        raise ValueError(f"{path}: {error}. {what_fits(weights)}") from None
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


def say_made_for(name: str, fields: Mapping[str, Any]) -> formats.MadeFor:
    """What a file of weights is to say of its model: all but how it is run."""
    model = get_model(name, **fields)
    fields = {**fields, **{k: getattr(model, k) for k in _UNSEEN if hasattr(model, k)}}
    return formats.MadeFor(name, {k: v for k, v in fields.items() if k not in _RUN})


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


def _choose_model(weights: Weights) -> tuple[str, Mapping[str, Any]]:
    """The one published model that weights are of, and fields in which theirs differs from it."""
    names = identify(weights)
    if len(names) == 1:
        return names[0], {}
    if not names:
        relative = find_relative(weights)
        if relative is not None and relative.is_sure and not relative.problem:
            _LOG.info("%s is taken for %s", weights.path, relative)
            return relative.name, relative.fields
        found = "it fits none of them"
        if relative is not None:
            found += f"; the closest is {relative}" + f": {relative.problem}".rstrip(": ")
    else:
        found = f"it fits {' and '.join(names)}"
    raise ValueError(
        f"{weights.path}: say which model it is, --model=NAME; of the published ones {found}"
    )


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


def _labels(
    wanted: str | None, beside: Sequence[str] | None, count: int, flag: str = "--labels"
) -> tuple[str, ...] | None:
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
            f"meant, {flag}=FILE with a name per line, or {flag}=none"
        )
    return names
