"""The rows of today's ViTs that timm keeps on the hub, for `checkpoints.published`.

Of each family its title, page, licence, data, timm's name of each model, the ending of the rows'
names, the megabytes of the models' float32 parameters, and fields in which timm's files differ: it
adds the position of the class token into the token where there are registers.
"""

from typing import Any

Family = tuple[str, str, str, str, dict[str, str], str, dict[str, int], dict[str, Any]]

FAMILIES: tuple[Family, ...] = (
    (
        "DeiT",
        "https://github.com/facebookresearch/deit, here as timm keeps it",
        "Apache-2.0",
        "ImageNet-1k",
        {
            "DeiT-Ti_16": "deit_tiny_patch16_224.fb_in1k",
            "DeiT-S_16": "deit_small_patch16_224.fb_in1k",
            "DeiT-B_16": "deit_base_patch16_224.fb_in1k",
        },
        "-i1k",
        {
            "DeiT-Ti_16": 23,
            "DeiT-S_16": 88,
            "DeiT-B_16": 346,
        },
        {},
    ),
    (
        "DeiT by a teacher",
        "https://github.com/facebookresearch/deit, here as timm keeps it",
        "Apache-2.0",
        "ImageNet-1k, by a teacher",
        {
            "DeiT-Ti_16-distilled": "deit_tiny_distilled_patch16_224.fb_in1k",
            "DeiT-S_16-distilled": "deit_small_distilled_patch16_224.fb_in1k",
            "DeiT-B_16-distilled": "deit_base_distilled_patch16_224.fb_in1k",
        },
        "-i1k",
        {
            "DeiT-Ti_16-distilled": 24,
            "DeiT-S_16-distilled": 90,
            "DeiT-B_16-distilled": 349,
        },
        {},
    ),
    (
        "DeiT III",
        "https://github.com/facebookresearch/deit, here as timm keeps it",
        "Apache-2.0",
        "ImageNet-1k",
        {
            "DeiT3-S_16": "deit3_small_patch16_224.fb_in1k",
            "DeiT3-M_16": "deit3_medium_patch16_224.fb_in1k",
            "DeiT3-B_16": "deit3_base_patch16_224.fb_in1k",
            "DeiT3-L_16": "deit3_large_patch16_224.fb_in1k",
            "DeiT3-H_14": "deit3_huge_patch14_224.fb_in1k",
        },
        "-i1k",
        {
            "DeiT3-S_16": 88,
            "DeiT3-M_16": 155,
            "DeiT3-B_16": 346,
            "DeiT3-L_16": 1217,
            "DeiT3-H_14": 2529,
        },
        {},
    ),
    (
        "MAE, the encoders",
        "https://github.com/facebookresearch/mae, here as timm keeps it",
        "CC-BY-NC-4.0",
        "ImageNet-1k, without labels",
        {
            "MAE-B_16": "vit_base_patch16_224.mae",
            "MAE-L_16": "vit_large_patch16_224.mae",
            "MAE-H_14": "vit_huge_patch14_224.mae",
        },
        "-i1k",
        {
            "MAE-B_16": 343,
            "MAE-L_16": 1213,
            "MAE-H_14": 2523,
        },
        {},
    ),
    (
        "DINO",
        "https://github.com/facebookresearch/dino, here as timm keeps it",
        "Apache-2.0",
        "ImageNet-1k, without labels",
        {
            "DINO-S_16": "vit_small_patch16_224.dino",
            "DINO-S_8": "vit_small_patch8_224.dino",
            "DINO-B_16": "vit_base_patch16_224.dino",
            "DINO-B_8": "vit_base_patch8_224.dino",
        },
        "-i1k",
        {
            "DINO-S_16": 87,
            "DINO-S_8": 87,
            "DINO-B_16": 343,
            "DINO-B_8": 343,
        },
        {},
    ),
    (
        "DINOv2",
        "https://github.com/facebookresearch/dinov2, here as timm keeps it",
        "Apache-2.0",
        "LVD-142M, without labels",
        {
            "DINOv2-S_14": "vit_small_patch14_dinov2.lvd142m",
            "DINOv2-B_14": "vit_base_patch14_dinov2.lvd142m",
            "DINOv2-L_14": "vit_large_patch14_dinov2.lvd142m",
            "DINOv2-g_14": "vit_giant_patch14_dinov2.lvd142m",
        },
        "-lvd142m",
        {
            "DINOv2-S_14": 88,
            "DINOv2-B_14": 346,
            "DINOv2-L_14": 1217,
            "DINOv2-g_14": 4546,
        },
        {},
    ),
    (
        "DINOv2 with registers",
        "https://github.com/facebookresearch/dinov2, here as timm keeps it",
        "Apache-2.0",
        "LVD-142M, without labels",
        {
            "DINOv2-S_14-reg": "vit_small_patch14_reg4_dinov2.lvd142m",
            "DINOv2-B_14-reg": "vit_base_patch14_reg4_dinov2.lvd142m",
            "DINOv2-L_14-reg": "vit_large_patch14_reg4_dinov2.lvd142m",
            "DINOv2-g_14-reg": "vit_giant_patch14_reg4_dinov2.lvd142m",
        },
        "-lvd142m",
        {
            "DINOv2-S_14-reg": 88,
            "DINOv2-B_14-reg": 346,
            "DINOv2-L_14-reg": 1217,
            "DINOv2-g_14-reg": 4546,
        },
        {"placed": False},
    ),
    (
        "DINOv3",
        "https://github.com/facebookresearch/dinov3, here as timm keeps it",
        "DINOv3 License",
        "LVD-1689M, without labels",
        {
            "DINOv3-S_16": "vit_small_patch16_dinov3_qkvb.lvd1689m",
            "DINOv3-B_16": "vit_base_patch16_dinov3_qkvb.lvd1689m",
            "DINOv3-L_16": "vit_large_patch16_dinov3_qkvb.lvd1689m",
            "DINOv3-S+_16": "vit_small_plus_patch16_dinov3_qkvb.lvd1689m",
            "DINOv3-H+_16": "vit_huge_plus_patch16_dinov3_qkvb.lvd1689m",
            "DINOv3-7B_16": "vit_7b_patch16_dinov3.lvd1689m",
        },
        "-lvd1689m",
        {
            "DINOv3-S_16": 86,
            "DINOv3-B_16": 343,
            "DINOv3-L_16": 1213,
            "DINOv3-S+_16": 115,
            "DINOv3-H+_16": 3362,
            "DINOv3-7B_16": 26864,
        },
        {},
    ),
    (
        "DINOv3 of images from above",
        "https://github.com/facebookresearch/dinov3, here as timm keeps it",
        "DINOv3 License",
        "SAT-493M, without labels",
        {
            "DINOv3-L_16-sat": "vit_large_patch16_dinov3_qkvb.sat493m",
            "DINOv3-7B_16-sat": "vit_7b_patch16_dinov3.sat493m",
        },
        "-493m",
        {
            "DINOv3-L_16-sat": 1213,
            "DINOv3-7B_16-sat": 26864,
        },
        {},
    ),
    (
        "BEiT v2",
        "https://github.com/microsoft/unilm/tree/master/beit2, here as timm keeps it",
        "MIT",
        "ImageNet-1k",
        {
            "BEiTv2-B_16": "beitv2_base_patch16_224.in1k_ft_in1k",
            "BEiTv2-L_16": "beitv2_large_patch16_224.in1k_ft_in1k",
        },
        "-i1k",
        {
            "BEiTv2-B_16": 346,
            "BEiTv2-L_16": 1218,
        },
        {},
    ),
    (
        "EVA-02",
        "https://github.com/baaivision/EVA, here as timm keeps it",
        "MIT",
        "ImageNet-22k, then ImageNet-1k",
        {
            "EVA02-Ti_14": "eva02_tiny_patch14_336.mim_in22k_ft_in1k",
            "EVA02-S_14": "eva02_small_patch14_336.mim_in22k_ft_in1k",
            "EVA02-B_14": "eva02_base_patch14_448.mim_in22k_ft_in1k",
            "EVA02-L_14": "eva02_large_patch14_448.mim_in22k_ft_in1k",
        },
        "-i22k-i1k",
        {
            "EVA02-Ti_14": 23,
            "EVA02-S_14": 89,
            "EVA02-B_14": 348,
            "EVA02-L_14": 1220,
        },
        {},
    ),
)
