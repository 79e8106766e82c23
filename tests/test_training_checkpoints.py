"""PyTorch's own files as training scripts leave them; needs PyTorch: make parity."""

import argparse
import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import PurePosixPath

import numpy as np
import pytest

from checkpoints import torch as torch_format
from tests.helpers import TINY, noise, random_params
from vit_jax import convert, pretrained

pytestmark = pytest.mark.parity


class Config(dict):
    """As yacs' CfgNode, which Swin keeps in its checkpoints: a dict that is no dict to unpickle."""


@pytest.fixture
def weights():
    """Arrays of a tiny ViT by timm's names, as tensors, and the model with its parameters."""
    import torch

    model, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    arrays = torch_format.to_state_dict({"params": params}, model)
    return {k: torch.tensor(np.array(v)) for k, v in arrays.items()}, model, params


def save(path, content, **options):
    import torch

    torch.save(content, path, **options)
    return path


def assert_loads(path, weights, **arguments):
    loaded = pretrained.load(path, "ViT-B_16", TINY, **arguments)
    images = noise((1, 16, 16, 3))
    np.testing.assert_allclose(
        loaded.model.apply(loaded.variables, images),
        weights[1].apply({"params": weights[2]}, images), atol=1e-6,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["a.pth", "model_best.pth.tar", "last.ckpt", "a.pt", "a.bin", "a"])
@pytest.mark.parametrize("is_old", [False, True], ids=["zip", "legacy"])
def test_what_is_beside_the_weights_is_passed_over(tmp_path, weights, name, is_old, caplog):
    caplog.set_level("INFO")
    beside = {
        "args": argparse.Namespace(lr=1e-3, path=PurePosixPath("/x")),
        "config": Config(MODEL=Config(TYPE="swin")),
        "max_accuracy": np.float64(81.2),
        "dtype": np.dtype("float32"),
        "optimizer": {"state": {0: {"exp_avg": weights[0]["head.bias"]}}, "param_groups": []},
        "epoch": 3,
    }
    path = save(tmp_path / name, {"model": weights[0], **beside},
                _use_new_zipfile_serialization=not is_old)  # fmt: skip
    assert_loads(path, weights)
    assert "holds besides weights, not loaded: argparse.Namespace" in caplog.text


@pytest.mark.parametrize(
    ("structure", "taken", "kind"),
    [
        (("state_dict", "state_dict_ema"), "state_dict_ema", "averaged"),
        (("model", "model_ema"), "model_ema", "averaged"),
        (("params", "params_ema"), "params_ema", "averaged"),
        (("net", "discriminator"), "net", "as trained"),
        (("student", "teacher"), "teacher", "averaged"),
        (("params", "ema_params"), "ema_params", "averaged"),
        (("g", "gEMA"), "gEMA", "averaged"),
        (("model", "swa_model"), "swa_model", "averaged"),
        (("model", "cinema"), "model", "as trained"),
    ],
)
def test_which_set_was_taken_is_said(tmp_path, weights, structure, taken, kind, caplog):
    other = {k: v + 1 for k, v in weights[0].items()}
    sets = {name: weights[0] if name == taken else other for name in structure}
    path = save(tmp_path / "a.pth", sets)
    assert_loads(path, weights)
    assert f"{taken} is taken ({kind}" in caplog.text
    (left,) = set(structure) - {taken}
    with pytest.raises(AssertionError):
        assert_loads(path, weights, key=left)


def test_sets_that_no_rule_tells_apart(tmp_path, weights):
    path = save(tmp_path / "a.pth", {"netA": weights[0], "netB": weights[0]})
    with pytest.raises(ValueError, match=r"several sets of weights: netA, netB\. .*--key=KEY"):
        pretrained.load(path)
    assert_loads(path, weights, key="netB")
    with pytest.raises(ValueError, match="no weights under 'netC'; there are: netA, netB"):
        pretrained.load(path, key="netC")


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda w: {"state_dict": {f"model.{k}": v for k, v in w.items()}},
        lambda w: {"model_state_dict": {f"module.{k}": v for k, v in w.items()}},
        lambda w: {"ema": {"net": w}},
        lambda w: {"net": w, "epoch": 3},
        lambda w: {f"module._orig_mod.{k}": v for k, v in w.items()},
        lambda w: {"model": w, "optimizer": {"state": {k: {"exp_avg": v} for k, v in w.items()}}},
        lambda w: {f"_fsdp_wrapped_module.{k}": v for k, v in w.items()},
        lambda w: {**{k: v + 1 for k, v in w.items()}, **{f"ema.{k}": v for k, v in w.items()}},
        lambda w: {**w, "total_ops": w["head.bias"][:1], "blocks.0.total_params": w["head.bias"]},
    ],
    ids=[
        "Lightning",
        "model_state_dict",
        "ema.net",
        "net",
        "module",
        "optimizer by name",
        "FSDP",
        "ema below",
        "profiler",
    ],
)
def test_where_scripts_put_weights(tmp_path, weights, wrapped):
    assert_loads(save(tmp_path / "a.pth", wrapped(weights[0])), weights)


class Evil:
    def __init__(self, function, path):
        self.call = function, path

    def __reduce__(self):
        function, path = self.call
        return function, (f"touch {path}" if function is os.system else str(path),)


@pytest.mark.parametrize("function", [os.system, os.mkdir, open, eval], ids=str)
@pytest.mark.parametrize("is_old", [False, True], ids=["zip", "legacy"])
def test_nothing_is_executed(tmp_path, weights, function, is_old):
    marker = tmp_path / "executed"
    argument = f"open({str(marker)!r}, 'w')" if function is eval else marker
    path = save(tmp_path / "a.pth", {"model": weights[0], "x": Evil(function, argument)},
                _use_new_zipfile_serialization=not is_old)  # fmt: skip
    if function in (os.system, os.mkdir):  # PyTorch knows these, and refuses them
        with pytest.raises(ValueError, match=r"posix\.\w+.* and cannot be read without executing"):
            pretrained.load(path)
    else:
        assert_loads(path, weights)
    assert not marker.exists()


def as_module(weights):
    import torch

    module = torch.nn.Module()
    for name, value in weights.items():
        at = module
        *parts, last = name.split(".")
        for part in parts:
            if part not in at._modules:
                at.add_module(part, torch.nn.Module())
            at = at._modules[part]
        at.register_parameter(last, torch.nn.Parameter(value))
    return module


@pytest.mark.parametrize(
    ("make", "is_plain"),
    [
        (lambda w: {"state_dict": w, "args": argparse.Namespace()}, True),
        (lambda w: {"net": w, "loss": np.float64(3)}, True),
        (lambda w: {"state_dict": {k: v + 1 for k, v in w.items()}, "state_dict_ema": w}, True),
        (as_module, False),
        (lambda w: {"model": as_module(w), "epoch": 3}, False),
        (lambda w: {"model": {k: v.numpy() for k, v in w.items()}}, False),
        (lambda w: {k: v.numpy() for k, v in w.items()}, False),
    ],
    ids=["args", "net", "ema", "module", "inside", "numpy", "flat numpy"],
)
def test_the_command_that_trusts_a_file_makes_one_that_is_read(tmp_path, weights, make, is_plain):
    """Of modules, numpy's arrays, and pickles of another protocol: that which is printed is run."""
    path = tmp_path / "it's one.pth.tar"
    if is_plain:
        path.write_bytes(pickle.dumps(make(weights[0]), protocol=4))
    else:
        save(path, make(weights[0]))
    with pytest.raises(ValueError, match=r"If you trust it, run python -c ") as raised:
        torch_format.read(path)
    (message,) = str(raised.value).splitlines()
    _, _, rest = message.partition("python -c ")
    command, _, target = rest.rpartition(", then use ")
    subprocess.run(f"{sys.executable} -c {command}", shell=True, check=True, timeout=600)
    assert_loads(target, weights)


def test_averaged_models_and_parts_of_a_set(tmp_path, weights):
    """As torch.optim.swa_utils leaves them; and a key that goes on inside a set."""
    import torch

    averaged = {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in weights[0].items()}}
    assert_loads(save(tmp_path / "a.pth", {"model": {"x.weight": torch.zeros(1)},
                                           "model_ema": averaged}), weights)  # fmt: skip
    inside = {f"backbone.{k}": v for k, v in weights[0].items()} | {"head.mlp": torch.zeros(2)}
    path = save(tmp_path / "b.pth", {"teacher": inside, "student": inside})
    assert_loads(path, weights, key="teacher.backbone")
    encoders = {f"module.base_encoder.{k}": v for k, v in weights[0].items()}
    path = save(tmp_path / "c.pth", {"state_dict": {**encoders, "module.queue": torch.zeros(2)}})
    assert_loads(path, weights, key="state_dict.module.base_encoder")
    path = save(tmp_path / "d.pth", {**weights[0], "ema": {"x.weight": torch.zeros(1)}})
    assert_loads(path, weights, key=".")


def test_tensors_that_numpy_has_no_type_for(tmp_path, weights):
    import torch

    for tensor in (torch.zeros(2).to(torch.float8_e4m3fn), torch.zeros(2, 2).to_sparse()):
        path = save(tmp_path / "a.pth", {**weights[0], "x.weight": tensor})
        with pytest.raises(ValueError, match=r"a\.pth.*x\.weight cannot be read: "):
            torch_format.read(path)
    path = save(tmp_path / "b.pth", {k: v.bfloat16() for k, v in weights[0].items()})
    assert torch_format.read(path)["cls_token"].dtype == np.float32


def test_torchscript_and_damage(tmp_path, weights):
    buffer = io.BytesIO()
    save(buffer, weights[0])
    (tmp_path / "cut.pth").write_bytes(buffer.getvalue()[:-100])
    with pytest.raises(ValueError, match=r"cut\.pth is no PyTorch file of weights, or no"):
        torch_format.read(tmp_path / "cut.pth")
    with zipfile.ZipFile(tmp_path / "odd.pth", "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02junk")
    with pytest.raises(ValueError, match=r"odd\.pth is no PyTorch file of weights, or no"):
        torch_format.read(tmp_path / "odd.pth")
    buffer = io.BytesIO()
    save(buffer, weights[0], _use_new_zipfile_serialization=False)
    (tmp_path / "old.pth").write_bytes(buffer.getvalue()[:-2000])
    with pytest.raises(ValueError, match=r"old\.pth is no PyTorch file of weights, or no"):
        torch_format.read(tmp_path / "old.pth")


def test_pytorch_files_have_no_place_for_fields(tmp_path, weights, caplog):
    model, params = weights[1:]
    from checkpoints import npz

    fields = dict(TINY, activation="gelu")
    npz.save(tmp_path / "a.npz", params, pretrained.say_made_for("ViT-B_16", fields))
    loaded = pretrained.load(tmp_path / "a.npz")
    convert.write(tmp_path / "b.pth", loaded)
    assert "b.pth has no place for what its model is: use it with --model=ViT-B_16 " in caplog.text
    assert "--field=activation=gelu" in caplog.text
    assert model.activation == "gelu_tanh"
