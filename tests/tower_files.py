"""Files of two towers as others write them, with the weights of golden files."""

import json

import numpy as np

from tests.test_two_towers import golden, golden_weights

CLIP = dict(
    patch_size=8, hidden_size=128, num_layers=2, num_heads=2, mlp_dim=512, image_side=32,
    text_hidden_size=192, text_num_layers=2, text_num_heads=3, text_mlp_dim=768,
    vocabulary_size=100, text_length=16, embedding_size=48,
)  # fmt: skip
SIGLIP = dict(
    patch_size=8, hidden_size=96, num_layers=2, num_heads=4, mlp_dim=200, image_side=32,
    text_hidden_size=72, text_num_layers=2, text_num_heads=3, text_mlp_dim=160,
    vocabulary_size=120, text_length=12,
)  # fmt: skip
OF_IMAGES = ("patch_size", "hidden_size", "num_layers", "num_heads", "mlp_dim")


def image_fields(fields):
    """Those of the tower of images alone."""
    return {field: fields[field] for field in OF_IMAGES}


def renamed(file, which):
    """The weights of a golden file by the names, and in the layout, of another code."""
    weights = golden_weights(file)
    found = {}
    for name, (operation, *sources) in json.loads(str(golden(file)[which])).items():
        heads = sources.pop() if isinstance(sources[-1], int) else 0
        arrays = [weights[source] for source in sources]
        if operation.startswith("third"):
            arrays[0] = np.split(arrays[0], 3)[int(operation[5])]
            operation = operation[len("third0_") :]
        found[name] = _operate(operation, arrays, heads)
    return found


def _operate(operation, arrays, heads):
    x = arrays[0]
    if operation == "concat0":
        return np.concatenate(arrays)
    if operation in ("first_third", "last_two_thirds"):
        return x[: len(x) // 3] if operation == "first_third" else x[len(x) // 3 :]
    if operation == "heads_in":
        return x.T.reshape(x.shape[1], heads, -1)
    if operation == "heads_out":
        return x.T.reshape(heads, -1, x.shape[0])
    return {
        "same": lambda: x,
        "transpose": lambda: x.T,
        "unsqueeze0": lambda: x[None],
        "conv": lambda: x.transpose(2, 3, 1, 0),
        "heads_bias": lambda: x.reshape(heads, -1),
    }[operation]()


def open_clip_siglip():
    """SigLIP's golden weights as open_clip has them: a tower of timm's, and OpenAI's blocks."""
    found = {f"visual.trunk.{k}": v for k, v in renamed("siglip_small", "timm").items()}
    weights = golden_weights("siglip_small")
    head = "text_model."
    for i in range(2):
        theirs, ours = f"text.transformer.resblocks.{i}.", f"{head}encoder.layers.{i}."
        for leaf in ("weight", "bias"):
            parts = [weights[f"{ours}self_attn.{part}_proj.{leaf}"] for part in "qkv"]
            found[f"{theirs}attn.in_proj_{leaf}"] = np.concatenate(parts)
            for a, b in {
                "attn.out_proj": "self_attn.out_proj",
                "ln_1": "layer_norm1",
                "ln_2": "layer_norm2",
                "mlp.c_fc": "mlp.fc1",
                "mlp.c_proj": "mlp.fc2",
            }.items():
                found[f"{theirs}{a}.{leaf}"] = weights[f"{ours}{b}.{leaf}"]
    for leaf in ("weight", "bias"):
        found[f"text.ln_final.{leaf}"] = weights[f"{head}final_layer_norm.{leaf}"]
        found[f"text.text_projection.{leaf}"] = weights[f"{head}head.{leaf}"]
    found["text.token_embedding.weight"] = weights[f"{head}embeddings.token_embedding.weight"]
    found["text.positional_embedding"] = weights[f"{head}embeddings.position_embedding.weight"]
    for name in ("logit_scale", "logit_bias"):
        found[name] = weights[name].reshape(())
    return found


def open_clip_custom_text():
    """CLIP's golden weights as open_clip has them where texts have a module of their own."""
    return {
        name if name.startswith(("visual.", "logit_")) else f"text.{name}": array
        for name, array in renamed("clip_small", "openai").items()
    }


def stacked(arrays):
    """Arrays of big_vision whose blocks are one, with an axis more."""
    found, blocks = {}, {}
    for name, array in arrays.items():
        before, is_block, rest = name.partition("encoderblock_")
        if not is_block:
            found[name] = array
            continue
        number, _, part = rest.partition("/")
        blocks.setdefault(f"{before}encoderblock/{part}", {})[int(number)] = array
    return found | {k: np.stack([v[i] for i in sorted(v)]) for k, v in blocks.items()}
