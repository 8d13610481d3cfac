"""An image file in memory: opened, held to its bounds, made smaller where the decoder can, its pixels read."""

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

try:  # the extra `fast`: the same pixels from color JPEGs, sooner
    import simplejpeg
except ImportError:
    simplejpeg = None

_ORIENTATION = 0x0112  # EXIF's tag
_BY_ROWS = {"PNG", "BMP", "DIB", "PPM"}  # whose rows are read one after the other, and are zero until then
_LOST = 0.05  # the share of its pixels that a file may lack


class Picture(NamedTuple):
    """A picture whose pixels are in memory, as its file has them: in any of Pillow's modes, not turned."""

    size: tuple[int, int]  # width and height
    part: Callable[[depth.Box], Image.Image]  # of 8 bits
    orientation: int  # EXIF's: 1 is upright


def read(data: bytes, name: str, smallest: int, use: Callable[[Picture], np.ndarray]) -> np.ndarray:
    """What `use` makes of the picture of a file; its memory is counted among that of all that are decoded at once.

    Args:
        data: the file.
        name: what to call it where something is said of it.
        smallest: pixels. A decoder that can may give a smaller picture, of which no side is below this; 0: never.
        use: is given the picture, and keeps nothing of it.

    Raises:
        Exception: of any kind, as the readers of damaged files do.
    """
    with _QUIET, contextlib.ExitStack() as held:
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
            extra += 3 * math.prod(size)  # the array that is asked for
        needed = bounds.require(image, whole, size, extra)
        if not at_opening:  # memory is taken once, or two pictures could wait for each other's
            held.enter_context(bounds.room.take(needed))
        try:
            return use(_picture(image, file, name, smallest, is_small=size != whole))
        finally:
            del image  # before its memory is given to others


def _picture(image: Any, data: bytes, name: str, smallest: int, is_small: bool) -> Picture:
    tile = image.tile[0] if image.tile else None
    if tile and tile[0] == "ppm":
        pixels = image  # `depth` takes its samples from the file
    elif simplejpeg and image.format == "JPEG" and image.mode == "RGB" and not is_small:
        pixels = _fast(data) or _loaded(image, data, name, smallest)
    else:
        pixels = _loaded(image, data, name, smallest)
    part = tile and depth.view(pixels, tile, data, name)

    def stored(box: depth.Box) -> Image.Image:
        return pixels if box == (0, 0, *pixels.size) else pixels.crop(box)

    return Picture(pixels.size, part or stored, _orientation(image))


def _made_smaller(image: Any, data: bytes, smallest: int) -> tuple[int, int]:
    """Have the decoder halve the picture where it can, and both sides stay `smallest`; the size that will come."""
    if image.format != "JPEG2000":
        image.draft(None, (smallest, smallest))  # only JPEG's does something
        return image.size
    times = jpeg2000.halvings(data, image.size, smallest)
    image.reduce = times
    return jpeg2000.halved(image.width, times), jpeg2000.halved(image.height, times)


def _fast(data: bytes) -> Image.Image | None:
    try:
        return Image.fromarray(simplejpeg.decode_jpeg(data, "RGB"))
    except ValueError:  # stricter than Pillow, which then has the last word
        return None


def _loaded(image: Any, data: bytes, name: str, smallest: int) -> Any:
    """The picture with its pixels read; of a file that lacks its end, with what there is, if that is nearly all."""
    try:
        image.load()
        return image
    except OSError as error:
        if "truncated" not in str(error):
            raise
    pixels, lost = image, 1.0
    if image.format in ("JPEG", "MPO"):
        with contextlib.suppress(OSError):  # not even its tables are whole
            pixels, lost = jpegs.mended(data, lambda file: _read_jpeg(file, smallest), _LOST)
    elif image.format in _BY_ROWS and not image.info.get("interlace"):
        image.tile = []  # what was read stands
        lost = 1 - _filled_rows(image) / image.height
    if lost > _LOST:
        raise OSError(f"cut short: {math.ceil(100 * lost)} % of it is missing")
    say_once("cut", name, "it lacks its end, and is used as far as it goes")
    return pixels


def _read_jpeg(data: bytes, smallest: int) -> Image.Image:
    image = formats.open_lazily(data)
    if smallest:
        image.draft(None, (smallest, smallest))
    image.load()
    return image


def _filled_rows(image: Image.Image) -> int:
    """From the first row that is not zero to the last."""
    box = image.getbbox(alpha_only=False)
    return box[3] - box[1] if box else 0


def _orientation(image: Any) -> int:
    try:
        return image.getexif().get(_ORIENTATION, 1)
    except Exception:  # damaged metadata of a picture whose pixels are whole
        return 1


class _Quiet(threading.local):
    """A block, in one thread, in which Pillow warns of nothing: what matters about a file is whether it decodes.

    `warnings.catch_warnings` is not safe among threads, and a filter on Pillow's modules would silence the program
    around us too. So the filter's pattern for module names is this object, which matches while its thread is inside.
    """

    inside = False

    def __enter__(self) -> None:
        entry = ("ignore", None, Warning, self, 0)
        if entry not in warnings.filters:  # or no longer
            warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
        self.inside = True

    def __exit__(self, *_: object) -> None:
        self.inside = False

    def match(self, module: str) -> bool:
        return self.inside and module.startswith(("PIL.", "pillow_"))


_QUIET = _Quiet()
