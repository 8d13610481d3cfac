"""Find norms: a signal times one over its standard deviation or norm, as in layer norms and batch norm in training."""

from zfjax.transform.activations import Activation
from zfjax.transform.graph import Graph, Node, Value
from zfjax.transform.linear import MOVES


def find(graph: Graph) -> list[Activation]:
    """The products of a signal and an inverse root, with the root, under the name `normalization`.

    A quotient needs no search: it says itself what is divided.
    """
    found = []
    for node in graph.nodes:
        if node.kind == "mul" and len(node.inputs) == 2 and graph.active.issuperset(node.inputs):
            sides = [(x, _inverse_root(graph, node, other)) for x, other in (node.inputs, node.inputs[::-1])]
            roots = [(x, nodes) for x, nodes in sides if nodes]
            if len(roots) == 1 and (x := roots[0][0]):
                found.append(Activation("normalization", x, (*roots[0][1][::-1], node)))
    return found


def _inverse_root(graph: Graph, user: Node, value: Value) -> list[Node]:
    """The equations by which a value is one over a root, possibly scaled, the last first; none if it is another."""
    nodes: list[Node] = []
    while (maker := graph.makers.get(value)) and graph.users[value] == [nodes[-1] if nodes else user]:
        nodes.append(maker)
        if maker.kind == "rsqrt":
            return nodes
        active = [below for below in maker.inputs if below in graph.active]
        if len(active) != 1 or maker.kind not in MOVES | {"mul"}:
            break
        (value,) = active
    return []
