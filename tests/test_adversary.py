"""The discriminator, its losses, and training with it on pairs of a few pixels."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from checkpoints.train_state import Checkpointer
from configs import common
from tests.helpers import noise, pairs_config, write_pairs
from tests.runs import assert_same_runs
from tests.small_vgg19 import small_vgg19
from vit_jax import experiment, perceptual, train
from vit_jax.adversary import Adversary, Discriminator, relativistic_loss
from vit_jax.losses import get_loss
from vit_jax.machinery import sharding
from vit_jax.step import make_train_step
from vit_jax.tasks import restore
from vit_jax.workdir import Workdir


def log_sigmoid(x):
    return -np.log1p(np.exp(-x))


def test_relativistic_loss():
    """Against the equations: D(a, b) = sigmoid(C(a) - E[C(b)]), real ones to be 1, fake ones 0."""
    real, fake = np.random.default_rng(0).normal(size=(2, 7))
    to_real = log_sigmoid(real - fake.mean()), log_sigmoid(-(real - fake.mean()))
    to_fake = log_sigmoid(fake - real.mean()), log_sigmoid(-(fake - real.mean()))
    discriminator = -(to_real[0].mean() + to_fake[1].mean()) / 2
    generator = -(to_real[1].mean() + to_fake[0].mean()) / 2
    assert discriminator != pytest.approx(generator, rel=1e-2)
    np.testing.assert_allclose(relativistic_loss(real, fake), discriminator, rtol=1e-6)
    np.testing.assert_allclose(relativistic_loss(fake, real), generator, rtol=1e-6)
    assert np.isfinite(relativistic_loss(jnp.array([-1e4]), jnp.array([1e4])))


def test_discriminator_is_the_published_one():
    images = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.float32)
    variables = jax.eval_shape(Discriminator().init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 14_499_401
    kernels = [variables["params"][f"conv{i}_{j}"]["kernel"].shape for i in (0, 4) for j in (0, 1)]
    assert kernels == [(3, 3, 3, 64), (4, 4, 64, 64), (3, 3, 512, 512), (4, 4, 512, 512)]
    assert variables["params"]["hidden"]["kernel"].shape == (4 * 4 * 512, 100)
    assert "norm0_0" not in variables["params"]
    assert "bias" not in variables["params"]["conv0_1"]


@pytest.mark.slow
def test_discriminator_learns_to_separate():
    adversary = Adversary(Discriminator(4), optax.adam(1e-2), (32, 32, 3))
    real = noise((4, 32, 32, 3))
    fake = real.reshape(4, 16, 2, 16, 2, 3).mean((2, 4)).repeat(2, axis=1).repeat(2, axis=2)
    state = jax.jit(adversary.init, static_argnums=0)(0)
    update = jax.jit(adversary.update)
    losses = []
    for _ in range(30):
        state, metrics = update(state, real, fake)
        losses.append(float(metrics["discriminator_loss"]))
    assert losses[0] == pytest.approx(np.log(2), abs=0.1)
    assert losses[-1] < 0.1
    # The averaged statistics serve as well as the batch's.
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    judged = jax.jit(adversary.model.apply)(variables, np.concatenate([real, fake]))
    assert judged[:4].min() > judged[4:].max()


def test_every_parameter_of_the_discriminator_receives_a_gradient():
    model = Discriminator(4)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))

    def loss(params):
        logits, _ = model.apply(
            {**variables, "params": params}, noise((4, 32, 32, 3)), True, mutable=["batch_stats"]
        )
        return relativistic_loss(logits[:2], logits[2:])

    grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        if name != "['head']['bias']":  # the loss compares, and what is common to all cancels out
            assert np.abs(grad).max() > 0, name


# Training.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder / "train", [(36, 40)] * 6)
    write_pairs(folder / "test", [(36, 40)] * 2, start=20)
    return folder


@pytest.fixture
def config(folder, tmp_path, monkeypatch):
    config = pairs_config(folder)
    config.model_name = "RRDB-x1"
    config.model = dict(num_features=8, num_blocks=0)  # blocks take long to compile
    config.loss = "0.005 * l1"
    config.gan.weight = 0.005
    config.gan.num_features = 4
    config.gan.perceptual_weight = 1.0
    config.gan.vgg19 = str(small_vgg19(monkeypatch, tmp_path / "vgg19.safetensors"))
    config.optim.name = "adam"
    config.optim.learning_rate = 1e-3
    config.total_steps = 4
    config.eval_every = 2
    return config


@pytest.mark.slow
def test_runs_of_a_gan(config, tmp_path):
    """They record all losses, and continue bit for bit."""
    config.ema_decay = 0.9
    figures = train.train_and_evaluate(config, tmp_path / "whole")
    assert set(figures) == {"val", "test"}
    lines = Workdir(tmp_path / "whole").read_metrics()
    training = [line for line in lines if line["split"] == "train"]
    assert len(training) == 4
    for m in training:
        total = m["loss"] + m["perceptual"] + 0.005 * m["generator_adversarial"]
        assert m["total_loss"] == pytest.approx(total, rel=1e-5)
        assert {"grad_norm", "param_norm", "learning_rate", "discriminator_norm"} < set(m)
        assert 0.1 < m["discriminator_loss"] < 2

    # As if it had been killed before the last checkpoint was saved.
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    shutil.rmtree(tmp_path / "killed" / "checkpoints" / "4")
    train.train_and_evaluate(config, tmp_path / "killed")
    assert_same_runs(tmp_path / "whole", tmp_path / "killed")
    with Checkpointer(tmp_path / "whole" / "checkpoints", 2, "loss", "max") as checkpointer:
        saved = checkpointer.restore_as_saved(4)["adversary"]
    assert {k: bool(v) for k, v in saved.items()} == dict.fromkeys(
        ("params", "batch_stats", "opt_state"), True
    )


def first_step(config):
    """The state before and after a step, its metrics, and its batch."""
    exp = experiment.build(config)
    batches = exp.data.train_batches()
    batch = next(sharding.to_devices(batches, exp.mesh))
    batches.close()
    state = exp.init_state()
    before = jax.tree.map(jnp.copy, state)
    after, metrics = make_train_step(exp)(state, batch)
    return exp, before, after, jax.device_get(metrics), jax.device_get(batch)


@pytest.mark.slow
def test_a_step_is_made_of_its_parts(config):
    """Both networks move as by the gradients of their losses at the state before."""
    config.batch_size = 4  # of 2, the last norms' statistics would hang on their rounding
    config.optim.update(name="sgd", learning_rate=0.1, args={"momentum": 0.0})
    config.schedule.name = "constant"
    exp, before, after, metrics, batch = first_step(config)
    image, target = batch["image"], batch["target"]
    vgg19 = perceptual.load_vgg19(config.gan.vgg19)
    judge, own = exp.adversary.model, before.adversary

    def judged(params, images):
        variables = {"params": params, "batch_stats": own.batch_stats}
        return judge.apply(variables, images, True, mutable=["batch_stats"])[0]

    def generator(params):
        out = exp.model.apply({"params": params}, image)
        adversarial = relativistic_loss(judged(own.params, out), judged(own.params, target))
        pixels = jnp.mean(get_loss("l1", restore.TASK.losses)(out, batch))
        perceived = jnp.mean(perceptual.distance(vgg19, out, target))
        return 0.005 * pixels + perceived + 0.005 * adversarial

    def discriminator(params):
        out = exp.model.apply({"params": before.params}, image)
        return relativistic_loss(judged(params, target), judged(params, out))

    for loss, name, old, new in (
        (generator, "total_loss", before.params, after.params),
        (discriminator, "discriminator_loss", own.params, after.adversary.params),
    ):
        value, grads = jax.jit(jax.value_and_grad(loss))(old)
        assert metrics[name] == pytest.approx(float(value), rel=1e-4)
        moved = jax.tree.map(lambda a, b: (a - b) / 0.1, old, new)
        norm = float(optax.tree.norm(grads))
        off = float(optax.tree.norm(jax.tree.map(jnp.subtract, moved, grads)))
        assert off < 1e-3 * norm, name


@pytest.mark.slow
def test_a_perceptual_loss_alone(config):
    config.gan.weight = 0.0
    exp, _, after, metrics, _ = first_step(config)
    assert exp.adversary is after.adversary is None
    assert set(metrics) == {
        "loss", "perceptual", "total_loss", "grad_norm", "param_norm", "learning_rate",
    }  # fmt: skip


@pytest.mark.slow
def test_an_adversarial_loss_alone(config, monkeypatch):
    """The discriminator is spread like the generator, and its parameters are never frozen."""
    config.gan.update(perceptual_weight=0.0, vgg19="")
    config.optim.freeze = "^(?!conv_last)"
    config.fsdp = 2
    monkeypatch.setattr(sharding, "_MIN_SHARDED_SIZE", 64)
    _, before, after, metrics, _ = first_step(config)
    assert "perceptual" not in metrics
    kernels = [state.params["conv_hr"]["kernel"] for state in (before, after)]
    np.testing.assert_array_equal(*kernels)
    for name, old in before.adversary.params.items():
        if "kernel" in old:
            assert (old["kernel"] != after.adversary.params[name]["kernel"]).any(), name
    kernel = after.adversary.params["conv1_0"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(3, 3, 4, 4)}


def test_it_is_off_by_default(config, digits_config):
    config.gan = common.get_config().gan
    for plain in (config, digits_config):
        exp = experiment.build(plain)
        assert exp.adversary is exp.abstract_state.adversary is exp.init_state().adversary is None
    assert make_train_step(exp).first == ([],)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gan.weight": -1.0}, "gan.weight must not be negative, and is -1.0"),
        ({"gan.vgg19": ""}, r"gan.perceptual_weight needs .* say --config.gan.vgg19=PATH, or set"),
        ({"accum_steps": 2}, r"need accum_steps=1, not 2, since .* model.remat=True"),
        ({"gan.num_features": 0}, "gan.num_features must be at least 1, not 0"),
        ({"data.train_pp": "pad_to(40)|random_crop(40)|value_range(-1, 1)"},
         "sides are multiples of 32 pixels, not 40 x 40: change the crop in data.train_pp"),
    ],
)  # fmt: skip
def test_wrong_settings(config, changes, message):
    for key, value in changes.items():
        part, _, field = key.rpartition(".")
        (config[part] if part else config)[field] = value
    with pytest.raises(ValueError, match=message):
        experiment.build(config)


def test_what_gives_labels_has_no_adversary(digits_config):
    digits_config.gan.weight = 0.1
    with pytest.raises(
        ValueError,
        match=r"gan\.weight is for the task restore, and ViT-Ti_16 is for classify: set it to 0",
    ):
        experiment.validate_config(digits_config)
