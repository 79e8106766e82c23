import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from vit_jax.machinery import sharding


def test_there_are_two_devices():
    assert jax.device_count() == 2


def test_state_is_cut_along_its_largest_dimension_that_divides():
    mesh = sharding.make_mesh(fsdp=2)
    state = {
        "large": jax.ShapeDtypeStruct((300, 512), jnp.float32),
        "odd": jax.ShapeDtypeStruct((300, 513), jnp.float32),
        "small": jax.ShapeDtypeStruct((4, 4), jnp.float32),
        "indivisible": jax.ShapeDtypeStruct((301, 513), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.int32),
    }
    specs = {k: s.spec for k, s in sharding.state_sharding(mesh, state).items()}
    assert specs == {
        "large": PartitionSpec(None, "fsdp"),
        "odd": PartitionSpec("fsdp"),
        "small": PartitionSpec(),
        "indivisible": PartitionSpec(),
        "scalar": PartitionSpec(),
    }
    replicated = sharding.state_sharding(sharding.make_mesh(fsdp=1), state)
    assert {s.spec for s in replicated.values()} == {PartitionSpec()}


@pytest.mark.parametrize("fsdp", [1, 2])
def test_batches_are_spread_in_order_and_none_is_lost(fsdp):
    mesh = sharding.make_mesh(fsdp)
    batches = [{"x": np.arange(4) + 10 * i} for i in range(5)]
    for ahead in (1, 2, 9):
        placed = list(sharding.to_devices(batches, mesh, ahead))
        assert len(placed) == 5
        for expected, actual in zip(batches, placed):
            np.testing.assert_array_equal(actual["x"], expected["x"])
            assert [len(shard.data) for shard in actual["x"].addressable_shards] == [2, 2]


def test_batches_are_taken_ahead_of_their_use():
    taken = []

    def read():
        for i in range(5):
            taken.append(i)
            yield {"x": np.zeros(2)}

    batches = sharding.to_devices(read(), sharding.make_mesh(1), ahead=2)
    next(batches)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize("fsdp", [0, 3])
def test_fsdp_must_divide_the_devices(fsdp):
    with pytest.raises(ValueError, match=rf"fsdp={fsdp} does not divide the 2 device"):
        sharding.make_mesh(fsdp)


@pytest.mark.parametrize(
    ("batch_size", "accum_steps", "message"),
    [
        (7, 1, r"batch_size=7 is not divisible by 2 device\(s\) x 1 accum_steps = 2"),
        (6, 2, "= 4"),
        (0, 1, "batch_size=0"),
        (4, 0, "accum_steps must be at least 1"),
    ],
)
def test_batches_must_divide(batch_size, accum_steps, message):
    with pytest.raises(ValueError, match=message):
        sharding.check_batch(sharding.make_mesh(1), batch_size, accum_steps)
