"""The tasks, by name. To add one: its file, and its row here or a call of `register`."""

from typing import Any

from vit_jax.options import BY_TASK
from vit_jax.tasks import (
    classify,
    flow,
    image_text,
    masked_image,
    masked_words,
    restore,
    segment,
    translate,
)
from vit_jax.tasks.base import Task

TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Makes a task known by its name, of this package or anybody's.

    Raises:
        ValueError: if another has the name, or there is nothing to learn it by.
    """
    if not task.losses:
        raise ValueError(f"the task {task.name!r} has no losses")
    if _origin(TASKS.get(task.name, task)) != _origin(task):  # the same module may be reloaded
        raise ValueError(f"there is a task called {task.name!r} already")
    TASKS[task.name] = task
    BY_TASK[task.name] = task.options


def _origin(task: Task) -> set[str]:
    return {loss.__module__ for loss in task.losses.values()}


def get_task(model: Any) -> Task:
    """The task of a model.

    Raises:
        ValueError: if nobody has registered it.
    """
    if model.task not in TASKS:
        raise ValueError(
            f"{type(model).__name__} is for the task {model.task!r}, which nobody has registered; "
            f"there are: {', '.join(TASKS)}"
        )
    return TASKS[model.task]


for _task in (
    classify.TASK,
    flow.TASK,
    image_text.TASK,
    masked_image.TASK,
    masked_words.TASK,
    restore.TASK,
    segment.TASK,
    translate.TASK,
):
    register(_task)
