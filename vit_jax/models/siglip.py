"""SigLIP and SigLIP 2: images and texts that belong together, pair by pair.

Sources: Zhai et al., "Sigmoid Loss for Language Image Pre-Training" (ICCV 2023); Tschannen et al.,
"SigLIP 2: Multilingual Vision-Language Encoders with Improved Semantic Understanding, Localization,
and Dense Features" (2025); big_vision's code and weights. The second has the architecture of the
first, with Gemma's vocabulary; these are its models of a fixed resolution. All were trained with
GELU's approximation by tanh, also where timm and open_clip compute with the exact one.
"""

from typing import Any

from vit_jax.models import tower_names
from vit_jax.models.two_towers import TwoTowers, recalls
from vit_jax.models.vit_table import SIZES


def _sizes(image: str, patch_size: int, side: int = 224, text: str = "") -> dict[str, Any]:
    """Fields of a tower of images of a size, and of texts of the same or another one."""
    of_text = {f"text_{field}": value for field, value in SIZES[text or image].items()}
    return {**SIZES[image], **of_text, "patch_size": patch_size, "image_side": side}


# What whole patches of 14 cover of 384 pixels, after which such models are called. They are given
# images of this size, as in timm; big_vision leaves the last 6 pixels of larger ones out.
_SIDE_14 = 378

_I18N = dict(vocabulary_size=250_000)
_GEMMA = dict(vocabulary_size=256_000, tokenizer="siglip2(64)")

VARIANTS: dict[str, dict[str, Any]] = {
    "SigLIP-B_16": _sizes("B", 16),
    "SigLIP-B_16-256": _sizes("B", 16, 256),
    "SigLIP-B_16-384": _sizes("B", 16, 384),
    "SigLIP-B_16-512": _sizes("B", 16, 512),
    "SigLIP-B_16-i18n-256": dict(_sizes("B", 16, 256), **_I18N),
    "SigLIP-L_16-256": _sizes("L", 16, 256),
    "SigLIP-L_16-384": _sizes("L", 16, 384),
    "SigLIP-So400m_14": dict(_sizes("So400m", 14), text_length=16, tokenizer="siglip(16)"),
    "SigLIP-So400m_14-384": _sizes("So400m", 14, _SIDE_14),
    "SigLIP2-B_32-256": dict(_sizes("B", 32, 256), **_GEMMA),
    "SigLIP2-B_16": dict(_sizes("B", 16), **_GEMMA),
    "SigLIP2-B_16-256": dict(_sizes("B", 16, 256), **_GEMMA),
    "SigLIP2-B_16-384": dict(_sizes("B", 16, 384), **_GEMMA),
    "SigLIP2-B_16-512": dict(_sizes("B", 16, 512), **_GEMMA),
    "SigLIP2-L_16-256": dict(_sizes("L", 16, 256), **_GEMMA),
    "SigLIP2-L_16-384": dict(_sizes("L", 16, 384), **_GEMMA),
    "SigLIP2-L_16-512": dict(_sizes("L", 16, 512), **_GEMMA),
    "SigLIP2-So400m_14": dict(_sizes("So400m", 14), **_GEMMA),
    "SigLIP2-So400m_14-384": dict(_sizes("So400m", 14, _SIDE_14), **_GEMMA),
    "SigLIP2-So400m_16-256": dict(_sizes("So400m", 16, 256), **_GEMMA),
    "SigLIP2-g-opt_16-256": dict(_sizes("g-opt", 16, 256, "So400m"), **_GEMMA),
    "SigLIP2-g-opt_16-384": dict(_sizes("g-opt", 16, 384, "So400m"), **_GEMMA),
}

PARAMETER_COUNTS = {
    "SigLIP-B_16": 203_155_970,
    "SigLIP-B_16-256": 203_202_050,
    "SigLIP-B_16-384": 203_447_810,
    "SigLIP-B_16-512": 203_791_874,
    "SigLIP-B_16-i18n-256": 370_626_050,
    "SigLIP-L_16-256": 652_150_786,
    "SigLIP-L_16-384": 652_478_466,
    "SigLIP-So400m_14": 877_360_306,
    "SigLIP-So400m_14-384": 877_960_498,
    "SigLIP2-B_32-256": 376_856_066,
    "SigLIP2-B_16": 375_187_970,
    "SigLIP2-B_16-256": 375_234_050,
    "SigLIP2-B_16-384": 375_479_810,
    "SigLIP2-B_16-512": 375_823_874,
    "SigLIP2-L_16-256": 881_526_786,
    "SigLIP2-L_16-384": 881_854_466,
    "SigLIP2-L_16-512": 882_313_218,
    "SigLIP2-So400m_14": 1_135_463_602,
    "SigLIP2-So400m_14-384": 1_136_008_498,
    "SigLIP2-So400m_16-256": 1_135_670_962,
    "SigLIP2-g-opt_16-256": 1_871_393_906,
    "SigLIP2-g-opt_16-384": 1_871_885_426,
}

# Zero-shot retrieval: SigLIP's as open_clip measured it, SigLIP 2's as its authors did.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "Flickr30k-test": (
        1000,
        {
            "SigLIP-B_16": recalls(0.891, 0.747),
            "SigLIP-So400m_14-384": recalls(0.943, 0.83),
        },
    ),
    "COCO-Karpathy-test": (
        5000,
        {
            "SigLIP-B_16": recalls(0.657, 0.478),
            "SigLIP-So400m_14-384": recalls(0.724, 0.542),
            "SigLIP2-B_16": recalls(0.689, 0.521),
        },
    ),
}

# The towers of images alone, to be fine-tuned; they are counted with a head of 1000 classes.
IMAGE_TOWERS: dict[str, dict[str, Any]] = {
    f"ViT-{size}_{patch_size}-SigLIP": dict(
        SIZES[size],
        patch_size=patch_size,
        classifier="map",
        activation="gelu_tanh",
        preparation="big_vision",
    )
    for size, patch_size in (
        ("B", 16), ("B", 32), ("L", 16), ("So400m", 14), ("So400m", 16), ("g-opt", 16)
    )
}  # fmt: skip

IMAGE_TOWER_COUNTS = {
    "ViT-B_16-SigLIP": 93_653_224,
    "ViT-B_32-SigLIP": 95_309_800,
    "ViT-L_16-SigLIP": 316_919_784,
    "ViT-So400m_14-SigLIP": 428_833_704,
    "ViT-So400m_16-SigLIP": 428_971_944,
    "ViT-g-opt_16-SigLIP": 1_164_613_096,
}


class SigLIP(TwoTowers):
    """See `TwoTowers`. Padding is not hidden, so that texts are to be as long as in training."""

    activation: str = "gelu_tanh"
    classifier: str = "map"
    preparation: str = "big_vision"
    text_length: int = 64
    initial_scale: float = 10.0
    has_bias: bool = True
    initial_bias: float = -10.0
    tokenizer: str = "siglip(64)"

    torch_namings = ("transformers", "open_clip-timm")
    torch_buffers = tower_names.BUFFERS

    def torch_names(self, naming: str = "transformers") -> dict[str, str]:
        """Names in PyTorch's files, of which open_clip's have a tower of timm's for the images."""
        has_bias = self.text_head == "linear"
        return tower_names.of_two_towers(naming, self.num_layers, self.text_num_layers, has_bias)

    def npz_names(self) -> dict[str, str]:
        """Names in big_vision's files, where others than ours."""
        return {"img/Transformer/posembed_input/pos_embedding": "img/pos_embedding"}
