"""Losses by name, and sums of them: "l1 + 0.1 * ssim", "charbonnier(1e-9)"."""

import ast
import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax

from input_pipeline.arguments import unknown
from vit_jax.tasks.base import Batch, Loss, Out


def get_loss(name: str, losses: Mapping[str, Loss]) -> Loss:
    """Finds a loss, or makes a sum of several.

    Args:
        name: of a loss, or terms with weights; what it takes besides output and batch can follow
            it in parentheses.
        losses: of a task, by name.

    Returns:
        A function (out, batch) -> (b,).

    Raises:
        ValueError: for an unknown name or argument, or a number that is not positive.
    """
    try:
        terms = _terms(ast.parse(name.strip(), mode="eval").body)
    except (SyntaxError, RecursionError):
        terms = []
    if not terms:
        raise ValueError(f"cannot read the loss {name!r}; write l1, or l1 + 0.1 * ssim, or l1(...)")
    weighted = [(weight, _loss(call, name, losses)) for weight, call in terms]
    for weight, _ in weighted:
        _check_positive(weight, f"loss {name!r}: the weight")
    if len(weighted) == 1 and weighted[0][0] == 1:
        return weighted[0][1]

    def total(out: Out, batch: Batch) -> jax.Array:
        return sum(weight * loss(out, batch) for weight, loss in weighted)

    return total


def _terms(node: ast.expr) -> list[tuple[Any, ast.expr]]:
    """Weights and losses of a sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_terms(node.left), *_terms(node.right)]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return [(_literal(node.left), node.right)]
    return [(1.0, node)]


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _loss(call: ast.expr, whole: str, losses: Mapping[str, Loss]) -> Loss:
    """A loss with the arguments that a term gives it."""
    function = call.func if isinstance(call, ast.Call) else call
    name = ast.unparse(function)
    if name not in losses:
        raise ValueError(unknown("loss", name, losses))
    loss = losses[name]
    if not isinstance(call, ast.Call):
        return loss
    _, _, *takes = inspect.signature(loss).parameters
    given = dict(zip(takes, map(_literal, call.args)))
    given |= {str(keyword.arg): _literal(keyword.value) for keyword in call.keywords}
    if len(given) != len(call.args) + len(call.keywords) or not set(given) <= set(takes):
        raise ValueError(
            f"loss {whole!r}: {ast.unparse(call)} does not fit {name}({', '.join(takes)})"
        )
    for key, value in given.items():
        _check_positive(value, f"loss {whole!r}: {key}")
    return functools.partial(loss, **given)


def _check_positive(value: Any, what: str) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and 0 < value < math.inf):
        raise ValueError(f"{what} must be a positive number, not {value!r}")
