"""LiT, CLIP and SigLIP beside golden outputs of the code that they come from, and what holds."""

import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import noise, random_variables
from vit_jax import weights
from vit_jax.models import get_model
from vit_jax.models.clip import CLIP

GOLDEN = Path(__file__).parent / "golden" / "two_towers.npz"
TINY = dict(
    patch_size=4, hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32, image_side=8,
    text_hidden_size=24, text_num_layers=2, text_num_heads=3, text_mlp_dim=40, vocabulary_size=20,
    text_length=6,
)  # fmt: skip
FAMILIES = {
    "CLIP-B_32": dict(TINY, embedding_size=12),
    "SigLIP-B_16": TINY,
    "LiT-B16B": dict(TINY, embedding_size=12, text_positions=7),
    "LiT-L16S": TINY,
}
TEXTS = np.array([[3, 9, 4, 19, 0, 0], [3, 5, 19, 0, 0, 0], [3, 7, 8, 2, 5, 19]], np.int32)


@functools.cache
def golden(file):
    with np.load(GOLDEN) as arrays:
        return {k.removeprefix(f"{file}/"): arrays[k] for k in arrays if k.startswith(f"{file}/")}


def golden_weights(file):
    """Arrays by their names in the code that made a golden file."""
    found = golden(file)
    shapes = json.loads(str(found["names"]))
    return {k: found.get(f"given/{k}", recipe_array(k, shape)) for k, shape in shapes.items()}


def golden_model(name, file, **fields):
    """The model of a golden file of transformers."""
    config = json.loads(str(golden(file)["config"]))
    sizes = {
        "hidden_size": "hidden_size",
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "mlp_dim": "intermediate_size",
    }
    images = {ours: config["vision"][theirs] for ours, theirs in sizes.items()}
    texts = {f"text_{ours}": config["text"][theirs] for ours, theirs in sizes.items()}
    return get_model(
        name,
        **images,
        **texts,
        patch_size=config["vision"]["patch_size"],
        image_side=config["vision"]["image_size"],
        embedding_size=config.get("projection_dim"),
        vocabulary_size=config["text"]["vocab_size"],
        text_length=config["text"]["max_position_embeddings"],
        **fields,
    )


def golden_lit(file, path):
    """The model of a golden file of vision_transformer's LiT, and its parameters."""
    config = json.loads(str(golden(file)["config"]))
    image, text, out_dim = config["image"], config["text"], config["out_dim"]
    is_bert = config["text_model"] == "bert"
    model = get_model(
        "LiT-B16B" if is_bert else "LiT-L16S",
        **{field: image[field] for field in ("hidden_size", "num_layers", "num_heads", "mlp_dim")},
        patch_size=image["patch"],
        embedding_size=out_dim[0],
        text_hidden_size=text["width"],
        text_num_layers=text["layers"],
        text_num_heads=text["heads"],
        text_mlp_dim=text["mlp"],
        vocabulary_size=text["vocab"],
        **({"text_positions": text["positions"]} if is_bert else {}),
    )
    np.savez(path, **golden_weights(file))
    return model, weights.read(path).tree(model)


def assert_near(found, expected, what="", atol=3e-5):
    """Within a share of the deviation: measured 5e-6, and 4e-4 for the other GELU."""
    atol = atol * expected.std()
    np.testing.assert_allclose(found, expected, atol=atol, rtol=0, err_msg=what)


def capture(model, params, *inputs):
    """What a model returns, and what its submodules do, by the path of each."""
    run = jax.jit(functools.partial(model.apply, capture_intermediates=True))
    out, state = run({"params": params}, *inputs)
    flat = traverse_util.flatten_dict(state["intermediates"], sep="/")
    first = {k.removesuffix("/__call__"): v[0] for k, v in flat.items() if k.endswith("/__call__")}
    return out, {k: v[0] if isinstance(v, tuple) else v for k, v in first.items()}


CASES = {
    ("CLIP-B_32", "clip_small", ""): {},
    ("CLIP-B_32", "clip_small", "gelu/"): dict(activation="gelu"),
    ("SigLIP-B_16", "siglip_small", ""): {},
}
STATES = {
    "img/Transformer/pre_norm": "vision/after_pre_norm",
    "img/Transformer/encoderblock_0": "vision/block_0",
    "img/Transformer/encoderblock_1": "vision/last_block",
    "img/Transformer/encoder_norm": "vision/final_norm",
    "txt/Encoder_0/encoderblock_0": "text/block_0",
    "txt/Encoder_0/encoder_norm": "text/final_norm",
}


@pytest.mark.parametrize("case", CASES)
def test_golden_outputs_and_states(case):
    name, file, prefix = case
    model = golden_model(name, file, **CASES[case])
    params = torch.from_state_dict(golden_weights(file), model)["params"]
    expected = golden(file)
    images = expected["pixel_values"].transpose(0, 2, 3, 1)
    out, states = capture(model, params, images, expected["input_ids"])
    assert_near(out["image"], expected[f"{prefix}image_embeds"])
    assert_near(out["text"], expected[f"{prefix}text_embeds"])
    assert_near(out["logits"], expected[f"{prefix}logits_per_image"])
    assert_near(states["img"], expected[f"{prefix}image_features"])
    assert_near(states["txt"], expected[f"{prefix}text_features"])
    if prefix:
        return
    compared = {ours: f"act/{theirs}" for ours, theirs in STATES.items()}
    compared = {ours: theirs for ours, theirs in compared.items() if theirs in expected}
    assert len(compared) == 5 - name.startswith("SigLIP")
    for ours, theirs in compared.items():
        rows = 4 if ours.startswith("img") else 3
        assert_near(states[ours][:, ::rows, ::8], expected[theirs], theirs)


@pytest.mark.parametrize("file", ["lit_bert_small", "lit_bert_two_heads", "lit_text_small"])
def test_golden_outputs_of_lit(file, tmp_path):
    model, params = golden_lit(file, tmp_path / "lit.npz")
    tree.check(params, tree.shapes(model, (32, 32)))
    expected = golden(file)
    tokens = expected["tokens"]
    out, states = capture(model, params, expected["images"], tokens)
    assert_near(out["image"], expected["image_embeds"])
    assert_near(out["text"], expected["text_embeds"])
    assert_near(out["logits"], expected["logits_per_image"])
    np.testing.assert_allclose(out["scale"], np.full(3, 12.0), rtol=1e-5)
    if "act/txt/transformed" in expected:  # of padding there are other states, which nobody reads
        kept = (tokens != 0)[:, ::3]
        assert_near(states["txt/bert"][:, ::3, ::4][kept], expected["act/txt/transformed"][kept])


def test_golden_images_of_another_size():
    """Positions are fitted as open_clip does it; transformers' differ by 4e-3 from that."""
    model = golden_model("CLIP-B_32", "clip_small")
    params = torch.from_state_dict(golden_weights("clip_small"), model)["params"]
    assert model.image_size(params) == model.usual_size == (32, 32)
    params = model.resize_params(params, (32, 32), (48, 48))
    expected = golden("clip_small")
    images = expected["resized/pixel_values"].transpose(0, 2, 3, 1)
    found = jax.jit(model.apply)({"params": params}, images, None)["image"]
    assert_near(found, expected["resized/image_embeds_open_clip"])
    with pytest.raises(AssertionError):
        assert_near(found, expected["resized/image_embeds_hf"])


@functools.cache
def tiny(name, **fields):
    """A tiny model of a family and its variables; vocabulary 20, 6 tokens, images of 8 x 8."""
    model = get_model(name, **FAMILIES[name], **fields)
    return model, random_variables(model, (8, 8))


def embed(name, texts, **changes):
    """Embeddings of texts, with some arrays of the parameters replaced by path."""
    model, variables = tiny(name)
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    params = traverse_util.unflatten_dict({**flat, **changes}, sep="/")
    return np.asarray(jax.jit(model.apply)({"params": params}, None, texts)["text"])


def test_what_follows_the_end_of_clips_texts_is_not_seen():
    """So it is pooled at the end token, 19 here, and causal; what comes before is seen."""
    after, before = TEXTS.copy(), TEXTS.copy()
    after[:2, -2:] = [[7, 11], [5, 19]]
    before[:, 1] = 6
    found = embed("CLIP-B_32", TEXTS)
    np.testing.assert_allclose(embed("CLIP-B_32", after), found, atol=1e-6)
    assert (np.abs(embed("CLIP-B_32", before) - found).max(axis=1) > 1e-2).all()


@pytest.mark.parametrize(
    ("name", "table", "is_seen"),
    [
        ("SigLIP-B_16", "txt/Embed_0/embedding", True),
        ("LiT-L16S", "txt/Embed_0/embedding", True),
        ("LiT-B16B", "txt/bert/token_embedding", False),
    ],
)
def test_padding_is_seen_by_all_but_bert(name, table, is_seen):
    """A text without padding is as it was, whatever the vector of padding."""
    _, variables = tiny(name)
    vectors = traverse_util.flatten_dict(variables["params"], sep="/")[table].copy()
    vectors[0] += noise(vectors[0].shape)
    change = np.abs(embed(name, TEXTS, **{table: vectors}) - embed(name, TEXTS)).max(axis=1)
    assert (change[:2] > 1e-2).all() == is_seen
    np.testing.assert_allclose(change[1 if not is_seen else 2 :], 0, atol=1e-6)
    assert np.isfinite(embed(name, np.zeros((1, 6), np.int32))).all()


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_receives_a_finite_gradient(name):
    once = dict(FAMILIES[name], num_layers=1, text_num_layers=1)
    model = get_model(name, **once, dropout_rate=0.1, text_dropout_rate=0.1)
    variables = random_variables(model, (8, 8))
    images = noise((3, 8, 8, 3))

    def loss(params):
        rngs = {"dropout": jax.random.key(0)}
        out = model.apply({"params": params}, images, TEXTS, train=True, rngs=rngs)
        assert {k: len(v) for k, v in out.items()} == dict(image=3, text=3, scale=3, bias=3)
        logits = out["scale"][:, None] * out["image"] @ out["text"].T + out["bias"][:, None]
        return jnp.sum(jax.nn.softplus(logits) * jnp.cos(jnp.arange(9.0).reshape(3, 3)))

    grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(grad).all(), name
        # The key's bias adds the same to every logit of a softmax, so its gradient is 0.
        assert "'key'" in name or np.abs(grad).max() > 0, name


def test_either_tower_alone():
    model, variables = tiny("SigLIP-B_16")
    images = noise((2, 8, 8, 3))
    apply = jax.jit(model.apply)
    both = apply(variables, images, TEXTS)
    np.testing.assert_allclose(apply(variables, images, None)["image"], both["image"], atol=1e-6)
    np.testing.assert_allclose(apply(variables, None, TEXTS)["text"], both["text"], atol=1e-6)
    scale, bias = np.exp(variables["params"]["t"]), variables["params"]["b"]
    logits = scale * both["image"] @ both["text"].T + bias
    np.testing.assert_allclose(both["logits"], logits, atol=1e-5)
    np.testing.assert_allclose(both["scale"], np.repeat(scale, 2), rtol=1e-6)
    np.testing.assert_allclose(both["bias"], np.repeat(bias, 2), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(both["image"], axis=1), 1, atol=1e-6)
    tower = model.image_tower().clone(cosine=True)
    found = jax.jit(tower.apply)({"params": variables["params"]["img"]}, images)
    np.testing.assert_allclose(found, both["image"], atol=1e-6)
    assert model.backbone_model == model.image_tower()


@pytest.mark.parametrize("name", ["CLIP-B_32", "LiT-B16B"])
def test_scan_and_half_precision(name):
    model, variables = tiny(name)
    images = noise((2, 8, 8, 3))
    expected = jax.jit(model.apply)(variables, images, TEXTS)
    stacked = {"params": tree.stack(variables["params"])}
    found = jax.jit(model.clone(scan=True).apply)(stacked, images, TEXTS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, images, TEXTS)
    assert all(x.dtype == jnp.float32 for x in half.values())
    for key in ("image", "text"):
        assert 0 < np.abs(half[key] - expected[key]).max() < 0.1


def initial(name, names, **fields):
    """Some of a model's parameters before training, by path; the others are not computed."""
    model = get_model(name, **{**FAMILIES[name], **fields})

    @jax.jit
    def make():
        variables = model.init(jax.random.key(0), jnp.ones((1, 8, 8, 3)), TEXTS)
        flat = traverse_util.flatten_dict(variables["params"], sep="/")
        return {k: v for k, v in flat.items() if k in names}

    return make()


def test_initial_values():
    of_block = {
        "MultiHeadDotProductAttention_1/query/kernel": lambda width: width**-0.5,
        "MultiHeadDotProductAttention_1/out/kernel": lambda width: width**-0.5 / 2,
        "MlpBlock_3/Dense_0/kernel": lambda width: (2 * width) ** -0.5,
        "MlpBlock_3/Dense_1/kernel": lambda width: width**-0.5 / 2,
    }
    deviations = {
        "txt/Embed_0/embedding": 0.02, "txt/pos_embedding": 0.01, "img/cls": 1 / 16,
        "img/Transformer/posembed_input/pos_embedding": 1 / 16,
    }  # fmt: skip
    for tower, width in (("img/Transformer", 256), ("txt/Encoder_0", 128)):
        deviations |= {f"{tower}/encoderblock_1/{k}": f(width) for k, f in of_block.items()}
    wide = dict(hidden_size=256, text_hidden_size=128, text_num_heads=2)
    found = initial("CLIP-B_32", [*deviations, "t", "b", "img/embedding/bias"], **wide)
    assert found.pop("t") == pytest.approx(np.log(1 / 0.07), rel=1e-6)
    assert found.keys() == deviations.keys()  # and so no bias
    for name, array in found.items():
        tolerance = 4 / (2 * array.size) ** 0.5
        np.testing.assert_allclose(array.std(), deviations[name], rtol=tolerance, err_msg=name)
    found = initial("SigLIP-B_16", ["t", "b"])
    assert found["t"] == pytest.approx(np.log(10), rel=1e-6)
    assert found["b"] == -10


@pytest.mark.parametrize(
    ("name", "tokenizer", "preparation"),
    [
        ("LiT-L16L", "bert(16)", "big_vision"),
        ("LiT-L16Ti", "sentencepiece_lit(16)", "big_vision"),
        ("CLIP-L_14_336", "clip(77)", "clip"),
        ("SigLIP-L_16-384", "siglip(64)", "big_vision"),
        ("SigLIP-So400m_14", "siglip(16)", "big_vision"),
        ("SigLIP2-g-opt_16-256", "siglip2(64)", "big_vision"),
    ],
)
def test_what_published_weights_need(name, tokenizer, preparation):
    model = get_model(name)
    assert model.tokenizer == tokenizer
    assert model.text_length == int(tokenizer.partition("(")[2][:-1])
    assert model.preparation == preparation
    assert model.activation == ("quick_gelu" if name.startswith("CLIP") else "gelu_tanh")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text_kind": "lstm"}, "text_kind='lstm' is not one of"),
        ({"text_pool": "first"}, "text_pool='first' is not one of .'last', 'end'"),
        ({"text_head": "none"}, "width 24 need a text_head to become embeddings of width 12"),
        ({"initial_scale": 0.0}, "initial_scale must be positive, not 0.0"),
        ({"text_length": 7}, r"texts must be of shape \(b, 7\), .* not \(3, 6\)"),
        ({"text_num_heads": 5}, "width of 24 is not divisible by 5 heads"),
        ({"activation": "tanh"}, "'tanh' is not one of"),
        ({"position_resize": "lanczos"}, "position_resize='lanczos' is not one of"),
    ],
)
def test_wrong_fields(fields, message):
    model = get_model("CLIP-B_32", **{**FAMILIES["CLIP-B_32"], **fields})
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jnp.ones((3, 8, 8, 3)), TEXTS)


def test_wrong_inputs():
    model, variables = tiny("CLIP-B_32")
    with pytest.raises(ValueError, match="images, texts or both, not None twice"):
        model.apply(variables, None, None)
    bert = get_model("LiT-B16B", text_causal=True)
    with pytest.raises(ValueError, match="BERT sees all words"):
        jax.eval_shape(bert.init, jax.random.key(0), *bert.inputs((224, 224)))
    with pytest.raises(TypeError, match="activation"):
        CLIP.__mro__[1]()  # two towers have no activation that nobody has chosen
