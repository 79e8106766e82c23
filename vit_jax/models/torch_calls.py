"""Python that makes, in PyTorch's libraries, the model that computes what one of ours does.

It says what files of weights do not: sizes, what the head sees, the activation. The names of
arguments are those of timm 1.0 and transformers 5; tests/test_model_card.py compares outputs.
"""

from typing import Any

from vit_jax.models.base import Model

_POOLING: dict[str, dict[str, Any]] = {
    "token": {},
    "gap": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "map": {"class_token": False, "global_pool": "map"},
}
_ACTIVATIONS = {  # in transformers' words
    "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh", "quick_gelu": "quick_gelu"
}  # fmt: skip


def of_vit(model: Model, size: tuple[int, int]) -> dict[str, tuple[str, str]]:
    """Calls that make a `VisionTransformer` elsewhere.

    Args:
        model: ours.
        size: (h, w) in pixels of the images.

    Returns:
        See `Model.torch_calls`; {} for what others do not compute.
    """
    usual = dict(
        resnet_layers=None, representation_size=None, cosine=False, pre_norm=False,
        patch_bias=True, norm_epsilon=1e-6, position_embedding="learned", class_token=False,
        registers=0, distillation_token=False, placed=True, head_norm=False, layer_scale=None,
        qk_norm=False, biases="qkv", gated=False, mlp_norm=False, rotary="", relative_bias=False,
    )  # fmt: skip
    v = model.values_of([*usual, "classifier", "activation", "num_classes", "patch_size",
                         "hidden_size", "num_layers", "num_heads", "mlp_dim"])  # fmt: skip
    ratio = v["mlp_dim"] / v["hidden_size"]
    is_known = v["classifier"] in _POOLING and v["activation"] in _ACTIVATIONS
    if not is_known or {name: v[name] for name in usual} != usual:
        return {}
    calls = {}
    if int(v["hidden_size"] * ratio) == v["mlp_dim"]:  # as timm computes it
        made = _call(
            "timm.models.VisionTransformer", img_size=size, patch_size=v["patch_size"],
            embed_dim=v["hidden_size"], depth=v["num_layers"], num_heads=v["num_heads"],
            mlp_ratio=ratio, num_classes=v["num_classes"], act_layer=v["activation"],
            **_POOLING[v["classifier"]],
        )  # fmt: skip
        calls["timm"] = f"model = {made}\nmodel.load_state_dict(weights)"
    if v["classifier"] == "token":
        config = _call(
            "transformers.ViTConfig", image_size=size, patch_size=v["patch_size"],
            hidden_size=v["hidden_size"], num_hidden_layers=v["num_layers"],
            num_attention_heads=v["num_heads"], intermediate_size=v["mlp_dim"],
            num_labels=v["num_classes"], hidden_act=_ACTIVATIONS[v["activation"]],
            layer_norm_eps=v["norm_epsilon"],
        )  # fmt: skip
        # Its names in memory are others than those in files, which this reads.
        calls["transformers"] = (
            f"config = {config}\n"
            "model = transformers.ViTForImageClassification.from_pretrained(\n"
            "    None, config=config, state_dict=weights\n)"
        )
    return {name: (name, f"{call}\nmodel.eval()") for name, call in calls.items()}


def _call(function: str, **arguments: Any) -> str:
    """A call, with an argument a line."""
    lines = [f"    {name}={value!r},\n" for name, value in arguments.items()]
    return f"{function}(\n{''.join(lines)})"
