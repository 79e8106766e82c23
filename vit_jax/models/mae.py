"""Masked autoencoder: a ViT that sees some patches of an image, and a decoder for the others.

Source: He et al., "Masked Autoencoders Are Scalable Vision Learners" (CVPR 2022), and the published
code and weights. After the pretraining the encoder is used alone, as a `VisionTransformer`.
"""

import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.layers import count_blocks
from vit_jax.models import published_images, tower_names, vit_fields
from vit_jax.models.base import Model, Shapes
from vit_jax.models.encoder import Encoder
from vit_jax.models.vit import VisionTransformer
from vit_jax.models.vit_table import SIZES

VARIANTS: dict[str, dict[str, Any]] = {
    "MaskedAutoencoder-Ti_16": dict(SIZES["Ti"]),
    "MaskedAutoencoder-S_16": dict(SIZES["S"]),
    "MaskedAutoencoder-B_16": dict(SIZES["B"]),
    "MaskedAutoencoder-L_16": dict(SIZES["L"]),
    "MaskedAutoencoder-H_14": dict(SIZES["H"], patch_size=14),
}

# With the encoder's positions, which are parameters, and without the decoder's.
PARAMETER_COUNTS = {
    "MaskedAutoencoder-Ti_16": 31_237_824,
    "MaskedAutoencoder-S_16": 47_477_376,
    "MaskedAutoencoder-B_16": 111_806_976,
    "MaskedAutoencoder-L_16": 329_441_024,
    "MaskedAutoencoder-H_14": 656_942_924,
}

_ENCODER = "encoder"
_LEVELS = 16  # of a deviation, by which images are told apart
_OF_ENCODER = ("patch_size", "hidden_size", "num_layers", "num_heads", "mlp_dim")


class MaskedAutoencoder(Model):
    """A ViT that sees a part of each image's patches, and a smaller one that says the others.

    Positions are sines and cosines. The encoder's are parameters, which later trainings of it
    change; its pretraining leaves them as they are, by `config.optim.freeze`.

    Attributes:
        patch_size: side of the square patches in pixels.
        hidden_size: width of the encoder's tokens.
        num_layers: number of its blocks.
        num_heads: attention heads; must divide hidden_size.
        mlp_dim: hidden width of its MLP blocks.
        decoder_hidden_size: of the decoder, as are the three below.
        decoder_num_layers: blocks.
        decoder_num_heads: attention heads.
        decoder_mlp_dim: hidden width of the MLP blocks.
        mask_ratio: share of the patches that the encoder does not see.
        activation: of the MLP blocks, see `VisionTransformer`.
        norm_epsilon: of all norms.
        attention_implementation: None, "xla" or "cudnn", see `MultiHeadAttention`.
        remat: recompute each block in the backward pass instead of storing its activations.
        dtype: compute type; parameters, softmax, norm statistics and the output stay float32.
    """

    patch_size: int = 16
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    mlp_dim: int = 3072
    decoder_hidden_size: int = 512
    decoder_num_layers: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_dim: int = 2048
    mask_ratio: float = 0.75
    activation: str = "gelu"
    norm_epsilon: float = 1e-6
    attention_implementation: str | None = None
    remat: bool = False
    dtype: Any = jnp.float32

    task = "masked_image"
    torch_namings = tower_names.MAE_NAMINGS
    torch_buffers = ("decoder_pos_embed",)
    deepest = {"num_layers": 64, "decoder_num_layers": 64}  # noqa: RUF012
    backbones = (_ENCODER,)
    onnx = False  # which has no operation for the bits of a number
    input_values = published_images.input_values("imagenet")

    @nn.compact
    def __call__(
        self, images: jax.Array, train: bool = False, noise: jax.Array | None = None
    ) -> dict[str, jax.Array]:
        """Predicts the patches that are masked, from the others.

        Args:
            images: (b, h, w, 3) float32; h and w divisible by `patch_size`.
            train: whether patches are masked at random, for which `rngs` needs "dropout"; else by
                the image's own pixels, so that the same image is always masked alike.
            noise: (b, n) numbers that decide it instead: those with the largest are masked.

        Returns:
            `pixels`, (b, n, patch_size^2 * 3) float32, each patch's rows, columns and channels in
            this order, and `mask`, (b, n) float32, 1 for patches that were masked.

        Raises:
            ValueError: if a field's value or the image size does not fit.
        """
        b, h, w, _ = images.shape
        grid = h // self.patch_size, w // self.patch_size
        count = math.prod(grid)
        keep = self._check(count)
        if noise is None:
            noise = self._noise(images, count, train)
        order = jnp.argsort(noise)  # of the patches; those to keep first
        place = jnp.argsort(order)  # of each patch in that order
        encoder = self.backbone_model.clone(parent=self, name=_ENCODER)
        seen = encoder(images, train, keep=order[:, :keep])

        seen = nn.Dense(self.decoder_hidden_size, dtype=self.dtype, name="decoder_embed")(seen)
        token = self.param(
            "mask_token", nn.initializers.normal(0.02), (1, 1, seen.shape[-1]), jnp.float32
        )
        masked = jnp.broadcast_to(token.astype(seen.dtype), (b, count - keep, seen.shape[-1]))
        patches = jnp.concatenate([seen[:, 1:], masked], axis=1)
        patches = jnp.take_along_axis(patches, place[..., None], axis=1)
        x = Encoder(
            num_layers=self.decoder_num_layers,
            num_heads=self.decoder_num_heads,
            mlp_dim=self.decoder_mlp_dim,
            grid=grid,
            position_embedding="sincos2d_mae",
            deterministic=not train,
            name="decoder",
            **self._of_both,
        )(jnp.concatenate([seen[:, :1], patches], axis=1))
        pixels = nn.Dense(3 * self.patch_size**2, name="decoder_pred")(x.astype(jnp.float32))
        return {"pixels": pixels[:, 1:], "mask": (place >= keep).astype(jnp.float32)}

    def _noise(self, images: jax.Array, count: int, train: bool) -> jax.Array:
        """(b, count) numbers from 0 to 1."""
        if train:
            return jax.random.uniform(self.make_rng("dropout"), (images.shape[0], count))
        # Rounded, so that what prepares images in another order of sums masks them alike.
        levels = jnp.round(images.astype(jnp.float32) * _LEVELS).astype(jnp.int32)
        seeds = jnp.sum(levels, axis=(1, 2, 3))
        return jax.vmap(lambda seed: jax.random.uniform(jax.random.key(seed), (count,)))(seeds)

    def _check(self, count: int) -> int:
        """How many patches are kept; raises a ValueError for fields that do not fit."""
        keep = int(count * (1 - self.mask_ratio))
        if not 0 < self.mask_ratio < 1 or not 0 < keep < count:
            raise ValueError(
                f"mask_ratio={self.mask_ratio} leaves {keep} of {count} patches: it must leave "
                "some, and mask some"
            )
        if self.decoder_hidden_size % self.decoder_num_heads:
            raise ValueError(
                f"decoder_hidden_size={self.decoder_hidden_size} is not divisible by "
                f"decoder_num_heads={self.decoder_num_heads}"
            )
        return keep

    @property
    def backbone_model(self) -> VisionTransformer:
        """The encoder, whose output is all tokens."""
        return VisionTransformer(
            num_classes=0,
            classifier="token_unpooled",
            preparation="imagenet",
            position_resize="bicubic",
            parent=None,
            **self.values_of(_OF_ENCODER),
            **self._of_both,
        )

    @property
    def _of_both(self) -> dict[str, Any]:
        names = ("activation", "norm_epsilon", "attention_implementation", "remat", "dtype")
        return {**self.values_of(names), "initialization": "mae"}

    def image_size(self, params: Mapping[str, Any]) -> tuple[int, int]:
        """See `VisionTransformer`."""
        return self.backbone_model.image_size(params[_ENCODER])

    def resize_params(
        self, params: Mapping[str, Any], old_size: tuple[int, int], new_size: tuple[int, int]
    ) -> dict[str, Any]:
        """See `VisionTransformer`."""
        encoder = self.backbone_model.resize_params(params[_ENCODER], old_size, new_size)
        return {**params, _ENCODER: encoder}

    def preprocessing(self, size: tuple[int, int]) -> str:
        """As of its authors' evaluations."""
        return published_images.preprocessing("imagenet", size)

    def torch_names(self, naming: str = "mae") -> dict[str, str]:
        """Names of the parts, by one of `torch_namings`."""
        return tower_names.of_masked_autoencoder(naming, self.num_layers, self.decoder_num_layers)

    @staticmethod
    def fields_in(shapes: Shapes) -> dict[str, Any]:
        """Reads fields off the shapes of a file's arrays, by our names; see `identify`."""
        prefix = f"{_ENCODER}/"
        encoder = {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
        of_encoder = vit_fields.fields_in(encoder)
        block = "decoder/encoderblock_0"
        fields = {name: of_encoder[name] for name in _OF_ENCODER if name in of_encoder}
        fields |= {
            "decoder_hidden_size": shapes["mask_token"][-1],
            "decoder_num_layers": sum(count_blocks(shapes, r"decoder/encoderblock_()(\d+)/")),
            "decoder_mlp_dim": shapes[f"{block}/MlpBlock_3/Dense_0/kernel"][1],
        }
        query = shapes[f"{block}/MultiHeadDotProductAttention_1/query/kernel"]
        if len(query) == 3:  # which PyTorch's layout does not say
            fields["decoder_num_heads"] = query[1]
        return fields
