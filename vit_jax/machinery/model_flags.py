"""The flags by which a command is told which trained model to use."""

import ast
import dataclasses
import itertools
import re
from typing import Any

from absl import flags

_WORKDIR = flags.DEFINE_string("workdir", None, "A trained run's folder.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint",
    None,
    "In place of --workdir: a .npz, .safetensors or PyTorch file, local or gs://, https://, hf://; "
    "package:NAME; or the name of published weights, see python -m checkpoints.published.",
)
flags.DEFINE_alias("weights", "checkpoint")
_LABELS = flags.DEFINE_string(
    "labels",
    None,
    "A file with a class name per line; imagenet1k, ade20k, voc, cityscapes, camvid, lip, "
    "coco_stuff or none; unset: the labels.txt beside the weights. For a model of images and texts "
    "what is looked for, also as 'cat,dog,a red car'.",
)
_IMAGE_SIZE = flags.DEFINE_string(
    "image_size", None, "224, or HEIGHTxWIDTH; unset: what the model was trained with."
)
_MODEL = flags.DEFINE_string(
    "model", None, "Name of the checkpoint's model; unset: the one published model that it fits."
)
_FIELD = flags.DEFINE_multi_string(
    "field", [], "NAME=VALUE: a field in which that model differs from the published one"
)
_PRETRAINED_SIZE = flags.DEFINE_string(
    "pretrained_size",
    None,
    "HEIGHTxWIDTH of the images that a checkpoint was made for; unset: of a square.",
)
KEY = flags.DEFINE_string(
    "key", "", "Which weights of a PyTorch file that holds several, such as state_dict_ema."
)
_VOCABULARY = flags.DEFINE_string(
    "vocabulary",
    "",
    "Of a model that reads texts: the file, or its folder; unset: that of the run, beside the "
    "weights, or in an installed package.",
)
_PLUGINS = flags.DEFINE_list(
    "plugins", [], "Modules with models and tasks of your own, see docs/adding.md."
)


def path_given() -> str | None:
    """The path that --workdir or --checkpoint says, if one of them does."""
    return _WORKDIR.value if _CHECKPOINT.value is None else _CHECKPOINT.value


def is_silent() -> bool:
    """Whether no flag says anything of a model."""
    return not any(
        flag.value
        for flag in (_WORKDIR, _CHECKPOINT, _LABELS, _IMAGE_SIZE, _MODEL, _FIELD, _PRETRAINED_SIZE,
                     KEY, _VOCABULARY, _PLUGINS)
    )  # fmt: skip


def load() -> Any:
    """Loads the model that the flags say; see `pretrained.load` for what comes and the errors."""
    given = [path for path in (_WORKDIR.value, _CHECKPOINT.value) if path is not None]
    if len(given) != 1:
        raise ValueError(
            "say which model: either --workdir=DIR, a trained run's folder, or --checkpoint=FILE"
        )
    return load_from(given[0])


def load_from(path: str) -> Any:
    """Loads the model that lies at a path, with the flags that say more about it."""
    from vit_jax import pretrained  # takes seconds to import

    load_plugins()
    model = pretrained.load(
        path,
        name=_MODEL.value,
        fields=parse_fields(_FIELD.value),
        image_size=parse_size("image_size", _IMAGE_SIZE.value),
        labels=_LABELS.value,
        old_size=parse_size("pretrained_size", _PRETRAINED_SIZE.value),
        key=KEY.value,
        vocabulary=_VOCABULARY.value,
    )
    named = [name for name in _PLUGINS.value if name not in model.plugins]
    return dataclasses.replace(model, plugins=(*model.plugins, *named))


def load_plugins() -> None:
    """Imports the modules that --plugins names."""
    from vit_jax import plugins

    plugins.load(_PLUGINS.value)


def plugins_in(argv: list[str]) -> list[str]:
    """The modules that --plugins names, before flags are read: they can bring flags themselves."""
    given = [arg.partition("=")[2] for arg in argv if re.match(r"--?plugins=", arg)]
    given += [value for arg, value in itertools.pairwise(argv) if re.fullmatch("--?plugins", arg)]
    return [name for names in given for name in names.split(",") if name]


def parse_fields(settings: list[str]) -> dict[str, Any]:
    """Reads NAME=VALUE settings; a VALUE that is no Python literal is a string."""
    fields = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not name or not equals:
            raise ValueError(f"--field={setting} must read NAME=VALUE")
        try:
            fields[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            fields[name] = value
    return fields


def parse_size(flag: str, size: str | None) -> tuple[int, int] | None:
    """Reads "224" or "320x480" as (height, width)."""
    if size is None:
        return None
    match = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", size)
    if match is None:
        raise ValueError(f"--{flag}={size} must read 224 or HEIGHTxWIDTH, such as 320x480")
    return int(match[1]), int(match[2] or match[1])
