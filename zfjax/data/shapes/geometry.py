"""Outlines in an object's own frame, and the pose that maps them into a picture.

In the frame, x points right and y down, and an object is roughly inside [-1, 1] in both. Every outline is a polygon, so
that one map moves everything.
"""

import enum
import itertools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zfjax.console.text import shown_by_shape

Points = Float[np.ndarray, "_ 2"]  # (x, y)


class Color(enum.IntEnum):
    """Which of a palette's colors a piece takes; each picture draws its own palette."""

    MAIN = 0
    SECOND = 1
    THIRD = 2
    DARK = 3  # for small details only: a large bright or dark area would give the class away
    LIGHT = 4


@shown_by_shape
class Piece(NamedTuple):
    """One filled polygon of a drawing; pieces with the same part name make up one part."""

    part: str
    outline: Points
    color: Color


def polygon(*corners: tuple[float, float]) -> Points:
    """The polygon with these (x, y) corners."""
    return np.array(corners)


def rectangle(left: float, top: float, right: float, bottom: float) -> Points:
    """An upright rectangle."""
    return polygon((left, top), (right, top), (right, bottom), (left, bottom))


def join(*lines: Points) -> Points:
    """One outline out of several lines of points."""
    return np.concatenate(lines)


def arc(x: float, y: float, rx: float, ry: float, start: float, stop: float, count: int = 14) -> Points:
    """Points on an ellipse about (x, y) from angle `start` to `stop` (radians, clockwise from the right)."""
    angles = start + (stop - start) / (count - 1) * np.arange(count)
    points = np.empty((count, 2))
    points[:, 0] = x + rx * np.cos(angles)
    points[:, 1] = y + ry * np.sin(angles)
    return points


_CIRCLE = arc(0.0, 0.0, 1.0, 1.0, 0.0, 2 * math.pi, 29)[:-1]


def ellipse(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> Points:
    """An ellipse about (x, y), its x axis turned clockwise by `tilt` radians."""
    round_ = _CIRCLE * (rx, ry)
    return (round_ @ turn(tilt) if tilt else round_) + (x, y)


def ring(x: float, y: float, rx: float, ry: float, inner: float, start: float, stop: float) -> Points:
    """A ring from angle `start` to `stop` (radians) whose inner radii are `inner` times the outer ones."""
    return join(arc(x, y, rx, ry, start, stop), arc(x, y, rx * inner, ry * inner, stop, start))


def leaf(x: float, y: float, rx: float, top: float, bottom: float, tilt: float = 0.0) -> Points:
    """A shape with pointed left and right ends that extends `top` above and `bottom` below (x, y)."""
    along = np.linspace(-1, 1, 14)
    bulge = 1 - along**2
    upper = np.stack([rx * along, -top * bulge], axis=1)
    lower = np.stack([rx * along, bottom * bulge], axis=1)
    return join(upper, lower[-2:0:-1]) @ turn(tilt) + (x, y)


def stroke(x0: float, y0: float, x1: float, y1: float, width: float, taper: float = 1.0) -> Points:
    """A straight line `width` wide at its start and `taper` times that at its end."""
    length = math.hypot(x1 - x0, y1 - y0) or 1.0
    across, along = (y0 - y1) / length * width / 2, (x1 - x0) / length * width / 2
    return polygon(
        (x0 + across, y0 + along),
        (x1 + across * taper, y1 + along * taper),
        (x1 - across * taper, y1 - along * taper),
        (x0 - across, y0 - along),
    )


def turn(angle: float) -> Float[np.ndarray, "2 2"]:
    """The matrix M for which `points @ M` turns clockwise in the picture by `angle` radians."""
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, sin], [-sin, cos]])


class Pose(NamedTuple):
    """An object's placement in a picture."""

    angle: float  # radians, clockwise
    stretch: float  # width over height, relative to the drawing
    shear: float
    lean: tuple[float, float]  # perspective: how much nearer the right and the lower side are
    mirror: bool
    extent: float  # the longer side of the object's box, in pixels
    place: tuple[float, float]  # 0..1: position in the free space, across and down

    def carry(self, outlines: list[Points], side: int) -> list[Points]:
        """Map the outlines to pixels of a square picture, `side` wide; all end up inside it."""
        points = np.concatenate(outlines)
        frame = np.array([[-self.stretch if self.mirror else self.stretch, 0.0], [self.shear, 1.0]])
        points = points @ (frame @ turn(self.angle))
        points = points / (1.0 - points @ np.array(self.lean))[:, None]
        low, high = points.min(axis=0), points.max(axis=0)
        scale = self.extent / (high - low).max()
        room = side - (high - low) * scale
        points = (points - low) * scale + room * np.array(self.place)
        ends = itertools.accumulate(len(outline) for outline in outlines)
        return [points[end - len(outline) : end] for outline, end in zip(outlines, ends, strict=True)]


def random_pose(rng: np.random.Generator, low: float, high: float, tilt: float, mirror: bool = True) -> Pose:
    """A random pose: longer side `low` to `high` pixels, rotated by at most `tilt` radians either way."""
    r = rng.uniform(-1.0, 1.0, 6)
    across, down, size, side = rng.random(4)
    return Pose(
        angle=tilt * r[0],
        stretch=1.22 ** r[1],
        shear=0.18 * r[2],
        lean=(0.14 * r[3], 0.14 * r[4]),
        mirror=mirror and side < 0.5,
        extent=low + (high - low) * size,
        place=(across, down),
    )
