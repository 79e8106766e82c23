"""The page of a run: all of it is there, nothing outside is asked for, and names are text."""

import base64
import contextlib
import html.parser
import io
import os

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_digits_config
from vit_jax import report_files, report_page, train
from vit_jax.run_summary import RunSummary
from vit_jax.workdir import Workdir

COMMAND = ("python", "-m", "vit_jax.main", "--config=configs/digits.py", "--workdir=a b")
ODD = "<b>&\"'</b>"  # a name


class Page(html.parser.HTMLParser):
    """What a browser makes of a page: tags with their attributes, and the text between them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts.append(data)

    def attributes(self, name):
        return [attributes[name] for _, attributes in self.tags if name in attributes]


def summary(**changes):
    return RunSummary(**{
        **dict(name="run", model_name="ViT-Ti_16", parameters=1234, step=7, averaged=0,
               figures={"test": {"accuracy": 0.5, "examples": 3}}, comparison="", data="digits",
               examples={"train": 9}, classes=("a", "b"), protocol="", settings={}, config="{}",
               command="", path="/runs/run", usage="FILE", inputs=("image",), image_size=(8, 8),
               pipeline_tag="", base=""),
        **changes,
    })  # fmt: skip


def page_of(folder, **changes):
    workdir = Workdir(folder)
    workdir.report.mkdir(exist_ok=True)
    return Page(report_page.write(workdir, summary(**changes)).read_text(encoding="utf-8"))


def write_noise(path, size):
    noise = np.random.default_rng(0).integers(0, 255, (*size[::-1], 3)).astype(np.uint8)
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run's folder and its figures."""
    workdir = tmp_path_factory.mktemp("run <i>")
    with contextlib.redirect_stdout(io.StringIO()):
        return workdir, train.train_and_evaluate(tiny_digits_config(), workdir, COMMAND)


def test_a_run_has_a_page_of_all_that_it_has(trained):
    workdir, figures = trained
    page = Page((workdir / "report" / "index.html").read_text())
    for values in figures.values():
        assert f"{values['accuracy']:.4f}" in page.texts
        assert str(values["examples"]) in page.texts
    pictures = {path.name: path.read_bytes() for path in workdir.glob("report/*.png")}
    assert set(pictures) == {"curves.png", "confusion.png", "predictions.png"}
    shown = {a["alt"]: a["src"] for tag, a in page.tags if tag == "img"}
    assert shown == {
        name: f"data:image/png;base64,{base64.b64encode(data).decode()}"
        for name, data in pictures.items()
    }
    for cell in (workdir / "report" / "classes.csv").read_text().splitlines()[3].split(","):
        assert cell in page.texts
    assert "python -m vit_jax.main --config=configs/digits.py '--workdir=a b'" in page.texts
    assert "checkpoint of step 6; examples: 1,257 train, 180 val, 360 test; 10 cl" in page.text
    settings = page.texts[page.texts.index("optim.learning_rate") :]
    assert settings[1] == "0.01"


def test_nothing_is_asked_for_outside(trained):
    workdir, _ = trained
    page = Page((workdir / "report" / "index.html").read_text())
    assert all(source.startswith("data:image/") for source in page.attributes("src"))
    assert not page.attributes("href")
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in page.tags}
    (style,) = (text for text in page.texts if "color-scheme" in text)
    assert "url(" not in style
    assert "@import" not in style
    assert page.attributes("http-equiv") == ["Content-Security-Policy"]
    assert "default-src 'none'" in page.attributes("content")[0]


def test_names_of_any_characters_are_text(tmp_path):
    folder = tmp_path / "report"
    write_noise(folder / "p<q>&'.png", (8, 8))
    (folder / "t<q>&.csv").write_text(f"{ODD},x\n<script>alert(1)</script>,1\n")
    (folder / "x<q>.txt").write_text(f"{ODD}\n")
    (folder / "o<q>.bin").write_text("")
    page = page_of(
        tmp_path, name=ODD, model_name=ODD, figures={ODD: {ODD: 0.5}}, comparison=ODD, data=ODD,
        protocol=ODD, settings={ODD: ODD}, config=ODD, command=ODD, path=ODD, usage=ODD,
        examples={ODD: 2},
    )  # fmt: skip
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "table",
        "tr", "th", "td", "pre", "figure", "figcaption", "img", "ul", "li", "details", "summary",
    }  # fmt: skip
    assert page.text.count(ODD) > 14
    assert "<script>alert(1)</script>" in page.texts
    assert "report/o<q>.bin" in page.texts
    (picture,) = (attributes for tag, attributes in page.tags if tag == "img")
    assert picture["alt"] == "p<q>&'.png"


def test_names_of_any_bytes_can_be_written(tmp_path):
    page = page_of(tmp_path, command=os.fsdecode(b"--workdir=\xff"))
    assert "--workdir=?" in page.text


def test_large_tables_are_cut_and_say_so(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    rows = [f"image{i}.png,0.5" for i in range(1234)]
    (folder / "test.csv").write_text("\n".join(["file,psnr", *rows]) + "\n")
    (folder / "wide.csv").write_text(",".join(f"column{i}" for i in range(100)) + "\n")
    (folder / "long.csv").write_text("text\n" + "word " * 1000 + "\n")
    (folder / "many.txt").write_text("".join(f"line {i}\n" for i in range(1000)))
    page = page_of(tmp_path)
    assert "image19.png" in page.texts
    assert "image20.png" not in page.texts
    for note in ("1,214 more rows in report/test.csv", "76 more columns in report/wide.csv",
                 "960 more lines in report/many.txt"):  # fmt: skip
        assert note in page.texts
    assert max(map(len, (text for text in page.texts if "word word" in text))) < 200


def test_large_pictures_are_made_smaller_and_say_so(tmp_path, monkeypatch):
    monkeypatch.setattr(report_files, "_MOST_BYTES", 200_000)
    write_noise(tmp_path / "report" / "a.png", (900, 900))
    write_noise(tmp_path / "report" / "small.png", (20, 20))
    Image.new("RGB", (3000, 1500), "red").save(tmp_path / "report" / "wide.bmp")
    (tmp_path / "report" / "wide.bmp").rename(tmp_path / "report" / "wide.png")
    page = page_of(tmp_path)
    shown = {a["alt"]: a for tag, a in page.tags if tag == "img"}
    assert set(shown) == {"small.png", "wide.png"}
    assert (shown["wide.png"]["width"], shown["wide.png"]["height"]) == ("1600", "800")
    assert shown["wide.png"]["src"].startswith("data:image/webp;base64,")
    assert shown["small.png"]["src"].startswith("data:image/png;base64,")
    assert "report/wide.png, made smaller; the file has 12.9 MB" in page.texts
    assert "report/a.png, left out: the file has 2.3 MB" in page.texts
    assert (tmp_path / "report" / "index.html").stat().st_size < 300_000


def test_what_cannot_be_read_is_named(tmp_path):
    folder = tmp_path / "report"
    (folder / "more").mkdir(parents=True)
    (folder / "broken.png").write_bytes(b"\x89PNG nothing")
    (folder / "broken.csv").write_text("x" * 200_000)
    (folder / "empty.csv").write_text("")
    (folder / "bytes.txt").write_bytes(b"\xff\xfe\n")
    write_noise(folder / "good.png", (8, 8))
    page = page_of(tmp_path)
    assert [a["alt"] for tag, a in page.tags if tag == "img"] == ["good.png"]
    assert "report/broken.png (no picture: UnidentifiedImageError)" in page.texts
    assert (
        "report/broken.csv (cannot be read: field larger than field limit (131072))" in page.texts
    )
    assert "report/more/" in page.texts
    assert "bytes.txt" in page.texts


def test_a_page_of_a_run_that_has_evaluated_nothing(tmp_path):
    page = page_of(tmp_path, figures={}, data="", examples={}, classes=())
    assert "Figures" not in page.texts
    assert "ViT-Ti_16" in page.texts


def test_the_last_evaluations_are_a_table(tmp_path):
    workdir = Workdir(tmp_path)
    for step in range(1, 31):
        workdir.append_metrics(step, "train", {"loss": 9.0})
        workdir.append_metrics(step, "val", {"loss": step / 8, "auc": float("nan"), "examples": 3})
    page = page_of(tmp_path)
    assert "20 of the validation split" in page.texts
    assert "10 earlier ones in metrics.jsonl" in page.texts
    start = page.texts.index("auc")
    assert page.texts[start:][:5] == ["auc", "examples", "11", "1.3750", "3"]


def test_a_second_page_does_not_hold_the_first(tmp_path):
    sizes = [len(page_of(tmp_path).text) for _ in range(2)]
    assert sizes[0] == sizes[1]
