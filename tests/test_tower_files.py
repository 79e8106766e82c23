"""Weights of two towers by the names and in the layouts of others, read and written."""

import json

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import files, hub_config, npz, torch, tree
from tests.golden_recipe import recipe_array
from tests.helpers import TINY, random_params, random_variables
from tests.test_two_towers import golden, golden_weights
from tests.tower_files import (
    CLIP,
    SIGLIP,
    image_fields,
    open_clip_custom_text,
    open_clip_siglip,
    renamed,
    stacked,
)
from vit_jax import convert, identify, pretrained, text_weights, weights
from vit_jax.models import get_model

CLIP_MODEL, SIGLIP_MODEL = get_model("CLIP-B_32", **CLIP), get_model("SigLIP-B_16", **SIGLIP)
HF_CLIP = {
    "model_type": "clip",
    "vision_config": {"num_attention_heads": 2, "hidden_act": "gelu"},
    "text_config": {"num_attention_heads": 3, "hidden_act": "gelu"},
}
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "cat")


def assert_equal(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def flat(variables):
    return traverse_util.flatten_dict(variables["params"], sep="/")


@pytest.fixture(scope="module")
def clip():
    """CLIP's golden weights by our names."""
    return torch.from_state_dict(golden_weights("clip_small"), CLIP_MODEL)


@pytest.fixture(scope="module")
def siglip():
    return torch.from_state_dict(golden_weights("siglip_small"), SIGLIP_MODEL)


NAMINGS = {
    "CLIP transformers": ("transformers", lambda: golden_weights("clip_small")),
    "CLIP open_clip": ("open_clip", lambda: renamed("clip_small", "openai")),
    "CLIP open_clip-custom_text": ("open_clip-custom_text", open_clip_custom_text),
    "SigLIP transformers": ("transformers", lambda: golden_weights("siglip_small")),
    "SigLIP open_clip-timm": ("open_clip-timm", open_clip_siglip),
}


@pytest.mark.parametrize("case", NAMINGS)
def test_names_and_layouts_of_others_both_ways(case, clip, siglip):
    naming, make = NAMINGS[case]
    arrays = make()
    is_clip = case.startswith("CLIP")
    model, expected = (CLIP_MODEL, clip) if is_clip else (SIGLIP_MODEL, siglip)
    assert torch.naming_of(arrays, model) == naming
    assert_equal(torch.from_state_dict(arrays, model), expected)
    written = torch.to_state_dict(expected, model, naming)
    assert written.keys() == arrays.keys()
    for name, array in arrays.items():
        assert written[name].shape == array.shape, name
        np.testing.assert_array_equal(written[name], np.float32(array), err_msg=name)


def test_what_is_none_of_the_weights_and_half_precision(clip):
    arrays = {k: np.float16(v) for k, v in renamed("clip_small", "openai").items()}
    arrays |= {k: np.int64(9) for k in ("input_resolution", "context_length", "vocab_size")}
    arrays["attn_mask"] = np.zeros((16, 16), np.float16)
    arrays["logit_scale"] = arrays["logit_scale"].reshape(1)
    found = torch.from_state_dict(arrays, CLIP_MODEL)
    assert_equal(found, jax.tree.map(lambda x: np.float32(np.float16(x)), clip))
    old = golden_weights("clip_small")
    for tower in ("vision", "text"):
        old[f"{tower}_model.embeddings.position_ids"] = np.arange(17)[None]
    assert_equal(torch.from_state_dict(old, CLIP_MODEL), clip)
    del old["visual_projection.weight"]
    with pytest.raises(ValueError, match=r"missing: visual_projection.weight\)"):
        torch.from_state_dict(old, CLIP_MODEL)


def test_towers_of_images_alone_by_the_names_of_others(clip, siglip):
    """timm's, and transformers' with and without the part of the names that tells the tower."""
    fields = dict(image_fields(SIGLIP), num_classes=0)
    model = get_model("ViT-B_16-SigLIP", **fields)
    expected = {"params": siglip["params"]["img"]}
    assert_equal(torch.from_state_dict(renamed("siglip_small", "timm"), model), expected)
    whole = {k: v for k, v in golden_weights("siglip_small").items() if k.startswith("vision")}
    bare = {k.removeprefix("vision_model."): v for k, v in whole.items()}
    for arrays in (whole, bare):
        assert_equal(torch.from_state_dict(arrays, model), expected)
    model = CLIP_MODEL.image_tower()
    arrays = {k: v for k, v in golden_weights("clip_small").items() if k.startswith("vis")}
    assert_equal(torch.from_state_dict(arrays, model), {"params": clip["params"]["img"]})
    written = torch.to_state_dict({"params": clip["params"]["img"]}, model, "transformers-CLIP")
    assert written.keys() == arrays.keys()
    with pytest.raises(ValueError, match="no place for: pre_logits/kernel"):
        torch.to_state_dict({"params": clip["params"]["img"]}, model, "timm")


@pytest.mark.parametrize("form", ["", "params/", "stacked"])
def test_big_visions_files(form, siglip, tmp_path):
    arrays = renamed("siglip_small", "big_vision")
    if form == "stacked":
        arrays = stacked(arrays)
    elif form:
        arrays = {f"{form}{k}": v for k, v in arrays.items()} | {"opt/count": np.zeros(3)}
    np.savez(tmp_path / "a.npz", **arrays)
    found = weights.read(tmp_path / "a.npz")
    assert_equal(found.tree(SIGLIP_MODEL), siglip["params"])
    if not form:
        loaded = pretrained.load(tmp_path / "a.npz", "SigLIP-B_16", SIGLIP)
        convert.write(tmp_path / "b.npz", loaded)
        names = set(npz.read(tmp_path / "b.npz"))
        assert "img/pos_embedding" in names
        assert {npz._published(name) for name in arrays} == names
        assert_equal(weights.read(tmp_path / "b.npz").tree(SIGLIP_MODEL), siglip["params"])


def test_stacks_that_are_none(tmp_path):
    block = "img/Transformer/encoderblock"
    for other in ({f"{block}/b": np.zeros((3, 2))}, {f"{block}/b": np.float32(1)}):
        np.savez(tmp_path / "a.npz", **{f"{block}/a": np.zeros((2, 4)), **other})
        with pytest.raises(ValueError, match=r"encoderblock/b of shape .* is not stacked"):
            npz.load(tmp_path / "a.npz")
    np.savez(tmp_path / "a.npz", **{f"{block}/a": np.zeros((2, 4)), f"{block}_0/a": np.zeros(4)})
    with pytest.raises(ValueError, match="encoderblock_0/a beside blocks that are stacked"):
        npz.load(tmp_path / "a.npz")


@pytest.mark.parametrize("file", ["lit_bert_two_heads", "lit_text_small"])
def test_files_of_lit_are_written_as_they_were(file, tmp_path):
    arrays = golden_weights(file)
    np.savez(tmp_path / "lit.npz", **arrays)
    (tmp_path / "lit.txt").write_text("\n".join(WORDS))
    found = weights.read(tmp_path / "lit.npz")
    match = identify.find_relative(found)
    assert match.name.startswith("LiT-")
    is_bert = "bert" in file
    assert match.untold == (("text_num_heads",) if is_bert else ())
    fields = {**match.fields, "text_num_heads": 2 if is_bert else 4}
    loaded = pretrained.load(tmp_path / "lit.npz", match.name, fields)
    assert loaded.vocabulary == (str(tmp_path / "lit.txt") if is_bert else "")
    convert.write(tmp_path / "to" / "lit.npz", loaded)
    written = npz.read(tmp_path / "to" / "lit.npz")
    arrays = {npz._published(k): v for k, v in arrays.items()}  # a numbering that flax can read
    assert_equal(dict(sorted(written.items())), dict(sorted(arrays.items())))
    assert (tmp_path / "to" / "lit.txt").exists() == is_bert


def test_a_second_table_of_positions_is_added(tmp_path):
    arrays = golden_weights("lit_text_small")
    table = arrays["txt/pos_embedding"]
    np.savez(tmp_path / "a.npz", **arrays, **{"txt/Encoder_0/pos_embedding": 2 * table})
    found = npz.load(tmp_path / "a.npz")["txt"]
    np.testing.assert_array_equal(found["pos_embedding"], 3 * table)
    assert "pos_embedding" not in found["Encoder_0"]


def test_what_a_config_beside_weights_says(tmp_path):
    def read(config, name="config.json"):
        (tmp_path / name).write_text(config if isinstance(config, str) else json.dumps(config))
        try:
            return hub_config.read_fields(tmp_path / "model.safetensors")
        finally:
            (tmp_path / name).unlink()

    assert read(HF_CLIP) == dict(
        activation="gelu", text_activation="gelu", num_heads=2, text_num_heads=3
    )
    tanh = dict(activation="gelu_tanh", text_activation="gelu_tanh")
    minimal = {"model_type": "siglip", "text_config": {"vocab_size": 32000}, "vision_config": {}}
    assert read(minimal) == dict(tanh, num_heads=12, text_num_heads=12)
    vision = {"model_type": "clip_vision_model", "num_attention_heads": 16}
    assert read(vision) == dict(activation="quick_gelu", num_heads=16)
    assert read({"architecture": "vit_base_patch32_clip_quickgelu_224"}) == dict(
        activation="quick_gelu"
    )
    assert read({"architecture": "vit_base_patch32_clip_224"}) == dict(activation="gelu")
    assert read({"architecture": "vit_base_patch16_siglip_224"}) == dict(activation="gelu_tanh")
    assert read({"architecture": "deit3_small_patch16_224"}) == dict(activation="gelu")
    assert read({"architecture": "vit_giant_patch14_reg4_dinov2"}) == dict(activation="silu")
    for name, activation in (("small", "gelu"), ("small_plus", "silu"), ("7b", "silu")):
        told = {"architecture": f"vit_{name}_patch16_dinov3"}
        assert read(told) == dict(activation=activation)
    assert read({"architecture": "resnet50", "pretrained_cfg": None}) == {}
    plain = {"vision_cfg": {"width": 768}, "text_cfg": {"heads": 8}}
    for quick in (False, True):
        own = {"model_cfg": plain | ({"quick_gelu": True} if quick else {})}
        name = "quick_gelu" if quick else "gelu"
        assert read(own, "open_clip_config.json") == dict(
            activation=name, text_activation=name, num_heads=12, text_num_heads=8
        )
    own = {"model_cfg": {"vision_cfg": {"timm_model_name": "x"}, "text_cfg": {"heads": 16}}}
    assert read(own, "open_clip_config.json") == dict(text_num_heads=16)
    for part, odd in (
        ("text_cfg", {"no_causal_mask": True}),
        ("text_cfg", {"pool_type": "last"}),
        ("vision_cfg", {"final_ln_after_pool": True}),
    ):
        own = {"model_cfg": {**plain, part: {**plain[part], "pool_type": None, **odd}}}
        with pytest.raises(ValueError, match=rf"{part}\.{next(iter(odd))}=.* makes another model"):
            read(own, "open_clip_config.json")
    for other in ("no JSON", "[1]", {"model_type": "llama", "hidden_act": "silu"}, {}):
        assert read(other) == {}
    with pytest.raises(ValueError, match=r"config\.json: the activation 'relu' is not one of"):
        read({"model_type": "clip", "vision_config": {"hidden_act": "relu"}})


def test_the_activation_is_never_guessed(tmp_path):
    """Wrong by default, it would move embeddings by some hundredths and nobody would notice."""
    fields = {k: v for k, v in CLIP.items() if "num_heads" not in k}

    def load(path, **more):
        return pretrained.load(path, "CLIP-B_32", {**fields, **more})

    path = tmp_path / "a.safetensors"
    torch.write(path, golden_weights("clip_small"))
    with pytest.raises(
        ValueError, match=r"a\.safetensors does not say .* --field=activation=VALUE"
    ):
        load(path)
    assert load(path, activation="gelu", num_heads=2, text_num_heads=3).fields["activation"] == (
        "gelu"
    )
    (tmp_path / "config.json").write_text(json.dumps(HF_CLIP))
    loaded = load(path)
    names = ("activation", "num_heads", "text_num_heads")
    assert loaded.model.values_of(names) == dict(zip(names, ("gelu", 2, 3)))
    expected = golden("clip_small")
    images = expected["pixel_values"].transpose(0, 2, 3, 1)
    out = jax.jit(loaded.model.apply)(loaded.variables, images, expected["input_ids"])
    for key, name in {"image": "image_embeds", "text": "text_embeds"}.items():
        theirs = expected[f"gelu/{name}"]
        np.testing.assert_allclose(out[key], theirs, atol=3e-5 * theirs.std())
    torn = dict(HF_CLIP, text_config={"hidden_act": "quick_gelu"})
    (tmp_path / "config.json").write_text(json.dumps(torn))
    with pytest.raises(ValueError, match="trained with gelu for images and quick_gelu for text"):
        load(path)
    (tmp_path / "config.json").unlink()
    of_openai = {**renamed("clip_small", "openai"), "input_resolution": np.array(32)}
    torch.write(path, {k: np.asarray(v, np.float32) for k, v in of_openai.items()})
    found = weights.read(path)
    assert found.unseen_fields(CLIP_MODEL) == {"activation": "quick_gelu"}


def write_tiny_bert(folder):
    """Two towers with a BERT and its vocabulary, and what tells the model."""
    (folder / "vocab.txt").write_text("\n".join(WORDS))
    fields = dict(TINY_BERT, text_positions=7)
    model = get_model("LiT-B16B", **fields)
    npz.save(folder / "bert.npz", random_variables(model, (8, 8))["params"])
    return folder / "bert.npz", "LiT-B16B", fields


def test_the_vocabulary_beside_weights_or_another(tmp_path):
    file = write_tiny_bert(tmp_path)
    loaded = pretrained.load(*file)
    assert loaded.vocabulary == str(tmp_path / "vocab.txt")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "vocab.txt").write_text("\n".join((*WORDS, "dog")))
    with pytest.raises(ValueError, match=r"vocab\.txt is another vocabulary than"):
        convert.write(tmp_path / "other" / "a.npz", loaded)
    chosen = pretrained.load(*file, vocabulary=str(tmp_path / "other"))
    assert chosen.vocabulary == str(tmp_path / "other" / "vocab.txt")
    with pytest.raises(ValueError, match=r"there is no vocabulary no/vocab\.txt for bert"):
        pretrained.load(*file, vocabulary="no/vocab.txt")
    found = [leaf.dtype.kind for leaf in convert.random_inputs(loaded, 2, seed=0)]
    assert found == ["f", "i"]
    assert convert.random_inputs(loaded, 50, seed=0)[1].max() == len(WORDS) - 1


@pytest.mark.slow
def test_a_run_keeps_the_vocabulary_and_published_names(tmp_path):
    loaded = pretrained.load(*write_tiny_bert(tmp_path))
    convert.write(tmp_path / "run", loaded)
    again = pretrained.load(tmp_path / "run")
    assert again.vocabulary == str(tmp_path / "run" / "vocabulary" / "vocab.txt")
    assert_equal(again.variables, loaded.variables)
    assert "txt/BertEncoder_0/layer_norm/scale" in npz.read(tmp_path / "run" / "weights.npz")


TINY_BERT = dict(
    TINY, image_side=8, text_hidden_size=24, text_num_layers=2, text_num_heads=3, text_mlp_dim=40,
    vocabulary_size=len(WORDS), text_length=6, embedding_size=12,
)  # fmt: skip


def test_the_image_tower_of_two_is_fine_tuned(clip, siglip, tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "clip.safetensors"
    torch.write(path, golden_weights("clip_small"))
    model, init = random_params("ViT-B_32-CLIP", (48, 48), num_classes=3, **image_fields(CLIP))
    found = flat(pretrained.adapt(weights.read(path), {"params": init}, model, (48, 48)))
    images = flat({"params": clip["params"]["img"]})
    for name, array in found.items():
        if name.startswith("head/"):
            np.testing.assert_array_equal(array, init["head"][name[5:]])
        elif "pos_embedding" not in name:
            np.testing.assert_array_equal(array, images[name], err_msg=name)
    assert "the tower of images is taken, and that of texts is left out" in caplog.text
    assert "pre_logits is left out: the model has none" in caplog.text
    assert found["Transformer/posembed_input/pos_embedding"].shape == (1, 37, 128)

    np.savez(tmp_path / "siglip.npz", **stacked(renamed("siglip_small", "big_vision")))
    model = get_model("ViT-B_16-SigLIP", **image_fields(SIGLIP), num_classes=0)
    init = random_variables(model, (32, 32))
    found = pretrained.adapt(weights.read(tmp_path / "siglip.npz"), init, model, (32, 32))
    assert_equal(found["params"], siglip["params"]["img"])
    loaded = pretrained.load(tmp_path / "siglip.npz", "ViT-B_16-SigLIP", image_fields(SIGLIP))
    assert_equal(loaded.variables["params"], siglip["params"]["img"])


def test_the_projection_of_lits_images_is_no_head_of_classes(tmp_path):
    """In its files it has the name of one."""
    arrays = golden_weights("lit_bert_two_heads")
    np.savez(tmp_path / "lit.npz", **arrays)
    tower = weights.read(tmp_path / "lit.npz").image_tower()
    np.testing.assert_array_equal(tower.arrays["pre_logits/kernel"], arrays["img/head/kernel"])
    model = get_model("ViT-B_16")
    assert tower.head_fields(model) == dict(num_classes=0, representation_size=40, head_norm=False)


def test_a_tower_of_images_begins_two(tmp_path, caplog):
    """Also one with a layer before its head, which is no projection, and one in a file of two."""
    caplog.set_level("INFO")
    model = get_model("LiT-B16B", **TINY_BERT)
    init = random_variables(model, (16, 16), seed=1)
    _, params = random_params("ViT-B_16", (16, 16), representation_size=12, **TINY)
    npz.save(tmp_path / "vit.npz", params)
    found = flat(pretrained.adapt(weights.read(tmp_path / "vit.npz"), init, model, (16, 16)))
    own, old = flat(init), flat({"params": params})
    for name, array in found.items():
        image = name.removeprefix("img/")
        begun = name.startswith("img/") and "pre_logits" not in name
        np.testing.assert_array_equal(array, old[image] if begun else own[name], err_msg=name)
    assert "the projection of images begins anew" in caplog.text
    assert "these parts are left out: head, pre_logits" in caplog.text

    path = tmp_path / "vision.safetensors"
    arrays = {k: v for k, v in golden_weights("clip_small").items() if k.startswith("vis")}
    torch.write(path, arrays)
    init = random_variables(CLIP_MODEL, (32, 32))
    found = pretrained.adapt(weights.read(path), init, CLIP_MODEL, (32, 32))["params"]
    assert_equal(found["img"], torch.from_state_dict(arrays, CLIP_MODEL.image_tower())["params"])
    assert_equal(found["txt"], init["params"]["txt"])
    with pytest.raises(ValueError, match="holds weights of the backbone of CLIP-B_32 alone"):
        pretrained.load(path, "CLIP-B_32", {**CLIP, "activation": "gelu"})


def test_texts_begin_with_a_bert(tmp_path, caplog):
    caplog.set_level("INFO")
    model = get_model("LiT-B16B", **TINY_BERT, text_positions=7)
    init = random_variables(model, (8, 8))
    bert = text_weights._bert_of(model).clone(length=9)
    shapes = torch.to_state_dict(random_variables(bert, (8, 8)), bert)
    arrays = {k: recipe_array(k, v.shape) for k, v in shapes.items()}
    torch.write(tmp_path / "bert.safetensors", arrays)
    found = flat(text_weights.adapt(weights.read(tmp_path / "bert.safetensors"), init, model))
    expected = flat(torch.from_state_dict(arrays, bert))
    own = flat(init)
    for name, array in found.items():
        theirs = expected.get(name.replace("txt/bert/", "encoder/"))
        theirs = own[name] if theirs is None else theirs[: len(array)]
        np.testing.assert_array_equal(array, theirs, err_msg=name)
    for said in (
        "of 9 positions the first 7 are taken", "left out: next, pooler, words",
        "the projection of texts begins anew: there was none",
        "trained with activation=gelu, and goes on with gelu_tanh",
    ):  # fmt: skip
        assert said in caplog.text
    np.savez(tmp_path / "vit.npz", **{"head/bias": np.zeros(3)})
    with pytest.raises(ValueError, match="has no tower of texts as LiT has it and is no BERT"):
        text_weights.adapt(weights.read(tmp_path / "vit.npz"), init, model)


def test_texts_begin_with_those_of_other_towers(siglip, tmp_path, caplog):
    caplog.set_level("INFO")
    torch.write(tmp_path / "a.safetensors", open_clip_siglip())
    model = SIGLIP_MODEL.clone(**TINY, image_side=8)
    init = random_variables(model, (8, 8))
    found = text_weights.adapt(weights.read(tmp_path / "a.safetensors"), init, model)["params"]
    expected = {**siglip["params"]["txt"], "head": init["params"]["txt"]["head"]}
    assert_equal(found["txt"], expected)
    assert_equal(found["img"], init["params"]["img"])
    assert "the projection of texts begins anew: it had another shape" in caplog.text
    wider = model.clone(vocabulary_size=121)
    init = random_variables(wider, (8, 8))
    with pytest.raises(ValueError, match=r"another shape: txt/Embed_0/embedding \(120, 72\)"):
        text_weights.adapt(weights.read(tmp_path / "a.safetensors"), init, wider)


def test_repositories_of_the_hub(siglip, tmp_path, monkeypatch):
    """The files that open_clip writes, and what lies beside them."""
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.write(folder / "open_clip_model.safetensors", open_clip_siglip())
    config = {"model_cfg": {"vision_cfg": {"timm_model_name": "x"}, "text_cfg": {"heads": 3}}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")

    def download(repository, file, revision=None):
        assert (repository, revision) == ("timm/SigLIP", "v1")
        if not (folder / file).exists():
            raise huggingface_hub.errors.EntryNotFoundError(f"no {file}")
        return str(folder / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    fields = {k: v for k, v in SIGLIP.items() if k != "text_num_heads"}
    for path in ("hf://timm/SigLIP@v1", folder):
        loaded = pretrained.load(path, "SigLIP-B_16", fields)
        assert loaded.fields["text_num_heads"] == 3
        assert loaded.vocabulary == str(folder / "tokenizer.json")
        assert_equal(loaded.variables, siglip)
    for name in (*files.HUB_FILES, "open_clip_config.json"):
        (folder / name).unlink(missing_ok=True)
    with pytest.raises(ValueError, match=r"cannot read hf://timm/SigLIP@v1: no model\.safetensors"):
        weights.read("hf://timm/SigLIP@v1")
    assert files.find_beside("https://host/a.npz", ["config.json"]) is None


def test_weights_in_several_files(siglip, tmp_path):
    arrays = golden_weights("siglip_small")
    names = sorted(arrays)
    for i, some in enumerate((names[::2], names[1::2])):
        torch.write(tmp_path / f"{i}.safetensors", {name: arrays[name] for name in some})
    places = {name: f"{i % 2}.safetensors" for i, name in enumerate(names)}
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    for path in (tmp_path, index):
        assert_equal(weights.read(path).tree(SIGLIP_MODEL), siglip["params"])
    (tmp_path / "1.safetensors").unlink()
    with pytest.raises(ValueError, match=r"index\.json lists 1\.safetensors, which is not beside"):
        weights.read(tmp_path)
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json is no list of files of weights"):
        weights.read(tmp_path)


@pytest.mark.slow
def test_what_a_file_fits(clip, siglip, tmp_path):
    torch.write(tmp_path / "a.safetensors", renamed("clip_small", "openai"))
    found = identify.what_fits(weights.read(tmp_path / "a.safetensors"))
    assert found.startswith("It fits CLIP-B_")
    assert "num_heads=2" in found
    assert "text_num_heads=3" in found
    lacking = {k: v for k, v in renamed("clip_small", "openai").items() if k != "ln_final.bias"}
    torch.write(tmp_path / "d.safetensors", lacking)
    match = identify.find_relative(weights.read(tmp_path / "d.safetensors"))
    assert match.name.startswith("CLIP-B_")  # and not the tower of images, of which all is there
    assert "missing: txt/Encoder_0/encoder_norm/bias" in match.problem
    torch.write(tmp_path / "b.safetensors", golden_weights("siglip_small"))
    match = identify.find_relative(weights.read(tmp_path / "b.safetensors"))
    assert (match.name, match.problem) == ("SigLIP-B_16", "")
    assert match.untold == ("num_heads", "text_num_heads")
    assert "a num_heads and a text_num_heads which it does not tell" in str(match)
    lone = {k: v for k, v in golden_weights("clip_small").items() if k.startswith("vision")}
    torch.write(tmp_path / "c.safetensors", lone)
    match = identify.find_relative(weights.read(tmp_path / "c.safetensors"))
    assert match.name.startswith("ViT-B_")
    assert match.name.endswith("-CLIP")
    assert match.is_sure


def test_names_are_complete():
    """No parameter of a family lacks a name in any of its namings."""
    for model in (CLIP_MODEL, SIGLIP_MODEL):
        params = {"params": tree.shapes(model, (32, 32))}
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params)
        for naming in model.torch_namings:
            assert torch.to_state_dict(zeros, model, naming)
