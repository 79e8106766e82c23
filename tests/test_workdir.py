import json
import re

import pytest

from configs import common
from vit_jax import weights
from vit_jax.machinery import config_keys
from vit_jax.workdir import Workdir

DATA = {"classes": ["a", "b"], "examples": {"train": 5}}


@pytest.fixture
def workdir(tmp_path, digits_config):
    workdir = Workdir(tmp_path)
    workdir.claim(digits_config, DATA)
    (workdir.checkpoints / "3").mkdir(parents=True)
    return workdir


def test_config_comes_back(workdir, digits_config):
    config = workdir.read_config()
    assert config.model.hidden_size == 32
    assert config.total_epochs is None
    assert json.loads(config.to_json()) == json.loads(digits_config.to_json())


def test_a_misspelt_folder_is_answered_by_the_run_beside(digits_config, tmp_path):
    (tmp_path / "digtss").mkdir()  # closer, but no run
    Workdir(tmp_path / "digits").claim(digits_config, DATA)
    meant = re.escape(f"did you mean {tmp_path / 'digits'}? ")
    with pytest.raises(ValueError, match=rf"digts holds no run.*{meant}"):
        Workdir(tmp_path / "digts").read_config()
    with pytest.raises(
        ValueError, match=rf"digts holds no run, and is no file; {meant}.*hf://OWNER"
    ):
        weights.read(tmp_path / "digts")
    for far in (tmp_path / "flowers", tmp_path / "no" / "digits"):
        assert Workdir(far).find_meant() == ""


def test_claim_by_the_same_config_and_by_another(workdir, digits_config):
    workdir.claim(digits_config, DATA)
    digits_config.keep_checkpoints = 7
    workdir.claim(digits_config, DATA)
    assert workdir.read_config().keep_checkpoints == 7
    digits_config.batch_size = 32
    digits_config.model.num_layers = 3
    with pytest.raises(
        ValueError, match=r"batch_size was 64, is now 32; model.num_layers was 1, i"
    ):
        workdir.claim(digits_config, DATA)
    assert workdir.read_config().batch_size == 64


def test_a_run_from_before_a_key_existed(workdir, digits_config, tmp_path):
    stored = json.loads((tmp_path / "config.json").read_text())
    del stored["pretrained"], stored["data"]["skip_corrupt"], stored["data"]["haze"]["draws"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert workdir.read_config().pretrained == ""
    assert workdir.read_config().data.skip_corrupt is False
    assert workdir.read_config().data.haze.draws == 1
    workdir.claim(digits_config, DATA)
    del stored["seed"]
    digits_config.seed = 3
    (tmp_path / "config.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match="seed was 0, is now 3"):
        workdir.claim(digits_config, DATA)


def in_old_words(config):
    """A config.json as a run of before has it, with the names of then, and no group of them."""
    stored = json.loads(config.to_json())
    data = stored["data"]
    data["pair_pattern"] = data.pop("pairs")["pattern"]
    data |= data.pop("tfds")
    return stored


def test_a_run_from_before_keys_had_their_names(workdir, digits_config, tmp_path):
    digits_config.data.pairs.pattern = "foggy/{scene}.png sharp/{scene}.png"
    digits_config.data.tfds.update(val_split="train[90%:]", shuffle_buffer=7, data_dir="there")
    stored = in_old_words(digits_config)
    assert stored["data"]["val_split"] == "train[90%:]"
    assert "tfds" not in stored["data"]
    (tmp_path / "config.json").write_text(json.dumps(stored))
    assert json.loads(workdir.read_config().to_json()) == json.loads(digits_config.to_json())
    digits_config.data.tfds.data_dir = "elsewhere"
    workdir.claim(digits_config, DATA)
    assert json.loads((tmp_path / "config.json").read_text())["data"]["tfds"]["shuffle_buffer"] == 7
    digits_config.data.tfds.shuffle_buffer = 8
    with pytest.raises(ValueError, match=r"config \(data\.tfds\.shuffle_buffer was 7, is now 8\)"):
        workdir.claim(digits_config, DATA)


def test_every_old_name_has_a_new_one_that_there_is():
    known = common.get_config()
    for old, new in config_keys.RENAMED.items():
        *groups, key = new.split(".")
        group = known
        for name in groups:
            group = group[name]
        assert key in group
        *groups, key = old.split(".")
        config = common.get_config()
        group = config
        for name in groups:
            group = group[name]
        group[key] = "something"
        with pytest.raises(ValueError, match=f"^{re.escape(old)} is now {re.escape(new)}$"):
            config_keys.check(config)


def test_what_has_both_names_keeps_the_new_one():
    stored = {"data": {"train_split": "old", "tfds": {"train_split": "new"}}, "seed": 1}
    expected = {"data": {"tfds": {"train_split": "new"}}, "seed": 1}
    assert config_keys.translate(stored) == expected
    assert stored["data"]["train_split"] == "old"
    assert config_keys.translate({"data": 3}) == {"data": 3}


def test_a_key_that_only_one_config_has_is_a_difference(workdir, digits_config):
    digits_config.model.position_embedding = "none"
    with pytest.raises(ValueError, match=r"model\.position_embedding was None, is now 'none'"):
        workdir.claim(digits_config, DATA)


def test_a_run_that_left_no_checkpoint_has_no_claim(workdir, digits_config):
    """So that a run that failed at its start can be tried again with other settings."""
    (workdir.checkpoints / "3").rename(workdir.checkpoints / "3.orbax-checkpoint-tmp")
    digits_config.data.skip_corrupt = True
    workdir.claim(digits_config, DATA)
    assert workdir.read_config().data.skip_corrupt


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ["b", "c"]}, r"other data \(classes: \['a', 'b'\] then, \['b', 'c'\] now"),
        ({"examples": {"train": 6}}, r"examples: {'train': 5} then, {'train': 6} now"),
    ],
)
def test_a_run_goes_on_with_its_own_data_only(workdir, digits_config, changes, message):
    with pytest.raises(ValueError, match=message):
        workdir.claim(digits_config, {**DATA, **changes})
    digits_config.data.source = "/moved/elsewhere"
    workdir.claim(digits_config, DATA)


def test_metrics_are_lines_and_can_be_forgotten(workdir):
    for step, split in ((1, "train"), (2, "train"), (2, "val"), (2, "test"), (3, "train")):
        workdir.append_metrics(step, split, {"loss": step / 2})
    assert workdir.read_metrics()[2] == {"step": 2, "split": "val", "loss": 1.0}
    workdir.forget_metrics()
    assert [m["step"] for m in workdir.read_metrics()] == [1, 2, 2, 3]
    workdir.forget_metrics(after=2)
    assert [(m["step"], m["split"]) for m in workdir.read_metrics()] == [
        (1, "train"), (2, "train"), (2, "val"),
    ]  # fmt: skip


def test_a_line_that_a_crash_cut_off_is_left_out(workdir):
    workdir.append_metrics(1, "train", {"loss": 1.0})
    with (workdir.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "sp')
    assert len(workdir.read_metrics()) == 1
    workdir.forget_metrics(after=5)
    workdir.append_metrics(2, "train", {"loss": 0.5})
    assert [m["step"] for m in workdir.read_metrics()] == [1, 2]


def test_labels_come_back(workdir):
    names = ("tench, Tinca tinca", "Köter", "a b")
    workdir.write_labels(names)
    assert workdir.read_labels() == names
