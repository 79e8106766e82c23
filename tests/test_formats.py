"""Which format weights are in, and what files say of their model."""

import json
import re
import zipfile

import jax
import numpy as np
import pytest
import safetensors.numpy
from etils import epath

from checkpoints import formats, npz, torch, torch_files
from tests.helpers import TINY, TINY_MIXER, noise, random_params
from vit_jax import convert, identify, pretrained
from vit_jax import weights as weight_files
from vit_jax.models import get_model


def save_zip(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"")


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.pth.tar", "a.ckpt", "a"])
def test_content_decides_and_no_suffix(tmp_path, name):
    path = epath.Path(tmp_path / name)
    np.savez(tmp_path / "x.npz", a=np.zeros(2))
    (tmp_path / "x.npz").rename(path)
    assert formats.find_format(path) == formats.NPZ
    np.testing.assert_array_equal(weight_files.read(path).arrays["a"], np.zeros(2))
    path.write_bytes(safetensors.numpy.save({"module.a": np.arange(3.0)}))
    assert formats.find_format(path) == formats.SAFETENSORS
    np.testing.assert_array_equal(weight_files.read(path).arrays["a"], np.arange(3.0))
    path.write_bytes(b"\x80\x02}q\x00.")
    assert formats.find_format(path) == formats.TORCH
    save_zip(path, "archive/data.pkl", "archive/version")
    assert formats.find_format(path) == formats.TORCH


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty: copy or download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "is a pointer of Git LFS"),
        (b"<!DOCTYPE html><html>404</html>", "is a web page in place of the file"),
        (b"\x1f\x8b\x08\x00" + bytes(20), "is compressed: unpack it"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "is HDF5"),
        (bytes(257) + b"ustar" + bytes(250), "is a tar archive: unpack it"),
        (b"GGUF\x03\x00", "is GGUF"),
        (b"\x93NUMPY\x01\x00", "is a single array of numpy"),
    ],
)
@pytest.mark.parametrize("name", ["a.pth", "a.npz", "a.safetensors", "a.bin"])
def test_what_people_take_for_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"^{tmp_path / name} {message}"):
        weight_files.read(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [
        b"hello world this is text",
        b"\xff" * 64,
        b'\x15\0\0\0\0\0\0\0{"__metadata__":null}',
        b'\x13\0\0\0\0\0\0\0{"__metadata__":[]}',
        b'\x13\0\0\0\0\0\0\0{"__meta',
        b"\xff\xff\0\0\0\0\0\0{",
    ],
)
def test_damaged_safetensors(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.safetensors (is no \.safetensors|holds no weights)"):
        weight_files.read(tmp_path / "a.safetensors")


def test_arrays_without_axes_fit_no_model(tmp_path):
    arrays = {"patch_embed.proj.weight": np.float32(1), "head.bias": np.float32(1)}
    (tmp_path / "a.safetensors").write_bytes(
        safetensors.numpy.save({k: np.asarray(v) for k, v in arrays.items()})
    )
    with pytest.raises(ValueError, match="say which model it is"):
        pretrained.load(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        pretrained.load(tmp_path / "a.safetensors", "ViT-Ti_16")


def test_files_of_buckets_are_opened_by_tensorflow(tmp_path, monkeypatch):
    """Whose file objects lack some of what Python's do."""
    gfile = pytest.importorskip("tensorflow").io.gfile.GFile
    npz.save(tmp_path / "a.npz", {"a": np.arange(3.0)}, formats.MadeFor("ViT-B_16", {}))

    class Remote:
        suffix = ".npz"

        def open(self, mode):
            return gfile(str(tmp_path / "a.npz"), mode)

    monkeypatch.setattr(npz.files, "fetch", lambda path: Remote())
    np.testing.assert_array_equal(npz.read("gs://b/a.npz")["a"], np.arange(3.0))
    assert npz.read_made_for("gs://b/a.npz").model == "ViT-B_16"
    assert formats.find_format(Remote()) == formats.NPZ


def test_inspecting_one_of_several_sets(tmp_path):
    arrays = {"model.w.weight": np.zeros(1), "ema_model.w.weight": np.zeros((2, 3))}
    (tmp_path / "a.safetensors").write_bytes(safetensors.numpy.save(arrays))
    assert convert.inspect(tmp_path / "a.safetensors").startswith("w.weight  2 x 3")
    assert convert.inspect(tmp_path / "a.safetensors", "model").startswith("w.weight  1 ")


def test_other_files(tmp_path):
    (tmp_path / "a.txt").write_text("weights")
    with pytest.raises(ValueError, match=r"a\.txt is no PyTorch file, \.npz or \.safetensors"):
        weight_files.read(tmp_path / "a.txt")
    save_zip(tmp_path / "a.zip", "model.npz")
    with pytest.raises(ValueError, match=r"a\.zip is a zip archive of other things, such as "):
        weight_files.read(tmp_path / "a.zip")


def test_sets_of_weights_in_one_file(tmp_path, caplog):
    """As Lightning has them; of PyTorch's own files the same function chooses."""
    path = tmp_path / "a.safetensors"
    arrays = {f"model.w{i}.weight": np.zeros(1) for i in range(3)}
    arrays |= {f"ema_model.w{i}.weight": np.ones(1) for i in range(3)}
    path.write_bytes(safetensors.numpy.save({**arrays, "criterion.weight": np.ones(3)}))
    assert torch.read(path) == {f"w{i}.weight": 1 for i in range(3)}
    assert "holds the weights ema_model, model; ema_model is taken (averaged)" in caplog.text
    assert "besides ema_model, model there are, and are left out: criterion.weight" in caplog.text
    assert torch.read(path, "model") == {f"w{i}.weight": 0 for i in range(3)}
    with pytest.raises(ValueError, match="no weights under 'net'; there are: ema_model, model"):
        torch.read(path, "net")
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    with pytest.raises(ValueError, match="holds one set of weights: leave the key 'net' out"):
        weight_files.read(tmp_path / "a.npz", "net")


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "net.", "backbone.", ""]
)
def test_common_prefixes_are_stripped(tmp_path, prefix):
    arrays = {"patch_embed.proj.weight": np.ones(2), "blocks.0.norm1.bias": np.zeros(2)}
    counters = {"total_ops": np.zeros(1), "blocks.0.total_params": np.zeros(1)}
    stored = {prefix + name: array for name, array in (arrays | counters).items()}
    (tmp_path / "a.safetensors").write_bytes(safetensors.numpy.save(stored))
    assert torch.read(tmp_path / "a.safetensors").keys() == arrays.keys()


def test_names_that_become_the_same(tmp_path):
    stored = {"module.a.bias": np.zeros(1), "a.bias": np.zeros(1)}
    (tmp_path / "a.safetensors").write_bytes(safetensors.numpy.save(stored))
    with pytest.raises(ValueError, match=r"a\.safetensors: there is a\.bias twice, also as"):
        torch.read(tmp_path / "a.safetensors")


# What a file says of its model


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_files_say_what_they_were_made_for(tmp_path, name):
    fields = dict(TINY, activation="gelu", norm_epsilon=1e-6)
    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **fields)
    made_for = pretrained.say_made_for("ViT-B_16", {**fields, "dtype": "bfloat16", "scan": True})
    assert made_for == formats.MadeFor("ViT-B_16", fields)
    path = tmp_path / name
    if name.endswith("npz"):
        npz.save(path, params, made_for)
        assert npz.read(path).keys() == {k for k, _ in _flat(params)}
    else:
        torch.write(path, torch.to_state_dict({"params": params}, model), made_for)
    loaded = pretrained.load(path)
    assert (loaded.name, loaded.fields, loaded.model.num_classes) == ("ViT-B_16", fields, 3)
    images = noise((1, 16, 16, 3))
    np.testing.assert_allclose(
        loaded.model.apply(loaded.variables, images), model.apply({"params": params}, images),
        atol=1e-6,
    )  # fmt: skip
    assert pretrained.load(path, fields={"activation": "gelu_tanh"}).model.activation == "gelu_tanh"


def _flat(params):
    from flax import traverse_util

    return traverse_util.flatten_dict(params, sep="/").items()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"vit_jax": 3}', '{"vit_jax": {"model": 3}}'])
def test_what_others_wrote_there_is_passed_over(tmp_path, text):
    np.savez(tmp_path / "a.npz", a=np.zeros(1))
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.comment = text.encode()
    assert npz.read_made_for(tmp_path / "a.npz") is None
    metadata = {"made_for": text, "format": "pt"}
    data = safetensors.numpy.save({"a": np.zeros(1)}, metadata=metadata)
    (tmp_path / "a.safetensors").write_bytes(data)
    assert torch.read_made_for(tmp_path / "a.safetensors") is None


@pytest.mark.slow
def test_exact_and_approximate_gelu(caplog):
    """timm's default differs visibly from google-research's approximation."""
    exact = get_model("ViT-B_16", num_classes=3, activation="gelu", **TINY)
    approximate, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    images = noise((2, 16, 16, 3))
    outputs = [m.apply({"params": params}, images) for m in (exact, approximate)]
    assert 1e-6 < np.abs(outputs[0] - outputs[1]).max() < 0.1
    mixers = [
        get_model("Mixer-B_16", activation=name, **TINY_MIXER) for name in ("gelu", "gelu_tanh")
    ]
    _, params = random_params("Mixer-B_16", (16, 16), **TINY_MIXER)
    outputs = [m.apply({"params": params}, images) for m in mixers]
    assert 1e-6 < np.abs(outputs[0] - outputs[1]).max() < 0.1
    with pytest.raises(ValueError, match="activation='tanh' is not one of gelu_tanh, gelu"):
        get_model("ViT-B_16", activation="tanh", **TINY).init(jax.random.key(0), images)


def test_which_gelu_is_said(tmp_path, caplog):
    caplog.set_level("INFO")
    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    path = tmp_path / "a.safetensors"
    torch.write(path, torch.to_state_dict({"params": params}, model))
    assert pretrained.load(path, "ViT-B_16", TINY).model.activation == "gelu_tanh"
    assert "does not say with which GELU it was trained; gelu_tanh is taken" in caplog.text
    assert "--field=activation=gelu" in caplog.text
    weights = weight_files.read(path)
    pretrained.adapt(weights, {"params": params}, model, (16, 16))
    assert "--config.model.activation=gelu" in caplog.text
    caplog.clear()
    pretrained.load(path, "ViT-B_16", dict(TINY, activation="gelu"))
    for sure in ("gelu", "silu"):
        pretrained.adapt(weights, {"params": params}, model.clone(activation=sure), (16, 16))
    assert "GELU" not in caplog.text
    torch.write(path, torch.to_state_dict({"params": params}, model, "transformers"))
    assert pretrained.load(path, "ViT-B_16", TINY).model.activation == "gelu"
    weights = weight_files.read(path)
    pretrained.adapt(weights, {"params": params}, model, (16, 16))
    assert "was trained with activation=gelu, and the model has gelu_tanh: say --config" in (
        caplog.text
    )


# transformers' names


@pytest.mark.parametrize("naming", ["transformers", "transformers-ViTModel"])
def test_transformers_names(tmp_path, naming):
    head = {"num_classes": 3} if naming == "transformers" else {
        "num_classes": 0, "representation_size": 16,
    }  # fmt: skip
    model, params = random_params("ViT-B_16", (16, 16), **TINY, **head)
    state_dict = torch.to_state_dict({"params": params}, model, naming)
    prefix = "vit." if naming == "transformers" else ""
    query = f"{prefix}encoder.layer.1.attention.attention.query.weight"
    block = params["Transformer"]["encoderblock_1"]["MultiHeadDotProductAttention_1"]
    np.testing.assert_array_equal(state_dict[query][8 + 3], block["query"]["kernel"][:, 1, 3])
    last = "classifier.weight" if naming == "transformers" else "pooler.dense.weight"
    assert last in state_dict
    path = tmp_path / "a.safetensors"
    torch.write(path, state_dict)
    loaded = pretrained.load(path, "ViT-B_16", TINY)
    assert loaded.model.num_classes == head["num_classes"]
    assert loaded.model.representation_size == head.get("representation_size")
    for name, array in _flat(params):
        np.testing.assert_array_equal(dict(_flat(loaded.variables["params"]))[name], array)


def test_a_folder_as_transformers_saves_it(tmp_path):
    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    state_dict = torch.to_state_dict({"params": params}, model, "transformers")
    torch.write(tmp_path / "model.safetensors", state_dict)
    assert pretrained.load(tmp_path, "ViT-B_16", TINY).model.activation == "gelu"


# Relatives of published models


RELATIVES = {
    "blocks": ("RRDB-x4", dict(num_blocks=2), (8, 8)),
    "RRDB": ("RRDB-x2", dict(num_blocks=1, num_features=16, growth=8), (8, 8)),
    "patch": ("ViT-S_16", dict(patch_size=14, num_layers=2), (28, 28)),
    "mixer": ("Mixer-B_16", dict(num_blocks=1, tokens_mlp_dim=8), (32, 32)),
    "Swin": ("Swin-T", dict(depths=(1, 1, 2, 1)), (64, 64)),
    "SwinIR": ("SwinIR-lightweight-x2", dict(depths=(1, 2), num_heads=(6, 6)), (16, 16)),
    "DehazeFormer": ("DehazeFormer-T", dict(depths=(1, 2, 1, 1, 1)), (32, 32)),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "suffix"),
    [*((which, ".safetensors") for which in RELATIVES), ("blocks", ".npz"), ("patch", ".npz")],
)
def test_fields_are_read_from_the_file(tmp_path, which, suffix, caplog):
    caplog.set_level("INFO")
    name, fields, size = RELATIVES[which]
    model, params = random_params(name, size, **fields)
    path = tmp_path / f"a{suffix}"
    if suffix == ".npz":
        npz.save(path, params)
    else:
        torch.write(path, torch.to_state_dict({"params": params}, model))
    loaded = pretrained.load(path, labels="none")
    described = ", ".join(f"{field}={value}" for field, value in sorted(fields.items()))
    assert loaded.name == name
    assert {k: loaded.fields[k] for k in fields} == fields
    assert f"{path} is taken for {name} with {described}" in caplog.text
    if which == "blocks":
        with pytest.raises(ValueError, match=re.escape(f"It fits {name} with {described}")):
            pretrained.load(path, name)


def test_what_cannot_be_read_is_asked_for(tmp_path):
    model, params = random_params("ViT-S_16", (32, 32), hidden_size=48, num_heads=3, num_layers=1)
    torch.write(tmp_path / "a.safetensors", torch.to_state_dict({"params": params}, model))
    with pytest.raises(ValueError, match=r"none of them; the closest is ViT.* num_heads which it"):
        pretrained.load(tmp_path / "a.safetensors")
    npz.save(tmp_path / "a.npz", params)  # where it can
    assert pretrained.load(tmp_path / "a.npz").model.num_heads == 3


def test_what_comes_closest_is_said(tmp_path):
    _, params = random_params("RRDB-x4", (8, 8), num_blocks=2)
    del params["conv_hr"]["bias"]
    npz.save(tmp_path / "a.npz", params)
    weights = weight_files.read(tmp_path / "a.npz")
    closest = "the closest is RRDB-x4 with num_blocks=2"
    assert identify.what_fits(weights) == f"It fits no published model as it is; {closest}"
    with pytest.raises(ValueError, match=rf"{closest}: .* \(missing: conv_hr/bias\)"):
        pretrained.load(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", a=np.zeros(1))
    assert identify.find_relative(weight_files.read(tmp_path / "b.npz")) is None


# Heads


def adapt(path, class_names, **arguments):
    weights = weight_files.read(path)
    model, init = random_params("ViT-B_16", (16, 16), seed=1, num_classes=len(class_names), **TINY)
    return pretrained.adapt(
        weights, {"params": init}, model, (16, 16), class_names=class_names, **arguments
    )["params"]


def test_a_head_is_put_in_the_order_of_the_data(tmp_path, caplog):
    """By names beside the weights, or given; where none are known it is said what is assumed."""
    _, params = random_params("ViT-B_16", (16, 16), num_classes=12, **TINY)
    npz.save(tmp_path / "a.npz", params)
    kernel, bias = params["head"]["kernel"], params["head"]["bias"]
    by_number = [str(i) for i in range(12)]
    adapted = adapt(tmp_path / "a.npz", by_number)
    np.testing.assert_array_equal(adapted["head"]["bias"], bias)
    assert "taken to be, in this order: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11. If" in caplog.text
    assert "--config.pretrained_labels=FILE" in caplog.text
    by_text = sorted(by_number)
    (tmp_path / "names.txt").write_text("\n".join(by_text))
    order = [by_text.index(name) for name in by_number]
    adapted = adapt(tmp_path / "a.npz", by_number, labels=str(tmp_path / "names.txt"))
    np.testing.assert_array_equal(adapted["head"]["bias"], bias[order])
    np.testing.assert_array_equal(adapted["head"]["kernel"], kernel[:, order])
    (tmp_path / "names.txt").rename(tmp_path / "labels.txt")
    adapted = adapt(tmp_path / "a.npz", by_number)
    np.testing.assert_array_equal(adapted["head"]["kernel"], kernel[:, order])
    adapted = adapt(tmp_path / "a.npz", [f"c{i}" for i in range(12)])
    assert not np.array_equal(adapted["head"]["bias"], bias)
    (tmp_path / "labels.txt").write_text("a\nb\n")
    caplog.clear()
    adapt(tmp_path / "a.npz", by_number)
    assert "has 2 names, and its head 12 classes: it is passed over" in caplog.text
    with pytest.raises(ValueError, match=r"2 names, but the head has 12 .*pretrained_labels="):
        adapt(tmp_path / "a.npz", by_number, labels=str(tmp_path / "labels.txt"))


def test_metadata_is_json():
    made_for = formats.MadeFor("ViT-B_16", {"patch_size": 4})
    assert json.loads(formats.pack(made_for))["vit_jax"]["model"] == "ViT-B_16"
    assert formats.unpack(formats.pack(made_for)) == made_for
    heads = formats.MadeFor("Swin-T", {"num_heads": (3, 6, 12, 24)})
    assert formats.unpack(formats.pack(heads)) == heads


def test_safetensors_of_other_types(tmp_path):
    """bfloat16 is none of numpy's own."""
    for dtype in ("bfloat16", "float16", "float64", "int64"):
        array = np.arange(3).astype(dtype)
        (tmp_path / "a.safetensors").write_bytes(safetensors.numpy.save({"a": array}))
        read = torch_files.read(tmp_path / "a.safetensors")["a"]
        assert read.dtype == array.dtype
        np.testing.assert_array_equal(read, array)
