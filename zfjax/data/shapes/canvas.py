"""A canvas of paint numbers: polygons are filled with numbers, which lookups turn into colors or owners.

It is drawn at twice the picture's size, to get smooth edges. What was filled is kept with the name of the thing that it
belongs to, so that the same canvas can be drawn without one of them.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw

from zfjax.data.shapes.geometry import Points

SIDE = 128  # pixels of the finished picture
FINE = 2 * SIDE  # pixels of the canvas
CLUTTER, COVER = 254, 255  # owners that are no part of the object: what is scattered behind it, and what is in front
_LEVELS = 16  # steps from a paint's first color to its second
_PIXELS = np.arange(FINE**2)

Rng = np.random.Generator
Rgb = tuple[float, float, float]  # 0..255


class Paint(NamedTuple):
    """Two colors and the texture that mixes them."""

    first: Rgb
    second: Rgb
    texture: int


class _Fill(NamedTuple):
    """A polygon, and the thing that it is part of."""

    thing: str
    corners: list[float]  # x, y, x, y, … in pixels of the canvas
    number: int
    line: int
    width: float


class Snapshot(NamedTuple):
    """A canvas as it was."""

    image: Image.Image
    fills: Sequence[_Fill]


class Canvas:
    """Paint numbers, [FINE, FINE]; each belongs to an owner: 0 for the background, else a part, CLUTTER or COVER.

    Attributes:
        thing: the name of what is drawn next, for `without`.
    """

    def __init__(self) -> None:
        self.thing = ""
        self._image = Image.new("L", (FINE, FINE))
        self._pen = ImageDraw.Draw(self._image)
        self._paints: list[Paint] = []
        self._owners: list[int] = []
        self._flood = 0
        self._fills: list[_Fill] = []

    def mix(self, paint: Paint, owner: int = 0) -> int:
        """Add a paint; returns its number."""
        self._paints.append(paint)
        self._owners.append(owner)
        return len(self._paints) - 1

    def fill(self, outline: Points, number: int, line: int = 0, width: float = 0.0) -> None:
        """Fill a polygon, given in the picture's pixels, and draw its edge `width` pixels wide with paint `line`."""
        self._add(_Fill(self.thing, (outline * (FINE / SIDE)).ravel().tolist(), number, line, width))

    def _add(self, fill: _Fill) -> None:
        self._fills.append(fill)
        self._pen.polygon(fill.corners, fill=fill.number)
        if fill.width:
            width = round(fill.width * FINE / SIDE)
            self._pen.line(fill.corners + fill.corners[:4], fill=fill.line, width=width, joint=None)

    def flood(self, number: int) -> None:
        """Cover the whole canvas; the first thing to be drawn."""
        self._flood = number
        self._image.paste(number, (0, 0, FINE, FINE))

    def things(self) -> tuple[str, ...]:
        """The names of what was drawn, back to front."""
        return tuple(dict.fromkeys(fill.thing for fill in self._fills))

    def without(self, thing: str) -> "Canvas":
        """The same canvas, with nothing of this thing drawn."""
        other = Canvas()
        other._paints, other._owners = self._paints, self._owners
        other.flood(self._flood)
        for fill in self._fills:
            if fill.thing != thing:
                other._add(fill)
        return other

    def owners(self) -> UInt8[np.ndarray, "side side"]:
        """The owner that each pixel of the finished picture shows."""
        numbers = np.asarray(self._image)[::2, ::2]
        return np.array(self._owners, np.uint8)[numbers]

    def shown(self) -> Bool[np.ndarray, "side side"]:
        """The pixels that show a part of the object."""
        owners = self.owners()
        return (owners > 0) & (owners < CLUTTER)

    def snapshot(self) -> Snapshot:
        """A copy of the canvas, for `restore`."""
        return Snapshot(self._image.copy(), tuple(self._fills))

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to a snapshot."""
        self._image.paste(snapshot.image)
        self._fills = list(snapshot.fills)

    def picture(self, rng: Rng) -> UInt8[np.ndarray, "side side 3"]:
        """The finished picture in RGB with smoothed edges and random texture shift, contrast, tint and brightness."""
        tint = rng.uniform(0.88, 1.12, 3) * rng.uniform(0.75, 1.15)
        paints = np.array([(paint.first, paint.second) for paint in self._paints])
        first, second = np.moveaxis((paints - 110.0) * tint + rng.uniform(98, 136), 1, 0)
        mixed = first[:, None] + (second - first)[:, None] * np.linspace(0, 1, _LEVELS)[:, None]
        lookup = np.zeros((len(mixed), _LEVELS, 4), np.uint8)
        lookup[..., :3] = np.clip(mixed, 0, 255)
        texture = np.array([paint.texture for paint in self._paints])
        start = texture * (2 * FINE**2) + int(rng.integers(FINE**2))
        numbers = np.asarray(self._image).ravel().astype(np.intp)
        # No index is out of range; "clip" skips the check, which takes half the time.
        levels = _textures().take(start.take(numbers, mode="clip") + _PIXELS, mode="clip")
        pixels = lookup.view(np.uint32).take(numbers * _LEVELS + levels, mode="clip")
        fine = Image.frombuffer("RGBX", (FINE, FINE), pixels, "raw", "RGBX", 0, 1)
        return np.asarray(fine.reduce(2).convert("RGB"))


def textures_count() -> int:
    """The number of textures; texture 0 is plain."""
    return len(_textures()) // (2 * FINE**2)


@functools.cache
def _textures() -> UInt8[np.ndarray, "pixels"]:
    """Levels 0.._LEVELS-1 of all textures in turn, each stored twice, so that a window into it is a shifted texture."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:FINE, :FINE] * (2 * np.pi / FINE)
    waves = [np.sin(a * x + b * y) for a, b in ((9, 0), (0, 14), (12, 12), (20, -9), (3, 2), (-2, 4))]
    bands = [np.sign(np.sin(a * x + b * y)) for a, b in ((8, 0), (0, 11), (10, 10), (13, -9))]
    checks = np.sign(np.sin(12 * x) * np.sin(12 * y))
    dots = np.where(np.sin(12 * x) + np.sin(12 * y) > 0.9, 1.0, -1.0)
    joints = np.maximum(np.cos(18 * y), np.cos(9 * x + np.pi * (np.sin(9 * y) > 0)))
    bricks = np.where(joints > 0.93, 1.0, -1.0)
    clouds = [_clouds(rng, power) for power in (1.0, 1.5, 2.0)]
    plain = np.full_like(x, -1.0)
    values = np.stack([plain, *waves, *bands, checks, dots, bricks, *clouds])
    levels = (values * 0.5 + 0.5) * (_LEVELS - 1) + rng.random(x.shape)  # noise hides the steps
    return np.tile(np.clip(levels, 0, _LEVELS - 1).astype(np.uint8).reshape(len(values), -1), 2).ravel()


def _clouds(rng: Rng, power: float) -> Float[np.ndarray, "fine fine"]:
    """Noise in [-1, 1] whose amplitude falls with frequency**power."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(FINE), np.fft.fftfreq(FINE))) * FINE
    spectrum = np.fft.fft2(rng.standard_normal((FINE, FINE))) / np.maximum(frequency, 1.0) ** power
    spectrum[0, 0] = 0.0
    noise = np.fft.ifft2(spectrum).real
    return np.clip(noise / (2 * noise.std()), -1.0, 1.0)
