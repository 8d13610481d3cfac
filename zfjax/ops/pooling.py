"""Max-pooling that remembers where each maximum was, and the way back down.

Layout: x is [N, H, W, C]; windows, strides and padding are given for (height, width).

Switches say where in its window each maximum was: the row-major offset `row * window_width + column`, counted
from the window's own top-left corner (which may lie in the padding), as uint8, or as int32 for windows of more
than 256 cells.

Ties go to the first maximum in row-major order. A padded cell never wins, not even against −inf. NaN is larger
than every number: a window that holds one pools to NaN, and its switch points to the first.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from zfjax.console.deprecation import renamed
from zfjax.ops import unpooling
from zfjax.ops.platforms import by_platform
from zfjax.ops.windows import Padding, Pair, Windows, require_pairs, window_count

__getattr__ = renamed(__name__, centre_switches="center_switches")


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding"))
def max_pool(
    x: Float[Array, "n h w c"], window: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))
) -> Float[Array, "n ho wo c"]:
    """The maximum of each window; windows may extend beyond the edge.

    Its derivative goes through the switches, so the reverse derivative is `max_unpool`, and adds in the same order on
    every run. On a TPU it is XLA's own, which gives the same; only forward derivatives may take another cell of a tie.

    Args:
        x: [N, H, W, C].
        window: (height, width) in cells.
        strides: (down, right) in cells.
        padding: ((top, bottom), (left, right)) in cells, each smaller than the window.

    Returns:
        [N, Ho, Wo, C] with Ho = (H + top + bottom - window height) // stride + 1.

    Raises:
        ValueError: x is not 4-D, a window or stride is below 1, padding is negative or not smaller than the
            window, or the window does not fit.

    Paper: section 2, figure 3: 3×3, stride 2; 110 → 55 with padding ((0, 1), (0, 1)).

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> print(max_pool(x, (3, 3), (2, 2), ((0, 1), (0, 1)))[0, :, :, 0])
    [[10. 11.]
     [14. 15.]]
    """
    _check(x.shape, window, strides, padding)
    return _max_pool(x, Windows.over_maps(window, strides, padding))


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding"))
def max_pool_with_switches(
    x: Float[Array, "n h w c"], window: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))
) -> tuple[Float[Array, "n ho wo c"], Integer[Array, "n ho wo c"]]:
    """Max-pool, and where in its window each maximum was.

    Args:
        x: [N, H, W, C].
        window: (height, width) in cells.
        strides: (down, right) in cells.
        padding: ((top, bottom), (left, right)) in cells.

    Returns:
        pooled: [N, Ho, Wo, C], as `max_pool`.
        switches: [N, Ho, Wo, C], row-major offset inside the window, see the module's docstring.

    Raises:
        ValueError: as `max_pool`.

    Paper: section 2.1, "Unpooling": "recording the locations of the maxima within each pooling region in a set
    of switch variables".

    >>> x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    >>> print(max_pool_with_switches(x, (3, 3), (2, 2), ((0, 1), (0, 1)))[1][0, :, :, 0])
    [[8 7]
     [5 4]]
    """
    _check(x.shape, window, strides, padding)
    return unpooling.pool(x, Windows.over_maps(window, strides, padding))


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding", "input_shape"))
def max_unpool(
    pooled: Float[Array, "n ho wo c"],
    switches: Integer[Array, "n ho wo c"],
    window: Pair,
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
) -> Float[Array, "n h w c"]:
    """Put each pooled value back where its maximum was; zeros elsewhere; overlapping windows sum.

    It is the adjoint of the pool: `jax.vjp(max_pool, x)[1](pooled)`.

    Args:
        pooled: [N, Ho, Wo, C].
        switches: [N, Ho, Wo, C], from `max_pool_with_switches`.
        window: (height, width) in cells, as in the pool.
        strides: (down, right) in cells.
        padding: ((top, bottom), (left, right)) in cells.
        input_shape: (N, H, W, C) of the pool's input.

    Returns:
        [N, H, W, C].

    Raises:
        ValueError: as `max_pool`, or pooled and switches are not shaped as that pool's output.

    Paper: section 2.1, "Unpooling".

    >>> pooled, switches = jnp.array([[[[5.0]]]]), jnp.array([[[[3]]]], jnp.uint8)
    >>> print(max_unpool(pooled, switches, (2, 2), (2, 2), ((0, 0), (0, 0)), (1, 2, 2, 1))[0, :, :, 0])
    [[0. 0.]
     [0. 5.]]
    """
    _check_unpool(pooled, switches, window, strides, padding, input_shape)
    return unpooling.unpool(pooled, switches, Windows.over_maps(window, strides, padding), input_shape)


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding", "input_shape"))
def max_unpool_overwriting(
    pooled: Float[Array, "n ho wo c"],
    switches: Integer[Array, "n ho wo c"],
    window: Pair,
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
) -> Float[Array, "n h w c"]:
    """`max_unpool`, but if a cell gets several values, that of the last window in row-major order stays.

    It is what PyTorch's `max_unpool2d` does on a CPU; the paper does not say. Arguments, result and errors as in
    `max_unpool`.
    """
    _check_unpool(pooled, switches, window, strides, padding, input_shape)
    return unpooling.unpool_overwriting(pooled, switches, Windows.over_maps(window, strides, padding), input_shape)


def center_switches(
    input_shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding
) -> Integer[np.ndarray, "n ho wo c"]:
    """Switches that all point to their window's center, or to the cell of the input that is nearest to it.

    The center of an even window is its upper left of four. Arguments as in `max_pool_with_switches`, of a pool of
    `input_shape`.
    """
    _check(input_shape, window, strides, padding)
    return unpooling.centers(input_shape, Windows.over_maps(window, strides, padding))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _max_pool(x: jax.Array, windows: Windows) -> jax.Array:
    return unpooling.maxima(x, windows)


@_max_pool.defjvp
def _max_pool_jvp(
    windows: Windows, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    pooled, switches = _kept(*primals, windows)
    return pooled, _along(*primals, switches, *tangents, windows)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def _kept(x: jax.Array, windows: Windows) -> tuple[jax.Array, jax.Array]:
    """The maxima, and their switches where the derivative needs them; elsewhere zeros, which no program computes."""

    def by_switches(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return lax.optimization_barrier(unpooling.by_slices(x, windows))

    def written_out(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        # XLA:CPU would fuse the comparisons into every reader of the switches and repeat them there, also across a
        # barrier. A branch it does not, if it cannot tell which is taken: 0.13 ms for both ways, not 0.97 (46×46×12).
        found, always = unpooling.by_slices(x, windows), lax.optimization_barrier(jnp.bool_(True))
        return lax.cond(always, lambda found: found, lambda found: jax.tree.map(jnp.zeros_like, found), found)

    def by_xla(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        pooled = unpooling.maxima(x, windows)
        return pooled, jnp.zeros(pooled.shape, unpooling.switch_type(x.shape, windows))

    return by_platform(x, tpu=by_xla, cpu=written_out, default=by_switches)


@_kept.defjvp
def _kept_jvp(
    windows: Windows, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, Any]]:
    pooled, switches = _kept(*primals, windows)
    along = _along(*primals, switches, *tangents, windows)
    return (pooled, switches), (along, np.zeros(switches.shape, jax.dtypes.float0))


def _along(x: jax.Array, switches: jax.Array, tangent: jax.Array, windows: Windows) -> jax.Array:
    """The derivative along a tangent: linear in it, with the unpooling as its transpose."""
    # XLA's own reverse rule, select_and_scatter, took 330-640 ms on a CPU where switches take 20-40 (110×110×96,
    # batch 16, 2 cores); on a GPU it adds atomically, so its sums differ from run to run. A TPU has an instruction
    # for it, and would write nine maps of the full size for the switches.

    def by_xla(x: jax.Array, switches: jax.Array, tangent: jax.Array) -> jax.Array:
        return jax.jvp(functools.partial(unpooling.maxima, windows=windows), (x,), (tangent,))[1]

    def by_phases(x: jax.Array, switches: jax.Array, tangent: jax.Array) -> jax.Array:
        # Its transpose is `unpooling.by_phases` again.
        down = functools.partial(unpooling.by_phases, switches=switches, windows=windows, shape=x.shape)
        return jax.linear_transpose(down, jax.ShapeDtypeStruct(switches.shape, tangent.dtype))(tangent)[0]

    return by_platform(x, switches, tangent, tpu=by_xla, default=by_phases)


def _check(shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding) -> None:
    if len(shape) != 4:
        raise ValueError(f"max-pooling takes [N, H, W, C], got shape {shape}")
    require_pairs(padding, window=window, strides=strides)
    for axis, size, k, stride, pad in zip("HW", shape[1:3], window, strides, padding, strict=True):
        if k < 1 or stride < 1:
            raise ValueError(f"max-pooling: window {window} and strides {strides} must be at least 1")
        if not (0 <= pad[0] < k and 0 <= pad[1] < k):
            raise ValueError(f"max-pooling: padding {padding} must be in [0, window) for window {window}")
        if size + sum(pad) < k:
            raise ValueError(
                f"max-pooling: window {window} does not fit {axis} of shape {shape} with padding {padding}"
            )


def _check_unpool(
    pooled: jax.Array,
    switches: jax.Array,
    window: Pair,
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
) -> None:
    _check(input_shape, window, strides, padding)
    n, h, w, c = input_shape
    ho, wo = window_count(h, window[0], strides[0], padding[0]), window_count(w, window[1], strides[1], padding[1])
    if not pooled.shape == switches.shape == (n, ho, wo, c):
        raise ValueError(
            f"max_unpool: pooled {pooled.shape} and switches {switches.shape} must both be {(n, ho, wo, c)}: "
            f"a {window} pool with strides {strides} and padding {padding} of {input_shape}"
        )
