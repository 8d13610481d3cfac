"""Mark which equations of a program together have a name that rules may call them by."""

import bisect

from zfjax.transform import activations, attention, jaxprs, linear, norms
from zfjax.transform.graph import Graph, Node, Path


def recognize(view: jaxprs.View, by_layer: bool) -> None:
    """Mark in a view, and in all views inside, which equations are activations, attention, norms or, if asked, layers.

    `rectifiers.recognize` must have read it.
    """
    graph = Graph(view)
    paths = [node.path for node in graph.nodes]  # in order
    steps = attention.find(graph)
    marked = [*activations.find(graph).values(), *attention.softmaxes(graph, steps), *steps, *norms.find(graph)]
    for known in marked:
        _mark(view, graph, paths, jaxprs.Part(known.name, []), known.nodes)
    layers = linear.find(graph, {node for known in marked for node in known.nodes}) if by_layer else []
    for number, layer in enumerate(layers):
        part = jaxprs.Part(layer.name, [], (number, len(layers)), layer.nonnegative)
        # Its last equations may lie in a call, together with others; then it ends before that.
        ends = range(len(layer.nodes), 0, -1)
        next((end for end in ends if _mark(view, graph, paths, part, layer.nodes[:end])), None)
    for node in graph.nodes:
        for inner in node.view.inside(node.equation):
            recognize(inner, by_layer)


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
