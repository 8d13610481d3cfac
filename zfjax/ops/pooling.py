"""Max-pooling that remembers where each maximum was, and the way back down.

Layout: x is [N, H, W, C]; windows, strides and padding are given for (height, width).

Switches say where in its window each maximum was: the row-major offset `row * window_width + column`, counted
from the window's own top-left corner (which may lie in the padding), as uint8, or as int32 for windows of more
than 256 cells.

Ties go to the first maximum in row-major order. A padded cell never wins, not even against −inf. NaN is larger
than every number: a window that holds one pools to NaN, and its switch points to the first.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from zfjax.console.deprecation import renamed
from zfjax.ops.windows import Padding, Pair, window_count

__getattr__ = renamed(__name__, centre_switches="center_switches")


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding"))
def max_pool(
    x: Float[Array, "n h w c"], window: Pair, strides: Pair, padding: Padding = ((0, 0), (0, 0))
) -> Float[Array, "n ho wo c"]:
    """The maximum of each window, where the window may hang over the edge.

    Its derivative goes through the switches, so the reverse derivative is `max_unpool`: no scatter on any platform,
    hence the same bits on every run.

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
    return _max_pool(x, window, strides, padding)


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
    return _pool_and_switches(x, window, strides, padding)


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
    zero = jnp.zeros_like(pooled)
    cells = [
        lax.pad(
            jnp.where(switches == switches.dtype.type(offset), pooled, zero),
            np.zeros((), pooled.dtype),
            _place(offset, pooled.shape, window, strides, padding, input_shape),
        )
        for offset in range(math.prod(window))
    ]
    return sum(cells[1:], cells[0])


@functools.partial(jax.jit, static_argnames=("window", "strides", "padding", "input_shape"))
def max_unpool_overwriting(
    pooled: Float[Array, "n ho wo c"],
    switches: Integer[Array, "n ho wo c"],
    window: Pair,
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
) -> Float[Array, "n h w c"]:
    """`max_unpool`, but of several values for one cell only the last window's stays, in row-major order.

    It is what PyTorch's `max_unpool2d` does on a CPU; the paper does not say. Arguments, result and errors as in
    `max_unpool`.
    """
    _check_unpool(pooled, switches, window, strides, padding, input_shape)
    # Zeros that are sharded as pooled is.
    place = _place(0, pooled.shape, window, strides, padding, input_shape)
    unpooled = lax.pad(jnp.zeros_like(pooled), np.zeros((), pooled.dtype), place)
    # Of the windows over a cell, a later one has the cell at a smaller offset.
    for offset in reversed(range(math.prod(window))):
        place = _place(offset, pooled.shape, window, strides, padding, input_shape)
        here = lax.pad(switches == switches.dtype.type(offset), np.False_, place)
        values = lax.pad(pooled, np.zeros((), pooled.dtype), place)
        unpooled = jnp.where(here, values, unpooled)
    return unpooled


def center_switches(
    input_shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding
) -> Integer[np.ndarray, "n ho wo c"]:
    """Switches that all point to their window's center, or to the cell of the input that is nearest to it.

    The center of an even window is its upper left of four. Arguments as in `max_pool_with_switches`, of a pool of
    `input_shape`.
    """
    _check(input_shape, window, strides, padding)
    offsets = []
    for size, k, stride, pad in zip(input_shape[1:3], window, strides, padding, strict=True):
        start = stride * np.arange(window_count(size, k, stride, pad)) - pad[0]
        offsets.append(np.clip(start + (k - 1) // 2, 0, size - 1) - start)
    switches = (offsets[0][:, None] * window[1] + offsets[1][None, :]).astype(_switch_dtype(window))
    return np.broadcast_to(switches[None, :, :, None], (input_shape[0], *switches.shape, input_shape[3]))


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _max_pool(x: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


@_max_pool.defjvp
def _max_pool_jvp(
    window: Pair, strides: Pair, padding: Padding, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # XLA's own reverse rule, select_and_scatter, took 330-640 ms on a CPU where this takes 20-40 (110×110×96,
    # batch 16, 2 cores); on a GPU it adds atomically, so its sums differ from run to run.
    (x,), (tangent,) = primals, tangents
    pooled, switches = _switches_by_slices(x, window, strides, padding)
    # Otherwise XLA:CPU fuses the comparisons into every reader of the switches and repeats them there.
    pooled, switches = lax.optimization_barrier((pooled, switches))
    return pooled, _select(tangent, switches, window, strides, padding)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2, 3))
def _pool_and_switches(x: jax.Array, window: Pair, strides: Pair, padding: Padding) -> tuple[jax.Array, jax.Array]:
    # On a CPU the variadic reduce_window calls its comparison cell by cell: 130-150 ms against 30-45 ms for the
    # slices (110×110×96, batch 16, 2 cores). Other platforms compile it whole; not measured there.
    return lax.platform_dependent(
        x,
        cpu=lambda x: _switches_by_slices(x, window, strides, padding),
        default=lambda x: _switches_by_reduce_window(x, window, strides, padding),
    )


@_pool_and_switches.defjvp
def _pool_and_switches_jvp(
    window: Pair, strides: Pair, padding: Padding, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, Any]]:
    pooled, switches = _pool_and_switches(*primals, window, strides, padding)
    tangent = _select(*tangents, switches, window, strides, padding)
    return (pooled, switches), (tangent, np.zeros(switches.shape, jax.dtypes.float0))


def _switches_by_slices(x: jax.Array, window: Pair, strides: Pair, padding: Padding) -> tuple[jax.Array, jax.Array]:
    """The running maximum over one strided slice per window cell."""
    slices = _window_slices(x, -np.inf, window, strides, padding)
    pooled = jnp.full_like(slices[0], -jnp.inf)
    first = _first_cells(x.shape, window, strides, padding)
    switches = jnp.broadcast_to(jnp.asarray(first)[None, :, :, None], pooled.shape)
    for offset, cell in enumerate(slices):
        wins = (cell > pooled) | (jnp.isnan(cell) & ~jnp.isnan(pooled))
        pooled = jnp.where(wins, cell, pooled)
        switches = jnp.where(wins, first.dtype.type(offset), switches)
    return pooled, switches


def _switches_by_reduce_window(
    x: jax.Array, window: Pair, strides: Pair, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """The reference: one reduce_window over pairs (value, cell of the input)."""
    _, h, w, _ = x.shape
    shape = (1, h, w, 1)
    rows, columns = lax.broadcasted_iota(jnp.int32, shape, 1), lax.broadcasted_iota(jnp.int32, shape, 2)
    cells = jnp.broadcast_to(rows * w + columns, x.shape)
    nowhere = np.iinfo(np.int32).max

    def larger(a: tuple[jax.Array, jax.Array], b: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        (value_a, cell_a), (value_b, cell_b) = a, b
        nan_a, nan_b = value_a != value_a, value_b != value_b
        # Padding sits at `nowhere`, the last of all cells, so it loses even a tie at −inf.
        ties = (nan_a & nan_b) | (value_a == value_b)
        takes_a = (nan_a & ~nan_b) | (value_a > value_b) | (ties & (cell_a < cell_b))
        return lax.select(takes_a, value_a, value_b), lax.select(takes_a, cell_a, cell_b)

    pooled, cells = lax.reduce_window(
        (x, cells),
        (np.array(-np.inf, x.dtype), np.array(nowhere, np.int32)),
        larger,
        (1, *window, 1),
        (1, *strides, 1),
        ((0, 0), *padding, (0, 0)),
    )
    shape = (1, *pooled.shape[1:3], 1)
    top = lax.broadcasted_iota(jnp.int32, shape, 1) * strides[0] - padding[0][0]
    left = lax.broadcasted_iota(jnp.int32, shape, 2) * strides[1] - padding[1][0]
    offsets = (cells // w - top) * window[1] + (cells % w - left)
    return pooled, offsets.astype(_switch_dtype(window))


def _select(x: jax.Array, switches: jax.Array, window: Pair, strides: Pair, padding: Padding) -> jax.Array:
    """The cell of each window that its switch points to: linear in x, and its transpose is the unpooling."""
    slices = _window_slices(x, 0, window, strides, padding)
    chosen = jnp.zeros_like(slices[0])
    # A sum, not nested selects: those transpose to a chain that XLA:CPU evaluates again for every cell.
    for offset, cell in enumerate(slices):
        chosen += jnp.where(switches == switches.dtype.type(offset), cell, jnp.zeros_like(cell))
    return chosen


def _window_slices(x: jax.Array, fill: float, window: Pair, strides: Pair, padding: Padding) -> list[jax.Array]:
    """For each offset in the window, row-major: that cell of every window, [N, Ho, Wo, C]."""
    n, h, w, c = x.shape
    ho, wo = window_count(h, window[0], strides[0], padding[0]), window_count(w, window[1], strides[1], padding[1])
    x = lax.pad(x, np.array(fill, x.dtype), ((0, 0, 0), (*padding[0], 0), (*padding[1], 0), (0, 0, 0)))
    return [
        lax.slice(
            x,
            (0, i, j, 0),
            (n, i + (ho - 1) * strides[0] + 1, j + (wo - 1) * strides[1] + 1, c),
            (1, *strides, 1),
        )
        for i in range(window[0])
        for j in range(window[1])
    ]


def _place(
    offset: int,
    pooled: tuple[int, ...],
    window: Pair,
    strides: Pair,
    padding: Padding,
    input_shape: tuple[int, ...],
) -> list[tuple[int, int, int]]:
    """How to pad maps shaped as the pooled ones so that each value lies on its window's cell `offset`."""
    place = [(0, 0, 0)]
    for axis, cell in enumerate(divmod(offset, window[1])):
        before = cell - padding[axis][0]
        spread = (pooled[axis + 1] - 1) * strides[axis] + 1
        place.append((before, input_shape[axis + 1] - before - spread, strides[axis] - 1))
    return [*place, (0, 0, 0)]


def _first_cells(shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding) -> np.ndarray:
    """[Ho, Wo]: the first offset of each window that lies inside the input."""
    skipped = []
    for size, k, stride, pad in zip(shape[1:3], window, strides, padding, strict=True):
        skipped.append(np.maximum(pad[0] - stride * np.arange(window_count(size, k, stride, pad)), 0))
    return (skipped[0][:, None] * window[1] + skipped[1][None, :]).astype(_switch_dtype(window))


def _switch_dtype(window: Pair) -> type[np.integer]:
    return np.uint8 if math.prod(window) <= 256 else np.int32


def _check(shape: tuple[int, ...], window: Pair, strides: Pair, padding: Padding) -> None:
    if len(shape) != 4:
        raise ValueError(f"max-pooling takes [N, H, W, C], got shape {shape}")
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
