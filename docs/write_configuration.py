"""Writes docs/configuration.md, every key of a config, from configs/common.py; see make docs."""

import re
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
_SOURCE = ROOT / "configs/common.py"
_PAGE = ROOT / "docs/configuration.md"
_HEAD = """\
# Configuration

Every key of a config, its default, and what it means; made from `configs/common.py` by `make docs`.
A file of `configs/` says what differs from it, and each key can be set on the command line:

```sh
python -m vit_jax.main --config=configs/folder.py --workdir=W --config.optim.learning_rate=3e-4
```

Under `model` and `optim.args`, keys that are not here can be added, and are checked by the model
and by optax; there and elsewhere, `=None` takes a key back to its default. A misspelt key is an
error that says which is meant. How to write a file of your own is in
[Training](training.md#configs).
"""


class Key(NamedTuple):
    """A key, or a group of them, whose default is ""."""

    name: str
    default: str
    text: str


def read() -> Iterator[Key]:
    """Reads the keys in their order, each with its comments."""
    above: list[str] = []
    with _SOURCE.open("rb") as file:
        tokens = list(tokenize.tokenize(file.readline))
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    for number, line in enumerate(_SOURCE.read_text(encoding="utf-8").splitlines(), 1):
        setting = re.match(r"    config\.([\w.]+) = (.*?)(?:  # .*)?$", line)
        if setting:
            name, value = setting.groups()
            text = " ".join([*above, *([comments[number]] if number in comments else [])])
            if value == "ConfigDict()":
                yield Key(f"{name}.", "", text)
            else:
                yield Key(name, _say(value), text)
            above = []
        elif number in comments:
            above.append(comments[number])
        else:
            above = []


def _say(value: str) -> str:
    return "unset" if value.startswith("placeholder(") else f"`{value}`"


def make_page() -> str:
    """The whole page: the keys that stand alone, and then those of each group."""
    tables: dict[str, list[str]] = {"": []}
    said: dict[str, str] = {"": ""}
    for name, default, text in read():
        group, dot, rest = name.partition(".")
        if dot and not rest:  # the group itself
            said[group], tables[group] = text, []
            continue
        cells = (f"`{name.removesuffix('.')}`", default, text)
        row = " | ".join(cell.replace("|", "\\|") for cell in cells)
        tables[group if dot else ""].append(f"| {row} |")
    parts = [_HEAD]
    for group, rows in tables.items():
        if rows:
            parts.append(f"\n## {f'`{group}`' if group else 'Of the whole run'}\n")
            parts.append(f"\n{said[group]}\n" if said[group] else "")
            parts.append("\n| key | default | what it means |\n|---|---|---|\n")
            parts.extend(f"{row}\n" for row in rows)
    return "".join(parts)


if __name__ == "__main__":
    _PAGE.write_text(make_page(), encoding="utf-8")
