"""Local contrast normalization across maps."""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from zfjax.ops.precision import widened


@functools.partial(jax.jit, static_argnames=("size", "k", "alpha", "beta"))
def local_response_norm(
    x: Float[Array, "*grid c"], size: int = 5, k: float = 2.0, alpha: float = 1e-4, beta: float = 0.75
) -> Float[Array, "*grid c"]:
    """y[c] = x[c] / (k + alpha / size · Σ x[c']²)^beta, over the `size` maps c' centered on c.

    Alpha is divided by the window's size, as in cuda-convnet, Caffe and PyTorch (Krizhevsky's text does not).
    Squares and sums are in float32 at least, so half precision does not overflow.

    Args:
        x: [..., C], maps last.
        size: number of maps in the window; an even window reaches one map further down than up.
        k: added to the sum.
        alpha: weight of the mean square.
        beta: exponent.

    Returns:
        Shaped and typed as x.

    Raises:
        ValueError: size is below 1.

    Paper: section 2 and figure 3 ("contrast normalized across feature maps"); constants of Krizhevsky et al.
    2012, section 3.3.
    """
    if size < 1:
        raise ValueError(f"local_response_norm: size must be at least 1, got {size}")
    wide = widened(x)
    # Of sums by shifted slices, by a banded matrix and by this, this has the fastest gradient on a CPU.
    ones = (1,) * (x.ndim - 1)
    edges = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    total = lax.reduce_window(jnp.square(wide), 0.0, lax.add, (*ones, size), (*ones, 1), edges)
    return (wide * _power(k + alpha / size * total, -beta)).astype(x.dtype)


def _power(d: jax.Array, exponent: float) -> jax.Array:
    # x^-0.75 as two roots: several times faster than the general power on a CPU.
    if exponent == -0.75:
        return lax.rsqrt(d) * lax.rsqrt(lax.sqrt(d))
    return jnp.power(d, exponent)
