"""What a person types."""

from input_pipeline import check
from input_pipeline.arguments import expand_home
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
