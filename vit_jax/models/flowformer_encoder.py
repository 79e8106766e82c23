"""FlowFormer's cost encoder: from the costs of all pairs of places to a few tokens for each.

Source: Huang et al., "FlowFormer: A Transformer Architecture for Optical Flow" (ECCV 2022),
sections 3.1 and 3.2, and the published weights.

What depends on a place in the other image, on the context or on the learned tokens alone is
computed once, and not for each of the many tokens it is added to: products are linear, so that this
is the same but for rounding.
"""

import itertools
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import ops
from vit_jax.layers import uniform_by_fan_in

PATCH = 8  # costs per token of a cost map, along either axis
EMBEDDED = 64  # channels of the patches; with those of their places twice as many
_HEADS = 8
_WINDOW = 7
_REDUCTION = 4  # tokens per key of a global block, along either axis
_BLOCK = 4  # columns of a result that one product computes, see `_halving_conv_of_one`
_CHUNK = 2**25  # bytes of the largest array that embedding cost maps makes, where there are more


def sine_encoding(xy: jax.Array | np.ndarray, features: int) -> jax.Array:
    """Encodes places by sines and cosines of linearly growing frequencies.

    The published code's numbers: 3.14 in place of pi, and frequencies k / 200 for k from 0 on.

    Args:
        xy: (..., 2) columns and rows.
        features: how many numbers; a multiple of 4.

    Returns:
        (..., features) float32: [sin x, cos x, sin y, cos y].
    """
    frequencies = np.arange(features // 4, dtype=np.float32)
    angles = 3.14 * jnp.asarray(xy, jnp.float32)[..., None] * frequencies * (1 / 200)
    waves = jnp.stack([jnp.sin(angles), jnp.cos(angles)], axis=-2)
    return waves.reshape(*angles.shape[:-2], features)


def grid(h: int, w: int) -> np.ndarray:
    """(h, w, 2) float32 column and row of each place."""
    return np.stack(np.meshgrid(np.arange(w), np.arange(h)), axis=-1).astype(np.float32)


class Weights(nn.Module):
    """The parameters of a linear layer or a convolution, for those that use parts of them.

    Attributes:
        shape: of the kernel, (in, out) or (h, w, in, out).
        use_bias: whether there is a bias.
        dtype: type to which they are cast.
    """

    shape: tuple[int, ...]
    use_bias: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """The kernel, and the bias, which is 0 if there is none."""
        init = uniform_by_fan_in(math.prod(self.shape[:-1]))
        kernel = self.param("kernel", init, self.shape, jnp.float32).astype(self.dtype)
        if not self.use_bias:
            return kernel, jnp.zeros(self.shape[-1], self.dtype)
        bias = self.param("bias", init, self.shape[-1:], jnp.float32)
        return kernel, bias.astype(self.dtype)


class Linear(nn.Module):
    """A linear layer, which begins as PyTorch's do."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., c) -> (..., features)."""
        init = uniform_by_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features), jnp.float32)
        bias = self.param("bias", init, (self.features,), jnp.float32).astype(self.dtype)
        return x.astype(self.dtype) @ kernel.astype(self.dtype) + bias


def norm(dtype: Any, name: str) -> nn.LayerNorm:
    """Layer norm as PyTorch's default has it."""
    return nn.LayerNorm(epsilon=1e-5, dtype=dtype, name=name)


class FeedForward(nn.Module):
    """Two layers with a GELU between, added to their input, of which they see the norm."""

    features: int  # between the layers
    dropout: float
    train: bool
    names: tuple[str, str, str]  # of the norm and the layers
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., c) -> (..., c)."""
        drop = nn.Dropout(self.dropout, deterministic=not self.train)
        shape, x = x.shape, ops.as_rows(x)
        y = norm(self.dtype, self.names[0])(x)
        y = drop(ops.gelu(Linear(self.features, self.dtype, name=self.names[1])(y)))
        return (x + drop(Linear(x.shape[-1], self.dtype, name=self.names[2])(y))).reshape(shape)


class CostEmbedding(nn.Module):
    """Makes tokens of each cost map, and has the learned tokens gather what is in them.

    Attributes:
        features: channels of the learned tokens.
        dropout: rate, in the layer's own MLP.
        train: whether dropout is active.
        dtype: compute type; softmax and norm statistics are float32.
    """

    features: int
    dropout: float
    train: bool
    dtype: Any = jnp.float32

    def setup(self) -> None:
        widths = (1, EMBEDDED // 4, EMBEDDED // 2, EMBEDDED)
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            setattr(self, f"conv{i}", Weights((6, 6, inputs, outputs), dtype=self.dtype))
        both, own = 2 * EMBEDDED, self.features
        self.place0 = Weights((1, 1, both, both), dtype=self.dtype)
        self.place1 = Weights((1, 1, both, both), dtype=self.dtype)
        self.patch_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.query_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.q = Weights((own, own), dtype=self.dtype)
        self.k = Weights((both, own), dtype=self.dtype)
        self.v = Weights((both, own), dtype=self.dtype)
        self.proj = Weights((own, own), dtype=self.dtype)
        names = ("norm2", "ffn0", "ffn1")
        self.mlp = FeedForward(own, self.dropout, self.train, names, self.dtype)

    def __call__(self, maps: jax.Array, latent: jax.Array) -> jax.Array:
        """Cost maps (n, h, w) and learned tokens (t, features) -> (n, t, features)."""
        x = self.embed(maps)
        tokens, c = latent.shape
        q_kernel, q_bias = self.q()
        k_kernel, _ = self.k()  # a bias of the keys adds the same to all scores of a query
        v_kernel, v_bias = self.v()
        proj_kernel, proj_bias = self.proj()
        q = (self.query_norm(latent) @ q_kernel + q_bias).reshape(tokens, _HEADS, -1)
        # The queries are the same for all maps: they are taken to where the patches are. And what a
        # head finds goes through the values' layer and its part of the last one by one product.
        keys = k_kernel.reshape(-1, _HEADS, c // _HEADS)
        q = jnp.einsum("thd,chd->cth", q, keys) * (c // _HEADS) ** -0.5
        scores = jnp.matmul(x, q.reshape(len(q), -1), preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores, axis=1).astype(self.dtype).reshape(*x.shape[:2], tokens, -1)
        values = (ops.as_rows(x) @ v_kernel + v_bias).reshape(*x.shape[:2], _HEADS, -1)
        out = jnp.einsum("nmth,nmhd->nthd", shares, values).reshape(x.shape[0], tokens, c)
        return self.mlp(latent.astype(self.dtype) + (out @ proj_kernel + proj_bias))

    def embed(self, maps: jax.Array) -> jax.Array:
        """(n, h, w) -> (n, h / 8 w / 8, 128), rounded up: tokens of patches, with their places."""
        n, h, w = maps.shape
        x = jnp.pad(maps, ((0, 0), (0, -h % PATCH), (0, -w % PATCH)))[..., None].astype(self.dtype)
        for i, layer in enumerate((self.conv0, self.conv1, self.conv2)):
            kernel, bias = layer()
            x = halving_conv(nn.relu(x) if i else x, kernel) + bias
        _, h, w, _ = x.shape
        (kernel, bias), (last, last_bias) = self.place0(), self.place1()
        places = sine_encoding(grid(h, w) * PATCH + PATCH / 2, EMBEDDED).astype(self.dtype)
        of_places = places @ kernel[0, 0, EMBEDDED:] + bias
        x = (x.reshape(n, h * w, -1) @ kernel[0, 0, :EMBEDDED]) + of_places.reshape(h * w, -1)
        x = ops.as_rows(nn.relu(x)) @ last[0, 0] + last_bias
        return self.patch_norm(x).reshape(n, h * w, -1)


def halving_conv(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolves (n, h, w, c) by a 6x6 kernel with a stride of 2 and a border of 2 zeros."""
    if x.shape[-1] == 1 and x.shape[2] % (2 * _BLOCK) == 0:
        return _halving_conv_of_one(x[..., 0], kernel[:, :, 0])
    return jax.lax.conv_general_dilated(
        x, kernel, (2, 2), ((2, 2), (2, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _halving_conv_of_one(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The same of (n, h, w), one channel, by (6, 6, features): a product for every four columns.

    XLA takes nearly three times as long for such a convolution on a CPU.
    """
    (n, h, w), (side, _, features) = x.shape, kernel.shape
    seen = 2 * _BLOCK + side - 2
    x = jnp.pad(x, ((0, 0), (2, 2), (2, 2)))
    rows = jnp.concatenate([x[:, None, i : i + h : 2] for i in range(side)], axis=1)
    blocks = [rows[..., i : i + seen] for i in range(0, w, 2 * _BLOCK)]
    patches = jnp.stack(blocks, axis=3).transpose(0, 2, 3, 1, 4)
    place = np.zeros((seen, side, _BLOCK), np.float32)  # of a column, in the kernel of a result
    for i in range(_BLOCK):
        place[2 * i : 2 * i + side, :, i] = np.eye(side)
    spread = jnp.einsum("suj,ruo->rsjo", jnp.asarray(place, kernel.dtype), kernel)
    y = patches.reshape(-1, side * seen) @ spread.reshape(side * seen, -1)
    return y.reshape(n, h // 2, w // 2, features)


class TokenAttention(nn.Module):
    """Attention among the tokens of one place, and an MLP."""

    dropout: float
    train: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(b, t, h, w, c) -> the same."""
        *lead, c = x.shape
        y = norm(self.dtype, "norm1")(x)
        q, k, v = (
            Linear(c, self.dtype, name=name)(y).reshape(*lead, _HEADS, c // _HEADS)
            for name in "qkv"
        )
        scores = jnp.einsum("bihwnd,bjhwnd->bhwnij", q, k, preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores * (c // _HEADS) ** -0.5).astype(self.dtype)
        y = jnp.einsum("bhwnij,bjhwnd->bihwnd", shares, v).reshape(x.shape)
        x = x + Linear(c, self.dtype, name="proj")(y)
        names = ("norm2", "ffn0", "ffn1")
        return FeedForward(c, self.dropout, self.train, names, self.dtype, name="mlp")(x)


class LocalAttention(nn.Module):
    """Attention among the places of a window, of one token each.

    Queries and keys see the context and the place in the window as well; places beyond the border,
    whose features and context are zero, take part.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
        """(b, t, h, w, c), and the context's (b, h, w, d) or None -> like x."""
        b, t, h, w, c = x.shape
        d = 0 if context is None else context.shape[-1]
        kernels, biases = zip(
            *(Weights((c + d, c), dtype=self.dtype, name=name)() for name in "qk"),
            Weights((c, c), dtype=self.dtype, name="v")(),
        )
        border = ((0, -h % _WINDOW), (0, -w % _WINDOW), (0, 0))
        window = sine_encoding(grid(_WINDOW, _WINDOW), c + d).astype(self.dtype)
        of_all = jnp.concatenate([window @ kernel for kernel in kernels[:2]], axis=-1)
        of_all = jnp.pad(of_all, ((0, 0), (0, 0), (0, c))) + jnp.concatenate(biases)
        rows, columns = (-(-side // _WINDOW) for side in (h, w))
        of_all = jnp.tile(of_all, (rows, columns, 1))[None]
        if context is not None:
            both = jnp.concatenate([kernel[c:] for kernel in kernels[:2]], axis=-1)
            of_all = of_all + jnp.pad(context @ both, ((0, 0), *border[:2], (0, c)))
        kernel = jnp.concatenate([kernel[:c] for kernel in kernels], axis=-1)
        qkv = (ops.as_rows(x) @ kernel).reshape(b, t, h, w, 3 * c)
        qkv = jnp.pad(qkv, ((0, 0), (0, 0), *border)) + of_all[:, None]
        qkv = qkv.reshape(b * t, *qkv.shape[2:])
        none = jnp.zeros((_HEADS, _WINDOW**2, _WINDOW**2), jnp.float32)
        y = ops.biased_window_attention(qkv, none, (_WINDOW, _WINDOW))[:, :h, :w]
        return Linear(c, self.dtype, name="proj")(y.reshape(x.shape))


class GlobalAttention(nn.Module):
    """Attention of all places to patches of all places, of one token each.

    Queries see the context and their place as well, and so do keys: the context before it becomes
    patches, their place afterwards.
    """

    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array | None) -> jax.Array:
        """(b, t, h, w, c), and the context's (b, h, w, d) or None -> like x."""
        b, t, h, w, c = x.shape
        d = 0 if context is None else context.shape[-1]

        def weights(name: str, *shape: int) -> tuple[jax.Array, jax.Array]:
            return Weights(shape, dtype=self.dtype, name=name)()

        q_kernel, q_bias = weights("q", c + d, c)
        of_all = sine_encoding(grid(h, w), c + d).astype(self.dtype) @ q_kernel + q_bias
        if context is not None:
            of_all = of_all + (context @ q_kernel[c:])[:, None]
        q = x @ q_kernel[:c] + of_all
        keys, values = self._patches(x, context)
        places = sine_encoding(_REDUCTION * grid(*keys.shape[2:4]), c).astype(self.dtype)
        k = Linear(c, self.dtype, name="k")(keys + places)
        v = Linear(c, self.dtype, name="v")(values)
        q, k, v = (y.reshape(b * t, -1, _HEADS, c // _HEADS) for y in (q, k, v))
        return Linear(c, self.dtype, name="proj")(ops.attention(q, k, v).reshape(x.shape))

    def _patches(self, x: jax.Array, context: jax.Array | None) -> tuple[jax.Array, jax.Array]:
        """What keys and values are made of: (b, t, h / 4, w / 4, c), rounded up."""
        b, t, h, w, c = x.shape
        border = ((0, 0), (0, -h % _REDUCTION), (0, -w % _REDUCTION), (0, 0))
        patches = jnp.pad(x.reshape(b * t, h, w, c), border)
        shared_norm = norm(self.dtype, "norm")
        side = (_REDUCTION, _REDUCTION)
        if context is None:
            kernel, bias = Weights((*side, c, c), dtype=self.dtype, name="sr")()
            y = ops.patch_conv(patches, kernel) + bias
            y = shared_norm(y.reshape(b, t, *y.shape[1:]))
            return y, y
        key, key_bias = Weights(
            (*side, c + context.shape[-1], c), dtype=self.dtype, name="sr_key"
        )()
        value, bias = Weights((*side, c, c), dtype=self.dtype, name="sr_value")()
        y = ops.patch_conv(patches, jnp.concatenate([key[:, :, :c], value], axis=-1))
        y = y.reshape(b, t, *y.shape[1:])
        of_context = ops.patch_conv(jnp.pad(context, border), key[:, :, c:]) + key_bias
        return shared_norm(y[..., :c] + of_context[:, None]), shared_norm(y[..., c:] + bias)


class PlaceBlock(nn.Module):
    """A block over all places, for one token of each at a time: attention and an MLP.

    Attributes:
        kind: `LocalAttention` or `GlobalAttention`.
        context_features: channels of the context's projection for queries and keys; 0 for none.
        dtype: compute type.
    """

    kind: type[nn.Module]
    context_features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, context: jax.Array) -> jax.Array:
        """(b, t, h, w, c), and the context (b, h, w, d) -> like x."""
        projected = None
        if self.context_features:
            projected = Linear(self.context_features, self.dtype, name="context_proj")(context)
        y = norm(self.dtype, "norm1")(x)
        x = x + self.kind(self.dtype, name="attn")(y, projected)
        names = ("norm2", "fc1", "fc2")
        return FeedForward(4 * x.shape[-1], 0.0, False, names, self.dtype, name="mlp")(x)


class CostEncoder(nn.Module):
    """Encodes cost maps as tokens, which then learn from those of other places.

    Attributes:
        tokens: per place.
        features: channels of a token.
        depth: layers of attention among a place's tokens, among windows and among all places.
        context_features: see `PlaceBlock`.
        dropout: rate, in the MLPs of those layers that do not look at other places.
        remat: recompute in the backward pass instead of storing activations.
        dtype: compute type; softmax and norm statistics are float32.
    """

    tokens: int
    features: int
    depth: int
    context_features: int
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, cost: jax.Array, context: jax.Array, train: bool = False) -> jax.Array:
        """Encodes cost maps.

        Args:
            cost: (b, h, w, h2, w2), a map for each place.
            context: (b, h, w, 256) of the first image.
            train: whether dropout is active.

        Returns:
            (b, tokens, h, w, features).
        """
        b, h, w = cost.shape[:3]
        shape = (1, self.tokens, self.features)
        latent = self.param("latent_tokens", nn.initializers.normal(1.0), shape, jnp.float32)
        embedding = CostEmbedding(self.features, self.dropout, train, self.dtype, name="embedding")
        x = _embed(embedding, cost, latent[0], self.remat)
        x = x.reshape(b, h, w, *x.shape[2:]).transpose(0, 3, 1, 2, 4)
        first = x
        remat = nn.remat if self.remat else lambda module: module
        for i in range(self.depth):
            layer = remat(TokenAttention)(self.dropout, train, self.dtype, name=f"layer{i}")
            x = layer(x)
            for name, kind in (("local", LocalAttention), ("global", GlobalAttention)):
                block = remat(PlaceBlock)(
                    kind, self.context_features, self.dtype, name=f"{name}{i}"
                )
                x = block(x, context)
        return x + first


def _embed(embedding: CostEmbedding, cost: jax.Array, latent: jax.Array, remat: bool) -> jax.Array:
    """Embeds (b, h, w, h2, w2) cost maps, of some rows at a time if there are many.

    Returns:
        (b, h w, tokens, features).
    """
    b, h, w, h2, w2 = cost.shape
    count = b if isinstance(b, int) else 1  # it has no number yet in a program for any batch
    row = count * w * EMBEDDED // 4 * (h2 + PATCH) * (w2 + PATCH)  # bytes: a float for every 4
    wanted = min(max(1, _CHUNK // row), h)
    rows = next(i for i in range(wanted, 0, -1) if h % i == 0)

    def step(module: CostEmbedding, _: tuple, some: jax.Array) -> tuple[tuple, jax.Array]:
        x = module(some.reshape(-1, h2, w2), latent)
        return (), x.reshape(b, rows * w, *x.shape[1:])

    if rows == h:
        return step(embedding, (), cost)[1]
    scanned = nn.scan(
        nn.remat(step) if remat else step,
        variable_broadcast="params",
        split_rngs={"params": False, "dropout": True},
        in_axes=1,
        out_axes=1,
    )
    _, x = scanned(embedding, (), cost.reshape(b, h // rows, rows * w, h2, w2))
    return x.reshape(b, h * w, *x.shape[3:])
