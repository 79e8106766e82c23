import io
import itertools
from pathlib import PurePath

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from checkpoints import tree
from tests.helpers import (
    TINY,
    TINY_HYBRID,
    TINY_MIXER,
    TINY_SWIN,
    noise,
    random_params,
    random_variables,
    write_image,
)
from vit_jax import attention_maps
from vit_jax.models import get_model
from vit_jax.options import ClassifyOptions
from vit_jax.pretrained import Pretrained
from vit_jax.tasks import classify


def compute(model, params, images):
    return np.asarray(
        jax.jit(lambda v, x: attention_maps.attention_maps(model, v, x))({"params": params}, images)
    )


def test_the_first_layers_attention_is_that_of_the_formula():
    model, params = random_params("ViT-B_16", (8, 12), num_classes=3, **TINY)
    images = noise((2, 8, 12, 3))
    maps = compute(model, params, images)
    assert maps.shape == (2, 2, 2, 7, 7)  # layers, batch, heads, class token and 2 x 3 patches
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)

    _, state = model.apply({"params": params}, images, capture_intermediates=True)
    block = state["intermediates"]["Transformer"]["encoderblock_0"]
    (y,) = block["LayerNorm_0"]["__call__"]
    weights = params["Transformer"]["encoderblock_0"]["MultiHeadDotProductAttention_1"]

    def project(name):
        kernel, bias = weights[name]["kernel"], weights[name]["bias"]
        return np.einsum("bnd,dhk->bhnk", y, kernel) + bias[:, None]

    logits = project("query") @ project("key").swapaxes(-1, -2) / np.sqrt(8)
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(maps[0], expected, atol=1e-5)


def test_looking_changes_nothing():
    model, params = random_params("ViT-B_16", (8, 8), num_classes=3, **TINY)
    images = noise((2, 8, 8, 3))
    seen, _ = model.apply({"params": params}, images, mutable=["intermediates"])
    np.testing.assert_array_equal(seen, model.apply({"params": params}, images))


@pytest.mark.parametrize("overrides", [{"scan": True}, {"remat": True}])
def test_scanned_and_rematerialised_models_show_the_same(overrides):
    model, params = random_params("ViT-B_16", (8, 8), num_classes=3, **TINY)
    images = noise((2, 8, 8, 3))
    other = get_model("ViT-B_16", num_classes=3, **TINY, **overrides)
    other_params = tree.stack(params) if "scan" in overrides else params
    np.testing.assert_allclose(
        compute(other, other_params, images), compute(model, params, images), atol=1e-6
    )


def test_rollout():
    random = np.random.default_rng(0)
    maps = random.dirichlet(np.ones(4), size=(3, 2, 5, 4))
    rolled = np.asarray(attention_maps.rollout(maps))
    layers = [(m.mean(axis=1) + np.eye(4)) / 2 for m in maps]
    np.testing.assert_allclose(rolled, layers[2] @ layers[1] @ layers[0], atol=1e-6)
    np.testing.assert_allclose(rolled.sum(-1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["vit", "gap", "hybrid"])
def test_maps_lie_over_the_image_as_the_patches_do(name):
    """The token at row 0, column 2 is attended to by all; its map must say so."""
    fields = {"vit": TINY, "gap": dict(TINY, classifier="gap"), "hybrid": TINY_HYBRID}[name]
    model = get_model("ViT-B_16", num_classes=3, **fields)
    size = (2 * model.stride, 3 * model.stride)
    class_tokens = int(name != "gap")
    n = 6 + class_tokens
    weights = np.zeros((5, n), np.float32)
    weights[:, class_tokens + 2] = 1
    expected = np.zeros((5, 2, 3))
    expected[:, 0, 2] = 1
    np.testing.assert_array_equal(attention_maps.to_grid(model, weights, size), expected)


@pytest.mark.parametrize("classifier", ["token", "gap", "map"])
def test_a_model_looks_where_its_head_draws_from(classifier):
    """Attention to a patch stands where the patch is, for each way of pooling."""
    model, params = random_params(
        "ViT-B_16", (8, 12), num_classes=3, classifier=classifier, **TINY
    )  # fmt: skip
    images = noise((2, 8, 12, 3))
    rolled, heads = jax.jit(lambda v, x: attention_maps.look(model, v, x))(
        {"params": params}, images
    )
    maps = compute(model, params, images)
    total = np.asarray(attention_maps.rollout(maps))
    if classifier == "token":
        pool, expected = np.eye(7)[None, :1], maps[-1][:, :, 0, 1:]
    elif classifier == "gap":
        pool, expected = np.full((1, 1, 6), 1 / 6), maps[-1].mean(axis=2)
    else:
        _, state = model.apply({"params": params}, images, mutable=["intermediates"])
        pooling = state["intermediates"]["MAPHead_0"]["MultiHeadDotProductAttention_0"]
        expected = np.asarray(pooling["attention"][0])[:, :, 0]
        np.testing.assert_allclose(expected.sum(-1), 1, atol=1e-6)
        pool = expected.mean(axis=1, keepdims=True)
    drawn = (pool @ total)[:, 0, -6:]
    np.testing.assert_allclose(rolled, drawn.reshape(2, 2, 3), atol=1e-6)
    np.testing.assert_allclose(heads, expected.reshape(2, 2, 2, 3), atol=1e-6)


def test_hybrids():
    model, params = random_params("R50+ViT-B_16", (16, 32), num_classes=3, **TINY_HYBRID)
    maps = compute(model, params, noise((1, 16, 32, 3)))
    assert maps.shape == (2, 1, 2, 9, 9)  # 2 x 4 positions and the class token
    assert attention_maps.to_grid(model, maps, (16, 32)).shape == (2, 1, 2, 9, 2, 4)


def test_a_mixer_has_no_attention():
    model, params = random_params("Mixer-B_16", (8, 8), num_classes=3, **TINY_MIXER)
    with pytest.raises(ValueError, match="MlpMixer has no attention to look at"):
        attention_maps.look(model, {"params": params}, noise((1, 8, 8, 3)))


def test_pictures(tmp_path):
    random = np.random.default_rng(0)
    figure = attention_maps.draw(
        random.random((20, 30, 3)), random.random((2, 3)), random.random((7, 2, 3)), "a title"
    )
    assert [axes.get_title() for axes in figure.axes][:3] == [
        "image", "rollout", "last attention, head 1",
    ]  # fmt: skip
    figure.savefig(tmp_path / "a.png")
    picture = np.asarray(Image.open(tmp_path / "a.png"))
    assert picture.shape[0] > 200
    assert picture.std() > 10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("Swin-T", dict(TINY_SWIN, num_classes=2)),
        ("R50+ViT-B_16", dict(TINY_HYBRID, num_classes=2)),
        ("ViT-B_16", dict(TINY, registers=2, num_classes=0)),
    ],
)
def test_predict_draws_where_it_looks(name, fields, tmp_path):
    model, params = random_params(name, (32, 32), **fields)
    pretrained = Pretrained(
        name, fields, model, {"params": params}, (32, 32), ("cat", "dog"),
        "decode|resize(32)|value_range(-1, 1)", "softmax_xent",
    )  # fmt: skip
    photo = write_image(tmp_path / "photo.png", (200, 30, 30))
    predictor = classify.Classifier(pretrained, ClassifyOptions(attention=True))
    (answer,) = predictor.answers(predictor.find([photo]))
    assert not answer.problems
    ((path, data),) = answer.files.items()
    assert path == PurePath("attention/photo.png")
    assert np.asarray(Image.open(io.BytesIO(data))).std() > 10


@pytest.fixture(scope="module")
def translator():
    """A tiny Transformer with its variables, a padded source, and a target."""
    model = get_model(
        "Transformer-base", vocabulary_size=11, hidden_size=8, num_layers=2, num_heads=2, mlp_dim=8
    )
    source = np.array([[3, 4, 5, 6, 2], [7, 8, 2, 0, 0]])
    target = np.array([[1, 9, 10, 2], [1, 5, 2, 0]])
    variables = random_variables(model, (1, 1))
    return model, variables, source, target


def test_an_encoder_decoder_attends_to_three_things(translator):
    model, variables, source, target = translator

    def run(*args):
        maps = attention_maps.attention_maps(model, *args)
        return maps, model.apply(*args, capture_intermediates=True)[1]["intermediates"]

    maps, state = jax.device_get(jax.jit(run)(variables, source, target))
    shapes = {name: value.shape for name, value in maps._asdict().items()}
    assert shapes == {  # layers, batch, heads, who asks, what is asked
        "encoder": (2, 2, 2, 5, 5), "decoder": (2, 2, 2, 4, 4), "cross": (2, 2, 2, 4, 5),
    }  # fmt: skip
    for weights in maps:
        np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    for weights in (maps.encoder, maps.cross):
        assert not np.any(weights[:, 1, ..., 3:])  # padding of the second source
        assert np.all(weights[:, 0] > 0)
    future = np.triu(np.ones((4, 4), bool), 1)
    assert not np.any(maps.decoder[..., future])
    assert np.all(maps.decoder[..., ~future] > 0)

    block = state["decoder"]["decoderblock_1"]["cross_attention"]
    q, k = (block[name]["__call__"][0] for name in ("query", "key"))
    scores = np.einsum("bqhc,bkhc->bhqk", q, k) / 2
    scores = np.where((source != 0)[:, None, None], scores, -np.inf)
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(maps.cross[1], expected, atol=1e-6)


def test_an_alignment_is_drawn_of_what_is_written(translator):
    """By the last layer, without the padding that makes lengths few."""
    model, variables, *_ = translator
    source, target = [7, 8, 2], [1, 5, 6, 9, 2]
    names = ["<pad>", "<s>", "</s>", *map(str, range(3, 11))]
    draw = attention_maps.make_alignment_drawer(model, variables, names.__getitem__)
    figure = draw(source, target, "7 8")
    look = jax.jit(lambda v, *x: attention_maps.attention_maps(model, v, *x))
    maps = jax.device_get(look(variables, np.array([source]), np.array([target])))
    _, *heads = (axes for axes in figure.axes if axes.get_images())
    for axes, weights in zip(heads, maps.cross[-1, 0], strict=True):
        np.testing.assert_allclose(axes.get_images()[0].get_array(), weights[:-1], atol=1e-6)
    large = figure.axes[0]
    assert [label.get_text() for label in large.get_xticklabels()] == ["7", "8", "</s>"]
    assert [label.get_text() for label in large.get_yticklabels()] == ["5", "6", "9", "</s>"]


def test_what_has_no_source_is_not_looked_across():
    class Encoder:
        def apply(self, *args, **kwargs):
            attention = {"MultiHeadDotProductAttention_1": {"attention": (jnp.ones(1),)}}
            return None, {"intermediates": {"Transformer": {"encoderblock": attention}}}

    with pytest.raises(ValueError, match="Encoder has no source to look at, as a Transformer has"):
        attention_maps.look_across(Encoder(), {}, jnp.ones((1, 1, 1, 3)), jnp.ones(1))


@pytest.mark.slow
def test_a_scanned_encoder_decoder_shows_the_same(translator):
    model, variables, source, target = translator
    scanned = model.clone(scan=True)
    expected = attention_maps.attention_maps(model, variables, source, target)
    stacked = {"params": tree.stack(variables["params"])}
    found = attention_maps.attention_maps(scanned, stacked, source, target)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), found, expected)


def test_alignments(tmp_path):
    weights = np.random.default_rng(0).dirichlet(np.ones(30), size=(3, 20))
    source, target = [f"$w_{i}" for i in range(30)], [f"a long word {i}" for i in range(20)]
    figure = attention_maps.draw_alignment(source, target, weights, "a title")
    figure.savefig(tmp_path / "a.png")
    large, *heads = (axes for axes in figure.axes if axes.get_images())
    np.testing.assert_allclose(large.get_images()[0].get_array(), weights.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(heads[2].get_images()[0].get_array(), weights[2], rtol=1e-6)
    assert [axes.get_title() for axes in heads] == ["head 1", "head 2", "head 3"]
    assert [label.get_text() for label in large.get_xticklabels()] == source
    assert large.get_yticklabels()[12].get_text() == "a long word 12"
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axis in (large.xaxis, large.yaxis):
        boxes = [label.get_window_extent(renderer) for label in axis.get_ticklabels()]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))
    assert figure.get_suptitle() == "a title"


def test_an_alignment_of_one_matrix():
    figure = attention_maps.draw_alignment(["a"], ["b", "c"], np.ones((2, 1)))
    (image,) = figure.axes[0].get_images()
    np.testing.assert_array_equal(image.get_array(), np.ones((2, 1)))
    message = r"weights of shape \(1, 2\) are not those of 2 target tokens to 1 source tokens"
    with pytest.raises(ValueError, match=message):
        attention_maps.draw_alignment(["a"], ["b", "c"], np.ones((1, 2)))
