"""Searches photos by words or by a photo: python -m vit_jax.search "a red car", or a file.

    python -m vit_jax.search index FOLDER... --weights=FILE     embeds the photos, once
    python -m vit_jax.search WORDS_OR_PHOTO                     finds those that are nearest
    python -m vit_jax.search duplicates                         lists those that are nearly the same

--index says where the vectors are kept; the words are compared by the model that made them.
"""

import csv
import logging
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from absl import flags

from checkpoints import files
from input_pipeline.files import is_image
from vit_jax import photos
from vit_jax.machinery import cli, model_flags
from vit_jax.machinery.output_flag import OUTPUT

if TYPE_CHECKING:  # with JAX, which takes a second to import
    from vit_jax.photo_index import Hit, PhotoIndex

_LOG = logging.getLogger("vit_jax.search")  # also when it is run as __main__

_INDEX = flags.DEFINE_string("index", "photos.npz", "The file in which photos' vectors are kept.")
_TOP = flags.DEFINE_integer("top", 20, "How many photos are shown.", lower_bound=1)
_LEAST = flags.DEFINE_float(
    "least", 0.95, "Of duplicates: the cosine of two photos that are nearly the same."
)

_SIDE = 240  # pixels of a photo on the contact sheet
_COLUMNS, _MOST_SHOWN = 5, 50
_NAME_COLUMNS = 26
_VERBS = ("index", "duplicates")


def main(argv: Sequence[str]) -> int:
    """Makes an index, or answers from one; returns the exit code."""
    verb, *rest = argv[1:] or ("",)
    if not verb:
        raise ValueError(
            "say what to do: index FOLDER, to look at photos once; then WORDS or PHOTO, to find "
            "some; or duplicates"
        )
    from vit_jax import photo_index

    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # see vit_jax.predict
    target = Path(_INDEX.value).expanduser()
    if verb == "index":
        return _make(rest, target)
    if rest:
        raise ValueError(f"{verb!r} and {rest[0]!r}: ask one thing; several words go in quotes")
    index = photo_index.load(target)
    if verb == "duplicates":
        return _duplicates(index)
    return _search(index, verb, target)


def _make(folders: Sequence[str], target: Path) -> int:
    """Makes an index, or brings one up to date."""
    from vit_jax import photo_index
    from vit_jax.embedder import Embedder

    missing = [folder for folder in folders if not Path(folder).is_dir()]
    if missing or not folders:
        raise ValueError(f"there is no folder {missing[0]}" if missing else "say which FOLDER")
    index = photo_index.load(target) if target.exists() else None
    found = photos.find_images(folders)
    embedder = Embedder(_load_model(index))
    if index is None:
        index = photo_index.new(embedder, _weights_given())
    index.check(embedder, target)
    begin = time.monotonic()
    done = photo_index.update(index, embedder, found, [Path(folder) for folder in folders], target)
    seconds = time.monotonic() - begin
    print(
        f"{target}: {len(index.files)} photos, vectors of {embedder.size} numbers by "
        f"{index.model}; {done.embedded} embedded in {seconds:.1f} s, {done.known} known already, "
        f"{done.gone} gone or moved"
    )
    if done.bad:
        _LOG.error("%d of %d could not be read", done.bad, len(found))
    return 1 if done.bad else 0


def _weights_given() -> str:
    """What --weights or --workdir says, so that it is found from another folder, too."""
    from vit_jax.weights import get_absolute

    return get_absolute(model_flags.path_given() or "")


def _load_model(index: "PhotoIndex | None") -> Any:
    """The model that the flags say, or else the index."""
    if index is not None and model_flags.path_given() is None:
        return model_flags.load_from(index.weights)
    return model_flags.load()


def _search(index: "PhotoIndex", query: str, target: Path) -> int:
    """Finds photos, and shows them."""
    from vit_jax.embedder import Embedder

    path = Path(query).expanduser()
    is_photo = path.is_file() or is_image(path)
    if is_photo and not path.is_file():
        raise ValueError(f"there is no photo {query}")
    embedder = Embedder(_load_model(index))
    index.check(embedder, target)
    if is_photo:
        ((_, vector, problem),) = embedder.files([path])
        if vector is None:
            raise ValueError(f"cannot read {query}: {problem}")
    else:
        vector = embedder.texts([query])[0]
    begin = time.perf_counter()
    hits = index.search(vector, _TOP.value)
    milliseconds = (time.perf_counter() - begin) * 1000
    print(f"rank  cosine  photo ({len(index.contents)} searched in {milliseconds:.1f} ms)")
    for rank, hit in enumerate(hits, start=1):
        print(f"{rank:4}  {hit.cosine:6.4f}  {hit.path}")
    if OUTPUT.value is not None and hits:
        stem = _stem(path.stem if is_photo else query)
        rows = [(rank, f"{h.cosine:.6f}", h.path) for rank, h in enumerate(hits, start=1)]
        title = f"nearest to {path.name if is_photo else repr(query)}"
        asked = [(query, "asked for")] if is_photo else []
        shown = [*asked, *((h.path, f"{h.cosine:.3f}") for h in hits[:_MOST_SHOWN])]
        _write(Path(OUTPUT.value), stem, ("rank", "cosine", "file"), rows, shown, title)
    return 0


def _duplicates(index: "PhotoIndex") -> int:
    """Lists groups of photos that are nearly the same."""
    groups = index.duplicates(_LEAST.value)
    count = sum(map(len, groups))
    print(f"{len(groups)} groups of photos with a cosine of {_LEAST.value} or more, {count} files")
    for number, hits in enumerate(groups, start=1):
        print(f"group {number}")
        for hit in hits:
            print(f"  {hit.cosine:6.4f}  {hit.path}{_same_bytes(index, hit, hits[0])}")
    if OUTPUT.value is not None and groups:
        numbered = [(i, hit) for i, hits in enumerate(groups, start=1) for hit in hits]
        rows = [(i, f"{hit.cosine:.6f}", hit.path) for i, hit in numbered]
        shown = [(hit.path, f"group {i}: {hit.cosine:.3f}") for i, hit in numbered[:_MOST_SHOWN]]
        title = f"groups of a cosine of {_LEAST.value} or more"
        header = ("group", "cosine with the first", "file")
        _write(Path(OUTPUT.value), "duplicates", header, rows, shown, title)
    return 0


def _same_bytes(index: "PhotoIndex", hit: "Hit", first: "Hit") -> str:
    contents = [index.files[path].content for path in (hit.path, first.path)]
    return "  (the same bytes)" if hit is not first and contents[0] == contents[1] else ""


def _stem(text: str) -> str:
    """A file's name for what was asked."""
    return re.sub(r"[^\w.-]+", "-", text.strip()).strip("-.") or "found"


def _write(
    folder: Path,
    stem: str,
    header: Sequence[str],
    rows: Sequence[Sequence[object]],
    shown: Sequence[tuple[str, str]],
    title: str,
) -> None:
    """Writes a table and a contact sheet; those of the same question before are replaced.

    Args:
        folder: where to.
        stem: of both names.
        header: of the table.
        rows: of the table.
        shown: photos of the sheet, each with what stands over it before its name.
        title: of the sheet.
    """
    from vit_jax import fonts, report  # matplotlib takes a while to import

    folder.mkdir(parents=True, exist_ok=True)
    table = folder / files.with_ending(stem, ".csv")
    with table.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)
    names = ["/".join(Path(path).parts[-2:]) for path, _ in shown]  # alike in several folders
    names = [fonts.shorten(name, _NAME_COLUMNS, tail=14) for name in names]
    figure = report.draw_images(
        [thumbnail(path, _SIDE) for path, _ in shown],
        [f"{words}\n{name}" for (_, words), name in zip(shown, names)],
        title=fonts.shorten(title, 90),
        columns=_COLUMNS,
        width=2.1,
    )
    sheet = folder / files.with_ending(stem, ".png")
    report.save(figure, sheet)
    _LOG.info("wrote %s and %s", table, sheet)


def thumbnail(path: str, side: int) -> np.ndarray:
    """(side, side, 3) uint8: a photo upright in the middle of a white square; grey if it is gone.

    Args:
        path: of the photo.
        side: in pixels.
    """
    from PIL import Image, ImageOps

    from input_pipeline.files import decode_in_python

    sheet = Image.new("RGB", (side, side), "white")
    try:
        photo = Image.fromarray(decode_in_python(Path(path).read_bytes()))
    except (OSError, ValueError):
        return np.full((side, side, 3), 200, np.uint8)
    small = ImageOps.contain(photo, (side, side), Image.Resampling.BICUBIC)
    sheet.paste(small, ((side - small.width) // 2, (side - small.height) // 2))
    return np.asarray(sheet)


if __name__ == "__main__":
    cli.run(main)
