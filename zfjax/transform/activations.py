"""Find the activations of today's nets (GELU, SiLU, hard swish, leaky ReLU, ELU, …), however they are written.

An activation is a part of a program that computes each number from one number of one value, whose results on a row of
numbers are those of a function with a name. So `x * jax.nn.sigmoid(x)`, `x / (1 + exp(-x))` and what ONNX and PyTorch
make of it are all `silu`, across all calls (jit, remat, custom derivatives), and `x * sigmoid(y)`, a gate, is none.

ReLUs are not among them: what a maximum with zero is depends on what becomes of it; see `rectifiers`.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from zfjax.transform import curves
from zfjax.transform.graph import Graph, Node, Value

_MOVES = curves.CASTS | {"broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"}
_MOST = 40  # equations in one activation, and from a constant to one
_TRIES = 6  # places where it could begin


class Activation(NamedTuple):
    """An activation, or another part of a program that is a function of one value.

    Attributes:
        name: one of `curves.NAMES`.
        x: the value that it is a function of.
        nodes: its equations in order; the last gives its result.
    """

    name: str
    x: Value
    nodes: tuple[Node, ...]


def find(graph: Graph) -> dict[Node, Activation]:
    """The activations of a program, by the last equation of each; none lies in another.

    Weights may take part, such as the slopes of a PReLU. `rectifiers.recognize` must have read the program: what holds
    a ReLU is no activation but a ReLU and more.
    """
    search, found, inner = _Search(graph), dict[Node, Activation](), set[Node]()
    for node in reversed(graph.nodes):
        if node not in inner and (activation := search.ending_at(node)):
            found[node] = activation
            inner.update(activation.nodes)
    return dict(reversed(found.items()))


class _Search:
    def __init__(self, graph: Graph):
        self._graph = graph
        self._order = {node: number for number, node in enumerate(graph.nodes)}
        self._depends = set(graph.active)  # on the program's input; unlike active values, booleans may
        for node in graph.nodes:
            if not self._depends.isdisjoint(node.inputs):
                self._depends.update(node.outputs)
        self._outputs = set(graph.outputs)
        self._numbers: dict[Value, float | None] = {}

    def ending_at(self, end: Node) -> Activation | None:
        """The activation whose result an equation gives."""
        if self._graph.active.isdisjoint(end.outputs) or not self._is_of_one_value(end):
            return None
        for x, nodes in self._parts(end):
            curved = any(node.kind not in curves.ARITHMETIC and node.kind not in curves.CASTS for node in nodes)
            if (curved or _multiplies(nodes, self._depends)) and (name := self._named(x, nodes)):
                return Activation(name, x, nodes) if self._is_alone(nodes) else None
        return None

    def _parts(self, end: Node) -> Iterator[tuple[Value, tuple[Node, ...]]]:
        """The parts that end at an equation and depend on one value, each with that value, the smallest first."""
        shape = self._graph.avals[end.outputs[0]].shape
        nodes, waiting, tries = [end], self._reads(end), 0
        while waiting:
            if len(waiting) == 1 and (x := next(iter(waiting))) in self._graph.active:
                yield x, tuple(nodes[::-1])
                tries += 1
            makers = [self._graph.makers[value] for value in waiting if value in self._graph.makers]
            if not makers or len(nodes) == _MOST or tries == _TRIES:
                return
            last = max(makers, key=self._order.__getitem__)
            if not self._is_of_one_value(last) or self._graph.avals[last.outputs[0]].shape != shape:
                return
            nodes.append(last)
            waiting = waiting.difference(last.outputs) | self._reads(last)

    def _is_of_one_value(self, node: Node) -> bool:
        """Whether an equation computes number by number, and is no ReLU."""
        if not curves.is_known(node.equation) or node.view.roles.get(id(node.equation)) == "relu":
            return False
        shape = self._graph.avals[node.outputs[0]].shape
        return all(self._graph.avals[value].shape == shape for value in self._reads(node))

    def _reads(self, node: Node) -> set[Value]:
        return {value for value in node.inputs if value in self._depends}

    def _is_alone(self, nodes: tuple[Node, ...]) -> bool:
        """Whether nothing else needs what it computes on the way."""
        inside = {output for node in nodes[:-1] for output in node.outputs}
        users = {user for value in inside for user in self._graph.users[value]}
        return users <= set(nodes) and inside.isdisjoint(self._outputs)

    def _named(self, x: Value, nodes: tuple[Node, ...]) -> str | None:
        """What a part computes; if a weight takes part whose numbers are not known, it must do so for several."""
        others = {value for node in nodes for value in node.inputs if value not in self._depends}
        weights = {self._origin(value) for value in others if self._number(value) is None}
        if len(weights) > 1:
            return None
        names = {self._name(x, nodes, weight) for weight in ((0.25, 0.5) if weights else (0.0,))}
        return names.pop() if len(names) == 1 else None

    def _name(self, x: Value, nodes: tuple[Node, ...], weight: float) -> str | None:
        values = {x: curves.X}

        def read(value: Value) -> np.ndarray:
            if value in values:
                return values[value]
            number = self._number(value)
            return np.full_like(curves.X, weight if number is None else number)

        with np.errstate(all="ignore"):
            for node in nodes:
                values[node.outputs[0]] = curves.evaluate(node.equation, *map(read, node.inputs))
        return curves.named(values[nodes[-1].outputs[0]])

    def _number(self, value: Value, steps: int = 0) -> float | None:
        """The number that fills a value that does not depend on the input, possibly computed from others."""
        if value not in self._numbers:
            self._numbers[value] = self._read(value, steps) if steps < _MOST else None
        return self._numbers[value]

    def _read(self, value: Value, steps: int) -> float | None:
        if value in self._graph.constants:
            constant = self._graph.constants[value]
            return None if isinstance(constant, jax.core.Tracer) else curves.number(constant)
        maker = self._graph.makers.get(value)
        if maker is None or not (maker.kind in _MOVES or curves.is_known(maker.equation)):
            return None
        read = [self._number(input, steps + 1) for input in maker.inputs]
        if None in read:
            return None
        if not curves.is_known(maker.equation):
            return read[0]
        with np.errstate(all="ignore"):
            return float(curves.evaluate(maker.equation, *map(np.asarray, read)))

    def _origin(self, value: Value) -> Value:
        """The weight of which a value is a cast or a copy in another shape."""
        while (maker := self._graph.makers.get(value)) and maker.kind in _MOVES:
            value = maker.inputs[0]
        return value


def _multiplies(nodes: tuple[Node, ...], depends: set[Value]) -> bool:
    """Whether a part is not linear though all its equations are of arithmetic."""
    return any(node.kind in ("mul", "div") and depends.issuperset(node.inputs) for node in nodes)
