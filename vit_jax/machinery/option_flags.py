"""The flags by which `predict` is told how to answer: the options of the tasks."""

from pathlib import Path
from typing import Any

from absl import flags

from vit_jax.options import BY_TASK, kinds_of


def define() -> None:
    """Makes a flag of each option of the tasks that are known; those of one name share the flag."""
    for name, (kind, field, owners) in _by_flag().items():
        text = " ".join(
            f"Of {' and '.join(owner for owner in owners if owners[owner] == words)}: {words}"
            for words in dict.fromkeys(owners.values())
        )
        if kind is bool:
            flags.DEFINE_bool(name, field.default, text)
        elif field.metadata["choices"]:
            flags.DEFINE_enum(name, None, list(field.metadata["choices"]), text)
        else:
            define: dict[type, Any] = {int: flags.DEFINE_integer, float: flags.DEFINE_float}
            define.get(kind, flags.DEFINE_string)(name, None, text)


def check_output(output: Path | None) -> None:
    """Raises a ValueError for a flag about files if there is no folder for them."""
    for flag, (_, field, _) in _by_flag().items():
        if output is None and field.metadata["writes"] and flags.FLAGS[flag].value:
            raise ValueError(f"--{flag} writes files: say where, --output=FOLDER")


def read(task: str, model: str) -> Any:
    """Makes the options of a task of what was said.

    Args:
        task: its name.
        model: what messages call the model.

    Raises:
        ValueError: for a flag of other tasks.
    """
    own = kinds_of(BY_TASK[task])
    said = {}
    for flag, (_, _, owners) in _by_flag().items():
        if flag not in flags.FLAGS:
            continue  # of a plugin that only the run names
        value = flags.FLAGS[flag].value
        if value and flag not in own:
            raise ValueError(
                f"--{flag} goes with the task {' or '.join(owners)}, and that of {model} is {task}"
            )
        if value is not None and flag in own:
            said[flag] = value
    return BY_TASK[task](**said)


def _by_flag() -> dict[str, tuple[type, Any, dict[str, str]]]:
    """Options by name: their type, their field, and their help by the tasks that have them."""
    found: dict[str, tuple[type, Any, dict[str, str]]] = {}
    for task, options in BY_TASK.items():
        for name, (kind, field) in kinds_of(options).items():
            owners = found.get(name, (kind, field, {}))[2]
            found[name] = (kind, field, {**owners, task: field.metadata["help"]})
    return found
