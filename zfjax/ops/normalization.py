"""Local contrast normalization across maps."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from zfjax.ops.platforms import by_platform
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
    by_windows, by_band = (
        functools.partial(_normalized, total=total, size=size, k=k, alpha=alpha, beta=beta)
        for total in (_by_windows, _by_band)
    )
    # On accelerators, whose time is their traffic, the sums are made again for the gradient: that is cheaper than to
    # write and read them in float32. A TPU sums fastest by a product with a band. Of sums by shifted slices, by a band
    # and by windows, windows have the fastest gradient on a CPU.
    return by_platform(x, cpu=by_windows, tpu=jax.checkpoint(by_band), default=jax.checkpoint(by_windows))


def _normalized(
    x: jax.Array, total: Callable[[jax.Array, int], jax.Array], size: int, k: float, alpha: float, beta: float
) -> jax.Array:
    scale = _power(k + alpha / size * total(x, size), -beta)
    return (widened(x) * scale).astype(x.dtype)


def _by_windows(x: jax.Array, size: int) -> jax.Array:
    """The sum of squares over each map's neighbors, in float32 at least."""
    ones = (1,) * (x.ndim - 1)
    edges = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    return lax.reduce_window(jnp.square(widened(x)), 0.0, lax.add, (*ones, size), (*ones, 1), edges)


def _by_band(x: jax.Array, size: int) -> jax.Array:
    """The same as a product with a matrix that has ones in a band along its diagonal."""
    maps = np.arange(x.shape[-1])
    offsets = maps[:, None] - maps
    band = (-(size // 2) <= offsets) & (offsets <= (size - 1) // 2)
    squares = jnp.square(widened(x))
    return jnp.einsum("...c,cd->...d", squares, jnp.asarray(band, squares.dtype), precision=lax.Precision.HIGHEST)


def _power(d: jax.Array, exponent: float) -> jax.Array:
    # x^-0.75 as two roots: several times faster than the general power on a CPU.
    if exponent == -0.75:
        return lax.rsqrt(d) * lax.rsqrt(lax.sqrt(d))
    return jnp.power(d, exponent)
