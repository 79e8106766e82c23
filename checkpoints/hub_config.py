"""What a config of transformers, open_clip or timm says that the weights beside it do not show.

That is which activation and how many heads they were trained with. A wrong activation moves the
embeddings of CLIP by some hundredths of their deviation, which is too little to notice and enough
to lose by.
"""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from checkpoints import files

_TRANSFORMERS, _OPEN_CLIP = "config.json", "open_clip_config.json"
# Transformers' names of activations, by ours.
_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "silu": "silu",
}
# What transformers assumes where its config does not say: activation and heads, of each part.
_ASSUMED = {
    "clip": {"vision_config": ("quick_gelu", 12), "text_config": ("quick_gelu", 8)},
    "siglip": {
        "vision_config": ("gelu_pytorch_tanh", 12),
        "text_config": ("gelu_pytorch_tanh", 12),
    },
    "clip_vision_model": {"": ("quick_gelu", 12)},
    "clip_text_model": {"": ("quick_gelu", 8)},
    "siglip_vision_model": {"": ("gelu_pytorch_tanh", 12)},
    "siglip_text_model": {"": ("gelu_pytorch_tanh", 12)},
    "bert": {"": ("gelu", 12)},
    "vit": {"": ("gelu", 12)},
    "deit": {"": ("gelu", 12)},
    "vit_mae": {"": ("gelu", 12)},
    "dinov2": {"": ("gelu", 12)},
    "dinov2_with_registers": {"": ("gelu", 12)},
    "dinov3_vit": {"": ("gelu", 6)},
}
_MASKED_AUTOENCODER = "vit_mae"
_OF_DECODER = "decoder_num_attention_heads", 16
_PREFIXES = {"": "", "vision_config": "", "text_config": "text_"}
# Of timm's architectures those that are ours as ViTs with plain MLPs, and tags of Google's weights.
_VITS = ("vit_", "deit_", "deit3_", "beit_", "beitv2_")
_BY_GOOGLE = ("augreg_", "orig_in21k", "sam_in1k")
_HEAD_WIDTH = 64  # of the towers that open_clip builds itself


def read_fields(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads fields of a model off the config that lies beside weights.

    Args:
        path: of the weights, local, in a bucket, or hf://.

    Returns:
        `activation` and `num_heads`, of an image tower or of the only one, `text_activation` and
        `text_num_heads`, and `decoder_num_heads` of a masked autoencoder, as far as they are said;
        {} without a config of a kind that is known.

    Raises:
        ValueError: if it says an activation that is not known.
    """
    is_open_clip = os.path.basename(os.fspath(path)).startswith("open_clip")
    names = (_OPEN_CLIP, _TRANSFORMERS) if is_open_clip else (_TRANSFORMERS, _OPEN_CLIP)
    for name in names:
        found = files.find_beside(path, [name])
        config = _read(found)
        if config is None:
            continue
        try:
            fields = _read_open_clip(config) if name == _OPEN_CLIP else _read_transformers(config)
        except (AttributeError, TypeError):
            continue
        except ValueError as error:
            raise ValueError(f"{found}: {error}") from None
        if fields:
            return fields
    return {}


def read_names(path: str | os.PathLike[str]) -> tuple[str, str]:
    """Reads what the config that lies beside weights calls their model.

    Args:
        path: as for `read_fields`.

    Returns:
        timm's name of the model and the weights, such as "vit_small_patch16_224.dino"; and the type
        of a model of transformers, such as "dinov2". "" for what it does not say.
    """
    config = _read(files.find_beside(path, [_TRANSFORMERS])) or {}
    name, own = config.get("architecture"), config.get("pretrained_cfg")
    tag = own.get("tag") if isinstance(own, Mapping) else None
    kind = config.get("model_type")
    of_timm = f"{name}.{tag}" if name and tag else name
    return str(of_timm or ""), str(kind or "")


def read_loss(path: str | os.PathLike[str]) -> str:
    """The loss of a masked autoencoder by the config that lies beside weights; "" of others."""
    config = _read(files.find_beside(path, [_TRANSFORMERS])) or {}
    if config.get("model_type") != _MASKED_AUTOENCODER:
        return ""
    return "normalized_pixels" if config.get("norm_pix_loss") else "pixels"


def _read(found: epath.Path | None) -> Mapping[str, Any] | None:
    """What a config says; None without one, or of another kind, which is not ours to judge."""
    try:
        config = None if found is None else json.loads(found.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return config if isinstance(config, Mapping) else None


def _read_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for part, (activation, num_heads) in _ASSUMED.get(config.get("model_type", ""), {}).items():
        own = config.get(part) or {} if part else config
        prefix = _PREFIXES[part]
        is_swiglu = own.get("use_swiglu_ffn", False)  # whatever its activation is said to be
        activation = "silu" if is_swiglu else own.get("hidden_act", activation)
        fields[f"{prefix}activation"] = _our_activation(activation)
        fields[f"{prefix}num_heads"] = own.get("num_attention_heads", num_heads)
    if config.get("model_type") == _MASKED_AUTOENCODER:
        fields["decoder_num_heads"] = config.get(*_OF_DECODER)
    return fields or _read_timm(config)


def _read_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of timm's ViTs the names tell: those of SigLIP, and Google's own, were trained with the tanh.

    timm computes the latter with the exact GELU all the same.
    """
    name = str(config.get("architecture", ""))
    tag = str((config.get("pretrained_cfg") or {}).get("tag", ""))
    if not name.startswith(_VITS):
        return {}
    if "siglip" in name or tag.startswith(_BY_GOOGLE):
        return {"activation": "gelu_tanh"}
    if re.search("giant.*dinov2|(plus|7b).*dinov3", name):  # gated
        return {"activation": "silu"}
    if "quickgelu" in name or ("_clip_" in name and tag == "openai"):
        return {"activation": "quick_gelu"}
    return {"activation": "gelu"}


# What changes a model of open_clip without showing in its weights, and how CLIP has it.
_OF_CLIP: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"),
    "no_causal_mask": (False,),
    "final_ln_after_pool": (False,),
    "attentional_pool": (False,),
    "act_kwargs": ({},),
    "norm_kwargs": ({},),
}


def _read_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    model = config.get("model_cfg") or {}
    image, text = model.get("vision_cfg") or {}, model.get("text_cfg") or {}
    if "timm_model_name" in image:  # of SigLIP, whose definition there has not its own activation
        return {"text_num_heads": text["heads"]} if "heads" in text else {}
    if "width" not in image:
        return {}
    for part, own in (("vision_cfg", image), ("text_cfg", text)):
        strange = [k for k, v in own.items() if k in _OF_CLIP and v not in (*_OF_CLIP[k], None)]
        if strange:
            raise ValueError(
                f"{part}.{strange[0]}={own[strange[0]]!r} makes another model than CLIP, which is "
                "not read"
            )
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    return {
        "activation": activation,
        "text_activation": activation,
        "num_heads": image["width"] // image.get("head_width", _HEAD_WIDTH),
        "text_num_heads": text.get("heads", 8),
    }


def _our_activation(name: str) -> str:
    if name not in _ACTIVATIONS:
        raise ValueError(
            f"the activation {name!r} is not one of those known, {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]
