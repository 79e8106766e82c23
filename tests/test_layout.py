"""No file and no function is too long to be read at once."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("vit_jax", "input_pipeline", "checkpoints", "configs", "tests")
FILES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_OF_A_FILE, MOST_OF_A_FUNCTION = 500, 60

# Of these, some functions are still longer.
_STILL_LONG = ("configs/common.py",)


def long_functions(code):
    """Names of functions of too many lines, which are those of functions in them, too."""
    return [
        f"{node.name} ({_lines(node)} lines)"
        for node in _outermost(ast.parse(code))
        if _lines(node) > MOST_OF_A_FUNCTION and not _is_a_table(node)
    ]


def _outermost(tree):
    """Functions and methods that lie in no other."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
        else:
            yield from _outermost(node)


def _lines(function):
    """Lines from `def` to the end, without the docstring; decorators come before."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is None:
        return lines
    docstring = function.body[0]
    return lines - (docstring.end_lineno - docstring.lineno + 1)


def _is_a_table(function):
    """Whether more than half of the lines are a single dict or list."""
    longest = max(function.body, key=lambda node: node.end_lineno - node.lineno)
    value = getattr(longest, "value", None)
    lines = longest.end_lineno - longest.lineno + 1
    return isinstance(value, ast.Dict | ast.List) and 2 * lines > _lines(function)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_is_too_long(path):
    code = path.read_text()
    assert len(code.splitlines()) <= MOST_OF_A_FILE
    found = long_functions(code)
    if str(path.relative_to(ROOT)) in _STILL_LONG:
        assert found, "take it off the list"
    else:
        assert not found


def test_what_counts():
    body = "\n".join(f"    x{i} = {i}" for i in range(MOST_OF_A_FUNCTION - 1))
    assert not long_functions(f"@cache\ndef f():\n    '''A\n    docstring.'''\n{body}")
    assert long_functions(f"class A:\n  def f(self):\n{body}\n    y = 1") == ["f (61 lines)"]
    assert long_functions(f"def f():\n  def g():\n{body}\n  return g") == ["f (62 lines)"]
    table = "\n".join(f"        {i}: {i}," for i in range(MOST_OF_A_FUNCTION))
    assert not long_functions(f"def f():\n    return {{\n{table}\n    }}")
