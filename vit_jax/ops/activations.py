"""Functions of single numbers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.ops import compiling


def leaky_relu(x: jax.Array, slope: float) -> jax.Array:
    """x, or slope times x where it is negative; JAX's own is none that jax2onnx reads."""
    return jnp.where(x >= 0, x, slope * x)


# erf(x) is x P(x^2) / Q(x^2) to the last bits of a float32, and 1 beyond the limit: as XLA has it.
_ERF_P = (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
          -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
          -1.60960333262415e-02)  # fmt: skip
_ERF_Q = (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
          -7.37332916720468e-03, -1.42647390514189e-02)  # fmt: skip
_ERF_LIMIT = 3.832506856900711


def activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """The function of a name.

    "gelu" is exact, as in PyTorch, "gelu_tanh" its approximation, "quick_gelu" CLIP's, and
    "relu" the Transformer's of old; "silu" gates SwiGLU.

    Raises:
        ValueError: for another name.
    """
    known = {
        "gelu_tanh": gelu_tanh,
        "gelu": gelu,
        "quick_gelu": quick_gelu,
        "relu": jax.nn.relu,
        "silu": jax.nn.silu,
    }
    if name not in known:
        raise ValueError(f"activation={name!r} is not one of {', '.join(known)}")
    return known[name]


def gelu(x: jax.Array) -> jax.Array:
    """Gaussian error linear unit (Hendrycks & Gimpel, 2016), exact, as PyTorch's default is.

    With the formula in place of `jax.lax.erf`, TensorFlow can read what is exported.
    """
    return _keeping_input(_gelu)(x)


def gelu_tanh(x: jax.Array) -> jax.Array:
    """GELU in its approximation by tanh, as the published ViTs have it."""
    return _keeping_input(jax.nn.gelu)(x)


def quick_gelu(x: jax.Array) -> jax.Array:
    """X sigmoid(1.702 x), in place of a GELU where CLIP was trained (Radford et al., 2021)."""
    return _keeping_input(_quick_gelu)(x)


def _quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def _keeping_input(function: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """Has an accelerator keep the argument alone for the backward pass, and compute the rest anew.

    It takes a fifth of a ViT's memory away, and no longer. A CPU would compute for longer.
    """
    return (
        function if compiling.is_for_cpu() or compiling.is_portable() else jax.checkpoint(function)
    )


@jax.custom_jvp
def _gelu(x: jax.Array) -> jax.Array:
    return (x * _normal_cdf(x)).astype(x.dtype)


@_gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    (x,), (dx,) = primals, tangents
    cdf = _normal_cdf(x)
    density = jnp.exp(-0.5 * jnp.square(x.astype(jnp.float32))) * (2 * np.pi) ** -0.5
    return (x * cdf).astype(x.dtype), ((cdf + x * density) * dx).astype(x.dtype)


def _normal_cdf(x: jax.Array) -> jax.Array:
    """Of the standard normal distribution, in float32."""
    z = jnp.clip(x.astype(jnp.float32) * 2**-0.5, -_ERF_LIMIT, _ERF_LIMIT)
    p, q = (jnp.polyval(np.array(c, np.float32), z * z) for c in (_ERF_P, _ERF_Q))
    return 0.5 + 0.5 * z * p / q
