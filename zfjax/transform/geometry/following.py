"""How all values of a program lie along one axis of the images, followed through its equations, branches and scans."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zfjax.transform import jaxprs
from zfjax.transform.geometry.along import NOTHING, WHOLE, Along, union
from zfjax.transform.geometry.known import Known
from zfjax.transform.geometry.moves import Shape, Step, moved
from zfjax.transform.graph import Graph, Node, Value

_MOST = 100  # iterations of a scan that are followed


def followed(known: Known, start: Mapping[Value, Along]) -> dict[Value, Along]:
    """All values that depend on some, of which it is known how they lie along one axis of the images."""
    found = dict(start)
    for node in known.graph.nodes:
        if not found.keys().isdisjoint(node.inputs):
            inputs = [found.get(value, NOTHING) for value in node.inputs]
            found.update(zip(node.outputs, _outputs(known, node, inputs), strict=True))
    return found


def _outputs(known: Known, node: Node, inputs: Sequence[Along]) -> list[Along]:
    found = None
    if node.kind == "cond":
        choice, *operands = inputs
        branches = [_inside(Known(Graph(view)), operands) for view in node.view.inside(node.equation)]
        found = [functools.reduce(union, results, choice) for results in zip(*branches, strict=True)]
    elif node.kind == "scan":
        found = _scanned(node, inputs)
    return list(_moved(known, node, inputs)) if found is None else found


def _moved(known: Known, node: Node, inputs: Sequence[Along]) -> Iterator[Along]:
    def shape(value: Value) -> Shape:
        return known.graph.avals[value].shape

    def array(number: int) -> np.ndarray | None:
        return known(node.inputs[number])

    params, shapes = node.equation.params, tuple(map(shape, node.inputs))
    for output, value in enumerate(node.outputs):
        steps = (Step(params, shapes, array, number, output, shape(value)) for number in range(len(inputs)))
        parts = (moved(node.kind, *each) for each in zip(steps, inputs, strict=True) if each[1] is not NOTHING)
        yield NOTHING if 0 in shape(value) else functools.reduce(union, parts, NOTHING)


def _inside(known: Known, inputs: Sequence[Along]) -> list[Along]:
    """The outputs of a program."""
    given = zip(known.graph.inputs, inputs, strict=True)
    found = followed(known, {value: along for value, along in given if along is not NOTHING})
    return [found.get(value, NOTHING) for value in known.graph.outputs]


def _scanned(node: Node, inputs: Sequence[Along]) -> list[Along] | None:
    """The outputs of a scan, iteration by iteration; None if there are too many of these."""
    (view,) = node.view.inside(node.equation)
    known = Known(Graph(view))
    whole, carried = jaxprs.scanned(node.equation)
    fixed, carry = inputs[:whole], inputs[whole : whole + carried]
    pieces = [_moved_by(along, -1) for along in inputs[whole + carried :]]
    piles = [NOTHING] * (len(node.outputs) - carried)
    for _ in range(min(node.equation.params["length"], _MOST)):
        before = carry
        made = _inside(known, [*fixed, *carry, *pieces])
        carry, piles = made[:carried], list(map(union, piles, made[carried:]))
        if all(map(_is_equal, before, carry)):
            break
    else:
        if node.equation.params["length"] > _MOST:
            return None
    return [*carry, *(_moved_by(along, 1) for along in piles)]


def _moved_by(along: Along, axes: int) -> Along:
    """Inside or outside of a scan, which cuts up and piles up along the first axis."""
    if along.axis is None:
        return along
    return along.at(along.axis + axes) if along.axis + axes >= 0 else WHOLE


def _is_equal(one: Along, other: Along) -> bool:
    return one.axis == other.axis and bool(
        np.array_equal(one.first, other.first) and np.array_equal(one.last, other.last)
    )
