"""How images are prepared for published models that see images and texts, from a file on.

The strings are those of `input_pipeline.preprocess`, where `resize` says what `like` means.
"""

from collections.abc import Callable

CLIP_VALUES = "normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))"

SATELLITE_VALUES = "normalize((0.43, 0.411, 0.296), (0.213, 0.156, 0.143))"


def clip(size: tuple[int, int]) -> str:
    """As OpenAI and open_clip prepare images of (h, w): the shorter side resized, the centre cut.

    transformers rounds down where the cut begins, which is a row or column off for every fourth
    size. What is to be no square is resized whole, since none of them makes such images.

    Source: openai/CLIP's clip/clip.py.
    """
    return imagenet_whole(size, CLIP_VALUES)


def imagenet(size: tuple[int, int]) -> str:
    """As DeiT, MAE and DINO evaluate on ImageNet: 256 pixels of the shorter side for 224.

    What is to be no square is resized whole.

    Source: facebookresearch/deit's datasets.py.
    """
    if size[0] != size[1]:
        return f"decode|resize({size}, 'bicubic', like='torchvision')|normalize()"
    return (
        f"decode|resize_small({size[0] * 256 // 224}, 'bicubic', like='torchvision')|"
        f"central_crop({size[0]}, like='torchvision')|normalize()"
    )


def clip_squashed(size: tuple[int, int]) -> str:
    """As EVA-02's larger ones see images of (h, w), whatever the aspect ratio, with CLIP's values.

    Source: baaivision/EVA, as timm keeps it.
    """
    return f"decode|resize({_side(size)}, 'bicubic', like='torchvision')|{CLIP_VALUES}"


def imagenet_whole(size: tuple[int, int], values: str = "normalize()") -> str:
    """As `imagenet`, but with the shorter side whole: DeiT III, DINOv2 and DINOv3, as timm has it.

    Source: facebookresearch/deit, of which DeiT III is evaluated with --eval-crop-ratio 1.0.
    """
    if size[0] != size[1]:
        return f"decode|resize({size}, 'bicubic', like='torchvision')|{values}"
    return (
        f"decode|resize_small({size[0]}, 'bicubic', like='torchvision')|"
        f"central_crop({size[0]}, like='torchvision')|{values}"
    )


def satellite(size: tuple[int, int]) -> str:
    """As `imagenet_whole`, with the values of DINOv3's images taken from above."""
    return imagenet_whole(size, SATELLITE_VALUES)


def big_vision(size: tuple[int, int]) -> str:
    """As LiT, SigLIP and SigLIP 2 were trained: (h, w) whatever the aspect ratio, not antialiased.

    open_clip and transformers give SigLIP antialiased, bicubic images instead.

    Source: google-research/big_vision's pp/ops_image.py.
    """
    return f"decode|resize({_side(size)}, like='big_vision')|value_range(-1, 1)"


def _side(size: tuple[int, int]) -> str:
    return str(size[0] if size[0] == size[1] else size)


# By the field `preparation` of models, with the last op of each if it is no value_range(-1, 1).
_PREPARATIONS: dict[str, tuple[Callable[[tuple[int, int]], str], str]] = {
    "": (lambda size: "", ""),
    "clip": (clip, CLIP_VALUES),
    "big_vision": (big_vision, ""),
    "clip_squashed": (clip_squashed, CLIP_VALUES),
    "imagenet": (imagenet, "normalize()"),
    "imagenet_whole": (imagenet_whole, "normalize()"),
    "satellite": (satellite, SATELLITE_VALUES),
}


def preprocessing(preparation: str, size: tuple[int, int]) -> str:
    """What makes images of (h, w) of a file, see `Model`; a ValueError if there is no such."""
    return _find(preparation)[0](size)


def input_values(preparation: str) -> str:
    """See `Model`; a ValueError if there is no such."""
    return _find(preparation)[1]


def _find(preparation: str) -> tuple[Callable[[tuple[int, int]], str], str]:
    if preparation not in _PREPARATIONS:
        raise ValueError(f"preparation={preparation!r} is not one of {tuple(_PREPARATIONS)}")
    return _PREPARATIONS[preparation]
