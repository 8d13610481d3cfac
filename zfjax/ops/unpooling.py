"""Max-pooling over any axes, with dilated windows or inputs: where in its window each maximum was, and the way back.

`pooling.py` is the same for maps [N, H, W, C]. A switch counts the cells of its window in row-major order. Where a
window covers no cell of x, its switch is their number, and nothing comes back from it.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Integer

from zfjax.ops.platforms import by_platform
from zfjax.ops.windows import Windows

Pooled = tuple[Float[Array, "*pooled"], Integer[Array, "*pooled"]]


def maxima(x: Float[Array | np.ndarray, "*shape"], windows: Windows) -> Float[Array, "*pooled"]:
    """The largest value of each window, with JAX's own derivative."""
    return lax.reduce_window(
        x,
        -jnp.inf,
        lax.max,
        windows.size,
        windows.strides,
        windows.padding,
        windows.base_dilation,
        windows.dilation,
    )


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def pool(x: Float[Array | np.ndarray, "*shape"], windows: Windows) -> Pooled:
    """The maxima and their switches. Ties go to the first; NaN is larger than every number."""
    # On a CPU the variadic reduce_window calls its comparison cell by cell: 130-150 ms against 30-45 ms for the
    # slices (110×110×96, batch 16, 2 cores). Others compile it whole: an H100 takes 0.5 ms for it and 0.6 ms for the
    # slices in float32, with 64 images, but in bfloat16 1.2 ms and 0.7 ms, with 256.
    slices = functools.partial(by_slices, windows=windows)
    whole = functools.partial(by_reduce_window, windows=windows)
    return by_platform(x, cpu=slices, cuda=slices if x.dtype.itemsize < 4 else whole, default=whole)


@pool.defjvp
def _pool_jvp(windows: Windows, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Pooled, tuple[Array, Any]]:
    pooled, switches = pool(*primals, windows)
    tangent = select(*tangents, switches, windows)
    return (pooled, switches), (tangent, np.zeros(switches.shape, jax.dtypes.float0))


def by_slices(x: Float[Array | np.ndarray, "*shape"], windows: Windows) -> Pooled:
    """`pool` by the running maximum over one strided slice for each cell of the window."""
    slices = _slices(x, -np.inf, windows)
    pooled = jnp.full_like(slices[0], -jnp.inf)
    first = _switches(x.shape, windows, [0] * x.ndim)
    switches = jnp.broadcast_to(jnp.asarray(first), pooled.shape)
    for offset, cell in enumerate(slices):
        wins = (cell > pooled) | (jnp.isnan(cell) & ~jnp.isnan(pooled))
        pooled = jnp.where(wins, cell, pooled)
        switches = jnp.where(wins, first.dtype.type(offset), switches)
    return pooled, switches


def by_reduce_window(x: Float[Array | np.ndarray, "*shape"], windows: Windows) -> Pooled:
    """`pool` by one reduce_window over pairs (value, cell of the input)."""
    axes = [axis for axis, size in enumerate(windows.size) if size > 1]
    sides = [x.shape[axis] for axis in axes]
    steps = [math.prod(sides[i + 1 :]) for i in range(len(axes))]
    shape = [x.shape[axis] if axis in axes else 1 for axis in range(x.ndim)]
    cells = jnp.zeros(shape, jnp.int32)
    for axis, step in zip(axes, steps, strict=True):
        cells += lax.broadcasted_iota(jnp.int32, shape, axis) * step
    nowhere = np.iinfo(np.int32).max

    def larger(a: tuple[Array, Array], b: tuple[Array, Array]) -> tuple[Array, Array]:
        (value_a, cell_a), (value_b, cell_b) = a, b
        nan_a, nan_b = value_a != value_a, value_b != value_b
        # Padding sits at `nowhere`, the last of all cells, so it loses even a tie at −inf.
        ties = (nan_a & nan_b) | (value_a == value_b)
        takes_a = (nan_a & ~nan_b) | (value_a > value_b) | (ties & (cell_a < cell_b))
        return lax.select(takes_a, value_a, value_b), lax.select(takes_a, cell_a, cell_b)

    pooled, cells = lax.reduce_window(
        (x, jnp.broadcast_to(cells, x.shape)),
        (np.array(-np.inf, x.dtype), np.array(nowhere, np.int32)),
        larger,
        windows.size,
        windows.strides,
        windows.padding,
        windows.base_dilation,
        windows.dilation,
    )
    offsets = jnp.zeros_like(cells)
    for axis, step, side in zip(axes, steps, sides, strict=True):
        shape = [pooled.shape[axis] if other == axis else 1 for other in range(x.ndim)]
        start = lax.broadcasted_iota(jnp.int32, shape, axis) * windows.strides[axis] - windows.padding[axis][0]
        offset = (cells // step % side * windows.base_dilation[axis] - start) // windows.dilation[axis]
        offsets += offset * math.prod(windows.size[axis + 1 :])
    offsets = jnp.where(cells == nowhere, windows.cells, offsets)
    return pooled, offsets.astype(switch_type(x.shape, windows))


def switch_type(shape: tuple[int, ...], windows: Windows) -> np.dtype:
    """The type of the switches of an array of `shape`: uint8 if they all fit."""
    return _switches(shape, windows, [0] * len(shape)).dtype


def select(x: Float[Array, "*shape"], switches: Integer[Array, "*pooled"], windows: Windows) -> Float[Array, "*pooled"]:
    """The cell of each window that its switch points to: linear in x, and its transpose is the unpooling."""
    slices = _slices(x, 0, windows)
    chosen = jnp.zeros_like(slices[0])
    # A sum, not nested selects: those transpose to a chain that XLA:CPU evaluates again for every cell.
    for offset, cell in enumerate(slices):
        chosen += jnp.where(switches == switches.dtype.type(offset), cell, jnp.zeros_like(cell))
    return chosen


def unpool(
    pooled: Float[Array, "*pooled"], switches: Integer[Array, "*pooled"], windows: Windows, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """Each value back to where its maximum was in an input of `shape`; where windows overlap, values sum."""
    forms = {"cuda": functools.partial(by_phases, windows=windows, shape=shape)} if has_phases(windows) else {}
    placed = functools.partial(by_placing, windows=windows, shape=shape)
    return by_platform(pooled, switches, default=placed, **forms) if forms else placed(pooled, switches)


def by_placing(
    pooled: Float[Array, "*pooled"], switches: Integer[Array, "*pooled"], windows: Windows, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """`unpool` by a sum of maps as large as the input, one for each cell of the window."""
    zero = jnp.zeros_like(pooled)
    cells = [
        _placed(jnp.where(switches == switches.dtype.type(offset), pooled, zero), offset, windows, shape)
        for offset in range(windows.cells)
    ]
    return _undilated(sum(cells[1:], cells[0]), windows, shape)


def has_phases(windows: Windows) -> bool:
    """Whether `by_phases` serves these windows."""
    dilated = any(one > 1 for one in (*windows.dilation, *windows.base_dilation))
    return not dilated and all(before >= 0 for before, _ in windows.padding)


def by_phases(
    pooled: Float[Array, "*pooled"], switches: Integer[Array, "*pooled"], windows: Windows, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """`unpool` from the windows over each cell: four for 3×3 and a stride of 2, where `by_placing` adds nine maps.

    The cells of a stride's step are an axis of their own until the end, so that their windows are the same shift away.
    """
    steps = list(zip(shape, windows.size, windows.strides, windows.padding, pooled.shape, strict=True))
    blocks = [-(-(side + before) // stride) for side, _, stride, (before, _), _ in steps]
    inner = range(1, 2 * len(steps), 2)  # the axes of cells in a step
    total = jnp.zeros((), pooled.dtype)
    for back in np.ndindex(*(-(-size // stride) for _, size, stride, _, _ in steps)):
        shift = [(d, block - count - d, 0) for d, block, (*_, count) in zip(back, blocks, steps, strict=True)]
        signal, at = (lax.expand_dims(lax.pad(x, np.zeros((), x.dtype), shift), inner) for x in (pooled, switches))
        offset, inside = jnp.int32(0), jnp.bool(True)
        for axis, (d, (_, size, stride, _, _)) in enumerate(zip(back, steps, strict=True)):
            ones = [stride if other == inner[axis] else 1 for other in range(2 * len(steps))]
            cell = lax.broadcasted_iota(jnp.int32, ones, inner[axis]) + d * stride
            offset = offset + cell * math.prod(windows.size[axis + 1 :])
            inside = inside & (cell < size)
        here = (at == jnp.where(inside, offset, 0).astype(at.dtype)) & inside
        total = total + jnp.where(here, signal, jnp.zeros((), signal.dtype))
    for axis in range(len(steps)):  # one at a time, as sharded arrays must be
        before, (block, step, *after) = total.shape[:axis], total.shape[axis:]
        total = total.reshape(*before, block * step, *after)
    starts = [before for _, _, _, (before, _), _ in steps]
    return lax.slice(total, starts, [start + side for start, side in zip(starts, shape, strict=True)])


def unpool_overwriting(
    pooled: Float[Array, "*pooled"], switches: Integer[Array, "*pooled"], windows: Windows, shape: tuple[int, ...]
) -> Float[Array, "*shape"]:
    """`unpool`, but if a cell gets several values, that of the last window in row-major order stays."""
    # Zeros that are sharded as pooled is.
    unpooled = _placed(jnp.zeros_like(pooled), 0, windows, shape)
    # Of the windows over a cell, a later one has the cell at a smaller offset.
    for offset in reversed(range(windows.cells)):
        here = _placed(switches == switches.dtype.type(offset), offset, windows, shape)
        unpooled = jnp.where(here, _placed(pooled, offset, windows, shape), unpooled)
    return _undilated(unpooled, windows, shape)


def centers(shape: tuple[int, ...], windows: Windows) -> Integer[np.ndarray, "*pooled"]:
    """Switches that point to each window's center, or to the cell of the input that is nearest to it."""
    middles = [(size - 1) // 2 for size in windows.size]
    return np.broadcast_to(_switches(shape, windows, middles), windows.counts(shape))


def _slices(x: Array | np.ndarray, fill: float, windows: Windows) -> list[Array]:
    """For each cell of the window, row-major: that cell of every window."""
    spread = [(*pad, dilation - 1) for pad, dilation in zip(windows.padding, windows.base_dilation, strict=True)]
    counts = windows.counts(x.shape)
    x = lax.pad(x, np.array(fill, x.dtype), spread)
    slices = []
    for offset in np.ndindex(*windows.size):
        start = [at * dilation for at, dilation in zip(offset, windows.dilation, strict=True)]
        steps = zip(start, counts, windows.strides, strict=True)
        stop = [at + (count - 1) * stride + 1 if count else at for at, count, stride in steps]
        slices.append(lax.slice(x, start, stop, windows.strides))
    return slices


def _placed(pooled: Array, offset: int, windows: Windows, shape: tuple[int, ...]) -> Array:
    """Maps as large as the dilated input, in which each pooled value lies on its window's cell `offset`."""
    place = []
    for axis, at in enumerate(np.unravel_index(offset, windows.size)):
        before = int(at) * windows.dilation[axis] - windows.padding[axis][0]
        spread = max(0, (pooled.shape[axis] - 1) * windows.strides[axis] + 1)
        place.append((before, windows.dilated(shape)[axis] - before - spread, windows.strides[axis] - 1))
    return lax.pad(pooled, np.zeros((), pooled.dtype), place)


def _undilated(x: Array, windows: Windows, shape: tuple[int, ...]) -> Array:
    if x.shape == shape:
        return x
    return lax.slice(x, [0] * x.ndim, x.shape, windows.base_dilation)


def _switches(shape: tuple[int, ...], windows: Windows, wanted: Sequence[int]) -> Integer[np.ndarray, "..."]:
    """For each window the cell on the input that is nearest to the `wanted` one; broadcasts to the pooled values."""
    switches, anywhere = np.zeros((1,) * len(shape), np.int64), np.True_
    for axis, (size, at, side, start) in enumerate(
        zip(windows.size, wanted, windows.dilated(shape), windows.starts(shape), strict=True)
    ):
        cells = start[:, None] + windows.dilation[axis] * np.arange(size)
        inside = (cells >= 0) & (cells < side) & (cells % windows.base_dilation[axis] == 0)
        nearest = np.where(inside, np.abs(np.arange(size) - at), size).argmin(axis=1, keepdims=True)
        found = inside.any(axis=1, keepdims=True)
        if size == 1 and found.all():
            continue  # as along images and maps, where all are alike
        ones = [1] * len(shape)
        ones[axis] = -1
        switches = switches + nearest.reshape(ones) * math.prod(windows.size[axis + 1 :])
        anywhere = anywhere & found.reshape(ones)
    switches = np.where(anywhere, switches, windows.cells)
    largest = windows.cells - 1 if np.all(anywhere) else windows.cells
    return switches.astype(np.uint8 if largest <= np.iinfo(np.uint8).max else np.int32)
