"""Vectors of a person's photos, kept by content: what `vit_jax.search` looks through.

A file that was moved or renamed is known by its content (SHA-256) and not embedded again; one that
has changed is. Files whose size and time of change are as they were are not read again.
"""

import dataclasses
import hashlib
import json
import logging
import os
import time
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import numpy as np

from checkpoints import files
from vit_jax import photos
from vit_jax.embedder import Embedder
from vit_jax.machinery import console

_LOG = logging.getLogger(__name__)

_VERSION = 1
_CHUNK = 128  # photos between two looks at whether to save
_SAVE_EVERY = 512  # new photos, at the least
_SHARE_OF_TIME = 0.05  # that saving may take, at the most
_ROWS = 512  # at a time, compared with all
_MOST_PAIRS = 1_000_000


class File(NamedTuple):
    """A file as it was when its content was read."""

    content: str
    size: int
    changed: int  # nanoseconds


class Hit(NamedTuple):
    """A photo that was found, and the cosine between its vector and what was asked for."""

    path: str
    cosine: float


@dataclasses.dataclass
class PhotoIndex:
    """Vectors of photos.

    Attributes:
        model: name of the model that made them.
        fingerprint: of that model, see `Embedder.fingerprint`.
        weights: where they lie, for a search that names none.
        vectors: (n, d) float32 of length 1, one per content.
        contents: SHA-256 of each, in hexadecimal digits.
        files: by their absolute paths.
    """

    model: str
    fingerprint: str
    weights: str
    vectors: np.ndarray
    contents: list[str]
    files: dict[str, File]

    def check(self, embedder: Embedder, path: Path) -> None:
        """Raises a ValueError if another model made the vectors, which cannot be compared then."""
        if self.fingerprint != embedder.fingerprint:
            raise ValueError(
                f"{path} was made with {self.weights} ({self.model}), and these weights of "
                f"{embedder.pretrained.name} are others, or have images prepared in another way: "
                "name the same, or choose another --index"
            )

    def save(self, path: Path) -> None:
        """Writes a .npz file, which appears whole or not at all."""
        about = {
            "version": _VERSION, "model": self.model, "fingerprint": self.fingerprint,
            "weights": self.weights, "contents": self.contents, "files": self.files,
        }  # fmt: skip
        text = np.frombuffer(json.dumps(about).encode(), np.uint8)
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.written_whole(path) as partial, partial.open("wb") as file:
            np.savez(file, vectors=self.vectors, about=text)

    def extend(self, contents: Sequence[str], vectors: np.ndarray) -> None:
        """Adds vectors (m, d) by their contents."""
        self.contents = [*self.contents, *contents]
        self.vectors = np.concatenate([self.vectors, vectors])

    def tidy(self) -> None:
        """Forgets vectors of which no file is left."""
        live = {file.content for file in self.files.values()}
        rows = [i for i, content in enumerate(self.contents) if content in live]
        self.vectors = self.vectors[rows]
        self.contents = [self.contents[i] for i in rows]

    def paths(self) -> list[list[str]]:
        """The files of each vector, sorted; one that no file has any more has none."""
        found: dict[str, list[str]] = {content: [] for content in self.contents}
        for path, file in sorted(self.files.items()):
            if file.content in found:
                found[file.content].append(path)
        return [found[content] for content in self.contents]

    def search(self, query: np.ndarray, count: int) -> list[Hit]:
        """Finds the files nearest to a vector (d,), by one matrix product; the best come first."""
        cosines = self.vectors @ query
        count = min(count, len(cosines))
        best = np.argpartition(-cosines, count - 1)[:count] if count else np.zeros(0, int)
        best = best[np.argsort(-cosines[best], kind="stable")]
        paths = self.paths_of(best)
        hits = [Hit(path, float(cosines[i])) for i in best for path in paths[self.contents[i]]]
        return hits[:count]

    def paths_of(self, rows: Iterable[int]) -> dict[str, list[str]]:
        """The files of some vectors by content, sorted."""
        wanted: dict[str, list[str]] = {self.contents[i]: [] for i in rows}
        for path, file in self.files.items():
            if file.content in wanted:
                wanted[file.content].append(path)
        return {content: sorted(found) for content, found in wanted.items()}

    def duplicates(self, least: float) -> list[list[Hit]]:
        """Finds groups of files whose vectors are near each other, the largest first.

        Args:
            least: cosine of a pair that belongs together; a group holds all that are linked by
                such pairs.

        Returns:
            Groups of two files or more; a file's cosine is that with the group's first one.

        Raises:
            ValueError: if there are too many pairs.
        """
        from scipy.sparse import coo_matrix  # takes a while
        from scipy.sparse.csgraph import connected_components

        first, second = self._pairs(least)
        count = len(self.contents)
        graph = coo_matrix((np.ones(len(first), bool), (first, second)), (count, count))
        _, group_of = connected_components(graph, directed=False)
        paths = self.paths()
        members: dict[int, list[int]] = {}
        for row, group in enumerate(group_of):
            members.setdefault(int(group), []).append(row)
        groups = []
        for rows in members.values():
            anchor = self.vectors[rows[0]]
            hits = [Hit(p, min(float(self.vectors[i] @ anchor), 1)) for i in rows for p in paths[i]]
            groups.extend([hits] if len(hits) > 1 else [])
        return sorted(groups, key=lambda hits: (-len(hits), hits[0].path))

    def _pairs(self, least: float) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the pairs of vectors that are near each other, the smaller first."""
        found: list[np.ndarray] = []
        total = 0
        for start in range(0, len(self.vectors), _ROWS):
            near = self.vectors[start : start + _ROWS] @ self.vectors[start:].T >= least
            rows, columns = np.nonzero(np.triu(near, 1))
            total += len(rows)
            if total > _MOST_PAIRS:
                raise ValueError(
                    f"over {_MOST_PAIRS:,} pairs have a cosine of {least} or more: say a larger "
                    "--least"
                )
            found.append(np.stack([rows, columns]) + start)
        pairs = np.concatenate(found, axis=1) if found else np.zeros((2, 0), int)
        return pairs[0], pairs[1]


def load(path: Path) -> PhotoIndex:
    """Reads an index.

    Raises:
        ValueError: if there is none, or the file is something else.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no index {path}: make one, python -m vit_jax.search index FOLDER "
            "--weights=FILE, or say where it is, --index=FILE"
        )
    try:
        with np.load(path, allow_pickle=False) as stored:
            about = json.loads(stored["about"].tobytes())
            vectors = stored["vectors"]
        if about["version"] != _VERSION:
            raise ValueError(f"version {about['version']}")
        found = {name: File(*file) for name, file in about["files"].items()}
        index = PhotoIndex(
            about["model"], about["fingerprint"], about["weights"], vectors, about["contents"],
            found,
        )  # fmt: skip
        if vectors.ndim != 2 or len(vectors) != len(index.contents):
            raise ValueError(f"vectors of shape {vectors.shape}")
    except (ValueError, LookupError, TypeError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no index of photos: {error}") from None
    return index


def new(embedder: Embedder, weights: str) -> PhotoIndex:
    """An index without photos."""
    empty = np.zeros((0, embedder.size), np.float32)
    return PhotoIndex(embedder.pretrained.name, embedder.fingerprint, weights, empty, [], {})


class Update(NamedTuple):
    """What was done to an index: how many photos were embedded, known already, gone, or bad."""

    embedded: int
    known: int
    gone: int
    bad: int


def update(
    index: PhotoIndex,
    embedder: Embedder,
    found: Sequence[Path],
    folders: Sequence[Path],
    target: Path,
) -> Update:
    """Brings an index up to date with folders, and writes it, now and then and in the end.

    Args:
        index: that is changed.
        embedder: of its model.
        found: all images that are in the folders now.
        folders: of which files that are not there any more are forgotten.
        target: the index's file.
    """
    paths = [Path(os.path.abspath(path)) for path in found]
    there = {str(path) for path in paths}
    roots = [Path(os.path.abspath(folder)) for folder in folders]
    gone = [
        name for name in index.files
        if name not in there and any(Path(name).is_relative_to(root) for root in roots)
    ]  # fmt: skip
    # Contents are kept until the end, since a file that is gone may only have been moved.
    for name in gone:
        del index.files[name]
    writer = _Writer(index, target)
    known = bad = 0
    bar = console.progress(total=len(paths), unit="photo")
    try:
        with bar, console.above(bar), futures.ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), _CHUNK):
                chunk = paths[start : start + _CHUNK]
                read = dict(zip(chunk, pool.map(lambda path: _read(path, index), chunk)))
                counts = _update_some(index, embedder, read, writer)
                known, bad = known + counts[0], bad + counts[1]
                writer.maybe_save()
                bar.update(len(chunk))
        writer.save()
        index.tidy()
    finally:  # also of what was interrupted
        writer.save()
    return Update(writer.count, known, len(gone), bad)


def _update_some(
    index: PhotoIndex, embedder: Embedder, read: Mapping[Path, File | str], writer: "_Writer"
) -> tuple[int, int]:
    """Embeds what is new of some files, and says what is bad; returns how many are known, and bad.

    Args:
        index: that gets the files.
        embedder: of its model.
        read: what each file holds, or what is wrong with it.
        writer: that gets the vectors.
    """
    found = {path: file for path, file in read.items() if isinstance(file, File)}
    faults = {path: why for path, why in read.items() if isinstance(why, str)}
    fresh = {file.content: path for path, file in found.items() if file.content not in writer.known}
    for path, vector, problem in embedder.files(list(fresh.values())):
        content = found[path].content
        if vector is None:
            faults |= {other: problem for other, file in found.items() if file.content == content}
        else:
            writer.add(content, vector)
    for path, why in faults.items():
        _LOG.error("cannot read %s: %s", path, why)
        index.files.pop(str(path), None)
    good = {str(path): file for path, file in found.items() if path not in faults}
    index.files |= good
    embedded = sum(str(path) in good for path in fresh.values())
    return len(good) - embedded, len(faults)


class _Writer:
    """Collects new vectors, and saves an index as often as it does not take too much time.

    Attributes:
        known: contents that have a vector.
        count: of new vectors.
    """

    def __init__(self, index: PhotoIndex, target: Path) -> None:
        self.known = set(index.contents)
        self.count = 0
        self._index, self._target = index, target
        self._contents: list[str] = []
        self._vectors: list[np.ndarray] = []
        self._saved_at, self._took = time.monotonic(), 0.0

    def add(self, content: str, vector: np.ndarray) -> None:
        self.known.add(content)
        self._contents.append(content)
        self._vectors.append(vector)
        self.count += 1

    def maybe_save(self) -> None:
        """Saves if there is enough that is new, and the last time was long enough ago."""
        pause = time.monotonic() - self._saved_at
        if len(self._contents) >= _SAVE_EVERY and pause * _SHARE_OF_TIME >= self._took:
            self.save()

    def save(self) -> None:
        begin = time.monotonic()
        if self._contents:
            self._index.extend(self._contents, np.stack(self._vectors))
            self._contents, self._vectors = [], []
        self._index.save(self._target)
        self._saved_at = time.monotonic()
        self._took = self._saved_at - begin


def _read(path: Path, index: PhotoIndex) -> File | str:
    """What a file holds, as the index knows it if it has not been touched; or what is wrong."""
    try:
        status = path.stat()
        before = index.files.get(str(path))
        if before and (before.size, before.changed) == (status.st_size, status.st_mtime_ns):
            return before
        data = path.read_bytes()
    except OSError as error:
        return photos.explain(error)
    return File(hashlib.sha256(data).hexdigest(), status.st_size, status.st_mtime_ns)
