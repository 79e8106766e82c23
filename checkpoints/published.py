"""Published weights: python -m checkpoints.published [WORD...] lists what has all the words.

A name such as swinir-classical-x2 can be said wherever a file of weights can. Weights that nobody
keeps where a program may fetch them are named all the same, with what to download by hand.
To add weights: a row below.
"""

import dataclasses
import difflib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from checkpoints import timm_vits

_BUCKET = "gs://vit_models"
_AUGREG = f"{_BUCKET}/augreg"
_SWINIR = "https://github.com/JingyunLiang/SwinIR/releases/download/v0.0"
_ESRGAN = "https://github.com/xinntao/Real-ESRGAN/releases/download"
_KAIR = "https://github.com/cszn/KAIR/releases/download/v1.0"


@dataclasses.dataclass(frozen=True)
class Published:
    """Weights under a name.

    Attributes:
        name: in lower case.
        model: its name, see `vit_jax.models`.
        data: what it was trained on.
        file: an address that `checkpoints.files.fetch` takes; or, where there is none, the file's
            name in what is to be downloaded by hand.
        fields: of the model that differ from the published one of its name.
        megabytes: of float32 parameters, if not as many as the family says of the model.
    """

    name: str
    model: str
    data: str
    file: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    megabytes: int = 0

    @property
    def is_fetched(self) -> bool:
        """Whether a program may fetch the file."""
        return "://" in self.file


@dataclasses.dataclass(frozen=True)
class Family:
    """Weights that lie together.

    Attributes:
        title: of the family.
        page: where its authors say where the files are.
        licence: that the page states.
        rows: the weights.
        megabytes: of the float32 parameters of each model, with 1000 classes if it has classes.
        place: from where the files are downloaded by hand; "" if they are all fetched.
    """

    title: str
    page: str
    licence: str
    rows: tuple[Published, ...]
    megabytes: Mapping[str, int]
    place: str = ""

    def size_of(self, row: Published) -> int:
        """Megabytes of a row's float32 parameters."""
        return row.megabytes or self.megabytes[row.model]


def _rows(
    data: str,
    file: str,
    names: dict[str, str],
    ending: str = "",
    fields: Mapping[str, Any] | None = None,
) -> tuple[Published, ...]:
    """Rows alike.

    Args:
        data: what all were trained on.
        file: of each, with {} for what is its own.
        names: by model, what is its own in `file`.
        ending: of the rows' names, after the model's.
        fields: of all models, see `Published`.
    """
    return tuple(
        Published(f"{model.lower()}{ending}", model, data, file.format(own), fields or {})
        for model, own in names.items()
    )


def _same(*models: str) -> dict[str, str]:
    return {model: model for model in models}


_PLAIN = ("ViT-B_16", "ViT-B_32", "ViT-L_16", "ViT-L_32", "R50+ViT-B_16")
_VIT = Family(
    "ViT and hybrids (2020)",
    "https://github.com/google-research/vision_transformer",
    "Apache-2.0",
    (
        *_rows("ImageNet-21k", f"{_BUCKET}/imagenet21k/{{}}.npz", _same(*_PLAIN, "ViT-H_14"),
               "-i21k"),
        *_rows("ImageNet-21k, then ImageNet-1k at 384 pixels",
               f"{_BUCKET}/imagenet21k+imagenet2012/{{}}.npz", _same(*_PLAIN), "-i1k"),
        *_rows("ImageNet-21k, then ImageNet-1k at 224 pixels",
               f"{_BUCKET}/imagenet21k+imagenet2012/{{}}-224.npz", _same("ViT-B_16", "ViT-L_16"),
               "-i1k-224"),
    ),
    {"ViT-B_16": 346, "ViT-B_32": 353, "ViT-L_16": 1217, "ViT-L_32": 1226, "ViT-H_14": 2528,
     "R50+ViT-B_16": 395},
)  # fmt: skip

_AUGREG_FILES = {
    "ViT-Ti_16": ("Ti_16", "none-wd_0.03-do_0.0-sd_0.0", "0.03"),
    "ViT-S_32": ("S_32", "none-wd_0.1-do_0.0-sd_0.0", "0.01"),
    "ViT-S_16": ("S_16", "light1-wd_0.03-do_0.0-sd_0.0", "0.03"),
    "ViT-B_32": ("B_32", "light1-wd_0.1-do_0.0-sd_0.0", "0.01"),
    "ViT-B_16": ("B_16", "medium1-wd_0.1-do_0.0-sd_0.0", "0.03"),
    "ViT-L_16": ("L_16", "strong1-wd_0.1-do_0.0-sd_0.0", "0.01"),
    "R+ViT-Ti_16": ("R_Ti_16", "none-wd_0.03-do_0.0-sd_0.0", "0.03"),
    "R26+ViT-S_32": ("R26_S_32", "light1-wd_0.1-do_0.0-sd_0.0", "0.01"),
    "R50+ViT-L_32": ("R50_L_32", "medium1-wd_0.1-do_0.1-sd_0.1", "0.01"),
}
_AUGREG_NAMES = {
    model: f"{short}-i21k-300ep-lr_0.001-aug_{rest}"
    for model, (short, rest, _) in _AUGREG_FILES.items()
}
_TUNED_NAMES = {
    model: f"{_AUGREG_NAMES[model]}--imagenet2012-steps_20k-lr_{rate}-res_384"
    for model, (_, _, rate) in _AUGREG_FILES.items()
}
_AUGREG_VIT = Family(
    "ViT and hybrids by AugReg (2021), the recommended file of each",
    "https://github.com/google-research/vision_transformer",
    "Apache-2.0",
    (
        *_rows("ImageNet-21k", f"{_AUGREG}/{{}}.npz", _AUGREG_NAMES, "-augreg-i21k"),
        *_rows("ImageNet-21k, then ImageNet-1k at 384 pixels", f"{_AUGREG}/{{}}.npz",
               _TUNED_NAMES, "-augreg-i1k"),
    ),
    {"ViT-Ti_16": 23, "ViT-S_32": 92, "ViT-S_16": 88, "ViT-B_32": 353, "ViT-B_16": 346,
     "ViT-L_16": 1217, "R+ViT-Ti_16": 25, "R26+ViT-S_32": 146, "R50+ViT-L_32": 1316},
)  # fmt: skip

_MIXER = Family(
    "MLP-Mixer",
    "https://github.com/google-research/vision_transformer",
    "Apache-2.0",
    (
        *_rows("ImageNet-1k", "gs://mixer_models/imagenet1k/{}.npz",
               _same("Mixer-B_16", "Mixer-L_16"), "-i1k"),
        *_rows("ImageNet-21k", "gs://mixer_models/imagenet21k/{}.npz",
               _same("Mixer-B_16", "Mixer-L_16"), "-i21k"),
    ),
    {"Mixer-B_16": 240, "Mixer-L_16": 833},
)  # fmt: skip

_SWIN = Family(
    "Swin",
    "https://github.com/microsoft/Swin-Transformer, here as timm keeps it",
    "MIT",
    (
        *_rows("ImageNet-1k", "hf://timm/swin_{}.ms_in1k",
               {"Swin-T": "tiny_patch4_window7_224", "Swin-S": "small_patch4_window7_224",
                "Swin-B": "base_patch4_window7_224", "Swin-B-384": "base_patch4_window12_384"},
               "-i1k"),
        *_rows("ImageNet-22k, then ImageNet-1k", "hf://timm/swin_{}.ms_in22k_ft_in1k",
               {"Swin-T": "tiny_patch4_window7_224", "Swin-S": "small_patch4_window7_224",
                "Swin-B": "base_patch4_window7_224", "Swin-B-384": "base_patch4_window12_384",
                "Swin-L": "large_patch4_window7_224", "Swin-L-384": "large_patch4_window12_384"},
               "-i22k-i1k"),
    ),
    {"Swin-T": 113, "Swin-S": 198, "Swin-B": 351, "Swin-B-384": 352, "Swin-L": 786,
     "Swin-L-384": 787},
)  # fmt: skip

_TIMM = Family(
    "ResNet, Twins-SVT, EfficientFormerV2",
    "https://huggingface.co/timm",
    "Apache-2.0",
    (
        *_rows("ImageNet-1k", "hf://timm/resnet{}.a1_in1k",
               {f"ResNet-{depth}": str(depth) for depth in (18, 34, 50, 101)}, "-i1k"),
        *_rows("ImageNet-1k", "hf://timm/twins_svt_{}.in1k",
               {"Twins-SVT-S": "small", "Twins-SVT-B": "base", "Twins-SVT-L": "large"}, "-i1k"),
        *_rows("ImageNet-1k", "hf://timm/efficientformerv2_{}.snap_dist_in1k",
               {f"EfficientFormerV2-{size}": size.lower() for size in ("S0", "S1", "S2", "L")},
               "-i1k"),
    ),
    {"ResNet-18": 47, "ResNet-34": 87, "ResNet-50": 102, "ResNet-101": 178, "Twins-SVT-S": 96,
     "Twins-SVT-B": 224, "Twins-SVT-L": 397, "EfficientFormerV2-S0": 14,
     "EfficientFormerV2-S1": 25, "EfficientFormerV2-S2": 51, "EfficientFormerV2-L": 105},
)  # fmt: skip

_VITS = tuple(
    Family(title, page, licence, _rows(data, "hf://timm/{}", names, ending, fields), megabytes)
    for title, page, licence, data, names, ending, megabytes, fields in timm_vits.FAMILIES
)

_CLIP = Family(
    "CLIP",
    "https://github.com/openai/CLIP",
    "MIT",
    _rows("400 million pairs (WIT)", "hf://openai/clip-vit-{}",
          {"CLIP-B_32": "base-patch32", "CLIP-B_16": "base-patch16", "CLIP-L_14": "large-patch14",
           "CLIP-L_14_336": "large-patch14-336"}, "-openai"),
    {"CLIP-B_32": 605, "CLIP-B_16": 598, "CLIP-L_14": 1710, "CLIP-L_14_336": 1712},
)  # fmt: skip

_SIGLIP = Family(
    "SigLIP and SigLIP 2",
    "https://github.com/google-research/big_vision",
    "Apache-2.0",
    (
        *_rows("WebLI", "hf://google/siglip-{}",
               {"SigLIP-B_16": "base-patch16-224", "SigLIP-B_16-256": "base-patch16-256",
                "SigLIP-B_16-384": "base-patch16-384", "SigLIP-B_16-512": "base-patch16-512",
                "SigLIP-B_16-i18n-256": "base-patch16-256-multilingual",
                "SigLIP-L_16-256": "large-patch16-256", "SigLIP-L_16-384": "large-patch16-384",
                "SigLIP-So400m_14": "so400m-patch14-224",
                "SigLIP-So400m_14-384": "so400m-patch14-384"}, "-webli"),
        *_rows("WebLI", "hf://google/siglip2-{}",
               {"SigLIP2-B_16": "base-patch16-224", "SigLIP2-B_16-256": "base-patch16-256",
                "SigLIP2-B_16-384": "base-patch16-384", "SigLIP2-B_16-512": "base-patch16-512",
                "SigLIP2-B_32-256": "base-patch32-256", "SigLIP2-L_16-256": "large-patch16-256",
                "SigLIP2-L_16-384": "large-patch16-384", "SigLIP2-L_16-512": "large-patch16-512",
                "SigLIP2-So400m_14": "so400m-patch14-224",
                "SigLIP2-So400m_14-384": "so400m-patch14-384",
                "SigLIP2-So400m_16-256": "so400m-patch16-256",
                "SigLIP2-g-opt_16-256": "giant-opt-patch16-256",
                "SigLIP2-g-opt_16-384": "giant-opt-patch16-384"}, "-webli"),
    ),
    {"SigLIP-B_16": 813, "SigLIP-B_16-256": 813, "SigLIP-B_16-384": 814, "SigLIP-B_16-512": 815,
     "SigLIP-B_16-i18n-256": 1483, "SigLIP-L_16-256": 2609, "SigLIP-L_16-384": 2610,
     "SigLIP-So400m_14": 3509, "SigLIP-So400m_14-384": 3512, "SigLIP2-B_16": 1501,
     "SigLIP2-B_16-256": 1501, "SigLIP2-B_16-384": 1502, "SigLIP2-B_16-512": 1503,
     "SigLIP2-B_32-256": 1507, "SigLIP2-L_16-256": 3526, "SigLIP2-L_16-384": 3527,
     "SigLIP2-L_16-512": 3529, "SigLIP2-So400m_14": 4542, "SigLIP2-So400m_14-384": 4544,
     "SigLIP2-So400m_16-256": 4543, "SigLIP2-g-opt_16-256": 7486, "SigLIP2-g-opt_16-384": 7488},
)  # fmt: skip

_LIT = Family(
    "LiT",
    "https://github.com/google-research/vision_transformer",
    "Apache-2.0",
    _rows("CC12M and YFCC100M, images as AugReg's", f"{_BUCKET}/lit/{{}}.npz",
          _same("LiT-B16B_2", "LiT-B16B", "LiT-L16L", "LiT-L16S", "LiT-L16Ti"), "-cc12m_yfcc100m"),
    {"LiT-B16B_2": 781, "LiT-B16B": 783, "LiT-L16L": 2554, "LiT-L16S": 1325, "LiT-L16Ti": 1248},
)  # fmt: skip

_BERT = Family(
    "BERT",
    "https://github.com/google-research/bert",
    "Apache-2.0",
    _rows("BooksCorpus and English Wikipedia", "hf://google-bert/bert-{}-uncased",
          {"BERT-base": "base", "BERT-large": "large"}, "-uncased"),
    {"BERT-base": 440, "BERT-large": 1345},
)  # fmt: skip

_UPERNET = Family(
    "UPerNet on Swin",
    "https://github.com/open-mmlab/mmsegmentation",
    "MIT",
    _rows("ADE20K", "hf://openmmlab/upernet-swin-{}",
          {"Swin-T-UPerNet": "tiny", "Swin-S-UPerNet": "small", "Swin-B-UPerNet": "base"},
          "-ade20k"),
    {"Swin-T-UPerNet": 240, "Swin-S-UPerNet": 325, "Swin-B-UPerNet": 485},
)  # fmt: skip

_DEHAZE = Family(
    "DehazeFormer",
    "https://github.com/IDKiro/DehazeFormer",
    "MIT",
    (
        *_rows("RESIDE, indoor (ITS)", "indoor/dehazeformer-{}.pth",
               {f"DehazeFormer-{size}": size.lower() for size in "TSBML"}, "-indoor"),
        *_rows("RESIDE, outdoor (OTS)", "outdoor/dehazeformer-{}.pth",
               {f"DehazeFormer-{size}": size.lower() for size in "TSBM"}, "-outdoor"),
        *_rows("RESIDE-6K", "reside6k/dehazeformer-{}.pth",
               {f"DehazeFormer-{size}": size.lower() for size in "TSBM"}, "-reside6k"),
        *_rows("RS-Haze, remote sensing", "rshaze/dehazeformer-{}.pth",
               {f"DehazeFormer-{size}": size.lower() for size in "TSBM"}, "-rshaze"),
    ),
    {"DehazeFormer-T": 3, "DehazeFormer-S": 5, "DehazeFormer-B": 10, "DehazeFormer-M": 19,
     "DehazeFormer-L": 102},
    "https://drive.google.com/drive/folders/1gnQiI_7Dvy-ZdQUVYXt7pW0EFQkpK39B",
)  # fmt: skip

_NOISES, _QUALITIES = (15, 25, 50), (10, 20, 30, 40)
_SWINIR_FAMILY = Family(
    "SwinIR",
    "https://github.com/JingyunLiang/SwinIR",
    "Apache-2.0",
    (
        *_rows("DIV2K and Flickr2K, bicubic",
               f"{_SWINIR}/001_classicalSR_DF2K_s64w8_SwinIR-M_{{}}.pth",
               {f"SwinIR-classical-x{scale}": f"x{scale}" for scale in (2, 3, 4, 8)}),
        *_rows("DIV2K, bicubic", f"{_SWINIR}/001_classicalSR_DIV2K_s48w8_SwinIR-M_{{}}.pth",
               {f"SwinIR-classical-x{scale}": f"x{scale}" for scale in (2, 3, 4, 8)}, "-div2k"),
        *_rows("DIV2K, bicubic", f"{_SWINIR}/002_lightweightSR_DIV2K_s64w8_SwinIR-S_{{}}.pth",
               {f"SwinIR-lightweight-x{scale}": f"x{scale}" for scale in (2, 3, 4)}),
        *_rows("real degradations (BSRGAN's)", f"{_SWINIR}/003_realSR_BSRGAN_{{}}_x4_GAN.pth",
               {"SwinIR-real-M-x4": "DFO_s64w8_SwinIR-M",
                "SwinIR-real-L-x4": "DFOWMFC_s64w8_SwinIR-L"}),
        *(row for noise in _NOISES for row in _rows(
            f"grey images with noise of {noise} of 255",
            f"{_SWINIR}/004_grayDN_DFWB_s128w8_SwinIR-M_{{}}.pth",
            {"SwinIR-denoise-gray": f"noise{noise}"}, f"-{noise}")),
        *(row for noise in _NOISES for row in _rows(
            f"images with noise of {noise} of 255",
            f"{_SWINIR}/005_colorDN_DFWB_s128w8_SwinIR-M_{{}}.pth",
            {"SwinIR-denoise-color": f"noise{noise}"}, f"-{noise}")),
        *(row for quality in _QUALITIES for row in _rows(
            f"grey JPEGs of quality {quality}",
            f"{_SWINIR}/006_CAR_DFWB_s126w7_SwinIR-M_{{}}.pth",
            {"SwinIR-jpeg-gray": f"jpeg{quality}"}, f"-{quality}")),
        *(row for quality in _QUALITIES for row in _rows(
            f"JPEGs of quality {quality}",
            f"{_SWINIR}/006_colorCAR_DFWB_s126w7_SwinIR-M_{{}}.pth",
            {"SwinIR-jpeg-color": f"jpeg{quality}"}, f"-{quality}")),
    ),
    {"SwinIR-classical-x2": 47, "SwinIR-classical-x3": 48, "SwinIR-classical-x4": 48,
     "SwinIR-classical-x8": 48, "SwinIR-lightweight-x2": 4, "SwinIR-lightweight-x3": 4,
     "SwinIR-lightweight-x4": 4, "SwinIR-real-M-x4": 47, "SwinIR-real-L-x4": 112,
     "SwinIR-denoise-gray": 46, "SwinIR-denoise-color": 46, "SwinIR-jpeg-gray": 46,
     "SwinIR-jpeg-color": 46},
)  # fmt: skip

_RRDB = Family(
    "ESRGAN, BSRGAN and Real-ESRGAN, of which RRDB is the generator",
    "https://github.com/xinntao/Real-ESRGAN and https://github.com/cszn/KAIR",
    "BSD-3-Clause (Real-ESRGAN), MIT (ESRGAN and BSRGAN, as KAIR has them)",
    (
        Published("realesrgan-x4plus", "RRDB-x4", "real degradations",
                  f"{_ESRGAN}/v0.1.0/RealESRGAN_x4plus.pth"),
        Published("realesrgan-x2plus", "RRDB-x2", "real degradations",
                  f"{_ESRGAN}/v0.2.1/RealESRGAN_x2plus.pth"),
        Published("realesrgan-anime", "RRDB-x4", "drawings, 6 blocks",
                  f"{_ESRGAN}/v0.2.2.4/RealESRGAN_x4plus_anime_6B.pth", {"num_blocks": 6}, 18),
        Published("realesrnet-x4plus", "RRDB-x4", "real degradations, without a discriminator",
                  f"{_ESRGAN}/v0.1.1/RealESRNet_x4plus.pth"),
        Published("esrgan", "RRDB-x4", "DIV2K, Flickr2K and OST, bicubic", f"{_KAIR}/ESRGAN.pth"),
        Published("bsrgan", "RRDB-x4", "real degradations", f"{_KAIR}/BSRGAN.pth"),
    ),
    {"RRDB-x4": 67, "RRDB-x2": 67},
)  # fmt: skip

_FLOW = Family(
    "FlowFormer",
    "https://github.com/drinkingcoder/FlowFormer-Official",
    "Apache-2.0",
    tuple(
        Published(f"flowformer-{stage}", "FlowFormer", data, f"{stage}.pth")
        for stage, data in [
            ("chairs", "FlyingChairs"), ("things", "FlyingChairs, FlyingThings3D"),
            ("sintel", "those, then Sintel, KITTI and HD1K"), ("kitti", "those, then KITTI 2015"),
        ]
    ),
    {"FlowFormer": 65},
    "https://drive.google.com/drive/folders/1K2dcWxaqOLiQ3PoqRdokrgWsGIf3yBA_",
)  # fmt: skip

FAMILIES = (_VIT, _AUGREG_VIT, _MIXER, _SWIN, _TIMM, *_VITS, _CLIP, _SIGLIP, _LIT, _BERT, _UPERNET,
            _DEHAZE, _SWINIR_FAMILY, _RRDB, _FLOW)  # fmt: skip
PUBLISHED = {row.name: row for family in FAMILIES for row in family.rows}


def find(path: str) -> Published | None:
    """The row of a name, in letters of any case; None for anything else, such as a file here."""
    return None if os.path.exists(path) else PUBLISHED.get(path.lower())


def resolve(path: str) -> str:
    """Says where the file of a name is; what is no name is returned as it is.

    Args:
        path: a name, as for `find`; or a path or an address.

    Raises:
        ValueError: if the file must be downloaded by hand, or the name is a model's or close to a
            published one; it says what to do.
    """
    row = find(path)
    if row is not None:
        if row.is_fetched:
            return row.file
        family = next(family for family in FAMILIES if row in family.rows)
        raise ValueError(
            f"{row.name} must be downloaded by hand: {row.file} in {family.place}, see "
            f"{family.page}; then name the file in its place"
        )
    if "/" in path or ":" in path or os.path.exists(path):
        return path
    of_model = [row.name for row in PUBLISHED.values() if row.model.lower() == path.lower()]
    if of_model:
        raise ValueError(
            f"{path} is a model, of which these weights were published: {', '.join(of_model)}; "
            "say one of them, or a file"
        )
    close = difflib.get_close_matches(path.lower(), PUBLISHED, n=1, cutoff=0.75)
    if close:
        raise ValueError(f"there is no file {path}; did you mean the published {close[0]}?")
    return path


def search(words: Sequence[str]) -> Iterator[tuple[Family, list[Published]]]:
    """The weights of each family in whose names, models, data and titles all words occur."""
    for family in FAMILIES:
        rows = [
            row for row in family.rows
            if all(
                word.lower() in f"{row.name} {row.model} {row.data} {family.title}".lower()
                for word in words
            )
        ]  # fmt: skip
        if rows:
            yield family, rows


def show(words: Sequence[str]) -> str:
    """A table for the terminal of the weights that `search` finds."""
    parts = []
    for family, rows in search(words):
        lines = [f"{family.title} ({family.licence}): {family.page}"]
        if family.place:
            lines.append(f"  to be downloaded by hand from {family.place}")
        cells = [
            (row.name, row.model, f"{family.size_of(row)} MB", row.data, row.file) for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(*cells)]
        widths[-1] = 0
        lines += [
            "  " + "  ".join(cell.ljust(width) for cell, width in zip(line, widths))
            for line in cells
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def show_markdown() -> str:
    """The tables of docs/published.md."""
    parts = []
    for family in FAMILIES:
        by_hand = [f"**Downloaded by hand** from {family.place};"]
        lines = [
            f"## {family.title}",
            "",
            *(by_hand if family.place else ["Fetched from the addresses below;"]),
            f"described at {family.page}.",
            f"Licence: {family.licence}.",
            "",
            "| name | model | MB | trained on | file |",
            "|---|---|---|---|---|",
        ]
        lines += [
            f"| `{row.name}` | `{row.model}` | {family.size_of(row):,} | {row.data} "
            f"| `{row.file}` |"
            for row in family.rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Prints the weights that the arguments say; returns the exit code."""
    if arguments == ["--markdown"]:
        print(show_markdown(), end="")
        return 0
    if any(argument.startswith("-") for argument in arguments):
        print("python -m checkpoints.published [WORD...]: the published weights whose names, "
              "models or data have all the words")  # fmt: skip
        return 0 if set(arguments) <= {"-h", "--help"} else 2
    found = show(arguments)
    print(found or f"no published weights are known for {' '.join(arguments)}")
    return 0 if found else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
