"""Whether a config fits itself, before anything is opened or compiled."""

from collections.abc import Collection

from ml_collections import ConfigDict

from input_pipeline.arguments import did_you_mean, unknown
from input_pipeline.sources import KINDS, kinds_with
from vit_jax import class_weights, plugins
from vit_jax.losses import get_loss
from vit_jax.machinery import config_keys, loggers
from vit_jax.models import MODELS, PUBLISHED_SCORES, get_model
from vit_jax.tasks import TASKS, Task, get_task

DISTILLATIONS = ("hard", "soft")
_MOST_NAMES = 4  # of models that a message lists


def validate_config(config: ConfigDict, opens_data: bool = True) -> None:
    """Checks keys and simple values, and locks the config.

    Args:
        config: of a run.
        opens_data: whether it is to learn from what `config.data` names.

    Raises:
        ValueError: for the first thing that does not fit; the message says what would.
    """
    config_keys.check(config)
    plugins.load(config.plugins)
    _check_numbers(config)
    loggers.check(config.loggers)
    _check_weights(config)
    check(
        config.total_steps is not None or config.total_epochs is not None,
        "say how long to train: --config.total_steps=N or --config.total_epochs=N",
    )
    if opens_data:  # before the fields, of which another model has others
        check_kind(config, get_task(get_model(config.model_name)))
    model = get_model(config.model_name, **{"dtype": config.dtype, **config.model})
    task = get_task(model)
    get_loss(config.loss, task.losses)
    for name in config.metrics:
        task.metric(name, config.loss)
    figures = ("loss", *config.metrics, *task.probes(config))
    check(
        config.best_metric in figures,
        f"best_metric={config.best_metric!r} is not evaluated; "
        f"{did_you_mean(config.best_metric, figures)}there are: {', '.join(figures)}",
    )
    check(
        config.benchmark in ("", *PUBLISHED_SCORES),
        unknown("benchmark", config.benchmark, PUBLISHED_SCORES),
    )
    _check_settings(config, task)
    task.make_answer(model, task.settings_in(config))  # or raises
    _check_parts(config, task)
    config.lock()


def check(holds: bool, message: str) -> None:
    """Raises a ValueError unless a condition holds."""
    if not holds:
        raise ValueError(message)


def check_kind(config: ConfigDict, task: Task) -> None:
    """Raises a ValueError unless `data.kind` has the truths that a task learns from."""
    kind = KINDS.get(config.data.kind)
    if kind is None:  # which is refused when the data are opened
        return
    keys = (*(() if kind.takes_tokenizer else ("image",)), *kind.truths)
    _check_keys(config, {*task.truths}, task, keys)


def check_data(config: ConfigDict, task: Task, keys: tuple[str, ...]) -> None:
    """Raises a ValueError unless examples, which have these keys, are what a task learns from."""
    _check_keys(config, {*task.truths, *task.inputs}, task, keys)


def _check_keys(config: ConfigDict, needed: set[str], task: Task, keys: tuple[str, ...]) -> None:
    lacking = sorted(needed - {*keys})
    if not lacking:
        return
    kinds = [name for name in KINDS if all(name in kinds_with(truth) for truth in task.truths)]
    *others, last = kinds or ["another kind"]
    fitting = _models_of(keys)
    raise ValueError(
        f"{config.model_name} is for the task {task.name} and learns from examples with "
        f"{' and '.join(lacking)}, which those of data.kind={config.data.kind!r} lack: set "
        f"data.kind to {', '.join(others)}{' or ' if others else ''}{last}, or model_name to a "
        "model for such data" + (f", as {', '.join(fitting)}" if fitting else "")
    )


def _models_of(keys: tuple[str, ...]) -> list[str]:
    """Names of some models that learn from such examples, one of each kind of model.

    If some learn from all that these have, those that learn from images alone are left out.
    """
    first = {model: name for name, (model, _) in reversed(MODELS.items())}
    found: dict[bool, list[str]] = {True: [], False: []}
    for name in MODELS:
        task = TASKS.get(get_model(name).task) if name in first.values() else None
        if task is not None and {*task.truths, *{"image"} & {*task.inputs}} <= {*keys}:
            found[bool(task.truths)].append(name)
    return (found[True] or found[False])[:_MOST_NAMES]


def check_metrics(config: ConfigDict, task: Task, truths: tuple[str, ...]) -> None:
    """Raises a ValueError unless data have what each metric is computed from."""
    for name in config.metrics:
        lacking = sorted({*task.metric(name, config.loss).needs} - {*task.truths, *truths})
        check(
            not lacking,
            f"the metric {name} is computed from {' and '.join(lacking)}, and these data have "
            f"{', '.join(truths)} alone: take it out of config.metrics",
        )


def check_splits(config: ConfigDict, splits: Collection[str]) -> None:
    """Raises a ValueError if data lack a split that the run needs."""
    check(
        "train" in splits or config.total_steps == 0,
        "there are no images to train on; --config.total_steps=0 only evaluates",
    )
    check(
        "val" in splits or not config.early_stopping,
        "early_stopping needs a validation split: set it to 0, or keep images out of training by "
        "a folder val/",
    )


def _check_numbers(config: ConfigDict) -> None:
    for key in ("batch_size", "accum_steps", "log_every", "keep_checkpoints", "fsdp"):
        check(config[key] >= 1, f"{key} must be at least 1, not {config[key]}")
    check(0 <= config.seed < 2**31, f"seed must lie in [0, 2^31), and is {config.seed}")
    for key in ("total_epochs", "eval_every", "checkpoint_every"):
        check(config[key] is None or config[key] > 0, f"{key} must be positive")
    check(
        0 <= (config.total_steps or 0) < 2**31,
        f"total_steps must lie in [0, 2^31), and is {config.total_steps}",
    )
    check(
        config.early_stopping >= 0,
        f"early_stopping must be 0 or more, and is {config.early_stopping}",
    )
    check(
        config.best_mode in ("max", "min"),
        f"best_mode must be max or min, and is {config.best_mode!r}",
    )
    timescale = config.schedule.timescale
    check(timescale > 0, f"schedule.timescale must be positive, not {timescale}")
    for key in ("warmup_steps", "warmup_epochs"):
        value = config.schedule[key]
        check(value >= 0, f"schedule.{key} must not be negative, and is {value}")
    seed = config.data.split_seed
    check(0 <= seed < 2**32, f"data.split_seed must lie in [0, 2^32), and is {seed}")
    averaged = config.average_checkpoints
    check(averaged >= 0, f"average_checkpoints must not be negative, and is {averaged}")
    check(
        not (averaged and config.ema_decay),
        f"average_checkpoints={averaged} and ema_decay={config.ema_decay} would average twice: set "
        "one of them to 0",
    )
    check(
        not config.ema_warmup or bool(config.ema_decay),
        "ema_warmup is for an average: say of which decay, --config.ema_decay=0.999",
    )
    for key in ("label_smoothing", "ema_decay"):
        check(0 <= config[key] < 1, f"{key} must lie in [0, 1), not {config[key]}")
    if config.class_weights not in ("", class_weights.BALANCED):
        class_weights.read(config.class_weights)  # or raises
    for key in ("mixup_alpha", "cutmix_alpha"):
        check(config[key] >= 0, f"{key} must not be negative, and is {config[key]}")
    for key in ("learning_rate", "weight_decay", "clip_norm", "adaptive_clip"):
        value = config.optim[key]
        check(value >= 0, f"optim.{key} must not be negative, and is {value}")
    for key in ("weight", "perceptual_weight"):
        value = config.gan[key]
        check(value >= 0, f"gan.{key} must not be negative, and is {value}")


def _check_weights(config: ConfigDict) -> None:
    size = config.pretrained_size
    check(
        len(size) in (0, 2) and all(isinstance(n, int) and n > 0 for n in size),
        f"pretrained_size must be (height, width), not {size}",
    )
    for key in ("dont_load", "pretrained_key", "pretrained_labels"):
        check(
            bool(config.pretrained or config.text.pretrained) or not config[key],
            f"{key} is for pretrained weights: say --config.pretrained=PATH",
        )


def _check_settings(config: ConfigDict, task: Task) -> None:
    """Settings of other tasks are off."""
    others = [other for other in TASKS.values() if other is not task]
    for key in (key for other in others for key in other.settings if key not in task.settings):
        group, _, name = key.rpartition(".")
        value = (config[group] if group else config).get(name)  # a plugin's may be none of ours
        owners = " and ".join(other.name for other in others if key in other.settings)
        unset = {str: "leave it empty", tuple: "set it to ()", bool: "set it to False"}
        check(
            not value,
            f"{key} is for the task {owners}, and {config.model_name} is for {task.name}: "
            f"{unset.get(type(value), 'set it to 0')}",
        )


def _check_parts(config: ConfigDict, task: Task) -> None:
    has_gan = config.gan.weight or config.gan.perceptual_weight
    check(
        not has_gan or config.accum_steps == 1,
        f"gan.weight and gan.perceptual_weight need accum_steps=1, not {config.accum_steps}, since "
        "the discriminator compares the images of a whole batch: take a smaller batch_size, or "
        "model.remat=True",
    )
    distill = config.distill
    check(
        not distill.teacher or config.accum_steps == 1 or task.is_independent,
        f"the loss of the task {task.name} compares a whole batch, which a teacher would see in "
        f"accum_steps={config.accum_steps} parts: set it to 1, or distill.teacher to ''",
    )
    check(
        distill.kind in DISTILLATIONS,
        f"distill.kind={distill.kind!r} is not one of {DISTILLATIONS}",
    )
    check(
        0 < distill.weight <= 1,
        f"distill.weight must lie in (0, 1], not {distill.weight}",
    )
    check(
        distill.temperature > 0,
        f"distill.temperature must be positive, not {distill.temperature}",
    )
