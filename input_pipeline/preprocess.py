"""Preprocessing of an example, written as a string of named ops.

`decode|inception_crop(224)|flip_lr|value_range(-1, 1)` reads from left to right. An op takes an
example's fields, see `fields`, whose images are uint8 or uint16 until `value_range` or `normalize`
makes them float32. Of a pair of images, such as a hazy and a clear one, the target may be some
times larger than the image; crops then begin where a pixel of the smaller one does.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

from input_pipeline import (  # noqa: F401  they register their ops
    colour,
    flow_ops,
    geometry,
    segmentation_ops,
)
from input_pipeline.arguments import unknown
from input_pipeline.fields import Fields, Kind, kind_of
from input_pipeline.geometry import Crop, PadTo
from input_pipeline.ops import (
    OPS,
    RANDOM,
    Op,
    fold_in,
    get_height_width,
    get_sides,
    name_of_image,
    require,
)
from input_pipeline.segmentation_ops import Within
from input_pipeline.tf_or_numpy import tf

# Ops that keep the pixels of the smaller image of a pair whole.
_OF_ANY_SCALE = ("random_crop", "central_crop", "flip_lr", "rot90", "value_range")
# Ops that change values alone, and ops that keep the size besides.
_OF_VALUES = ("value_range", "normalize", "grayscale_to_rgb")
# Those that make images of one size, whatever comes to them.
_TO_SIZE = ("resize", "central_crop")
_OF_ONE_SIZE = (*_OF_VALUES, "flip_lr", "shift", "photometric_distortion", "random_erasing")


def build(
    spec: str, train: bool, scale: int = 1, decoded: bool = False
) -> Callable[..., dict[str, tf.Tensor]]:
    """Makes the function that a preprocessing string describes.

    Args:
        spec: ops separated by `|`, each `name` or `name(arguments)`.
        train: whether random ops are allowed.
        scale: how many times larger `target` is than the other fields.
        decoded: whether images come decoded even if the string begins with `decode`.

    Returns:
        A function (fields, seed, name="") -> fields for use in tf.data: `image` and the other
        images are the bytes of a file if the string begins with `decode`, else (h, w, c) uint8 or
        uint16; `seed` is (2,) int32, or None if no op asks for it; `name`, text or () string,
        begins the messages of its tf.errors.OpError, as "cannot prepare NAME: ", which an image too
        small or too large for an op raises when run, or a ValueError while the graph is built if
        its size is known then. Within `tf_or_numpy.in_numpy` fields are numpy arrays.

    Raises:
        ValueError: for an unknown op, a wrong argument, a random op if not train, or one that does
            not fit the scale.
    """
    calls = parse(spec)
    names = [name for name, _ in calls]
    _check_names(names, spec, train, scale)
    steps = _with_exact_pads(calls)
    _check_kept_masks(calls, spec, train)
    if scale != 1:
        steps = [
            dataclasses.replace(step, scale=scale) if isinstance(step, Crop) else step
            for step in steps
        ]
    if names[0] == "decode" and decoded:
        steps[0] = _leave  # keeps each op's seed
    # Not in evaluation, whose pixels are to be those of the whole image's decoding.
    elif train and names[0] == "decode" and len(steps) > 1 and isinstance(steps[1], Crop):
        steps[:2] = [_leave, _decoding(steps[0], steps[1])]

    def apply(fields: Fields, seed: tf.Tensor | None, name: tf.Tensor | str = "") -> Fields:
        token = name_of_image.set(name)
        try:
            if scale != 1:
                fields = {**fields, "target": _not_empty(fields["target"], scale)}
            for i, step in enumerate(steps):
                fields = step(fields, None if seed is None else fold_in(seed, i))
        finally:
            name_of_image.reset(token)
        if scale != 1:
            _check_scale(fields["target"].shape, spec, scale)
        return fields

    return apply


def _check_names(names: list[str], spec: str, train: bool, scale: int) -> None:
    """Raises a ValueError if there is an op that has no place, see `build`."""
    if "decode" in names[1:]:
        raise ValueError(f"preprocessing {spec!r}: decode can only stand first")
    random = [name for name in names if name in RANDOM]
    if random and not train:
        raise ValueError(
            f"preprocessing {spec!r} is for evaluation, where every op must be deterministic; "
            f"random: {', '.join(random)}"
        )
    unfit = [name for name in names if name not in _OF_ANY_SCALE]
    if unfit and scale != 1:
        raise ValueError(
            f"preprocessing {spec!r} is for pairs of which one image is {scale} times larger, "
            f"where {unfit[0]} has no place; there are: {', '.join(_OF_ANY_SCALE)}"
        )


def _with_exact_pads(calls: list[tuple[str, Op]]) -> list[Op]:
    """The ops, of which each `pad_to` knows if what comes to it is smaller."""
    steps: list[Op] = []
    most: tuple[int, int] | None = None
    for name, step in calls:
        if isinstance(step, Within):
            most = step.most
        elif isinstance(step, PadTo) and most is not None:
            step = dataclasses.replace(
                step, is_exact=most[0] <= step.size[0] and most[1] <= step.size[1]
            )
            most = None
        elif name not in _OF_ONE_SIZE:
            most = None
        steps.append(step)
    return steps


def _check_kept_masks(calls: list[tuple[str, Op]], spec: str, train: bool) -> None:
    """Raises a ValueError if masks that have not followed their image would have to."""
    for i, (name, step) in enumerate(calls):
        if not (isinstance(step, Within) and step.keeps_masks):
            continue
        after = [other for other, _ in calls[i + 1 :] if other not in _OF_VALUES]
        if train or after:
            raise ValueError(
                f"preprocessing {spec!r}: {name} with masks=False is for evaluation, with nothing "
                f"after it but {', '.join(_OF_VALUES)}; {after[0] if after else 'training'} needs "
                "masks of the image's size"
            )


def _leave(fields: Fields, _: tf.Tensor) -> Fields:
    return fields


def _decoding(decode: Op, crop: Crop) -> Op:
    """Decodes and crops in one, if the image is all that there is to crop."""

    def apply(fields: Fields, seed: tf.Tensor) -> Fields:
        moved = [key for key in fields if kind_of(key) is not Kind.PLAIN]
        if moved == ["image"]:
            return crop.decode(fields, seed)
        return crop(decode(fields, seed), seed)

    return apply


def _not_empty(target: tf.Tensor, scale: int) -> tf.Tensor:
    height, width = get_sides(target)
    fewer = f"it has fewer pixels a side than the model's factor, {scale}: remove it"
    return require(target, height * width > 0, fewer)


def _check_scale(shape: tf.TensorShape, spec: str, scale: int) -> None:
    if any(side is not None and side % scale for side in shape[:2]):
        raise ValueError(
            f"preprocessing {spec!r} makes images of {shape[0]} x {shape[1]} pixels, which the "
            f"model's factor of {scale} does not divide"
        )


def reads_files(spec: str) -> bool:
    """Whether a preprocessing string begins with the bytes of a file."""
    return parse(spec)[0][0] == "decode"


def are_ours(spec: str) -> bool:
    """Whether the ops of a preprocessing string are of this package, and nobody's own."""
    return all(OPS[name].__module__.startswith(f"{__package__}.") for name, _ in parse(spec))


def build_for_decoded(spec: str) -> Any:
    """Makes the tf.function of an evaluation's string for images that are decoded already.

    Its arguments are (h, w, 3) uint8, of any size, and a seed; see `build` for the errors.
    """
    apply = build(spec, train=False, decoded=True)
    return tf.function(
        lambda image, seed: apply({"image": image}, seed)["image"],
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)],
    )


def output_shape(spec: str) -> tuple[int, int, int]:
    """(h, w, c) of the images that a preprocessing string for evaluation makes.

    Raises:
        ValueError: see `build`; also if images of different sizes come out.
    """
    for name, arguments in reversed(read_calls(spec)):
        if name in _TO_SIZE:
            build(spec, train=False, decoded=True)  # or raises
            return (*get_height_width(arguments["size"]), 3)
        if name not in _OF_VALUES:
            break
    shape = build_for_decoded(spec).get_concrete_function().structured_outputs.shape
    if not shape.is_fully_defined():
        raise ValueError(f"preprocessing {spec!r} leaves images of different sizes; add resize")
    return tuple(shape)


def parse(spec: str) -> list[tuple[str, Op]]:
    """Splits a preprocessing string into (name, op); see `build` for the errors."""
    return [(name, op) for name, op, _ in _parse_all(spec)]


def read_calls(spec: str) -> list[tuple[str, dict[str, Any]]]:
    """Splits a preprocessing string into (name, arguments), with those that it leaves out."""
    return [(name, arguments) for name, _, arguments in _parse_all(spec)]


def _parse_all(spec: str) -> list[tuple[str, Op, dict[str, Any]]]:
    return [_parse_op(text.strip(), spec) for text in spec.split("|")]


def _parse_op(text: str, spec: str) -> tuple[str, Op, dict[str, Any]]:
    where = f"preprocessing {spec!r}"
    try:
        node = ast.parse(text, mode="eval").body
        name, args, kwargs = _read_call(node)
    except (SyntaxError, ValueError):
        raise ValueError(f"{where}: cannot read {text!r}; write name or name(1, key=2)") from None
    if name not in OPS:
        raise ValueError(f"{where}: {unknown('op', name, sorted(OPS))}")
    factory = OPS[name]
    try:
        bound = inspect.signature(factory).bind(*args, **kwargs)
        bound.apply_defaults()
        return name, factory(*args, **kwargs), bound.arguments
    except (TypeError, ValueError) as error:
        parameters = ", ".join(_describe(p) for p in inspect.signature(factory).parameters.values())
        raise ValueError(f"{where}: {text}: {error}; usage: {name}({parameters})") from None


def _read_call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    if isinstance(node, ast.Name):
        return node.id, [], {}
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        args = [ast.literal_eval(arg) for arg in node.args]
        kwargs = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
        return node.func.id, args, kwargs
    raise ValueError("not a call")


def _describe(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return parameter.name
    return f"{parameter.name}={parameter.default!r}"
