import functools
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.golden_recipe import recipe_weights
from tests.helpers import noise
from vit_jax import ops
from vit_jax.models.base import Model
from vit_jax.models.panoptic_fpn import FPN, PanopticFPN, SemanticHead

GOLDEN = Path(__file__).parent / "golden" / "panoptic_fpn.npz"
CHANNELS = (8, 12, 16, 20)


class OnMaps(Model):
    """The decoder alone, whose inputs are maps."""

    num_classes: int = 7

    @nn.compact
    def __call__(self, *maps, train=False):
        return PanopticFPN(self.num_classes, 32, 64, name="decode_head")(maps, train)

    def inputs(self, image_size):
        h, w = image_size
        return tuple(
            jax.ShapeDtypeStruct((1, -(-h // stride), -(-w // stride), channels), jnp.float32)
            for stride, channels in zip((4, 8, 16, 32), CHANNELS)
        )

    def torch_names(self, naming=""):
        return {f"decode_head/{k}": v for k, v in PanopticFPN.torch_names(4).items()}


def test_golden_output_and_activations():
    model, golden = OnMaps(), np.load(GOLDEN)
    variables = recipe_weights(model, (128, 160))
    apply = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    logits, state = apply(variables, *(golden[f"in/res{i}"] for i in (2, 3, 4, 5)))
    parts = state["intermediates"]["decode_head"]
    p2, *_, p5 = parts["fpn"]["__call__"][0]
    scale = nn.relu(parts["head"]["scale3_conv2_norm"]["__call__"][0])
    for name, found in {
        "act/p5": p5,
        "act/p2": p2[:, ::3, ::5, ::4],
        "act/scale_p5": ops.resize_bilinear(scale, (32, 40))[:, ::3, ::5, ::8],
        "logits": logits[:, ::3, ::3],
        "full_corner": ops.resize_bilinear(logits, (128, 160))[:, :24:3, :24:5],
    }.items():
        expected = golden[name]
        np.testing.assert_allclose(found, expected, atol=3e-5 * expected.std(), err_msg=name)


def test_number_of_parameters():
    maps = [jax.ShapeDtypeStruct((1, 8 // 2**i, 8 // 2**i, 256 * 2**i), jnp.float32)
            for i in range(4)]  # fmt: skip
    count = functools.partial(jax.tree.reduce, lambda total, leaf: total + leaf.size)
    fpn = jax.eval_shape(FPN().init, jax.random.key(0), maps)
    assert count(fpn, 0) == 3_344_384
    pyramid = [jax.ShapeDtypeStruct((*x.shape[:3], 256), jnp.float32) for x in maps]
    assert count(jax.eval_shape(SemanticHead(54).init, jax.random.key(0), pyramid), 0) == 1_630_774


def test_any_size():
    """Maps of an image of 50 x 70 pixels, whose coarser ones are not half as large."""
    maps = [noise((1, *size, 3), i) for i, size in enumerate([(13, 18), (7, 9), (4, 5), (2, 3)])]
    decoder = PanopticFPN(5, 8, 32)
    logits, variables = jax.jit(decoder.init_with_output)(jax.random.key(0), maps)
    assert logits.shape == (1, 13, 18, 5)
    assert np.isfinite(logits).all()
    half = PanopticFPN(5, 8, 32, jnp.bfloat16)
    close = jax.jit(half.apply)(variables, maps)
    assert close.dtype == jnp.float32
    np.testing.assert_allclose(close, logits, atol=0.1 * np.std(logits))


def test_initialisation():
    maps = [jnp.zeros((1, 8 // 2**i, 8 // 2**i, 48)) for i in range(4)]
    params = jax.jit(PanopticFPN(5, 96, 64).init)(jax.random.key(0), maps)["params"]
    kernel = params["fpn"]["output1"]["kernel"]
    bound = (3 / (9 * 96)) ** 0.5
    assert np.abs(kernel).max() == pytest.approx(bound, rel=0.01)
    assert np.std(params["head"]["scale3_conv2"]["kernel"]) == pytest.approx(
        (2 / (9 * 64)) ** 0.5, rel=0.02
    )
    assert not params["head"]["predictor"]["bias"].any()


def test_a_width_that_the_groups_do_not_divide():
    with pytest.raises(ValueError, match="features=48 must be divisible by 32"):
        SemanticHead(3, 48).init(jax.random.key(0), [jnp.zeros((1, 4, 4, 8))])


@pytest.mark.parametrize("size", [(6, 10), (15, 4), (7, 3), (1, 5), (12, 20), (3, 5)])
def test_bilinear_resizing(size):
    """Against the definition: the pixels' centres, the border's colour beyond them."""
    x = noise((2, 3, 5, 2))
    expected = x.astype(np.float64)
    for axis, count in zip((1, 2), size):
        length = x.shape[axis]
        at = np.clip((np.arange(count) + 0.5) * length / count - 0.5, 0, None)
        low = at.astype(int)
        share = (at - low).reshape(-1, *[1] * (3 - axis))
        above = np.take(expected, np.minimum(low + 1, length - 1), axis)
        expected = np.take(expected, low, axis) * (1 - share) + above * share
    np.testing.assert_allclose(ops.resize_bilinear(x, size), expected, atol=1e-6)


def test_nearest_resizing():
    x = np.arange(15.0).reshape(1, 3, 5, 1)
    found = np.asarray(ops.resize_nearest(x, (6, 7)))[0, ..., 0]
    np.testing.assert_array_equal(found[:, 0], [0, 0, 5, 5, 10, 10])
    np.testing.assert_array_equal(found[0], [0, 0, 1, 2, 2, 3, 4])  # floor(i 5 / 7)
    np.testing.assert_array_equal(ops.resize_nearest(x, (3, 5)), x)
