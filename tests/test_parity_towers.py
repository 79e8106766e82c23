"""Comparison with transformers and open_clip, which read what we write and we what they do."""

import importlib
import json

import jax
import numpy as np
import pytest
import safetensors.numpy

from checkpoints import torch
from tests.helpers import noise, random_variables
from vit_jax import convert, pretrained, weights
from vit_jax.models import get_model

pytestmark = pytest.mark.parity

IMAGES = dict(hidden_size=128, num_hidden_layers=2, num_attention_heads=2, intermediate_size=512,
              image_size=32, patch_size=8)  # fmt: skip
TEXTS = dict(hidden_size=64, num_hidden_layers=2, num_attention_heads=1, intermediate_size=256,
             vocab_size=50, max_position_embeddings=10)  # fmt: skip
SIZES = dict(
    patch_size=8, hidden_size=128, num_layers=2, num_heads=2, mlp_dim=512, image_side=32,
    text_hidden_size=64, text_num_layers=2, text_num_heads=1, text_mlp_dim=256,
    vocabulary_size=50, text_length=10,
)  # fmt: skip
PIXELS = noise((3, 32, 32, 3))
TOKENS = np.random.default_rng(0).integers(2, 49, (4, 10)).astype(np.int32)
TOKENS[np.arange(4), [3, 9, 5, 6]] = 49  # the end of a text
TOLERANCE = 3e-5  # of the deviation


@pytest.fixture(scope="module", autouse=True)
def operators():
    importlib.import_module("tests.torchvision_operators")
    pytorch = importlib.import_module("torch")
    pytorch.manual_seed(0)
    return pytorch


def shaken(module):
    """A module of PyTorch none of whose parameters is 0 or 1."""
    import torch as pytorch

    with pytorch.no_grad():
        for name, parameter in module.named_parameters():
            if not name.startswith("logit_"):
                parameter.add_(0.05 * pytorch.randn(parameter.shape))
    return module.eval()


def run_torch(module, **inputs):
    import torch as pytorch

    with pytorch.no_grad():
        return module(**{k: pytorch.from_numpy(np.array(v)) for k, v in inputs.items()})


def assert_near(found, expected):
    expected = np.asarray(expected)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=TOLERANCE * expected.std(), rtol=0)


def apply(loaded, *inputs):
    return jax.jit(loaded.model.apply)(loaded.variables, *inputs)


def random_towers(name, **fields):
    """A model of ours with weights of a size that says something, ready to be written."""
    fields = {**SIZES, **fields}
    model = get_model(name, **fields)
    variables = random_variables(model, (32, 32), deviation=0.1)
    loss = "sigmoid" if model.has_bias else "softmax"
    return pretrained.Pretrained(name, fields, model, variables, (32, 32), None, "", loss)


# SigLIP's texts have the width of its images.
OF_FAMILY = {
    "CLIP": dict(embedding_size=48),
    "SigLIP": dict(text_hidden_size=128, text_num_heads=2, text_mlp_dim=512),
}


# transformers


def transformers_model(family, activation="quick_gelu"):
    import transformers

    if family == "CLIP":
        act = dict(hidden_act=activation)
        config = transformers.CLIPConfig(
            vision_config={**IMAGES, **act},
            text_config={**TEXTS, **act, "eos_token_id": 49, "bos_token_id": 48, "pad_token_id": 1},
            projection_dim=48,
        )
        return shaken(transformers.CLIPModel(config))
    config = transformers.SiglipConfig(
        vision_config=IMAGES,
        text_config=dict(
            TEXTS, hidden_size=128, num_attention_heads=2, intermediate_size=512,
            projection_size=128,
        ),
    )  # fmt: skip
    return shaken(transformers.SiglipModel(config))


def compare_transformers(model, loaded):
    pixels = PIXELS.transpose(0, 3, 1, 2)
    expected = run_torch(model, pixel_values=pixels, input_ids=TOKENS.astype(np.int64))
    found = apply(loaded, PIXELS, TOKENS)
    assert_near(found["image"], expected.image_embeds)
    assert_near(found["text"], expected.text_embeds)
    assert_near(found["logits"], expected.logits_per_image)


@pytest.mark.parametrize("case", ["CLIP quick_gelu", "CLIP gelu", "SigLIP gelu_pytorch_tanh"])
def test_we_read_what_transformers_saves(case, tmp_path, operators):
    """A folder as save_pretrained makes it; the config tells activation and heads."""
    family, activation = case.split()
    model = transformers_model(family, activation)
    model.save_pretrained(tmp_path)
    loaded = pretrained.load(tmp_path)
    assert loaded.name.startswith(family)
    compare_transformers(model, loaded)
    operators.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    (tmp_path / "model.safetensors").unlink()
    compare_transformers(model, pretrained.load(tmp_path))
    model.half().float().save_pretrained(tmp_path / "half")
    arrays = safetensors.numpy.load_file(tmp_path / "half" / "model.safetensors")
    half = {k: v.astype(np.float16) for k, v in arrays.items()}
    safetensors.numpy.save_file(half, tmp_path / "half" / "model.safetensors")
    compare_transformers(model, pretrained.load(tmp_path / "half"))


@pytest.mark.parametrize("family", ["CLIP", "SigLIP"])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_transformers_reads_what_we_write(family, suffix, tmp_path, operators):
    name = {"CLIP": "CLIP-B_32", "SigLIP": "SigLIP-B_16"}[family]
    own = random_towers(name, **OF_FAMILY[family])
    path = tmp_path / f"model{suffix}"
    convert.write(path, own, "transformers")
    model = transformers_model(family)
    if suffix == ".pth":
        state = operators.load(path, weights_only=True)
    else:
        state = {k: operators.from_numpy(v) for k, v in safetensors.numpy.load_file(path).items()}
    model.load_state_dict(state, strict=True)
    compare_transformers(model, own)


def test_towers_of_images_of_transformers(tmp_path):
    """Saved alone, they begin the tower of images of two, or a classifier."""
    import transformers

    config = transformers.CLIPVisionConfig(**IMAGES, projection_dim=48)
    model = shaken(transformers.CLIPVisionModelWithProjection(config))
    model.save_pretrained(tmp_path)
    loaded = pretrained.load(tmp_path)
    assert loaded.name.endswith("-CLIP")
    expected = run_torch(model, pixel_values=PIXELS.transpose(0, 3, 1, 2))
    assert_near(apply(loaded, PIXELS), expected.image_embeds)
    towers = get_model("CLIP-B_32", **SIZES, embedding_size=48)
    init = random_variables(towers, (32, 32))
    found = pretrained.adapt(weights.read(tmp_path), init, towers, (32, 32))
    assert_near(jax.jit(loaded.model.apply)({"params": found["params"]["img"]}, PIXELS),
                expected.image_embeds)  # fmt: skip
    model = shaken(transformers.SiglipVisionModel(transformers.SiglipVisionConfig(**IMAGES)))
    model.save_pretrained(tmp_path / "siglip")
    expected = run_torch(model, pixel_values=PIXELS.transpose(0, 3, 1, 2))
    loaded = pretrained.load(tmp_path / "siglip")
    assert loaded.model.values_of(("classifier", "activation", "num_heads")) == dict(
        classifier="map", activation="gelu_tanh", num_heads=2
    )
    assert_near(apply(loaded, PIXELS), expected.pooler_output)


# open_clip


def open_clip_clip(quick_gelu=True, custom=False):
    from open_clip import model as open_clip

    config = dict(
        embed_dim=48,
        vision_cfg=dict(image_size=32, layers=2, width=128, patch_size=8),
        text_cfg=dict(context_length=10, vocab_size=50, width=64, heads=1, layers=2),
        quick_gelu=quick_gelu,
    )
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    return shaken(kind(**config)), {"model_cfg": config}


def open_clip_siglip():
    """With the tanh GELU in its tower of timm's, as SigLIP was trained."""
    import timm
    from open_clip import model as open_clip

    config = dict(
        embed_dim=128,
        init_logit_bias=-10,
        vision_cfg=dict(
            image_size=32, timm_model_name="vit_base_patch16_siglip_224",
            timm_pool="map", timm_proj="none",
        ),
        text_cfg=dict(
            context_length=10, vocab_size=50, width=128, heads=2, layers=2, no_causal_mask=True,
            proj_bias=True, pool_type="last", norm_kwargs=dict(eps=1e-6),
            act_kwargs=dict(approximate="tanh"),
        ),
    )  # fmt: skip
    make = timm.create_model
    try:
        timm.create_model = lambda name, **k: make(
            name, **k, img_size=32, patch_size=8, embed_dim=128, depth=2, num_heads=2,
            act_layer="gelu_tanh",
        )  # fmt: skip
        model = open_clip.CustomTextCLIP(**config)
    finally:
        timm.create_model = make
    return shaken(model), {"model_cfg": config}


def compare_open_clip(model, loaded):
    pixels = PIXELS.transpose(0, 3, 1, 2)
    image, text, scale, *bias = run_torch(model, image=pixels, text=TOKENS.astype(np.int64))
    found = apply(loaded, PIXELS, TOKENS)
    assert_near(found["image"], image)
    assert_near(found["text"], text)
    np.testing.assert_allclose(found["scale"][0], float(scale.detach()), rtol=1e-5)
    np.testing.assert_allclose(found["bias"][0], float(bias[0].detach()) if bias else 0, rtol=1e-5)


CASES = {
    "quick": lambda: open_clip_clip(),
    "exact": lambda: open_clip_clip(quick_gelu=False),
    "custom": lambda: open_clip_clip(custom=True),
    "SigLIP": open_clip_siglip,
}


@pytest.mark.parametrize("case", CASES)
def test_we_read_what_open_clip_saves(case, tmp_path, operators):
    """A folder as it is pushed to the hub; of SigLIP the heads of images are not told."""
    model, config = CASES[case]()
    arrays = {k: v.detach().clone().contiguous() for k, v in model.state_dict().items()}
    importlib.import_module("safetensors.torch").save_file(
        arrays, tmp_path / "open_clip_model.safetensors"
    )
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    if case == "SigLIP":
        with pytest.raises(ValueError, match="and a num_heads which it does not tell"):
            pretrained.load(tmp_path)
        fields = {**SIZES, **OF_FAMILY["SigLIP"]}
        loaded = pretrained.load(tmp_path, "SigLIP-B_16", fields)
    else:
        loaded = pretrained.load(tmp_path)
        assert loaded.name.startswith("CLIP")
    compare_open_clip(model, loaded)
    operators.save(model.state_dict(), tmp_path / "model.pt")
    again = pretrained.load(tmp_path / "model.pt", loaded.name, loaded.fields)
    compare_open_clip(model, again)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("case", ["quick", "custom", "SigLIP"])
def test_open_clip_reads_what_we_write(case, suffix, tmp_path, operators):
    model, _ = CASES[case]()
    naming = {"quick": None, "custom": "open_clip-custom_text", "SigLIP": "open_clip-timm"}[case]
    name, family = ("SigLIP-B_16", case) if case == "SigLIP" else ("CLIP-B_32", "CLIP")
    own = random_towers(name, **OF_FAMILY[family])
    path = tmp_path / f"model{suffix}"
    convert.write(path, own, naming)
    load = importlib.import_module("open_clip.factory").load_checkpoint
    load(model, str(path), strict=True)
    compare_open_clip(model, own)


def test_openais_own_files_are_torchscript(tmp_path, operators):
    """Traced with their sizes among the buffers, in half precision."""
    model, _ = open_clip_clip()
    for name, size in (("input_resolution", 32), ("context_length", 10), ("vocab_size", 50)):
        if hasattr(model, name):
            delattr(model, name)
        model.register_buffer(name, operators.tensor(size))
    pixels = operators.from_numpy(PIXELS.transpose(0, 3, 1, 2).copy())
    tokens = operators.from_numpy(TOKENS.astype(np.int64))
    traced = operators.jit.trace(model, (pixels, tokens), check_trace=False)
    path = tmp_path / "ViT-B-32.pt"
    operators.jit.save(traced, str(path))
    found = torch.read(path)
    for name, tensor in traced.state_dict().items():
        np.testing.assert_array_equal(found[name], tensor.numpy(), err_msg=name)
    compare_open_clip(model, pretrained.load(path))
