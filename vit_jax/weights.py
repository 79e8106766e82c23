"""Weights that others, or earlier runs, have trained: found, read, and named as ours."""

import csv
import dataclasses
import functools
import io
import json
import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util

from checkpoints import files, formats, hub_config, npz, packages, published, torch, tree
from input_pipeline import imagenet, preprocess
from input_pipeline.palettes import known_sets
from vit_jax import plugins
from vit_jax.models import MODELS, get_model, resolve, timm_names, tower_names
from vit_jax.models.base import Model
from vit_jax.workdir import Workdir

# Fields without which weights are computed wrongly, and that their names and shapes do not show.
UNSEEN = ("activation", "norm_epsilon", "num_heads", "text_num_heads", "decoder_num_heads")
# Numbers in files that OpenAI wrote of its CLIP, which was trained with the quick GELU.
_OF_OPENAI = ("input_resolution", "context_length", "vocab_size")
SUFFIXES = (".npz", *torch.SAFETENSORS, *torch.PICKLED)


def find(pretrained: str, folder: str) -> str:
    """Says which file `config.pretrained` means.

    Args:
        pretrained: a path, an address, or a name of `checkpoints.published`, which is returned as
            it is; or a name inside `folder`: with a "-" that of a file, less its suffix .npz; else
            an AugReg short name such as "R_Ti_16", which means the file pretrained on ImageNet-21k
            that did best on its own validation images, according to the folder's index.csv.
        folder: `config.pretrained_dir`.

    Returns:
        The path or address of the weights.

    Raises:
        ValueError: if the folder or its index.csv does not have it.
    """
    is_path = "/" in pretrained or pretrained.endswith(tuple(formats.OF_SUFFIX))
    is_known = packages.is_packaged(pretrained) or published.find(pretrained) is not None
    if is_path or is_known or os.path.exists(pretrained):
        return pretrained
    if not folder:
        raise ValueError(
            f"pretrained={pretrained!r} is no file here, nor a name that `python -m "
            "checkpoints.published` lists, and no folder is given in which to look for it: say "
            "--config.pretrained=PATH, or --config.pretrained_dir=FOLDER"
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
        """(h, w) of the images that the run evaluated; None without a run, or for several sizes."""
        if self.workdir is None:
            return None
        config = self.workdir.read_config()
        if get_model(config.model_name, **config.model).any_size:
            return None
        try:
            return preprocess.output_shape(config.data.eval_pp)[:2]
        except ValueError:  # of several sizes, by windows of the size that the parameters are for
            return None

    def head_fields(self, model: Model) -> dict[str, Any]:
        """Fields that the weights decide: how many classes, pre_logits, its norm, and tokens."""
        flat = self.arrays
        names = torch.names_of(model, found=flat) if self.is_torch else {}
        table = flat.get(names.get(model.token_table, model.token_table))
        if not model.has_field("num_classes"):
            return {} if table is None else {"vocabulary_size": len(table)}

        def find(part: str, leaf: str) -> np.ndarray | None:
            if not self.is_torch:
                return flat.get(f"{part}/{leaf}")
            if f"{part}/{leaf}" in names:
                return flat.get(names[f"{part}/{leaf}"])
            found = flat.get(f"{names.get(part)}.{'bias' if leaf == 'bias' else 'weight'}")
            return found if found is None or found.ndim < 2 else found.T

        bias = find(model.class_heads[0], "bias")
        fields: dict[str, Any] = {"num_classes": 0 if bias is None else bias.size}
        kernel = find("pre_logits", "kernel")
        if model.has_field("representation_size"):
            fields["representation_size"] = None if kernel is None else kernel.shape[-1]
        if model.has_field("head_norm"):
            fields["head_norm"] = find("head_norm", "scale") is not None
        is_plain = kernel is not None and find("pre_logits", "bias") is None
        if is_plain and model.has_field("representation"):
            fields["representation"] = "projection"
        return fields

    @property
    def _may_be_described(self) -> bool:
        """Whether a config of somebody else's may lie beside the file."""
        is_ours = self.made_for is not None or packages.is_packaged(self.path)
        return self.is_torch and not is_ours

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """Fields that a file in PyTorch's names, or a config beside it, says of its model."""
        if not self._may_be_described:
            return {}
        is_openai = any(name.endswith(_OF_OPENAI) for name in self.arrays)
        fields = {"activation": "quick_gelu"} if is_openai else {}
        return {**fields, **hub_config.read_fields(self.path)}

    @functools.cached_property
    def told_models(self) -> tuple[str, ...]:
        """Names of the models, of which they are one by what a config beside them says."""
        if not self._may_be_described:
            return ()
        of_timm, kind = hub_config.read_names(self.path)
        name, _ = resolve(of_timm)
        if name in MODELS:
            return (name,)
        if kind not in timm_names.OF_TRANSFORMERS:
            return ()
        begin, end = timm_names.OF_TRANSFORMERS[kind]
        return tuple(name for name in MODELS if name.startswith(begin) and name.endswith(end))

    @functools.cached_property
    def described_loss(self) -> str:
        """The loss that a config beside a file in PyTorch's names says; "" if it says none."""
        return hub_config.read_loss(self.path) if self._may_be_described else ""

    def unseen_fields(self, model: Model) -> dict[str, Any]:
        """Fields of the weights' model, as far as known, that their names and shapes do not show.

        Args:
            model: of the kind that they are for.

        Raises:
            ValueError: if the two towers of one were trained with different activations.
        """
        if self.workdir is not None:
            config = self.workdir.read_config()
            trained = get_model(config.model_name, **config.model)
            fields = trained.values_of(UNSEEN)
        else:
            fields = dict(self.made_for.fields) if self.made_for else {}
            if self.is_torch and model.naming_fields:
                naming = torch.naming_of(self.arrays, model)
                fields = {**model.naming_fields.get(naming, {}), **fields}
            fields |= self.described
        both = fields.get("activation"), fields.get("text_activation")
        if model.has_field("text_num_heads") and None not in both and both[0] != both[1]:
            raise ValueError(
                f"{self.path}: its towers were trained with {both[0]} for images and {both[1]} for "
                "text, and a model here has the same for both"
            )
        return {k: v for k, v in fields.items() if k in UNSEEN and model.has_field(k)}

    @property
    def has_two_towers(self) -> bool:
        """Whether they are of images and of texts."""
        if not self.is_torch:
            return {"img", "txt"} <= {name.partition("/")[0] for name in self.arrays}
        return all(
            any(name.startswith(of) for name in self.arrays)
            for of in (tower_names.OF_IMAGES, tower_names.OF_TEXT)
        )

    def image_tower(self) -> "Weights":
        """Those of the images, of two towers, as a `VisionTransformer` has them."""
        if self.is_torch:
            arrays = {k: v for k, v in self.arrays.items() if not k.startswith(tower_names.OF_TEXT)}
        else:  # in LiT the projection has the name of a head of classes
            images = {k.removeprefix("img/"): v for k, v in self.arrays.items() if k[:4] == "img/"}
            arrays = npz.rename(images, {"head": "pre_logits"})
        return dataclasses.replace(self, arrays=arrays)

    @property
    def has_decoder(self) -> bool:
        """Whether they are a masked autoencoder's."""
        return any("decoder_embed" in name for name in self.arrays)

    def encoder(self) -> "Weights":
        """Those of a masked autoencoder's encoder, as a `VisionTransformer` has them."""
        if self.is_torch:
            arrays = {k: v for k, v in self.arrays.items() if not k.startswith("decoder")}
        else:
            prefix = "encoder/"
            whole = self.arrays.items()
            arrays = {k.removeprefix(prefix): v for k, v in whole if k.startswith(prefix)}
        return dataclasses.replace(self, arrays=arrays)

    @property
    def is_bert(self) -> bool:
        """Whether they are a BERT's, with or without its heads."""
        if not self.is_torch:
            return "encoder/token_embedding" in self.arrays
        return any(name.endswith("embeddings.word_embeddings.weight") for name in self.arrays)

    def named(self, model: Model) -> dict[str, np.ndarray]:
        """The arrays of a .npz file with our names where google-research has others."""
        return npz.rename(self.arrays, {v: k for k, v in model.npz_names().items()})

    def tree(self, model: Model) -> dict[str, Any]:
        """The arrays with our names, unrolled, whether or not they are all that a model has.

        Statistics of batch norms are among them, see `checkpoints.tree.merge`.

        Args:
            model: that timm's names are looked up for; its head does not matter.
        """
        arrays = self.arrays if self.is_torch else self.named(model)
        if self.is_torch:
            fields = self.head_fields(model)
            if model.backbone_model is not None and fields.get("num_classes") == 0:
                del fields["num_classes"]  # a segmenter cannot be without
            arrays = torch.rename(arrays, tree.unrolled(model).clone(**fields))
        return traverse_util.unflatten_dict(arrays, sep="/")


def read(path: str | os.PathLike[str], key: str = "") -> Weights:
    """Reads weights.

    Args:
        path: a file of numpy's (.npz), of safetensors or of PyTorch, whatever its name, local or at
            an address that `checkpoints.files.fetch` takes; the folder of a run; package:NAME; or
            a name of `checkpoints.published`.
        key: which weights of a PyTorch file with several, see `checkpoints.torch.read`.

    Returns:
        The weights.

    Raises:
        ValueError: if there are none, or they cannot be read.
    """
    path = published.resolve(os.fspath(path))
    if packages.is_packaged(path):
        _check_no_key(path, key)
        row = packages.find(path)
        made_for = formats.MadeFor(row.model, row.fields)
        return Weights(path, packages.read(path), True, None, made_for)
    path = _hub_file(path)
    workdir = _find_workdir(path)
    if workdir is not None:
        _check_no_key(path, key)
        plugins.load(workdir.read_config().plugins, beside=workdir.path)
        found = npz.load(workdir.weights) if workdir.weights.exists() else _read_best(workdir)
        return Weights(path, traverse_util.flatten_dict(found, sep="/"), False, workdir)
    found = files.fetch(path)
    if found.name.endswith(files.PARTS):
        _check_no_key(path, key)
        return Weights(path, _read_parts(path, found), True, None)
    kind = formats.find_format(found)
    if kind == formats.NPZ:
        _check_no_key(path, key)
        arrays = traverse_util.flatten_dict(npz.load(found), sep="/")
        return Weights(path, arrays, False, None, npz.read_made_for(found))
    arrays = torch.read(found, key)
    says = torch.read_made_for(found) if kind == formats.SAFETENSORS else None
    return Weights(path, arrays, True, None, says)


def _read_parts(path: str, found: epath.Path) -> dict[str, np.ndarray]:
    """Reads the files of which a list says what is in them, and which lie beside it."""
    try:
        names = sorted(set(json.loads(found.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{found} is no list of files of weights: {error!r}") from None
    arrays: dict[str, np.ndarray] = {}
    for name in names:
        part = files.find_beside(path, [name])
        if part is None:
            raise ValueError(f"{found} lists {name}, which is not beside it")
        arrays |= torch.read(part)
    return arrays


def _check_no_key(path: str, key: str) -> None:
    if key:
        raise ValueError(f"{path} holds one set of weights: leave the key {key!r} out")


def _hub_file(path: str) -> str:
    """The file of weights in a folder as those of the hub are; else the path itself."""
    if files.is_download(path) or path.endswith(SUFFIXES):
        return path
    folder = epath.Path(path).expanduser()
    if folder.is_dir():
        for name in files.HUB_FILES:
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
            meant = workdir.find_meant()
            then = f"; {meant}" if meant else ". "
            raise ValueError(f"{path} holds no run, and is no file{then}{files.ALTERNATIVES}")
        return workdir
    beside = Workdir(workdir.path.parent)
    return beside if beside.weights == workdir.path and beside.has_config else None


def _read_best(workdir: Workdir) -> dict[str, Any]:
    """Weights of the best checkpoint of a run that has not written its weights.npz yet."""
    from checkpoints.train_state import Checkpointer  # takes a while to import

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
    variables = {"params": state["params"], **(state["model_state"] or {})}
    if state.get("ema_params") is not None:
        variables = {"params": state["ema_params"], **(state.get("ema_model_state") or {})}
    return tree.merge(tree.unstack(jax.tree.map(np.asarray, variables)))


def read_labels(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Reads a file with a class name per line."""
    try:
        return tuple(epath.Path(path).read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(
            f"cannot read the labels {os.fspath(path)}: {reason}; what is meant is a file with a "
            "class name per line (names themselves are for models of images and texts)"
        ) from None


def check_labels_beside(folder: epath.Path, labels: Sequence[str] | None) -> None:
    """Raises a ValueError if a folder already names other classes, or any where none are known."""
    path = folder / "labels.txt"
    if path.exists() and (labels is None or read_labels(path) != tuple(labels)):
        raise ValueError(f"{path} names the classes of other weights: choose another folder")


def write_labels_beside(folder: epath.Path, labels: Sequence[str] | None) -> None:
    """Writes class names, if they are known, to a folder where weights lie."""
    if labels is not None:
        Workdir(folder).write_labels(labels)


def choose_labels(
    wanted: str | tuple[str, ...] | None,
    beside: Sequence[str] | None,
    count: int,
    flag: str = "--labels",
) -> tuple[str, ...] | None:
    """Chooses the names of a head's classes.

    Args:
        wanted: the names; or a file with one per line, "imagenet1k", a set of
            `palettes.known_sets`, or "none"; None or "" for those beside.
        beside: the names that lie beside the weights, or None.
        count: of the head's classes.
        flag: by which a person says which.

    Returns:
        The names, or None if they are not known.

    Raises:
        ValueError: if there are more or fewer names.
    """
    if wanted == "none" or not count:
        return None
    if wanted == "imagenet1k":
        names, where = imagenet.names(), wanted
    elif wanted in known_sets():
        names, where = known_sets()[wanted].class_names, wanted
    elif isinstance(wanted, tuple):
        names, where = wanted, "what is given"
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
