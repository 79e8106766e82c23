"""How Sphinx builds the documentation: make docs."""

import re
from pathlib import Path
from typing import Any

import vit_jax

ROOT = Path(__file__).parent.parent
_RUN = ROOT / "runs/notebooks"  # where `make test-notebooks` leaves them with what they print

project = "vit_jax"
author = "the authors of vit_jax"
copyright = author
version = release = vit_jax.__version__

root_doc = "README"
include_patterns = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "docs/*.md",
    "notebooks/*.ipynb",
]
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_heading_anchors = 4
nb_execution_mode = "off"
default_role = "code"  # of `names` in docstrings
autodoc_member_order = "bysource"
napoleon_use_ivar = True  # or attributes are described twice
autodoc_typehints = "none"  # they are in the signature
html_theme = "furo"
html_title = "vit_jax"
html_copy_source = False


def setup(app: Any) -> None:
    """Lets `read` see each page before it is parsed."""
    app.connect("source-read", read)


def read(app: Any, page: str, source: list[str]) -> None:
    """Adds to the first page what leads to the others, and to notebooks what they printed."""
    del app
    if page == root_doc:
        source[0] += _contents()
    run = _RUN / f"{Path(page).name}.ipynb"
    if page.startswith("notebooks/") and run.is_file():
        source[0] = run.read_text(encoding="utf-8")


def _contents() -> str:
    """The pages in the order of docs/README.md, the notebooks, and what is about the project."""
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = [f"docs/{name}" for name in re.findall(r"^\| \[.*?\]\(([\w-]+)\.md\)", index, re.M)]
    notebooks = sorted(f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb"))
    parts = {
        "Documentation": ["docs/README", *pages],
        "Notebooks": notebooks,
        "Project": ["CONTRIBUTING", "CHANGELOG"],
    }
    return "".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(names) + "\n```\n"
        for caption, names in parts.items()
    )
