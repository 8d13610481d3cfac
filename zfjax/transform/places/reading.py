"""A program's places as data: where each is in its jaxpr, how its result is laid out, what it sees and costs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.extend.core as jex
import numpy as np
from jaxtyping import Array

from zfjax.transform import jaxprs, rectifiers
from zfjax.transform.geometry.along import NOTHING, Along
from zfjax.transform.geometry.receptive import Field, Geometry, channels_last, field, geometry
from zfjax.transform.graph import Graph, Node, Value
from zfjax.transform.places.cutting import Site
from zfjax.transform.places.names import places
from zfjax.transform.places.units import Unit
from zfjax.transform.places.weights import Held


class Layout(NamedTuple):
    """How a value becomes [N, H, W, C], [N, T, C] or [N, C]: its axes in this order, some of size 1 left out."""

    whole: tuple[int, ...]  # its shape
    parts: tuple[int, ...]  # its shape where the images have an axis of their own, which is merged with another in it
    order: tuple[int, ...]  # of the axes of `parts`
    dropped: tuple[int, ...]  # of the axes in the new order

    @property
    def shape(self) -> tuple[int, ...]:
        """What the value's shape becomes."""
        ordered = [self.parts[axis] for axis in self.order]
        return tuple(size for index, size in enumerate(ordered) if index not in self.dropped)

    def forward(self, x: Array) -> Array:
        """The value, channels last."""
        x = x.reshape(self.parts)
        x = x if self.order == tuple(range(x.ndim)) else x.transpose(self.order)
        return x.squeeze(self.dropped) if self.dropped else x

    def back(self, x: Array) -> Array:
        """The inverse."""
        for axis in self.dropped:
            x = x.reshape(*x.shape[:axis], 1, *x.shape[axis:])
        if self.order != tuple(range(x.ndim)):
            x = x.transpose([self.order.index(axis) for axis in range(x.ndim)])
        return x.reshape(self.whole)


class Spot(NamedTuple):
    """A place of a program.

    Attributes:
        kind: what computes it; see `units.Unit`.
        site: where it is.
        layout: how it becomes channels last.
        shape: what it is then.
        leaves: sizes of the arrays of weights that it reads, by path.
        multiply_adds: for all images together.
        fields: what a unit sees along height and width; None for the whole image.
    """

    kind: str
    site: Site
    layout: Layout
    shape: tuple[int, ...]
    leaves: dict[str, int]
    multiply_adds: int
    fields: tuple[Field, Field] | None  # where units differ, the largest field, whose stride and offset are NaN


def read(
    closed: jex.ClosedJaxpr, names: Sequence[str], held: Held | None, axes: tuple[int, int, int]
) -> dict[str, Spot]:
    """The places of a program, bottom first.

    Args:
        closed: the program, whose last input is the images.
        names: of its other inputs, the weights.
        held: names its constants; None: they have no names.
        axes: batch, height and width of the images.
    """
    jaxpr = closed.jaxpr
    view = jaxprs.View(closed, [False] * len(names) + [True], [True] * len(jaxpr.outvars))
    rectifiers.recognize(view)
    graph = Graph(view)
    weights = dict(zip(graph.inputs, names, strict=False))
    arrays = [(value, constant) for value, constant in graph.constants.items() if getattr(constant, "ndim", 0)]
    # Arrays without a name are numbered, so that they count as weights.
    for number, (value, constant) in enumerate(arrays):
        weights[value] = (held and held.name_of(constant)) or str(number)
    where = geometry(graph, graph.inputs[-1], axes)
    extents = tuple(graph.avals[graph.inputs[-1]].shape[axis] for axis in axes)
    return {
        name: _spot(graph, place.kind, place.value, place.units, where.get(place.value), extents)
        for name, place in places(graph, weights).items()
    }


def _spot(
    graph: Graph,
    kind: str,
    value: Value,
    units: Sequence[Unit],
    where: Geometry | None,
    extents: tuple[int, ...],
) -> Spot:
    shape = graph.avals[value].shape
    layout, fields = Layout(shape, shape, tuple(range(len(shape))), ()), None
    if where is not None:
        layout = _layout(where, shape, extents[0])
        fields = _fields(where, extents[1:])
    leaves = {path: math.prod(graph.avals[leaf].shape) for unit in units for path, leaf in unit.leaves.items()}
    multiply_adds = sum(_multiply_adds(node) for unit in units for node in unit.nodes)
    return Spot(kind, graph.sites[value], layout, layout.shape, leaves, multiply_adds, fields)


def _layout(where: Geometry, shape: tuple[int, ...], count: int) -> Layout:
    """How a value of some images becomes channels last."""
    axis = _merged(where.batch, shape, count)
    parts = shape
    if axis is not None:
        parts = (*shape[:axis], count, shape[axis] // count, *shape[axis + 1 :])
        height, width = (_moved_up(along, axis) for along in (where.height, where.width))
        where = Geometry(where.batch.at(axis), height, width)
    order = channels_last(where, len(parts))
    positions = {along.axis for along in where}
    spare = [index for index, axis in enumerate(order) if axis not in positions]
    single = [index for index in spare if parts[order[index]] == 1]
    return Layout(shape, parts, order, tuple(single if len(single) < len(spare) else single[:-1]))


def _merged(batch: Along, shape: tuple[int, ...], count: int) -> int | None:
    """The axis that the images share with another, such as tokens or heads; None if they have their own or none.

    One image has no axis where JAX leaves it out, as in products of matrices; then this is the first.
    """
    if batch.axis is None:
        return 0 if count == 1 and batch is not NOTHING and shape else None
    each = shape[batch.axis] // count
    images = np.repeat(np.arange(count), each)
    return (
        batch.axis if each > 1 and np.array_equal(batch.first, images) and np.array_equal(batch.last, images) else None
    )


def _moved_up(along: Along, axis: int) -> Along:
    """After an axis was put in front of another."""
    return along if along.axis is None or along.axis < axis else along.at(along.axis + 1)


def _fields(where: Geometry, extents: tuple[int, ...]) -> tuple[Field, Field] | None:
    """What units see along height and width; None for the whole image."""
    fields = []
    for along, extent in zip((where.height, where.width), extents, strict=True):
        size = float(np.max(along.last - along.first)) + 1
        one = field(along, extent)
        if one is None and (along.axis is None or not math.isfinite(size)):
            return None
        fields.append(one or Field(round(size), math.nan, math.nan))
    return fields[0], fields[1]


def _multiply_adds(node: Node) -> int:
    """What a convolution or product of matrices takes."""
    out = math.prod(node.equation.outvars[0].aval.shape)
    params = node.equation.params
    match node.kind:
        case "conv_general_dilated":
            kernel = node.equation.invars[1].aval.shape
            return out * math.prod(kernel) // kernel[params["dimension_numbers"].rhs_spec[0]]
        case "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            return out * math.prod(node.equation.invars[0].aval.shape[axis] for axis in contracted)
    return 0
