"""FlowFormer's decoder: a flow that a recurrent network improves with the cost memory's help.

Sources: Huang et al., "FlowFormer: A Transformer Architecture for Optical Flow" (ECCV 2022),
section 3.3; the recurrent update of Teed and Deng, "RAFT" (ECCV 2020), with the attention of Jiang
et al., "Learning to Estimate Hidden Motions with Global Motion Aggregation" (ICCV 2021).
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax import ops
from vit_jax.layers import Conv
from vit_jax.models.flowformer_encoder import (
    FeedForward,
    Linear,
    Weights,
    grid,
    sine_encoding,
)

WIDTH = 128  # channels of the recurrent network, of the context beside it and of the motion
_QUERY = 64
_HEADS = 8
_RADIUS = 4
POSITIONS = 160  # for which the published code keeps embeddings that it does not use
_UP = 8


def conv(features: int, side: int, x: jax.Array, dtype: Any, name: str) -> jax.Array:
    """A convolution of its own in the module that calls it, padded with zeros."""
    kernel, bias = Weights((side, side, x.shape[-1], features), dtype=dtype, name=name)()
    return ops.looped_conv(x.astype(dtype), kernel) + bias


class FlowTokens(nn.Module):
    """Queries from the costs around each place."""

    dtype: Any

    @nn.compact
    def __call__(self, around: jax.Array) -> jax.Array:
        """(b, h, w, 81) -> (b, h, w, 64)."""
        x = ops.gelu(conv(_QUERY, 1, around, self.dtype, "conv0"))
        return conv(_QUERY, 1, x, self.dtype, "conv1")


class MemoryAttention(nn.Module):
    """Each place's query attends to that place's tokens in the cost memory.

    Attributes:
        dropout: rate, in its MLP.
        train: whether dropout is active.
        dtype: compute type; softmax, coordinates and norm statistics are float32.
    """

    dropout: float
    train: bool
    dtype: Any

    def setup(self) -> None:
        self.query_norm = nn.LayerNorm(epsilon=1e-5, dtype=self.dtype)
        self.q = Linear(_QUERY, self.dtype)
        self.k = Linear(_QUERY, self.dtype)
        self.v = Linear(_QUERY, self.dtype)
        self.proj = Linear(_QUERY, self.dtype)
        names = ("norm2", "ffn0", "ffn1")
        self.mlp = FeedForward(_QUERY, self.dropout, self.train, names, self.dtype)

    def remember(self, memory: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Keys and values (b, h, w, t, heads, c) of the tokens (b, t, h, w, channels)."""
        memory = memory.transpose(0, 2, 3, 1, 4)
        heads = (*memory.shape[:-1], _HEADS, _QUERY // _HEADS)
        return self.k(memory).reshape(heads), self.v(memory).reshape(heads)

    def __call__(
        self, query: jax.Array, xy: jax.Array, keys: jax.Array, values: jax.Array
    ) -> jax.Array:
        """(b, h, w, 64) queries of places, and where these are thought to go -> like query."""
        encoded = sine_encoding(xy, _QUERY).astype(self.dtype)
        q = self.q(self.query_norm(query) + encoded).reshape(*query.shape[:-1], *keys.shape[-2:])
        scores = jnp.einsum("bhwnc,bhwtnc->bhwnt", q, keys, preferred_element_type=jnp.float32)
        shares = jax.nn.softmax(scores * keys.shape[-1] ** -0.5).astype(self.dtype)
        found = jnp.einsum("bhwnt,bhwtnc->bhwnc", shares, values).reshape(query.shape)
        return self.mlp(query + self.proj(jnp.concatenate([found, query], axis=-1)))


class MotionEncoder(nn.Module):
    """Features of the motion, from the flow and what was found in the costs."""

    width: int
    dtype: Any

    @nn.compact
    def __call__(self, flow: jax.Array, found: jax.Array) -> jax.Array:
        """(b, h, w, 2) and (b, h, w, c) -> (b, h, w, width), of which the last two are the flow."""
        width = self.width
        x = nn.relu(conv(2 * width, 1, found, self.dtype, "convc1"))
        x = nn.relu(conv(3 * width // 2, 3, x, self.dtype, "convc2"))
        y = nn.relu(conv(width, 7, flow, self.dtype, "convf1"))
        y = nn.relu(conv(width // 2, 3, y, self.dtype, "convf2"))
        both = jnp.concatenate([x, y], axis=-1)
        x = nn.relu(conv(width - 2, 3, both, self.dtype, "conv"))
        return jnp.concatenate([x, flow.astype(self.dtype)], axis=-1)


class SepConvGRU(nn.Module):
    """Gated recurrent unit whose gates are convolutions along rows, and then along columns.

    What does not change from call to call is prepared once: the part of the gates' convolutions
    that sees the input's constant channels, and kernels that compute several gates together.

    Attributes:
        features: channels of the state.
        constant: channels of the input that stay the same, its first.
        changing: channels of the input that do not.
        dtype: compute type.
    """

    features: int
    constant: int
    changing: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, constant: jax.Array) -> list[tuple[jax.Array, ...]]:
        """Prepares steps.

        Args:
            constant: (b, h, w, c) channels of the input that stay the same.

        Returns:
            For rows and columns, what `gru_step` takes.
        """
        inputs = self.features + self.constant + self.changing
        prepared: list[tuple[jax.Array, ...]] = []
        for i, sides in ((1, (1, 5)), (2, (5, 1))):
            kernels, biases = zip(
                *(
                    Weights(
                        (*sides, inputs, self.features), dtype=self.dtype, name=f"conv{gate}{i}"
                    )()
                    for gate in "zrq"
                )
            )
            whole = jnp.concatenate(kernels, axis=-1)
            of_state, of_constant, of_changing = jnp.split(
                whole, (self.features, self.features + self.constant), axis=2
            )
            bias = ops.looped_conv(constant, of_constant) + jnp.concatenate(biases)
            gates, candidate = jnp.split(of_state, (2 * self.features,), axis=3)
            prepared.append((gates, candidate, of_changing, bias))
        return prepared


def gru_step(
    prepared: list[tuple[jax.Array, ...]], state: jax.Array, changing: jax.Array
) -> jax.Array:
    """One step of a `SepConvGRU`.

    Args:
        prepared: by the module.
        state: (b, h, w, features).
        changing: (b, h, w, c) the other channels of the input.

    Returns:
        The new state.
    """
    features = state.shape[-1]
    for gates, candidate, of_changing, bias in prepared:
        given = ops.looped_conv(changing, of_changing) + bias
        both = nn.sigmoid(ops.looped_conv(state, gates) + given[..., : 2 * features])
        update, reset = both[..., :features], both[..., features:]
        new = jnp.tanh(ops.looped_conv(reset * state, candidate) + given[..., 2 * features :])
        state = (1 - update) * state + update * new
    return state


class FlowHead(nn.Module):
    """By how much the flow is to change, from the recurrent network's state."""

    dtype: Any

    @nn.compact
    def __call__(self, state: jax.Array) -> jax.Array:
        """(b, h, w, width) -> (b, h, w, 2) float32."""
        x = nn.relu(conv(2 * state.shape[-1], 3, state, self.dtype, "conv1"))
        return conv(2, 3, x, self.dtype, "conv2").astype(jnp.float32)


class Upsampling(nn.Module):
    """Enlarges the flow by means whose shares the recurrent network's state says."""

    dtype: Any

    @nn.compact
    def __call__(self, state: jax.Array, flow: jax.Array) -> jax.Array:
        """(..., h, w, width) and (..., h, w, 2) -> (..., 8h, 8w, 2) float32."""
        *lead, h, w, _ = flow.shape
        x = state.reshape(-1, h, w, state.shape[-1])
        x = nn.relu(conv(2 * x.shape[-1], 3, x, self.dtype, "mask0"))
        mask = 0.25 * conv(9 * _UP**2, 1, x, self.dtype, "mask1")
        flow = ops.convex_upsample(flow.reshape(-1, h, w, 2), mask)
        return flow.reshape(*lead, _UP * h, _UP * w, 2)


class FlowDecoder(nn.Module):
    """Improves a flow again and again, and enlarges it.

    Attributes:
        dropout: rate, in the MLP of the attention to the memory.
        train: whether dropout is active, and each iteration's flow is wanted.
        remat: recompute each iteration in the backward pass instead of storing its activations.
        dtype: compute type; costs, coordinates, softmax and norm statistics are float32.
        width: channels of the state, of the context beside it and of the motion.
    """

    dropout: float = 0.0
    train: bool = False
    remat: bool = False
    dtype: Any = jnp.float32
    width: int = WIDTH

    def setup(self) -> None:
        self.proj = Conv(2 * self.width, dtype=self.dtype)
        self.flow_tokens = FlowTokens(self.dtype)
        self.cross_attend = MemoryAttention(self.dropout, self.train, self.dtype)
        self.motion = MotionEncoder(self.width, self.dtype)
        self.gru = SepConvGRU(self.width, self.width, 2 * self.width, self.dtype)
        self.flow_head = FlowHead(self.dtype)
        self.upsampling = (nn.remat(Upsampling) if self.remat else Upsampling)(self.dtype)
        self.to_qk = Conv(2 * self.width, use_bias=False, dtype=self.dtype)
        self.to_v = Conv(self.width, use_bias=False, dtype=self.dtype)
        self.gamma = self.param("gamma", nn.initializers.zeros, (1,), jnp.float32)
        # Which the published files hold, and nothing uses.
        shape = (2 * POSITIONS - 1, self.width)
        for name in ("rel_height", "rel_width"):
            self.param(name, nn.initializers.normal(1.0), shape, jnp.float32)

    def __call__(
        self,
        cost: jax.Array,
        memory: jax.Array,
        context: jax.Array,
        iterations: int,
        initial: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Finds the flow.

        Args:
            cost: (b, h, w, h2, w2) float32, a map for each place.
            memory: (b, t, h, w, c) tokens of them.
            context: (b, h, w, 256) of the first image.
            iterations: how often the flow is improved.
            initial: (b, h, w, 2) flow to begin with, in places; None for zeros.

        Returns:
            (b, 8h, 8w, 2) float32 flow, in training (iterations, ...) of all of them; and
            (b, h, w, 2), the last one as it was before it was enlarged.
        """
        state, given = jnp.split(self.proj(context.astype(self.dtype)), 2, axis=-1)
        state, given = jnp.tanh(state), nn.relu(given)
        constants = {
            "cost": cost,
            "memory": self.cross_attend.remember(memory),
            "gru": self.gru(given),
            "attention": self._similarities(given),
        }
        flow = jnp.zeros((*state.shape[:3], 2)) if initial is None else initial
        step = nn.scan(
            nn.remat(_step, prevent_cse=False) if self.remat else _step,
            variable_broadcast="params",
            split_rngs={"params": False, "dropout": True},
            in_axes=nn.broadcast,
            length=iterations,
        )
        (state, flow), every = step(self, (state, flow.astype(jnp.float32)), constants)
        seen = every or (state, flow)
        return self.upsampling(seen[0], seen[1]), flow

    def _similarities(self, given: jax.Array) -> jax.Array:
        """(b, h, w, width) -> (b, h w, h w) shares in which motions of others are taken."""
        x = self.to_qk(given)
        q, k = jnp.split(x.reshape(x.shape[0], -1, 2 * self.width), 2, axis=-1)
        scores = jnp.matmul(
            q * self.width**-0.5, k.swapaxes(1, 2), preferred_element_type=jnp.float32
        )
        return jax.nn.softmax(scores).astype(self.dtype)


def _step(
    decoder: FlowDecoder, carry: tuple[jax.Array, jax.Array], constants: dict[str, Any]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array] | None]:
    """One iteration: the state and the flow, which is what an iteration yields in training."""
    state, flow = carry
    flow = jax.lax.stop_gradient(flow)
    xy = jnp.asarray(grid(*flow.shape[1:3])) + flow
    around = ops.cost_lookup(constants["cost"], xy, _RADIUS)
    query = decoder.flow_tokens(around)
    found = decoder.cross_attend(query, xy, *constants["memory"])
    motion = decoder.motion(flow, jnp.concatenate([found, around.astype(found.dtype)], axis=-1))
    values = decoder.to_v(motion).reshape(motion.shape[0], -1, decoder.width)
    others = (constants["attention"] @ values).reshape(motion.shape)
    others = motion + decoder.gamma.astype(motion.dtype) * others
    changing = jnp.concatenate([motion, others], axis=-1)
    state = gru_step(constants["gru"], state, changing)
    flow = flow + decoder.flow_head(state)
    return (state, flow), (state, flow) if decoder.train else None
