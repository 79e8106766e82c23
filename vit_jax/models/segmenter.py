"""Semantic segmentation: any model that gives feature maps, with a decoder on them.

The decoders are a feature pyramid with the head of a panoptic FPN, that of VT-FPN with the same
head, and UPerNet's; each has its source in its own file. Swin with UPerNet is as its authors' fork
of mmsegmentation has it (Liu et al., "Swin Transformer", ICCV 2021, appendix A2.3), and a ResNet
with a feature pyramid is detectron2's.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models import registry
from vit_jax.models.base import Model, Shapes
from vit_jax.models.panoptic_fpn import PanopticFPN
from vit_jax.models.resnet import ResNet
from vit_jax.models.simple_pyramid import STRIDES, SimplePyramid
from vit_jax.models.swin import Swin
from vit_jax.models.upernet import FCNHead, UPerHead
from vit_jax.models.vt_fpn import VTFPN

DECODERS = ("fpn", "vt-fpn", "upernet")
_MULTIPLE = 64  # of features; but for UPerNet's, heads have groups of norms
_UPERNET = dict(decoder="upernet", features=512, auxiliary_features=256, drop_path_rate=0.3)

VARIANTS: dict[str, dict[str, Any]] = {
    **{f"FPN-R{n}": dict(encoder=f"ResNet-{n}") for n in (50, 101)},
    **{f"VT-FPN-R{n}": dict(encoder=f"ResNet-{n}", decoder="vt-fpn") for n in (50, 101)},
    **{f"Swin-{size}-UPerNet": dict(_UPERNET, encoder=f"Swin-{size}") for size in "TSB"},
    **{
        f"FPN-EfficientFormerV2-{size}": dict(encoder=f"EfficientFormerV2-{size}")
        for size in ("S0", "S1", "S2", "L")
    },
    "FPN-ViT-B_16": dict(encoder="ViT-B_16"),
}

# With 150 classes and the auxiliary head, if there is one; at 224 pixels, where the size matters.
PARAMETER_COUNTS = {
    "FPN-R50": 28_495_574,
    "FPN-R101": 47_487_702,
    "VT-FPN-R50": 34_794_198,
    "VT-FPN-R101": 53_786_326,
    "Swin-T-UPerNet": 59_941_862,
    "Swin-S-UPerNet": 81_259_766,
    "Swin-B-UPerNet": 121_279_716,
    "FPN-EfficientFormerV2-S0": 7_340_518,
    "FPN-EfficientFormerV2-S1": 9_848_158,
    "FPN-EfficientFormerV2-S2": 16_271_206,
    "FPN-EfficientFormerV2-L": 29_734_198,
    "FPN-ViT-B_16": 93_002_646,
}

_MMSEG, _TRANSFORMERS = "mmsegmentation", "transformers"


class Segmenter(Model):
    """A class for each position at a stride of 4, from the feature maps of another model.

    Attributes:
        num_classes: width of the logits.
        encoder: name of the model that gives the maps. One with a single map, such as a ViT, has
            maps of other strides made from it, see `SimplePyramid`.
        decoder: what makes logits of the maps: "fpn", "vt-fpn" or "upernet".
        features: channels in the decoder; the head on a pyramid has half as many, and the tokens of
            VT-FPN four times as many.
        auxiliary_features: channels of a second head on the last map but one, which helps to train;
            0 leaves it out.
        drop_path_rate: stochastic depth of the encoder's last block; None is the encoder's own.
        remat: recompute each block of the encoder in the backward pass, if it can do so.
        dtype: compute type; parameters, norm statistics and the last layers stay float32.
    """

    num_classes: int = 150
    encoder: str = "ResNet-50"
    decoder: str = "fpn"
    features: int = 256
    auxiliary_features: int = 0
    drop_path_rate: float | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    task = "segment"

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array | dict[str, jax.Array]:
        """Segments images.

        Args:
            images: (b, h, w, 3) float32, as the encoder expects them.
            train: whether batch norms use the batch's statistics, and move their own in
                `batch_stats`; and whether dropout and stochastic depth are active, for which `rngs`
                needs "dropout".

        Returns:
            (b, ceil(h / 4), ceil(w / 4), num_classes) float32 logits. In training, with an
            auxiliary head, a dict of these "logits" and its "auxiliary" ones, at a stride of 16.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        self._validate()
        backbone = self.backbone_model.clone(parent=self, name="backbone")
        maps = backbone(images, train=train, feature_maps=True)
        if len(maps) == 1:
            maps = self._pyramid.clone(parent=self, name="pyramid")(maps[0])
        decoder = self._decoder.clone(parent=self, name="decode_head")
        logits = decoder(maps, train)
        if not self.auxiliary_features:
            return logits
        head = FCNHead(self.num_classes, self.auxiliary_features, self.dtype, name="auxiliary_head")
        auxiliary = head(maps[-2], train)
        return {"logits": logits, "auxiliary": auxiliary} if train else logits

    def _validate(self) -> None:
        if self.decoder not in DECODERS:
            raise ValueError(f"decoder={self.decoder!r} is not one of {', '.join(DECODERS)}")
        for field, least in (("num_classes", 1), ("features", 1), ("auxiliary_features", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"{field} must be at least {least}, not {getattr(self, field)}")
        if self.decoder != "upernet" and self.features % _MULTIPLE:
            raise ValueError(
                f"features={self.features} must be divisible by {_MULTIPLE} with "
                f"decoder={self.decoder!r}, whose head has half of them in 32 groups"
            )

    @property
    def backbone_model(self) -> Model:
        """The encoder."""
        kind, fields = registry.find_model(self.encoder)
        fields["dtype"] = self.dtype
        if self.remat:
            self._require(kind, "remat")
            fields["remat"] = True
        if self.drop_path_rate is not None:
            names = ("drop_path_rate", "stochastic_depth_rate")
            self._require(kind, *names)
            fields[next(filter(kind.has_field, names))] = self.drop_path_rate
        encoder = kind(**fields, parent=None).as_backbone()
        if not encoder.feature_strides:
            raise ValueError(
                f"encoder={self.encoder!r} gives no feature maps: choose another model, whose "
                "`feature_strides` are not empty"
            )
        return encoder

    def _require(self, kind: type[Model], *fields: str) -> None:
        if not any(map(kind.has_field, fields)):
            raise ValueError(f"the encoder {self.encoder!r} has no {fields[0]}: leave it out")

    @property
    def _pyramid(self) -> SimplePyramid:
        (stride,) = self.backbone_model.feature_strides
        return SimplePyramid(stride, self.dtype, parent=None)

    @property
    def _decoder(self) -> PanopticFPN | VTFPN | UPerHead:
        fields = dict(
            num_classes=self.num_classes, features=self.features, dtype=self.dtype, parent=None
        )
        if self.decoder == "upernet":
            return UPerHead(**fields)
        fields["head_features"] = self.features // 2
        if self.decoder == "vt-fpn":
            return VTFPN(**fields, token_dim=4 * self.features)
        return PanopticFPN(**fields)

    @property
    def input_values(self) -> str:  # type: ignore[override]
        """The encoder's."""
        return self.backbone_model.input_values

    @property
    def any_size(self) -> bool:  # type: ignore[override]
        """Whether no parameter of the encoder depends on the size of the images."""
        encoder = self.backbone_model
        return encoder.any_size or type(encoder).resize_params is Model.resize_params

    @property
    def stride(self) -> int:
        """Pixels per position of the encoder's coarsest map, along either axis."""
        return self.backbone_model.feature_strides[-1]

    @property
    def class_heads(self) -> tuple[str, ...]:  # type: ignore[override]
        """Those of the decoder and of the auxiliary head."""
        last = "classifier/conv_seg" if self.decoder == "upernet" else "head/predictor"
        auxiliary = ("auxiliary_head/classifier/conv_seg",) if self.auxiliary_features else ()
        return (f"decode_head/{last}", *auxiliary)

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """That of the encoder's parameters, see `Model.image_size`."""
        return self.backbone_model.image_size({} if self.any_size else params["backbone"])

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """Fits the encoder's parameters to another size, see `Model.resize_params`."""
        if "backbone" not in params:
            return dict(params)
        backbone = self.backbone_model.resize_params(params["backbone"], old_size, new_size)
        return {**params, "backbone": backbone}

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        fpn, upernet = "decode_head/fpn/lateral0/kernel", "decode_head/bottleneck/conv/kernel"
        auxiliary = shapes.get("auxiliary_head/conv/conv/kernel", (0,))
        return {
            "features": shapes[fpn if fpn in shapes else upernet][-1],
            "auxiliary_features": auxiliary[-1],
        }

    @property
    def torch_namings(self) -> tuple[str, ...]:  # type: ignore[override]
        """Whose names there are: of what mmsegmentation and transformers have, theirs."""
        is_published = self.decoder == "upernet" and isinstance(self.backbone_model, Swin)
        return (_MMSEG, _TRANSFORMERS) if is_published else ()

    @property
    def torch_buffers(self) -> tuple[str, ...]:  # type: ignore[override]
        """The encoder's, and a norm that transformers 5 writes and does not use."""
        unused = tuple(f"backbone.swin.layernorm.{leaf}" for leaf in ("weight", "bias"))
        return self.backbone_model.torch_buffers + (unused if self.torch_namings else ())

    def torch_names(self, naming: str = _MMSEG) -> dict[str, str]:
        """Names in PyTorch's files, see `checkpoints.torch`.

        A ResNet with an FPN has detectron2's, Swin with UPerNet those of `naming`. What nobody has
        published has the encoder's own below `backbone`, and the decoder's as in these.
        """
        encoder = self.backbone_model
        count = len(encoder.feature_strides)
        names = self._encoder_names(encoder, naming)
        if not names:
            return {}
        if count == 1:
            parts = self._pyramid.torch_names()
            names |= {f"pyramid/{k}": f"pyramid.{v}" for k, v in parts.items()}
            count = len(STRIDES)
        naming = naming if self.torch_namings else _MMSEG
        if self.decoder == "upernet":
            parts = UPerHead.torch_names(count, naming)
            names |= {f"decode_head/{k}": f"decode_head.{v}" for k, v in parts.items()}
        else:
            pyramid = VTFPN if self.decoder == "vt-fpn" else PanopticFPN
            names |= {f"decode_head/{k}": v for k, v in pyramid.torch_names(count).items()}
        parts = FCNHead.torch_names(naming) if self.auxiliary_features else {}
        return names | {f"auxiliary_head/{k}": f"auxiliary_head.{v}" for k, v in parts.items()}

    def _encoder_names(self, encoder: Model, naming: str) -> dict[str, str]:
        prefix, drop = "backbone.", ""
        if self.torch_namings:
            is_mmseg = naming == _MMSEG
            names = encoder.torch_names("official" if is_mmseg else naming)
            drop = "" if is_mmseg else "swin."
        elif self.decoder != "upernet" and isinstance(encoder, ResNet):
            prefix, names = "backbone.bottom_up.", encoder.torch_names("detectron2")
        else:
            names = encoder.torch_names(*encoder.torch_namings[:1])
        return {
            f"backbone/{ours}": "|".join(
                prefix + theirs.removeprefix(drop) for theirs in name.split("|")
            )
            for ours, name in names.items()
        }
