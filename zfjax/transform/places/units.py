"""The layers of any program: which equations make up a convolution with its bias, a ReLU, a norm, an addition.

Equations between layers, such as reshapes and casts, belong to none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from zfjax.transform import activations
from zfjax.transform.graph import Graph, Node, Value
from zfjax.transform.places.regions import Region, regions

_LAYERS = {
    "conv_general_dilated": "conv",
    "dot_general": "dense",
    "ragged_dot_general": "dense",
    "reduce_window": "pool",
    "reduce_window_max": "pool",
    "reduce_window_min": "pool",
    "reduce_window_sum": "pool",
    "argmax": "max",
    "reduce_max": "max",
    "reduce_sum": "mean",
}
_JOINS = {"add": "add", "add_any": "add", "mul": "mul", "concatenate": "concat", "dot_general": "matmul"}
# Values as they are, in another shape or precision.
_SHAPES = frozenset(
    (
        *("broadcast_in_dim", "convert_element_type", "copy", "copy_p", "expand_dims", "optimization_barrier"),
        *("reduce_precision", "reshape", "sharding_constraint", "squeeze", "transpose"),
    )
)
_ARITHMETIC = frozenset(("add", "div", "mul", "sub"))


@dataclass(eq=False)
class Unit:
    """One layer of a program.

    Attributes:
        kind: conv, dense, matmul, relu, pool, mean, max, norm, add, mul, concat, softmax, scale, shift, gelu, …
        nodes: its equations.
        value: its result.
        below: the layers whose results it reads, in order.
        leaves: the arrays of weights that it reads, by path.
    """

    kind: str
    nodes: list[Node]
    value: Value
    below: "list[Unit]"
    leaves: dict[str, Value] = field(default_factory=dict)

    @property
    def scopes(self) -> tuple[str, ...]:
        """The scopes of the equation that makes its result."""
        return next(node.scopes for node in self.nodes if self.value in node.outputs)


def units(graph: Graph, weights: Mapping[Value, str]) -> list[Unit]:
    """The layers of a program, bottom first.

    Args:
        graph: the program.
        weights: the paths of its arrays of weights.
    """
    return _Reading(graph, weights).units


class _Reading:
    """One pass over a program, in order.

    Attributes:
        units: the layers found.
        made: which layer a value comes from, perhaps in another shape.
    """

    def __init__(self, graph: Graph, weights: Mapping[Value, str]):
        self.graph = graph
        self.units: list[Unit] = []
        self.made: dict[Value, Unit] = {}
        self._reads: dict[Value, dict[str, Value]] = {value: {path: value} for value, path in weights.items()}
        found = activations.find(graph)
        ends = regions(graph) | {end: Region(each.name, each.x, each.nodes) for end, each in found.items()}
        inner = {node for end, region in ends.items() for node in region.nodes if node is not end}
        for node in graph.nodes:
            if node in ends:
                self._add(ends[node].kind, node, ends[node])
            elif node not in inner:
                self._read(node)

    def _read(self, node: Node) -> None:
        active = [value for value in dict.fromkeys(node.inputs) if value in self.graph.active]
        if self.graph.active.isdisjoint(node.outputs):
            read = {path: value for input in node.inputs for path, value in self._reads.get(input, {}).items()}
            self._reads.update((output, read) for output in node.outputs if read)
            return
        role = node.view.roles.get(id(node.equation))
        leaves = {path: v for input in node.inputs for path, v in self._reads.get(input, {}).items()}
        below = self.made.get(active[0]) if len(active) == 1 else None
        if role == "saturation" and below is not None and below.kind == "relu":
            self._extend(below, node, leaves)
            below.kind = "relu6"
        elif role == "relu":
            self._add("relu", node)
        elif node.kind in _JOINS and len(active) > 1:
            self._add(_JOINS[node.kind], node)
        elif node.kind in _LAYERS:
            self._add(_LAYERS[node.kind], node)
        elif node.kind in _SHAPES or (node.kind == "concatenate" and len(active) == 1):
            self.made.update((output, unit) for output in node.outputs if (unit := self.made.get(active[0])))
        elif node.kind in _ARITHMETIC and len(active) == 1:
            self._arithmetic(node, active[0], leaves)
        elif latest := max(filter(None, map(self.made.get, active)), key=self.units.index, default=None):
            self.made.update((output, latest) for output in node.outputs)

    def _arithmetic(self, node: Node, x: Value, leaves: dict[str, Value]) -> None:
        """A value with constants or weights: a bias, a norm's scale, the division of a mean, or a layer of its own."""
        below = self.made.get(x)
        if below is not None and self._belongs(node, below, leaves):
            self._extend(below, node, leaves)
        elif leaves:
            kind = "shift" if node.kind in ("add", "sub") else "scale"
            self._add(kind, node)
        elif below is not None:
            self.made[node.outputs[0]] = below

    def _belongs(self, node: Node, below: Unit, leaves: dict[str, Value]) -> bool:
        """Whether arithmetic with weights finishes the layer below."""
        if not any(below.value == value or self._is_shaped(below, value) for value in node.inputs):
            return False
        if not leaves:
            constant = next(value for value in node.inputs if value not in self.graph.active)
            if below.kind in ("mean", "pool"):
                return node.kind in ("div", "mul")
            is_array = self.graph.avals[constant].shape != ()
            return below.kind in ("conv", "dense") and is_array and node.kind in ("add", "sub")
        if below.kind in ("conv", "dense") and not self._same_scope(node, below):
            return False
        modules, there = {_module(path) for path in leaves}, {_module(path) for path in below.leaves}
        if below.kind == "norm" and not below.leaves:
            return self._same_scope(node, below)
        if below.kind in ("scale", "shift", "norm"):
            if modules != there:
                return False
            below.kind = "norm" if len(below.leaves | leaves) > 2 else below.kind
            return True
        return below.kind in ("conv", "dense") and (modules == there or not there) and node.kind in ("add", "sub")

    def _same_scope(self, node: Node, below: Unit) -> bool:
        return node.scopes == below.nodes[-1].scopes

    def _is_shaped(self, unit: Unit, value: Value) -> bool:
        """Whether a value is a layer's result in another shape."""
        while value != unit.value:
            maker = self.graph.makers.get(value)
            if maker is None or maker.kind not in _SHAPES:
                return False
            value = maker.inputs[0]
        return True

    def _add(self, kind: str, node: Node, region: Region | None = None) -> None:
        nodes = list(region.nodes) if region else [node]
        reads = [region.entry] if region else list(dict.fromkeys(node.inputs))
        below = [unit for value in reads if (unit := self.made.get(value))]
        inputs = (value for each in nodes for value in each.inputs)
        leaves = {path: v for input in inputs for path, v in self._reads.get(input, {}).items()}
        unit = Unit(kind, nodes, node.outputs[0], list(dict.fromkeys(below)), leaves)
        self.units.append(unit)
        self.made.update((output, unit) for output in node.outputs)

    def _extend(self, unit: Unit, node: Node, leaves: dict[str, Value]) -> None:
        unit.nodes.append(node)
        unit.leaves |= leaves
        unit.value = node.outputs[0]
        self.made[unit.value] = unit


def _module(path: str) -> str:
    return path.rpartition("/")[0]
