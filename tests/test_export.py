import dataclasses
import json

import jax
import numpy as np
import pytest

from checkpoints import npz, tree
from tests import word_models
from tests.commands import run
from tests.helpers import TINY, TINY_HYBRID, TINY_MIXER, random_params, random_variables
from vit_jax import convert, export, pretrained
from vit_jax.models import get_model

MODELS = {
    "vit": ("ViT-B_16", TINY),
    "hybrid": ("R50+ViT-B_16", TINY_HYBRID),
    "mixer": ("Mixer-B_16", TINY_MIXER),
    "sincos2d": ("ViT-B_16", dict(TINY, position_embedding="sincos2d", classifier="map")),
    "swin": ("Swin-T", dict(embed_dim=8, depths=(2, 2), num_heads=(2, 4), window_size=3)),
    "swinir": (
        "SwinIR-lightweight-x2", dict(embed_dim=8, depths=(2,), num_heads=(2,), window_size=6),
    ),
    "rrdb": ("RRDB-x2", dict(num_features=8, growth=4, num_blocks=1)),
    "resnet": ("ResNet-50", dict(depths=(1, 1), width=8)),
    "stn": ("STN", {}),
    "vt": ("VT-R18", dict(depths=(1, 1, 1), width=4, num_tokens=4, token_dim=16)),
    "vt_appendix": (
        "VT-R18", dict(depths=(1, 1, 1), width=4, num_tokens=4, token_dim=16, form="appendix",
                       num_heads=4, groups=4, kqv_groups=2, position_size=4),
    ),
    "efficientformer": (
        "EfficientFormerV2-S0", dict(embed_dims=(4, 6, 8, 10), depths=(1, 1, 2, 1),
                                     attention_depths=(1, 1), mlp_ratios=(2,), num_heads=2,
                                     key_dim=4),
    ),
    "fpn": ("FPN-R50", dict(encoder="ResNet-18", features=64)),
    "upernet": ("Swin-T-UPerNet", dict(features=8, auxiliary_features=4)),
    "flowformer": (
        "FlowFormer-small", dict(tokens=2, features=8, context_features=4, iterations=1),
    ),
}  # fmt: skip
FORMATS = {
    "a.stablehlo": (export.write_stablehlo, export.read_stablehlo),
    "a": (export.write_saved_model, export.read_saved_model),
    "a.onnx": (export.write_onnx, export.read_onnx),
}


# A SavedModel takes long to write, and JAX's own converter takes all operations alike.
SHORT = ("vit",)
LONG = {("a", name) for name in MODELS if name not in SHORT}
LONG |= {
    ("a.stablehlo", name)
    for name in (
        "vt",
        "vt_appendix",
        "fpn",
        "upernet",
        "resnet",
        "flowformer",
        "efficientformer",
        "swin",
        "hybrid",
        "mixer",
    )
}
MARKS = {"a.onnx": pytest.mark.parity, **dict.fromkeys(LONG, pytest.mark.slow)}
CASES = [
    pytest.param(name, file, marks=[MARKS[key] for key in (file, (file, name)) if key in MARKS])
    for name in MODELS
    for file in FORMATS
]


@pytest.fixture
def model(request, tmp_path):
    name, fields = MODELS[request.param]
    classes = {"num_classes": 3} if hasattr(get_model(name), "num_classes") else {}
    # Many norms of made-up statistics, or iterations, would enlarge what is rounded in some way.
    deviation = 0.06 if request.param in ("upernet", "flowformer") else 0.2
    size = (28, 28) if request.param == "stn" else (16, 32)
    variables = random_variables(get_model(name, **classes, **fields), size, 0, deviation)
    npz.save(tmp_path / "weights.npz", tree.merge(variables))
    return pretrained.load(tmp_path / "weights.npz", name, fields, image_size=size)


@pytest.mark.parametrize(("model", "file"), CASES, indirect=["model"])
def test_what_is_exported_does_what_the_model_does(model, file, tmp_path):
    write, read = FORMATS[file]
    path = tmp_path / "new" / file
    (part,) = export.parts_of(model)
    if file == "a" and jax.__version_info__ >= (0, 11):
        with pytest.raises(ValueError, match=r"export to NAME\.stablehlo"):
            write(part, path)
        return
    if file == "a.onnx" and not model.model.onnx:
        with pytest.raises(ValueError, match=r"jax2onnx cannot write FlowFormer-small: export to"):
            write(part, path)
        return
    write(part, path)
    if file == "a.stablehlo":
        platforms = jax.export.deserialize(bytearray(path.read_bytes())).platforms
        assert set(platforms) == {"cpu", "cuda", "tpu"}
    exported = read(path)
    for count in (1, 5):
        inputs = convert.random_inputs(model, count, seed=count)
        expected = jax.jit(model.model.apply)(model.variables, *inputs)
        atol = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(exported(*inputs), expected, atol=atol)


TOWERS = {
    "clip": ("CLIP-B_32", dict(word_models.CLIP, text_pool="end")),
    "siglip": ("SigLIP-B_16", word_models.SIGLIP),
    "lit": ("LiT-B16B", dict(word_models.FIELDS, text_positions=8)),
}
TOWER_MARKS = {"a": pytest.mark.slow, "a.onnx": pytest.mark.parity}


@pytest.mark.parametrize(
    "name", [pytest.param(k, marks=() if k == "clip" else pytest.mark.slow) for k in TOWERS]
)
@pytest.mark.parametrize("file", [pytest.param(f, marks=TOWER_MARKS.get(f, ())) for f in FORMATS])
def test_two_towers(name, file, tmp_path):
    model = word_models.make(tmp_path, *TOWERS[name])
    params = model.variables["params"]
    for part, key, tower in zip(export.parts_of(model), ("image", "text"), ("img", "txt")):
        assert part.suffix == f"-{key}"
        assert part.variables["params"].keys() == params.keys() - {"img", "txt"} | {tower}
        write, read = FORMATS[file]
        write(part, tmp_path / key / file)
        exported = read(tmp_path / key / file)
        for count in (1, 5):
            (given,) = part.random_inputs(count, seed=count)
            assert given.dtype == (np.int32 if key == "text" else np.float32)
            pair = (given, None) if key == "image" else (None, given)
            expected = model.model.apply(model.variables, *pair)[key]
            np.testing.assert_allclose(exported(given), expected, atol=2e-6)
            np.testing.assert_allclose(np.linalg.norm(exported(given), axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("file", [pytest.param(f, marks=TOWER_MARKS.get(f, ())) for f in FORMATS])
def test_bert(file, tmp_path):
    bert = get_model("BERT-base", hidden_size=16, num_layers=2, num_heads=2, mlp_dim=32,
                     vocabulary_size=16, length=12)  # fmt: skip
    variables = random_variables(bert, (16, 16))
    made = dataclasses.replace(word_models.make(tmp_path), model=bert, variables=variables)
    (part,) = export.parts_of(made)
    write, read = FORMATS[file]
    write(part, tmp_path / "b" / file)
    exported = read(tmp_path / "b" / file)
    for count in (1, 4):
        given = part.random_inputs(count, seed=count)
        assert len({array.tobytes() for array in given}) == 3
        expected = bert.apply(variables, *given)["states"]
        np.testing.assert_allclose(exported(*given), expected, atol=1e-5)


@pytest.mark.parametrize("file", [pytest.param(f, marks=TOWER_MARKS.get(f, ())) for f in FORMATS])
def test_transformer(file, tmp_path):
    fields = dict(hidden_size=16, num_layers=1, num_heads=2, mlp_dim=32, vocabulary_size=16)
    model = get_model("Transformer-base", **fields)
    variables = random_variables(model, (16, 16))
    made = dataclasses.replace(word_models.make(tmp_path), model=model, variables=variables)
    (part,) = export.parts_of(made)
    assert part.names == ("source", "target")
    write, read = FORMATS[file]
    write(part, tmp_path / "t" / file)
    exported = read(tmp_path / "t" / file)
    for count in (1, 3):
        given = part.random_inputs(count, seed=count)
        assert (given[0] == 0).any(), "or no padding would be hidden"
        expected = model.apply(variables, *given)
        np.testing.assert_allclose(exported(*given), expected, atol=1e-5)


@pytest.mark.slow
def test_the_command_with_two_towers(tmp_path):
    convert.write(tmp_path / "a.npz", word_models.make(tmp_path, *TOWERS["siglip"]))
    target = tmp_path / "new" / "a.stablehlo"
    result = run("export", f"--checkpoint={tmp_path}/a.npz", target)
    assert result.returncode == 0, result.stderr
    names = ["a-image.stablehlo", "a-text.stablehlo", "a.json"]
    assert sorted(path.name for path in target.parent.iterdir()) == names
    assert "logits are 20.0855 * image @ text.T + -2.5\n" in result.stdout
    assert "a-text.stablehlo: SigLIP-B_16, from (b, 8) int32 to (b, 16)\n" in result.stdout
    about = json.loads((target.parent / "a.json").read_text())
    assert about["scale"] == pytest.approx(np.exp(3), rel=1e-6)
    assert (about["bias"], about["tokenizer"]) == (-2.5, "bert(8)")
    assert about["images"] == "decode|resize(16, like='big_vision')|value_range(-1, 1)"
    again = run("export", f"--checkpoint={tmp_path}/a.npz", target)
    there = target.with_name("a-image.stablehlo")
    assert again.stderr == f"error: {there} is there already: choose another name\n"


def test_the_command(tmp_path):
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params)
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    fields = [f"--field={name}={value}" for name, value in TINY.items()]
    args = [f"--checkpoint={tmp_path}/a.npz", "--model=ViT-B_16", *fields]
    target = tmp_path / "new" / "a.stablehlo"
    result = run("export", *args, target)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{target}: ViT-B_16, from (b, 16, 16, 3) to (b, 3)\n")
    assert "prepared by decode|resize(16)|value_range(-1, 1)\n" in result.stdout
    assert "largest relative difference from the model: 0\n" in result.stdout
    assert (target.parent / "labels.txt").read_text() == "a\nb\nc\n"
    again = run("export", *args, target)
    assert again.returncode == 2
    assert again.stderr == f"error: {target} is there already: choose another name\n"
