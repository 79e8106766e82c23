"""Where files lie: on disk, in a bucket, on a web server, or on the Hugging Face hub."""

import contextlib
import hashlib
import logging
import os
import sys
import tempfile
from collections.abc import Iterator

from etils import epath

PACKAGE = "package:"  # and then a name, see `checkpoints.packages`
_DEFAULT_HUB_FILE = "model.safetensors"
ALTERNATIVES = (
    "Weights can come from a local file, gs://BUCKET/FILE, https://HOST/FILE, "
    "hf://OWNER/REPOSITORY or package:NAME: the published ViTs are in gs://vit_models, and on the "
    "hub as hf://timm/NAME"
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
            if they are meant, @REVISION and then /FILE in place of /model.safetensors.

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


def _from_hub(path: str) -> epath.Path:
    from huggingface_hub import errors, hf_hub_download  # takes a second, and few runs need it

    owner, _, rest = path.removeprefix("hf://").partition("/")
    repository, _, file = rest.partition("/")
    repository, _, revision = repository.partition("@")
    if not owner or not repository:
        raise ValueError(f"{path} must read hf://OWNER/REPOSITORY[@REVISION][/FILE]")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it announces every retry
    try:
        return epath.Path(
            hf_hub_download(
                f"{owner}/{repository}", file or _DEFAULT_HUB_FILE, revision=revision or None
            )
        )
    except (OSError, errors.EntryNotFoundError, errors.HFValidationError) as error:
        raise ValueError(_unreachable(path, error)) from error


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
    return f"cannot read {path}: {reason}. {ALTERNATIVES}"
