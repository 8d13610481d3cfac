"""A program that ends in a softmax, without it: what is below are the logits."""

import jax.extend.core as jex

from zfjax.transform import jaxprs
from zfjax.transform.graph import Graph, Value
from zfjax.transform.places import cutting
from zfjax.transform.places.regions import regions

# Values as they are, in another shape or precision, without another order.
_SHAPES = frozenset(("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze"))


def below_softmax(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr | None:
    """The part of a program that gives the logits of the softmax in which it ends; None if it ends in none.

    Args:
        closed: a program with one output, whose last input is the images.
    """
    inputs, outputs = closed.jaxpr.invars, closed.jaxpr.outvars
    if len(outputs) != 1:
        return None
    graph = Graph(jaxprs.View(closed, [False] * (len(inputs) - 1) + [True], [True]))
    last = graph.makers.get(_unshaped(graph, graph.outputs[0]))
    region = regions(graph).get(last) if last else None
    if region is None or region.kind != "softmax":
        return None
    first, logits = region.nodes[0], region.entry
    if first.kind == "sub" and not _is_largest(graph, first.inputs[1], logits):
        logits = first.outputs[0]  # the difference, such as one with a bias, is theirs
    return cutting.up_to(closed, [graph.sites[logits]]) if logits in graph.sites else None


def _unshaped(graph: Graph, value: Value) -> Value:
    """The value that another one is in another shape."""
    while (maker := graph.makers.get(value)) and maker.kind in _SHAPES:
        value = maker.inputs[0]
    return value


def _is_largest(graph: Graph, value: Value, logits: Value) -> bool:
    """Whether a value is the largest logit, which a softmax subtracts before its exponential."""
    while (maker := graph.makers.get(value)) and maker.kind in _SHAPES | {"stop_gradient", "max"}:
        value = next((one for one in maker.inputs if one in graph.makers), value)
    return maker is not None and maker.kind == "reduce_max" and maker.inputs[0] == logits
