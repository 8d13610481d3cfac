"""Shapes: moving numbers without computing with them. What they do to shapes is known while tracing."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.console.errors import UserError
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import (
    MOST_NOW,
    Layout,
    Value,
    axis_of,
    dtype_here,
    known_now,
    library,
    operator,
    sized,
    sized_by,
    whole,
)
from zfjax.weights.onnx.tensors import dtype_of


@operator("Identity", layout=Layout.ANY)
def identity(node: Node, x: Value) -> Value:
    """The same."""
    return x


@operator("Constant")
def constant(node: Node) -> np.ndarray:
    """Numbers written in the graph."""
    dtypes = {"value": None, "value_float": "f4", "value_floats": "f4", "value_int": "i8", "value_ints": "i8"}
    for name in dtypes.keys() & node.attributes.keys():
        return np.asarray(node.get(name), dtypes[name])
    raise UserError("it holds no numbers")


@operator("Cast", "CastLike", layout=Layout.ANY)
def cast(node: Node, x: Value, like: Value | None = None) -> Value:
    """Numbers as another type."""
    dtype = like.dtype if like is not None else dtype_of(int(node.get("to")), "its output")
    return x.astype(dtype) if isinstance(x, np.ndarray) else x.astype(dtype_here(dtype))


@operator("Reshape")
def reshape(node: Node, x: Value, shape: Value | None = None) -> Value:
    """The same numbers in another shape, in which 0 means as before and -1 what is left."""
    sides = whole(shape, node, "shape") or []
    if not node.get("allowzero", 0):
        sides = [x.shape[axis] if side == 0 else side for axis, side in enumerate(sides)]
    return x.reshape(sides)


@operator("Flatten")
def flatten(node: Node, x: Value) -> Value:
    """As a matrix."""
    axis = int(node.get("axis", 1))
    axis = axis + x.ndim if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("Squeeze")
def squeeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    """Without axes of size 1."""
    given = whole(axes, node, "axes")
    return library(x).squeeze(x, axis=None if given is None else tuple(given))


@operator("Unsqueeze")
def unsqueeze(node: Node, x: Value, axes: Value | None = None) -> Value:
    """With more axes of size 1."""
    return library(x).expand_dims(x, tuple(whole(axes, node, "axes") or ()))


@operator("Transpose")
def transpose(node: Node, x: Value) -> Value:
    """Axes in another order."""
    return library(x).transpose(x, node.get("perm"))


@operator("Concat")
def concat(node: Node, *values: Value) -> Value:
    """Arrays one after the other along an axis."""
    axis = axis_of(node, values[0].ndim, 1)
    sized_by(values, (sum(value.size for value in values),))
    return library(*values).concatenate(values, axis=axis)


@operator("Split")
def split(node: Node, x: Value, sizes: Value | None = None) -> tuple[Value, ...]:
    """Parts along an axis, of given sizes or of equal ones, where the last may be smaller."""
    axis = axis_of(node, x.ndim, 0)
    given, side = whole(sizes, node, "split"), x.shape[axis]
    if given is None:
        count = int(node.get("num_outputs") or len(node.outputs))
        each = -(-side // count)
        given = [max(0, min(each, side - i * each)) for i in range(count)]
    if sum(given) != side:
        raise UserError(f"it splits {side} into {given}")
    ends = np.cumsum(given)
    return tuple(
        x[(slice(None),) * axis + (slice(int(end) - size, int(end)),)] for end, size in zip(ends, given, strict=True)
    )


@operator("Slice")
def slices(
    node: Node,
    x: Value,
    starts: Value | None = None,
    ends: Value | None = None,
    axes: Value | None = None,
    steps: Value | None = None,
) -> Value:
    """Every so many numbers from a start to an end along some axes."""
    first, last = whole(starts, node, "starts") or [], whole(ends, node, "ends") or []
    over = whole(axes, node, "axes") or list(range(len(first)))
    by = whole(steps, node, "steps") or [1] * len(first)
    parts = [slice(None)] * x.ndim
    for start, end, axis, step in zip(first, last, over, by, strict=True):
        start, end, step = slice(start, end, step).indices(x.shape[axis])
        parts[axis] = slice(start, None if end < 0 else end, step)
    return x[tuple(parts)]


@operator("Gather")
def gather(node: Node, x: Value, indices: Value) -> Value:
    """The entries at some places of an axis."""
    axis = axis_of(node, x.ndim, 0)
    if isinstance(indices, np.ndarray):
        if indices.size and not (-x.shape[axis] <= indices.min() and indices.max() < x.shape[axis]):
            raise UserError(f"it gathers entry {int(indices.max())} of {x.shape[axis]}")
        if indices.ndim == 0:
            at = int(indices) % x.shape[axis]
            return x[(slice(None),) * axis + (at,)]
    sized_by((x, indices), (indices.size, x.size // max(1, x.shape[axis])))
    return library(x, indices).take(x, indices, axis=axis)


@operator("GatherElements")
def gather_elements(node: Node, x: Value, indices: Value) -> Value:
    """For each place the entry that is named there, along an axis."""
    x, indices, axis = jnp.asarray(x), jnp.asarray(indices), axis_of(node, x.ndim, 0)
    at = list(jnp.indices(indices.shape, sparse=True))
    at[axis] = indices
    return x[tuple(at)]


@operator("GatherND")
def gather_nd(node: Node, x: Value, indices: Value) -> Value:
    """The parts at whole positions."""
    x, indices, batch = jnp.asarray(x), jnp.asarray(indices), int(node.get("batch_dims", 0))

    def take(x: jax.Array, indices: jax.Array) -> jax.Array:
        return x[tuple(jnp.moveaxis(indices, -1, 0))]

    for _ in range(batch):
        take = jax.vmap(take)
    return take(x, indices)


_SCATTERS = {"none": "set", "add": "add", "mul": "multiply", "min": "min", "max": "max"}


@operator("ScatterND")
def scatter_nd(node: Node, x: Value, indices: Value, updates: Value) -> jax.Array:
    """With the parts at some positions replaced, or combined with others."""
    at = jnp.asarray(x).at[tuple(jnp.moveaxis(jnp.asarray(indices), -1, 0))]
    return getattr(at, _SCATTERS[node.get("reduction", "none")])(updates)


@operator("ScatterElements", "Scatter")
def scatter_elements(node: Node, x: Value, indices: Value, updates: Value) -> jax.Array:
    """With the entries at some places of an axis replaced, or combined with others."""
    axis = axis_of(node, x.ndim, 0)
    places = list(jnp.indices(indices.shape, sparse=True))
    places[axis] = jnp.asarray(indices)
    return getattr(jnp.asarray(x).at[tuple(places)], _SCATTERS[node.get("reduction", "none")])(updates)


@operator("Expand")
def expand(node: Node, x: Value, shape: Value) -> Value:
    """Repeated along axes of size 1, and along new ones."""
    sides = tuple(whole(shape, node, "shape") or ())
    target = sized(np.broadcast_shapes(x.shape, sized(sides)))
    return library(x).broadcast_to(x, target)


@operator("Tile", since=6)
def tile(node: Node, x: Value, repeats: Value) -> Value:
    """Repeated along each axis."""
    times = whole(repeats, node, "repeats") or []
    sized_by((x,), tuple(side * time for side, time in zip(x.shape, times, strict=True)))
    return library(x).tile(x, times)


_MODES = {"constant": "constant", "reflect": "reflect", "edge": "edge", "wrap": "wrap"}


@operator("Pad")
def pad(
    node: Node, x: Value, pads: Value | None = None, value: Value | None = None, axes: Value | None = None
) -> Value:
    """With more cells before and after along each axis, or with fewer."""
    given = whole(pads, node, "pads" if "pads" in node.attributes else "paddings") or []
    over = [int(axis) % x.ndim for axis in known_now(axes, "axes").reshape(-1)] if axes is not None else range(x.ndim)
    before, after = [0] * x.ndim, [0] * x.ndim
    for axis, a, b in zip(over, given[: len(given) // 2], given[len(given) // 2 :], strict=True):
        before[axis], after[axis] = a, b
    sized_by((x,), tuple(side + a + b for side, a, b in zip(x.shape, before, after, strict=True)))
    kept = tuple(slice(max(0, -a), side - max(0, -b)) for side, a, b in zip(x.shape, before, after, strict=True))
    widths = [(max(0, a), max(0, b)) for a, b in zip(before, after, strict=True)]
    mode, np_or_jnp = node.get("mode", "constant"), library(x, value)
    if mode != "constant":
        return np_or_jnp.pad(x[kept], widths, mode=_MODES[mode])
    fill = node.get("value", 0.0) if value is None else value.reshape(())
    return np_or_jnp.pad(x[kept], widths, constant_values=np_or_jnp.asarray(fill).astype(x.dtype))


@operator("Shape")
def shape(node: Node, x: Value) -> np.ndarray:
    """The sizes of the axes."""
    return np.array(x.shape[slice(node.get("start", 0), node.get("end"))], np.int64)


@operator("Size")
def size(node: Node, x: Value) -> np.ndarray:
    """How many numbers there are."""
    return np.array(x.size, np.int64)


@operator("Range")
def arange(node: Node, start: Value, limit: Value, delta: Value) -> np.ndarray:
    """Numbers in equal steps."""
    first, last, step = (known_now(value, "range").reshape(()) for value in (start, limit, delta))
    if step == 0:
        raise UserError("its steps are 0")
    count = max(0, math.ceil((float(last) - float(first)) / float(step)))
    sized((count,), MOST_NOW)
    return (first + np.arange(count).astype(step.dtype) * step).astype(start.dtype)


@operator("ConstantOfShape")
def constant_of_shape(node: Node, sides: Value) -> np.ndarray:
    """One number everywhere."""
    value = node.get("value")
    fill = np.zeros((), np.float32) if value is None else value.reshape(())
    return np.broadcast_to(fill, sized(tuple(whole(sides, node, "shape") or ())))


@operator("EyeLike")
def eye_like(node: Node, x: Value) -> np.ndarray:
    """Ones on a diagonal."""
    dtype = dtype_of(int(node.get("dtype")), "its output") if "dtype" in node.attributes else x.dtype
    sized(tuple(x.shape), MOST_NOW)
    return np.eye(x.shape[0], x.shape[1], k=int(node.get("k", 0)), dtype=dtype)


@operator("OneHot")
def one_hot(node: Node, indices: Value, depth: Value, values: Value) -> jax.Array:
    """The first of two values everywhere but at the index, where the second is."""
    (count,) = whole(depth, node, "depth") or [0]
    indices, values = jnp.asarray(indices), jnp.asarray(values)
    sized((*indices.shape, count))
    axis = axis_of(node, indices.ndim + 1, -1)
    entries = jnp.arange(count).astype(indices.dtype).reshape((-1,) + (1,) * (indices.ndim - axis))
    within = (indices >= -count) & (indices < count)
    places = jnp.where(within, indices % np.asarray(count, indices.dtype), np.asarray(-1, indices.dtype))
    entries = entries.reshape((1,) * (indices.ndim + 1 - entries.ndim) + entries.shape)
    return jnp.where(jnp.expand_dims(places, axis) == entries, values[1], values[0])


@operator("NonZero")
def non_zero(node: Node, x: Value) -> np.ndarray:
    """Where values are not zero; only of what is known beforehand."""
    return np.stack(np.nonzero(known_now(x, "input"))).astype(np.int64)


@operator("DepthToSpace")
def depth_to_space(node: Node, x: Value) -> Value:
    """Blocks of maps as blocks of cells."""
    n, c, h, w = x.shape
    b = int(node.get("blocksize"))
    if node.get("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, c // b**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // b**2, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // b**2, h * b, w * b)


@operator("SpaceToDepth")
def space_to_depth(node: Node, x: Value) -> Value:
    """Blocks of cells as blocks of maps."""
    n, c, h, w = x.shape
    b = int(node.get("blocksize"))
    y = x.reshape(n, c, h // b, b, w // b, b)
    order = (0, 3, 5, 1, 2, 4) if node.get("mode", "DCR") == "DCR" else (0, 1, 3, 5, 2, 4)
    return y.transpose(order).reshape(n, c * b**2, h // b, w // b)


@operator("Trilu")
def trilu(node: Node, x: Value, k: Value | None = None) -> Value:
    """The upper or lower triangle of matrices, and zeros."""
    (diagonal,) = [0] if k is None else [int(number) for number in known_now(k, "diagonal").reshape(-1)]
    np_or_jnp = library(x)
    return np_or_jnp.triu(x, diagonal) if node.get("upper", 1) else np_or_jnp.tril(x, diagonal)
