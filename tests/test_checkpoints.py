import re
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import npz, tree
from checkpoints.train_state import Checkpointer
from tests.helpers import TINY_HYBRID, random_params
from vit_jax.models import get_model


@pytest.fixture
def params():
    model = get_model(
        "ViT-Ti_16", num_classes=3, patch_size=4, hidden_size=16, num_layers=2, num_heads=2,
        mlp_dim=32,
    )  # fmt: skip
    return jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_npz_has_the_published_names_and_comes_back(tmp_path, params):
    npz.save(tmp_path / "a.npz", params)
    with np.load(tmp_path / "a.npz") as file:
        names = set(file.files)
    block = "Transformer/encoderblock_1"
    assert {
        "cls", "embedding/kernel", "head/bias", "Transformer/posembed_input/pos_embedding",
        "Transformer/encoder_norm/scale", f"{block}/LayerNorm_0/scale", f"{block}/LayerNorm_2/bias",
        f"{block}/MlpBlock_3/Dense_1/kernel",
        f"{block}/MultiHeadDotProductAttention_1/query/kernel",
    } <= names  # fmt: skip
    loaded = npz.load(tmp_path / "a.npz")
    assert_equal(loaded, params)
    npz.save(tmp_path / "b.npz", loaded)
    assert_equal(npz.load(tmp_path / "b.npz"), params)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "b.npz"]


def test_npz_of_a_scanned_model_is_written_unstacked(tmp_path, params):
    npz.save(tmp_path / "a.npz", tree.stack(params))
    assert_equal(npz.load(tmp_path / "a.npz"), params)


def test_npz_with_linen_numbering(tmp_path, params):
    """As flax's convert_pre_linen numbers the published names."""
    from flax.training.checkpoints import convert_pre_linen

    linen = traverse_util.flatten_dict(convert_pre_linen(params), sep="/")
    assert "Transformer/encoderblock_0/MlpBlock_0/Dense_0/kernel" in linen
    np.savez(tmp_path / "linen.npz", **linen)
    assert_equal(npz.load(tmp_path / "linen.npz"), params)


def test_npz_files_that_are_none(tmp_path):
    with pytest.raises(ValueError, match=r"there is no file .*no\.npz"):
        npz.load(tmp_path / "no.npz")
    (tmp_path / "junk.npz").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"junk\.npz is not a readable \.npz"):
        npz.load(tmp_path / "junk.npz")
    np.savez(tmp_path / "pickle.npz", a=np.array([{"a": 1}], object))
    with pytest.raises(ValueError, match=r"pickle\.npz is not a readable \.npz"):
        npz.load(tmp_path / "pickle.npz")
    np.savez_compressed(tmp_path / "damaged.npz", a=np.arange(5000.0))
    data = bytearray((tmp_path / "damaged.npz").read_bytes())
    data[100:200] = bytes(100)
    (tmp_path / "damaged.npz").write_bytes(data)
    with pytest.raises(ValueError, match=r"damaged\.npz is not a readable \.npz"):
        npz.load(tmp_path / "damaged.npz")
    np.savez(tmp_path / "clash.npz", **{"a": np.ones(1), "a/b": np.ones(1)})
    with pytest.raises(ValueError, match=r"clash\.npz holds both a and something inside it"):
        npz.load(tmp_path / "clash.npz")
    block = "Transformer/encoderblock_0"
    twice = {f"{block}/LayerNorm_1/bias": np.ones(1), f"{block}/LayerNorm_2/bias": np.ones(1)}
    np.savez(tmp_path / "twice.npz", **twice)
    with pytest.raises(ValueError, match=r"holds .*LayerNorm_2/bias twice, also as"):
        npz.load(tmp_path / "twice.npz")
    np.save(tmp_path / "single.npy", np.ones(3))
    with pytest.raises(ValueError, match="is not a readable"):
        npz.load(tmp_path / "single.npy")


def test_weights_that_do_not_fit_are_listed(params):
    tree.check(params, jax.eval_shape(lambda: params))
    other = {**params, "head": {"kernel": jnp.zeros((16, 5)), "scale": jnp.zeros(3)}}
    lists = (
        "missing: head/bias; extra: head/scale; "
        "of another shape: head/kernel (16, 5) in place of (16, 3)"
    )
    with pytest.raises(ValueError, match=re.escape(lists)):
        tree.check(other, params)


def state(value):
    return {"w": jnp.full((4,), float(value)), "step": jnp.asarray(value, jnp.int32)}


ABSTRACT = jax.eval_shape(lambda: state(0))


@pytest.mark.parametrize(("mode", "best"), [("max", 10), ("min", 20)])
def test_the_last_few_and_the_best_are_kept(tmp_path, mode, best):
    checkpointer = Checkpointer(tmp_path, keep=2, best_metric="accuracy", best_mode=mode)
    assert checkpointer.latest_step is checkpointer.best_step is None
    for step, accuracy in ((10, 0.9), (20, 0.3), (30, 0.5), (40, 0.6)):
        checkpointer.save(step, state(step), {"accuracy": accuracy})
    checkpointer.save(50, state(50), None)
    checkpointer.close()

    again = Checkpointer(tmp_path, keep=2, best_metric="accuracy", best_mode=mode)
    assert sorted(int(p.name) for p in tmp_path.iterdir() if p.is_dir()) == [best, 40, 50]
    assert (again.best_step, again.latest_step) == (best, 50)
    assert_equal(again.restore(best, ABSTRACT), state(best))
    again.close()


def test_a_state_whose_shape_and_devices_nobody_knows(tmp_path):
    """Numpy arrays, also where the devices it was saved from are not there."""
    state = jax.device_put({"a": {"b": jnp.arange(6.0)}, "none": None}, jax.devices()[1])
    with Checkpointer(tmp_path, 1, "accuracy", "max") as checkpointer:
        checkpointer.save(3, state, None)
    with Checkpointer(tmp_path, 1, "accuracy", "max") as checkpointer:
        saved = checkpointer.restore_as_saved(3)
    assert isinstance(saved["a"]["b"], np.ndarray)
    np.testing.assert_array_equal(saved["a"]["b"], np.arange(6))


class OfTwoVersions(flax.struct.PyTreeNode):
    w: Any
    average: Any = None
    added_later: Any = None


def test_an_older_checkpoint_lacks_what_is_off(tmp_path):
    with Checkpointer(tmp_path, 2, "accuracy", "max") as checkpointer:
        checkpointer.save(1, {"w": jnp.arange(3.0), "average": None}, None)
        checkpointer.save(2, OfTwoVersions(jnp.arange(3.0)), None)
        abstract = jax.eval_shape(lambda: OfTwoVersions(jnp.arange(3.0)))
        for step in (1, 2):
            assert_equal(checkpointer.restore(step, abstract), OfTwoVersions(jnp.arange(3.0)))
        with pytest.raises(ValueError, match=r"does not fit the run's config: .*added_later"):
            checkpointer.restore(1, abstract.replace(added_later=abstract.w))


def test_without_metrics_the_last_is_the_best(tmp_path):
    checkpointer = Checkpointer(tmp_path, keep=1, best_metric="accuracy", best_mode="max")
    for step in (1, 2, 3):
        checkpointer.save(step, state(step), None)
    checkpointer.wait()
    assert (checkpointer.best_step, checkpointer.latest_step) == (3, 3)
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["3"]
    checkpointer.close()


@pytest.mark.parametrize(
    ("settings", "message"), [((0, "a", "max"), "at least 1"), ((1, "a", "most"), "'max' or 'min'")]
)
def test_wrong_settings(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        Checkpointer(tmp_path, *settings)


def test_bfloat16_and_leading_dims_of_group_norms(tmp_path):
    _, params = random_params("R50+ViT-B_16", (16, 16), num_classes=5, **TINY_HYBRID)
    stored = {}
    for name, array in traverse_util.flatten_dict(params, sep="/").items():
        array = array.astype(ml_dtypes.bfloat16)
        if re.search(r"/gn\w+/|gn_root/", name):
            array = array.reshape(1, 1, 1, -1)
        stored[name] = array
    np.savez(tmp_path / "a.npz", **stored)
    with np.load(tmp_path / "a.npz") as file:
        assert file["gn_root/scale"].dtype == "V2"  # what numpy makes of bfloat16
    loaded = npz.load(tmp_path / "a.npz")
    expected = jax.tree.map(lambda a: a.astype(ml_dtypes.bfloat16).astype(np.float32), params)
    assert_equal(loaded, expected)
    assert npz.read(tmp_path / "a.npz")["cls"].dtype == ml_dtypes.bfloat16
    npz.save(tmp_path / "b.npz", loaded)
    assert_equal(npz.load(tmp_path / "b.npz"), expected)
