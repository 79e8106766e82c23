"""Names in PyTorch's files of the towers of images and of text, see `base.Model.torch_names`.

Sources: the state dicts of timm and transformers, and those of OpenAI's CLIP, whose names open_clip
has too. Where OpenAI keeps a projection as a parameter of its own, it is not transposed. What the
functions return is kept, and not to be changed.
"""

import functools
from collections.abc import Mapping

IMAGE_NAMINGS = (
    "timm", "transformers", "transformers-ViTModel", "transformers-CLIP",
    "transformers-CLIPVisionModel", "open_clip", "open_clip-timm", "dinov2", "transformers-Dinov2",
    "transformers-DeiT",
)  # fmt: skip
DINOV3_NAMINGS = ("timm-eva-gated", "dinov3", "transformers-DINOv3ViT")
MAE_NAMINGS = ("mae", "transformers", "transformers-5")  # as published, and as version 5 writes it
EVA_NAMINGS = ("timm-eva", "timm-eva-apart")  # and BEiT's
# What files of both towers hold besides weights: OpenAI's sizes, and numbers and masks that are
# computed here.
BUFFERS = (
    "position_ids", "attn_mask", "input_resolution", "context_length", "vocab_size",
    "mask_token", "bias_mask", "periods", "local_cls_norm.weight", "local_cls_norm.bias",
)  # fmt: skip
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
    f"{_ATTENTION}/query_norm": "attn.q_norm",
    f"{_ATTENTION}/key_norm": "attn.k_norm",
    "layer_scale_1": "ls1.gamma",
    "layer_scale_2": "ls2.gamma",
}
_EVA_BLOCK = _TIMM_BLOCK | {
    f"{_ATTENTION}/query/bias": "attn.q_bias",
    f"{_ATTENTION}/value/bias": "attn.v_bias",
    "MlpBlock_3/LayerNorm_0": "mlp.norm",
    "relative_position_bias_table": "attn.relative_position_bias_table",
    "layer_scale_1": "gamma_1",
    "layer_scale_2": "gamma_2",
}
_EVA_APART = {
    f"{_ATTENTION}/query": "attn.q_proj",
    f"{_ATTENTION}/key": "attn.k_proj",
    f"{_ATTENTION}/value": "attn.v_proj",
    f"{_ATTENTION}/query/bias": "attn.q_proj.bias",
    f"{_ATTENTION}/value/bias": "attn.v_proj.bias",
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
def image_names(naming: str, num_layers: int, is_gated: bool = False) -> dict[str, str]:
    """Names of a `VisionTransformer`'s parts.

    Args:
        naming: one of those above: timm's; transformers', of its ViTForImageClassification, its
            ViTModel, whose pooler is our pre_logits, its DeiTForImageClassificationWithTeacher, of
            CLIPModel and SiglipModel, or of their towers of images alone; OpenAI's and open_clip's;
            open_clip's of a tower of timm's; timm's of its classes Eva and Beit, with gate and
            value in one, apart, or queries, keys and values apart as well; those of the authors of
            DINOv2 and DINOv3, and transformers'.
        num_layers: number of blocks.
        is_gated: whether the MLPs are gated.
    """
    if naming in ("dinov2", "dinov3"):
        return _of_dino(naming, is_gated, num_layers)
    if "dino" in naming.lower():
        return _of_transformers_dino(naming, is_gated, num_layers)
    if naming == "timm-eva":
        return _of_timm("", num_layers, _EVA_BLOCK)
    if naming.startswith("timm-eva"):
        apart = _EVA_APART if naming == "timm-eva-apart" else {}
        gated = {"MlpBlock_3/Dense_0": "mlp.fc1_g|mlp.fc1_x"} if is_gated else {}
        return _of_timm("", num_layers, _EVA_BLOCK | apart | gated)
    if naming.startswith("transformers-CLIP"):
        return _of_transformers_clip("vision_model." if naming.endswith("CLIP") else "", num_layers)
    if naming == "transformers-DeiT":
        return _of_transformers_vit("deit.", num_layers) | {
            "dist": "deit.embeddings.distillation_token",
            "head": "cls_classifier",
            "head_dist": "distillation_classifier",
        }
    if naming.startswith("transformers"):
        return _of_transformers_vit("" if naming.endswith("ViTModel") else "vit.", num_layers)
    if naming == "open_clip":
        return _of_openai(num_layers)
    return _of_timm("visual.trunk." if naming == "open_clip-timm" else "", num_layers, _TIMM_BLOCK)


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
        f"{ours}/encoderblock_{i}/{part}": "|".join(f"{theirs}.{i}.{n}" for n in name.split("|"))
        for i in range(count)
        for part, name in parts.items()
    }


def _of_timm(prefix: str, num_layers: int, block: Mapping[str, str]) -> dict[str, str]:
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
        "dist": "dist_token",
        "reg": "reg_token",
        "head_norm": "fc_norm",
        "head": "head",
        "head_dist": "head_dist",
    } | _blocks("Transformer", "blocks", block, num_layers)
    return {ours: f"{prefix}{theirs}" for ours, theirs in names.items()}


def _of_dino(naming: str, is_gated: bool, num_layers: int) -> dict[str, str]:
    """Those of the authors of DINOv2 and DINOv3."""
    block = _TIMM_BLOCK
    if is_gated and naming == "dinov2":
        block = block | {"MlpBlock_3/Dense_0": "mlp.w12", "MlpBlock_3/Dense_1": "mlp.w3"}
    elif is_gated:
        block = block | {"MlpBlock_3/Dense_0": "mlp.w1|mlp.w2", "MlpBlock_3/Dense_1": "mlp.w3"}
    registers = "register_tokens" if naming == "dinov2" else "storage_tokens"
    return _of_timm("", num_layers, block) | {"reg": registers}


def _of_transformers_dino(naming: str, is_gated: bool, num_layers: int) -> dict[str, str]:
    """Those of transformers' Dinov2Model and DINOv3ViTModel, as their files have them."""
    is_second = naming.endswith("Dinov2")
    attention = "attention.attention." if is_second else "attention."
    projections = ("query", "key", "value") if is_second else ("q_proj", "k_proj", "v_proj")
    block = {
        f"{_ATTENTION}/{ours}": f"{attention}{theirs}"
        for ours, theirs in zip(("query", "key", "value"), projections)
    } | {
        "LayerNorm_0": "norm1",
        f"{_ATTENTION}/out": "attention.output.dense" if is_second else "attention.o_proj",
        "layer_scale_1": "layer_scale1.lambda1",
        "LayerNorm_2": "norm2",
        "layer_scale_2": "layer_scale2.lambda1",
    }
    first, second = ("mlp.fc1", "mlp.fc2") if is_second else ("mlp.up_proj", "mlp.down_proj")
    if is_gated and is_second:
        first, second = "mlp.weights_in", "mlp.weights_out"
    elif is_gated:
        first = f"mlp.gate_proj|{first}"
    block |= {"MlpBlock_3/Dense_0": first, "MlpBlock_3/Dense_1": second}
    patches = ".projection" if is_second else ""
    return {
        "cls": "embeddings.cls_token",
        "reg": "embeddings.register_tokens",
        _POSITIONS: "embeddings.position_embeddings",
        "embedding": f"embeddings.patch_embeddings{patches}",
        "Transformer/encoder_norm": "layernorm" if is_second else "norm",
    } | _blocks("Transformer", "encoder.layer" if is_second else "layer", block, num_layers)


def _of_transformers_vit(prefix: str, num_layers: int) -> dict[str, str]:
    return {
        "cls": f"{prefix}embeddings.cls_token",
        _POSITIONS: f"{prefix}embeddings.position_embeddings",
        "embedding": f"{prefix}embeddings.patch_embeddings.projection",
        "Transformer/encoder_norm": f"{prefix}layernorm",
        "pre_logits": f"{prefix}pooler.dense",
        "head": "classifier",
    } | _blocks("Transformer", f"{prefix}encoder.layer", _VIT_BLOCK, num_layers)


@functools.cache
def of_masked_autoencoder(naming: str, num_layers: int, decoder_num_layers: int) -> dict[str, str]:
    """Names of a `MaskedAutoencoder`'s parts, by one of `MAE_NAMINGS`."""
    if naming.startswith("transformers"):
        encoder, block = _of_transformers_vit("vit.", num_layers), _VIT_BLOCK
        is_published = naming == "transformers"
        blocks = "decoder_layers" if is_published else "decoder_encoder.layer"
        prefix, blocks = "decoder.", f"decoder.{blocks}"
    else:
        encoder, block = _of_timm("", num_layers, _TIMM_BLOCK), _TIMM_BLOCK
        prefix, blocks = "", "decoder_blocks"
    return (
        {f"encoder/{ours}": theirs for ours, theirs in encoder.items()}
        | {
            "mask_token": f"{prefix}mask_token",
            "decoder_embed": f"{prefix}decoder_embed",
            "decoder/encoder_norm": f"{prefix}decoder_norm",
            "decoder_pred": f"{prefix}decoder_pred",
        }
        | _blocks("decoder", blocks, block, decoder_num_layers)
    )


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
