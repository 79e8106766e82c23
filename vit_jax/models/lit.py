"""LiT: texts learn to be told apart by the embeddings of a tower of images that is locked.

Source: Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning" (CVPR 2022), and the
models and weights of google-research/vision_transformer. Both towers compute with GELU's
approximation by tanh, a BERT's as well.
"""

from collections.abc import Collection
from typing import Any

from vit_jax.models import tower_names
from vit_jax.models.two_towers import TwoTowers, recalls
from vit_jax.models.vit_table import SIZES


def _text(size: str) -> dict[str, Any]:
    return {f"text_{field}": value for field, value in SIZES[size].items()}


_BERT = dict(
    text_kind="bert",
    text_pool="first",
    vocabulary_size=30_522,
    text_positions=512,
    tokenizer="bert(16)",
)
_PIECES = dict(vocabulary_size=16_000, tokenizer="sentencepiece_lit(16)")

VARIANTS: dict[str, dict[str, Any]] = {
    "LiT-B16B": dict(SIZES["B"], **_BERT, **_text("B"), embedding_size=768),
    "LiT-B16B_2": dict(SIZES["B"], **_BERT, **_text("B")),
    "LiT-L16L": dict(SIZES["L"], **_BERT, **_text("L")),
    "LiT-L16S": dict(SIZES["L"], **_PIECES, **_text("S")),
    "LiT-L16Ti": dict(SIZES["L"], **_PIECES, **_text("Ti")),
}

PARAMETER_COUNTS = {
    "LiT-B16B": 195_871_489,
    "LiT-B16B_2": 195_280_897,
    "LiT-L16L": 638_443_521,
    "LiT-L16S": 331_140_353,
    "LiT-L16Ti": 311_913_089,
}


# Zero-shot retrieval, of the model card.
PUBLISHED_SCORES: dict[str, tuple[int, dict[str, dict[str, float]]]] = {
    "COCO-Karpathy-test": (
        5000,
        {
            "LiT-B16B_2": recalls(0.516, 0.318),
            "LiT-L16L": recalls(0.485, 0.311),
        },
    ),
}


class LiT(TwoTowers):
    """See `TwoTowers`; `txt/bert` is the published BERT where there is one."""

    activation: str = "gelu_tanh"
    preparation: str = "big_vision"

    def npz_names(self) -> dict[str, str]:
        """Names in google-research's files, where others than ours."""
        names = {"img/pre_logits": "img/head"}
        if self.text_kind == "bert":
            names |= {
                f"txt/bert/{ours}": f"txt/BertEncoder_0/{theirs}"
                for ours, theirs in tower_names.flaxformer_names(self.text_num_layers).items()
            }
        return names

    def parts(self) -> Collection[str]:
        """See `Model.parts`; there are no such names in PyTorch."""
        names = {f"img/{ours}" for ours in tower_names.image_names("timm", self.num_layers)}
        if self.text_kind == "bert":
            bert = tower_names.flaxformer_names(self.text_num_layers)
            texts = {f"bert/{ours}" for ours in bert} | {"head"}
        else:
            texts = {*tower_names.text_names("", "head", self.text_num_layers, is_openai=False)}
        return names | {f"txt/{ours}" for ours in texts} | {"img/pre_logits", "t", "b"}
