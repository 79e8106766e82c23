"""Blocks of attention that models of images are built of: linear, axial, and with a context.

They are layers, not models: whoever builds one has them as submodules, and puts their `torch_names`
behind the names of those. Images are (b, h, w, d); any size will do.
"""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import Conv
from vit_jax.models.attention import MultiHeadAttention, torch_attention_names
from vit_jax.models.encoder import MlpBlock

AXIAL_FORMS = ("sum", "sequential", "residual")
WITHOUT_CONTEXT = ("self_attention", "none")

_ZEROS = (nn.initializers.zeros, nn.initializers.zeros)


def names_behind(ours: str, theirs: str, names: Mapping[str, str]) -> dict[str, str]:
    """Names of a block's parts as they are in a model, see `checkpoints.torch`.

    Args:
        ours: path of the block in our model.
        theirs: its name in PyTorch.
        names: of its parts, by ours.
    """
    return {f"{ours}/{mine}": f"{theirs}.{name}" for mine, name in names.items()}


class LinearAttention(nn.Module):
    """Linear attention of an image's positions to each other, as diffusion models have it.

    Source: the published code of latent diffusion (Rombach et al., CVPR 2022); see
    `ops.softmax_linear_attention`.

    Attributes:
        num_heads: heads.
        head_size: channels of a head.
        softmax_of_queries: whether queries are a scaled softmax over their channels, as in the
            code of denoising diffusion.
        dtype: compute type.
    """

    num_heads: int = 4
    head_size: int = 32
    softmax_of_queries: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, d) -> (b, h, w, d)."""
        b, h, w, d = x.shape
        inner = self.num_heads * self.head_size
        x = Conv(3 * inner, use_bias=False, dtype=self.dtype, name="to_qkv")(x)
        q, k, v = jnp.moveaxis(x.reshape(b, h * w, 3, self.num_heads, self.head_size), 2, 0)
        x = ops.softmax_linear_attention(q, k, v, self.softmax_of_queries)
        return Conv(d, dtype=self.dtype, name="to_out")(x.reshape(b, h, w, inner))

    def torch_names(self) -> dict[str, str]:
        """Names of the parts in PyTorch, by ours."""
        return {"to_qkv": "to_qkv", "to_out": "to_out"}


class AxialAttention(nn.Module):
    """Attention along the rows of an image and along its columns, in place of all to all.

    A position so attends to h + w others and not to h * w.

    Sources: Ho et al., "Axial Attention in Multidimensional Transformers" (2019); Wang et al.,
    "Axial-DeepLab" (ECCV 2020), whose position terms are not here.

    Attributes:
        num_heads: heads of either attention.
        form: "sum" of both on the same input; "sequential", columns on what rows give; or
            "residual", which is sequential with what comes in added to what goes out, twice.
        implementation: see `ops.attention`.
        dtype: compute type.
    """

    num_heads: int
    form: str = "sum"
    implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, h, w, d) -> (b, h, w, d).

        Raises:
            ValueError: for a form that there is not.
        """
        if self.form not in AXIAL_FORMS:
            raise ValueError(f"form={self.form!r} is not one of {', '.join(AXIAL_FORMS)}")
        row, column = (
            MultiHeadAttention(
                self.num_heads, implementation=self.implementation, dtype=self.dtype, name=name
            )
            for name in ("row", "column")
        )

        def along_rows(x: jax.Array) -> jax.Array:
            lines = x.reshape(-1, *x.shape[2:])
            return row(lines, lines).reshape(x.shape)

        def along_columns(x: jax.Array) -> jax.Array:
            turned = x.swapaxes(1, 2)
            lines = turned.reshape(-1, *turned.shape[2:])
            return column(lines, lines).reshape(turned.shape).swapaxes(1, 2)

        if self.form == "sum":
            return along_rows(x) + along_columns(x)
        if self.form == "sequential":
            return along_columns(along_rows(x))
        x = x + along_rows(x)
        return x + along_columns(x)

    def torch_names(self) -> dict[str, str]:
        """Names of the parts in PyTorch, by ours."""
        return {**torch_attention_names("row", "row"), **torch_attention_names("column", "col")}


class ContextBlock(nn.Module):
    """Self-attention, attention to a context, and a gated MLP, each added to what it is given.

    Attributes:
        num_heads: heads.
        head_size: channels of a head.
        without_context: what is in the place of attention to a context where there is none:
            "self_attention", as in latent diffusion, or "none", as in diffusers.
        dropout_rate: inside the MLP and at the outputs.
        deterministic: whether nothing is dropped.
        implementation: see `ops.attention`.
        dtype: compute type.
    """

    num_heads: int
    head_size: int
    without_context: str = "self_attention"
    dropout_rate: float = 0.0
    deterministic: bool = True
    implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, context: jax.Array | None = None, mask: jax.Array | None = None
    ) -> jax.Array:
        """(b, n, d), a context (b, m, e), and which of its m count, (b, m) bool -> (b, n, d)."""
        dropout = nn.Dropout(self.dropout_rate, deterministic=self.deterministic)

        def norm(x: jax.Array, name: str) -> jax.Array:
            return nn.LayerNorm(1e-5, dtype=self.dtype, name=name)(x)

        def attend(
            x: jax.Array, context: jax.Array, mask: jax.Array | None, name: str
        ) -> jax.Array:
            attention = MultiHeadAttention(
                self.num_heads, implementation=self.implementation, head_size=self.head_size,
                biases="", dtype=self.dtype, name=name,
            )  # fmt: skip
            return dropout(attention(x, context, mask=mask))

        y = norm(x, "norm1")
        x = x + attend(y, y, None, "attention1")
        if context is not None:
            x = x + attend(norm(x, "norm2"), context, mask, "attention2")
        elif self.without_context == "self_attention":
            y = norm(x, "norm2")
            x = x + attend(y, y, None, "attention2")
        mlp = MlpBlock(
            4 * x.shape[-1], "gelu", self.dropout_rate, self.deterministic, gated=True,
            dtype=self.dtype, name="mlp",
        )  # fmt: skip
        return x + mlp(norm(x, "norm3"))


class SpatialTransformer(nn.Module):
    """A Transformer of an image's positions that attend to a context, such as words.

    It begins as the identity: the last projection is 0 at first.

    Source: Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models" (CVPR
    2022), the class of this name in its code; diffusers calls it Transformer2DModel.

    Deviations: dropout, which is 0 in both, comes after a gated MLP's second layer, too.

    Attributes:
        num_heads: heads.
        head_size: channels of a head; the positions have num_heads * head_size inside.
        depth: blocks.
        groups: of the group norm; they divide the channels.
        use_linear: whether PyTorch has the projections as linear layers, and not as 1x1
            convolutions: the same function of weights of another shape.
        without_context: see `ContextBlock`.
        dropout_rate: see `ContextBlock`.
        implementation: see `ops.attention`.
        dtype: compute type.
    """

    num_heads: int
    head_size: int
    depth: int = 1
    groups: int = 32
    use_linear: bool = False
    without_context: str = "self_attention"
    dropout_rate: float = 0.0
    implementation: str | None = None
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> jax.Array:
        """Adds to an image what its positions find in each other and in the context.

        Args:
            x: (b, h, w, d).
            context: (b, m, e), or None.
            mask: which of the m are attended to, (b, m) bool; None for all.
            train: whether dropout is active; then `rngs` needs "dropout" if dropout_rate is set.

        Returns:
            (b, h, w, d).

        Raises:
            ValueError: if a field's value does not fit, or a mask comes without a context.
        """
        b, h, w, d = x.shape
        self._validate(d, context, mask)
        inner = self.num_heads * self.head_size
        y = nn.GroupNorm(
            self.groups, epsilon=1e-6, use_fast_variance=False, dtype=self.dtype, name="norm"
        )(x)
        if self.use_linear:
            y = nn.Dense(inner, dtype=self.dtype, name="proj_in")(y)
        else:
            y = Conv(inner, dtype=self.dtype, name="proj_in")(y)
        y = y.reshape(b, h * w, inner)
        for i in range(self.depth):
            y = ContextBlock(
                self.num_heads,
                self.head_size,
                without_context=self.without_context,
                dropout_rate=self.dropout_rate,
                deterministic=not train,
                implementation=self.implementation,
                dtype=self.dtype,
                name=f"block_{i}",
            )(y, context, mask)
        y = y.reshape(b, h, w, inner)
        if self.use_linear:
            zeros = nn.initializers.zeros
            y = nn.Dense(d, kernel_init=zeros, dtype=self.dtype, name="proj_out")(y)
        else:
            y = Conv(d, inits=_ZEROS, dtype=self.dtype, name="proj_out")(y)
        return x + y

    def _validate(self, d: int, context: jax.Array | None, mask: jax.Array | None) -> None:
        if self.without_context not in WITHOUT_CONTEXT:
            raise ValueError(
                f"without_context={self.without_context!r} is not one of "
                f"{', '.join(WITHOUT_CONTEXT)}"
            )
        if self.groups < 1 or d % self.groups:
            raise ValueError(f"groups={self.groups} must divide the {d} channels of the image")
        if mask is not None and context is None:
            raise ValueError("a mask says what counts of a context, but there is none: give one")

    def torch_names(self) -> dict[str, str]:
        """Names of the parts in PyTorch, by ours: those of latent diffusion and of diffusers.

        Where the weights have no second attention, its names are never looked for.
        """
        names = {"norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out"}
        for i in range(self.depth):
            names |= names_behind(f"block_{i}", f"transformer_blocks.{i}", _BLOCK_NAMES)
        return names


_BLOCK_NAMES = {
    **{f"norm{i}": f"norm{i}" for i in (1, 2, 3)},
    **{
        f"attention{i}/{ours}": f"attn{i}.{theirs}"
        for i in (1, 2)
        for ours, theirs in {
            "query": "to_q",
            "key": "to_k",
            "value": "to_v",
            "out": "to_out.0",
        }.items()
    },
    "mlp/Dense_0": "ff.net.0.proj",
    "mlp/Dense_1": "ff.net.2",
}
