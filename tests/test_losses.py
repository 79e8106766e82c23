import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vit_jax import classification, losses, mixing
from vit_jax.tasks import classify, restore

LOGITS = np.random.default_rng(0).normal(size=(6, 7)).astype(np.float32)
LABELS = np.array([*LOGITS[:2].argmax(-1), 6, 2, 2, 5], np.int32)  # two are right
ONE_HOT = np.eye(7, dtype=np.float32)[LABELS]


@pytest.mark.parametrize("label", [LABELS, ONE_HOT])
def test_softmax_xent(label):
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    expected = -np.log(p[np.arange(6), LABELS])
    actual = classification.softmax_xent(LOGITS, {"label": jnp.asarray(label)})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


@pytest.mark.parametrize("label", [LABELS, ONE_HOT])
def test_sigmoid_xent(label):
    p = 1 / (1 + np.exp(-LOGITS))
    expected = -(ONE_HOT * np.log(p) + (1 - ONE_HOT) * np.log(1 - p)).sum(-1)
    actual = classification.sigmoid_xent(LOGITS, {"label": jnp.asarray(label)})
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_losses_are_float32_and_finite_for_large_bfloat16_logits():
    out = jnp.array([[300.0, -300.0]], jnp.bfloat16)
    for loss in classify.TASK.losses.values():
        value = loss(out, {"label": jnp.array([1])})
        assert value.dtype == jnp.float32
        assert np.isfinite(value).all()


def test_unpooled_logits_are_refused():
    with pytest.raises(ValueError, match="choose another classifier than the unpooled ones"):
        classification.softmax_xent(jnp.zeros((6, 6, 7)), {"label": jnp.asarray(LABELS)})


def test_smooth_labels():
    smooth = classification.smooth_labels(ONE_HOT, 0.1)
    np.testing.assert_allclose(smooth.sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(smooth, 0.9 * ONE_HOT + 0.1 / 7, rtol=1e-6)


@pytest.mark.parametrize("label", [LABELS, ONE_HOT])
def test_accuracies(label):
    ranks = (LOGITS[np.arange(6), LABELS, None] < LOGITS).sum(-1)
    batch = {"label": jnp.asarray(label)}
    np.testing.assert_array_equal(classification.accuracy(LOGITS, batch), ranks < 1)
    np.testing.assert_array_equal(classification.top5_accuracy(LOGITS, batch), ranks < 5)
    assert (ranks < 1).sum() == 2
    assert 2 < (ranks < 5).sum() < 6


def test_top5_of_three_classes():
    batch = {"label": jnp.array([0, 2])}
    assert classification.top5_accuracy(LOGITS[:2, :3], batch).tolist() == [1, 1]


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="unknown loss 'l1'; there are: softmax_xent, sig"):
        losses.get_loss("l1", classify.TASK.losses)
    with pytest.raises(ValueError, match="unknown loss 'l2'; there are: l1, mse, ch"):
        losses.get_loss("l1 + l2", restore.TASK.losses)
    with pytest.raises(ValueError, match="the weight must be a positive number, not -1"):
        losses.get_loss("l1 + -1 * ssim", restore.TASK.losses)
    with pytest.raises(ValueError, match=r"'top1'; on a label there are: accuracy"):
        classify.get_metric("top1", "softmax_xent")
    with pytest.raises(ValueError, match=r"'psnr'; .*on images there are: dehazeformer/psnr"):
        restore.get_metric("psnr", "l1")


# Mixing. Image i is filled with i, so that a pixel tells where it came from.

BATCH = {
    "image": jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, 10, 14, 3)),
    "label": jnp.eye(6),
}


def test_mixup_blends_image_and_label_alike():
    mixed = mixing.mix(jax.random.key(0), BATCH, mixup_alpha=1.0, cutmix_alpha=0.0)
    share = mixed["label"][1, 1]
    assert 0 < share < 1
    np.testing.assert_allclose(mixed["label"][1, 0], 1 - share, rtol=1e-5)
    np.testing.assert_allclose(mixed["image"][1], share * 1 + (1 - share) * 0, rtol=1e-5)
    np.testing.assert_allclose(mixed["image"][4], share * 4 + (1 - share) * 3, rtol=1e-5)
    np.testing.assert_allclose(mixed["label"].sum(-1), 1, rtol=1e-5)


def test_cutmix_pastes_a_rectangle_and_weighs_by_its_area():
    shares = set()
    for key in range(10):
        mixed = mixing.mix(jax.random.key(key), BATCH, mixup_alpha=0.0, cutmix_alpha=1.0)
        pasted = np.asarray(mixed["image"][3, ..., 0]) == 2
        kept = np.asarray(mixed["image"][3, ..., 0]) == 3
        assert (pasted ^ kept).all()
        rows, columns = pasted.any(1), pasted.any(0)
        np.testing.assert_array_equal(pasted, rows[:, None] & columns[None])
        np.testing.assert_allclose(mixed["label"][3, 2], pasted.mean(), atol=1e-6)
        np.testing.assert_allclose(mixed["label"].sum(-1), 1, rtol=1e-5)
        shares.add(float(pasted.mean()))
    assert len(shares) > 5


def test_both_take_turns_and_none_is_none():
    kinds = set()
    for key in range(12):
        mixed = jax.jit(mixing.mix, static_argnums=(2, 3))(jax.random.key(key), BATCH, 1.0, 1.0)
        whole = np.asarray(mixed["image"]) == np.round(mixed["image"])
        kinds.add("cutmix" if whole.all() else "mixup")
    assert kinds == {"cutmix", "mixup"}
    assert mixing.mix(jax.random.key(0), BATCH, 0.0, 0.0)["image"] is BATCH["image"]
