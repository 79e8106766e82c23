"""Where files lie: on disk, in a bucket, on a web server, or on the Hugging Face hub."""

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence

from etils import epath

PACKAGE = "package:"  # and then a name, see `checkpoints.packages`
# Names of files of weights in a folder of the hub, as transformers, timm and open_clip save them.
# Of large ones there is a list of the files in which they are.
PARTS = ".safetensors.index.json"
HUB_FILES = ("model.safetensors", "open_clip_model.safetensors", f"model{PARTS}",
             "pytorch_model.bin", "open_clip_pytorch_model.bin")  # fmt: skip
ALTERNATIVES = (
    "Weights can come from a local file, gs://BUCKET/FILE, https://HOST/FILE, "
    "hf://OWNER/REPOSITORY or package:NAME, or have a name that `python -m checkpoints.published` "
    "lists"
)

_LONGEST_NAME = 255  # bytes, of the file systems in use


@contextlib.contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[epath.Path]:
    """Lets a file appear whole or not at all.

    What is written to the path that the `with` gets becomes `path` when the block ends, and is
    removed if that raises. The path has a short hidden name in the same folder, which must be
    there; for a file in a bucket it is a local one, since archives cannot be written there.

    Raises:
        OSError: if the file cannot become `path`.
    """
    target = epath.Path(path)
    if "://" in os.fspath(target):
        with tempfile.TemporaryDirectory() as folder:
            partial = epath.Path(folder) / "partial"
            yield partial
            partial.copy(target, overwrite=True)
        return
    # The same name each time, so that what a killed process leaves does not pile up.
    mark = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:12]
    partial = target.parent / f".{mark}.partial"
    try:
        yield partial
        partial.replace(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def with_ending(name: str, ending: str) -> str:
    """A file name with an ending, cut short where it would be longer than a name may be.

    Names that are cut get a hash of the whole one, and so stay apart.
    """
    if len(os.fsencode(name + ending)) <= _LONGEST_NAME:
        return name + ending
    data = os.fsencode(name)
    mark = f"~{hashlib.sha256(data).hexdigest()[:12]}"
    room = _LONGEST_NAME - len(mark) - len(os.fsencode(ending))
    return data[:room].decode(errors="ignore") + mark + ending


def is_download(path: str) -> bool:
    """Whether a path is an address behind which nothing but a single set of weights can be read."""
    return path.startswith(("hf://", "https://", "http://", PACKAGE))


def fetch(path: str | os.PathLike[str]) -> epath.Path:
    """Finds a file, and downloads it if it lies behind https:// or hf://.

    What was downloaded stays in a cache and is not downloaded again. Files in buckets are read
    where they are.

    Args:
        path: a local path; gs://BUCKET/FILE; https://HOST/FILE; or hf://OWNER/REPOSITORY with,
            if they are meant, @REVISION and then /FILE in place of the first of `HUB_FILES` that
            is there.

    Returns:
        A path that can be opened: a local one, or one of a bucket.

    Raises:
        ValueError: if there is no such file, or it cannot be reached; other places are named.
    """
    path = os.fspath(path)
    if path.startswith("hf://"):
        return _from_hub(path)
    if path.startswith(("https://", "http://")):
        return _from_web(path)
    if path.startswith("gs://"):
        return _in_bucket(path)
    found = epath.Path(path).expanduser()
    if not found.exists():
        raise ValueError(f"there is no file {path}. {ALTERNATIVES}")
    return found


def find_beside(path: str | os.PathLike[str], names: Sequence[str]) -> epath.Path | None:
    """Finds a file that lies in the same folder as another, or in the same repository of the hub.

    Args:
        path: of the other, as for `fetch`, or of the folder.
        names: of the file, of which the first that is there is taken.

    Returns:
        A path that can be opened; None if there is none, or it is not known or cannot be reached.
    """
    path = os.fspath(path)
    if path.startswith("hf://"):
        repository, revision, file = _parse_hub(path)
        folder = f"{file.rpartition('/')[0]}/".removeprefix("/")
        for name in names:
            found = _try_hub(repository, f"{folder}{name}", revision)
            if isinstance(found, epath.Path):
                return found
            if not _is_absent(found):
                break
        return None
    if is_download(path):
        return None
    found = epath.Path(path).expanduser()
    folder = found if found.is_dir() else found.parent
    return next((folder / name for name in names if (folder / name).exists()), None)


def _from_hub(path: str) -> epath.Path:
    repository, revision, file = _parse_hub(path)
    first: Exception | None = None
    for name in (file,) if file else HUB_FILES:
        found = _try_hub(repository, name, revision)
        if isinstance(found, epath.Path):
            return found
        first = first or found
        if not _is_absent(found):
            break
    assert first is not None
    raise ValueError(_unreachable(path, first)) from first


def _parse_hub(path: str) -> tuple[str, str | None, str]:
    """OWNER/REPOSITORY, the revision or None, and the file or "" of an address."""
    owner, _, rest = path.removeprefix("hf://").partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise ValueError(f"{path} must read hf://OWNER/REPOSITORY[@REVISION][/FILE]")
    return f"{owner}/{repository}", revision or None, file


def _try_hub(repository: str, file: str, revision: str | None) -> epath.Path | Exception:
    """Downloads a file from the hub, or says why it is not to be had."""
    from huggingface_hub import errors, hf_hub_download  # takes a second, and few runs need it

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry
    try:
        return epath.Path(hf_hub_download(repository, file, revision=revision))
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        return error


def _is_absent(error: Exception) -> bool:
    """Whether a repository answered that it has no such file, rather than not at all."""
    from huggingface_hub import errors

    is_local = isinstance(error, errors.LocalEntryNotFoundError)
    return isinstance(error, errors.EntryNotFoundError) and not is_local


def _from_web(url: str) -> epath.Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # it would ask for a checksum
    cache = pooch.os_cache("vit_jax")
    is_watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    try:
        return epath.Path(pooch.retrieve(url, known_hash=None, path=cache, progressbar=is_watched))
    except OSError as error:
        raise ValueError(_unreachable(url, error)) from error


def _in_bucket(path: str) -> epath.Path:
    from tensorflow import errors  # whose file system this is

    found = epath.Path(path)
    try:
        exists = found.exists()
    except (OSError, errors.OpError) as error:
        raise ValueError(_unreachable(path, error)) from error
    if not exists:
        raise ValueError(f"there is no file {path}. {ALTERNATIVES}")
    return found


def _unreachable(path: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0].rstrip(".")
    if "Max retries exceeded" in reason:  # urllib3's, of two hundred letters
        reason = "there is no connection to its host"
    return f"cannot read {path}: {reason}. {ALTERNATIVES}"
