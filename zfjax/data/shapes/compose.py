"""One picture: an object in a random pose and light, on a cluttered background, often with something in front."""

import copy
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


@shown_by_shape
class Without(NamedTuple):
    """A picture with one thing left out of the drawing, and all else as it was."""

    thing: str  # a part's name, clutter 1, region 2 (of the background), occluder
    is_part: bool  # of the object
    image: UInt8[np.ndarray, "128 128 3"]


def scene(rng: Rng | int, label: int) -> Scene:
    """Draw a picture of class `label` of `CLASSES`; the same seed or generator state gives the same picture."""
    rng = np.random.default_rng(rng)
    canvas, drawing, hidden = _composed(rng, label)
    owners, mask = canvas.owners(), canvas.shown()
    parts = [(name, owners == k + 1) for k, name in enumerate(drawing.parts)]
    image = _light(rng, canvas.picture(rng))
    seen = tuple(Part(name, Box.around(where)) for name, where in parts if where.any())
    return Scene(image, mask, Box.around(mask), seen, hidden)


def owners(rng: Rng | int, label: int) -> UInt8[np.ndarray, "128 128"]:
    """What each pixel of `scene` shows: a part, by its number in the class from 1; CLUTTER; COVER; or 0, background.

    It takes a third of the time of `scene`, since colors are not mixed.
    """
    return _composed(np.random.default_rng(rng), label)[0].owners()


def counterfactuals(rng: Rng | int, label: int) -> tuple[UInt8[np.ndarray, "128 128 3"], tuple[Without, ...]]:
    """Draw the picture of `scene`, and again without each thing in it: exact counterfactuals.

    Where a thing is left out, what lies behind it is seen. All else (poses, colors, textures, light, grain) is the same
    to the last bit, so two pictures differ only where the thing was seen. A thing that is hidden altogether is not
    among them.

    Args:
        rng: as in `scene`.
        label: as in `scene`.

    >>> picture, others = counterfactuals(5, 0)
    >>> [other.thing for other in others if other.is_part]
    ['hair', 'ears', 'head', 'left_eye', 'brows', 'right_eye', 'nose', 'mouth']
    >>> {other.image.shape for other in others}
    {(128, 128, 3)}
    """
    rng = np.random.default_rng(rng)
    canvas, drawing, _ = _composed(rng, label)

    def finished(canvas: Canvas) -> UInt8[np.ndarray, "128 128 3"]:
        same = copy.deepcopy(rng)
        return _light(same, canvas.picture(same))

    whole = finished(canvas)
    others = ((thing, finished(canvas.without(thing))) for thing in canvas.things())
    return whole, tuple(
        Without(thing, thing in drawing.parts, image) for thing, image in others if (image != whole).any()
    )


def _composed(rng: Rng, label: int) -> tuple[Canvas, Drawing, float]:
    """A picture's canvas, the drawing of its object, and the hidden share of the object's pixels."""
    canvas, drawing = Canvas(), DRAWINGS[label]
    base = clutter.background(rng, canvas)
    clutter.scatter(rng, canvas)
    _draw(rng, canvas, drawing, base)
    return canvas, drawing, clutter.occlude(rng, canvas)


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
        canvas.thing = piece.part
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
