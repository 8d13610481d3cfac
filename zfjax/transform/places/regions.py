"""Find the norms and softmaxes of a program, however they are written.

Such a part ends where a product, quotient or difference joins two values that depend on the image; it begins at the
nearest value through which all that they depend on passes.
"""

from typing import NamedTuple

from zfjax.transform.graph import Graph, Node, Value

_JOINS = frozenset(("div", "mul", "sub"))
_REDUCTIONS = frozenset(("reduce_max", "reduce_sum", "reduce_window_sum"))
_ROOTS = frozenset(("rsqrt", "sqrt", "pow"))
# What ends the search: layers, which no norm or activation holds.
_LAYERS = frozenset(("concatenate", "conv_general_dilated", "dot_general", "reduce_window_max"))
_MOST = 60  # equations in one part


class Region(NamedTuple):
    """A part of a program.

    Attributes:
        kind: norm or softmax.
        entry: the only value that depends on the image and that it reads.
        nodes: its equations, the last of which gives its result.
    """

    kind: str
    entry: Value
    nodes: tuple[Node, ...]


def regions(graph: Graph) -> dict[Node, Region]:
    """The parts of a program, by their last equation; none lies in another."""
    order = {node: number for number, node in enumerate(graph.nodes)}
    found: dict[Node, Region] = {}
    for node in graph.nodes:
        if node.kind in _JOINS and len(_active(graph, node)) > 1 and (region := _region(graph, order, node)):
            found[node] = _extended(graph, found, region)
    inner = {node for end, region in found.items() for node in region.nodes if node is not end}
    return {end: region for end, region in found.items() if end not in inner and region.kind in ("norm", "softmax")}


def _region(graph: Graph, order: dict[Node, int], end: Node) -> Region | None:
    """The part that ends at an equation, if what it computes is known."""
    nodes, waiting = [end], set(_active(graph, end))
    while len(waiting) > 1:
        if not all(value in graph.makers for value in waiting):
            return None
        last = max((graph.makers[value] for value in waiting), key=order.__getitem__)
        if last.kind in _LAYERS or len(nodes) == _MOST:
            return None
        nodes.append(last)
        waiting = waiting.difference(last.outputs).union(_active(graph, last))
    if not waiting:
        return None
    inside = {node for node in nodes if node is not end}
    if any(
        user not in inside and user is not end for node in inside for out in node.outputs for user in graph.users[out]
    ):
        return None  # something else needs a piece of it
    kind = _kind(end, {node.kind for node in nodes})
    return Region(kind, waiting.pop(), tuple(nodes[::-1])) if kind else None


def _kind(end: Node, kinds: set[str]) -> str | None:
    """What equations compute together, by which there are."""
    if not kinds & _REDUCTIONS:
        return None
    return "norm" if kinds & _ROOTS else {"sub": "centered", "div": "normalized"}.get(end.kind)


def _extended(graph: Graph, found: dict[Node, Region], region: Region) -> Region:
    """The part with what belongs to it below: what was centered before its norm, the exponential of a softmax."""
    maker = graph.makers.get(region.entry)
    if maker is None:
        return region
    if region.kind == "norm" and maker in found and found[maker].kind == "centered":
        return Region("norm", found[maker].entry, found[maker].nodes + region.nodes)
    if region.kind == "normalized" and maker.kind == "exp":
        (x,) = maker.inputs
        below = graph.makers.get(x)
        if below is not None and below.kind == "sub":
            return Region("softmax", below.inputs[0], (below, maker, *region.nodes))
        return Region("softmax", x, (maker, *region.nodes))
    return region


def _active(graph: Graph, node: Node) -> list[Value]:
    return [value for value in dict.fromkeys(node.inputs) if value in graph.active]
