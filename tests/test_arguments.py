"""What a person types."""

import pytest

from input_pipeline import check
from input_pipeline.arguments import closest, expand_home, unknown
from tests.helpers import write_same_pairs


def test_the_home_folder_in_whatever_a_person_types(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    typed = ["predict", "--output=~/restored", "--config.data.source=~", "-w=~/x", "~/a b.png",
             "--field=a=~/x", "--pattern=~x", "a~/b", "--n=3"]  # fmt: skip
    assert expand_home(typed) == [
        "predict", "--output=/home/me/restored", "--config.data.source=/home/me", "-w=/home/me/x",
        "/home/me/a b.png", "--field=a=~/x", "--pattern=~x", "a~/b", "--n=3",
    ]  # fmt: skip


def test_the_home_folder_of_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_same_pairs(tmp_path / "data", ["1.png"])
    assert check.main(["~/data", "--against=~/data"]) == 1
    assert f"1 scenes are both in all and in all of {tmp_path}/data: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("vit_b16", ["ViT-B_32", "ViT-B_16"], "ViT-B_16"),
        ("lr", ["name", "learning_rate"], "learning_rate"),
        ("epochs", ["total_steps", "total_epochs"], "total_epochs"),
        ("cifra10", ["caltech101", "cifar10", "cifar100"], "cifar10"),
        ("acc", ["loss", "accuracy"], "accuracy"),
        ("a", ["airlight", "data"], None),
        ("", ["a"], None),
        ("zebra", ["loss", "accuracy"], None),
    ],
)
def test_what_was_probably_meant(name, known, meant):
    assert closest(name, known) == meant


def test_the_message_about_a_name_that_there_is_not():
    assert unknown("op", "flip", ("decode", "flip_lr"), "of colour ") == (
        "unknown op 'flip'; did you mean 'flip_lr'? of colour there are: decode, flip_lr"
    )
    assert unknown("op", "x", {"decode": 1}) == "unknown op 'x'; there are: decode"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--knd=pairs"], "do not know what to do with --knd=pairs; did you mean '--kind'?"),
        (["a", "b"], "do not know what to do with b; --help lists all"),
        ([], "the following arguments are required: FOLDER"),
    ],
)
def test_a_mistake_in_the_arguments_is_answered_in_a_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as caught:
        check.main(arguments)
    printed = capsys.readouterr().err
    assert caught.value.code == 2
    assert printed.startswith(f"error: {message}")
    assert len(printed.splitlines()) == 1
