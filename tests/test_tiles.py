"""Images restored as a whole, in parts and in tiles."""

import itertools

import jax
import numpy as np
import pytest

from tests.helpers import TINY_DEHAZEFORMER, TINY_SWINIR, noise, random_params
from vit_jax import ops, tiles
from vit_jax.models import piecewise
from vit_jax.models.base import Model


def restorer(**options):
    model, params = random_params("DehazeFormer-T", (32, 32), **TINY_DEHAZEFORMER)
    return tiles.Restorer(model, {"params": params}, **options)


@pytest.mark.slow
@pytest.mark.parametrize("conv", ["depthwise", "full"])
def test_parts_give_the_whole_images_result(conv):
    model, params = random_params("DehazeFormer-T", (32, 32), conv=conv, **TINY_DEHAZEFORMER)
    x = noise((1, 99, 141, 3))
    whole = jax.jit(model.apply)({"params": params}, x)
    for side in (8, 32):
        parts = jax.jit(model.clone(part_side=side).apply)({"params": params}, x)
        np.testing.assert_allclose(parts, whole, atol=1e-5 * np.abs(whole).max())
    with pytest.raises(ValueError, match="part_side=12 must be a multiple of 8"):
        model.clone(part_side=12).apply({"params": params}, x)


@pytest.mark.parametrize(("pixels", "align"), [(0, 2), (9, 2), (8, 8), (9, 8)])
def test_parts_cover_an_axis_and_see_what_they_need(pixels, align):
    for length, side in itertools.product((26, 64, 98, 100, 136, 342), (8, 32, 64)):
        cut = piecewise._cut(length, side, piecewise.Reach(pixels, align))
        covered = np.zeros(length, bool)
        for i in range(cut.count):
            written, read = map(int, cut.begins(np.int32(i)))
            ends = written + cut.written, read + cut.read
            covered[written : ends[0]] = True
            assert 0 <= read <= written < ends[0] <= ends[1] <= length
            assert read % align == 0
            assert (length - ends[1]) % align == 0
            assert read == 0 or written - read >= pixels
            assert ends[1] == length or ends[1] - ends[0] >= pixels
        assert covered.all()
        assert cut.written < side + 2 * align or cut.count == 1


def test_methods():
    image = noise((170, 70, 3))
    whole = restorer(method="whole")(image)
    assert np.abs(whole).max() <= 1
    np.testing.assert_allclose(restorer(method="bounded")(image), whole, atol=1e-4)
    # Tiles have statistics of their own, unless one holds the whole image.
    np.testing.assert_allclose(restorer(method="tiles", tile=170)(image), whole, atol=1e-5)
    assert np.abs(restorer(method="tiles", tile=64)(image) - whole).max() > 1e-3


@pytest.mark.parametrize(("memory", "method"), [(100, "whole"), (99, "bounded"), (9, "tiles")])
def test_what_fits_into_memory_is_chosen(monkeypatch, memory, method):
    needs = {"whole": 100, "bounded": 10}
    monkeypatch.setattr(tiles.Restorer, "_memory_of", lambda _, method, size: needs[method])
    assert restorer(memory=memory).method_for((99, 99)) == method
    assert restorer(memory=memory, method="whole").method_for((99, 99)) == "whole"


def test_tiles_run_on_all_devices(monkeypatch):
    image = noise((150, 60, 3))  # three tiles, for two devices
    in_tiles = restorer(method="tiles", tile=64)
    on_all = in_tiles(image)
    ((_, program),) = in_tiles._programs.items()
    assert len(program.output_shardings.device_set) == jax.local_device_count() > 1
    alone = lambda self, tiles: [self._run("whole", tile[None])[0] for tile in tiles]  # noqa: E731
    monkeypatch.setattr(tiles.Restorer, "_restore_tiles", alone)
    np.testing.assert_allclose(on_all, in_tiles(image), atol=1e-6)


def test_tiles_of_an_identity_leave_no_seams():
    class Identity(Model):
        def clone(self):
            return self

        def apply(self, variables, x, train):
            return x * variables

    image = noise((200, 131, 3))
    tiled = tiles.Restorer(Identity(), 1.0, method="tiles", tile=64)(image)
    np.testing.assert_allclose(tiled, image, atol=1e-6)


def test_ensemble_does_not_depend_on_the_way_an_image_is_turned():
    image = noise((40, 52, 3))
    ensemble = restorer(method="whole", ensemble=True)
    plain = restorer(method="whole")(image)
    result = ensemble(image)
    assert np.abs(result - plain).max() > 1e-3
    np.testing.assert_allclose(ensemble(np.rot90(image)), np.rot90(result), atol=1e-5)


def test_wrong_options():
    with pytest.raises(ValueError, match="a tile must have at least 64 pixels"):
        restorer(tile=16)
    with pytest.raises(ValueError, match="memory must be positive"):
        restorer(memory=-1)
    with pytest.raises(ValueError, match="unknown method 'bands'"):
        restorer(method="bands")


def test_tiles_have_the_windows_of_the_whole_image():
    """The middle of a tile is that of the whole image, which it would not be a pixel aside."""
    model, params = random_params("SwinIR-denoise-color", (8, 8), **TINY_SWINIR)
    params = jax.tree.map(lambda x: x * 0.5, params)
    image = 0.5 * noise((133, 99, 3))
    whole = tiles.Restorer(model, {"params": params}, method="whole")(image)
    in_tiles = tiles.Restorer(model, {"params": params}, method="tiles", tile=64)(image)
    assert in_tiles.shape == whole.shape
    starts = [tiles._tile_starts(side, 64, 4) for side in (136, 100)]
    assert starts == [[0, 36, 72], [0, 36]]
    # Two blocks and the convolutions reach a dozen pixels, and no other tile is there.
    middle = np.s_[112:120, 76:84]
    np.testing.assert_allclose(in_tiles[middle], whole[middle], atol=1e-6)
    aside = tiles.Restorer(model, {"params": params}, method="whole")(image[1:])[111:119, 76:84]
    assert np.abs(aside - whole[middle]).mean() > 1e-4


def test_tiles_of_an_enlargement_leave_no_seams():
    class Nearest(Model):
        upscale, tile_multiple = 3, 8

        def clone(self):
            return self

        def apply(self, variables, x, train):
            return ops.nearest_upsample(x, 3) * variables

    image = noise((150, 67, 3))
    tiled = tiles.Restorer(Nearest(), 1.0, method="tiles", tile=70, ensemble=True)(image)
    np.testing.assert_allclose(tiled, ops.nearest_upsample(image[None], 3)[0], atol=1e-6)


def test_smaller_tiles_where_memory_is_little(monkeypatch):
    model, params = random_params("SwinIR-denoise-color", (8, 8), **TINY_SWINIR)
    needs = lambda _, method, size: size[0] * size[1]  # noqa: E731
    monkeypatch.setattr(tiles.Restorer, "_memory_of", needs)
    restorer = tiles.Restorer(model, {"params": params}, memory=130 * 130)
    assert restorer.method_for((300, 300)) == "tiles"
    assert restorer._tile_side() == 128
    assert tiles.Restorer(model, {"params": params}, method="tiles")._tile_side() == 512


def test_very_small_images_are_restored():
    model, params = random_params("SwinIR-lightweight-x2", (8, 8), **TINY_SWINIR)
    out = tiles.Restorer(model, {"params": params}, method="whole")(noise((1, 9, 3)))
    assert out.shape == (2, 18, 3)
    assert np.isfinite(out).all()
