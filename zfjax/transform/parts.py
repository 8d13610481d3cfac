"""Mark which equations of a program together have a name that rules may call them by."""

import bisect

from zfjax.transform import activations, attention, jaxprs
from zfjax.transform.activations import Activation
from zfjax.transform.graph import Graph, Path


def recognize(view: jaxprs.View) -> None:
    """Mark in a view, and in all views inside, which equations are activations or attention.

    `rectifiers.recognize` must have read it.
    """
    graph = Graph(view)
    paths = [node.path for node in graph.nodes]  # in order
    for part in (*activations.find(graph).values(), *attention.find(graph)):
        _mark(view, graph, paths, part)
    for node in graph.nodes:
        for inner in node.view.inside(node.equation):
            recognize(inner)


def _mark(view: jaxprs.View, graph: Graph, paths: list[Path], part: Activation) -> None:
    """Mark a part in the innermost view that holds all of it, unless a call in there holds something else."""
    shortest = min(len(node.path) for node in part.nodes)
    levels = (len({node.path[:depth] for node in part.nodes}) for depth in range(shortest))
    depth = sum(1 for count in levels if count == 1) - 1
    for number in part.nodes[0].path[:depth]:
        (view,) = view.inside(view.jaxpr.eqns[number])
    numbers = sorted({node.path[depth] for node in part.nodes})
    equations = [view.jaxpr.eqns[number] for number in numbers]
    around = part.nodes[0].path[:depth]
    for number in numbers:
        inside = slice(*(bisect.bisect_left(paths, (*around, end)) for end in (number, number + 1)))
        others = set(graph.nodes[inside]).difference(part.nodes)
        if any(not graph.active.isdisjoint(other.outputs) for other in others):
            return
    if all(len(equation.outvars) == 1 for equation in equations):
        view.parts[id(equations[-1])] = jaxprs.Part(part.name, equations)
