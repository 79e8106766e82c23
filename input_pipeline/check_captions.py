"""What is wrong with images and their captions; see check."""

import collections
import hashlib
import sys
from collections.abc import Sequence
from concurrent import futures
from pathlib import Path

from tqdm import tqdm

from input_pipeline import files
from input_pipeline.sources import captions_layouts
from input_pipeline.sources.captions_layouts import Captioned


def check_folder(source: Path, file: str, images: str) -> list[str]:
    """Prints the splits and captions of a data set; returns what is wrong with it.

    Args:
        source: of the data, a folder or a file.
        file: `config.data.captions.file`.
        images: `config.data.captions.images`.

    Raises:
        ValueError: if there are no captions, or some that cannot be used.
    """
    found = captions_layouts.find(source, file, images)
    print(f"found in {found.origin}")
    problems = list(found.notes)
    if found.missing:
        problems.append(f"{len(found.missing)} images that are not there or have no caption: "
                        f"{files.some(found.missing)}")  # fmt: skip
    if found.repeated:
        problems.append(f"{len(found.repeated)} captions are there twice of one image: "
                        f"{files.some(found.repeated)}")  # fmt: skip
    copies = collections.defaultdict(list)
    for name, some in found.splits.items():
        print(f"{'in no split' if name == 'all' else name}: {len(some)} images")
        _print_captions(some)
        faults = []
        for one, (fault, digest) in zip(some, _read_all(some)):
            if fault:
                faults.append(fault)
            else:
                copies[digest].append((name, one.name))
        if faults:
            problems.append(f"{name}: {len(faults)} unreadable: {files.some(faults)}")
    twice = [same for same in copies.values() if len(same) > 1]
    for where, is_meant in (("several splits", True), ("one split more than once", False)):
        named = [
            " and ".join(name for _, name in same)
            for same in twice
            if (len({split for split, _ in same}) > 1) == is_meant
        ]
        if named:
            problems.append(f"{len(named)} images are in {where}: {files.some(named)}")
    return problems


def _print_captions(some: Sequence[Captioned]) -> None:
    texts = [text for one in some for text in one.captions]
    counts = sorted({len(one.captions) for one in some})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    longest = max(texts, key=lambda text: len(text.split()))
    print(f"    {len(texts)} captions, {several} of an image, {len(set(texts))} of them different")
    words = len(longest.split())
    mean = sum(len(text.split()) for text in texts) / len(texts)
    print(f"    {mean:.1f} words on average, the longest has {words}: {longest[:200]!r}")


def _read_all(some: Sequence[Captioned]) -> list[tuple[str, bytes]]:
    """What is wrong with each image, or "", and the digest of its pixels."""
    quiet = not sys.stderr.isatty()
    with futures.ThreadPoolExecutor(files.READERS) as pool:
        results = pool.map(_read, some)
        return list(tqdm(results, total=len(some), unit="image", leave=False, disable=quiet))


def _read(one: Captioned) -> tuple[str, bytes]:
    try:
        pixels = files.decode_in_python(one.image.read_bytes())
    except (ValueError, OSError) as error:
        return f"{one.name} ({error})", b""
    return "", hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
