"""How the images that published two-tower models are trained on were prepared, from a file on.

The strings are those of `input_pipeline.preprocess`; of `like`, its `resize` says what it is.
"""

CLIP_VALUES = "normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))"


def clip(size: tuple[int, int]) -> str:
    """As OpenAI and open_clip prepare images of (h, w): the shorter side resized, the centre cut.

    transformers cuts at a place rounded down, which is a column or row off for every fourth size.
    What is no square is resized whole, since none of them has such images.

    Source: openai/CLIP's clip/clip.py.
    """
    if size[0] != size[1]:
        return f"decode|resize({size}, 'bicubic', like='torchvision')|{CLIP_VALUES}"
    return (
        f"decode|resize_small({size[0]}, 'bicubic', like='torchvision')|"
        f"central_crop({size[0]}, like='torchvision')|{CLIP_VALUES}"
    )


def big_vision(size: tuple[int, int]) -> str:
    """As LiT, SigLIP and SigLIP 2 were trained: (h, w) whatever the aspect ratio, not antialiased.

    open_clip and transformers give SigLIP antialiased bicubic images instead, see `siglip_bicubic`.

    Source: google-research/big_vision's pp/ops_image.py.
    """
    return f"decode|resize({_side(size)}, like='big_vision')|value_range(-1, 1)"


def siglip_bicubic(size: tuple[int, int]) -> str:
    """As open_clip and transformers prepare images of (h, w) for SigLIP."""
    return f"decode|resize({_side(size)}, 'bicubic', like='torchvision')|value_range(-1, 1)"


def _side(size: tuple[int, int]) -> str:
    return str(size[0] if size[0] == size[1] else size)
