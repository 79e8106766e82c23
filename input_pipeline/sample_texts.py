"""Writes a text to try BERT on: python -m input_pipeline.sample_texts FILE.

It is what Python's own library, and packages that are installed with this one, say of themselves:
the prose of their docstrings, a sentence per line and a blank line after each, as data.kind=text
reads it. Nothing is downloaded, imported or run. The same versions make the same text.
"""

import ast
import importlib.util
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from input_pipeline.arguments import Parser

_PACKAGES = ("numpy", "jax", "matplotlib", "tensorflow")
_LEFT_OUT = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
_DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PROSE = re.compile(r"[A-Z].*[.!?]")
_FEWEST_WORDS = 4  # of a sentence
_FEWEST_SENTENCES = 2  # of a document
_MOST_SIGNS = 0.1  # share of characters of code, which make a paragraph no prose


def find_documents() -> Iterator[list[str]]:
    """Yields the sentences of each docstring that has two or more; none comes twice."""
    seen = set()
    for folder in _folders():
        for path in sorted(folder.rglob("*.py")):
            if _LEFT_OUT.isdisjoint(path.relative_to(folder).parts):
                for docstring in _docstrings(path):
                    sentences = split_sentences(docstring)
                    text = "\n".join(sentences)
                    if len(sentences) >= _FEWEST_SENTENCES and text not in seen:
                        seen.add(text)
                        yield sentences


def _folders() -> list[Path]:
    found = [Path(sysconfig.get_path("stdlib"))]
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)  # which does not import a package
        found += map(Path, (spec.submodule_search_locations or ()) if spec else ())
    return found


def _docstrings(path: Path) -> list[str]:
    try:
        with warnings.catch_warnings(action="ignore"):  # of odd escapes
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError, RecursionError):
        return []  # there are such files, to test Python with
    found = (ast.get_docstring(node) for node in ast.walk(tree) if isinstance(node, _DOCUMENTED))
    return [text for text in found if text]


def split_sentences(docstring: str) -> list[str]:
    """Splits what is prose in a docstring into sentences; lists, code and headings are left out."""
    sentences = []
    for paragraph in re.split(r"\n\s*\n", docstring):
        text = " ".join(paragraph.split())
        signs = sum(text.count(sign) for sign in "=<>{}[]|\\_*:`#")
        if _PROSE.fullmatch(text) and signs <= _MOST_SIGNS * len(text):
            parts = _END.split(text)
            sentences += [part for part in parts if len(part.split()) >= _FEWEST_WORDS]
    return sentences


def write(path: Path) -> tuple[int, int]:
    """Writes the text; returns how many documents and sentences it has.

    What is there already is written over.
    """
    documents = list(find_documents())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "\n\n".join("\n".join(document) for document in documents) + "\n", encoding="utf-8"
    )
    return len(documents), sum(map(len, documents))


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes the text; returns the exit code."""
    parser = Parser("input_pipeline.sample_texts", __doc__)
    parser.add_argument("file", type=Path)
    path = parser.read(arguments).file
    try:
        documents, sentences = write(path)
    except OSError as error:
        sys.stderr.write(f"error: cannot write {path}: {error.strerror}\n")
        return 2
    print(f"{documents} documents of {sentences} sentences are in {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
