"""Data of which some classes are rare: how often they are drawn, and what they weigh."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from PIL import Image

from input_pipeline import Shard, get_dataset
from input_pipeline.sources.balanced import balance, quotas
from input_pipeline.sources.base import IndexedSource
from tests.helpers import pairs_config, tiny_digits_config, write_classes, write_image
from vit_jax import class_weights, classification, experiment, train


def write_unbalanced(folder, blue=18, red=2):
    for name, count in (("blue", blue), ("red", red)):
        for i in range(count):
            write_image(folder / "train" / name / f"{i}.png", (i, 50 * len(name), 0), seed=i)


@pytest.fixture
def unbalanced(folder_config, tmp_path):
    """18 blue images and 2 red ones, each with its number in it."""
    write_unbalanced(tmp_path / "unbalanced")
    config = folder_config
    config.data.source, config.data.val_fraction = str(tmp_path / "unbalanced"), 0.0
    config.data.train_pp = config.data.eval_pp
    return config


def drawn(config, steps, start=0, shard=None, batch_size=4):
    """Labels and images of the batches of some steps, with their rows in one line."""
    batches = get_dataset(config, batch_size, seed=0, shard=shard).train_batches(start)
    found = [next(batches) for _ in range(steps)]
    batches.close()
    labels = np.concatenate([batch["label"] for batch in found])
    return labels, [image.tobytes() for batch in found for image in batch["image"]]


def test_classes_are_drawn_evenly_and_their_examples_too(unbalanced):
    labels, _ = drawn(unbalanced.data, 5)
    assert np.bincount(labels).tolist() == [18, 2]
    unbalanced.data.balance = 1.0
    labels, images = drawn(unbalanced.data, 5 * 9)
    assert np.bincount(labels[:20]).tolist() == np.bincount(labels[20:40]).tolist() == [10, 10]
    assert 0 < labels[:10].sum() < 10  # shuffled
    counts = [images.count(image) for image in dict.fromkeys(images)]
    assert sorted(counts) == [5] * 18 + [45] * 2  # in 9 epochs of 20


def test_the_order_of_even_draws_depends_on_seed_and_step_alone(unbalanced):
    unbalanced.data.balance = 0.5
    _, images = drawn(unbalanced.data, 12)
    assert drawn(unbalanced.data, 5, start=7)[1] == images[4 * 7 :]
    parts = [drawn(unbalanced.data, 12, shard=Shard(i, 2))[1] for i in range(2)]
    of_two = [parts[row // 2 % 2][row // 4 * 2 + row % 2] for row in range(48)]
    assert of_two == images
    assert images[:20] != images[20:40]


def test_an_example_is_augmented_anew_at_each_draw(unbalanced):
    unbalanced.data.balance = 1.0
    unbalanced.data.train_pp = "decode|inception_crop(8)|value_range(-1, 1)"
    labels, images = drawn(unbalanced.data, 5)
    red = [image for image, label in zip(images, labels) if label == 1]
    assert len(red) == 10
    assert len(set(red)) > 8  # of two files


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_quotas_are_powers_of_the_counts(share):
    counts = np.array([900, 0, 90, 10])
    found = quotas(counts, share)
    assert (found.sum(), found[1]) == (1000, 0)
    powers = np.array([900.0, 90.0, 10.0]) ** (1 - share)
    np.testing.assert_allclose(found[[0, 2, 3]], 1000 * powers / powers.sum(), atol=1)


def test_each_place_of_several_has_its_own_class():
    """Rows that are there more than once count as often."""
    source = IndexedSource(
        {"label": np.array([0, 1, 1], np.int32)}, ("a", "b"), order=np.array([0, 0, 0, 1, 2, 2])
    )
    stream = balance(source, 1.0).stream(seed=0, start=0, shard=Shard(), local_batch=6)
    for epoch in stream.batch(6).take(2).as_numpy_iterator():
        assert np.bincount(epoch["label"]).tolist() == [3, 3]


def test_what_has_no_classes_to_balance_is_refused(tmp_path, image_folder):
    write_classes(tmp_path / "train", 2)
    config = tiny_digits_config()
    config.data.balance = 1.5
    with pytest.raises(ValueError, match=r"data\.balance must lie in \[0, 1\], not 1\.5"):
        experiment.build(config)
    stream = SimpleNamespace(columns={}, class_names=("a", "b"))  # such as one of TFDS
    with pytest.raises(ValueError, match="a folder of classes or a table of labels does: keep th"):
        balance(stream, 1.0)
    several = IndexedSource({"label": np.eye(3, dtype=np.float32)}, ("a", "b", "c"))
    with pytest.raises(ValueError, match=r"need.* the one class of each example"):
        balance(several, 0.5)


# The loss.


def test_balanced_weights_are_scikit_learns(unbalanced):
    utils = pytest.importorskip("sklearn.utils.class_weight")
    unbalanced.class_weights = "balanced"
    data = get_dataset(unbalanced.data, 4, seed=0)
    found = class_weights.of_classes(unbalanced, data)
    labels = np.repeat([0, 1], [18, 2])
    expected = utils.compute_class_weight("balanced", classes=np.arange(2), y=labels)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found[labels].mean(), 1, rtol=1e-6)


def test_mixed_and_smoothed_labels_weigh_by_their_classes():
    config = SimpleNamespace(class_weights="1, 4, 0", label_smoothing=0.2)
    data = SimpleNamespace(class_names=("a", "b", "c"))
    loss = class_weights.weighted(classification.softmax_xent, config, data)
    mixed = jnp.array([[1, 0, 0], [0.25, 0.75, 0], [0, 0.5, 0.5]], jnp.float32)
    label = classification.smooth_labels(mixed, 0.2)
    out = jnp.array(np.random.default_rng(0).normal(size=(3, 3)), jnp.float32)
    expected = np.array([1, 0.25 + 3, 2]) * optax.softmax_cross_entropy(out, label)
    np.testing.assert_allclose(loss(out, {"label": label}), expected, rtol=1e-5)
    config.label_smoothing = 0.0
    loss = class_weights.weighted(classification.softmax_xent, config, data)
    number = jnp.array([1, 0, 2])
    plain = classification.softmax_xent(out, {"label": number})
    np.testing.assert_allclose(loss(out, {"label": number}), plain * np.array([4, 1, 0]), rtol=1e-5)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("even", "class_weights='even' must be balanced, or a number .* as in 1,4"),
        ("1,-1", "'1,-1' must be balanced, or a number of at least 0"),
        ("1,2,3", "class_weights has 3 numbers, and there are 10 classes: say one for each"),
    ],
)
def test_wrong_weights_are_refused(weights, message):
    config = tiny_digits_config()
    config.class_weights = weights
    with pytest.raises(ValueError, match=message):
        experiment.build(config)


def test_other_tasks_and_unknown_counts_are_refused(pairs_folder):
    config = pairs_config(pairs_folder)
    config.class_weights = "balanced"
    with pytest.raises(ValueError, match="class_weights is for the task classify"):
        experiment.build(config)
    data = SimpleNamespace(class_names=("a", "b"), class_counts=None)
    with pytest.raises(ValueError, match=r"give a number for each class, as in --config\.class_w"):
        class_weights.of_classes(config, data)


@pytest.fixture(scope="module")
def faint(tmp_path_factory):
    """Classes of 8 x 8 noise that a faint brightness tells apart; 4 of 100 to train on are rare."""
    folder, random = tmp_path_factory.mktemp("faint"), np.random.default_rng(0)
    for split, counts in (("train", (96, 4)), ("val", (30, 30))):
        for name, count, mean in zip(("often", "rare"), counts, (118, 138)):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = random.normal(mean, 60, (8, 8, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.png")
    return folder


def figures_of(faint, workdir, **changes):
    config = tiny_digits_config()
    config.data.source, config.batch_size = str(faint), 20
    config.data.train_pp = "decode|resize(8)|flip_lr|value_range(-1, 1)"
    config.data.eval_pp = "decode|resize(8)|value_range(-1, 1)"
    config.optim.learning_rate = 1e-3
    config.total_steps = config.eval_every = 40
    config.metrics = ("accuracy", "balanced_accuracy")
    config.update_from_flattened_dict(changes)
    return train.train_and_evaluate(config, workdir)["val"]


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"class_weights": "balanced"}, {"data.balance": 1.0}], ids=str)
def test_a_rare_class_is_found_more_often(faint, changes, tmp_path):
    """Where nothing is done, most of the rare class is taken for the frequent one."""
    before = figures_of(faint, tmp_path / "before")
    after = figures_of(faint, tmp_path / "after", **changes)
    assert before["balanced_accuracy"] < 0.75
    assert after["balanced_accuracy"] > before["balanced_accuracy"] + 0.1
