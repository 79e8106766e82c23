"""Tables of sentences, and two files of equal lines, as people bring them."""

import logging

import pytest

from input_pipeline import check
from input_pipeline.sources.translation_files import read, read_pairs

NO = ("", "")
DE_EN = ("de", "en")
PAIRS = [("Ein Hund", "A dog"), ("Grüße, 日本", "Hi 🐱")]
TWO = "Ein Hund\tA dog\nGrüße, 日本\tHi 🐱\n"


def write(path, content, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def write_two(folder, stem, de, en, ends=("de", "en")):
    for end, lines in zip(ends, (de, en)):
        write(folder / f"{stem}.{end}", "".join(f"{line}\n" for line in lines))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.tsv", TWO),
        ("a.txt", TWO),
        ("a.TSV", TWO.removesuffix("\n")),
        ("bom.tsv", "\ufeff" + TWO),
        ("windows.tsv", TWO.replace("\n", "\r\n")),
        ("mac.tsv", TWO.replace("\n", "\r")),
        ("blanks.tsv", TWO.replace("\t", " \t ").replace("\n", "\t\t\n") + "\n \n"),
        ("utf16.tsv", ("\ufeff" + TWO).encode("utf-16-le")),
        ("named.tsv", "target\tfrom\tsource\nA dog\tx\tEin Hund\nHi 🐱\ty\tGrüße, 日本\n"),
        ("a.csv", 'Ein Hund,A dog\r\n"Grüße, 日本",Hi 🐱\r\n'),
        ("bom.csv", '\ufeff"Ein\nHund","A dog"\n"Grüße, 日本","Hi 🐱"\n\n'),
        ("semicolon.csv", "Ein Hund;A dog\nGrüße, 日本;Hi 🐱\n"),
        ("comma.csv", "Ein Hund;A dog\nGrüße, 日本;Hi 🐱\n"),
        ("named.csv", 'id;src;tgt\n1;Ein Hund;A dog\n2;"Grüße, 日本";Hi 🐱\n'),
    ],
)
def test_tables(tmp_path, name, content, caplog):
    assert read(str(write(tmp_path / name, content)), NO) == {"all": PAIRS}
    assert not caplog.records


def test_columns_by_the_names_of_languages(tmp_path):
    path = write(tmp_path / "a.tsv", "id\tEN\tde\n1\tA dog\tEin Hund\n")
    assert read_pairs((path,), DE_EN) == PAIRS[:1]
    assert read_pairs((path,), ("en", "de")) == [("A dog", "Ein Hund")]
    with pytest.raises(ValueError, match="of the languages de and fr its first row has one alone"):
        read_pairs((path,), ("de", "fr"))
    # Without such a row the first column is the source.
    assert read_pairs((write(tmp_path / "b.tsv", TWO),), ("en", "de")) == PAIRS


def test_a_first_row_that_may_be_names(tmp_path, caplog):
    path = write(tmp_path / "a.tsv", "de\ten\nEin Hund\tA dog\n")
    assert read_pairs((path,)) == [("de", "en"), *PAIRS[:1]]
    assert "a.tsv: its first row, de, en, is taken for sentences; if it names" in caplog.text
    caplog.clear()
    assert read_pairs((path,), DE_EN) == PAIRS[:1]
    with pytest.raises(ValueError, match="line 1: it has 1 column, and a sentence, a tab and its"):
        read_pairs((write(tmp_path / "b.tsv", "one\ntwo\n"),))
    assert not caplog.records


def test_quotes_are_text_between_tabs_and_not_between_commas(tmp_path):
    quoted = 'Er sagt "ja"\t"Yes"\n"Nein\tNo\n'
    path = write(tmp_path / "a.tsv", quoted)
    assert read_pairs((path,)) == [('Er sagt "ja"', '"Yes"'), ('"Nein', "No")]
    path = write(tmp_path / "a.csv", '"Er sagt ""ja""","Yes"\n')
    assert read_pairs((path,)) == [('Er sagt "ja"', "Yes")]


def test_signs_that_end_lines_in_unicode_are_inside_of_sentences(tmp_path):
    """Else all lines after it would have the wrong translation."""
    marks = ["a\u2028b", "a\x85b", "a\x0bb", "a\x0cb", "a\u2029b"]
    write_two(tmp_path, "c", [*marks, "last"], ["1", "2", "3", "4", "5", "6"])
    pairs = read(str(tmp_path / "c"), DE_EN)["all"]
    assert pairs == [*(("a b", str(i)) for i in range(1, 6)), ("last", "6")]


def test_empty_sides_are_left_out_and_counted(tmp_path, caplog):
    content = "a\tb\n\nc\t \n\td\n" + "\t\n" * 4 + "e\tf\n\n\n"
    path = write(tmp_path / "a.tsv", content)
    assert read_pairs((path,)) == [("a", "b"), ("e", "f")]
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{path}: 7 of 9 lines have an empty side and are left out: "
        "line 2, line 3, line 4, line 5, line 6, and 2 more"
    )
    caplog.clear()
    path = write(tmp_path / "a.csv", 'a,b\n"c\n",\n"",d\ne,f\n')
    assert read_pairs((path,)) == [("a", "b"), ("e", "f")]
    assert "2 of 4 lines have an empty side and are left out: line 2, line 4" in caplog.text
    caplog.clear()
    write_two(tmp_path, "two", ["a", "", "c", "d", ""], ["1", "2", " ", "4", ""])
    pairs = read_pairs((tmp_path / "two.de", tmp_path / "two.en"))
    assert pairs == [("a", "1"), ("d", "4")]
    assert "two.en: 2 of 4 lines have an empty side and are left out: line 2, line" in caplog.text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", "a\tb\nc\n", "line 2: it has 1 column, and a sentence, a tab and its transl"),
        ("a.tsv", "a\tb\nc\td\te\n", "line 2: it has 3 columns, and 2 are expected.*first line th"),
        ("a.tsv", "Go\tGeh\tCC-BY\n", "line 1: it has 3 columns.*as data.translation.source_lang"),
        ("a.tsv", "source\ttarget\nc\n", "line 2: it has 1 column, and its first row has 2$"),
        ("a.csv", "a,b\nc,d, e\n", r"line 2: it has 3 .*\(a sentence with a comma .* in quotes\)"),
        ("a.csv", 'a,b\n\n"c,d\n', "line 3: unexpected end of data: is a quote not closed"),
        ("a.tsv", "a\tb\nGrüße\tHi\n".encode("latin-1"), "line 2: the byte 0xfc is none of UTF-8"),
        ("a.tsv", b"\x89PNG\r\n\x1a\n\0\0", "line 1: the byte 0x89"),
        ("a.tsv", "", "there is no sentence with a translation"),
        ("a.tsv", "\n\n", "there is no sentence with a translation"),
        ("a.csv", "source,target\n", "there is no sentence with a translation"),
        ("a.jsonl", "{}", r"is no table \(.tsv, .csv, .txt, .tab\): if it is one of two files"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=f"(?s){path}.*{message}") as error:
        read(str(path), NO)
    assert "\n" not in str(error.value)


# Two files.


def test_two_files(tmp_path):
    write_two(tmp_path, "c", *zip(*PAIRS))
    write_two(tmp_path, "other", ["x"], ["y"])
    assert read(str(tmp_path / "c"), DE_EN) == {"all": PAIRS}
    turned = [(target, source) for source, target in PAIRS]
    assert read(str(tmp_path / "c"), ("EN", "DE")) == {"all": turned}
    assert read(str(tmp_path), DE_EN) == {"all": [*PAIRS, ("x", "y")]}


def test_files_of_splits_in_a_folder(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    for stem in ("train", "val", "test.2016"):
        write_two(tmp_path, stem, [f"{stem} de"], [f"{stem} en"])
    write_two(tmp_path, "newstest", ["x"], ["y"])
    write(tmp_path / "README.txt", "about")
    found = read(str(tmp_path), DE_EN)
    assert found == {
        "train": [("train de", "train en")],
        "val": [("val de", "val en")],
        "test": [("test.2016 de", "test.2016 en")],
    }
    assert "2 files are of no split and are left out, such as 'newstest.de'" in caplog.text
    assert "1 files are of no pair and are left out, such as 'README.txt'" in caplog.text


def test_what_is_beside_a_test_is_trained_on(tmp_path):
    for stem in ("europarl-v7.de-en", "news.de-en", "dev", "test"):
        write_two(tmp_path, stem, [f"{stem} 1"], [f"{stem} 2"])
    found = read(str(tmp_path), DE_EN)
    assert [source for source, _ in found["train"]] == ["europarl-v7.de-en 1", "news.de-en 1"]
    assert found["val"] == [("dev 1", "dev 2")]
    assert found["test"] == [("test 1", "test 2")]


@pytest.mark.parametrize("ends", [("de.txt", "en.txt"), ("DE", "EN")])
def test_folders_of_splits(tmp_path, ends):
    for folder in ("training", "test"):
        write_two(tmp_path / folder, "a", [f"{folder} x"], ["y"], ends)
    write(tmp_path / "test" / "tab.tsv", "a\tb")
    expected = {"train": [("training x", "y")], "test": [("test x", "y")]}
    assert read(str(tmp_path), DE_EN) == expected


def test_a_folder_of_tables(tmp_path):
    for split in ("train", "valid", "test"):
        write(tmp_path / f"{split}.tsv", f"{split}\tx\n")
    write(tmp_path / "README.txt", "about")
    write(tmp_path / ".hidden.tsv", "a")
    found = read(str(tmp_path), NO)
    assert found == {"train": [("train", "x")], "val": [("valid", "x")], "test": [("test", "x")]}
    write(tmp_path / "b" / "a.tsv", "a\tx\n")
    write(tmp_path / "b" / "README.txt", "about")
    assert read(str(tmp_path / "b"), NO) == {"all": [("a", "x")]}


def test_lines_of_two_files_that_differ_in_number(tmp_path):
    write_two(tmp_path, "c", ["a", "b", "c"], ["1", "2"])
    message = rf"{tmp_path}/c\.de has 3 and {tmp_path}/c\.en has 2 lines: the n-th line of one must"
    with pytest.raises(ValueError, match=message):
        read(str(tmp_path / "c"), DE_EN)
    write_two(tmp_path, "c", ["a", "b", "", " "], ["1", "2"])  # but for empty ones at the end
    assert read(str(tmp_path / "c"), DE_EN)["all"] == [("a", "1"), ("b", "2")]
    write(tmp_path / "c.de", "a\nGrüße\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"c\.de line 2: the byte 0xfc"):
        read(str(tmp_path / "c"), DE_EN)


@pytest.mark.parametrize(
    ("files", "source", "languages", "message"),
    [
        ([], "none", DE_EN, "there is no file or folder .*none, and none such as .*none.de"),
        ([], "", DE_EN, r"has no files, and no sentences: it takes tables \(.tsv, .csv, .txt, .t"),
        (["c.de", "c.en"], "", NO, r"has c.de, c.en, and no sentences: .* which are '' and ''"),
        (["c.de", "c.en"], "c", NO, r"c: there are c.de, c.en; of two files one must end in data"),
        (["c.de", "c.en"], "c", ("de", "fr"), r"c.de has no file beside it with its translations"),
        (["c.de", "d.en"], "", DE_EN, r"c.de has no file beside it with its translations: of two"),
        (["c.de", "c.en"], "c.de", DE_EN, r"c.de is no table .*--config.data.source=corpus/train"),
    ],
)
def test_files_that_are_not_found(tmp_path, files, source, languages, message):
    for name in files:
        write(tmp_path / name, "a\n")
    with pytest.raises(ValueError, match=message) as error:
        read(str(tmp_path / source), languages)
    assert "\n" not in str(error.value)


# The command that checks.


def test_check(tmp_path, capsys):
    write_two(tmp_path, "train", ["a b", "a b", "c", "same", "", "l"], ["x", "x", "y", "same", "z",
                                                                       "far " * 30])  # fmt: skip
    write_two(tmp_path, "test", ["c", "d"], ["y y", "z"])
    arguments = [str(tmp_path), "--kind=translation", "--source_language=de"]
    assert check.main([*arguments, "--target_language=en"]) == 1
    out = capsys.readouterr().out
    assert "train: 5 pairs\n    source: 1.4 words on average, the longest has 2: 'a b'" in out
    assert "    target: 6.8 words on average, the longest has 30: 'far far" in out
    problems = [line for line in out.splitlines() if line.startswith("PROBLEM")]
    train = f"{tmp_path}/train.de and {tmp_path}/train.en"
    assert problems == [
        f"PROBLEM  {train}: 1 of 6 lines have an empty side and are left out: line 5",
        "PROBLEM  train: 1 pairs are there several times: 'a b' = 'x'",
        "PROBLEM  train: 1 pairs are not translated: 'same' = 'same'",
        "PROBLEM  train: 1 pairs have one side more than 3 times as long: 'l' = "
        "'far far far far far far far far far f...'",
        "PROBLEM  1 sources are in several splits: 'c'",
    ]
    path = write(tmp_path / "good" / "a.tsv", TWO)
    assert check.main([str(path), "--kind=translation"]) == 0
    assert capsys.readouterr().out.endswith("no problems\n")
    assert check.main([str(tmp_path / "no"), "--kind=translation"]) == 2
    assert "error: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        check.main([str(path), "--kind=captions", "--source_language=de"])
