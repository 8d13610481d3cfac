"""Image files to RGB: every mode Pillow knows comes out as uint8, a broken file as one clear error.

Grey is repeated, palettes are looked up, CMYK is converted without colour profiles, 16 bits keep their high
byte, what is transparent lies on white, EXIF rotation is applied, and an animation gives its first frame.
"""

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zfjax.data import formats

try:  # the extra `fast`: the same pixels from colour JPEGs, sooner
    import simplejpeg
except ImportError:
    simplejpeg = None

_WHITE = (255, 255, 255, 255)
_ORIENTATION = 0x0112  # EXIF's tag, and how to undo each of its values
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class BrokenImage(Exception):
    """A picture that cannot be read; the message names it and says why."""


def decode(data: bytes) -> UInt8[np.ndarray, "height width 3"]:
    """The picture in `data`, an image file's bytes, in its own size.

    Raises:
      BrokenImage: it is no image, is cut short, or is too large to be meant.
    """
    return _pixels(_open(data))


def decode_square(data: bytes, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The picture with its smallest side brought to `size` pixels, and of that the centre square.

    One antialiased bilinear resize of the largest centred square: both sides by the same factor. A large JPEG
    is first decoded at a half, quarter or eighth, never below `size`.

    Raises:
      BrokenImage: as `decode`.
    """
    image = _open(data, size)
    width, height = image.size
    side = min(width, height)
    if (width, height) == (size, size):
        return _pixels(image)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return _pixels(image.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=2.0))


def named(name: str, read: Callable[..., Any], *args: Any) -> Any:
    """`read(*args)`, where a `BrokenImage` gets the picture's name in front."""
    try:
        return read(*args)
    except BrokenImage as error:
        raise BrokenImage(f"{name}: {error}") from error


def _open(data: bytes, smallest: int = 0) -> Image.Image:
    _quiet_pillow()
    try:
        image = Image.open(io.BytesIO(data), formats=[kind.name for kind in formats.available()])
        size = image.size
        if smallest:
            image.draft(None, (smallest, smallest))
        if simplejpeg and image.format == "JPEG" and image.mode == "RGB" and image.size == size:
            with contextlib.suppress(ValueError):  # stricter than Pillow, which then has the last word
                return _upright(Image.fromarray(simplejpeg.decode_jpeg(data, "RGB")), image)
        image.load()
        return _to_rgb(_upright(image, image))
    except Image.UnidentifiedImageError as error:
        raise BrokenImage("no picture of a known format" if data else "empty file") from error
    except Exception as error:  # Pillow's readers raise whatever a damaged file makes them stumble over
        raise BrokenImage(f"{error}" or type(error).__name__) from error


def _upright(image: Image.Image, file: Image.Image) -> Image.Image:
    try:
        orientation = file.getexif().get(_ORIENTATION)
    except Exception:  # damaged metadata of a picture whose pixels are whole
        return image
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        image = Image.fromarray(_high_byte(np.asarray(image)))
    if image.mode == "F":
        raise BrokenImage("floating-point pixels have no defined white; expected 8 or 16 bits")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, _WHITE), image).convert("RGB")
    return image.convert("RGB")


def _high_byte(pixels: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    if pixels.size and (pixels.min() < 0 or pixels.max() > 65535):
        raise BrokenImage("32-bit pixels have no defined white; expected 8 or 16 bits")
    return (pixels >> 8).astype(np.uint8)


def _pixels(image: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    return np.asarray(image, np.uint8)


def _quiet_pillow() -> None:
    """Silences Pillow's warnings on damaged metadata: what matters about a file is whether it decodes.

    `warnings.catch_warnings` is not safe among threads; a filter set once is, and is set again where it was
    undone.
    """
    if not any(getattr(entry[3], "pattern", None) == r"PIL\b" for entry in warnings.filters):
        warnings.filterwarnings("ignore", module=r"PIL\b")
