"""The published ViTs and hybrids: their sizes, fields and numbers of parameters."""

from typing import Any

SIZES = {
    "Ti": dict(hidden_size=192, mlp_dim=768, num_heads=3, num_layers=12),
    "S": dict(hidden_size=384, mlp_dim=1536, num_heads=6, num_layers=12),
    "B": dict(hidden_size=768, mlp_dim=3072, num_heads=12, num_layers=12),
    "L": dict(hidden_size=1024, mlp_dim=4096, num_heads=16, num_layers=24),
    "H": dict(hidden_size=1280, mlp_dim=5120, num_heads=16, num_layers=32),
    "So400m": dict(hidden_size=1152, mlp_dim=4304, num_heads=16, num_layers=27),
    "g-opt": dict(hidden_size=1536, mlp_dim=6144, num_heads=16, num_layers=40),
}

VARIANTS: dict[str, dict[str, Any]] = {
    "ViT-Ti_16": dict(SIZES["Ti"], patch_size=16),
    "ViT-S_16": dict(SIZES["S"], patch_size=16),
    "ViT-S_32": dict(SIZES["S"], patch_size=32),
    "ViT-B_8": dict(SIZES["B"], patch_size=8),
    "ViT-B_16": dict(SIZES["B"], patch_size=16),
    "ViT-B_32": dict(SIZES["B"], patch_size=32),
    "ViT-L_16": dict(SIZES["L"], patch_size=16, dropout_rate=0.1),
    "ViT-L_32": dict(SIZES["L"], patch_size=32),
    "ViT-H_14": dict(SIZES["H"], patch_size=14, dropout_rate=0.1),
    "ViT-S_16-gap-norep": dict(SIZES["S"], patch_size=16, classifier="gap"),
    "ViT-S_32-gap-norep": dict(SIZES["S"], patch_size=32, classifier="gap"),
    "ViT-B_16-gap-norep": dict(SIZES["B"], patch_size=16, classifier="gap"),
    "ViT-B_32-gap-norep": dict(SIZES["B"], patch_size=32, classifier="gap"),
    "R+ViT-Ti_16": dict(SIZES["Ti"], patch_size=8, resnet_layers=()),
    "R26+ViT-S_32": dict(SIZES["S"], patch_size=1, resnet_layers=(2, 2, 2, 2)),
    "R26+ViT-B_32": dict(SIZES["B"], patch_size=1, resnet_layers=(2, 2, 2, 2)),
    "R50+ViT-B_16": dict(SIZES["B"], patch_size=1, resnet_layers=(3, 4, 9), dropout_rate=0.1),
    "R50+ViT-L_32": dict(SIZES["L"], patch_size=1, resnet_layers=(3, 4, 6, 3), dropout_rate=0.1),
}

PARAMETER_COUNTS = {
    "ViT-Ti_16": 5_717_416,
    "ViT-S_16": 22_050_664,
    "ViT-S_32": 22_878_952,
    "ViT-B_8": 86_576_872,
    "ViT-B_16": 86_567_656,
    "ViT-B_32": 88_224_232,
    "ViT-L_16": 304_326_632,
    "ViT-L_32": 306_535_400,
    "ViT-H_14": 632_045_800,
    "ViT-S_16-gap-norep": 22_049_896,
    "ViT-S_32-gap-norep": 22_878_184,
    "ViT-B_16-gap-norep": 86_566_120,
    "ViT-B_32-gap-norep": 88_222_696,
    "R+ViT-Ti_16": 6_337_704,
    "R26+ViT-S_32": 36_431_912,
    "R26+ViT-B_32": 101_383_976,
    "R50+ViT-B_16": 98_659_112,
    "R50+ViT-L_32": 328_994_856,
}
