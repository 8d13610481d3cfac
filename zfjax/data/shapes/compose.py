"""One picture: an object in a random pose and light, on a cluttered background, often with something in front."""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Box
from zfjax.data.shapes import clutter
from zfjax.data.shapes.canvas import SIDE, Canvas, Rgb, Rng
from zfjax.data.shapes.colors import paint, palette
from zfjax.data.shapes.geometry import random_pose
from zfjax.data.shapes.objects import DRAWINGS, Drawing

_RAMP = np.linspace(-0.5, 0.5, SIDE, dtype=np.float32)


class Part(NamedTuple):
    """A named part and the box around its visible pixels."""

    name: str
    box: Box


@shown_by_shape
class Scene(NamedTuple):
    """A picture and where its object is. Mask and boxes include only visible pixels."""

    image: UInt8[np.ndarray, "128 128 3"]
    mask: Bool[np.ndarray, "128 128"]
    box: Box
    parts: tuple[Part, ...]  # in the class's order, without those fully hidden
    hidden: float  # the hidden share of the object's pixels


def scene(rng: Rng | int, label: int) -> Scene:
    """Draw a picture of class `label` of `CLASSES`; the same seed or generator state gives the same picture."""
    rng = np.random.default_rng(rng)
    canvas, drawing = Canvas(), DRAWINGS[label]
    base = clutter.background(rng, canvas)
    clutter.scatter(rng, canvas)
    _draw(rng, canvas, drawing, base)
    hidden = clutter.occlude(rng, canvas)
    owners = canvas.owners()
    parts = [(name, owners == k + 1) for k, name in enumerate(drawing.parts)]
    image = _light(rng, canvas.picture(rng))
    seen = tuple(Part(name, Box.around(where)) for name, where in parts if where.any())
    return Scene(image, owners > 0, Box.around(owners > 0), seen, hidden)


def _draw(rng: Rng, canvas: Canvas, drawing: Drawing, background: Rgb) -> None:
    pieces = drawing.draw(rng)
    pose = random_pose(rng, 0.72 * SIDE, 0.95 * SIDE, math.radians(15), drawing.mirror)
    colors = palette(rng, background)
    paints = [paint(rng, c, 0.15) for c in colors]
    width, line = float(rng.choice((0.0, 0.5, 1.0, 1.5))), paint(rng, colors[3], 0.0)
    numbers: dict[tuple[str, int], int] = {}
    for piece, outline in zip(pieces, pose.carry([p.outline for p in pieces], SIDE), strict=True):
        owner = drawing.parts.index(piece.part) + 1
        for slot, p in ((-1, line), (piece.color, paints[piece.color])):
            if (piece.part, slot) not in numbers:
                numbers[piece.part, slot] = canvas.mix(p, owner)
        canvas.fill(outline, numbers[piece.part, piece.color], numbers[piece.part, -1], width)


def _light(rng: Rng, image: UInt8[np.ndarray, "side side 3"]) -> UInt8[np.ndarray, "side side 3"]:
    """Add light from one side, soft patches of shade, and grain."""
    angle, slope, strength = rng.uniform((0, 0, 0), (2 * math.pi, 0.45, 0.1))
    coarse = rng.uniform(-0.2, 0.2, (5, 5)).astype(np.float32)
    light = np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    light += np.float32(1.0) + np.float32(slope * math.cos(angle)) * _RAMP[:, None]
    light += np.float32(slope * math.sin(angle)) * _RAMP
    grain = np.frombuffer(rng.bytes(light.size), np.int8).reshape(light.shape) * np.float32(strength)
    # 16-bit integers with channels laid out along the rows are far faster than floats per pixel and channel.
    scale, noise = (np.repeat(a.astype(np.int16), 3, axis=1) for a in (light * np.float32(64), grain))
    lit = (image.reshape(scale.shape) * scale >> 6) + noise
    return np.clip(lit, 0, 255, out=lit).astype(np.uint8).reshape(image.shape)
