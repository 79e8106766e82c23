import functools
import http.server
import logging
import re
import threading

import huggingface_hub
import jax
import numpy as np
import pytest
from flax import traverse_util

from checkpoints import npz, torch
from tests.helpers import AUGREG_INDEX, TINY, TINY_HYBRID, TINY_MIXER, noise, random_params
from vit_jax import experiment, ops, pretrained, train
from vit_jax import weights as weight_files
from vit_jax.models import get_model
from vit_jax.workdir import Workdir

POSITIONS = "Transformer/posembed_input/pos_embedding"


@pytest.fixture(autouse=True)
def _hear_everything(caplog):
    caplog.set_level(logging.INFO)


def flat(params):
    return traverse_util.flatten_dict(params, sep="/")


def assert_equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def saved(tmp_path):
    """A ViT of 5 classes at 16 x 16 pixels, in a file."""
    model, params = random_params("ViT-B_16", (16, 16), num_classes=5, **TINY)
    npz.save(tmp_path / "vit.npz", params)
    return tmp_path / "vit.npz", model, params


def adapt(path, size=(16, 16), num_classes=3, overrides=None, **kwargs):
    """Fits a file to another model; gives the file's, the model's initial, and the result."""
    weights = weight_files.read(path)
    fields = {**TINY, "num_classes": num_classes, **(overrides or {})}
    model, init = random_params("ViT-B_16", size, seed=1, **fields)
    result = pretrained.adapt(weights, {"params": init}, model, size, **kwargs)["params"]
    assert jax.tree.structure(result) == jax.tree.structure(init)
    return flat(weights.tree(model)), flat(init), flat(result)


def test_the_head_of_other_classes_is_replaced(saved, caplog):
    old, init, result = adapt(saved[0])
    for name in result:
        expected = init if name.startswith("head/") else old
        np.testing.assert_array_equal(result[name], expected[name], err_msg=name)
    assert "the head begins anew: it was for 5 classes, and is for 3 now" in caplog.text


def test_the_head_of_as_many_classes_is_kept(saved, caplog):
    old, _, result = adapt(saved[0], num_classes=5)
    assert_equal(result, old)
    assert "head" not in caplog.text


@pytest.mark.parametrize(("names", "kept"), [("abcde", True), ("abcdf", False), ("abc", True)])
def test_a_head_whose_classes_have_other_names_is_replaced(saved, names, kept):
    """A labels.txt of another length cannot be that of these weights."""
    (saved[0].parent / "labels.txt").write_text("".join(f"{n}\n" for n in names))
    old, init, result = adapt(saved[0], num_classes=5, class_names=tuple("abcde"))
    expected = old if kept else init
    np.testing.assert_array_equal(result["head/kernel"], expected["head/kernel"])


def test_weights_without_a_head(saved, tmp_path):
    _, _, params = saved
    npz.save(tmp_path / "headless.npz", {k: v for k, v in params.items() if k != "head"})
    _, init, result = adapt(tmp_path / "headless.npz")
    np.testing.assert_array_equal(result["head/kernel"], init["head/kernel"])


@pytest.mark.parametrize("num_classes", [5, 3])
def test_pre_logits_are_left_out_and_the_head_with_them(tmp_path, num_classes, caplog):
    _, params = random_params(
        "ViT-B_16", (16, 16), num_classes=5, representation_size=16, **TINY
    )  # fmt: skip
    npz.save(tmp_path / "a.npz", params)
    old, init, result = adapt(tmp_path / "a.npz", num_classes=num_classes)
    assert "pre_logits/kernel" not in result
    np.testing.assert_array_equal(result["head/kernel"], init["head/kernel"])
    np.testing.assert_array_equal(result["embedding/kernel"], old["embedding/kernel"])
    assert "pre_logits is left out" in caplog.text

    old, _, result = adapt(tmp_path / "a.npz", num_classes=5, overrides={"representation_size": 16})
    assert_equal(result, old)


@pytest.mark.parametrize("size", [(32, 32), (24, 40), (12, 8), (20, 16)])
@pytest.mark.parametrize("classifier", ["token", "gap"])
def test_position_embeddings_are_resized(tmp_path, size, classifier):
    fields = dict(TINY, num_classes=3, classifier=classifier)
    _, params = random_params("ViT-B_16", (16, 16), **fields)
    npz.save(tmp_path / "a.npz", params)
    old, _, result = adapt(tmp_path / "a.npz", size, overrides={"classifier": classifier})
    first = int(classifier == "token")
    grid = (size[0] // 4, size[1] // 4)
    assert result[POSITIONS].shape == (1, first + grid[0] * grid[1], 16)
    np.testing.assert_array_equal(result[POSITIONS][:, :first], old[POSITIONS][:, :first])
    np.testing.assert_array_equal(
        result[POSITIONS][:, first:],
        ops.resize_position_embedding(old[POSITIONS][:, first:], (4, 4), grid),
    )
    corners = [first, first + grid[1] - 1, -grid[1], -1]
    np.testing.assert_allclose(
        result[POSITIONS][0, corners], old[POSITIONS][0, [first, first + 3, -4, -1]], atol=1e-6
    )


def test_position_embeddings_of_another_than_a_square(tmp_path):
    _, params = random_params("ViT-B_16", (8, 20), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params)
    with pytest.raises(ValueError, match=r"10 patches, which do not .*pretrained_size='\(HEIGHT"):
        adapt(tmp_path / "a.npz")
    old, _, result = adapt(tmp_path / "a.npz", old_size=(8, 20))
    np.testing.assert_array_equal(
        result[POSITIONS][:, 1:],
        ops.resize_position_embedding(old[POSITIONS][:, 1:], (2, 5), (4, 4)),
    )
    with pytest.raises(ValueError, match="are not those of images of 8 x 16 pixels"):
        adapt(tmp_path / "a.npz", old_size=(8, 16))


def test_class_tokens_come_and_go_if_they_may(saved, tmp_path):
    gap = {"classifier": "gap"}
    with pytest.raises(ValueError, match="extra: cls"):
        adapt(saved[0], overrides=gap)
    old, _, result = adapt(saved[0], overrides=gap, dont_load="^cls$")
    np.testing.assert_array_equal(result[POSITIONS], old[POSITIONS][:, 1:])

    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY, **gap)
    npz.save(tmp_path / "gap.npz", params)
    with pytest.raises(ValueError, match="missing: cls"):
        adapt(tmp_path / "gap.npz")
    old, init, result = adapt(tmp_path / "gap.npz", dont_load="^cls$")
    np.testing.assert_array_equal(result[POSITIONS][:, 1:], old[POSITIONS])
    assert not result[POSITIONS][:, 0].any()
    np.testing.assert_array_equal(result["cls"], init["cls"])


def test_what_does_not_fit_is_listed(saved, tmp_path, caplog):
    _, _, params = saved
    wrong = flat(params)
    wrong["Transformer/extra/bias"] = wrong.pop("Transformer/encoder_norm/bias")
    wrong["embedding/kernel"] = np.zeros((4, 4, 1, 16), np.float32)
    wrong["another/kernel"] = np.zeros(1, np.float32)
    np.savez(tmp_path / "wrong.npz", **wrong)
    lists = (
        "(missing: Transformer/encoder_norm/bias; extra: Transformer/extra/bias, another/kernel; "
        "of another shape: embedding/kernel (4, 4, 1, 16) in place of (4, 4, 3, 16)). "
        "It fits no published model as it is; the closest is ViT-Ti_16 with hidden_size=16, "
    )
    with pytest.raises(ValueError, match=re.escape(lists)):
        adapt(tmp_path / "wrong.npz")
    old, init, result = adapt(
        tmp_path / "wrong.npz", dont_load="encoder_norm/bias|extra|another|embedding/kernel"
    )
    np.testing.assert_array_equal(result["embedding/kernel"], init["embedding/kernel"])
    np.testing.assert_array_equal(result["embedding/bias"], old["embedding/bias"])
    assert "embedding/kernel stays as initialised" in caplog.text
    for pattern, message in (("head(", "is not a regular"), ("hed", "is found in none of: .*cls")):
        with pytest.raises(ValueError, match=message):
            adapt(tmp_path / "wrong.npz", dont_load=pattern)


def test_timm_files_go_the_same_way(saved, tmp_path):
    """Also what is not loaded, and what does not fit."""
    _, model, params = saved
    state_dict = torch.to_state_dict({"params": params}, model)
    state_dict["norm_1.weight"] = state_dict.pop("norm.weight")
    state_dict["blocks.0.mlp.fc1.bias"] = np.zeros(31, np.float32)
    torch.write(tmp_path / "a.safetensors", state_dict)
    lists = (
        "(missing: Transformer/encoder_norm/scale; extra: norm_1.weight; of another shape: "
        "Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias (31,) in place of (32,)). It fits no"
    )
    with pytest.raises(ValueError, match=re.escape(lists)):
        adapt(tmp_path / "a.safetensors")
    dont_load = "norm/scale|norm_1|MlpBlock_3/Dense_0|^cls$"
    _, init, result = adapt(
        tmp_path / "a.safetensors", overrides={"classifier": "gap"}, dont_load=dont_load
    )
    own = {name for name in result if np.array_equal(result[name], init[name])}
    assert own == {name for name in result if re.search(dont_load + "|^head", name)}


def test_what_is_not_loaded_need_not_fit_the_size(tmp_path):
    model, params = random_params("Mixer-B_16", (16, 16), num_classes=5, **TINY_MIXER)
    npz.save(tmp_path / "a.npz", params)
    weights = weight_files.read(tmp_path / "a.npz")
    _, init = random_params("Mixer-B_16", (24, 24), seed=1, num_classes=5, **TINY_MIXER)
    variables = {"params": init}
    result = pretrained.adapt(weights, variables, model, (24, 24), dont_load="token_mixing")
    result = result["params"]
    own = {k for k, v in flat(result).items() if np.array_equal(v, flat(init)[k])}
    assert own == {k for k in flat(init) if "token_mixing" in k}

    _, params = random_params("ViT-B_16", (8, 20), num_classes=3, **TINY)
    npz.save(tmp_path / "b.npz", params)
    old, init, result = adapt(tmp_path / "b.npz", dont_load="pos_embedding")
    np.testing.assert_array_equal(result[POSITIONS], init[POSITIONS])
    np.testing.assert_array_equal(result["cls"], old["cls"])


def test_a_mixer_cannot_be_resized(tmp_path):
    model, params = random_params("Mixer-B_16", (16, 16), num_classes=5, **TINY_MIXER)
    npz.save(tmp_path / "a.npz", params)
    weights = weight_files.read(tmp_path / "a.npz")
    for size in ((16, 16), (8, 32)):
        assert_equal(pretrained.adapt(weights, {"params": params}, model, size)["params"], params)
    with pytest.raises(ValueError, match="for 16 patches cannot be fitted to 25: use images of 16"):
        pretrained.adapt(weights, {"params": params}, model, (20, 20))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize(
    ("name", "fields"),
    [("ViT-B_16", TINY), ("R50+ViT-B_16", TINY_HYBRID), ("Mixer-B_16", TINY_MIXER)],
)
def test_loading_for_use(tmp_path, name, fields, suffix):
    model, params = random_params(name, (16, 16), num_classes=5, **fields)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        npz.save(path, params)
    else:
        torch.write(path, torch.to_state_dict({"params": params}, model))
    loaded = pretrained.load(path, name, fields)
    assert loaded.model == model
    assert_equal(loaded.variables, {"params": params})
    assert (loaded.image_size, loaded.labels) == ((16, 16), None)
    assert loaded.eval_pp == "decode|resize(16)|value_range(-1, 1)"
    images = noise((2, 16, 16, 3))
    np.testing.assert_allclose(
        jax.jit(loaded.model.apply)(loaded.variables, images),
        jax.jit(model.apply)({"params": params}, images),
        atol=1e-6,
    )


def test_using_at_another_size(saved):
    path, _, params = saved
    loaded = pretrained.load(path, "ViT-B_16", TINY, image_size=(8, 24))
    assert loaded.eval_pp == "decode|resize((8, 24))|value_range(-1, 1)"
    table = flat(loaded.variables["params"])[POSITIONS]
    old = flat(params)[POSITIONS]
    np.testing.assert_array_equal(table[:, :1], old[:, :1])
    np.testing.assert_array_equal(
        table[:, 1:], ops.resize_position_embedding(old[:, 1:], (4, 4), (2, 6))
    )
    with pytest.raises(ValueError, match="images of 10 x 24 pixels cannot be cut"):
        pretrained.load(path, "ViT-B_16", TINY, image_size=(10, 24))


def test_labels_travel_with_the_weights(saved, tmp_path):
    path, _, _ = saved
    load = functools.partial(pretrained.load, path, "ViT-B_16", TINY)
    (path.parent / "labels.txt").write_text("a\nb\nc\nd\ne\n")
    assert load().labels == ("a", "b", "c", "d", "e")
    other = tmp_path / "other.txt"
    other.write_text("1\n2\n3\n4\n5\n")
    assert load(labels=str(other)).labels == ("1", "2", "3", "4", "5")
    other.write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"other.txt has 2 names, but the head has 5 classes"):
        load(labels=str(other))
    with pytest.raises(ValueError, match="imagenet1k has 1000 names, but the head has 5"):
        load(labels="imagenet1k")
    with pytest.raises(ValueError, match=r"cannot read the labels no\.txt"):
        load(labels="no.txt")


def test_weights_without_a_head_have_no_labels(saved):
    path, _, params = saved
    (path.parent / "labels.txt").write_text("a\nb\n")
    npz.save(path, {k: v for k, v in params.items() if k != "head"})
    loaded = pretrained.load(path, "ViT-B_16", TINY)
    assert (loaded.labels, loaded.model.num_classes) == (None, 0)
    npz.save(path, params)
    assert pretrained.load(path, "ViT-B_16", TINY, labels="none").labels is None
    with pytest.raises(ValueError, match="has num_classes=5, and not 7"):
        pretrained.load(path, "ViT-B_16", {**TINY, "num_classes": 7}, labels="none")


def test_imagenet_names(tmp_path):
    _, params = random_params("ViT-B_16", (16, 16), num_classes=1000, **TINY)
    npz.save(tmp_path / "a.npz", params)
    labels = pretrained.load(tmp_path / "a.npz", "ViT-B_16", TINY, labels="imagenet1k").labels
    assert labels[0].startswith("tench")
    assert labels[999].startswith("toilet")


def test_names_of_sets_for_segmentation():
    assert weight_files.choose_labels("camvid", None, 11)[:2] == ("sky", "building")
    with pytest.raises(ValueError, match="ade20k has 150 names, but the head has 11 classes"):
        weight_files.choose_labels("ade20k", None, 11)


def test_models_are_recognised(tmp_path):
    model, params = random_params("ViT-Ti_16", (64, 64), num_classes=11)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict({"params": params}, model))
    weights = weight_files.read(tmp_path / "a.safetensors")
    assert pretrained.identify(weights) == ["ViT-Ti_16"]
    _, params = random_params("R+ViT-Ti_16", (64, 64), num_classes=11)
    npz.save(tmp_path / "a.npz", params)
    loaded = pretrained.load(tmp_path / "a.npz")
    assert (loaded.name, loaded.model.num_classes) == ("R+ViT-Ti_16", 11)


def test_a_model_that_is_not_recognised(saved):
    path = saved[0].with_name("other.npz")
    np.savez(path, **{"head/bias": np.zeros(3), "other/kernel": np.zeros(1)})
    with pytest.raises(ValueError, match=r"say which model it is, --model=NAME; .*fits none"):
        pretrained.load(path)
    with pytest.raises(
        ValueError, match=r"vit\.npz is not for this model: it lacks .*MixerBlock_0"
    ):
        pretrained.load(saved[0], "Mixer-B_16")
    with pytest.raises(ValueError, match=r"vit.npz: the weights do not fit .*missing: .*block_11"):
        pretrained.load(saved[0], "ViT-B_16")


def test_weights_from_the_hub(saved, tmp_path, monkeypatch):
    _, model, params = saved
    local = tmp_path / "cache" / "model.safetensors"
    local.parent.mkdir()
    torch.write(local, torch.to_state_dict({"params": params}, model))
    asked = []

    def download(repository, file, revision=None):
        if file.endswith("config.json"):
            raise huggingface_hub.errors.EntryNotFoundError("no config")
        asked.append((repository, file, revision))
        if repository == "timm/none":
            raise huggingface_hub.errors.LocalEntryNotFoundError("no such file here.\nmore")
        return str(local)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    loaded = pretrained.load("hf://timm/vit_base_patch16_224.augreg_in21k", "ViT-B_16", TINY)
    assert_equal(loaded.variables, {"params": params})
    _, _, result = adapt("hf://timm/x@v2/sub/weights.safetensors")
    np.testing.assert_array_equal(result["embedding/kernel"], params["embedding"]["kernel"])
    assert asked[0] == ("timm/vit_base_patch16_224.augreg_in21k", "model.safetensors", None)
    assert asked[1] == ("timm/x", "sub/weights.safetensors", "v2")
    message = r"cannot read hf://timm/none: no such file here\. .*checkpoints\.published"
    with pytest.raises(ValueError, match=message):
        weight_files.read("hf://timm/none")
    with pytest.raises(ValueError, match="must read hf://OWNER/REPOSITORY"):
        weight_files.read("hf://timm")


def test_weights_from_the_web(saved, tmp_path, monkeypatch):
    path, _, params = saved
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        assert_equal(npz.load(f"{url}/vit.npz"), params)
        with pytest.raises(ValueError, match=r"cannot read http.*no\.npz: 404.*hf://OWNER"):
            npz.load(f"{url}/no.npz")
        server.shutdown()
    assert_equal(npz.load(f"{url}/vit.npz"), params)  # from the cache
    message = r"cannot read http.*other\.npz: there is no connection to its host\. Weights can"
    with pytest.raises(ValueError, match=message):
        npz.load(f"{url}/other.npz")


@pytest.mark.slow
def test_fine_tuning_begins_with_the_weights(digits_config, tmp_path):
    digits_config.ema_decay = 0.9
    first = train.train_and_evaluate(digits_config.copy_and_resolve_references(), tmp_path / "a")
    again = digits_config.copy_and_resolve_references()
    again.pretrained = str(tmp_path / "a")
    again.total_steps = 0
    second = train.train_and_evaluate(again, tmp_path / "b")
    assert second == first
    assert_equal(npz.load(tmp_path / "a/weights.npz"), npz.load(tmp_path / "b/weights.npz"))


@pytest.mark.parametrize("fsdp", [1, 2])
def test_fine_tuning_of_a_scanned_and_spread_model(digits_config, tmp_path, fsdp):
    fields = {k: digits_config.model[k] for k in digits_config.model}
    _, params = random_params("ViT-Ti_16", (16, 16), num_classes=10, **fields)
    npz.save(tmp_path / "a.npz", params)
    digits_config.model.scan = True
    digits_config.fsdp = fsdp
    digits_config.ema_decay = 0.5
    digits_config.pretrained = str(tmp_path / "a.npz")
    exp = experiment.build(digits_config)
    state = exp.init_state()
    block = params["Transformer"]["encoderblock_0"]["LayerNorm_0"]["scale"]
    for tree in (state.params, state.ema_params):
        stacked = tree["Transformer"]["encoderblock"]["LayerNorm_0"]["scale"]
        np.testing.assert_array_equal(stacked, block[None])
    assert state.params["Transformer"]["posembed_input"]["pos_embedding"].shape == (1, 4, 32)
    for leaf, sharding in zip(
        jax.tree.leaves(state.params), jax.tree.leaves(exp.state_sharding.params)
    ):
        assert leaf.sharding == sharding


@pytest.mark.slow
def test_runs_of_other_image_shapes_need_no_size(digits_config, tmp_path):
    digits_config.data.eval_pp = "grayscale_to_rgb|resize((8, 16))|value_range(-1, 1)"
    digits_config.data.train_pp = digits_config.data.eval_pp
    digits_config.total_steps = 1
    train.train_and_evaluate(digits_config, tmp_path / "a")
    for path in (tmp_path / "a", tmp_path / "a" / "weights.npz"):
        weights = weight_files.read(path)
        assert weights.image_size == (8, 16)
        assert weights.labels == tuple("0123456789")
        loaded = pretrained.load(path, image_size=(16, 8))
        assert loaded.eval_pp == "grayscale_to_rgb|resize((16, 8))|value_range(-1, 1)"
        np.testing.assert_allclose(
            flat(loaded.variables["params"])[POSITIONS],
            ops.resize_position_embedding(weights.arrays[POSITIONS], (2, 4), (4, 2)),
        )
    assert Workdir(tmp_path / "a").has_config
    with pytest.raises(ValueError, match="says itself which model it is"):
        pretrained.load(tmp_path / "a", name="ViT-B_16")


def test_the_config_is_read(digits_config, tmp_path, monkeypatch, caplog):
    """Every key that says something about pretrained weights has its effect on a new state."""
    fields = {k: digits_config.model[k] for k in digits_config.model}
    _, params = random_params("ViT-Ti_16", (8, 32), num_classes=10, **fields)
    npz.save(tmp_path / "Ti_16-i21k-best.npz", params)
    (tmp_path / "labels.txt").write_text("".join(f"{c}\n" for c in "abcdefghij"))
    (tmp_path / "index.csv").write_text(AUGREG_INDEX)
    digits_config.pretrained = "Ti_16"
    digits_config.pretrained_dir = str(tmp_path)
    digits_config.pretrained_size = (8, 32)
    digits_config.dont_load = "embedding/bias"
    state = experiment.build(digits_config).init_state()
    found = flat(jax.device_get(state.params))
    assert not found["embedding/bias"].any()
    np.testing.assert_array_equal(found["embedding/kernel"], params["embedding"]["kernel"])
    np.testing.assert_array_equal(
        found[POSITIONS],
        ops.resize_position_embedding(flat(params)[POSITIONS], (2, 8), (2, 2)),
    )
    assert "the head begins anew: it was for other 10 classes" in caplog.text
    assert not found["head/kernel"].any()


@pytest.mark.parametrize("size", [(8,), (8, 8, 8), (-8, 8)])
def test_a_size_that_is_none(digits_config, size):
    digits_config.pretrained_size = size
    with pytest.raises(ValueError, match=r"pretrained_size must be \(height, width\)"):
        experiment.validate_config(digits_config)


def test_the_path_of_the_weights_is_made_absolute(digits_config, saved, monkeypatch):
    monkeypatch.chdir(saved[0].parent)
    digits_config.pretrained = "vit.npz"
    assert experiment.build(digits_config).config.pretrained == str(saved[0])
    assert weight_files.get_absolute("Ti_16") == "Ti_16"
    assert weight_files.get_absolute("hf://a/b") == "hf://a/b"


def test_the_model_by_name_is_the_models_own(saved):
    """Overrides of the caller reach the model."""
    loaded = pretrained.load(saved[0], "ViT-B_16", dict(TINY, dtype="bfloat16"))
    assert loaded.model == get_model("ViT-B_16", num_classes=5, dtype="bfloat16", **TINY)
