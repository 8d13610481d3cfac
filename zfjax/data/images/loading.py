"""Load an image file: open it, check its memory bounds, let the decoder shrink it, and read its pixels."""

import contextlib
import math
import threading
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from zfjax.data import formats
from zfjax.data.images import bounds, depth, jpeg2000, jpegs, pngs
from zfjax.data.images.notes import say_once

try:  # the extra `fast`: the same pixels of color JPEGs, faster
    import simplejpeg
except ImportError:
    simplejpeg = None

_ORIENTATION = 0x0112  # EXIF tag
_PLANES, _TILES = 284, 324  # TIFF tags: channels side by side or apart; offsets of tiles
_BY_ROWS = {"PNG", "BMP", "DIB", "PPM", "TGA"}  # formats read row by row; unread rows are zero
_LOST = 0.05  # the largest share of pixels that a file may lack


class Picture(NamedTuple):
    """A picture whose pixels are in memory as stored: in any of Pillow's modes, not rotated."""

    size: tuple[int, int]  # width and height
    part: Callable[[depth.Box], Image.Image]  # 8-bit
    orientation: int  # EXIF's: 1 is upright


def read(data: bytes, name: str, smallest: int, use: Callable[[Picture], np.ndarray]) -> np.ndarray:
    """Decode a file and pass the picture to `use`, within the memory budget for all pictures decoded at once.

    Args:
        data: the file.
        name: what to call it in warnings.
        smallest: the decoder may shrink the picture as long as no side gets below this many pixels; 0: never shrink.
        use: gets the picture and must not keep any of it.

    Returns:
        What `use` returns.

    Raises:
        Exception: of any kind, as readers of damaged files do.
    """
    with _QUIET, contextlib.ExitStack() as held:
        _require_end(data)
        at_opening = bounds.require_header(data)
        held.enter_context(bounds.room.take(at_opening))
        file = pngs.without_extras(data)
        image = formats.open_lazily(file)
        extra = len(data) + (len(file) if file is not data else 0)
        if image.format in ("JPEG", "MPO"):
            extra += jpegs.held_bytes(image, data)
        elif image.format == "JPEG2000":
            extra += jpeg2000.held_bytes(data)
        whole: tuple[int, int] = image.size
        size = _made_smaller(image, data, smallest) if smallest else whole
        if not smallest:
            extra += 3 * math.prod(size)  # the returned array
        needed = bounds.require(image, whole, size, extra)
        if not at_opening:  # take memory only once, or two pictures could deadlock
            held.enter_context(bounds.room.take(needed))
        try:
            return use(_picture(image, file, name, smallest, is_small=size != whole))
        finally:
            del image  # before others may use its memory


def _require_end(data: bytes) -> None:
    """Refuse a WebP file that ends in zeros, as an unfinished download may: its reader would take them for pixels."""
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        lost = 1 - len(data.rstrip(b"\0")) / (int.from_bytes(data[4:8], "little") + 8)
        if lost > _LOST:
            raise OSError(f"cut short: {math.ceil(100 * lost)} % of it is missing")


def _picture(image: Any, data: bytes, name: str, smallest: int, is_small: bool) -> Picture:
    tile = image.tile[0] if image.tile else None
    if tile and tile[0] == "ppm":
        pixels = image  # `depth` reads its samples from the file
    elif simplejpeg and image.format == "JPEG" and image.mode == "RGB" and not is_small:
        pixels = _fast(data) or _loaded(image, data, name, smallest)
    else:
        pixels = _loaded(image, data, name, smallest)
    part = tile and depth.view(pixels, tile, data, name)

    def stored(box: depth.Box) -> Image.Image:
        return pixels if box == (0, 0, *pixels.size) else pixels.crop(box)

    return Picture(pixels.size, part or stored, _orientation(image))


def _made_smaller(image: Any, data: bytes, smallest: int) -> tuple[int, int]:
    """Have the decoder halve the picture while both sides stay at least `smallest`; returns the resulting size."""
    if image.format != "JPEG2000":
        image.draft(None, (smallest, smallest))  # only does something for JPEG
        return image.size
    times = jpeg2000.halvings(data, image.size, smallest)
    image.reduce = times
    return jpeg2000.halved(image.width, times), jpeg2000.halved(image.height, times)


def _fast(data: bytes) -> Image.Image | None:
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:  # it is stricter than Pillow, which then decides
        return None


def _loaded(image: Any, data: bytes, name: str, smallest: int) -> Any:
    """Read the picture's pixels; a truncated file is used as far as it goes, if that is nearly all."""
    try:
        image.load()
        return image
    except OSError as error:
        if "truncated" not in str(error):
            raise
    pixels, lost = image, 1.0
    if image.format in ("JPEG", "MPO"):
        with contextlib.suppress(OSError):  # even its tables are incomplete
            pixels, lost = jpegs.mended(data, lambda file: _read_jpeg(file, smallest), _LOST)
    elif _is_by_rows(image):
        image.tile = []  # keep what was read
        lost = 1 - _filled_rows(image) / image.height
    if lost > _LOST:
        raise OSError(f"cut short: {math.ceil(100 * lost)} % of it is missing" if lost < 1 else "cut short")
    say_once("cut", name, "it lacks its end, and is used as far as it goes")
    return pixels


def _read_jpeg(data: bytes, smallest: int) -> Image.Image:
    image = formats.open_lazily(data)
    if smallest:
        image.draft(None, (smallest, smallest))
    image.load()
    return image


def _is_by_rows(image: Any) -> bool:
    """Whether the rows of a picture are stored one after the other, each whole."""
    if image.format == "TIFF":
        return image.tag_v2.get(_PLANES) != 2 and _TILES not in image.tag_v2
    return image.format in _BY_ROWS and not image.info.get("interlace")


def _filled_rows(image: Image.Image) -> int:
    """The number of rows from the first nonzero one to the last."""
    box = image.getbbox(alpha_only=False)
    return box[3] - box[1] if box else 0


def _orientation(image: Any) -> int:
    try:
        found = image.getexif().get(_ORIENTATION, 1)
        return found if isinstance(found, int) else 1  # EXIF has numbers of other kinds too
    except Exception:  # the pixels are fine, only the metadata is damaged
        return 1


class _Quiet(threading.local):
    """A per-thread context that silences Pillow's warnings: all that matters about a file is whether it decodes.

    `warnings.catch_warnings` is not thread-safe, and a filter on Pillow's modules would silence the calling program
    too. So the filter's module pattern is this object, which matches only while its thread is inside the context.
    """

    inside = False

    def __enter__(self) -> None:
        entry = ("ignore", None, Warning, self, 0)
        if entry not in warnings.filters:  # or was removed
            warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
        self.inside = True

    def __exit__(self, *_: object) -> None:
        self.inside = False

    def match(self, module: str) -> bool:
        return self.inside and module.startswith(("PIL.", "pillow_"))


_QUIET = _Quiet()
