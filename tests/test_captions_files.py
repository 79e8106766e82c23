"""Files of captions, and where they and their images lie."""

import pytest

from input_pipeline.sources import captions_files, captions_layouts, get_splits
from tests.captioned_images import captions_config, photos, write


def read(tmp_path, name, content, **how):
    rows = captions_files.read(write(tmp_path / name, content, **how))
    return [(row.image, *row.captions, *([row.split] if row.split else [])) for row in rows]


def found(folder, **changes):
    """Captions by image name, by split."""
    splits = captions_layouts.find(folder, **changes).splits
    return {split: {one.name: one.captions for one in some} for split, some in splits.items()}


# Files


COCO = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 9, "id": 1, "caption": "A bee."},
        {"image_id": 7, "id": 2, "caption": "An ape.\n"},
        {"image_id": 9, "id": 3, "caption": "Bees"},
    ],
}
KARPATHY = {
    "dataset": "coco",
    "images": [
        {"filepath": "val2014", "filename": "a.jpg", "split": split, "imgid": 0, "sentids": [0],
         "sentences": [{"raw": "An ape", "tokens": ["an", "ape"]}, {"raw": "Apes"}]}
        for split in ("train", "restval", "test")
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "rows"),
    [
        ("c.csv", 'image,caption\na.jpg,"one, two"\nb.jpg,"a ""b"""\n\n', [
            ("a.jpg", "one, two"), ("b.jpg", 'a "b"')]),
        ("captions.txt", "image,caption\na.jpg,one\n", [("a.jpg", "one")]),
        ("c.csv", "\ufeffFile Name;Split;Text\na.jpg;dev;ä\n", [("a.jpg", "ä", "val")]),
        ("c.tsv", 'path\tcaption_1\tcaption_2\nx/a.jpg\tsay "no\t"b"\nb.jpg\t\tc\n', [
            ("x/a.jpg", 'say "no', "b"), ("b.jpg", "c")]),
        ("c.csv", 'id,image,title,caption\n1,a.jpg,no,"two\nlines"\n', [("a.jpg", "two lines")]),
        ("r.csv", "image|text\na.jpg| one\n", [("a.jpg", "one")]),
        ("results.csv", 'image_name| comment_number| comment\na.jpg| 0| Two "men .\n'
         "a.jpg| 4   A dog .\n", [("a.jpg", 'Two "men .'), ("a.jpg", "A dog .")]),
        ("Flickr8k.token.txt", "a.jpg#0\tA child .\na.jpg#1\tA #1\tgirl\n", [
            ("a.jpg", "A child ."), ("a.jpg", "A #1\tgirl")]),
        ("results_20130124.token", "a.jpg#0\tMen\n", [("a.jpg", "Men")]),
        ("c.json", COCO, [("b.jpg", "A bee."), ("a.jpg", "An ape."), ("b.jpg", "Bees")]),
        ("c.json", KARPATHY, [
            ("val2014/a.jpg", "An ape", "Apes", split) for split in ("train", "train", "test")]),
        ("c.json", [{"image": "a.jpg", "captions": ["one", "two"]}], [("a.jpg", "one", "two")]),
        ("c.json", {"annotations": [{"file": "a.jpg", "text": "x"}]}, [("a.jpg", "x")]),
        ("c.json", {"a.jpg": "one", "b.jpg": ["two", "three"]}, [
            ("a.jpg", "one"), ("b.jpg", "two", "three")]),
        ("c.jsonl", '{"file_name": "a.jpg", "text": "one"}\n\n{"image": "b", "caption": "t"}', [
            ("a.jpg", "one"), ("b", "t")]),
    ],
)  # fmt: skip
def test_files_of_captions(tmp_path, name, content, rows):
    assert read(tmp_path, name, content) == rows


def test_utf_16_is_read(tmp_path):
    assert read(tmp_path, "c.csv", "image,caption\na,ü\n", encoding="utf-16") == [("a", "ü")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", "a.jpg,one\n", r"c.csv: its first line must name the columns.* is 'a.jpg,one'"),
        ("c.csv", "image,caption\na.jpg,one, two\nb.jpg,x\n",
         r"c.csv: 1 of its rows cannot be used: line 2: it has 3 fields and the header 2"),
        ("c.csv", 'image,caption\na.jpg,x\nb.jpg,"x\nc.jpg,y\n', r"c.csv line 3: .*quote"),
        ("c.csv", "image,caption\na.jpg,\n,x\n", r"c.csv: 2 of its rows.* line 2: the caption of "
         r"'a.jpg' is empty, line 3: an image must have a name"),
        ("c.csv", "image,caption,split\na.jpg,x,later\n", "line 2: the split 'later' is none of"),
        ("c.csv", "image,caption\n", "c.csv has no captions"),
        ("results.csv", "image_name| comment_number| comment\nrubbish\n", "2: it is not IMAGE"),
        ("x.token.txt", "a.jpg#0\tx\nrubbish\n", "line 2: it is not IMAGE#NUMBER, a tab"),
        ("c.json", '{"a": ', "c.json line 1: no JSON"),
        ("c.jsonl", '{"image": "a", "caption": "b"}\n{"image"', "c.jsonl line 2: no JSON"),
        ("c.jsonl", '{"image": "a", "number": 3}', "line 1: it has no caption, but image, number"),
        ("c.json", [{"image": "a", "caption": 3}], "entry 1: the image and its captions must be"),
        ("c.json", {"annotations": [{"bbox": 1}], "images": [{"id": 1, "file_name": "a"}]},
         "annotations without captions: COCO's are in captions_"),
        ("c.json", {**COCO, "images": COCO["images"][:1]}, "annotation 1: there is no image 9"),
        ("c.json", {**COCO, "images": [{"id": 1, "file": "a"}]}, "image 1: it has no id and"),
        ("c.json", {"images": COCO["images"], "annotations": [{"image_id": {}, "caption": "x"}]},
         "annotation 1: there is no image {}"),
        ("c.json", {"a": 3}, "no captions that could be read: it must be as COCO's"),
        ("c.json", '[{"image": "a", "caption": "\\ud800"}]', "entry 1: it holds half of a surr"),
        ("c.json", [3], "entry 1: no object, but '3'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_with_the_line(tmp_path, name, content, message):
    with pytest.raises(ValueError, match=message):
        captions_files.read(write(tmp_path / name, content))


def test_another_encoding_is_said_with_the_line(tmp_path):
    path = write(tmp_path / "c.csv", "image,caption\na.jpg,café\n", encoding="latin-1")
    with pytest.raises(ValueError, match=r"c.csv line 2: the byte 0xe9 is none of UTF-8"):
        captions_files.read(path)


# Folders


@pytest.mark.parametrize("where", ["", "images", "all/train2014"])
@pytest.mark.parametrize("place", ["", "annotations"])
def test_images_are_found(tmp_path, where, place):
    photos(tmp_path / where, "a.png", "b.png")
    write(tmp_path / place / "captions.csv", "image,caption\na.png,x\nb.png,y\na.png,z\n")
    assert found(tmp_path) == {"all": {"a.png": ("x", "z"), "b.png": ("y",)}}


def test_a_file_itself_can_be_the_source(tmp_path):
    photos(tmp_path / "images", "a.png")
    path = write(tmp_path / "mine.csv", "image,caption\na.png,x\n")
    assert found(path) == {"all": {"a.png": ("x",)}}


def test_coco(tmp_path):
    """A file for each split, beside others, and folders of the same names."""
    names = {"train": "train2017", "val": "val2017"}
    for name in names.values():
        photos(tmp_path / name, "a.jpg", "b.jpg")
        write(tmp_path / "annotations" / f"captions_{name}.json", COCO)
        write(tmp_path / "annotations" / f"instances_{name}.json", "{")
    splits = captions_layouts.find(tmp_path).splits
    assert set(splits) == set(names)
    for split, name in names.items():
        assert {one.image for one in splits[split]} == {
            tmp_path / name / "a.jpg",
            tmp_path / name / "b.jpg",
        }
        assert {one.name: one.captions for one in splits[split]} == {
            "a.jpg": ("An ape.",), "b.jpg": ("A bee.", "Bees")
        }  # fmt: skip


def test_karpathys_splits(tmp_path):
    photos(tmp_path / "val2014", "0.png", "1.png", "2.png", "3.png")
    entries = [
        {"filepath": "val2014", "filename": f"{i}.png", "split": split, "sentences": [{"raw": "x"}]}
        for i, split in enumerate(("train", "restval", "val", "test"))
    ]
    write(tmp_path / "dataset_coco.json", {"images": entries})
    got = {split: list(images) for split, images in found(tmp_path).items()}
    assert got == {
        "train": ["val2014/0.png", "val2014/1.png"],
        "val": ["val2014/2.png"],
        "test": ["val2014/3.png"],
    }


def test_flickr8ks_lists(tmp_path, caplog):
    photos(tmp_path / "Flicker8k_Dataset", *(f"{name}.jpg" for name in "abcd"))
    text = tmp_path / "Flickr8k_text"
    lines = "".join(f"{name}.jpg#{i}\t{name}{i}\n" for name in "abcd" for i in range(2))
    write(text / "Flickr8k.token.txt", lines)
    write(text / "Flickr8k.lemma.token.txt", lines)
    write(text / "readme.txt", "hello")
    for split, name in {"train": "a", "dev": "b", "test": "c"}.items():
        write(text / f"Flickr_8k.{split}Images.txt", f"{name}.jpg\n")
    assert found(tmp_path) == {
        "train": {"a.jpg": ("a0", "a1")},
        "val": {"b.jpg": ("b0", "b1")},
        "test": {"c.jpg": ("c0", "c1")},
    }
    (note,) = captions_layouts.find(tmp_path).notes
    assert note.startswith("1 images of ")
    assert note.endswith("are in no list of a split and are left out")


def test_texts_beside_images(tmp_path):
    photos(tmp_path, "a.png", "in/b.png", "token.png")
    write(tmp_path / "a.txt", "one\n\n two \r\n")
    write(tmp_path / "token.txt", "four")
    write(tmp_path / "in" / "b.txt", "three")
    write(tmp_path / "README.txt", "what this is")
    write(tmp_path / "metadata.json", "{}")
    assert found(tmp_path) == {
        "all": {"a.png": ("one", "two"), "in/b.png": ("three",), "token.png": ("four",)}
    }
    assert not captions_layouts.find(tmp_path).missing


@pytest.mark.parametrize("way", ["texts", "files"])
def test_folders_of_splits(tmp_path, way):
    for split in ("train", "valid", "test"):
        photos(tmp_path / split, "a.png")
        if way == "texts":
            write(tmp_path / split / "a.txt", split)
        else:
            write(tmp_path / split / "list.csv", f"image,caption\na.png,{split}\n")
    assert found(tmp_path) == {
        "train": {"a.png": ("train",)}, "val": {"a.png": ("valid",)}, "test": {"a.png": ("test",)}
    }  # fmt: skip


def test_files_that_are_called_by_their_splits(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    write(tmp_path / "train.csv", "image,caption\na.png,x\n")
    path = write(tmp_path / "val.csv", "image,caption\nb.png,y\n")
    assert found(tmp_path) == {"train": {"a.png": ("x",)}, "val": {"b.png": ("y",)}}
    write(path, "image,caption\na.png,y\n")
    with pytest.raises(
        ValueError, match=r"val.csv line 2: a.png is for val, and for train in .*n.csv"
    ):
        found(tmp_path)


def test_several_files_are_told_apart(tmp_path):
    photos(tmp_path, "a.png")
    for name in "xy":
        write(tmp_path / f"captions_{name}.csv", f"image,caption\na.png,{name}\n")
    with pytest.raises(ValueError, match=r"several files .*captions.file=captions_x.csv"):
        found(tmp_path)
    assert found(tmp_path, file="captions_y.csv") == {"all": {"a.png": ("y",)}}
    with pytest.raises(ValueError, match=r"captions.file='z.csv': there is no file"):
        found(tmp_path, file="z.csv")


def test_images_in_two_folders_are_told_apart(tmp_path):
    for name in ("large", "small"):
        photos(tmp_path / name, "a.png")
    write(tmp_path / "c.csv", "image,caption\na.png,x\n")
    with pytest.raises(ValueError, match=r"in .*large and in .*small: say which by .*images=large"):
        found(tmp_path)
    (one,) = captions_layouts.find(tmp_path, images="small").splits["all"]
    assert one.image == tmp_path / "small" / "a.png"
    with pytest.raises(ValueError, match=r"captions.images='none': there is no folder"):
        found(tmp_path, images="none")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no captions: put in a file of them such as captions.csv"),
        ({"c.csv": "image,caption\nb.png,x\n"}, r"none of them is there, such as b.png"),
        ({"c.csv": "image,caption,split\na.png,x,train\n./a.png,y,test\n"},
         r"c.csv line 3: ./a.png is for test, and for train in line 2: an image can be in one"),
        ({"a.txt": "\n"}, "1 images have no caption: .*a.txt is empty"),
        ({"train/a.txt": "", "test/1.csv": "image,caption\n../a.png,x"},
         "train holds no captions, and other splits do"),
    ],
)  # fmt: skip
def test_folders_that_cannot_be_used(tmp_path, files, message):
    photos(tmp_path, "a.png")
    for name, content in files.items():
        write(tmp_path / name, content)
    with pytest.raises(ValueError, match=message):
        found(tmp_path)


def test_images_that_are_missing_are_said(tmp_path, caplog):
    photos(tmp_path, "a.png", "b.png")
    write(tmp_path / "c.csv", "image,caption\na.png,x\nc.png,y\nc.png,z\nb.png,w\n")
    config = captions_config(tmp_path)
    message = (
        r"c.csv.*: 1 of 3 images are not there .*: c.png \(c.csv line 3\)\. Add .* other 2 by "
        "--config.data.captions.skip_missing=True"
    )
    with pytest.raises(ValueError, match=message) as error:
        get_splits(config)
    assert "\n" not in str(error.value)
    config.captions.skip_missing = True
    assert get_splits(config)["train"].names == ("a.png", "b.png")
    assert "1 of 3 images are not there" in caplog.text


def test_texts_and_images_without_each_other_are_said(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    for name in "ac":
        write(tmp_path / f"{name}.txt", "x")
    missing = captions_layouts.find(tmp_path).missing
    assert missing == ("b.png (without b.txt)", "c.jpg (named by c.txt)")


def test_captions_that_are_there_twice_are_said(tmp_path, caplog):
    photos(tmp_path, "a.png")
    write(tmp_path / "c.csv", "image,caption\na.png,x\na.png,y\na.png,x\n")
    assert get_splits(captions_config(tmp_path))["train"].columns["num_captions"] == [3]
    assert "1 captions are there twice of one image, and count twice: c.csv line 4" in caplog.text
