"""Names in PyTorch's files of the towers of images and of text, see `base.Model.torch_names`.

Sources: the state dicts of timm and transformers, and those of OpenAI's CLIP, whose names open_clip
has too. Where OpenAI keeps a projection as a parameter of its own, it is not transposed. What the
functions return is kept, and not to be changed.
"""

import functools
from collections.abc import Mapping

IMAGE_NAMINGS = (
    "timm", "transformers", "transformers-ViTModel", "transformers-CLIP",
    "transformers-CLIPVisionModel", "open_clip", "open_clip-timm",
)  # fmt: skip
# What files of both towers hold besides weights: OpenAI's sizes, and numbers and masks that are
# computed here.
BUFFERS = ("position_ids", "attn_mask", "input_resolution", "context_length", "vocab_size")
# With which of these any parameter of a text tower, and of what is between the towers, begins.
OF_TEXT = (
    "text_model.", "text_projection", "text.", "transformer.", "token_embedding.",
    "positional_embedding", "ln_final.", "logit_scale", "logit_bias",
)  # fmt: skip
OF_IMAGES = ("vision_model.", "visual_projection.", "visual.")

_ATTENTION, _MAP = "MultiHeadDotProductAttention_1", "MAPHead_0/MultiHeadDotProductAttention_0"
_TIMM_BLOCK = {
    "LayerNorm_0": "norm1",
    f"{_ATTENTION}/query": "attn.qkv[0]",
    f"{_ATTENTION}/key": "attn.qkv[1]",
    f"{_ATTENTION}/value": "attn.qkv[2]",
    f"{_ATTENTION}/out": "attn.proj",
    "LayerNorm_2": "norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
}
_VIT_BLOCK = {
    "LayerNorm_0": "layernorm_before",
    f"{_ATTENTION}/query": "attention.attention.query",
    f"{_ATTENTION}/key": "attention.attention.key",
    f"{_ATTENTION}/value": "attention.attention.value",
    f"{_ATTENTION}/out": "attention.output.dense",
    "LayerNorm_2": "layernorm_after",
    "MlpBlock_3/Dense_0": "intermediate.dense",
    "MlpBlock_3/Dense_1": "output.dense",
}
_CLIP_BLOCK = {
    "LayerNorm_0": "layer_norm1",
    f"{_ATTENTION}/query": "self_attn.q_proj",
    f"{_ATTENTION}/key": "self_attn.k_proj",
    f"{_ATTENTION}/value": "self_attn.v_proj",
    f"{_ATTENTION}/out": "self_attn.out_proj",
    "LayerNorm_2": "layer_norm2",
    "MlpBlock_3/Dense_0": "mlp.fc1",
    "MlpBlock_3/Dense_1": "mlp.fc2",
}
_OPENAI_BLOCK = {
    "LayerNorm_0": "ln_1",
    f"{_ATTENTION}/query": "attn.in_proj_[0]",
    f"{_ATTENTION}/key": "attn.in_proj_[1]",
    f"{_ATTENTION}/value": "attn.in_proj_[2]",
    f"{_ATTENTION}/out": "attn.out_proj",
    "LayerNorm_2": "ln_2",
    "MlpBlock_3/Dense_0": "mlp.c_fc",
    "MlpBlock_3/Dense_1": "mlp.c_proj",
}
_POSITIONS = "Transformer/posembed_input/pos_embedding"


@functools.cache
def image_names(naming: str, num_layers: int) -> dict[str, str]:
    """Names of a `VisionTransformer`'s parts.

    Args:
        naming: one of `IMAGE_NAMINGS`: timm's; transformers', of its ViTForImageClassification, its
            ViTModel, whose pooler is our pre_logits, of CLIPModel and SiglipModel, or of their
            towers of images alone; OpenAI's and open_clip's; or open_clip's of a tower of timm's.
        num_layers: number of blocks.
    """
    if naming.startswith("transformers-CLIP"):
        return _of_transformers_clip("vision_model." if naming.endswith("CLIP") else "", num_layers)
    if naming.startswith("transformers"):
        return _of_transformers_vit("" if naming.endswith("ViTModel") else "vit.", num_layers)
    if naming == "open_clip":
        return _of_openai(num_layers)
    return _of_timm("visual.trunk." if naming == "open_clip-timm" else "", num_layers)


@functools.cache
def text_names(prefix: str, head: str, num_layers: int, is_openai: bool) -> dict[str, str]:
    """Names of a `TextTransformer`'s parts.

    Args:
        prefix: with which theirs begin, such as "text_model.".
        head: that of the projection, with the prefix if it has one; it is a parameter that is not
            transposed if it ends in "[D,E]".
        num_layers: number of blocks.
        is_openai: whether they are OpenAI's, or else transformers'.
    """
    if is_openai:
        names = {
            "Embed_0/embedding": f"{prefix}token_embedding.weight",
            "pos_embedding": f"{prefix}positional_embedding[0,...]",
            "Encoder_0/encoder_norm": f"{prefix}ln_final",
        }
        blocks, block = f"{prefix}transformer.resblocks", _OPENAI_BLOCK
    else:
        names = {
            "Embed_0/embedding": f"{prefix}embeddings.token_embedding.weight",
            "pos_embedding": f"{prefix}embeddings.position_embedding.weight[0,...]",
            "Encoder_0/encoder_norm": f"{prefix}final_layer_norm",
        }
        blocks, block = f"{prefix}encoder.layers", _CLIP_BLOCK
    parameter = head.removesuffix("[D,E]")
    names["head" if parameter == head else "head/kernel"] = parameter
    return names | _blocks("Encoder_0", blocks, block, num_layers)


def _blocks(ours: str, theirs: str, parts: Mapping[str, str], count: int) -> dict[str, str]:
    return {
        f"{ours}/encoderblock_{i}/{part}": f"{theirs}.{i}.{name}"
        for i in range(count)
        for part, name in parts.items()
    }


def _of_timm(prefix: str, num_layers: int) -> dict[str, str]:
    names = {
        "cls": "cls_token",
        _POSITIONS: "pos_embed",
        "embedding": "patch_embed.proj",
        "Transformer/pre_norm": "norm_pre",
        "Transformer/encoder_norm": "norm",
        "MAPHead_0/probe": "attn_pool.latent",
        f"{_MAP}/query": "attn_pool.q",
        f"{_MAP}/key": "attn_pool.kv[0]",
        f"{_MAP}/value": "attn_pool.kv[1]",
        f"{_MAP}/out": "attn_pool.proj",
        "MAPHead_0/LayerNorm_0": "attn_pool.norm",
        "MAPHead_0/MlpBlock_0/Dense_0": "attn_pool.mlp.fc1",
        "MAPHead_0/MlpBlock_0/Dense_1": "attn_pool.mlp.fc2",
        "head": "head",
    } | _blocks("Transformer", "blocks", _TIMM_BLOCK, num_layers)
    return {ours: f"{prefix}{theirs}" for ours, theirs in names.items()}


def _of_transformers_vit(prefix: str, num_layers: int) -> dict[str, str]:
    return {
        "cls": f"{prefix}embeddings.cls_token",
        _POSITIONS: f"{prefix}embeddings.position_embeddings",
        "embedding": f"{prefix}embeddings.patch_embeddings.projection",
        "Transformer/encoder_norm": f"{prefix}layernorm",
        "pre_logits": f"{prefix}pooler.dense",
        "head": "classifier",
    } | _blocks("Transformer", f"{prefix}encoder.layer", _VIT_BLOCK, num_layers)


def _of_transformers_clip(prefix: str, num_layers: int) -> dict[str, str]:
    """The "pre_layrnorm" is spelt so."""
    names = {
        "cls": "embeddings.class_embedding[0,0,...]",
        _POSITIONS: "embeddings.position_embedding.weight[0,...]",
        "embedding": "embeddings.patch_embedding",
        "Transformer/pre_norm": "pre_layrnorm",
        "Transformer/encoder_norm": "post_layernorm",
        "MAPHead_0/probe": "head.probe",
        f"{_MAP}/query": "head.attention.in_proj_[0]",
        f"{_MAP}/key": "head.attention.in_proj_[1]",
        f"{_MAP}/value": "head.attention.in_proj_[2]",
        f"{_MAP}/out": "head.attention.out_proj",
        "MAPHead_0/LayerNorm_0": "head.layernorm",
        "MAPHead_0/MlpBlock_0/Dense_0": "head.mlp.fc1",
        "MAPHead_0/MlpBlock_0/Dense_1": "head.mlp.fc2",
    } | _blocks("Transformer", "encoder.layers", _CLIP_BLOCK, num_layers)
    named = {ours: f"{prefix}{theirs}" for ours, theirs in names.items()}
    # The head is that of CLIPForImageClassification, which has no projection before it.
    return named | {"pre_logits": "visual_projection", "head": "classifier"}


def _of_openai(num_layers: int) -> dict[str, str]:
    names = {
        "cls": "class_embedding[0,0,...]",
        _POSITIONS: "positional_embedding[0,...]",
        "embedding": "conv1",
        "Transformer/pre_norm": "ln_pre",
        "Transformer/encoder_norm": "ln_post",
        "pre_logits/kernel": "proj",
    } | _blocks("Transformer", "transformer.resblocks", _OPENAI_BLOCK, num_layers)
    return {ours: f"visual.{theirs}" for ours, theirs in names.items()}


@functools.cache
def of_two_towers(
    naming: str, num_layers: int, text_num_layers: int, has_bias_in_head: bool
) -> dict[str, str]:
    """Names of the parts of two towers whose texts have a `TextTransformer`.

    Args:
        naming: "transformers"; "open_clip", as OpenAI's; "open_clip-custom_text", where texts have
            a module of their own; or "open_clip-timm", where images have a tower of timm's besides.
        num_layers: number of blocks of the image tower.
        text_num_layers: number of blocks of the text tower.
        has_bias_in_head: whether the text tower's projection has a bias, as in SigLIP.
    """
    if naming == "transformers":
        images = image_names("transformers-CLIP", num_layers)
        head = "text_model.head" if has_bias_in_head else "text_projection"
        texts = text_names("text_model.", head, text_num_layers, is_openai=False)
        number = "" if has_bias_in_head else "[0,...]"  # SigLIP's have the shape (1,)
    else:
        images = image_names(naming if naming == "open_clip-timm" else "open_clip", num_layers)
        prefix = "" if naming == "open_clip" else "text."
        head = f"{prefix}text_projection" + ("" if has_bias_in_head else "[D,E]")
        texts = text_names(prefix, head, text_num_layers, is_openai=True)
        number = "[0,...]"
    names = {f"img/{ours}": theirs for ours, theirs in images.items()}
    names |= {f"txt/{ours}": theirs for ours, theirs in texts.items()}
    return names | {"t": f"logit_scale{number}", "b": f"logit_bias{number}"}


@functools.cache
def flaxformer_names(num_layers: int) -> dict[str, str]:
    """Names in google-research's .npz files of the parts of a `BertEncoder`, by ours."""
    names = {
        "token_embedding": "embedder/embedders_token_ids/embedding",
        "position_embedding": "embedder/embedders_position_ids/embedding",
        "segment_embedding": "embedder/embedders_segment_ids/embedding",
        "embedding_norm": "layer_norm",
    }
    for i in range(num_layers):
        block = f"encoder_block/layer_sequence/layers_{i}"
        attention = f"{block}/attention_block"
        names |= {
            f"encoderblock_{i}/attention/{part}": f"{attention}/attention_layer/{part}"
            for part in ("query", "key", "value")
        }
        names |= {
            f"encoderblock_{i}/attention/out": f"{attention}/dense_layer",
            f"encoderblock_{i}/attention_norm": f"{attention}/layer_norm",
            f"encoderblock_{i}/mlp/Dense_0": f"{block}/mlp_block/mlp/dense_layer",
            f"encoderblock_{i}/mlp/Dense_1": f"{block}/mlp_block/dense_layer",
            f"encoderblock_{i}/mlp_norm": f"{block}/mlp_block/layer_norm",
        }
    return names
