"""Reading ahead of the devices, in batches that fill them."""

import threading

import jax
import numpy as np
import pytest

from vit_jax import ahead


def test_results_come_in_order_whatever_one_does():
    def prepare(i):
        if i == 3:
            raise OSError("gone")
        return i * 10

    found = list(ahead.prepared(range(6), prepare, ahead=2))
    assert [thing for thing, _ in found] == list(range(6))
    assert isinstance(found[3][1], OSError)
    assert [value for thing, value in found if thing != 3] == [0, 10, 20, 40, 50]


def test_no_more_than_a_few_are_held():
    held, most, lock = 0, 0, threading.Lock()

    def prepare(i):
        nonlocal held, most
        with lock:
            held += 1
            most = max(most, held)

    for _ in ahead.prepared(range(50), prepare, ahead=4):
        with lock:
            held -= 1
    assert most <= 5


def test_whoever_stops_does_not_wait_for_all():
    asked = []
    coming = ahead.prepared(range(10_000), asked.append, ahead=3)
    next(coming)
    coming.close()
    assert len(asked) < 20


@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_batches_fill_the_devices(count):
    """Of two CPU devices here; few images make a smaller batch, and none is lost."""
    assert jax.local_device_count() == 2
    batches, shapes = ahead.Batches(7), set()
    scale = batches.place(np.float32(2))

    def apply(images):
        shapes.add(images.shape)
        assert len(images.sharding.device_set) == 2
        return jax.jit(lambda scale, images: images.sum(axis=(1, 2, 3)) * scale)(scale, images)

    def prepare(i):
        if i == 2:
            raise ValueError("no image")
        return np.full((2, 2, 3), i, np.float32)

    found = list(batches.compute(range(count), prepare, apply))
    assert [thing for thing, _, _ in found] == list(range(count))
    for thing, image, result in found:
        if thing == 2:
            assert image is None
            assert str(result) == "no image"
        else:
            assert image[0, 0, 0] == thing
            assert result == thing * 24
    assert shapes == {({1: 2, 3: 4}.get(count, 8), 2, 2, 3)}


def test_a_size_that_is_none():
    with pytest.raises(ValueError, match="--batch_size must be at least 1, not 0"):
        ahead.Batches(0)
    assert ahead.Batches().size == 16
