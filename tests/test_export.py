import ast
import csv
import dataclasses
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image

from checkpoints import npz, tree
from configs import common
from tests import word_models
from tests.commands import ROOT, run
from tests.helpers import (
    TINY,
    TINY_HYBRID,
    TINY_MIXER,
    TINY_SWINIR,
    random_params,
    random_variables,
)
from tests.test_docs import FOLDERS
from vit_jax import convert, export, pretrained, train
from vit_jax.models import get_model
from vit_jax.tasks import classify
from vit_jax.tasks.base import Output

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


OUTPUTS = {
    "swinir": Output("restored"), "rrdb": Output("restored"), "flowformer": Output("flow"),
    **dict.fromkeys(MODELS.keys() - {"swinir", "rrdb", "flowformer"}, Output("logits", "softmax")),
}  # fmt: skip


def names_in(path):
    """The inputs' names and the output's, as a program finds them that knows the format alone."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        taken, given = session.get_inputs(), session.get_outputs()
        return {array.name for array in taken}, {array.name for array in given}
    if path.suffix == ".stablehlo":
        exported = jax.export.deserialize(bytearray(path.read_bytes()))
        _, taken = jax.tree.unflatten(exported.in_tree, exported.in_avals)
        return set(taken), set(jax.tree.unflatten(exported.out_tree, exported.out_avals))
    import tensorflow as tf

    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    return set(serve.structured_input_signature[1]), set(serve.structured_outputs)


def description_of(path):
    """What a file says of itself, as JSON has it."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        about = session.get_modelmeta().custom_metadata_map
        texts = ("model", "tokenizer", "logits", "probabilities")
        return {k: v if k in texts else json.loads(v) for k, v in about.items()}
    if path.suffix == ".stablehlo":
        return json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    import tensorflow as tf

    describe = tf.saved_model.load(str(path)).signatures["describe"]
    return json.loads(describe()["description"].numpy())


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
RARE = (("a", "flowformer"), ("a", "upernet"), ("a.stablehlo", "upernet"))  # up to two minutes
MARKS = (
    (("a.onnx",), pytest.mark.parity), (LONG, pytest.mark.slow), (RARE, pytest.mark.rare)
)  # fmt: skip
CASES = [
    pytest.param(name, file, marks=[mark for keys, mark in MARKS if {file, (file, name)} & {*keys}])
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
def test_what_is_exported_does_what_the_model_does(model, file, tmp_path, request):
    name = request.node.callspec.params["model"]
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
    assert part.output == OUTPUTS[name]
    taken, given = names_in(path)
    assert taken == ({"images", "images2"} if name == "flowformer" else {"images"})
    assert given == {part.output.name}
    assert description_of(path) == part.describe()
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
        inputs = {"images" if key == "image" else "tokens"}
        assert names_in(tmp_path / key / file) == (inputs, {"embeddings"})
        about = description_of(tmp_path / key / file)
        assert about["scale"] == pytest.approx(np.exp(3), rel=1e-6)
        assert about["bias"] == (-2.5 if name == "siglip" else 0)
        assert about["probabilities"].startswith("sigmoid" if name == "siglip" else "softmax")
        assert ("tokenizer" in about, "preprocessing" in about) == (key == "text", key == "image")
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
    assert names_in(tmp_path / "b" / file) == ({"tokens", "segments", "mask"}, {"states"})
    assert description_of(tmp_path / "b" / file)["tokenizer"] == "bert_pair(128)"
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
    assert names_in(tmp_path / "t" / file) == ({"source", "target"}, {"logits"})
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
    names = [
        f"a-{tower}.{suffix}" for tower in ("image", "text") for suffix in ("json", "stablehlo")
    ]
    assert sorted(path.name for path in target.parent.iterdir()) == names
    assert "logits are 20.0855 * image @ text.T + -2.5\n" in result.stdout
    said = "a-text.stablehlo: SigLIP-B_16, from tokens (b, 8) int32 to embeddings (b, 16) float32\n"
    assert said in result.stdout
    image, text = (
        json.loads((target.parent / f"a-{x}.json").read_text()) for x in ("image", "text")
    )
    spec = "decode|resize(16, like='big_vision')|value_range(-1, 1)"
    assert (image["preprocessing"]["spec"], text["tokenizer"]) == (spec, "bert(8)")
    again = run("export", f"--checkpoint={tmp_path}/a.npz", target)
    there = target.with_name("a-image.stablehlo")
    assert again.stderr == f"error: {there} is there already: choose another name\n"


def test_the_command(tmp_path):
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    npz.save(tmp_path / "a.npz", params)
    (tmp_path / "labels.txt").write_text("a\nb\nç\n", encoding="utf-8")
    fields = [f"--field={name}={value}" for name, value in TINY.items()]
    args = [f"--checkpoint={tmp_path}/a.npz", "--model=ViT-B_16", *fields]
    target = tmp_path / "new" / "a.stablehlo"
    result = run("export", *args, target)
    assert result.returncode == 0, result.stderr
    said = "ViT-B_16, from images (b, 16, 16, 3) float32 to logits (b, 3) float32\n"
    assert result.stdout.startswith(f"{target}: {said}")
    assert "prepared by decode|resize(16)|value_range(-1, 1)\n" in result.stdout
    assert "largest relative difference from the model: 0\n" in result.stdout
    assert json.loads(target.with_suffix(".json").read_text(encoding="utf-8")) == {
        "model": "ViT-B_16",
        "inputs": {"images": {"shape": ["b", 16, 16, 3], "dtype": "float32"}},
        "outputs": {
            "logits": {"shape": ["b", 3], "dtype": "float32", "to_probabilities": "softmax"}
        },
        "preprocessing": {
            "spec": "decode|resize(16)|value_range(-1, 1)",
            "channels": "RGB",
            "resize": {
                "height": 16, "width": 16, "method": "bilinear", "antialias": True,
                "rounding": "nearest",
            },
            "mean": [0.5] * 3,
            "std": [0.5] * 3,
            "range": [-1.0, 1.0],
        },
        "labels": ["a", "b", "ç"],
    }  # fmt: skip
    again = run("export", *args, target)
    assert again.returncode == 2
    assert again.stderr == f"error: {target} is there already: choose another name\n"
    target.rename(target.with_name("b.stablehlo"))
    again = run("export", *args, target)
    assert again.stderr == f"error: {target.parent}/a.json is there already: choose another name\n"


def test_other_classes_in_the_same_folder(tmp_path):
    """Each export has its own labels, under its own name."""
    for name, labels in (("a", ("x", "y", "z")), ("b", ("u", "v", "w"))):
        _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
        npz.save(tmp_path / "weights.npz", params)
        (tmp_path / "labels.txt").write_text("\n".join(labels))
        model = pretrained.load(tmp_path / "weights.npz", "ViT-B_16", TINY)
        export.write_stablehlo(*export.parts_of(model), tmp_path / "new" / f"{name}.stablehlo")
    found = {path.name for path in (tmp_path / "new").iterdir()}
    assert found == {"a.json", "a.stablehlo", "b.json", "b.stablehlo"}
    about = [description_of(tmp_path / "new" / f"{name}.stablehlo")["labels"] for name in "ab"]
    assert about == [["x", "y", "z"], ["u", "v", "w"]]


def test_what_has_no_probabilities(tmp_path):
    model = get_model("SwinIR-lightweight-x2", **TINY_SWINIR)
    npz.save(tmp_path / "a.npz", tree.merge(random_variables(model, (16, 16))))
    model = pretrained.load(tmp_path / "a.npz", "SwinIR-lightweight-x2", TINY_SWINIR)
    with pytest.raises(ValueError, match="SwinIR-lightweight-x2 gives restored, of which no prob"):
        export.parts_of(model, probabilities=True)


@pytest.mark.parametrize(
    ("loss", "classes", "expected"),
    [
        ("softmax_xent", 3, Output("logits", "softmax")),
        ("sigmoid_xent", 3, Output("logits", "sigmoid")),
        ("softmax_xent", 0, Output("features")),
    ],
)
def test_what_an_output_is_called(loss, classes, expected):
    model = get_model("ViT-Ti_16", num_classes=classes)
    assert classify.TASK.output(model, loss) == expected


# The programs in docs/export.md, which know nothing of this package.

PHOTOS = {"space": "astronaut", "cat": "chelsea", "stars": "hubble_deep_field"}
PREPARED = {
    "resized": "decode|resize((32, 40))|value_range(-1, 1)",
    "cut": "decode|resize_small(44)|central_crop((32, 40))|normalize()",
}


@pytest.fixture(scope="module")
def photos_run(tmp_path_factory):
    """A classifier that has learned three photos apart, and eight photos of several sizes."""
    from skimage import data

    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    pixels = {label: getattr(data, name)() for label, name in PHOTOS.items()}
    for label, image in pixels.items():
        (folder / "train" / label).mkdir(parents=True)
        for i in range(12):
            top, left = (random.integers(0, side - 150) for side in image.shape[:2])
            patch = Image.fromarray(image[top : top + 150, left : left + 150]).resize((40, 32))
            patch.save(folder / "train" / label / f"{i}.jpg")
    config = common.get_config()
    config.model_name = "ViT-Ti_16"
    config.model.update(patch_size=8, hidden_size=32, num_layers=1, num_heads=2, mlp_dim=64)
    config.data.source = str(folder / "train")
    config.data.train_pp = PREPARED["resized"]
    config.data.eval_pp = PREPARED["resized"]
    config.batch_size, config.total_steps, config.eval_every = 16, 40, 40
    config.optim.learning_rate = 1e-2
    train.train_and_evaluate(config, folder / "run")
    paths = []
    for i, size in enumerate([(200, 300), (300, 200), (97, 131), (256, 256), (41, 57), (301, 450),
                              (150, 400), (64, 80)]):  # fmt: skip
        image = Image.fromarray(list(pixels.values())[i % 3]).resize(size)
        paths.append(folder / f"{i}.jpg")
        image.save(paths[-1], quality=90)
    return pretrained.load(folder / "run"), paths


def program_for(file, prepared):
    """The code of the page that names a file, with what it says of another preparation."""
    text = (ROOT / "docs" / "export.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    (program,) = (block for block in blocks if f'"{file}"' in block)
    _, body = program.split("\n\n")
    assert len(body.splitlines()) <= 10, "which the page promises"
    if prepared == "resized":
        return program
    line = "    pixels =" if file == "flowers" else "    bands ="
    (cut,) = (b for b in blocks if b.startswith("    scale") and line in b)
    return re.sub(rf"^{line}.*\n", lambda _: cut, program, flags=re.MULTILINE)


ALONE = f"""
import runpy, sys
for name in {FOLDERS[:4]}:
    sys.modules[name] = None  # so that it cannot be imported
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(name + " can be imported")
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("file", "prepared"),
    [
        ("flowers.stablehlo", "resized"),
        pytest.param("flowers.stablehlo", "cut", marks=pytest.mark.slow),
        *(pytest.param("flowers", prepared, marks=pytest.mark.slow) for prepared in PREPARED),
        *(
            pytest.param("flowers.onnx", prepared, marks=pytest.mark.parity)
            for prepared in PREPARED
        ),
    ],
)
def test_the_programs_of_the_page(file, prepared, photos_run, tmp_path):
    model, paths = photos_run
    model = dataclasses.replace(model, eval_pp=PREPARED[prepared])
    write = FORMATS[file.replace("flowers", "a")][0]
    write(*export.parts_of(model, probabilities=True), tmp_path / file)
    (tmp_path / "program.py").write_text(program_for(file, prepared))
    result = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, "program.py", *paths],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == len(paths) == 8
    convert.write(tmp_path / "weights.npz", model)
    result = run("predict", f"--checkpoint={tmp_path}/weights.npz", "--pretrained_size=32x40",
                 f"--output={tmp_path}", *paths)  # fmt: skip
    assert result.returncode == 0, result.stderr
    with (tmp_path / "predictions.csv").open(newline="") as rows:
        expected = list(csv.DictReader(rows))
    for line, path, row in zip(lines, paths, expected, strict=True):
        assert line.startswith(f"{path} ")
        said = ast.literal_eval(line.removeprefix(f"{path} "))
        assert tuple(said) == tuple(sorted(PHOTOS))
        predicted = {row[f"class_{i}"]: float(row[f"probability_{i}"]) for i in (1, 2, 3)}
        assert said == pytest.approx(predicted, abs=1e-4)
    assert {row["class_1"] for row in expected} == set(PHOTOS), "or the classes would not matter"
