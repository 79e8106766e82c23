"""CLIP: images and texts that belong together, by a softmax over those of a batch.

Source: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(ICML 2021), and OpenAI's published code and weights. All of their weights compute with the quick
GELU; open_clip's are trained with the exact one unless their name says quickgelu: those need
`activation="gelu"`, and few things show that it is wrong.
"""

import math
from typing import Any

import jax.numpy as jnp

from vit_jax.models import tower_names
from vit_jax.models.base import Shapes
from vit_jax.models.two_towers import TwoTowers, recalls
from vit_jax.models.vit_table import SIZES

HEAD_WIDTH = 64

_TEXT_L = dict(
    text_hidden_size=768, text_num_heads=12, text_mlp_dim=3072, embedding_size=768
)  # fmt: skip

VARIANTS: dict[str, dict[str, Any]] = {
    "CLIP-B_32": dict(SIZES["B"], patch_size=32),
    "CLIP-B_16": dict(SIZES["B"], patch_size=16),
    "CLIP-L_14": dict(SIZES["L"], patch_size=14, **_TEXT_L),
    "CLIP-L_14_336": dict(SIZES["L"], patch_size=14, image_side=336, **_TEXT_L),
}

PARAMETER_COUNTS = {
    "CLIP-B_32": 151_277_313,
    "CLIP-B_16": 149_620_737,
    "CLIP-L_14": 427_616_513,
    "CLIP-L_14_336": 427_944_193,
}

# Zero-shot retrieval as open_clip measured it.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "Flickr30k-test": (
        1000,
        {
            "CLIP-B_32": recalls(0.789, 0.588),
            "CLIP-B_16": recalls(0.822, 0.622),
            "CLIP-L_14": recalls(0.852, 0.65),
            "CLIP-L_14_336": recalls(0.877, 0.669),
        },
    ),
    "COCO-Karpathy-test": (
        5000,
        {
            "CLIP-B_32": recalls(0.501, 0.304),
            "CLIP-B_16": recalls(0.524, 0.331),
            "CLIP-L_14": recalls(0.563, 0.365),
            "CLIP-L_14_336": recalls(0.579, 0.371),
        },
    ),
}

_IMAGES = dict(
    activation="quick_gelu",
    pre_norm=True,
    norm_epsilon=1e-5,
    patch_bias=False,
    initialization="clip",
    preparation="clip",
    position_resize="bicubic",
)

# The towers of images alone, to be fine-tuned; they are counted with a head of 1000 classes.
IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    "ViT-B_32-CLIP": dict(SIZES["B"], patch_size=32, **_IMAGES),
    "ViT-B_16-CLIP": dict(SIZES["B"], patch_size=16, **_IMAGES),
    "ViT-L_14-CLIP": dict(SIZES["L"], patch_size=14, **_IMAGES),
}

IMAGE_TOWER_COUNTS = {
    "ViT-B_32-CLIP": 88_225_000,
    "ViT-B_16-CLIP": 86_568_424,
    "ViT-L_14-CLIP": 304_204_776,
}


_MAX_SCALE = 100.0


class CLIP(TwoTowers):
    """See `TwoTowers`. The scale is kept at 100 or below in training."""

    activation: str = "quick_gelu"
    pre_norm: bool = True
    norm_epsilon: float = 1e-5
    patch_bias: bool = False
    representation: str = "projection"
    initialization: str = "clip"
    preparation: str = "clip"
    position_resize: str = "bicubic"
    embedding_size: int | None = 512
    text_hidden_size: int = 512
    text_num_heads: int = 8
    text_mlp_dim: int = 2048
    vocabulary_size: int = 49_408
    text_length: int = 77
    text_causal: bool = True
    text_pool: str = "end"
    text_head: str = "projection"
    initial_scale: float = 1 / 0.07
    tokenizer: str = "clip(77)"

    torch_namings = ("open_clip", "transformers", "open_clip-custom_text")
    torch_buffers = tower_names.BUFFERS
    must_be_told = {  # noqa: RUF012
        "activation": "quick_gelu for OpenAI's own weights and those that open_clip calls "
        "quickgelu, gelu for others of open_clip",
    }

    def torch_names(self, naming: str = "open_clip") -> dict[str, str]:
        """Names in PyTorch's files, of which open_clip's are OpenAI's."""
        has_bias = self.text_head == "linear"
        return tower_names.of_two_towers(naming, self.num_layers, self.text_num_layers, has_bias)

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays; heads are 64 wide where they say none."""
        fields = TwoTowers.fields_in(shapes)
        fields.setdefault("text_num_heads", max(fields["text_hidden_size"] // HEAD_WIDTH, 1))
        return fields

    def constrain(self, params: Any) -> Any:
        """Parameters with a scale that is not above 100."""
        return {**params, "t": jnp.minimum(params["t"], math.log(_MAX_SCALE))}
