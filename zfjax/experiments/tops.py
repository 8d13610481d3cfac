"""The k strongest activations of each map among the images seen so far, and how a batch is merged in."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from zfjax import ops
from zfjax.console.text import shown_by_shape
from zfjax.models.specs import Sliding
from zfjax.ops.platforms import by_platform


@shown_by_shape
class Top(NamedTuple):
    """The k strongest activations of each map over a set of images, at most one per image, strongest first.

    With fewer than k images, the remaining entries have value -inf and image -1.
    """

    values: Float[Array | np.ndarray, "maps k"]
    images: Int[Array | np.ndarray, "maps k"]  # numbers in the order of the batches
    positions: Int[Array | np.ndarray, "maps k axes"]  # (row, column) on the map; zero axes for dense layers


def merged(top: Top, acts: Float[Array, "n *grid maps"], numbers: Int[Array, " n"], pool: Sliding | None = None) -> Top:
    """Add a batch to what has been found; equals go to what was found before, then to the earlier image and cell.

    Args:
        top: of earlier images.
        acts: of the batch.
        numbers: of its images; one below 0 does not count.
        pool: a max-pool that the net computes of these maps anyway, whose windows leave out no cell.
    """
    # A TPU takes the maxima while it convolves, so that they are free. A gather there would write all maps in another
    # layout, so it looks up the cells of new entries one by one: over many batches these are few. A GPU looks them all
    # up, which is less than to read the maps once more; it takes their maxima from the pooled map, which is smaller.
    # On a CPU a branch reads the activations that the next layer reads; otherwise XLA:CPU would keep the convolution's
    # sums for it as well, using twice the memory.
    return by_platform(
        top,
        acts,
        numbers,
        cpu=functools.partial(_merged, find=_found_if_any, pool=None),
        tpu=functools.partial(_merged, find=_found_one_by_one, pool=None),
        default=functools.partial(_merged, find=_found, pool=pool),
    )


def joined(before: Top | None, top: Top, devices: int) -> Top:
    """What devices have found of different images, stacked along the maps, and an earlier pass, as one would have."""
    maps, k = top.values.shape[0] // devices, top.values.shape[1]
    # [devices·maps, k, …] to [maps, devices·k, …]
    parts = [
        jnp.moveaxis(x.reshape(devices, maps, *x.shape[1:]), 0, 1).reshape(maps, devices * k, *x.shape[2:]) for x in top
    ]
    if before is not None:
        parts = [jnp.concatenate([jnp.asarray(old), new], axis=1) for old, new in zip(before, parts, strict=True)]
    # Of equals, top_k takes the first, which is to be the earlier image.
    values, images, positions = parts
    by_number = jnp.argsort(images, axis=1, stable=True)
    values, order = lax.top_k(jnp.take_along_axis(values, by_number, axis=1), k)
    order = jnp.take_along_axis(by_number, order, axis=1)
    return Top(
        values,
        jnp.take_along_axis(images, order, axis=1),
        jnp.take_along_axis(positions, order[..., None], axis=1),
    )


Find = Callable[..., Int[Array, "maps k"]]


def _merged(top: Top, acts: Array, numbers: Array, find: Find, pool: Sliding | None) -> Top:
    n, *grid, maps = acts.shape
    k = top.values.shape[1]
    # A plain maximum is nearly free compared with the convolutions, and the barrier keeps it plain; on a CPU an argmax
    # over all cells, or a NaN test fused into it, took a tenth to a half of the whole pass.
    rows = acts.reshape(n, -1, grid[-1] if grid else 1, maps)
    pooled = rows if pool is None else ops.max_pool(rows, *pool)
    strongest = lax.optimization_barrier(jnp.max(pooled, axis=2))  # [n, rows of windows, maps]
    values = jnp.max(strongest, axis=1)
    counts = (numbers >= 0)[:, None] & ~jnp.isnan(values)
    values = jnp.where(counts, values, -jnp.inf).T
    numbers = jnp.broadcast_to(numbers[None], values.shape)
    values, order = lax.top_k(jnp.concatenate([top.values, values], axis=1), k)
    cell = find(rows, strongest, jnp.maximum(order - k, 0), order >= k, pool)
    cells = jnp.unravel_index(cell, grid) if grid else ()
    places = jnp.stack(cells, axis=-1).astype(jnp.int32) if grid else jnp.zeros((maps, k, 0), jnp.int32)
    kept = jnp.take_along_axis(top.positions, jnp.minimum(order, k - 1)[..., None], axis=1)
    return Top(
        values,
        jnp.take_along_axis(jnp.concatenate([top.images, numbers], axis=1), order, axis=1),
        jnp.where((order < k)[..., None], kept, places),
    )


def _found(rows: Array, strongest: Array, image: Array, new: Bool[Array, "maps k"], pool: Sliding | None) -> Array:
    """The first largest cell of maps [n, height, width, maps], in row-major order, given each row's largest value.

    Args:
        rows: the maps.
        strongest: [n, rows, maps], or with a pool the largest of each row of windows.
        image: [maps, k], which image of the batch each entry is of.
        new: which entries are of the batch; for others, any cell does.
        pool: whose windows these are.
    """
    _, height, width, maps = rows.shape
    unit = jnp.arange(maps)[:, None]
    row = _first(strongest[image, :, unit])
    if pool is None:
        return row * width + _first(rows[image, row, :, unit])
    # The first row of windows with the largest value holds the first such cell, whatever rows are read beside its own.
    size = min(pool.window[0], height)
    start = jnp.clip(row * pool.strides[0] - pool.padding[0][0], 0, height - size)
    inside = start[..., None] + jnp.arange(size)[None, None]
    cells = rows[image[..., None], inside, :, unit[..., None]]  # [maps, k, size, width]
    return start * width + _first(cells.reshape(*image.shape, size * width))


def _found_if_any(rows: Array, strongest: Array, image: Array, new: Array, pool: Sliding | None) -> Array:
    return lax.cond(jnp.any(new), lambda: _found(rows, strongest, image, new, pool), lambda: jnp.zeros_like(image))


def _found_one_by_one(rows: Array, strongest: Array, image: Array, new: Array, pool: Sliding | None) -> Array:
    _, height, width, _ = rows.shape
    first_new = jnp.argsort(~new.reshape(-1), stable=True)

    def look_up(at: Array, cells: Array) -> Array:
        entry = first_new[at]
        unit, of = entry // image.shape[1], image.reshape(-1)[entry]
        # Neither fused nor reshaped, or XLA would write the maps in another layout for it.
        column = lax.optimization_barrier(lax.dynamic_slice(strongest, (of, 0, unit), (1, height, 1)))
        row = _first(column, axis=1)[0, 0]
        line = lax.optimization_barrier(lax.dynamic_slice(rows, (of, row, 0, unit), (1, 1, width, 1)))
        return cells.at[entry].set(row * width + _first(line, axis=2)[0, 0, 0])

    found = lax.fori_loop(0, jnp.sum(new, dtype=jnp.int32), look_up, jnp.zeros(new.size, jnp.int32))
    return found.reshape(new.shape)


def _first(x: Float[Array, "..."], axis: int = -1) -> Int[Array, "..."]:
    """Along an axis, the index of the first largest cell. Faster than `jnp.argmax` on a CPU."""
    cells = lax.broadcasted_iota(jnp.int32, x.shape, axis % x.ndim)
    largest = jnp.max(x, axis=axis, keepdims=True)
    return jnp.min(jnp.where(x == largest, cells, jnp.int32(x.shape[axis] - 1)), axis=axis)
