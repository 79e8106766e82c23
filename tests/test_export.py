import jax
import numpy as np
import pytest

from checkpoints import npz, tree
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
SHORT = ("vit", "mixer")
LONG = {("a", name) for name in MODELS if name not in SHORT}
LONG |= {
    ("a.stablehlo", name)
    for name in ("vt", "vt_appendix", "fpn", "upernet", "resnet", "flowformer")
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
    variables = random_variables(get_model(name, **classes, **fields), (16, 32), 0, deviation)
    npz.save(tmp_path / "weights.npz", tree.merge(variables))
    return pretrained.load(tmp_path / "weights.npz", name, fields, image_size=(16, 32))


@pytest.mark.parametrize(("model", "file"), CASES, indirect=["model"])
def test_what_is_exported_does_what_the_model_does(model, file, tmp_path):
    write, read = FORMATS[file]
    path = tmp_path / "new" / file
    if file == "a" and jax.__version_info__ >= (0, 11):
        with pytest.raises(ValueError, match=r"export to NAME\.stablehlo"):
            write(model, path)
        return
    if file == "a.onnx" and not model.model.onnx:
        with pytest.raises(ValueError, match=r"jax2onnx cannot write FlowFormer-small: export to"):
            write(model, path)
        return
    write(model, path)
    if file == "a.stablehlo":
        platforms = jax.export.deserialize(bytearray(path.read_bytes())).platforms
        assert set(platforms) == {"cpu", "cuda", "tpu"}
    exported = read(path)
    for count in (1, 5):
        inputs = convert.random_inputs(model, count, seed=count)
        expected = jax.jit(model.model.apply)(model.variables, *inputs)
        atol = 1e-5 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(exported(*inputs), expected, atol=atol)


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
