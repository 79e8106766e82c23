"""Files that say what is to be seen in images: tables, JSON, and those of Flickr and COCO.

Each is read as rows of an image's name and what is said of it, in the order of the file.
"""

import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from input_pipeline import files
from input_pipeline.sources import splitting

SUFFIXES = (".csv", ".tsv", ".txt", ".json", ".jsonl", ".ndjson", ".token")

# What the columns of a table, or the keys of an object, are called, the likeliest first.
IMAGE = (
    "image", "image_path", "image_file", "image_name", "file_path", "filepath", "path",
    "file_name", "filename", "file", "img", "img_path", "photo", "name",
)  # fmt: skip
_CAPTION = ("caption", "sentence", "text", "comment", "description", "title")
SPLIT = ("split", "subset", "partition")
_REST = "restval"  # of COCO's val, which Karpathy gives to training

_FLICKR8K = re.compile(r"(?P<image>[^\t]+)#\d+\t(?P<caption>.*)")
# Flickr30k's has a row in which the second bar is missing.
_FLICKR30K = re.compile(r"(?P<image>[^|]+)\|\s*\d+(\s*\||\s)(?P<caption>.*)")
DELIMITERS = (",", "\t", ";", "|")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a file says of an image in one place.

    Attributes:
        image: its name, a path from some folder on.
        captions: at least one, none of which is empty.
        where: the place, such as "line 7".
        split: "train", "val" or "test"; "" if the file does not say.
    """

    image: str
    captions: tuple[str, ...]
    where: str
    split: str = ""


def read(path: Path) -> list[Row]:
    """Reads a file.

    Args:
        path: of a table with a header (.csv, .tsv, or such as captions.txt); JSON: COCO's
            annotations, Karpathy's splits, a list of objects, or captions by name; an object per
            line (.jsonl); Flickr8k's tokens, or Flickr30k's results.

    Returns:
        Its rows, of which there is at least one.

    Raises:
        ValueError: if it cannot be read, or rows of it cannot be used; the message names the file
            and the lines.
    """
    text = read_text(path)
    faults: list[str] = []
    suffix = path.suffix.lower()
    if suffix == ".json":
        found = _rows_of_json(_parse_json(text, path), path, faults)
    elif suffix in (".jsonl", ".ndjson"):
        found = _rows_of_lines(text, path, faults)
    elif _FLICKR8K.match(text.lstrip()):
        found = _rows_by_pattern(text, _FLICKR8K, 1, faults)
    else:
        found = _rows_of_table(text, path, faults)
    rows = [row for row in (_clean(row, faults) for row in found) if row is not None]
    if faults:
        raise ValueError(
            f"{path}: {len(faults)} of its rows cannot be used: {files.some(faults, most=3)}"
        )
    if not rows:
        raise ValueError(f"{path} has no captions")
    return rows


def read_text(path: Path) -> str:
    """Reads a file of text, UTF-8 or UTF-16 with its mark.

    Raises:
        ValueError: if it cannot be read; of a file in another encoding the line is named.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} line {line}: the byte 0x{data[error.start]:02x} is none of UTF-8 text: save "
            "the file as UTF-8"
        ) from None


def clean(caption: str) -> str:
    """A caption in one line, without blanks around it."""
    return " ".join(caption.splitlines()).strip()


def _clean(row: Row, faults: list[str]) -> Row | None:
    """A row as it is used; None, and a fault, if it cannot be."""
    captions = tuple(filter(None, map(clean, row.captions)))
    split = ""
    if len(row.image.strip().splitlines()) != 1:
        faults.append(f"{row.where}: an image must have a name in one line")
    elif any(text.encode(errors="replace").decode() != text for text in (row.image, *captions)):
        faults.append(f"{row.where}: it holds half of a surrogate pair, which is no text")
    elif not captions:
        faults.append(f"{row.where}: the caption of {row.image.strip()!r} is empty")
    elif row.split and not (split := _split_of(row.split)):
        faults.append(f"{row.where}: the split {row.split!r} is none of train, val and test")
    else:
        return Row(row.image.strip(), captions, row.where, split)
    return None


def _split_of(name: str) -> str:
    return "train" if name == _REST else splitting.split_of(name) or ""


# Tables.


def _rows_of_table(text: str, path: Path, faults: list[str]) -> Iterator[Row]:
    header, _, _ = text.lstrip().partition("\n")
    for delimiter in DELIMITERS:
        names = [plain_name(name) for name in header.split(delimiter)]
        image, captions = find_column(names, IMAGE), _find_captions(names)
        if image is not None and captions:
            break
    else:
        raise ValueError(
            f"{path}: its first line must name the columns, an image ({', '.join(IMAGE[:4])}, "
            f"path, ...) and captions ({', '.join(_CAPTION[:4])}, ...), and is "
            f"{header.strip()[:80]!r}"
        )
    if delimiter == "|" and len(names) == 3:
        yield from _rows_by_pattern(text, _FLICKR30K, 2, faults, start=1)
        return
    split = find_column(names, SPLIT)
    lines = _lines_of_tabs(text) if delimiter == "\t" else lines_of_csv(text, delimiter, path)
    next(lines)
    for number, fields in lines:
        if len(fields) != len(names):
            faults.append(
                f"line {number}: it has {len(fields)} fields and the header {len(names)} "
                f"(a caption with {'a tab' if delimiter == chr(9) else repr(delimiter)} in it must "
                "be in quotes)"
            )
            continue
        said = tuple(fields[i] for i in captions)
        yield Row(fields[image], said, f"line {number}", fields[split] if split is not None else "")


def plain_name(name: str) -> str:
    """The name of a column as it is looked up."""
    return re.sub(r"[\s-]+", "_", name.strip().strip('"').strip().lower())


def find_column(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The number of the column that has the first of the known names that there is."""
    return next((names.index(name) for name in known if name in names), None)


def _find_captions(names: Sequence[str]) -> list[int]:
    """Numbers of the columns of captions, which may be called caption_1, caption_2, ..."""
    for word in _CAPTION:
        pattern = re.compile(rf"{word}s?(_?\d+)?")
        if found := [i for i, name in enumerate(names) if pattern.fullmatch(name)]:
            return found
    return []


def lines_of_csv(text: str, delimiter: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Numbers and fields of the lines that are not empty; a ValueError names one that is none."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    before = 0
    try:
        for fields in reader:
            if fields:
                yield before + 1, fields
            before = reader.line_num
    except csv.Error as error:
        raise ValueError(f"{path} line {before + 1}: {error}: is a quote not closed?") from None


def _lines_of_tabs(text: str) -> Iterator[tuple[int, list[str]]]:
    """Fields between tabs, in which a quote is most often just a quote."""
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, [_unquoted(field) for field in line.split("\t")]


def _unquoted(field: str) -> str:
    is_quoted = len(field) > 1 and field[0] == field[-1] == '"'
    return field[1:-1].replace('""', '"') if is_quoted else field


def _rows_by_pattern(
    text: str, pattern: re.Pattern[str], bars: int, faults: list[str], start: int = 0
) -> Iterator[Row]:
    what = "IMAGE#NUMBER, a tab, CAPTION" if bars == 1 else "IMAGE | NUMBER | CAPTION"
    for number, line in list(enumerate(text.split("\n"), 1))[start:]:
        match = pattern.fullmatch(line.rstrip("\r"))
        if match:
            yield Row(match["image"], (match["caption"],), f"line {number}")
        elif line.strip():
            faults.append(f"line {number}: it is not {what}")


# JSON.


def _parse_json(text: str, path: Path, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = line or error.lineno
        raise ValueError(f"{path} line {where}: no JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{path}: no captions, but JSON nested too deeply") from None


def _rows_of_lines(text: str, path: Path, faults: list[str]) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            entry = _parse_json(line, path, number)
            yield from _rows_of_object(entry, f"line {number}", faults)


def _rows_of_json(data: Any, path: Path, faults: list[str]) -> Iterator[Row]:
    if isinstance(data, list):
        yield from _rows_of_list(data, faults)
    elif isinstance(data, dict) and isinstance(data.get("annotations"), list):
        if data.get("images"):
            yield from _rows_of_coco(data, path, faults)
        else:
            yield from _rows_of_list(data["annotations"], faults)
    elif isinstance(data, dict) and isinstance(data.get("images"), list):
        yield from _rows_of_list(data["images"], faults)
    elif isinstance(data, dict) and all(_texts_in(value) for value in data.values()):
        for name, value in data.items():
            yield Row(name, _texts_in(value) or (), f"entry {name!r}")
    else:
        raise ValueError(
            f"{path} has no captions that could be read: it must be as COCO's or Karpathy's, a "
            'list of objects such as {"image": ..., "caption": ...}, or captions by image names'
        )


def _rows_of_list(entries: Sequence[Any], faults: list[str]) -> Iterator[Row]:
    for number, entry in enumerate(entries, 1):
        yield from _rows_of_object(entry, f"entry {number}", faults)


def _rows_of_object(entry: Any, where: str, faults: list[str]) -> Iterator[Row]:
    """One row, of an object such as {"image": ..., "caption": ...}, or one of Karpathy's."""
    if not isinstance(entry, dict):
        faults.append(f"{where}: no object, but {str(entry)[:40]!r}")
        return
    keys = {plain_name(str(key)): key for key in entry}
    names = list(keys)
    image, captions, split = (
        find_column(names, IMAGE),
        _find_captions(names),
        find_column(names, SPLIT),
    )
    if image is None or not captions:
        faults.append(f"{where}: it has no {'image' if image is None else 'caption'}, but "
                      f"{', '.join(names)}")  # fmt: skip
        return
    name = entry[keys[names[image]]]
    if {"filepath", "filename"} <= set(names):  # Karpathy's folder and name
        name = f"{entry[keys['filepath']]}/{entry[keys['filename']]}"
    said = [_texts_in(entry[keys[names[i]]]) for i in captions]
    if not isinstance(name, str) or None in said:
        faults.append(f"{where}: the image and its captions must be text")
        return
    own_split = str(entry[keys[names[split]]]) if split is not None else ""
    yield Row(name, tuple(text for texts in said for text in texts or ()), where, own_split)


def _texts_in(value: Any) -> tuple[str, ...] | None:
    """Texts of a string, a list of strings, or of objects such as {"raw": ...}; None of others."""
    if isinstance(value, str):
        return (value,)
    if not isinstance(value, list):
        return None
    texts = [_text_of(item) if isinstance(item, Mapping) else item for item in value]
    return tuple(texts) if all(isinstance(text, str) for text in texts) else None


def _text_of(item: Mapping[str, Any]) -> Any:
    return next((item[key] for key in ("raw", *_CAPTION) if key in item), None)


def _rows_of_coco(data: Mapping[str, Any], path: Path, faults: list[str]) -> Iterator[Row]:
    names: dict[str, str] = {}  # by the id as text, since an id may be any JSON
    for number, entry in enumerate(data["images"], 1):
        if isinstance(entry, dict) and isinstance(entry.get("file_name"), str) and "id" in entry:
            names[str(entry["id"])] = entry["file_name"]
        else:
            faults.append(f"image {number}: it has no id and file_name")
    annotations = data["annotations"]
    if annotations and not any("caption" in one for one in annotations if isinstance(one, dict)):
        raise ValueError(f"{path} has annotations without captions: COCO's are in captions_*.json")
    for number, one in enumerate(annotations, 1):
        where = f"annotation {number}"
        if not isinstance(one, dict) or not isinstance(one.get("caption"), str):
            faults.append(f"{where}: it has no caption")
        elif str(one.get("image_id")) not in names:
            faults.append(f"{where}: there is no image {one.get('image_id')!r}")
        else:
            yield Row(names[str(one["image_id"])], (one["caption"],), where)
