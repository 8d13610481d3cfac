"""The picture formats that zfjax opens: one list, which determines file extensions and decoders.

It omits formats that run another program (EPS starts Ghostscript), read other files, or hold no photographs.
"""

import functools
import importlib
import io
import struct
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError


class Format(NamedTuple):
    """A picture format: Pillow's name for it, and where its decoder comes from."""

    name: str
    extensions: tuple[str, ...]  # lower case, without the dot
    plugins: tuple[str, ...]  # decoder modules, first importable one wins: MODULE, or MODULE:FUNCTION to call
    package: str = "pillow"  # the package to install for it


FORMATS = (
    Format("JPEG", ("jpg", "jpeg", "jpe", "jfif", "mpo"), ("PIL.JpegImagePlugin",)),
    Format("PNG", ("png", "apng"), ("PIL.PngImagePlugin",)),
    Format("WEBP", ("webp",), ("PIL.WebPImagePlugin",)),
    Format("GIF", ("gif",), ("PIL.GifImagePlugin",)),
    Format("BMP", ("bmp",), ("PIL.BmpImagePlugin",)),
    Format("DIB", ("dib",), ("PIL.BmpImagePlugin",)),
    Format("TIFF", ("tif", "tiff"), ("PIL.TiffImagePlugin",)),
    Format("PPM", ("pbm", "pgm", "pnm", "ppm"), ("PIL.PpmImagePlugin",)),
    Format("JPEG2000", ("jp2", "j2k", "j2c", "jpc", "jpf", "jpx"), ("PIL.Jpeg2KImagePlugin",)),
    Format("AVIF", ("avif", "avifs"), ("PIL.AvifImagePlugin", "pillow_avif"), "pillow-avif-plugin"),
    Format("HEIF", ("heic", "heics", "heif", "heifs", "hif"), ("pillow_heif:register_heif_opener",), "pillow-heif"),
    Format("JXL", ("jxl",), ("pillow_jxl",), "pillow-jxl-plugin"),
    Format("TGA", ("tga",), ("PIL.TgaImagePlugin",)),  # last: its files have no signature
)
_BITS, _PLANES = 258, 284  # TIFF's tags: bits per sample; channels side by side or apart
_OTHER_PIXELS = {"unknown pixel mode", "unknown data organization"}  # what Pillow says of TIFF files it cannot read
_SHORT_SIGNS = {"BMP", "DIB", "PPM"}
# Signatures of formats that need a plugin; they start at byte 4.
_SIGNS = {b"ftyphei": "HEIF", b"ftyphev": "HEIF", b"ftypmif": "HEIF", b"ftypavi": "AVIF", b"JXL \x0d\x0a\x87": "JXL"}


@functools.cache
def available() -> tuple[Format, ...]:
    """The `FORMATS` that this Python can decode; imports their plugins."""
    return tuple(kind for kind in FORMATS if any(map(_brought, kind.plugins)) and kind.name in Image.OPEN)


@functools.cache
def extensions() -> frozenset[str]:
    """File extensions of the formats that this Python can decode, in lower case with the dot: `.jpg`."""
    return frozenset(f".{extension}" for kind in available() for extension in kind.extensions)


def missing_package(extension: str) -> str:
    """The package to install for pictures with this extension (`.heic`); empty if none is missing or would help."""
    lacking = (kind for kind in FORMATS if kind not in available())
    return next((kind.package for kind in lacking if extension.lower().removeprefix(".") in kind.extensions), "")


def recognized(file: Any) -> Format | None:
    """Tell the format of an open binary file by its content, whether it can be decoded or not; None if unknown.

    If the signature is only two letters, which many text files start with, the header must be valid too.
    """
    head = file.read(16)
    for kind in available():
        factory, accepts = Image.OPEN[kind.name]
        try:
            if accepts is not None and accepts(head) is True:
                if kind.name in _SHORT_SIGNS:
                    file.seek(0)
                    factory(file, "")
                return kind
        except Exception:  # Pillow's readers can raise anything on a damaged file
            continue
    return next((kind for kind in FORMATS if kind.name == _SIGNS.get(head[4:11]) and kind not in available()), None)


def open_lazily(data: bytes) -> Any:
    """Open a picture without decoding it, as `PIL.Image.open` does, but only one of `FORMATS` and of any size.

    Pillow's limit on pixels (`Image.MAX_IMAGE_PIXELS`) belongs to the calling program; see `bounds` for ours.

    Raises:
        UnidentifiedImageError: the file is in none of the formats, or its header is damaged; the message says which.
    """
    damaged = ""
    for kind in available():
        factory, accepts = Image.OPEN[kind.name]
        try:
            if accepts is None or accepts(data[:16]) is True:
                damaged = damaged or (f"damaged {kind.name} file" if accepts else "")
                return _with_wide_planes(factory(io.BytesIO(data), ""))
        except (SyntaxError, IndexError, TypeError, ValueError, struct.error) as error:  # how readers say "not mine"
            if str(error) in _OTHER_PIXELS:
                damaged = f"a {kind.name} file of pixels that are not supported; expected gray or RGB of 8 or 16 bits"
            continue
        except OSError as error:
            if "could not create decoder object" not in str(error):  # what WebP's reader says
                raise
            damaged = "cut short" if int.from_bytes(data[4:8], "little") + 8 > len(data) else damaged
    raise UnidentifiedImageError(damaged or _unknown(data))


def _with_wide_planes(image: Any) -> Any:
    """Mend Pillow's reading of TIFF files that keep each channel's 16-bit samples apart: it takes them for bytes."""
    if image.format == "TIFF" and image.tile and image.tile[0][0] == "raw" and image.tag_v2.get(_PLANES) == 2:
        wide = ";16L" if image.tag_v2.prefix == b"II" else ";16B"
        if image.mode.startswith("I;16"):
            image.tile = [tile._replace(args=(image.mode, *tile.args[1:])) for tile in image.tile]
        elif image.tag_v2.get(_BITS, (8,))[0] == 16:
            image.tile = [tile._replace(args=(tile.args[0] + wide, *tile.args[1:])) for tile in image.tile]
    return image


def _unknown(data: bytes) -> str:
    """Why a file cannot be opened."""
    lacking = recognized(io.BytesIO(data))
    if lacking and lacking not in available():
        return f"its format is {lacking.name}: pip install {lacking.package}"
    return "no picture of a known format" if data else "empty file"


def _brought(plugin: str) -> bool:
    """Import a plugin, which registers its decoder with Pillow; returns whether that worked."""
    module, _, function = plugin.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError:
        return False
    if function:
        getattr(found, function)()
    return getattr(found, "SUPPORTED", True)  # Pillow's own modules import even without the library they need
