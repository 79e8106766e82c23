"""What `predict` remembers of what it did, and how it goes on."""

import csv
import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from checkpoints import npz
from tests.commands import ROOT, free_port
from tests.helpers import TINY, random_params, write_image
from vit_jax import pretrained, results
from vit_jax.tasks import plain
from vit_jax.tasks.base import Answer


class Echo:
    """Answers with a file's contents; fails for some, and counts what it is asked for."""

    header = ("contents",)
    has_files = True
    find = staticmethod(plain.find_images)

    def __init__(self, fails=()):
        self.fails, self.asked = fails, []

    def outputs(self, item):
        return (item.inside.with_suffix(".txt"),)

    def answers(self, items):
        for item in items:
            (path,) = item.paths
            self.asked.append(path.name)
            if path.name in self.fails:
                yield Answer(path, problems=(f"cannot read {path}",))
                continue
            data = item.read()
            written = {item.inside.with_suffix(".txt"): data}
            yield Answer(path, "", (data.decode(),), written)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").write_text(name)
    return folder


def answer(folder, predictor, made_with=None, most=None):
    """Runs the command's steps; returns whom it failed for."""
    output = folder.parent / "out"
    items = predictor.find([folder])
    notes = results.Notes(output, items, made_with or {"--k": 1})
    left = results.check_outputs(items, predictor, output, notes)[:most]
    output.mkdir(exist_ok=True)
    return results.answer_items(predictor, left, output, notes)[1]


def table(folder):
    with (folder.parent / "out" / results.TABLE).open() as file:
        return [(Path(row[0]).name, row[1]) for row in csv.reader(file)][1:]


def test_what_is_done_is_not_done_again(folder):
    assert answer(folder, Echo(), most=2) == []
    assert table(folder) == [("a.png", "a"), ("b.png", "b")]
    rest = Echo()
    assert answer(folder, rest) == []
    assert rest.asked == ["c.png", "d.png"]
    (folder / "aa.png").write_text("aa")
    added = Echo()
    assert answer(folder, added) == []
    assert added.asked == ["aa.png"]
    assert table(folder) == [(f"{name}.png", name) for name in ("a", "aa", "b", "c", "d")]
    (folder.parent / "out" / "b.txt").unlink()
    again = Echo()
    answer(folder, again)
    assert again.asked == ["b.png"]


def test_what_failed_is_tried_again(folder):
    assert answer(folder, Echo(fails=["b.png"])) == [(f"cannot read {folder}/b.png",)]
    assert [name for name, _ in table(folder)] == ["a.png", "c.png", "d.png"]
    again = Echo()
    answer(folder, again)
    assert again.asked == ["b.png"]
    assert [name for name, _ in table(folder)] == ["a.png", "b.png", "c.png", "d.png"]


def test_other_settings_or_photos_are_not_taken_for_the_same(folder):
    answer(folder, Echo(), most=1)
    with pytest.raises(ValueError, match=r"of .*a.png with other settings: --k was 1, and not 2"):
        answer(folder, Echo(), {"--k": 2})
    write_image(folder / "a.png", (1, 2, 3))
    with pytest.raises(ValueError, match=r"1 of the results are there already, such as .*a\.txt"):
        answer(folder, Echo())


def test_a_note_that_was_cut_off_is_none(folder):
    answer(folder, Echo(), most=2)
    (notes,) = (folder.parent / "out").glob(".predict-*")
    notes.write_text(notes.read_text()[:-9])
    rest = Echo()
    answer(folder, rest)
    assert rest.asked == ["b.png", "c.png", "d.png"]
    assert all(json.loads(line) for line in notes.read_text().splitlines()[6:] if line)


def test_what_was_written_in_part_is_written_again(folder):
    class Halfway(Echo):
        def answers(self, items):
            for answer in super().answers(items):
                yield dataclasses.replace(answer, problems=("no picture",))

    assert len(answer(folder, Halfway(), most=1)) == 1
    assert (folder.parent / "out" / "a.txt").exists()
    again = Echo()
    assert answer(folder, again) == []
    assert again.asked == ["a.png", "b.png", "c.png", "d.png"]


def test_items_of_many_answers_are_noted_when_they_are_whole(folder):
    class Thirds(Echo):
        def find(self, arguments):
            return [dataclasses.replace(item, count=None) for item in super().find(arguments)]

        def answers(self, items):
            for answer in super().answers(items):
                for i in range(3):
                    if answer.path.name == "b.png" and i == 2:
                        raise KeyboardInterrupt
                    yield Answer(answer.path, row=(f"{answer.row[0]}{i}",))

        def outputs(self, item):
            return ()

    with pytest.raises(KeyboardInterrupt):
        answer(folder, Thirds())
    (notes,) = (folder.parent / "out").glob(".predict-*")
    assert [json.loads(n)["rows"][0][1:] for n in notes.read_text().splitlines()[2:]] == [["a0"]]


# The command.


@pytest.fixture(scope="module")
def photos_and_weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    for i in range(200):
        write_image(folder / "photos" / f"{i:03}.png", (i, 200 - i, 30), seed=i)
    (folder / "photos" / "050.png").write_text("no image")
    _, params = random_params("ViT-B_16", (16, 16), num_classes=3, **TINY)
    made_for = pretrained.say_made_for("ViT-B_16", {**TINY, "num_classes": 3})
    npz.save(folder / "weights.npz", params, made_for)
    predict(folder, "once").communicate()
    return folder


def predict(folder, output, *arguments):
    command = [
        sys.executable,
        "-m",
        "vit_jax.predict",
        f"--weights={folder}/weights.npz",
        "--batch_size=8",
        f"--output={folder / output}",
        *arguments,
        folder / "photos",
    ]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
                            text=True)  # fmt: skip


@pytest.mark.slow
def test_a_killed_command_goes_on(photos_and_weights):
    folder = photos_and_weights
    first = predict(folder, "killed")
    notes = folder / "killed" / ".predict-0.jsonl"
    while not notes.exists() or notes.read_text().count("\n") < 20:
        assert first.poll() is None
        time.sleep(0.001)
    first.kill()
    first.communicate()
    assert not (folder / "killed" / results.TABLE).exists()
    done = len(results.Notes(folder / "killed", [], {}).others)
    assert 0 < done < 199
    second = predict(folder, "killed")
    _, said = second.communicate()
    assert f"{done} of 200 are done already" in said
    assert second.returncode == 1  # of the file that is no image
    table = (folder / "killed" / results.TABLE).read_text()
    assert table == (folder / "once" / results.TABLE).read_text()
    assert table.count("\n") == 200


@pytest.mark.slow
def test_two_processes_share_the_work(photos_and_weights):
    folder, port = photos_and_weights, free_port()
    both = [
        predict(folder, "shared", f"--coordinator_address=localhost:{port}",
                "--num_processes=2", f"--process_id={i}")
        for i in range(2)
    ]  # fmt: skip
    assert [process.communicate() and process.returncode for process in both] == [1, 1]
    table = (folder / "shared" / results.TABLE).read_text()
    assert table == (folder / "once" / results.TABLE).read_text()
    for i, count in enumerate((99, 100)):
        lines = (folder / "shared" / f".predict-{i}.jsonl").read_text().splitlines()
        assert sum("item" in json.loads(line) for line in lines if line) == count
