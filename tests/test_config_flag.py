"""A config as it is given on the command line."""

import logging

import pytest
from ml_collections import ConfigDict

from configs import common
from vit_jax.machinery import config_flag, config_keys
from vit_jax.models import get_model
from vit_jax.optim import make_optimizer
from vit_jax.validation import validate_config


def load(*settings, config="configs/digits.py"):
    others, overrides = config_flag.split([f"--config.{setting}" for setting in settings])
    assert not others
    return config_flag.load(config, overrides)


@pytest.fixture
def write(tmp_path):
    def write_config(text):
        path = tmp_path / "mine.py"
        path.write_text(text)
        return str(path)

    return write_config


def test_what_belongs_to_the_config_is_taken_out_of_the_arguments(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    others, overrides = config_flag.split(
        ["main", "--config=a.py", "--config.data.source=~/x", "--workdir=w", "--config.seed", "3",
         "--config.a", "-1", "-config.loss=a=b", "--noconfig.data.cache", "--config.data.cache",
         "--config", "b.py"]
    )  # fmt: skip
    assert others == ["main", "--config=a.py", "--workdir=w", "--config", "b.py"]
    assert overrides == [
        ("data.source", "/home/me/x"), ("seed", "3"), ("a", "-1"), ("loss", "a=b"),
        ("data.cache", "False"), ("data.cache", None),
    ]  # fmt: skip


def test_a_value_is_read_by_the_type_of_its_key():
    config = load(
        "batch_size=1e2", "total_steps=7", "total_epochs=2", "data.cache", "fsdp=1",
        "data.skip_corrupt=true", "data.source=a,b=3", "metrics=accuracy,f1", "plugins=('x',)",
        "pretrained_size=[3, 4]", "segment.scales=2", "model.mlp_dim=32", "model.new=gap",
        "model.remat", "model.pair=(1, 2)", "optim.args.b1=0.8",
    )  # fmt: skip
    assert (config.batch_size, config.total_steps, config.total_epochs) == (100, 7, 2.0)
    assert config.data.cache is True
    assert config.data.skip_corrupt is True
    assert config.data.source == "a,b=3"
    assert config.metrics == ("accuracy", "f1")
    assert config.plugins == ("x",)
    assert config.pretrained_size == (3, 4)
    assert config.segment.scales == (2,)
    assert (config.model.mlp_dim, config.model.new, config.model.remat) == (32, "gap", True)
    assert config.model.pair == (1, 2)
    assert config.optim.args.b1 == 0.8


def paths(config, prefix=""):
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from paths(config[key], f"{prefix}{key}.")


def get(config, path):
    for key in path.split("."):
        config = config[key]
    return config


def test_none_takes_any_key_and_any_group_back_to_its_default():
    known = common.get_config()
    for path in paths(known):
        config = load(f"{path}=None", config="configs/dehaze_demo.py")
        if path != "model":
            assert get(config, path) == get(known, path), path
        config_keys.check(config)
    assert dict(load("model=None").model) == {}
    changed = load("data.haze.beta=(1.0, 2.0)", "data.haze=None", "total_steps=3", "total_steps=4")
    assert changed.data.haze == known.data.haze
    assert changed.total_steps == 4


def test_a_field_that_is_unset_is_the_models_own():
    config = load("model.classifier=None", "model.representation_size=None", "model.mlp_dim=None")
    assert "classifier" not in config.model
    assert "mlp_dim" not in config.model
    assert config.model.representation_size is None
    model = get_model(config.model_name, **config.model)
    assert (model.classifier, model.mlp_dim) == ("token", get_model("ViT-Ti_16").mlp_dim)
    config = load("optim.args.b1=None", "optim.weight_decay=None")
    make_optimizer(config.optim, lambda step: 0.1, {"a": 1.0})  # or adamw would be given no b1


@pytest.mark.parametrize("name", ["Swin-T", "Mixer-B_16", "EfficientFormerV2-S0", "VT-R18"])
def test_fields_are_left_out_with_a_model_of_another_kind(name, caplog, monkeypatch):
    caplog.set_level(logging.INFO, "vit_jax")
    monkeypatch.setattr(logging.getLogger("vit_jax"), "propagate", True)
    config = load(f"model_name={name}", config="configs/folder.py")
    assert dict(config.model) == {}
    message = f"{name} is of another kind than ViT-Ti_16, for which the config sets model.classifi"
    assert message in caplog.text
    validate_config(config)


def test_fields_stay_with_a_model_of_the_same_kind_and_what_is_typed_stays():
    config = load("model_name=ViT-S_16", config="configs/folder.py")
    assert config.model.classifier == "gap"
    config = load("model.embed_dim=24", "model_name=Swin-T", config="configs/folder.py")
    assert dict(config.model) == {"embed_dim": 24}
    with pytest.raises(ValueError, match="'Swin-T' has no field 'classifier'"):
        validate_config(load("model_name=Swin-T", "model.classifier=gap"))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr=1", "unknown config key optim.lr; did you mean optim.learning_rate"),
        ("learning_rate=1", "did you mean optim.learning_rate"),
        ("epochs=3", "did you mean total_epochs"),
        ("data.sorce=x", "did you mean data.source. there are: data.balance, "),
        ("dta.source=x", "unknown config key dta; did you mean data"),
        ("data.pair_pattern=x", "data.pair_pattern is now data.pairs.pattern"),
        ("data.source.x=1", "data.source is no group of keys"),
        ("data.tfds=x", "data.tfds is a group of keys: set one, --config.data.tfds.KEY=VALUE"),
        ("batch_size=3.5", "--config.batch_size=3.5 is no whole number; None is its default"),
        ("batch_size", "--config.batch_size needs a value"),
        ("ema_decay=a", "--config.ema_decay=a is no number"),
        ("data.cache=maybe", "is no True or False"),
        ("metrics=(a", "is no tuple such as"),
    ],
)
def test_a_key_or_value_that_does_not_fit(setting, message):
    with pytest.raises(ValueError, match=message):
        load(setting)


def test_a_config_of_other_keys():
    file = "configs/inference_time.py"
    assert load("image_size=32,32", config=file).image_size == (32, 32)
    with pytest.raises(ValueError, match="batch_size cannot be None: leave"):
        load("batch_size=None", config=file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def get_config(:", r"mine.py, line 1: invalid syntax"),
        ("import nothing_there", "mine.py, line 1: ModuleNotFoundError: No module named"),
        ("def get_config():\n    return {}['a']", "mine.py, line 2: KeyError: 'a'; --traceback"),
        ("a = 1", "lacks a function get_config"),
        ("def get_config():\n    return 1", "must return a ConfigDict, not <class 'int'>"),
        ("def get_config(argument): ...", "needs an argument: --config=.*mine.py:ARGUMENT"),
    ],
)
def test_a_file_that_fails(write, text, message, tmp_path, monkeypatch):
    path = write(text)
    with pytest.raises(ValueError, match=message):
        config_flag.load(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        config_flag.load("mine.py")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("configs/foldr.py", "no config 'configs/foldr.py'; did you mean configs/folder.py?"),
        ("folder", "did you mean configs/folder.py?"),
        ("configs/folder.py:Foo", "configs/folder.py takes no argument: leave out :Foo"),
        ("configs/vit.py:b61", "unknown ViT 'b61'; did you mean 'b16'?"),
        ("configs/swin.py:t", "unknown variant 't'; did you mean 'T'?"),
        ("README.md", "README.md is no config, whose name ends in .py"),
    ],
)
def test_a_config_that_is_not_there(config, message):
    with pytest.raises(ValueError, match=message):
        config_flag.load(config)


def test_a_config_of_ones_own(write):
    text = "from configs import common\ndef get_config(name='a'):\n    c = common.get_config()\n"
    path = write(text + "    c.data.source = name\n    return c.lock()\n")
    config = config_flag.load(f"{path}:hf://x/y", [("model.num_layers", "2"), ("seed", "5")])
    assert config.data.source == "hf://x/y"
    assert (config.model.num_layers, config.seed) == (2, 5)
