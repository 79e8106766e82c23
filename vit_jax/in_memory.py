"""Images that a program has in memory, as the contents of files that the predictors read."""

import io
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def encode(image: Any) -> bytes:
    """Makes the contents of an image file of an image in memory, without loss.

    Args:
        image: a PIL image, with the EXIF orientation that it has; an array (h, w), (h, w, 3) or,
            with alpha, (h, w, 4), of uint8, of uint16, or of floats in [0, 1], which are rounded to
            8 bits; or the bytes of an image file, which stay as they are.

    Raises:
        ValueError: for anything else.
    """
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        return _encode_picture(image)
    if hasattr(image, "__array__"):  # of numpy, JAX, PyTorch, TensorFlow
        return _encode_array(np.asarray(image))
    raise ValueError(
        f"an image is a path, a PIL image, an array, or the bytes of a file, and not "
        f"{say(image)}; give several as a list"
    )


def say(thing: Any) -> str:
    """Says in a few words what it is that does not fit."""
    return f"a {type(thing).__name__}" + (f" of {len(thing)}" if isinstance(thing, tuple) else "")


def _encode_picture(image: Image.Image) -> bytes:
    try:
        image.load()
    except (OSError, SyntaxError) as error:  # of a file that was opened, and is damaged
        raise ValueError(f"a picture that cannot be read: {error}") from error
    image = ImageOps.exif_transpose(image)
    if image.mode == "F":
        raise ValueError("a floating-point image; convert it to 8 or 16 bits first")
    if image.mode.startswith("I"):
        grey = np.asarray(image).astype(np.int64)
        if grey.min() < 0 or grey.max() > 65535:
            raise ValueError("an integer image of more than 16 bits; convert it to 8 or 16 first")
        image = Image.fromarray(grey.astype(np.uint16))
    elif image.has_transparency_data:
        image = image.convert("RGBA")
    elif image.mode not in ("1", "L", "P", "RGB", "CMYK"):
        image = image.convert("RGB")
    data = io.BytesIO()
    image.save(data, "TIFF", compression="raw")  # a PNG would take 80 times as long
    return data.getvalue()


def _encode_array(array: np.ndarray) -> bytes:
    is_image = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not is_image or not array.size:
        raise ValueError(
            f"an array of an image has the shape (h, w), (h, w, 3) or (h, w, 4), and not "
            f"{array.shape}"
        )
    if np.issubdtype(array.dtype, np.floating):
        if not (array.min() >= 0 and array.max() <= 1):  # nor is it of NaNs
            raise ValueError(
                f"floats of an image lie in [0, 1], and these from {array.min():g} to "
                f"{array.max():g}: scale them, or give uint8"
            )
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype == np.uint8 or (array.dtype == np.uint16 and array.ndim == 2):
        return _encode_picture(Image.fromarray(array))
    if array.dtype == np.uint16:
        from input_pipeline.cpu_tf import tf  # Pillow has no colours of 16 bits

        return tf.io.encode_png(array, compression=0).numpy()
    raise ValueError(
        f"an array of an image is of uint8, uint16 or floats in [0, 1], and not of {array.dtype}"
    )
