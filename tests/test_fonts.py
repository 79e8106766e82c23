"""What a person calls classes and files can be read in pictures, in any script."""

import warnings

import numpy as np
import pytest
from etils import epath
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from tests.helpers import noise
from vit_jax import attention_maps, fonts, report
from vit_jax.classification_report import ClassificationReport

CAT = "\U0010fffd"  # the last letter for private use, which no usual font has
NAMES = [
    "cat",
    "a$b$c",
    "_x^2",
    f"{CAT} b",
    "чёрный",
    "x" * 300,
    "a\tb",
    "a\u200bb",
    "$\\frac{1}{$",
]


@pytest.fixture
def font(tmp_path):
    """A font that has a letter which no other has, and is installed for a test."""
    pen = TTGlyphPen(None)
    for i, point in enumerate([(0, 0), (0, 700), (500, 700), (500, 0)]):
        (pen.lineTo if i else pen.moveTo)(point)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (500, 0), "cat": (600, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Khitan Test", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "khitan.ttf")
    before = list(font_manager.fontManager.ttflist)
    font_manager.fontManager.addfont(tmp_path / "khitan.ttf")
    yield "Khitan Test"
    font_manager.fontManager.ttflist[:] = before
    fonts._families.cache_clear()


def classified(names):
    result = ClassificationReport(names, "softmax_xent")
    for i in range(len(names)):
        logits = np.zeros((1, len(names)), np.float32)
        logits[0, (i + i % 2) % len(names)] = 3
        result.add({"image": noise((1, 4, 4, 3)), "label": np.array([i])}, logits)
    return result


def tick_labels(figure):
    return [label.get_text() for label in figure.axes[0].get_yticklabels()]


def test_names_that_no_font_has_are_numbers_in_labels_txt(tmp_path, caplog):
    result = classified(NAMES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result.write(epath.Path(tmp_path), "test")
        figure = result.draw_confusion("test")
    shown = tick_labels(figure)
    assert shown[:5] == ["cat", "a$b$c", "_x^2", "#4", "чёрный"]
    assert len(shown[5]) == 16
    assert shown[6:] == ["a b", "a\u200bb", "$\\frac{1}{$"]
    (said,) = [record.getMessage() for record in caplog.records if "font" in record.getMessage()]
    assert "letters of 1 class names" in said
    assert NAMES[3] in said
    assert "#N, in line N of labels.txt" in said


def test_the_font_that_has_the_letters_is_taken(font, tmp_path, caplog):
    assert fonts.style(CAT)["fontfamily"][-1] == font
    assert fonts.style("cat") == {"fontfamily": ["sans-serif"], "parse_math": False}
    assert fonts.legible_names(["a", CAT]) == ("a", CAT)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tick_labels(classified([CAT] * 4).draw_confusion("test")) == [CAT] * 4
        figure = Figure(figsize=(5, 2), dpi=100)
        figure.text(0.1, 0.4, CAT * 4, fontsize=72, **fonts.style(CAT))
        figure.savefig(tmp_path / "a.png")
    assert not caplog.records
    # Each letter is a dark rectangle of 50 x 70 pixels, and a box in its place would be hollow.
    dark = (np.asarray(Image.open(tmp_path / "a.png").convert("L")) < 128).sum()
    assert abs(dark / (4 * 50 * 70) - 1) < 0.05


def test_matplotlibs_own_fonts_of_boxes_and_formulas_are_not_taken():
    assert fonts._missing_of(f"a{CAT}語") >= {CAT}
    assert not any(name.startswith(("Last Resort", "cm", "STIX")) for name, _ in fonts._fonts())


def test_long_names_do_not_take_the_room_of_the_picture():
    sizes = []
    for names in (["a", "b", "c"], ["x" * 300, "語" * 300, "y" * 40]):
        figure = classified(names).draw_confusion("test")
        figure.draw_without_rendering()
        sizes.append(figure.axes[0].get_position().width)
    assert sizes[1] > 0.5 * sizes[0]


@pytest.mark.parametrize("heads", [0, 3, 16])
def test_titles_of_attention(heads, tmp_path):
    title = f"{CAT}{CAT} $x^2$ {'long ' * 60}93.1%"
    maps = np.ones((heads, 2, 2))
    figure = attention_maps.draw(np.ones((8, 8, 3)), np.ones((2, 2)), maps, title)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "a.png")
    shown = figure.get_suptitle()
    assert shown.startswith("? $x^2$ long")
    assert shown.endswith("93.1%")
    extent = figure._suptitle.get_window_extent()
    assert extent.x0 >= 0
    assert extent.x1 <= figure.bbox.width


def test_images_with_titles(tmp_path):
    figure = report.draw_images([np.zeros((4, 4, 3))] * 2, [CAT, "$a$"], "$\\frac{$", columns=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure.savefig(tmp_path / "a.png")
    assert [axes.get_title() for axes in figure.axes] == ["?", "$a$"]


@pytest.mark.parametrize(
    ("text", "most", "tail", "short"),
    [
        ("abcdef", 6, 0, "abcdef"),
        ("abcdefg", 6, 0, "abcde…"),
        ("abcdefgh", 6, 2, "abc…gh"),
        ("語語語", 6, 0, "語語語"),
        ("語語語語", 6, 0, "語語…"),
        ("e\u0301" * 6, 6, 0, "e\u0301" * 6),
    ],
)
def test_cutting_short(text, most, tail, short):
    assert fonts.shorten(text, most, tail) == short


def test_letters_that_no_font_has_are_said_once(caplog):
    for share in (1, 2):
        assert fonts.legible(f"{CAT}{CAT} {share} %") == f"? {share} %"
    fonts._say_once.cache_clear()
    caplog.clear()
    for share in (1, 2):
        fonts.legible(f"{CAT} {share} %")
    assert [record.getMessage() for record in caplog.records] == [
        f"no installed font has {CAT}: pictures show ? instead"
    ]
