"""A run's model card, README.md: what the Hugging Face Hub, and a person, wants to know of weights.

Source of the metadata: https://github.com/huggingface/hub-docs/blob/main/modelcard.md
"""

import hashlib
import logging
import math
import re
import types
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from checkpoints import files, torch
from vit_jax import report
from vit_jax.models.base import Model
from vit_jax.run_summary import RunSummary
from vit_jax.tasks.base import INPUT
from vit_jax.workdir import Workdir

_LOG = logging.getLogger(__name__)

_SEAL = (
    "<!-- vit_jax wrote this file, {} of what is above; it never overwrites a changed one. -->\n"
)
_SEALED = re.compile(r"<!-- vit_jax wrote this file, (\w+) of what is above; [^\n]*-->\n")
_MOST_CLASSES = 20
_NO_RESULTS = ("loss", "examples")
_OF_TORCH = """\
model: torch.nn.Module = ...  # of the same sizes, see docs/weights.md of vit_jax
model.load_state_dict(weights)"""
# What may stand as it is: underscores within words are no emphasis.
_SPECIAL = re.compile(r"[\\`*<>\[\]|&~$#]|(?<![^\W_])_|_(?![^\W_])")


def write(
    workdir: Workdir, summary: RunSummary, variables: Mapping[str, Any], model: Model
) -> None:
    """Writes README.md to a run's folder, unless somebody has written or changed one there.

    Args:
        workdir: the run's folder.
        summary: of the run.
        variables: of the model.
        model: the flax module.
    """
    path = workdir.card
    if path.exists() and not _is_own(path.read_bytes()):
        _LOG.warning("%s was not written here, or was changed since: it stays as it is; move it "
                     "away to get a new model card", path)  # fmt: skip
        return
    namings = torch.fitting_namings(variables, model)
    height, width = summary.image_size or (0, 0)
    calls = model.torch_calls((height, width)) if height and width else {}
    text = make(summary, namings, calls, workdir.vocabulary.exists())
    data = text.encode("utf-8", "replace")  # names of files can be of any bytes
    with files.written_whole(path) as partial:
        partial.write_bytes(data + _SEAL.format(_digest(data)).encode())


def _is_own(data: bytes) -> bool:
    """Whether a card is as it was written."""
    text, _, seal = data[:-1].rpartition(b"\n")
    match = _SEALED.fullmatch(seal.decode("utf-8", "replace") + "\n")
    return match is not None and match[1] == _digest(text + b"\n")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


def make(
    summary: RunSummary,
    namings: Sequence[str],
    calls: Mapping[str, tuple[str, str]] = types.MappingProxyType({}),
    has_vocabulary: bool = False,
) -> str:
    """Makes a card.

    Args:
        summary: of the run.
        namings: of PyTorch's names in which its weights can be written, see
            `checkpoints.torch.fitting_namings`.
        calls: Python that makes the model elsewhere, by naming, see `Model.torch_calls`.
        has_vocabulary: whether the folder holds one.

    Returns:
        Markdown that begins with the metadata, in YAML.
    """
    parts = [
        f"---\n{_metadata(summary)}---",
        f"# {_plain(summary.title)}",
        _introduce(summary),
        "## Figures",
        *_figures(summary),
        "## Data",
        _data(summary),
        "## Recipe",
        *_recipe(summary),
        "## Use",
        *_use(summary, has_vocabulary),
        *_elsewhere(namings, calls),
    ]
    return "\n\n".join(parts) + "\n\n"


def _metadata(summary: RunSummary) -> str:
    """YAML, for the Hub; the licence is for whoever publishes the weights to say."""
    from huggingface_hub import EvalResult, ModelCardData  # takes a while, and few commands need it

    results = [
        EvalResult(
            task_type=summary.pipeline_tag,
            dataset_type=re.sub(r"[^\w.-]+", "-", summary.data).lower() or "unknown",
            dataset_name=summary.data or "unknown",
            dataset_split=split,
            metric_type=name,
            metric_value=value,
        )
        for split, figures in summary.figures.items()
        for name, value in figures.items()
        if name not in _NO_RESULTS and not name.startswith(INPUT) and math.isfinite(value)
    ]
    has_results = bool(summary.pipeline_tag and results)
    data = ModelCardData(
        model_name=summary.name if has_results else None,
        library_name="vit_jax",
        pipeline_tag=summary.pipeline_tag or None,
        base_model=summary.base or None,
        tags=["vit_jax", "jax", "flax"],
        eval_results=results if has_results else None,
    )
    return f"{data.to_yaml(line_break=chr(10))}\n"


def _introduce(summary: RunSummary) -> str:
    verb = "trained" if summary.step else "evaluated"
    lines = [
        f"{_code(summary.model_name)}, {summary.parameters:,} parameters, {verb} with vit_jax.",
        f"It is {summary.checkpoint}.",
        "Curves, pictures and tables are in `report/index.html`.",
    ]
    return "\n".join(lines)


def _figures(summary: RunSummary) -> list[str]:
    """A table, and by which protocol its figures are."""
    if not summary.figures:
        return ["None: there were no images to validate or to test on."]
    parts = [_table(report.table_rows(summary.figures))]
    if summary.protocol:
        parts.append(f"Each example counts once. Images are prepared by {_code(summary.protocol)}.")
    if "test" not in summary.figures and "val" in summary.figures and summary.step:
        parts.append("There was no test split: these examples also chose the checkpoint.")
    parts += [_plain(line) for line in summary.comparison.splitlines()]
    return parts


def _data(summary: RunSummary) -> str:
    lines = [f"{_plain(summary.data or 'Unknown')}. Examples: {summary.sizes or 'unknown'}."]
    if summary.classes:
        some = ", ".join(map(_plain, summary.classes[:_MOST_CLASSES]))
        more = ", ... (all are in `labels.txt`)" if len(summary.classes) > _MOST_CLASSES else ""
        lines.append(f"{len(summary.classes)} classes: {some}{more}.")
    return "\n".join(lines)


def _recipe(summary: RunSummary) -> list[str]:
    # It is to be published, and where a person's files lie is nobody's business.
    names = {k: PurePath(v).name if v.startswith("/") else v for k, v in summary.settings.items()}
    rows = [["key", "value"], *sorted(names.items())]
    parts = [_block(summary.command, "sh")] if summary.command else []
    return [*parts, "Settings that differ from `configs/common.py`:", _table(rows)]


def _use(summary: RunSummary, has_vocabulary: bool) -> list[str]:
    """How to use it from here."""
    needed = [
        "weights.npz",
        "config.json",
        "data.json",
        *(["labels.txt"] if summary.classes else []),
    ]
    needed += ["vocabulary/"] if has_vocabulary else []
    images = [f'"{key}.png"' for key in summary.inputs if key.startswith("image")]
    asked = ", ".join(images) or '"A text."'
    python = f'import vit_jax\n\nmodel = vit_jax.load("FOLDER")\nanswer = model({asked})'
    return [
        f"FOLDER is this one, of which this is needed: {', '.join(map(_code, needed))}.",
        _block(summary.predict("FOLDER"), "sh"),
        _block(python, "python"),
    ]


def _elsewhere(namings: Sequence[str], calls: Mapping[str, tuple[str, str]]) -> list[str]:
    """How to use it from elsewhere, as far as its parameters have names there."""
    first = next(iter(namings), "")  # which convert writes unasked
    # A place for each parameter is not all that a model elsewhere asks for, which its call knows.
    # Namings with a dash are of parts, or of one library's model with another's inside.
    namings = [
        naming
        for i, naming in enumerate(namings)
        if (naming in calls if calls else i == 0 or "-" not in naming)
    ]
    if not namings:
        return ["Its parameters have no place in the files of PyTorch's libraries."]
    parts = []
    for naming in namings:
        file = f"{naming.lower() or 'published'}.safetensors"
        flag = f" --naming={naming}" if naming != first else ""
        library, make = calls.get(naming, ("torch", _OF_TORCH))
        imports = f"import {library}\nfrom safetensors.torch import load_file"
        parts += [
            f"With the names of {_plain(naming)}:" if naming else "With the published names:",
            _block(f"python -m vit_jax.convert FOLDER {file}{flag}", "sh"),
            _block(f'{imports}\n\nweights = load_file("{file}")\n{make}', "python"),
        ]
    return ["### From PyTorch", *parts]


# Markdown in which names of any characters stay what they are.


def _plain(text: str) -> str:
    return _SPECIAL.sub(lambda match: f"\\{match[0]}", " ".join(text.split()))


def _code(text: str) -> str:
    text = " ".join(text.split())
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    edge = " " if "`" in text else ""
    return f"{fence}{edge}{text}{edge}{fence}"


def _block(text: str, language: str) -> str:
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(map(_plain, row))} |" for row in rows]
    return "\n".join([lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]])
