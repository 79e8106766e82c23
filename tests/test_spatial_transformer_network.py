import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from checkpoints import torch
from tests.golden_recipe import recipe_weights
from tests.helpers import noise
from vit_jax.models import get_model
from vit_jax.models.spatial_transformer_network import SpatialTransform

GOLDEN = Path(__file__).parent / "golden" / "stn.npz"


def test_golden_transform():
    """Its last layer there has .3 times these weights, added to the identity."""
    model = get_model("STN")
    variables = recipe_weights(model, (28, 28))
    params = dict(variables["params"]["transform"])
    identity = np.eye(2, 3, dtype=np.float32).reshape(6)
    params["dense1"] = {
        "kernel": 0.3 * params["dense1"]["kernel"],
        "bias": 0.3 * params["dense1"]["bias"] + identity,
    }
    with np.load(GOLDEN) as golden:
        out, theta = jax.jit(SpatialTransform().apply)(
            {"params": params}, np.moveaxis(golden["image"], 1, -1)
        )
        # From an image computed in float64, PyTorch's is 1.5e-5 of the deviation away, ours 1.4e-5
        # (1.1e-5 and 1.0e-5 of it at the same map): rounding alone is more than 1e-5.
        for found, name, tolerance in (
            (theta, "stn_theta", 1e-5),
            (np.moveaxis(out, -1, 1), "stn_out", 3e-5),
        ):
            expected = golden[name]
            np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * expected.std())


@pytest.mark.slow
def test_it_begins_as_the_identity_and_every_parameter_learns():
    model = get_model("STN", num_classes=4)
    images = np.repeat(noise((3, 30, 30, 1)), 3, axis=-1)
    variables = jax.jit(model.init)(jax.random.key(0), images)
    _, state = model.apply(variables, images, mutable=["intermediates"])
    np.testing.assert_allclose(state["intermediates"]["moved"][0], images[..., :1], atol=1e-5)

    dense = variables["params"]["transform"]["dense1"]
    dense["kernel"] = 0.01 * noise(dense["kernel"].shape)  # at first only this layer has a gradient

    @jax.jit
    @jax.grad
    def grads(params):
        apply = functools.partial(model.apply, rngs={"dropout": jax.random.key(1)})
        return jnp.sum(jnp.sin(apply({"params": params}, images, train=True)))

    for path, grad in jax.tree_util.tree_leaves_with_path(grads(variables["params"])):
        assert np.isfinite(grad).all(), path
        assert np.abs(grad).max() > 0, path


def test_names_of_the_tutorial_both_ways():
    model = get_model("STN")
    variables = recipe_weights(model, (28, 28))
    state_dict = torch.to_state_dict(variables, model)
    assert state_dict["fc1.weight"].shape == (50, 320)
    assert state_dict["fc_loc.0.weight"].shape == (32, 90)
    again = torch.from_state_dict(state_dict, model)
    jax.tree.map(np.testing.assert_array_equal, again, variables)
    assert model.image_size(variables["params"]) == (28, 28)


def test_images_of_other_sizes():
    model = get_model("STN")
    with pytest.raises(ValueError, match="sides of at least 28 pixels"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 20, 28, 3)))
    with pytest.raises(ValueError, match="resize the images to the former"):
        model.resize_params({}, (28, 28), (32, 32))
