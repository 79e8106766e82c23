"""From a config to the parts of a run: data, model, optimizer, state."""

import dataclasses
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import flax.errors
import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from checkpoints import tree
from vit_jax import optim, pretrained
from vit_jax.adversary import Adversary, AdversaryState, make_adversary
from vit_jax.losses import get_loss
from vit_jax.machinery import config_keys, processes, sharding
from vit_jax.metrics import get_metric
from vit_jax.models import PUBLISHED_SCORES, get_model

if TYPE_CHECKING:  # TensorFlow is imported where data is read, and only there
    from input_pipeline import Dataset, MadeUp

_LOG = logging.getLogger(__name__)


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
    """

    step: jax.Array
    params: Any
    model_state: Any
    opt_state: Any
    ema_params: Any
    adversary: AdversaryState | None = None

    def eval_variables(self) -> dict[str, Any]:
        """Returns the variables to evaluate and to export."""
        params = self.params if self.ema_params is None else self.ema_params
        return {"params": params, **self.model_state}


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a run.

    Attributes:
        config: validated and locked.
        mesh: of the devices.
        data: this process's part.
        model: with as many classes as the data has, if it has any.
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
    model: nn.Module
    schedule: optim.Schedule
    tx: optax.GradientTransformation
    adversary: Adversary | None
    total_steps: int
    eval_every: int
    state_sharding: TrainState
    abstract_state: TrainState

    def init_state(self) -> TrainState:
        """Initialises a state, spread over the devices: from the seed, and config.pretrained.

        Raises:
            ValueError: if the pretrained weights are not there or do not fit.
        """
        shape = self.data.image_shape
        init = _state_maker(self.config, self.model, shape, self.tx, self.adversary)
        state = jax.jit(init, out_shardings=self.state_sharding)()
        return self._load_pretrained(state) if self.config.pretrained else state

    def forward(
        self, params: Any, model_state: Any, images: jax.Array, key: jax.Array
    ) -> tuple[Any, Any]:
        """Applies the model as training does; returns its output and its next model_state."""
        return self.model.apply(
            {"params": params, **model_state},
            images,
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
            grads: of the parameters.
            model_state: the next.

        Returns:
            The next state, and metrics: the `grad_norm`, the `param_norm` after the step, and the
            `learning_rate`.
        """
        updates, opt_state = self.tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema_params = state.ema_params
        if self.config.ema_decay:
            ema_params = optax.incremental_update(params, ema_params, 1 - self.config.ema_decay)
        metrics = {
            "grad_norm": optax.tree.norm(grads),
            "param_norm": optax.tree.norm(params),
            "learning_rate": jnp.asarray(self.schedule(state.step), jnp.float32),
        }
        state = state.replace(
            step=state.step + 1,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            ema_params=ema_params,
        )
        return state, metrics

    def _load_pretrained(self, state: TrainState) -> TrainState:
        config = self.config
        path = pretrained.find(config.pretrained, config.pretrained_dir)
        _LOG.info("reading %s", path)
        gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(self.mesh))
        params = pretrained.adapt(
            pretrained.read(path, config.pretrained_key),
            tree.unstack(jax.device_get(gather(state.params))),
            self.model,
            self.data.image_shape[:2],
            old_size=tuple(config.pretrained_size) or None,
            class_names=self.data.class_names or None,
            dont_load=config.dont_load,
            labels=config.pretrained_labels,
        )
        params = params if tree.unrolled(self.model) is self.model else tree.stack(params)
        params = jax.device_put(params, self.state_sharding.params)
        ema_params = jax.tree.map(jnp.copy, params) if config.ema_decay else None
        return state.replace(params=params, ema_params=ema_params)


def validate_config(config: ConfigDict) -> None:
    """Checks keys and simple values, and locks the config.

    Raises:
        ValueError: for the first thing that does not fit; the message says what would.
    """
    config_keys.check(config)
    for key in ("batch_size", "accum_steps", "log_every", "keep_checkpoints", "fsdp"):
        _check(config[key] >= 1, f"{key} must be at least 1, not {config[key]}")
    _check(0 <= config.seed < 2**31, f"seed must lie in [0, 2^31), and is {config.seed}")
    for key in ("total_epochs", "eval_every", "checkpoint_every"):
        _check(config[key] is None or config[key] > 0, f"{key} must be positive")
    _check((config.total_steps or 0) >= 0, "total_steps must not be negative")
    _check(
        len(config.pretrained_size) in (0, 2)
        and all(isinstance(n, int) and n > 0 for n in config.pretrained_size),
        f"pretrained_size must be (height, width), not {config.pretrained_size}",
    )
    for key in ("dont_load", "pretrained_key", "pretrained_labels"):
        _check(
            bool(config.pretrained) or not config[key],
            f"{key} is for pretrained weights: say --config.pretrained=PATH",
        )
    _check(
        config.data.tfds.shuffle_buffer >= 1,
        f"data.tfds.shuffle_buffer must be at least 1, not {config.data.tfds.shuffle_buffer}",
    )
    for key in ("label_smoothing", "ema_decay"):
        _check(0 <= config[key] < 1, f"{key} must lie in [0, 1), not {config[key]}")
    for key in ("mixup_alpha", "cutmix_alpha"):
        _check(config[key] >= 0, f"{key} must not be negative, and is {config[key]}")
    for key in ("learning_rate", "weight_decay", "clip_norm"):
        value = config.optim[key]
        _check(value >= 0, f"optim.{key} must not be negative, and is {value}")
    _check(
        config.total_steps is not None or config.total_epochs is not None,
        "say how long to train: --config.total_steps=N or --config.total_epochs=N",
    )
    model = get_model(config.model_name, **{"dtype": config.dtype, **config.model})
    get_loss(config.loss, model.predicts)
    for name in config.metrics:
        get_metric(name, model.predicts)
    figures = ("loss", *config.metrics)
    _check(
        config.best_metric in figures,
        f"best_metric={config.best_metric!r} is not evaluated; there are: {', '.join(figures)}",
    )
    _check(
        model.predicts == "label"
        or not (config.label_smoothing or config.mixup_alpha or config.cutmix_alpha),
        f"label_smoothing, mixup_alpha and cutmix_alpha are for labels, which {config.model_name} "
        "does not predict: set them to 0",
    )
    _check(
        config.benchmark in ("", *PUBLISHED_SCORES),
        f"unknown benchmark {config.benchmark!r}; there are: {', '.join(PUBLISHED_SCORES)}",
    )
    _check_gan(config, model)
    config.lock()


def _check_gan(config: ConfigDict, model: nn.Module) -> None:
    for key in ("weight", "perceptual_weight"):
        value = config.gan[key]
        _check(value >= 0, f"gan.{key} must not be negative, and is {value}")
    if not (config.gan.weight or config.gan.perceptual_weight):
        return
    _check(
        model.predicts == "target",
        f"gan.weight and gan.perceptual_weight are for images, which {config.model_name} does not "
        "predict: set them to 0",
    )
    _check(
        config.accum_steps == 1,
        f"gan.weight and gan.perceptual_weight need accum_steps=1, not {config.accum_steps}, since "
        "the discriminator compares the images of a whole batch: take a smaller batch_size, or "
        "model.remat=True",
    )


def build(config: ConfigDict, data: "MadeUp | None" = None) -> Experiment:
    """Makes the parts of a run, except the state.

    Args:
        config: from `configs`.
        data: in place of what `config.data` names.

    Returns:
        The experiment.

    Raises:
        ValueError: if the config does not fit itself, the data or the devices.
    """
    validate_config(config)
    _check(
        bool(config.gan.vgg19) or not config.gan.perceptual_weight,
        "gan.perceptual_weight needs the weights of torchvision's VGG19: say "
        "--config.gan.vgg19=PATH, or set it to 0",
    )
    with config.unlocked():
        # So that the run can be continued from any folder.
        config.pretrained = pretrained.get_absolute(config.pretrained)
        config.pretrained_labels = pretrained.get_absolute(config.pretrained_labels)
        config.gan.vgg19 = pretrained.get_absolute(config.gan.vgg19)
    mesh = sharding.make_mesh(config.fsdp)
    sharding.check_batch(mesh, config.batch_size, config.accum_steps)
    data = data or _open_data(config, mesh)
    model = _make_model(config, data)
    total_steps = config.total_steps
    if total_steps is None:
        total_steps = max(round(config.total_epochs * data.steps_per_epoch), 1)
    _check(
        "train" in data.splits or total_steps == 0,
        "there are no images to train on; --config.total_steps=0 only evaluates",
    )
    schedule = optim.make_schedule(
        config.schedule, config.optim.learning_rate, total_steps, data.steps_per_epoch
    )
    variables = jax.eval_shape(_variables_maker(config, model, data.image_shape))
    params = variables["params"]
    train_images = jax.ShapeDtypeStruct((1, *data.train_image_shape), jnp.float32)
    try:
        out = jax.eval_shape(model.apply, variables, train_images)  # raises if the size is no good
    except flax.errors.ScopeParamShapeError:
        raise ValueError(
            f"images of {data.train_image_shape[:2]} pixels to train on, and of "
            f"{data.image_shape[:2]} to evaluate, are of different parameters of "
            f"{config.model_name}: give data.train_pp and data.eval_pp the same size"
        ) from None
    values = getattr(model, "input_values", None)
    if config.pretrained and values and not config.data.train_pp.endswith(values):
        _LOG.warning(
            "published weights of %s are for images prepared by %s, and data.train_pp ends "
            "otherwise", config.model_name, values,
        )  # fmt: skip
    tx = optim.make_optimizer(config.optim, schedule, params)
    adversary = make_adversary(config, schedule, out.shape[1:])

    processes.check_same({**config.to_dict(), "the data": data.identity})
    shapes = jax.eval_shape(_state_maker(config, model, data.image_shape, tx, adversary))
    shardings = sharding.state_sharding(mesh, shapes)
    return Experiment(
        config=config,
        mesh=mesh,
        data=data,
        model=model,
        schedule=schedule,
        tx=tx,
        adversary=adversary,
        total_steps=total_steps,
        eval_every=config.eval_every or max(round(data.steps_per_epoch), 1),
        state_sharding=shardings,
        abstract_state=jax.tree.map(
            lambda leaf, s: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=s),
            shapes,
            shardings,
        ),
    )


def _open_data(config: ConfigDict, mesh: Mesh) -> "Dataset":
    """Opens what `config.data` names, and makes its paths absolute."""
    from input_pipeline import Shard, get_dataset
    from input_pipeline.sources import get_absolute

    with config.unlocked():
        for key in ("source", "test_source"):
            config.data[key] = get_absolute(config.data[key])
    scale = getattr(get_model(config.model_name, **config.model), "upscale", 1)
    _check(scale >= 1, f"model.upscale must be at least 1, not {scale}")
    shard = Shard(jax.process_index(), jax.process_count())
    return get_dataset(config.data, config.batch_size, config.seed, shard, mesh.size, scale)


def _make_model(config: ConfigDict, data: "Dataset | MadeUp") -> nn.Module:
    """The model, with as many classes as the data has."""
    overrides = {"dtype": config.dtype, **config.model}
    model = get_model(config.model_name, **overrides)
    wanted = {"label": "classes", "target": "pairs, degraded or hazy_from_clear"}
    _check(
        (model.predicts == "label") == bool(data.class_names),
        f"{config.model_name} learns from other data than these: set data.kind to "
        f"{wanted[model.predicts]}, or model_name to another model",
    )
    if model.predicts != "label":
        return model
    num_classes = len(data.class_names)
    _check(
        config.model.get("num_classes", num_classes) == num_classes,
        f"the data has {num_classes} classes: leave model.num_classes unset",
    )
    return get_model(config.model_name, **{**overrides, "num_classes": num_classes})


def _variables_maker(config: ConfigDict, model: nn.Module, image_shape: tuple[int, ...]) -> Any:
    def make() -> dict[str, Any]:
        images = jnp.zeros((1, *image_shape), jnp.float32)
        return model.init(jax.random.key(config.seed), images, train=False)

    return make


def _state_maker(
    config: ConfigDict,
    model: nn.Module,
    image_shape: tuple[int, ...],
    tx: optax.GradientTransformation,
    adversary: Adversary | None,
) -> Any:
    make_variables = _variables_maker(config, model, image_shape)

    def make() -> TrainState:
        state = new_state(config, make_variables(), tx)
        return state.replace(adversary=adversary.init(config.seed) if adversary else None)

    return make


def new_state(
    config: ConfigDict, variables: Mapping[str, Any], tx: optax.GradientTransformation
) -> TrainState:
    """Makes the state of a run that begins with a model's variables."""
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        model_state={name: v for name, v in variables.items() if name != "params"},
        opt_state=tx.init(params),
        ema_params=jax.tree.map(jnp.copy, params) if config.ema_decay else None,
    )


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise ValueError(message)
