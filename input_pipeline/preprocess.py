"""Preprocessing of one image, written as a string of named ops.

`decode|inception_crop(224)|flip_lr|value_range(-1, 1)` reads from left to right. An op takes an
image (h, w, c), uint8 until `value_range` or `normalize` makes it float32, and a seed; it draws all
its randomness from the seed, so that an example's augmentation depends on nothing else.

A pair of images, such as a hazy and a clear one, is decoded already and goes through the ops as one
uint16 image of six channels, so that whatever is done to one is done to the other. If one is some
times smaller, its pixels are repeated as often, and crops begin where one of them does.
"""

import ast
import contextvars
import dataclasses
import difflib
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from input_pipeline import images
from input_pipeline.cpu_tf import tf
from input_pipeline.randaugment import randaugment

Apply = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
Size = int | tuple[int, int]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
NAMED = "cannot prepare "  # begins the messages that name an image
METHODS = ("bilinear", "bicubic", "nearest", "area", "lanczos3")

# Ops that keep the pixels of the smaller image of a pair whole.
_OF_ANY_SCALE = ("random_crop", "central_crop", "flip_lr", "rot90", "value_range")

_MUST_STAND = (
    "{} works on {} images, and got {}: it must stand after decode and before value_range or "
    "normalize, of which a string needs just one"
)

# The name of the image that a graph is being built for, which its errors begin with.
_name: contextvars.ContextVar[tf.Tensor | str] = contextvars.ContextVar("name", default="")

_OPS: dict[str, Callable[..., Apply]] = {}
_RANDOM: set[str] = set()


def _op(factory: Callable[..., Apply]) -> Callable[..., Apply]:
    """Registers an op under its function's name."""
    _OPS[factory.__name__] = factory
    return factory


def _random_op(factory: Callable[..., Apply]) -> Callable[..., Apply]:
    """Registers an op that draws random numbers, and so has no place in an evaluation."""
    _RANDOM.add(factory.__name__)
    return _op(factory)


@dataclasses.dataclass(frozen=True)
class Crop:
    """An op that first cuts a window out, so that `decode` can decode just that window."""

    window: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]  # (shape, seed) -> top, left, h, w
    finish: Callable[[tf.Tensor], tf.Tensor]

    def aligned(self, step: int) -> "Crop":
        """The same with windows that begin at multiples of a number of pixels."""

        def window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
            top, left, height, width = tf.unstack(self.window(shape, seed))
            return tf.stack([top // step * step, left // step * step, height, width])

        return Crop(window, self.finish)

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        return self.finish(images.crop(image, self.window(tf.shape(image), seed)))

    def decode(self, data: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Does the same to the bytes of an image file."""
        return self.finish(images.decode_and_crop(data, lambda shape: self.window(shape, seed)))


def build(spec: str, train: bool, scale: int = 1) -> Callable[..., tf.Tensor]:
    """Makes the function that a preprocessing string describes.

    Args:
        spec: ops separated by `|`, each `name` or `name(arguments)`.
        train: whether random ops are allowed.
        scale: of pairs, how many times larger one image is than the other.

    Returns:
        A function (image, seed, name="") -> image for use in tf.data: `image` is the bytes of a
        file if the string begins with `decode`, else (h, w, c) uint8 or uint16; `seed` is (2,)
        int32; `name`, text or () string, begins the messages of its tf.errors.OpError, as
        "cannot prepare NAME: ", which an image too small or too large for an op raises when run,
        or a ValueError while the graph is built if its size is known then.

    Raises:
        ValueError: for an unknown op, a wrong argument, a random op if not train, or one that does
            not fit the scale.
    """
    calls = parse(spec)
    names = [name for name, _ in calls]
    if "decode" in names[1:]:
        raise ValueError(f"preprocessing {spec!r}: decode can only stand first")
    random = [name for name in names if name in _RANDOM]
    if random and not train:
        raise ValueError(
            f"preprocessing {spec!r} is for evaluation, where every op must be deterministic; "
            f"random: {', '.join(random)}"
        )
    steps = [apply for _, apply in calls]
    if scale != 1:
        unfit = [name for name in names if name not in _OF_ANY_SCALE]
        if unfit:
            raise ValueError(
                f"preprocessing {spec!r} is for pairs of which one image is {scale} times larger, "
                f"where {unfit[0]} has no place; there are: {', '.join(_OF_ANY_SCALE)}"
            )
        steps = [step.aligned(scale) if isinstance(step, Crop) else step for step in steps]
    # Not in evaluation, whose pixels are to be those of the whole image's decoding.
    if train and names[0] == "decode" and len(steps) > 1 and isinstance(steps[1], Crop):
        steps[:2] = [lambda data, _: data, steps[1].decode]  # keeps each op's seed

    def apply_all(image: tf.Tensor, seed: tf.Tensor, name: tf.Tensor | str = "") -> tf.Tensor:
        token = _name.set(name)
        try:
            if scale != 1:
                height, width = _sides(image)
                fewer = f"it has fewer pixels a side than the model's factor, {scale}: remove it"
                image = _require(image, height * width > 0, fewer)
            for i, step in enumerate(steps):
                image = step(image, tf.random.experimental.stateless_fold_in(seed, i))
        finally:
            _name.reset(token)
        return image

    return apply_all


def reads_files(spec: str) -> bool:
    """Whether a preprocessing string begins with the bytes of a file."""
    return parse(spec)[0][0] == "decode"


def build_for_decoded(spec: str) -> Any:
    """Makes the tf.function of an evaluation's string for images that are decoded already.

    Its arguments are (h, w, 3) uint8, of any size, and a seed; see `build` for the errors.
    """
    if reads_files(spec):
        _, _, spec = spec.partition("|")
    return tf.function(
        build(spec, train=False),
        input_signature=[tf.TensorSpec((None, None, 3), tf.uint8), tf.TensorSpec((2,), tf.int32)],
    )


def output_shape(spec: str) -> tuple[int, int, int]:
    """(h, w, c) of the images that a preprocessing string for evaluation makes.

    Raises:
        ValueError: see `build`; also if images of different sizes come out.
    """
    shape = build_for_decoded(spec).get_concrete_function().structured_outputs.shape
    if not shape.is_fully_defined():
        raise ValueError(f"preprocessing {spec!r} leaves images of different sizes; add resize")
    return tuple(shape)


def parse(spec: str) -> list[tuple[str, Apply]]:
    """Splits a preprocessing string into (name, op); see `build` for the errors."""
    return [_parse_op(text.strip(), spec) for text in spec.split("|")]


def _parse_op(text: str, spec: str) -> tuple[str, Apply]:
    where = f"preprocessing {spec!r}"
    try:
        node = ast.parse(text, mode="eval").body
        name, args, kwargs = _read_call(node)
    except (SyntaxError, ValueError):
        raise ValueError(f"{where}: cannot read {text!r}; write name or name(1, key=2)") from None
    if name not in _OPS:
        close = difflib.get_close_matches(name, _OPS, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ValueError(
            f"{where}: unknown op {name!r}; {hint}there are: {', '.join(sorted(_OPS))}"
        )
    factory = _OPS[name]
    try:
        inspect.signature(factory).bind(*args, **kwargs)
        return name, factory(*args, **kwargs)
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


# Checks of arguments: each returns the value, or raises what _parse_op completes.


def _height_width(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else size
    if (
        not isinstance(pair, tuple)
        or len(pair) != 2
        or not all(isinstance(n, int) and n > 0 for n in pair)
    ):
        raise ValueError(
            f"size must be a positive number of pixels or (height, width), not {size!r}"
        )
    if math.prod(pair) > images.MOST_PIXELS:
        raise ValueError(
            f"size must be of at most {images.MOST_PIXELS:,} pixels, and {pair[0]} x {pair[1]} are "
            f"{math.prod(pair):,}"
        )
    return pair


def _whole(name: str, value: int, low: int, high: float = math.inf) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        top = "" if high == math.inf else f" and at most {high}"
        raise ValueError(f"{name} must be a whole number of at least {low}{top}, not {value!r}")
    return value


def _within(name: str, value: float, low: float, high: float) -> float:
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ValueError(f"{name} must lie in [{low}, {high}], not {value!r}")
    return float(value)


def _area_range(area: Sequence[float]) -> tuple[float, float]:
    if not isinstance(area, tuple) or len(area) != 2 or not 0 < area[0] <= area[1] <= 1:
        raise ValueError(
            f"area must be (least, most) as shares of the image in (0, 1], not {area!r}"
        )
    return area


def _resizer(size: Size, method: str) -> Callable[[tf.Tensor], tf.Tensor]:
    height_width = _height_width(size)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, not {method!r}")

    def resize_image(image: tf.Tensor) -> tf.Tensor:
        # TensorFlow changes the height first.
        between = (height_width[0], _sides(image)[1])
        what = f"resizing to {height_width[0]} x {height_width[1]}"
        return _resize(_allowed(image, what, between), height_width, method)

    return resize_image


def _resize(image: tf.Tensor, height_width: tuple[int, int] | tf.Tensor, method: str) -> tf.Tensor:
    resized = tf.image.resize(image, height_width, method=method, antialias=True)
    if image.dtype.is_integer:
        return tf.cast(tf.clip_by_value(tf.round(resized), 0, image.dtype.max), image.dtype)
    return resized


def _sides(image: tf.Tensor) -> tuple[Any, Any]:
    """(height, width) as numbers if both are known while the graph is built, else () int64."""
    known = image.shape[:2]
    return tuple(known if known.is_fully_defined() else tf.unstack(tf.shape(image, tf.int64)[:2]))


def _require(image: tf.Tensor, holds: tf.Tensor | bool, *message: Any) -> tf.Tensor:
    """Returns an image if a condition holds.

    Args:
        image: any tensor.
        holds: () bool.
        message: parts of what an error says: text, and numbers, which may be () tensors.

    Raises:
        ValueError: if it is known not to hold.
        tf.errors.InvalidArgumentError: if it turns out not to when run.
    """
    if not tf.is_tensor(holds) and holds:
        return image
    if not tf.is_tensor(holds):
        raise ValueError("".join(map(str, message)))
    texts = [tf.strings.as_string(part) if tf.is_tensor(part) else str(part) for part in message]
    name = _name.get()
    if tf.is_tensor(name) or name:
        texts = [NAMED, name, ": ", *texts]
    with tf.control_dependencies([tf.debugging.Assert(holds, [tf.strings.join(texts)])]):
        return tf.identity(image)


def _allowed(image: tf.Tensor, what: str, sides: tuple[Any, Any]) -> tf.Tensor:
    """Returns an image if what an op makes of it has no more pixels than an image may have.

    Args:
        image: the op's input.
        what: the op.
        sides: (height, width) of what it makes, see `_sides`.

    Raises:
        See `_require`.
    """
    height, width = sides
    old = _sides(image)
    return _require(
        image, height * width <= images.MOST_PIXELS,
        f"{what} would make ", height, " x ", width, " pixels of ", old[0], " x ", old[1],
        f", and {images.MOST_PIXELS:,} are the most: crop or remove that image",
    )  # fmt: skip


def _require_integers(image: tf.Tensor, name: str) -> None:
    if not image.dtype.is_integer:
        raise ValueError(_MUST_STAND.format(name, "8-bit or 16-bit", image.dtype.name))


def _require_uint8(image: tf.Tensor, name: str) -> None:
    if image.dtype == tf.uint16:
        raise ValueError(f"{name} works on 8-bit images alone, not on pairs")
    if image.dtype != tf.uint8:
        raise ValueError(_MUST_STAND.format(name, "8-bit", image.dtype.name))


def _uniform(seed: tf.Tensor, low: float, high: float) -> tf.Tensor:
    return tf.random.stateless_uniform((), seed, low, high)


def _uniform_int(seed: tf.Tensor, low: int, high: tf.Tensor | int) -> tf.Tensor:
    return tf.random.stateless_uniform((), seed, low, high, tf.int32)


def _fold(seed: tf.Tensor, i: int) -> tf.Tensor:
    return tf.random.experimental.stateless_fold_in(seed, i)


# The ops.


@_op
def decode() -> Apply:
    """The bytes of an image file -> (h, w, 3) uint8; see `images.decode`."""
    return lambda data, _: images.decode(data)


@_op
def grayscale_to_rgb() -> Apply:
    """One channel becomes three equal ones; three stay."""

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        return tf.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image

    return apply


@_op
def resize(size: Size, method: str = "bilinear") -> Apply:
    """To `size` pixels (a side, or (height, width)), antialiased, whatever the aspect ratio."""
    resize_image = _resizer(size, method)
    return lambda image, _: resize_image(image)


@_op
def resize_small(size: int, method: str = "bilinear") -> Apply:
    """The shorter side to `size` pixels; the aspect ratio stays."""
    _whole("size", size, 1)
    _resizer(size, method)

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        height, width = _sides(image)
        least = (tf.minimum if tf.is_tensor(height) else min)(height, width)
        new_sides = (height * size // least, width * size // least)
        image = _allowed(image, f"resize_small({size})", new_sides)
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        new = tf.round(sides * size / tf.reduce_min(sides))
        return _resize(image, tf.cast(new, tf.int32), method)

    return apply


@_op
def central_crop(size: Size) -> Apply:
    """The middle `size` pixels; the image must be at least as large."""
    height, width = _height_width(size)

    def window(shape: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        shape = _fitting("central_crop", shape, height, width)
        return tf.stack([(shape[0] - height) // 2, (shape[1] - width) // 2, height, width])

    return Crop(window, lambda image: tf.ensure_shape(image, (height, width, image.shape[-1])))


@_random_op
def random_crop(size: Size, edge_decay: float = 0.0) -> Apply:
    """A random window of `size` pixels; the image must be at least as large.

    Along each axis the window is moved to one of the two edges with a probability of `edge_decay`
    times the share of the image that it covers.

    Source of edge_decay: Song et al., "Vision Transformers for Single Image Dehazing" (TIP 2023).
    """
    height, width = _height_width(size)
    _within("edge_decay", edge_decay, 0, 1)

    def begin(side: int, whole: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        inside = _uniform_int(seed, 0, whole - side + 1)
        if not edge_decay:
            return inside
        at_edge = tf.where(_uniform(_fold(seed, 0), 0.0, 1.0) < 0.5, 0, whole - side)
        probability = edge_decay * tf.cast(side / whole, tf.float32)
        return tf.where(_uniform(_fold(seed, 1), 0.0, 1.0) < probability, at_edge, inside)

    def window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = _fitting("random_crop", shape, height, width)
        top = begin(height, shape[0], _fold(seed, 0))
        left = begin(width, shape[1], _fold(seed, 1))
        return tf.stack([top, left, height, width])

    return Crop(window, lambda image: tf.ensure_shape(image, (height, width, image.shape[-1])))


def _fitting(name: str, shape: tf.Tensor, height: int, width: int) -> tf.Tensor:
    """Returns the shape of an image, (3,) int32, if it is large enough; see `_require`."""
    known = tf.get_static_value(shape)
    sides = (shape[0], shape[1]) if known is None else known.tolist()
    return _require(
        shape,
        (sides[0] >= height) & (sides[1] >= width),
        f"{name} of {height} x {width} from a smaller image; crop less, or (unless images are "
        "to be enlarged) put resize_small or pad_to before it",
    )


@_random_op
def inception_crop(
    size: Size, area: tuple[float, float] = (0.05, 1.0), method: str = "bilinear"
) -> Apply:
    """A window of random area and aspect ratio (3/4 to 4/3), resized to `size`.

    Source: Szegedy et al., "Going Deeper with Convolutions" (CVPR 2015).
    """
    resize_image = _resizer(size, method)
    area = _area_range(area)

    def window(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
            shape,
            tf.zeros((1, 0, 4), tf.float32),
            seed,
            min_object_covered=0.0,
            aspect_ratio_range=(3 / 4, 4 / 3),
            area_range=area,
            max_attempts=100,
            use_image_if_no_bounding_boxes=True,
        )
        return tf.concat([begin[:2], extent[:2]], axis=0)

    return Crop(window, resize_image)


@_op
def pad(pixels: int, mode: str = "constant") -> Apply:
    """Adds `pixels` on every side: "constant" black, or "reflect"."""
    _whole("pixels", pixels, 0)
    if mode not in ("constant", "reflect"):
        raise ValueError(f"mode must be 'constant' or 'reflect', not {mode!r}")

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        _require_integers(image, "pad")
        height, width = _sides(image)
        image = _allowed(image, f"pad({pixels})", (height + 2 * pixels, width + 2 * pixels))
        if mode == "reflect":
            image = _require(
                image, (height > pixels) & (width > pixels),
                f"pad({pixels}, 'reflect') needs more pixels than it adds, and got ",
                height, " x ", width,
            )  # fmt: skip
        return tf.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)), mode)

    return apply


@_op
def pad_to(size: Size) -> Apply:
    """Reflects a smaller image at its bottom and right border until it has `size` pixels."""
    height, width = _height_width(size)

    def reflected(whole: tf.Tensor, side: int) -> tf.Tensor:
        period = tf.maximum(2 * (whole - 1), 1)
        i = tf.range(tf.maximum(whole, side)) % period
        return tf.minimum(i, period - i)

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        shape = tf.shape(image)
        old = _sides(image)
        larger = tf.maximum if tf.is_tensor(old[0]) else max
        new_sides = (larger(old[0], height), larger(old[1], width))
        image = _allowed(image, f"padding to {height} x {width}", new_sides)
        image = tf.gather(image, reflected(shape[0], height), axis=0)
        return tf.gather(image, reflected(shape[1], width), axis=1)

    return apply


@_random_op
def shift(pixels: int) -> Apply:
    """Moves the image by up to `pixels` in both directions; what comes in is black."""
    _whole("pixels", pixels, 0)

    def apply(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        _require_integers(image, "shift")
        shape = image.shape
        size = tf.shape(image)
        height, width = _sides(image)
        image = _allowed(image, f"shift({pixels})", (height + 2 * pixels, width + 2 * pixels))
        padded = tf.pad(image, ((pixels, pixels), (pixels, pixels), (0, 0)))
        top = _uniform_int(_fold(seed, 0), 0, 2 * pixels + 1)
        left = _uniform_int(_fold(seed, 1), 0, 2 * pixels + 1)
        return tf.ensure_shape(padded[top : top + size[0], left : left + size[1]], shape)

    return apply


@_random_op
def flip_lr() -> Apply:
    """Mirrors left and right with probability 1/2."""
    return lambda image, seed: tf.cond(
        _uniform(seed, 0.0, 1.0) < 0.5, lambda: tf.reverse(image, [1]), lambda: image
    )


@_random_op
def rot90() -> Apply:
    """Rotates a square image by 0, 90, 180 or 270 degrees."""

    def apply(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        shape = image.shape
        if shape[0] is None or shape[0] != shape[1]:
            raise ValueError(f"rot90 needs square images of a fixed size, not {shape}")
        return tf.ensure_shape(tf.image.rot90(image, _uniform_int(seed, 0, 4)), shape)

    return apply


@_random_op
def randaug(num_layers: int, magnitude: int) -> Apply:
    """RandAugment: `num_layers` random distortions of strength `magnitude` (10 is full scale)."""
    _whole("num_layers", num_layers, 1)
    _whole("magnitude", magnitude, 0, 30)

    def apply(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        _require_uint8(image, "randaug")
        return randaugment(image, seed, num_layers, magnitude)

    return apply


@_random_op
def random_erasing(
    probability: float = 0.25, area: tuple[float, float] = (0.02, 1 / 3), aspect: float = 0.3
) -> Apply:
    """Fills a random rectangle with noise.

    Its share of the image lies in `area`, its aspect ratio between `aspect` and 1 / `aspect`.

    Source: Zhong et al., "Random Erasing Data Augmentation" (AAAI 2020).
    """
    _within("probability", probability, 0, 1)
    _within("aspect", aspect, 0.01, 1)
    area = _area_range(area)

    def apply(image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        _require_uint8(image, "random_erasing")
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        share = _uniform(_fold(seed, 0), *area) * sides[0] * sides[1]
        ratio = tf.exp(_uniform(_fold(seed, 1), math.log(aspect), -math.log(aspect)))
        extent = tf.minimum(tf.round(tf.sqrt([share * ratio, share / ratio])), sides)
        begin = tf.floor((sides - extent + 1) * tf.random.stateless_uniform((2,), _fold(seed, 2)))
        rows = tf.range(sides[0])[:, None, None]
        columns = tf.range(sides[1])[None, :, None]
        inside = (rows >= begin[0]) & (rows < begin[0] + extent[0])
        inside &= (columns >= begin[1]) & (columns < begin[1] + extent[1])
        inside &= _uniform(_fold(seed, 3), 0.0, 1.0) < probability
        noise = tf.random.stateless_uniform(tf.shape(image), _fold(seed, 4), 0, 256, tf.int32)
        return tf.where(inside, tf.cast(noise, tf.uint8), image)

    return apply


@_op
def value_range(low: float, high: float) -> Apply:
    """8-bit values 0..255, or 16-bit values 0..65535 -> float32 from `low` to `high`."""
    _within("low", low, -1e6, 1e6)
    _within("high", high, low, 1e6)

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        _require_integers(image, "value_range")
        return tf.cast(image, tf.float32) * ((high - low) / image.dtype.max) + low

    return apply


@_op
def normalize(
    mean: tuple[float, ...] = IMAGENET_MEAN, std: tuple[float, ...] = IMAGENET_STD
) -> Apply:
    """8-bit values -> (x / 255 - mean) / std per channel, float32."""
    if not all(isinstance(v, tuple) and len(v) == 3 for v in (mean, std)) or min(std) <= 0:
        raise ValueError("mean and std must be three numbers each, std positive")

    def apply(image: tf.Tensor, _: tf.Tensor) -> tf.Tensor:
        _require_uint8(image, "normalize")
        return (tf.cast(image, tf.float32) / 255.0 - tf.constant(mean)) / tf.constant(std)

    return apply
