"""Where each value of a program looks in the images, worked out from the equations."""

from typing import NamedTuple

import numpy as np

from zfjax.transform.geometry.along import NOTHING, Along
from zfjax.transform.geometry.following import followed
from zfjax.transform.geometry.known import Known
from zfjax.transform.graph import Graph, Value


class Geometry(NamedTuple):
    """How the elements of a value lie along the axes of the images."""

    batch: Along
    height: Along
    width: Along


class Field(NamedTuple):
    """The receptive fields along one axis of the images, as in the layer table."""

    size: int  # pixels that one unit sees
    stride: float  # pixels between neighboring units' fields
    offset: float  # pixel at the center of the first unit's field, the image's first pixel being 0


def geometry(graph: Graph, images: Value, axes: tuple[int, int, int]) -> dict[Value, Geometry]:
    """What every value of a program depends on.

    Fields include those pixels outside of the image, and those next to its edge, that a unit would see if the maps
    below went on there instead of being padded; else a field is exact, or, where a rule does not know better, larger.

    Args:
        graph: the program.
        images: the value of the images.
        axes: their batch, height and width axis.
    """
    shape = graph.avals[images].shape
    known = Known(graph)
    pixels = (np.arange(shape[axis], dtype=np.float64) for axis in axes)
    starts = (Along(axis, pixel, pixel, 1.0) for axis, pixel in zip(axes, pixels, strict=True))
    batch, height, width = (followed(known, {images: start}) for start in starts)
    found = {value: Geometry(*(along.get(value, NOTHING) for along in (batch, height, width))) for value in graph.avals}
    if shape[axes[0]] == 1:
        return {value: _of_one_image(geometry, graph.avals[value].shape) for value, geometry in found.items()}
    return found


def _of_one_image(geometry: Geometry, shape: tuple[int, ...]) -> Geometry:
    """With the batch along the first axis of size 1 where it is lost: JAX squeezes such axes and adds them again."""
    if geometry.batch is NOTHING or geometry.batch.axis is not None:
        return geometry
    taken = (geometry.height.axis, geometry.width.axis)
    spare = (axis for axis, size in enumerate(shape) if size == 1 and axis not in taken)
    return geometry._replace(batch=geometry.batch.at(next(spare, None)))


def field(along: Along, extent: int) -> Field | None:
    """The size, stride and offset that all units have; None where they see all of the image or differ.

    Args:
        along: how a value lies along an axis of the images.
        extent: the images' size along it.
    """
    if not along.is_even or (along.axis is None and along.first[0] <= 0 and along.last[0] >= extent - 1):
        return None
    first, last = float(along.first[0]), float(along.last[0])
    return Field(round(last - first) + 1, float(along.stride), (first + last) / 2)


def channels_last(geometry: Geometry, ndim: int) -> tuple[int, ...]:
    """The order of axes that makes a value [N, H, W, C], [N, T, C] if both lie along one axis, or [N, C].

    Axes that the images do not lie along stay in their order, after the others.
    """
    front = dict.fromkeys(along.axis for along in geometry if along.axis is not None)
    return (*front, *(axis for axis in range(ndim) if axis not in front))
