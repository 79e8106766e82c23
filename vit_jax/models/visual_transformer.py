"""Visual Transformer: a ResNet's first three stages, then tokens that a Transformer relates.

Source: Wu et al., "Visual Transformers: Token-based Image Representation and Processing" (ICCV
2021); its modules, in the form of the paper's equations (the default, with scaled scores and
projections of values) and in that of its appendix, are in `visual_tokens`. No weights have been
published; a ResNet's can begin the backbone.

The numbers of parameters are not the published ones:

| million | R18 | R34 | R50 | R101 |
|---|---|---|---|---|
| published | 11.7 | 19.2 | 21.4 | 41.5 |
| equations, the default here | 15.7 | 27.4 | 36.8 | 55.8 |
| `form="appendix", channels=512` | 9.4 | 18.3 | 19.0 | 38.0 |

and no rule gives all four, as long as modules are alike: R34 has one module more than R18 and
2.1 million parameters a module are left for them, while R101 has as many modules as R50 and exceeds
it by 1.1 million more than the backbones differ. The appendix's form comes closer, and does so
within 1 % for R34 with a projector in the last module, whose output nothing reads; here it has
none.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.layers import count_blocks, uniform_by_fan_in
from vit_jax.models.base import Model
from vit_jax.models.resnet import ResNet
from vit_jax.models.visual_tokens import Form, VTModule

VARIANTS: dict[str, dict[str, Any]] = {
    "VT-R18": dict(depths=(2, 2, 2), bottleneck=False, num_modules=2),
    "VT-R34": dict(depths=(3, 4, 6), bottleneck=False, num_modules=3),
    "VT-R50": dict(depths=(3, 4, 6), bottleneck=True, num_modules=3),
    "VT-R101": dict(depths=(3, 4, 23), bottleneck=True, num_modules=3),
}

PARAMETER_COUNTS = {
    "VT-R18": 15_673_896,
    "VT-R34": 27_418_408,
    "VT-R50": 36_847_656,
    "VT-R101": 55_839_784,
}

# Parts of a module, in both forms.
_PARTS = {
    "tokenizer": ("filter", "recurrent", "query", "key", "value", "token",
                  "position/conv", "position/out", "position/mix"),
    "transformer": ("key", "query", "value", "fc", "fc1", "fc2"),
    "projector": ("query", "key", "value"),
}  # fmt: skip


class VisualTransformer(Model):
    """VT-ResNet, for images of any size.

    Attributes:
        num_classes: width of the head; 0 returns the features before it.
        depths: blocks of each of the ResNet's stages, which are its first three.
        bottleneck: whether these are bottlenecks.
        width: channels of the ResNet's stem.
        num_modules: Visual Transformers after it, each with tokens of its own.
        num_tokens: of each.
        token_dim: channels of a token.
        channels: of the image that the modules work on, to which a 1x1 convolution brings it; 0
            leaves it as the ResNet makes it. The appendix has 512.
        form: "equations" or "appendix"; see `visual_tokens.Form`, as for all until renew_half.
        scaling: of the equations, whether scores are scaled.
        value_projections: of the equations, whether values are projected.
        num_heads: of the appendix.
        groups: of the appendix, in the linear maps of pixels.
        kqv_groups: of the appendix, in the transformer.
        position_size: of the appendix, the side at which positions are encoded; 0 for none.
        renew_half: of the appendix, whether later tokenizers renew half of the tokens, or all.
        drop_path_rate: stochastic depth of the ResNet's last block, see there.
        dropout_rate: of the features before the head.
        remat: recompute each block of the ResNet in the backward pass.
        dtype: compute type; parameters, norm statistics, softmax and the head stay float32.
    """

    num_classes: int = 1000
    depths: tuple[int, ...] = (2, 2, 2)
    bottleneck: bool = False
    width: int = 64
    num_modules: int = 2
    num_tokens: int = 16
    token_dim: int = 1024
    channels: int = 0
    form: str = "equations"
    scaling: bool = True
    value_projections: bool = True
    num_heads: int = 16
    groups: int = 16
    kqv_groups: int = 8
    position_size: int = 14
    renew_half: bool = True
    drop_path_rate: float = 0.0
    dropout_rate: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    task = "classify"
    input_values = "normalize()"
    deepest = {"depths": (64,) * 3, "bottleneck": True, "num_modules": 64}  # noqa: RUF012

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> jax.Array:
        """Classifies images.

        Args:
            images: (b, h, w, 3) float32, normalised by ImageNet's mean and deviation.
            train: whether norms use the batch's statistics, and dropout and stochastic depth are
                active; then "batch_stats" must be mutable, and `rngs` needs "dropout" if there is
                any.

        Returns:
            (b, num_classes) float32 logits, or the mean of the tokens (b, token_dim) if num_classes
            is 0.

        Raises:
            ValueError: if a field's value or the shape of the images does not fit.
        """
        x = ResNet(**self._backbone_fields(), name="backbone")(images, train, feature_maps=True)[-1]
        channels = self.channels or x.shape[-1]
        form = self._form()
        self._validate(form, channels)
        if channels != x.shape[-1]:
            init = uniform_by_fan_in(x.shape[-1])
            x = nn.Dense(
                channels, dtype=self.dtype, kernel_init=init, bias_init=init, name="reduction"
            )(x)
        tokens = None
        for i in range(self.num_modules):
            is_last = i + 1 == self.num_modules
            x, tokens = VTModule(form, projects=not is_last, name=f"module{i}")(x, tokens)

        assert tokens is not None  # there is at least one module
        features = jnp.mean(tokens.astype(jnp.float32), axis=1)
        features = nn.Dropout(self.dropout_rate, deterministic=not train)(features)
        init = uniform_by_fan_in(self.token_dim)
        head = nn.Dense(self.num_classes, kernel_init=init, bias_init=init, name="head")
        return head(features) if self.num_classes else features

    def _form(self) -> Form:
        names = (
            "num_tokens", "token_dim", "form", "scaling", "value_projections", "num_heads",
            "groups", "kqv_groups", "position_size", "renew_half", "dtype",
        )  # fmt: skip
        return Form(**self.values_of(names))

    def _validate(self, form: Form, channels: int) -> None:
        if self.num_modules < 1:
            raise ValueError(f"num_modules must be at least 1, not {self.num_modules}")
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"dropout_rate must lie in [0, 1), not {self.dropout_rate}")
        form.check(channels)

    @property
    def backbone_model(self) -> ResNet:
        """The ResNet without its last stage and head, which a file of it may have."""
        return ResNet(**self._backbone_fields(), parent=None)

    def _backbone_fields(self) -> dict[str, Any]:
        names = ("depths", "bottleneck", "width", "drop_path_rate", "remat", "dtype")
        return {"num_classes": 0, **self.values_of(names)}

    @property
    def stride(self) -> int:
        """Pixels per position of the image that tokens are made of, along either axis."""
        return self.backbone_model.stride

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """The size at which it was published; it takes any."""
        del params
        return 224, 224

    @staticmethod
    def fields_in(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`.

        What does not show is taken as it is by default: scaling, num_heads, position_size and
        renew_half.
        """
        of_backbone = {k.removeprefix("backbone/"): v for k, v in shapes.items()}
        fields = ResNet.fields_in(of_backbone)
        (num_modules,) = count_blocks(shapes, r"()module(\d+)/")
        inputs, num_tokens = shapes["module0/tokenizer/filter/kernel"]
        fields |= {
            "num_modules": num_modules,
            "num_tokens": num_tokens,
            "token_dim": shapes["module0/transformer/query/kernel"][1],
            "channels": inputs if "reduction/kernel" in shapes else 0,
            "form": "equations",
            "value_projections": "module0/tokenizer/value/kernel" in shapes,
        }
        if "module0/transformer/fc/kernel" in shapes:
            fields |= {"form": "appendix", **_appendix_fields(shapes, inputs)}
        return fields

    def torch_names(self, naming: str = "") -> dict[str, str]:
        """Returns names for PyTorch's files: torchvision's of the backbone, and ours of the rest.

        Nobody has published such weights.
        """
        of_backbone = self.backbone_model.torch_names().items()
        names = {f"backbone/{ours}": f"backbone.{theirs}" for ours, theirs in of_backbone}
        names |= {"reduction": "reduction", "head": "head"}
        for i in range(self.num_modules):
            for part, layers in _PARTS.items():
                for layer in layers:
                    ours = f"module{i}/{part}/{layer}"
                    names[ours] = ours.replace("/", ".")
        return names


def _appendix_fields(shapes: Mapping[str, tuple[int, ...]], channels: int) -> dict[str, Any]:
    """Fields of the appendix's form that show in the shapes."""
    token_dim = shapes["module0/transformer/fc/kernel"][0]
    return {
        "token_dim": token_dim,
        "groups": channels // shapes["module0/tokenizer/value/kernel"][0],
        "kqv_groups": token_dim // shapes["module0/transformer/key/kernel"][0],
    }
