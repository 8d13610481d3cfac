"""Image files to RGB: every mode Pillow knows becomes uint8, and a broken file becomes one clear error.

Gray is repeated, palettes are looked up, CMYK is converted without color profiles, 16-bit samples keep their high byte
(or their low bits if only those are used: `images.depth`), transparent pixels go on white, EXIF rotation is applied,
and an animation gives its first frame. A truncated file counts as a picture if at most 5 % of its pixels are missing;
they are black, or a JPEG's last color. `images.bounds` limits the memory a picture may take.
"""

import contextlib
import math
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zfjax.data.images.depth import Box
from zfjax.data.images.loading import Picture, read

_WHITE = (255, 255, 255, 255)
_BAND = 1_000_000  # pixels of a large picture to convert at once
_LARGE = 4_000_000  # pixels
_TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {  # how to undo each of EXIF's orientations
    2: np.fliplr,
    3: lambda pixels: np.rot90(pixels, 2),
    4: np.flipud,
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: np.rot90(pixels, -1),
    7: lambda pixels: np.rot90(pixels, 2).swapaxes(0, 1),
    8: np.rot90,
}


class BrokenImage(Exception):
    """A picture that cannot be read; the message names it and says why."""


def decode(data: bytes, name: str = "") -> UInt8[np.ndarray, "height width 3"]:
    """Decode the picture in `data`, an image file's bytes, at its own size.

    Args:
        data: the file.
        name: what messages call it.

    Raises:
        BrokenImage: it is not an image, is truncated, or would take more memory than a picture may.
    """
    with _as_broken(name):
        return read(data, name, 0, _whole)


def decode_square(data: bytes, size: int, name: str = "") -> UInt8[np.ndarray, "size size 3"]:
    """Decode a picture, scale its smallest side to `size` pixels, and cut out the center square.

    This is one antialiased bilinear resize of the largest centered square: both sides by the same factor. A large JPEG
    or JPEG 2000 file is first decoded at a half, quarter or eighth of its size, never below `size`.

    Args:
        data: the file.
        size: pixels of the square's side.
        name: what messages call it.

    Raises:
        BrokenImage: as for `decode`.
    """
    with _as_broken(name):
        return read(data, name, size, lambda picture: _square(picture, size))


@contextlib.contextmanager
def _as_broken(name: str) -> Iterator[None]:
    """Turn whatever a reader raises on a damaged file into a `BrokenImage`."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise BrokenImage(f"{name}: {reason}" if name else reason) from error


def _whole(picture: Picture) -> UInt8[np.ndarray, "height width 3"]:
    width, height = picture.size
    upright = np.empty((width, height, 3) if picture.orientation in (5, 6, 7, 8) else (height, width, 3), np.uint8)
    as_stored = _TURNS.get({6: 8, 8: 6}.get(picture.orientation, picture.orientation), np.asarray)(upright)
    for box in _bands((0, 0, width, height)):
        as_stored[box[1] : box[3]] = np.asarray(_rgb(picture.part(box)))
    return upright


def _square(picture: Picture, size: int) -> UInt8[np.ndarray, "size size 3"]:
    turn = _TURNS.get(picture.orientation)
    if math.prod(picture.size) > _LARGE:
        pixels = np.asarray(_resized(_reduced_square(picture, size), size))
        return np.ascontiguousarray(turn(pixels)) if turn else pixels
    image = _rgb(picture.part((0, 0, *picture.size)))
    if turn:
        image = Image.fromarray(np.ascontiguousarray(turn(np.asarray(image))))
    return np.asarray(_resized(image, size))


def resized_square(pixels: UInt8[np.ndarray, "height width 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """The same square as `decode_square` makes of a picture's file, of the picture itself."""
    return np.asarray(_resized(Image.fromarray(pixels), size))


def _resized(image: Image.Image, size: int) -> Image.Image:
    """The centered square of an RGB picture."""
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    return image.resize((size, size), Image.Resampling.BILINEAR, (left, top, left + side, top + side), reducing_gap=2.0)


def _reduced_square(picture: Picture, size: int) -> Image.Image:
    """The centered square of a large picture, reduced by a whole factor, converted to RGB band by band."""
    side = min(picture.size)
    factor = max(1, side // (2 * size))
    left, top = ((length - side) // 2 for length in picture.size)
    small = Image.new("RGB", (-(-side // factor), -(-side // factor)))
    for box in _bands((left, top, left + side, top + side), factor):
        small.paste(_rgb(picture.part(box)).reduce(factor), (0, (box[1] - top) // factor))
    return small


def _bands(box: Box, rows: int = 1) -> Iterator[Box]:
    """Cut `box` into bands from top to bottom; each but the last has a multiple of `rows` rows."""
    left, top, right, bottom = box
    step = rows * max(1, _BAND // ((right - left) * rows))
    return ((left, start, right, min(start + step, bottom)) for start in range(top, bottom, step))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode == "F":
        raise BrokenImage("floating-point pixels have no defined white; expected 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")
