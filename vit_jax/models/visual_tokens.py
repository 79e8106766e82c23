"""The modules of a Visual Transformer: images become a few tokens, and tokens change images.

Source: Wu et al., "Visual Transformers: Token-based Image Representation and Processing" (ICCV
2021), in two forms, which differ in more than numbers and so are separate modules here:

- the text's equations, (1) to (5): `Tokenizer`, `Transformer`, `Projector`. Taken literally, they
  neither scale the scores by 1/sqrt(d), nor have projections of the values, so that tokens have as
  many channels as the image; both can be had so, see `Form`;
- the appendix's pseudo-code: `GroupedTokenizer`, `GroupedTransformer`, `GroupedProjector`, with
  heads, groups, biases, a position encoding and a tokenizer that renews half of the tokens. It was
  read through public re-implementations, which agree on all of this.

Scores that are the same by another order of products are computed in the cheaper one: values are
projected after they are summed up in tokens, and queries of pixels are never made, since their
products with the keys are those of the pixels with projected keys. For 200 x 304 pixels, 256
channels and 8 tokens that takes 0.5 GFLOPs in place of 20.
"""

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.layers import uniform_by_fan_in

FORMS = ("equations", "appendix")


@dataclasses.dataclass(frozen=True)
class Form:
    """What the modules of a stage have in common.

    Attributes:
        num_tokens: that a tokenizer makes.
        token_dim: channels of a token.
        form: one of `FORMS`.
        scaling: of the equations: whether scores are divided by the root of their channels; but
            those of a filter tokenizer, whose filters are learnt.
        value_projections: of the equations: whether values are projected; without, token_dim must
            be the number of the image's channels.
        num_heads: of the appendix, as all below.
        groups: of the linear maps of pixels.
        kqv_groups: of the linear maps in the transformer.
        position_size: side to which a token's weights are resized to encode its position; 0 for no
            encoding.
        renew_half: whether a later tokenizer makes half of the tokens, and keeps the other half.
        dtype: compute type; parameters and softmax stay float32.
    """

    num_tokens: int = 16
    token_dim: int = 1024
    form: str = "equations"
    scaling: bool = True
    value_projections: bool = True
    num_heads: int = 16
    groups: int = 16
    kqv_groups: int = 8
    position_size: int = 14
    renew_half: bool = True
    dtype: Any = jnp.float32

    def tokenizer(self, name: str) -> nn.Module:
        """Makes (x, tokens or None) -> tokens."""
        return (GroupedTokenizer if self.form == "appendix" else Tokenizer)(self, name=name)

    def transformer(self, name: str) -> nn.Module:
        """Makes tokens -> tokens."""
        return (GroupedTransformer if self.form == "appendix" else Transformer)(self, name=name)

    def projector(self, name: str) -> nn.Module:
        """Makes (x, tokens) -> x."""
        return (GroupedProjector if self.form == "appendix" else Projector)(self, name=name)

    def check(self, channels: int) -> None:
        """Raises a ValueError if the fields do not fit each other, or an image's channels."""
        if self.form not in FORMS:
            raise ValueError(f"form={self.form!r} is not one of {FORMS}")
        for field in ("num_tokens", "token_dim", "num_heads", "groups", "kqv_groups"):
            if getattr(self, field) < 1:
                raise ValueError(f"{field} must be at least 1, not {getattr(self, field)}")
        if self.position_size < 0:
            raise ValueError(f"position_size must be at least 0, not {self.position_size}")
        if self.form == "equations":
            if not self.value_projections and self.token_dim != channels:
                raise ValueError(
                    f"without value_projections, token_dim must be the image's {channels} "
                    f"channels, not {self.token_dim}"
                )
            return
        whole, half = self.token_dim, self.token_dim // 2
        for what, count, field in (
            ("the image's channels", channels, "num_heads"),
            ("the image's channels", channels, "groups"),
            ("half of token_dim", half, "num_heads"),
            ("half of token_dim", half, "kqv_groups"),
            ("token_dim", whole, "num_heads"),
        ):
            if not count or count % getattr(self, field):
                raise ValueError(
                    f"{what}, {count}, must be divisible by {field}={getattr(self, field)}"
                )
        if self.renew_half and self.num_tokens % 2:
            raise ValueError(
                f"half of num_tokens={self.num_tokens} cannot be renewed: make it even, or set "
                "renew_half to False"
            )


class VTModule(nn.Module):
    """Tokens from an image and maybe from the tokens before, a Transformer, and back to the image.

    Attributes:
        form: of its parts.
        projects: whether tokens are projected back; the image is returned as it is otherwise.
    """

    form: Form
    projects: bool = True

    @nn.compact
    def __call__(
        self, x: jax.Array, tokens: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """(b, h, w, c), and (b, l, token_dim) of the module before -> both anew."""
        tokens = self.form.transformer("transformer")(self.form.tokenizer("tokenizer")(x, tokens))
        x = self.form.projector("projector")(x, tokens) if self.projects else x
        return x, tokens


def _dense(features: int, inputs: int, dtype: Any, name: str, use_bias: bool = False) -> nn.Dense:
    init = uniform_by_fan_in(inputs)
    return nn.Dense(features, use_bias, dtype, kernel_init=init, bias_init=init, name=name)


def _softmax(scores: jax.Array, axis: int, dtype: Any) -> jax.Array:
    return jax.nn.softmax(scores.astype(jnp.float32), axis).astype(dtype)


class _Kernel(nn.Module):
    """The kernel of a linear map to `features` channels, to be multiplied with by others."""

    features: int

    @nn.compact
    def __call__(self, inputs: int) -> jax.Array:
        """Channels to map from -> (inputs, features) float32."""
        init = uniform_by_fan_in(inputs)
        return self.param("kernel", init, (inputs, self.features), jnp.float32)


class Tokenizer(nn.Module):
    """Weighted means of pixels: by learnt filters, or by the tokens before (the recurrent one)."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
        """(b, h, w, c), and (b, l, token_dim) if there are some -> (b, l, token_dim)."""
        form, channels = self.form, x.shape[-1]
        x = x.reshape(x.shape[0], -1, channels).astype(form.dtype)
        if tokens is None:
            scores = _dense(form.num_tokens, channels, form.dtype, "filter")(x)
        else:
            filters = _dense(channels, form.token_dim, form.dtype, "recurrent")(tokens)
            scores = jnp.einsum("bnc,blc->bnl", x, filters)
            scores = scores / math.sqrt(channels) if form.scaling else scores
        tokens = jnp.einsum("bnl,bnc->blc", _softmax(scores, 1, form.dtype), x)
        if not form.value_projections:
            return tokens
        return _dense(form.token_dim, channels, form.dtype, "value")(tokens)


class Transformer(nn.Module):
    """Attention among tokens, then two linear maps with a ReLU between; each is added.

    In the equations the softmax runs over what is called the queries: each token is a key that
    takes a mean over the queries, so that the names are the other way round than elsewhere.
    """

    form: Form

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(b, l, token_dim) -> (b, l, token_dim)."""
        form, d = self.form, self.form.token_dim

        def dense(x: jax.Array, name: str) -> jax.Array:
            return _dense(d, d, form.dtype, name)(x)

        scores = jnp.einsum("bkc,bqc->bkq", dense(tokens, "key"), dense(tokens, "query"))
        scores = scores / math.sqrt(d) if form.scaling else scores
        values = dense(tokens, "value") if form.value_projections else tokens
        tokens = tokens + _softmax(scores, -1, form.dtype) @ values
        return tokens + dense(nn.relu(dense(tokens, "fc1")), "fc2")


class Projector(nn.Module):
    """Adds to each pixel a mean of the tokens, weighted by how it fits them."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """(b, h, w, c) and (b, l, token_dim) -> (b, h, w, c)."""
        form, c, d = self.form, x.shape[-1], self.form.token_dim
        query = _Kernel(c, name="query")(c).astype(form.dtype)
        keys = _dense(c, d, form.dtype, "key")(tokens) @ query.T
        scores = jnp.einsum("bhwc,blc->bhwl", x.astype(form.dtype), keys)
        scores = scores / math.sqrt(c) if form.scaling else scores
        values = _dense(c, d, form.dtype, "value")(tokens) if form.value_projections else tokens
        return x + jnp.einsum("bhwl,blc->bhwc", _softmax(scores, -1, form.dtype), values)


class GroupedDense(nn.Module):
    """A linear map of each of several groups of channels, as a 1x1 convolution with groups."""

    features: int
    groups: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., c) -> (..., features)."""
        inputs, g = x.shape[-1] // self.groups, self.groups
        init = uniform_by_fan_in(inputs)
        kernel = self.param("kernel", init, (inputs, self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32)
        kernel = kernel.astype(self.dtype).reshape(inputs, g, self.features // g)
        x = x.astype(self.dtype).reshape(*x.shape[:-1], g, inputs)
        y = jnp.einsum("...gi,igo->...go", x, kernel)
        return y.reshape(*y.shape[:-2], self.features) + bias.astype(self.dtype)


def _split(x: jax.Array, heads: int) -> jax.Array:
    """(b, n, c) -> (b, n, heads, c / heads)."""
    return x.reshape(*x.shape[:-1], heads, x.shape[-1] // heads)


class PositionEncoding(nn.Module):
    """Says where a token comes from, by the picture that its weights make of the image."""

    size: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, weights: jax.Array) -> jax.Array:
        """(b, h, w, heads, l) -> (b, l, ceil(size / 2)^2)."""
        b, h, w, heads, count = weights.shape
        rows, columns = (np.arange(self.size) * side // self.size for side in (h, w))
        pictures = weights[:, rows][:, :, columns].transpose(0, 4, 1, 2, 3)
        pictures = pictures.reshape(b * count, self.size, self.size, heads)
        for features, side, name in ((heads, 3, "conv"), (1, 1, "out")):
            init = uniform_by_fan_in(side * side * heads)
            border = (side // 2, side // 2)
            pictures = nn.Conv(
                features, (side, side), 2 if side == 3 else 1, (border, border), dtype=self.dtype,
                kernel_init=init, bias_init=init, name=name,
            )(pictures)  # fmt: skip
        places = pictures.reshape(b, count, -1)
        return _dense(places.shape[-1], places.shape[-1], self.dtype, "mix", True)(places)


class GroupedTokenizer(nn.Module):
    """The first tokenizer has learnt filters, alike for all heads; later ones ask with tokens.

    A later one asks with the first half of the tokens; the second half goes before what it makes.
    """

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array | None = None) -> jax.Array:
        """(b, h, w, c), and (b, l, token_dim) if there are some -> (b, l, token_dim)."""
        form, (b, h, w, c) = self.form, x.shape
        heads = form.num_heads
        x = x.reshape(b, h * w, c).astype(form.dtype)
        kept = None
        if tokens is None:
            scores = _dense(form.num_tokens, c, form.dtype, "filter", True)(x)[:, :, None]
            scores = scores / math.sqrt(c)
        else:
            if form.renew_half:
                tokens, kept = jnp.split(tokens, 2, axis=1)
            query = _dense(c, form.token_dim, form.dtype, "query", True)(tokens)
            key = GroupedDense(c, form.groups, form.dtype, name="key")(x)
            scores = jnp.einsum("bnhd,blhd->bnhl", _split(key, heads), _split(query, heads))
            scores = scores / math.sqrt(c / heads)
        weights = _softmax(scores, 1, form.dtype)
        value = _split(GroupedDense(c, form.groups, form.dtype, name="value")(x), heads)
        parts = [jnp.einsum("bnhl,bnhd->blhd", jnp.broadcast_to(
            weights, (*weights.shape[:2], heads, weights.shape[3])), value
        ).reshape(b, -1, c)]  # fmt: skip
        if form.position_size:
            pictures = weights.reshape(b, h, w, *weights.shape[2:])
            encoding = PositionEncoding(form.position_size, form.dtype, name="position")
            parts.append(encoding(pictures))
        made = jnp.concatenate(parts, axis=-1)
        made = _dense(form.token_dim, made.shape[-1], form.dtype, "token", True)(made)
        return made if kept is None else jnp.concatenate([kept, made], axis=1)


class GroupedTransformer(nn.Module):
    """Attention among tokens, then one linear map; each is added.

    As in the pseudo-code, scores are divided by the root of the number of tokens, not of channels.
    """

    form: Form

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """(b, l, token_dim) -> (b, l, token_dim)."""
        form, d = self.form, self.form.token_dim

        def grouped(features: int, name: str) -> jax.Array:
            dense = GroupedDense(features, form.kqv_groups, form.dtype, name=name)
            return _split(dense(tokens), form.num_heads)

        scores = jnp.einsum("bqhd,bkhd->bhqk", grouped(d // 2, "query"), grouped(d // 2, "key"))
        weights = _softmax(scores / math.sqrt(tokens.shape[1]), -1, form.dtype)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, grouped(d, "value"))
        tokens = tokens + mixed.reshape(tokens.shape)
        return tokens + _dense(d, d, form.dtype, "fc", True)(tokens)


class GroupedProjector(nn.Module):
    """Adds to each pixel means of the tokens, one of each head."""

    form: Form

    @nn.compact
    def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
        """(b, h, w, c) and (b, l, token_dim) -> (b, h, w, c)."""
        form, c, heads = self.form, x.shape[-1], self.form.num_heads
        query = _split(GroupedDense(c, form.groups, form.dtype, name="query")(x), heads)
        key = _split(_dense(c, form.token_dim, form.dtype, "key", True)(tokens), heads)
        value = _split(_dense(c, form.token_dim, form.dtype, "value", True)(tokens), heads)
        scores = jnp.einsum("byxhd,blhd->byxhl", query, key) / math.sqrt(c / heads)
        mixed = jnp.einsum("byxhl,blhd->byxhd", _softmax(scores, -1, form.dtype), value)
        return x + mixed.reshape(x.shape)
