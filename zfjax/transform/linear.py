"""Find linear layers: a convolution or a matrix product of one value with weights, with all that scales and shifts it.

So a bias belongs to its layer, and batch norm at inference too, however it is written: what follows are additions of
constants, and multiplications by one constant for each map.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax

from zfjax.transform import curves
from zfjax.transform.graph import Graph, Node, Value

CORES = {"conv_general_dilated": "convolution", "dot_general": "dense"}
_SHAPES = frozenset(("broadcast_in_dim", "expand_dims", "reshape", "squeeze"))
MOVES = curves.CASTS | _SHAPES | {"transpose"}
_KEPT = MOVES | {"dynamic_slice", "gather", "reduce_max", "reduce_window_max", "rev", "slice"}
_SUMS = frozenset(("add", "add_any", "concatenate", "mul", "reduce_sum", "reduce_window_sum"))


@dataclass(frozen=True)
class Layer:
    """A linear layer.

    Attributes:
        name: convolution or dense.
        nodes: its equations, the convolution or product first; the last gives its result.
        nonnegative: whether what it reads is known to have no negative numbers.
    """

    name: str
    nodes: tuple[Node, ...]
    nonnegative: bool


def find(graph: Graph, taken: set[Node], positive: set[Value]) -> list[Layer]:
    """The linear layers of a program, in order; equations in `taken` belong to something else."""
    layers = []
    for node in graph.nodes:
        active = [value for value in node.inputs if value in graph.active]
        if node.kind in CORES and len(active) == 1 and not graph.active.isdisjoint(node.outputs):
            layers.append(Layer(CORES[node.kind], _grown(graph, node, taken), active[0] in positive))
    return layers


def maps_of(equation: Any, weights: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The axes of a convolution's or product's result along which the weights differ, and the weights' own for these.

    Args:
        equation: of JAX.
        weights: which of its operands they are.
    """
    numbers = equation.params["dimension_numbers"]
    if equation.primitive.name == "conv_general_dilated":
        return (numbers.out_spec[1],), (numbers.rhs_spec[0],)
    contracted, batch = numbers
    if batch[0]:
        return (), ()
    rank = len(equation.invars[weights].aval.shape)
    axes = tuple(axis for axis in range(rank) if axis not in contracted[weights])
    first = 0 if weights == 0 else len(equation.outvars[0].aval.shape) - len(axes)
    return tuple(range(first, first + len(axes))), axes


def _grown(graph: Graph, core: Node, taken: set[Node]) -> tuple[Node, ...]:
    """A convolution or product, and what follows that is still linear and can be folded into its weights."""
    nodes, (value,), outputs = [core], core.outputs, set(graph.outputs)
    maps, _ = maps_of(core.equation, 0 if core.inputs[1] in graph.active else 1)
    while value not in outputs and len(users := graph.users[value]) == 1:
        (node,) = users
        if node in taken or len(node.outputs) != 1 or not _is_folded(graph, node, value, maps):
            break
        if node.kind in _SHAPES and graph.avals[node.outputs[0]].shape != graph.avals[value].shape:
            maps = ()
        if node.kind == "transpose":
            maps = tuple(node.equation.params["permutation"].index(axis) for axis in maps)
        nodes.append(node)
        (value,) = node.outputs
    return tuple(nodes)


def _is_folded(graph: Graph, node: Node, value: Value, maps: tuple[int, ...]) -> bool:
    """Whether an equation moves a value, shifts it, or scales its maps."""
    if node.kind in MOVES:
        return True
    if node.kind == "slice":  # such as a row that a faster form of a convolution adds at the end
        return not any(node.equation.params["start_indices"]) and node.equation.params["strides"] is None
    shape = graph.avals[node.outputs[0]].shape
    if node.kind not in ("add", "add_any", "sub", "mul", "div") or graph.avals[value].shape != shape:
        return False
    others = [other for other in node.inputs if other != value]
    if len(others) != 1 or others[0] in graph.active or (node.kind in ("sub", "div") and node.inputs[0] != value):
        return False
    return node.kind in ("add", "add_any", "sub") or _varying(graph, others[0]) <= set(maps)


def _varying(graph: Graph, value: Value) -> set[int]:
    """The axes along which a value may vary."""
    shape = graph.avals[value].shape
    axes = {axis for axis, length in enumerate(shape) if length > 1}
    maker = graph.makers.get(value)
    if maker is None or not axes:
        return axes
    if maker.kind == "broadcast_in_dim":
        below = _varying(graph, maker.inputs[0])
        return axes & {maker.equation.params["broadcast_dimensions"][axis] for axis in below}
    if maker.kind in curves.CASTS:
        return axes & _varying(graph, maker.inputs[0])
    return axes


def nonnegative(graph: Graph, start: Iterable[Value]) -> set[Value]:
    """The values that are known to have no negative numbers: what a ReLU gives, moved, pooled and added.

    Args:
        graph: the program.
        start: those of its inputs that are known to have none.
    """
    found = set(start)
    for node in graph.nodes:
        read = [value for value in node.inputs if value in graph.active]
        known = bool(read) and all(value in found for value in read)
        alone = node.kind in _KEPT or (node.kind in _SUMS and len(read) == len(node.inputs))
        beside = node.kind in ("add", "div", "max", "mul", "pad")
        is_relu = node.view.roles.get(id(node.equation)) == "relu"
        if is_relu or (known and (alone or (beside and _is_positive(graph, node, read)))):
            found.update(node.outputs)
    return found


def _is_positive(graph: Graph, node: Node, read: list[Value]) -> bool:
    """Whether the other input is a known number, zero or more."""
    others = [graph.constants.get(value) for value in node.inputs if value not in read]
    if len(others) != 1 or others[0] is None or isinstance(others[0], jax.core.Tracer):
        return False
    number = curves.number(others[0])
    return number is not None and number >= 0
