"""Recompute a net only where rectangles of its image changed (incremental view maintenance).

The layer specs determine which cells of each layer a rectangle reaches. Their values are in one list for all rectangles
of a chunk, row by row. A convolution or pool gathers what its windows read: from that list where the rectangle changed
it, from the clean layer elsewhere. If a convolution changes more cells than changed below it, it instead adds the
effect of each changed cell to its clean output, tap by tap: fewer products, and no windows to gather. No cell is
computed unnecessarily, positions at the border cost less, and the plan is data, so all chunks run one program.
Nakandala et al. (SIGMOD 2019) use fixed windows instead.

TPUs compute whole images: what gathers of single cells would move there is more than whole images do.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from zfjax import ops
from zfjax.console.text import shown_by_shape
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import LRN, Conv, Dense, Dropout, Layer, MaxPool, ReLU, Size
from zfjax.ops.platforms import by_platform
from zfjax.ops.precision import widened
from zfjax.ops.windows import Pair

# Above this share of changed cells the whole map is computed: a plain convolution beats gathered windows there.
WHOLE = 0.9


class Rectangles(NamedTuple):
    """One rectangle of a map for each of n positions; empty if nothing is reached."""

    top: Int[Any, " n"]  # NumPy's where they are planned, JAX's where they are used
    left: Int[Any, " n"]
    height: Int[Any, " n"]
    width: Int[Any, " n"]

    @property
    def cells(self) -> Int[Any, " n"]:
        """The number of cells in each."""
        return self.height * self.width

    def mask(self, size: Pair) -> Bool[Array, "n height width"]:
        """Which cells of a map, (height, width), lie in each."""
        down, across = (
            jnp.arange(length, dtype=jnp.int32)[None] - first[:, None]
            for length, first in zip(size, (self.top, self.left), strict=True)
        )
        rows, columns = (down >= 0) & (down < self.height[:, None]), (across >= 0) & (across < self.width[:, None])
        return rows[:, :, None] & columns[:, None, :]


@dataclasses.dataclass(frozen=True)
class Plan:
    """How to compute a chunk; static, and the same for all chunks."""

    net: ConvNet
    names: tuple[str, ...]  # of the requested layers
    sizes: tuple[Size, ...]  # of the image and of each listed layer's output
    room: tuple[int, ...]  # the most changed cells in any chunk, of the image and of each listed layer

    @property
    def listed(self) -> tuple[Layer, ...]:
        """The layers whose changed cells are listed; those above are computed whole."""
        return self.net.layers[: len(self.room) - 1]


def is_listable(net: ConvNet) -> bool:
    """Whether changed cells can be listed for all kinds of layers in a net."""
    kinds = Conv | ReLU | MaxPool | LRN | Dropout | Dense
    return all(
        isinstance(layer, kinds) and not (isinstance(layer, Conv) and (layer.groups > 1 or not layer.bias))
        for layer in net.layers
    )


def plan(
    net: ConvNet, names: tuple[str, ...], size: Size, chunks: Sequence[Rectangles]
) -> tuple[Plan, list[tuple[Rectangles, ...]]]:
    """Work out which cells of each layer change when rectangles of the image do, chunk by chunk.

    Args:
        net: the net, up to the highest of `names`.
        names: the requested layers.
        size: the image's size.
        chunks: rectangles in pixels, inside the image; the same number in each chunk.

    Returns:
        The plan, and for each chunk the rectangles of the image and of each layer up to where maps are computed whole:
        from the first dense layer up, or from where most of a map changes.
    """
    sizes, changed = [size], [list(chunks)]
    for layer in net.layers:
        if layer.mixes_all:
            break
        out, above = layer.output(sizes[-1]), changed[-1]
        if isinstance(layer, Conv | MaxPool):
            above = [_through(layer, sizes[-1], out, rectangles) for rectangles in above]
        share = np.mean([rectangles.cells for rectangles in above]) / (out.height * out.width)
        if share > WHOLE:
            break
        sizes.append(out)
        changed.append(above)
    room = tuple(max(1, *(int(rectangles.cells.sum()) for rectangles in layer)) for layer in changed)
    return Plan(net, names, tuple(sizes), room), list(zip(*changed, strict=True))


def reached(plan: Plan, rectangles: Rectangles) -> tuple[Rectangles, ...]:
    """What rectangles of the image change in it and in each layer that a plan lists.

    They need not be those that were planned for: any that change no more cells go through the same program.
    """
    changed = [rectangles]
    for layer, below, above in zip(plan.listed, plan.sizes, plan.sizes[1:], strict=False):
        last = changed[-1]
        changed.append(_through(layer, below, above, last) if isinstance(layer, Conv | MaxPool) else last)
    return tuple(changed)


@shown_by_shape
class Reads(NamedTuple):
    """Where a chunk reads its values.

    Indices in `windows` and `maps` number the clean map's cells, then one for everything outside it, then the changed
    cells. If a convolution adds up changes, its windows number only the changed cells, then one for none. TPUs need
    the rectangles alone.
    """

    rectangles: Rectangles  # of the image
    cells: tuple[Int[Array, " _"], ...]  # the changed cells' positions on the map, for the image and each listed layer
    windows: tuple[Int[Array, "_ _"], ...]  # for each listed layer, in the layer below; empty for pointwise layers
    maps: tuple[Int[Array, "n _"], ...]  # for the image and each listed layer, whole; empty if not needed


@functools.partial(jax.jit, static_argnames="plan")
def reads(plan: Plan, changed: Sequence[Rectangles]) -> Reads:
    """The indices for a chunk's rectangles, which `plan` returned.

    This is a separate program: otherwise XLA would recompute an index for each number that is read with it.
    """
    listed = functools.partial(_indices, plan)
    shapes = jax.eval_shape(listed, changed)

    def unread(_: Any) -> Any:
        return jax.tree.map(lambda index: jnp.zeros(index.shape, index.dtype), shapes)

    indices = by_platform(changed, default=listed, tpu=unread)
    return Reads(jax.tree.map(jnp.asarray, changed[0]), *indices)


def _indices(plan: Plan, changed: Sequence[Rectangles]) -> tuple[tuple[Array, ...], ...]:
    nothing = jnp.zeros((0, 0), jnp.int32)
    windows = []
    for layer, size, below, above, *rooms in zip(
        plan.listed, plan.sizes, changed, changed[1:], plan.room, plan.room[1:], strict=False
    ):
        index = nothing
        if isinstance(layer, Conv | MaxPool):
            index = _window_reads(layer, size, below, above, rooms[1])
        if _adds_changes(layer, *rooms):
            first = size.height * size.width + 1
            index = jnp.where(index < first, rooms[0], index - first)
        windows.append(index)
    needed = [False, *(layer.name in plan.names for layer in plan.listed)]
    needed[-1] |= len(plan.listed) < len(plan.net.layers)
    maps = [
        _map_reads(size, rectangles) if is_needed else nothing
        for size, rectangles, is_needed in zip(plan.sizes, changed, needed, strict=True)
    ]
    cells = [
        _places(size, rectangles, room) for size, rectangles, room in zip(plan.sizes, changed, plan.room, strict=True)
    ]
    return tuple(cells), tuple(windows), tuple(maps)


@functools.partial(jax.jit, static_argnames="plan")
def recompute(
    plan: Plan,
    params: PyTree[Float[Array, "..."]],
    clean: Sequence[Float[Array, "_ _ _"]],
    cover: Float[Array, "height width channels"],
    reads: Reads,
) -> dict[str, Float[Array, "n ..."]]:
    """The requested layers' activations with the image covered, for each rectangle of a chunk.

    Args:
        plan: from `plan`.
        params: the net's weights.
        clean: the image and each listed layer's output for it.
        cover: what the rectangles show, as large as the image.
        reads: the chunk's indices.

    Returns:
        By name [n, height, width, maps], or [n, units] for dense layers.
    """
    listed, whole = functools.partial(_listed, plan), functools.partial(_whole, plan)
    return by_platform(params, clean, cover, reads, default=listed, tpu=whole)


def _whole(plan: Plan, params: PyTree, clean: Sequence[Array], cover: Array, reads: Reads) -> dict[str, Array]:
    hidden = reads.rectangles.mask((cover.shape[0], cover.shape[1]))[..., None]
    _, acts = plan.net.apply({"params": params}, jnp.where(hidden, cover[None], clean[0][None]))
    return {name: acts[name] for name in plan.names}


def _listed(plan: Plan, params: PyTree, clean: Sequence[Array], cover: Array, reads: Reads) -> dict[str, Array]:
    found = {}
    values = _flat(cover)[reads.cells[0]]
    for number, (layer, below, map_, windows) in enumerate(
        zip(plan.listed, clean, clean[1:], reads.windows, strict=False)
    ):
        match layer:
            case Conv() if _adds_changes(layer, *plan.room[number : number + 2]):
                change = values - _flat(below)[reads.cells[number]]
                added = _added(change, params[layer.name], windows)
                values = (widened(_flat(map_)[reads.cells[number + 1]]) + added).astype(values.dtype)
            case Conv():
                values = _convolved(_table(below, 0.0, values), params[layer.name], windows)
            case MaxPool():
                values = _read(_table(below, -jnp.inf, values), windows).max(axis=1)
            case ReLU():
                values = ops.rectify(values)
            case LRN():
                cells_apart = values[:, None, None]
                values = ops.local_response_norm(cells_apart, layer.size, layer.k, layer.alpha, layer.beta)[:, 0, 0]
        if layer.name in plan.names:
            index = reads.maps[number + 1]
            found[layer.name] = _read(_table(map_, 0.0, values), index).reshape(-1, *map_.shape)
    rest = plan.net.layers[len(plan.listed) :]
    if rest:
        last = clean[-1]
        whole = _read(_table(last, 0.0, values), reads.maps[-1]).reshape(-1, *last.shape)
        _, acts = plan.net.clone(layers=rest).apply({"params": params}, whole)
        found |= {name: acts[name] for name in plan.names if name in acts}
    return found


def _table(clean: Array, outside: float, values: Array) -> Float[Array, "rows maps"]:
    edge = jnp.full((1, clean.shape[-1]), outside, values.dtype)
    return jnp.concatenate([_flat(clean), edge, values])


def _read(table: Array, index: Array) -> Float[Array, "*places maps"]:
    return table.at[index].get(mode="promise_in_bounds")


def _flat(map_: Array) -> Float[Array, "cells maps"]:
    return map_.reshape(-1, map_.shape[-1])


def _adds_changes(layer: Layer, below: int, above: int) -> bool:
    """Whether a convolution adds up changes, so that its cost scales with the changed cells below it, not above."""
    return isinstance(layer, Conv) and below < above


def _convolved(table: Array, params: PyTree, windows: Array) -> Float[Array, "room maps"]:
    """A convolution's output, from the values in its windows."""
    seen = _read(table, windows).reshape(len(windows), -1)
    output = seen @ params["kernel"].astype(seen.dtype).reshape(seen.shape[1], -1)
    return output + params["bias"].astype(seen.dtype).reshape(1, -1)


def _added(change: Array, params: PyTree, windows: Array) -> Float[Array, "room maps"]:
    """The change of a convolution's output that a change of the cells below causes, in float32 at least."""
    change = jnp.pad(change, ((0, 1), (0, 0)))
    taps = params["kernel"].astype(change.dtype).reshape(windows.shape[1], change.shape[1], -1)
    wide = widened(change[:0]).dtype
    products = (jnp.matmul(change, tap, preferred_element_type=wide) for tap in taps)
    return functools.reduce(jnp.add, (_read(one, index) for one, index in zip(products, windows.T, strict=True)))


def _cells(rectangles: Rectangles, room: int) -> tuple[Array, Array, Array]:
    """The rectangle's number, and the row and column on the map, of each entry of a list.

    Unused slots at the end repeat the last rectangle's cells.
    """
    ends = jnp.cumsum(rectangles.cells)
    entry = jnp.minimum(jnp.arange(room, dtype=jnp.int32), jnp.maximum(ends[-1] - 1, 0))
    find = functools.partial(jnp.searchsorted, side="right")
    # A GPU would wait for the host at each step of a loop.
    which = by_platform(ends, entry, cpu=find, default=functools.partial(find, method="scan_unrolled"))
    which = jnp.minimum(which, len(ends) - 1).astype(jnp.int32)
    place = entry - (ends - rectangles.cells)[which]
    width = jnp.maximum(rectangles.width[which], 1)
    return which, rectangles.top[which] + place // width, rectangles.left[which] + place % width


def _places(size: Size, changed: Rectangles, room: int) -> Int[Array, " room"]:
    """The changed cells' positions on the clean map."""
    _, row, column = _cells(changed, room)
    # If nothing changed, the list's only entry, which is never read, may be outside.
    return jnp.clip(row * size.width + column, 0, size.height * size.width - 1)


def _window_reads(
    layer: Conv | MaxPool, size: Size, below: Rectangles, above: Rectangles, room: int
) -> Int[Array, "room cells"]:
    """The indices that the windows of a layer's changed cells read."""
    which, row, column = _cells(above, room)
    window, _, padding = layer.sliding(size)
    rows = (row * layer.strides[0] - padding[0][0])[:, None] + jnp.arange(window[0], dtype=jnp.int32)[None]
    columns = (column * layer.strides[1] - padding[1][0])[:, None] + jnp.arange(window[1], dtype=jnp.int32)[None]
    return _index(size, below, which[:, None, None], rows[:, :, None], columns[:, None, :]).reshape(room, -1)


def _map_reads(size: Size, changed: Rectangles) -> Int[Array, "n cells"]:
    """The indices of all cells of a map, for each rectangle."""
    which = jnp.arange(len(changed.top), dtype=jnp.int32)[:, None, None]
    rows = jnp.arange(size.height, dtype=jnp.int32)[None, :, None]
    columns = jnp.arange(size.width, dtype=jnp.int32)[None, None]
    return _index(size, changed, which, rows, columns).reshape(len(changed.top), -1)


def _index(size: Size, changed: Rectangles, which: Array, row: Array, column: Array) -> Int[Array, "..."]:
    height, width, _ = size
    start = jnp.cumsum(changed.cells) - changed.cells
    down, right = row - changed.top[which], column - changed.left[which]
    in_rectangle = (down >= 0) & (down < changed.height[which]) & (right >= 0) & (right < changed.width[which])
    in_map = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    listed = height * width + 1 + start[which] + down * changed.width[which] + right
    return jnp.where(in_rectangle, listed, jnp.where(in_map, row * width + column, height * width))


def _through(layer: Conv | MaxPool, below: Size, above: Size, changed: Rectangles) -> Rectangles:
    """The cells of `layer` whose windows contain changed cells of the layer below."""
    window, _, padding = layer.sliding(below)
    top, height = _along(changed.top, changed.height, window[0], layer.strides[0], padding[0][0], above.height)
    left, width = _along(changed.left, changed.width, window[1], layer.strides[1], padding[1][0], above.width)
    return Rectangles(top, left, height, width)


def _along(
    start: np.ndarray, length: np.ndarray, window: int, stride: int, before: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The windows along one axis that overlap [start, start + length): the first, and how many."""
    first = np.maximum(-(-(start + before - window + 1) // stride), 0)
    last = np.minimum((start + length - 1 + before) // stride, count - 1)
    return first, np.where(length > 0, np.maximum(last - first + 1, 0), 0)
