"""Maps kept channels last, whatever the file says: [N, *space, C] where it has [N, C, *space].

XLA computes convolutions channels last; on a CPU a chain of them took 1.5 to 2 times as long with a transposition
before and after each one. So what a convolution or pool returns stays channels last until an operator needs the file's
order.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import MOST_NOW, Layout, Operator, Value, find, library, sized, whole


class Maps:
    """An array [N, C, *space] of the file's, kept as `last`, [N, *space, C]."""

    def __init__(self, last: Value):
        self.last = last
        self._first: Value | None = None

    @property
    def first(self) -> Value:
        """In the file's order of axes."""
        if self._first is None:
            self._first = library(self.last).moveaxis(self.last, -1, 1)
        return self._first

    @property
    def shape(self) -> tuple[int, ...]:
        """In the file's order."""
        n, *space, c = self.last.shape
        return (n, c, *space)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.last.ndim


Held = Value | Maps


def first(value: Held) -> Value:
    """A value in the file's order of axes."""
    return value.first if isinstance(value, Maps) else value


def _last(value: Held, rank: int) -> Value:
    """A value to combine elementwise with maps of some rank, channels last."""
    if isinstance(value, Maps):
        return value.last
    if value.ndim == 0 or (value.size == 1 and value.ndim <= rank):
        return value.reshape((1,) * rank) if value.ndim else value
    spread = value.reshape((1,) * (rank - value.ndim) + value.shape)
    return library(spread).moveaxis(spread, 1, -1)


def apply(node: Node, inputs: Sequence[Held | None]) -> tuple[Held, ...]:
    """The outputs of a node.

    Args:
        node: of the graph.
        inputs: its inputs; None where an optional one is left out.

    Raises:
        UserError: there is no such operator.
    """
    entry = find(node)
    if isinstance(inputs[0] if inputs else None, Maps) and node.kind in _AXES:
        outputs = _AXES[node.kind](entry.function, node, inputs)
        if outputs is not None:
            return outputs
    elif node.kind == "Concat" and any(isinstance(one, Maps) for one in inputs):
        return _concat(entry.function, node, inputs)
    if node.kind == "Transpose" and inputs[0] is not None and _is_to_file_order(node, inputs[0]):
        return (Maps(first(inputs[0])),)
    return _plainly(entry, node, inputs)


def _plainly(entry: Operator, node: Node, inputs: Sequence[Held | None]) -> tuple[Held, ...]:
    if entry.layout is Layout.ANY:
        return _elementwise(entry.function, node, inputs)
    if entry.layout is Layout.LAST and inputs[0] is not None and inputs[0].ndim >= 3:
        x, *rest = inputs
        maps = x if isinstance(x, Maps) else Maps(library(x).moveaxis(x, 1, -1))
        return (Maps(entry.function(node, _jax(maps.last), *(one if one is None else first(one) for one in rest))),)
    return _as_tuple(entry.function(node, *(one if one is None else first(one) for one in inputs)))


def _jax(value: Value) -> Any:
    return jnp.asarray(value)


def _as_tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _elementwise(function: Callable[..., Any], node: Node, inputs: Sequence[Held | None]) -> tuple[Held, ...]:
    inputs = _spread(node, inputs)
    there = [one for one in inputs if one is not None]
    rank = max((one.ndim for one in there), default=0)
    if any(isinstance(one, Maps) and one.ndim == rank for one in there):
        return (Maps(function(node, *(one if one is None else _last(one, rank) for one in inputs))),)
    aligned = [
        one if one is None or not one.ndim else first(one).reshape((1,) * (rank - one.ndim) + one.shape)
        for one in inputs
    ]
    if library(*aligned) is np:
        sized(np.broadcast_shapes(*(one.shape for one in aligned if one is not None)), MOST_NOW)
    return _as_tuple(function(node, *aligned))


def _spread(node: Node, inputs: Sequence[Held | None]) -> Sequence[Held | None]:
    """Before opset 7, a second operand lies along the axes from `axis` on, and factors of PRelu along the maps."""
    if node.opset >= 7 or len(inputs) != 2 or inputs[0] is None or inputs[1] is None:
        return inputs
    x, y = inputs[0], first(inputs[1])
    if node.kind == "PRelu" and y.ndim == 1 and y.size > 1:
        axis = 1
    elif node.get("broadcast", 0) and "axis" in node.attributes:
        axis = int(node.get("axis")) % max(x.ndim, 1)
    else:
        return inputs
    return x, y.reshape(y.shape + (1,) * (x.ndim - axis - y.ndim))


def _moved(axis: int, rank: int) -> int:
    """Where an axis of the file's lies channels last."""
    axis %= rank
    return axis if axis == 0 else rank - 1 if axis == 1 else axis - 1


def _is_to_file_order(node: Node, x: Held) -> bool:
    """Whether it turns channels last into channels first, as files from TensorFlow do before each convolution."""
    return x.ndim >= 3 and tuple(node.get("perm") or ()) == (0, x.ndim - 1, *range(1, x.ndim - 1))


def _concat(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...]:
    rank = inputs[0].ndim
    axis = _moved(int(node.get("axis", 1)), rank)
    return (Maps(function(node.having(axis=axis), *(_last(one, rank) for one in inputs))),)


def _transpose(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...]:
    (x,) = inputs
    perm = node.get("perm") or range(x.ndim)[::-1]
    return (function(node.having(perm=tuple(_moved(int(axis), x.ndim) for axis in perm)), x.last),)


def _split(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...]:
    x, *sizes = inputs
    axis = _moved(int(node.get("axis", 0)), x.ndim)
    return tuple(map(Maps, function(node.having(axis=axis), x.last, *sizes)))


def _reduce(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...] | None:
    x, *rest = inputs
    axes = whole(rest[0] if rest else None, node, "axes")
    if not axes:
        return None
    moved = [_moved(axis, x.ndim) for axis in axes]
    keep = bool(node.get("keepdims", 1))
    if not keep and len({*moved} - {x.ndim - 1}) < x.ndim - 2 and x.ndim - 1 not in moved:
        return None  # some of the space is left, so the order of axes still matters
    y = function(node.having(axes=tuple(moved)), x.last)
    return (Maps(y),) if keep else (y,)


def _slice(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...]:
    x, *rest = inputs
    starts, ends, axes, steps = [*rest, None, None, None, None][:4]
    first_ones = whole(starts, node, "starts") or []
    over = whole(axes, node, "axes") or list(range(len(first_ones)))
    moved = np.array([_moved(axis, x.ndim) for axis in over])
    return (Maps(function(node, x.last, np.array(first_ones), _known(ends, node), moved, steps)),)


def _known(ends: Any, node: Node) -> np.ndarray:
    return np.array(whole(ends, node, "ends") or [])


def _pad(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...] | None:
    x, *rest = inputs
    pads, value, axes = [*rest, None, None, None][:3]
    given = whole(pads, node, "pads")
    if axes is not None or given is None or len(given) != 2 * x.ndim:
        return None
    order = [0, *range(2, x.ndim), 1]
    moved = np.array([*(given[axis] for axis in order), *(given[x.ndim + axis] for axis in order)])
    return (Maps(function(node, x.last, moved, value)),)


def _shape(function: Callable[..., Any], node: Node, inputs: Sequence[Any]) -> tuple[Held, ...]:
    sides = np.broadcast_to(np.zeros((), np.int8), inputs[0].shape)
    return (function(node, sides),)


_AXES: dict[str, Callable[..., tuple[Held, ...] | None]] = {
    "Concat": _concat,
    "Pad": _pad,
    "Shape": _shape,
    "Slice": _slice,
    "Split": _split,
    "Transpose": _transpose,
    **dict.fromkeys(("ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceL2", "ReduceSumSquare"), _reduce),
}
