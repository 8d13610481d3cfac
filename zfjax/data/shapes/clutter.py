"""Everything but the object: the background, scattered clutter, and an occluder over part of the object."""

import functools
import math

import numpy as np

from zfjax.data.shapes.canvas import CLUTTER, COVER, SIDE, Canvas, Rgb, Rng
from zfjax.data.shapes.colors import color, dark, paint
from zfjax.data.shapes.geometry import Points, arc, ellipse, random_pose, rectangle, ring, stroke, turn
from zfjax.data.shapes.objects import DRAWINGS

MOST_HIDDEN = 0.15  # largest hidden share of the object's pixels


def background(rng: Rng, canvas: Canvas) -> Rgb:
    """Cover the canvas with up to four textured regions; returns the first one's color."""
    base = color(rng)
    canvas.flood(canvas.mix(paint(rng, base, 0.6)))
    for number in range(int(rng.integers(0, 4))):
        canvas.thing = f"region {number + 1}"
        offset, far = rng.uniform(-0.4, 0.4) * SIDE, 2.0 * SIDE
        half = rectangle(-far, offset, far, far) @ turn(rng.uniform(0, 2 * math.pi)) + SIDE / 2
        canvas.fill(half, canvas.mix(paint(rng, color(rng), 0.6)))
    return base


def scatter(rng: Rng, canvas: Canvas) -> None:
    """Scatter simple shapes and single parts of drawings, so that one circle or triangle does not reveal the class."""
    for number in range(int(rng.integers(2, 5))):
        canvas.thing = f"clutter {number + 1}"
        pose = random_pose(rng, 10, 44, math.pi)
        parts = _parts()
        outlines = parts[int(rng.integers(len(parts)))] if rng.random() < 0.25 else [_simple(rng)]
        width = 0.75 if rng.random() < 0.5 else 0.0
        line = canvas.mix(paint(rng, dark(rng), 0.0), CLUTTER)
        numbers = [canvas.mix(paint(rng, color(rng), 0.4), CLUTTER) for _ in range(min(3, len(outlines)))]
        for k, outline in enumerate(pose.carry(outlines, SIDE)):
            canvas.fill(outline, numbers[k % 3], line, width)


def occlude(rng: Rng, canvas: Canvas) -> float:
    """Cover part of the object in most pictures; returns the hidden share of the object's pixels."""
    if rng.random() < 0.4:
        return 0.0
    rows, columns = np.nonzero(canvas.shown())
    number, before = canvas.mix(paint(rng, color(rng), 0.5), COVER), canvas.snapshot()
    pick = int(rng.integers(len(rows)))
    outline = _simple(rng) @ turn(rng.uniform(0, 2 * math.pi)) * rng.uniform(10, 24)
    canvas.thing = "occluder"
    for shrink in (1.0, 0.7, 0.45):
        canvas.fill(outline * shrink + (columns[pick], rows[pick]), number)
        hidden = 1.0 - np.count_nonzero(canvas.shown()) / len(rows)
        if hidden <= MOST_HIDDEN:
            return hidden
        canvas.restore(before)
    return 0.0


def _simple(rng: Rng) -> Points:
    """A random simple shape like those in drawings, in the drawings' frame."""
    kind, ratio, sides = int(rng.integers(6)), rng.uniform(0.3, 1.0), int(rng.integers(3, 8))
    if kind == 0:
        return ellipse(0, 0, 1, ratio)
    if kind == 1:
        return rectangle(-1, -ratio, 1, ratio)
    if kind == 2:
        return ring(0, 0, 1, 1, ratio * 0.8, 0, rng.uniform(2, 2 * math.pi))
    if kind == 3:
        return stroke(-1.4, 0, 1.4, 0, 0.3 * ratio, ratio)
    corners = arc(0, 0, 1, 1, 0, 2 * math.pi, sides + 1)[:-1]
    return corners * rng.uniform(0.45, 1.0, (sides, 1)) if kind == 4 else corners


@functools.cache
def _parts() -> list[list[Points]]:
    """Outlines of single parts of drawings, several samples of each part."""
    rng = np.random.default_rng(1)
    return [
        [piece.outline for piece in pieces if piece.part == part]
        for drawing in DRAWINGS
        for pieces in (drawing.draw(rng) for _ in range(12))
        for part in drawing.parts
    ]
