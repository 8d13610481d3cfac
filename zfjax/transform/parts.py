"""Mark which equations of a program together have a name that rules may call them by."""

import bisect
import dataclasses

from zfjax.transform import activations, attention, jaxprs, linear, norms
from zfjax.transform.graph import Graph, Node, Path, Value


def recognize(view: jaxprs.View, by_layer: bool) -> None:
    """Mark in a view, and in all views inside, which equations are activations, attention, norms or, if asked, layers.

    `rectifiers.recognize` must have read it.
    """
    read = _read(view, Graph(view), by_layer, set())
    _number(read, 0, read.count)


@dataclasses.dataclass
class _Read:
    """A view and those inside of its loops, while its layers have no numbers yet.

    Attributes:
        view: a function, or the body of a loop.
        graph: its equations.
        layers: those of its own.
        loops: the equations that hold views, with these and how often they run.
        count: the layers in all.
    """

    view: jaxprs.View
    graph: Graph
    layers: list[linear.Layer]
    loops: list[tuple[Node, list["_Read"], int]]

    @property
    def count(self) -> int:
        """How many layers one run of it has; of branches, those of the longest."""
        return len(self.layers) + sum(_most(inner) * times for _, inner, times in self.loops)


def _most(branches: list[_Read]) -> int:
    return max((branch.count for branch in branches), default=0)


def _read(view: jaxprs.View, graph: Graph, by_layer: bool, start: set[Value]) -> _Read:
    """Find all parts, and mark all but the layers; some inputs are known to have no negative numbers."""
    paths = [node.path for node in graph.nodes]  # in order
    steps = attention.find(graph)
    marked = [*activations.find(graph).values(), *attention.softmaxes(graph, steps), *steps, *norms.find(graph)]
    for known in marked:
        _mark(view, graph, paths, jaxprs.Part(known.name, []), known.nodes)
    positive = linear.nonnegative(graph, start) if by_layer else set()
    layers = linear.find(graph, {node for known in marked for node in known.nodes}, positive) if by_layer else []
    loops = []
    for node in graph.nodes:
        if views := node.view.inside(node.equation):
            inside = [(inner, Graph(inner, _constants(graph, node))) for inner in views]
            inner = [_read(*each, by_layer, _nonnegative(node, each[1], positive)) for each in inside]
            loops.append((node, inner, node.equation.params.get("length", 1) if node.kind == "scan" else 1))
    return _Read(view, graph, layers, loops)


def _constants(graph: Graph, node: Node) -> dict[int, object]:
    """The inputs of a loop's body that are constants, by number."""
    inputs = node.inputs[1:] if node.kind == "cond" else ()
    if node.kind == "scan":
        fixed, _ = jaxprs.scanned(node.equation)
        inputs = node.inputs[:fixed]
    return {number: graph.constants[value] for number, value in enumerate(inputs) if value in graph.constants}


def _nonnegative(node: Node, inside: Graph, positive: set[Value]) -> set[Value]:
    """The inputs of a loop's body without negative numbers: what is carried has none before, and in no iteration."""
    if node.kind not in ("scan", "cond"):
        return set()
    outer = node.inputs[1:] if node.kind == "cond" else node.inputs
    known = {inner for inner, value in zip(inside.inputs, outer, strict=True) if value in positive}
    if node.kind == "scan":
        fixed, carried = jaxprs.scanned(node.equation)
        again = list(zip(inside.inputs[fixed : fixed + carried], inside.outputs[:carried], strict=True))
        before = None
        while before != known:
            before, found = known, linear.nonnegative(inside, known)
            known = known - {value for value, after in again if after not in found}
    return known


def _number(read: _Read, first: int, total: int) -> None:
    """Mark the layers, in order; in a loop as in its first iteration, in branches from the same number on."""
    view, graph = read.view, read.graph
    view.layers = first, read.count, total
    paths = [node.path for node in graph.nodes]
    found: list[tuple[Path, linear.Layer | tuple[list[_Read], int]]] = [
        *((layer.nodes[0].path, layer) for layer in read.layers),
        *((node.path, (inner, times)) for node, inner, times in read.loops),
    ]
    for _, item in sorted(found, key=lambda pair: pair[0]):
        if isinstance(item, linear.Layer):
            part = jaxprs.Part(item.name, [], (first, total), item.nonnegative)
            # Its last equations may lie in a call, together with others; then it ends before that.
            ends = range(len(item.nodes), 0, -1)
            next((end for end in ends if _mark(view, graph, paths, part, item.nodes[:end])), None)
            first += 1
        else:
            inner, times = item
            for branch in inner:
                _number(branch, first, total)
            first += _most(inner) * times


def _mark(view: jaxprs.View, graph: Graph, paths: list[Path], part: jaxprs.Part, nodes: tuple[Node, ...]) -> bool:
    """Mark a part in the innermost view that holds all its nodes, unless a call in there holds something else."""
    shortest = min(len(node.path) for node in nodes)
    levels = (len({node.path[:depth] for node in nodes}) for depth in range(shortest))
    depth = sum(1 for count in levels if count == 1) - 1
    for number in nodes[0].path[:depth]:
        (view,) = view.inside(view.jaxpr.eqns[number])
    numbers = sorted({node.path[depth] for node in nodes})
    equations = [view.jaxpr.eqns[number] for number in numbers]
    around = nodes[0].path[:depth]
    for number in numbers:
        inside = slice(*(bisect.bisect_left(paths, (*around, end)) for end in (number, number + 1)))
        others = set(graph.nodes[inside]).difference(nodes)
        if any(not graph.active.isdisjoint(other.outputs) for other in others):
            return False
    if any(len(equation.outvars) != 1 for equation in equations):
        return False
    view.parts.setdefault(id(equations[-1]), []).append(part._replace(equations=equations))
    return True
