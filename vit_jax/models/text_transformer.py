"""The pre-norm Transformer as a tower of texts, causal as in CLIP or not as in LiT and SigLIP.

Sources: Radford et al., "Learning Transferable Visual Models From Natural Language Supervision"
(ICML 2021); Zhai et al., "LiT: Zero-Shot Transfer with Locked-image text Tuning" (CVPR 2022) and
"Sigmoid Loss for Language Image Pre-Training" (ICCV 2023). The submodules' names are those of
google-research's .npz files.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from vit_jax.models.encoder import Encoder

POOLS = ("last", "end")


class TextTransformer(nn.Module):
    """Embeds texts.

    No token is hidden as padding. A causal tower pools before it, and one that is not has learned
    what it means, so that texts are to be padded as they were in training.

    Attributes:
        vocabulary_size: tokens that there are.
        length: tokens of a text, padding included.
        hidden_size: width of the tokens.
        num_layers: number of blocks.
        num_heads: heads of the attention; must divide hidden_size.
        mlp_dim: hidden width of the MLPs.
        activation: of the MLPs, see `ops.activation`.
        features: width of the projection at the end; None for none.
        head_bias: whether that projection has a bias.
        pool: "last", the last token; or "end", the first one of the greatest id, which in CLIP's
            vocabulary is the token that ends a text.
        causal: whether a token attends to itself and those before it alone.
        norm_epsilon: of all norms.
        initialization: "xavier" or "clip", see `encoder`.
        dropout_rate: after the positions, the attention and both layers of the MLPs.
        attention_implementation: see `ops.attention`.
        remat: recompute each block in the backward pass.
        scan: one compiled block, its parameters stacked.
        dtype: compute type.
    """

    vocabulary_size: int
    length: int
    hidden_size: int
    num_layers: int
    num_heads: int
    mlp_dim: int
    activation: str
    features: int | None
    head_bias: bool = True
    pool: str = "last"
    causal: bool = False
    norm_epsilon: float = 1e-6
    initialization: str = "xavier"
    dropout_rate: float = 0.0
    attention_implementation: str | None = None
    remat: bool = False
    scan: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, tokens: jax.Array, train: bool = False) -> jax.Array:
        """Embeds texts.

        Args:
            tokens: (b, length) int32 ids.
            train: whether dropout is active; then `rngs` needs "dropout".

        Returns:
            (b, features) float32, of any length; (b, hidden_size) without a projection.

        Raises:
            ValueError: for another number of tokens, or fields that do not fit.
        """
        self._validate(tokens)
        n, d = self.length, self.hidden_size
        is_clip = self.initialization == "clip"
        normal = nn.initializers.normal
        # In float32, since the gradients of a frequent token are sums of very many.
        embed = nn.Embed(self.vocabulary_size, d, embedding_init=normal(0.02), name="Embed_0")
        init = normal(0.01 if is_clip else d**-0.5)
        positions = self.param("pos_embedding", init, (1, n, d), jnp.float32)
        x = (embed(tokens) + positions).astype(self.dtype)
        x = Encoder(
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            mlp_dim=self.mlp_dim,
            grid=(1, n),
            activation=self.activation,
            position_embedding="none",
            dropout_rate=self.dropout_rate,
            deterministic=not train,
            attention_implementation=self.attention_implementation,
            remat=self.remat,
            scan=self.scan,
            norm_epsilon=self.norm_epsilon,
            causal=self.causal,
            initialization=self.initialization,
            dtype=self.dtype,
            name="Encoder_0",
        )(x)
        if self.pool == "end":
            end = jnp.argmax(tokens, axis=-1)
            x = jnp.take_along_axis(x, end[:, None, None], axis=1)[:, 0]
        else:
            x = x[:, -1]
        if self.features is not None:
            x = nn.Dense(self.features, self.head_bias, self.dtype, name="head")(x)
        return x.astype(jnp.float32)

    def _validate(self, tokens: jax.Array) -> None:
        if self.pool not in POOLS:
            raise ValueError(f"a text transformer pools one of {POOLS}, not {self.pool!r}")
        if self.num_heads < 1 or self.hidden_size % self.num_heads:
            raise ValueError(
                f"the texts' width of {self.hidden_size} is not divisible by {self.num_heads} heads"
            )
        if tokens.ndim != 2 or tokens.shape[1] != self.length:
            raise ValueError(
                f"texts must be of shape (b, {self.length}), as the model was made for, and not "
                f"{tokens.shape}: use the model's own tokenizer, or set its text_length"
            )
