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
    return _normalized(x, size, k, alpha, beta)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3, 4))
def _normalized(x: jax.Array, size: int, k: float, alpha: float, beta: float) -> jax.Array:
    # A TPU sums fastest by a product with a band.
    return by_platform(
        x,
        tpu=lambda x: _scaled(x, alpha / size * _by_band(_squares(x), size), k, beta),
        default=lambda x: _scaled(x, alpha / size * _by_windows(_squares(x), size), k, beta),
    )


@_normalized.defjvp
def _normalized_jvp(
    size: int, k: float, alpha: float, beta: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """What is kept of the sums for the derivative, and what is summed again, differs: it is most of the traffic."""
    dtype = primals[0].dtype
    kept_type = jnp.dtype(jnp.float32) if dtype == jnp.float16 else dtype  # squares of float16 overflow

    def plain(x: jax.Array) -> jax.Array:
        return _scaled(x, alpha / size * _by_windows(_squares(x), size), k, beta)

    def keeping(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        sums = alpha / size * _by_band(_squares(x), size)
        # Written together, or XLA computes y again from float32 sums that it keeps for that.
        return lax.optimization_barrier((_scaled(x, sums, k, beta), sums.astype(kept_type)))

    def along(x: jax.Array, sums: jax.Array, tangent: jax.Array, total: Total) -> jax.Array:
        wide, signal, d = widened(x), widened(tangent), k + widened(sums)
        scale = _power(d, -beta)
        change = 2 * alpha * beta / size * total(wide * signal, size)
        return (signal * scale - wide * (scale / d) * change).astype(x.dtype)

    def through_memory(x: jax.Array, size: int) -> jax.Array:
        # A GPU writes what is to be summed on the way down, and reads it again: in half precision, if that is used.
        return widened(lax.optimization_barrier(_by_windows(x, size).astype(kept_type)))

    def again(x: jax.Array, sums: jax.Array, tangent: jax.Array) -> jax.Array:
        # Times a one that XLA doesn't know, or it would keep the sums of the way up.
        x = x * lax.optimization_barrier(jnp.ones((), x.dtype))
        return along(x, alpha / size * _by_windows(_squares(x), size), tangent, through_memory)

    y, sums = by_platform(*primals, tpu=keeping, default=lambda x: (plain(x), jnp.zeros(x.shape, kept_type)))
    derivative = by_platform(
        *primals,
        sums,
        *tangents,
        # On a CPU, JAX's own of sums by windows is the fastest; of shifted slices, a band and windows.
        cpu=lambda x, sums, tangent: jax.jvp(plain, (x,), (tangent,))[1],
        tpu=functools.partial(along, total=_by_band),
        default=again,
    )
    return y, derivative


Total = Callable[[jax.Array, int], jax.Array]  # the sum over each map's `size` neighbors


def _squares(x: jax.Array) -> jax.Array:
    return jnp.square(widened(x))


def _scaled(x: jax.Array, sums: jax.Array, k: float, beta: float) -> jax.Array:
    return (widened(x) * _power(k + sums, -beta)).astype(x.dtype)


def _by_windows(x: jax.Array, size: int) -> jax.Array:
    ones = (1,) * (x.ndim - 1)
    edges = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, (*ones, size), (*ones, 1), edges)


def _by_band(x: jax.Array, size: int) -> jax.Array:
    """As a product with a matrix that has ones in a band along its diagonal."""
    maps = np.arange(x.shape[-1])
    offsets = maps[:, None] - maps
    band = (-(size // 2) <= offsets) & (offsets <= (size - 1) // 2)
    return jnp.einsum("...c,cd->...d", x, jnp.asarray(band, x.dtype), precision=lax.Precision.HIGHEST)


def _power(d: jax.Array, exponent: float) -> jax.Array:
    # x^-0.75 as two roots: several times faster than the general power on a CPU.
    if exponent == -0.75:
        return lax.rsqrt(d) * lax.rsqrt(lax.sqrt(d))
    return jnp.power(d, exponent)
