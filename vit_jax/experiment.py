"""From a config to the parts of a run: data, model, optimizer, state."""

import contextlib
import dataclasses
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import flax.errors
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from checkpoints import tree
from vit_jax import moving_average, optim, pace, pretrained, schedules, text_weights, weights
from vit_jax.adversary import Adversary, AdversaryState, make_adversary
from vit_jax.machinery import processes, sharding
from vit_jax.models import get_model
from vit_jax.models.base import Model
from vit_jax.schedules import Schedule
from vit_jax.tasks import Task, get_task
from vit_jax.tasks.base import Batch, Out
from vit_jax.validation import check, check_data, check_metrics, check_splits, validate_config

if TYPE_CHECKING:  # TensorFlow is imported where data is read, and only there
    from input_pipeline import Dataset, MadeUp
    from input_pipeline.pipeline import Shapes
    from input_pipeline.tokenizers import Tokenizer

_LOG = logging.getLogger(__name__)

_FEWEST_LINES = 20  # of training figures, in a run of at least as many steps


class TrainState(flax.struct.PyTreeNode):
    """Everything that a run carries from step to step.

    Randomness and the position in the data are functions of the seed and the step.

    Attributes:
        step: () int32, the number of updates made.
        params: the model's parameters, float32.
        model_state: its other collections, such as batch_stats; often empty.
        opt_state: the optimizer's state.
        ema_params: averaged parameters, or None.
        adversary: the discriminator's state, or None without one.
        ema_model_state: averaged like the parameters; None without averages, or if it is empty.
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema_params: Any
    adversary: AdversaryState | None = None
    ema_model_state: Any = None

    def eval_variables(self) -> dict[str, Any]:
        """Returns the variables to evaluate and to export."""
        params = self.params if self.ema_params is None else self.ema_params
        state = self.model_state if self.ema_model_state is None else self.ema_model_state
        return {"params": params, **state}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run.

    Attributes:
        config: validated and locked.
        mesh: of the devices.
        data: this process's part.
        model: with as many classes as the data has, if it has any.
        task: of the model.
        schedule: learning rate by step.
        tx: the optimizer.
        adversary: the discriminator, or None without one.
        total_steps: of the run.
        eval_every: steps between evaluations.
        state_sharding: shardings of a TrainState.
        abstract_state: shapes, types and shardings of a TrainState.
    """

    config: ConfigDict
    mesh: Mesh
    data: "Dataset | MadeUp"
    model: Model
    task: Task
    schedule: Schedule
    tx: optax.GradientTransformation
    adversary: Adversary | None
    total_steps: int
    eval_every: int
    state_sharding: TrainState
    abstract_state: TrainState

    @property
    def tokenizer(self) -> "Tokenizer | None":
        """What made tokens of the data's texts; None if there are none, or they are made up."""
        return getattr(self.data, "tokenize", None)

    def evaluates_at(self, step: int) -> bool:
        """Whether the run evaluates after that many steps."""
        return step == self.total_steps or step % self.eval_every == 0

    def logs_at(self, step: int) -> bool:
        """Whether it records figures of the training then: short runs more often than log_every."""
        every = min(self.config.log_every, max(self.total_steps // _FEWEST_LINES, 1))
        return step == self.total_steps or step % every == 0

    def saves_at(self, step: int) -> bool:
        """Whether it saves a checkpoint then, besides those that it leaves when it is stopped."""
        every = self.config.checkpoint_every
        return self.evaluates_at(step) or (every is not None and step % every == 0)

    def averaged(self, steps: Sequence[int]) -> list[int]:
        """Those of some steps, in order, whose checkpoints are averaged in the end.

        They are the last that an uninterrupted run has as well, so that a run which was continued
        comes to the same.
        """
        count = self.config.average_checkpoints
        return [step for step in steps if self.saves_at(step)][-count:] if count else []

    def init_state(self) -> TrainState:
        """Initialises a state, spread over the devices: from the seed, and config.pretrained.

        Raises:
            ValueError: if the pretrained weights are not there or do not fit.
        """
        inputs = _inputs(self.task, self.data.example)
        init = _state_maker(self.config, self.model, inputs, self.tx, self.adversary)
        state = jax.jit(init, out_shardings=self.state_sharding)()
        config = self.config
        if config.pretrained:
            state = self._with_variables(state, self._pretrained)
        if config.text.pretrained:
            state = self._with_variables(state, self._text_pretrained)
        return state

    def forward(
        self, params: Any, model_state: Any, batch: Batch, key: jax.Array
    ) -> tuple[Out, Any]:
        """Applies the model as training does; returns its output and its next model_state."""
        return self.task.apply(
            self.model,
            {"params": params, **model_state},
            batch,
            train=True,
            rngs={"dropout": key},
            mutable=list(model_state),
        )

    def update(
        self, state: TrainState, grads: Any, model_state: Any
    ) -> tuple[TrainState, dict[str, jax.Array]]:
        """Makes a step of the optimizer.

        Args:
            state: before it.
            grads: of the parameters; None in the place of the frozen ones.
            model_state: the next.

        Returns:
            The next state, and metrics: the `grad_norm`, the `param_norm` after the step, and the
            `learning_rate`.
        """
        norm = optax.tree.norm(grads)
        # The optimizer takes no notice of the zeros.
        grads = jax.tree.map(
            lambda p, g: jnp.zeros_like(p) if g is None else g, state.params, grads
        )
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = self.model.constrain(optax.apply_updates(state.params, updates))
        metrics = {
            "grad_norm": norm,
            "param_norm": optax.tree.norm(params),
            "learning_rate": jnp.asarray(self.schedule(state.step), jnp.float32),
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema_params=moving_average.follow(self.config, params, state.ema_params, state.step),
            ema_model_state=moving_average.follow(
                self.config, model_state, state.ema_model_state, state.step
            ),
        )
        return state, metrics

    def _with_variables(
        self, state: TrainState, adapted: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> TrainState:
        """A new run's state with the variables that a function makes of its own, both unrolled."""
        gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))
        own = {"params": state.params, **state.model_state}
        variables = adapted(tree.unstack(jax.device_get(gather(own))))
        is_unrolled = tree.unrolled(self.model) is self.model
        variables = variables if is_unrolled else tree.stack(variables)
        shardings = {"params": self.state_sharding.params, **self.state_sharding.model_state}
        variables = jax.device_put(variables, shardings)
        return state.replace(**_beginning(self.config, variables))

    def _pretrained(self, own: dict[str, Any]) -> dict[str, Any]:
        """A model's variables with those of `config.pretrained`."""
        config = self.config
        return pretrained.adapt(
            _read(config.pretrained, config),
            own,
            self.model,
            self.data.image_shape[:2],
            old_size=tuple(config.pretrained_size) or None,
            class_names=self.data.class_names or None,
            dont_load=config.dont_load,
            labels=config.pretrained_labels,
        )

    def _text_pretrained(self, own: dict[str, Any]) -> dict[str, Any]:
        """A model's variables with a text tower of `config.text.pretrained`."""
        config = self.config
        found = _read(config.text.pretrained, config)
        return text_weights.adapt(found, own, self.model, config.dont_load)


def _read(name: str, config: ConfigDict) -> weights.Weights:
    path = weights.find(name, config.pretrained_dir)
    _LOG.info("reading %s", path)
    return weights.read(path, config.pretrained_key)


def build(config: ConfigDict, data: "MadeUp | None" = None) -> Experiment:
    """Makes the parts of a run, except the state.

    Args:
        config: from `configs`; it is validated and locked, and its paths become absolute, so that
            the run can be continued from any folder.
        data: in place of what `config.data` names.

    Returns:
        The experiment.

    Raises:
        ValueError: if the config does not fit itself, the data or the devices.
    """
    validate_config(config, opens_data=data is None)
    check(
        bool(config.gan.vgg19) or not config.gan.perceptual_weight,
        "gan.perceptual_weight needs the weights of torchvision's VGG19: say "
        "--config.gan.vgg19=PATH, or set it to 0",
    )
    _make_paths_absolute(config)
    mesh = sharding.make_mesh(config.fsdp)
    sharding.check_batch(mesh, config.batch_size, config.accum_steps)
    data = data or _open_data(config, mesh)
    model = _fit_model(config, data)
    task = get_task(model)
    total_steps, steps_per_epoch = schedules.count_steps(config, data.steps_per_epoch)
    schedule = schedules.make_schedule(
        config.schedule, config.optim.learning_rate, total_steps, steps_per_epoch
    )
    inputs = _inputs(task, data.example)
    variables, out = _shapes(config, model, inputs, data)
    _warn_of_values(config, model)
    tx = optim.make_optimizer(config.optim, schedule, variables["params"], model.layer_patterns())
    adversary = make_adversary(config, schedule, out.shape[1:]) if config.gan.weight else None

    processes.check_same({**config.to_dict(), "the data": data.identity})
    shapes = jax.eval_shape(_state_maker(config, model, inputs, tx, adversary))
    shardings = sharding.state_sharding(mesh, shapes)
    experiment = Experiment(
        config=config,
        mesh=mesh,
        data=data,
        model=model,
        task=task,
        schedule=schedule,
        tx=tx,
        adversary=adversary,
        total_steps=total_steps,
        eval_every=config.eval_every or pace.eval_every(total_steps, data),
        state_sharding=shardings,
        abstract_state=jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            shapes,
            shardings,
        ),
    )
    _check_averages(experiment)
    return experiment


def _check_averages(experiment: Experiment) -> None:
    """Raises a ValueError for a run that saves fewer checkpoints than are averaged."""
    count, steps = experiment.config.average_checkpoints, experiment.total_steps
    saved = len(experiment.averaged(range(1, steps + 1)))
    check(
        saved == count,
        f"average_checkpoints={count}, and the run's {steps} steps leave {saved} to average: set "
        "checkpoint_every or eval_every to fewer steps, or train for longer",
    )


def _make_paths_absolute(config: ConfigDict) -> None:
    with config.unlocked():
        for group, key in (
            (config, "pretrained"),
            (config, "pretrained_labels"),
            (config.gan, "vgg19"),
            (config.distill, "teacher"),
            (config.text, "vocabulary"),
            (config.text, "pretrained"),
            (config.data, "real"),
        ):
            group[key] = weights.get_absolute(group[key])


def _open_data(config: ConfigDict, mesh: Mesh) -> "Dataset":
    """Opens what `config.data` names, and makes its paths absolute."""
    from input_pipeline import Shard, get_dataset
    from input_pipeline.sources import get_absolute

    with config.unlocked():
        for key in ("source", "test_source"):
            config.data[key] = get_absolute(config.data[key])
        config.image_text.zero_shot = get_absolute(config.image_text.zero_shot)
        classes = Path(config.data.masks.classes).expanduser()
        if classes.is_file():  # else the name of a known set, or nothing
            config.data.masks.classes = str(classes.resolve())
    model = get_model(config.model_name, **config.model)
    scale = model.upscale
    check(scale >= 1, f"model.upscale must be at least 1, not {scale}")
    shard = Shard(jax.process_index(), jax.process_count())
    tokenize = None
    if model.tokenizer:
        from input_pipeline.tokenizers import make_tokenizer

        tokenize = make_tokenizer(model.tokenizer, config.text.vocabulary)
    return get_dataset(
        config.data, config.batch_size, config.seed, shard, mesh.size, scale, tokenize
    )


def _fit_model(config: ConfigDict, data: "Dataset | MadeUp") -> Model:
    """The model, with the fields that the data decides, such as the number of classes.

    One with a head for a teacher is told whether there is one, by its field `distilled`.
    """
    fields = {"dtype": config.dtype, **config.model}
    model = get_model(config.model_name, **fields)
    if model.has_field("distilled"):
        taught = bool(config.distill.teacher)
        check(
            config.model.get("distilled", taught) == taught,
            f"model.distilled={not taught} and distill.teacher={config.distill.teacher!r} do not "
            "fit: leave the former unset",
        )
        fields["distilled"] = taught
        model = get_model(config.model_name, **fields)
    task = get_task(model)
    check_splits(config, data.splits)
    check_data(config, task, data.keys)
    check_metrics(config, task, data.truths)
    task.check(config, data)
    fitted = task.fit(model, data)
    for name, value in fitted.items():
        check(
            config.model.get(name, value) == value,
            f"the data decides {name}, which is {value}: leave model.{name} unset",
        )
    return get_model(config.model_name, **{**fields, **fitted}) if fitted else model


def _shapes(
    config: ConfigDict,
    model: Model,
    inputs: tuple[jax.ShapeDtypeStruct, ...],
    data: "Dataset | MadeUp",
) -> tuple[Any, Any]:
    """Shapes of a model's variables, and of its output for an example to train on.

    Raises:
        ValueError: if the size of the images does not fit, or files have no place for a variable.
    """
    with _cause_first(data, "val"):
        variables = jax.eval_shape(_variables_maker(config, model, inputs))
    tree.merge(variables)
    train_inputs = _inputs(get_task(model), data.train_example)
    try:
        with _cause_first(data, "train"):
            out = jax.eval_shape(model.apply, variables, *train_inputs)
    except flax.errors.ScopeParamShapeError:
        if not data.image_shape:
            raise
        raise ValueError(
            f"images of {data.train_image_shape[:2]} pixels to train on, and of "
            f"{data.image_shape[:2]} to evaluate, are of different parameters of "
            f"{config.model_name}: give data.train_pp and data.eval_pp the same size"
        ) from None
    return variables, out


@contextlib.contextmanager
def _cause_first(data: "Dataset | MadeUp", split: str) -> Iterator[None]:
    """Around what a model says to images by their size alone, which may be such as cannot be made.

    A crop that is larger than the images, say, is known when the first of them is read.
    """
    try:
        yield
    except ValueError:
        if split in data.splits:
            batches = data.train_batches() if split == "train" else data.eval_batches(split)
            with contextlib.closing(batches):
                next(batches)
        raise


def _warn_of_values(config: ConfigDict, model: Model) -> None:
    values = model.input_values
    made = re.sub(r"\s|\(\)", "", config.data.train_pp)
    made = re.sub(r"\|pad_to\([^|]*\)$", "", made)  # what is beside an image has no values
    if config.pretrained and values and not made.endswith(re.sub(r"\s|\(\)", "", values)):
        _LOG.warning(
            "published weights of %s are for images prepared by %s, and data.train_pp ends "
            "otherwise", config.model_name, values,
        )  # fmt: skip


def _inputs(task: Task, example: "Shapes") -> tuple[jax.ShapeDtypeStruct, ...]:
    """What a model gets of a batch of one example."""
    shapes = (example[key] for key in task.inputs)
    return tuple(jax.ShapeDtypeStruct((1, *shape), dtype) for shape, dtype in shapes)


def _variables_maker(
    config: ConfigDict, model: Model, inputs: tuple[jax.ShapeDtypeStruct, ...]
) -> Callable[[], dict[str, Any]]:
    def make() -> dict[str, Any]:
        zeros = (jnp.zeros(leaf.shape, leaf.dtype) for leaf in inputs)
        return dict(model.init(jax.random.key(config.seed), *zeros, train=False))

    return make


def _state_maker(
    config: ConfigDict,
    model: Model,
    inputs: tuple[jax.ShapeDtypeStruct, ...],
    tx: optax.GradientTransformation,
    adversary: Adversary | None,
) -> Callable[[], TrainState]:
    make_variables = _variables_maker(config, model, inputs)

    def make() -> TrainState:
        state = new_state(config, make_variables(), tx)
        return state.replace(adversary=adversary.init(config.seed) if adversary else None)

    return make


def new_state(
    config: ConfigDict, variables: Mapping[str, Any], tx: optax.GradientTransformation
) -> TrainState:
    """Makes the state of a run that begins with a model's variables."""
    beginning = _beginning(config, variables)
    return TrainState(
        step=jnp.zeros((), jnp.int32), opt_state=tx.init(beginning["params"]), **beginning
    )


def _beginning(config: ConfigDict, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a state that hold a model's variables, and their averages."""
    model_state = {name: v for name, v in variables.items() if name != "params"}
    averages = config.ema_decay > 0
    return {
        "params": variables["params"],
        "model_state": model_state,
        "ema_params": jax.tree.map(jnp.copy, variables["params"]) if averages else None,
        "ema_model_state": jax.tree.map(jnp.copy, model_state)
        if averages and model_state
        else None,
    }
