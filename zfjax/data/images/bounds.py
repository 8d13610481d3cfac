"""Limits on the memory a picture may take, computed from its header before anything large is allocated."""

import contextlib
import ctypes
import math
import struct
import threading
from collections.abc import Iterator
from typing import Any

ONE = 480_000_000  # bytes that one picture may take: its file, and its decoder's peak
_LARGE = 64_000_000  # bytes; after a larger picture, freed memory is returned to the system
TOGETHER = 1_000_000_000  # bytes for all pictures being decoded at the same time in this process

_ORIENTATION, _OFFSETS = 274, (273, 324)  # TIFF tags: the orientation; the offsets of strips and of tiles
# Bytes per pixel of Pillow's own picture, for modes that do not take 4:
_STORED = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2, "I;16L": 2, "I;16N": 2}
# Bytes per pixel that decoders hold besides, measured at their peak and rounded up; AVIF with 12 bits and alpha.
_HELD = {"WEBP": 13, "JXL": 12, "AVIF": 14, "HEIF": 8, "GIF": 2, "JPEG": 4, "MPO": 4}
_PIECES = 100_000  # most strips or tiles of a TIFF file: Pillow takes 330 bytes and 7 microseconds for each
_IN_PYTHON = {"bmp_rle", "ppm", "ppm_plain"}  # slow codecs, which take 30 bytes per pixel in all


def require_header(data: bytes) -> int:
    """The bytes it takes to decode a WebP or JPEG XL file, which Pillow decodes on opening; 0 for other formats.

    Raises:
        ValueError: it takes more than `ONE`, or a TIFF file has so many pieces that listing them takes long.
    """
    if _tiff_pieces(data) > _PIECES:
        raise ValueError(f"a TIFF file of more than {_PIECES:,} strips or tiles")
    found = _webp_size(data) or _jxl_size(data)
    if not found:
        return 0
    kind, width, height = found
    return _require(width * height * (4 + _HELD[kind]) + len(data), f"{width}×{height} pixels as {kind}")


def require(image: Any, whole: tuple[int, int], size: tuple[int, int], extra: int) -> int:
    """The bytes it takes to decode an opened picture.

    Args:
        image: as Pillow opened it.
        whole: its width and height in pixels.
        size: the width and height that it will be decoded to.
        extra: bytes besides those of its pixels, such as its file's.

    Raises:
        ValueError: it takes more than `ONE`.
    """
    codec, mode = (str(image.tile[0][0]), str(image.tile[0][3])) if image.tile else ("", "")
    stored = _STORED.get(image.mode, 4)
    a_pixel = stored + _HELD.get(image.format, 0)
    if codec in _IN_PYTHON:
        a_pixel = 30
    elif image.format == "JPEG2000":
        a_pixel += 5 * len(image.getbands())
    elif image.format == "HEIF" and image.info.get("bit_depth", 8) > 8:
        a_pixel += 8
    elif codec == "libtiff" or (image.format == "TIFF" and image.tag_v2.get(_ORIENTATION, 1) != 1):
        a_pixel += stored  # a strip, which may be the whole picture, or the rotated picture
    elif ";16" in mode and stored == 4:
        a_pixel += stored  # dark ones are read twice: `depth`
    return _require(math.prod(size) * a_pixel + extra, f"{whole[0]}×{whole[1]} pixels as {image.format}")


class _Room:
    """A memory budget that threads share: a thread that asks for more than is left waits."""

    def __init__(self, total: int) -> None:
        self._changed = threading.Condition()
        self._total, self._taken = total, 0

    @contextlib.contextmanager
    def take(self, amount: int) -> Iterator[None]:
        """Wait until `amount` bytes are left, and hold them."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken + amount <= self._total or not self._taken)
            self._taken += amount
        try:
            yield
        finally:
            if amount > _LARGE:
                give_back()
            with self._changed:
                self._taken -= amount
                self._changed.notify_all()


room = _Room(TOGETHER)


def give_back() -> None:
    """Have glibc return freed memory to the system: each thread would keep some, up to the most that it ever took."""
    with contextlib.suppress(AttributeError, OSError, TypeError):  # not on Linux
        ctypes.CDLL(None).malloc_trim(0)


def _require(needed: int, what: str) -> int:
    if needed > ONE:
        raise ValueError(f"{what} take {needed / 1e6:,.0f} MB to decode; expected at most {ONE / 1e6:.0f} MB")
    return needed


def _tiff_pieces(data: bytes) -> int:
    """The number of strips or tiles of a TIFF or BigTIFF file's first picture; 0 for other and damaged files."""
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if not order or data[2:4] not in (b"*\0", b"\0*", b"+\0", b"\0+"):
        return 0
    start, count, entry = ("8xQ", "Q", "HHQ8x") if b"+" in data[2:4] else ("4xI", "H", "HHI4x")
    try:
        (at,) = struct.unpack_from(order + start, data)
        (entries,) = struct.unpack_from(order + count, data, at)
        at += struct.calcsize(order + count)
        tags = struct.iter_unpack(order + entry, data[at : at + entries * struct.calcsize(order + entry)])
        return max((pieces for tag, _, pieces in tags if tag in _OFFSETS), default=0)
    except struct.error:
        return 0


def _webp_size(data: bytes) -> tuple[str, int, int] | None:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        return None
    match data[12:16]:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
        case b"VP8L":
            packed = int.from_bytes(data[21:25], "little")
            width, height = (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
        case _:
            width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    return "WEBP", width, height


def _jxl_size(data: bytes) -> tuple[str, int, int] | None:
    """Width and height from a JPEG XL file's bit-packed SizeHeader (ISO/IEC 18181-1, D.2)."""
    codestream = _jxl_codestream(data)
    if data[codestream : codestream + 2] != b"\xff\x0a":
        return None
    bits = int.from_bytes(data[codestream + 2 : codestream + 14], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    small = take(1)

    def side() -> int:
        return (take(5) + 1) * 8 if small else take((9, 13, 18, 30)[take(2)]) + 1

    height = side()
    ratio = take(3)
    shares = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
    width = height * shares[ratio - 1][0] // shares[ratio - 1][1] if ratio else side()
    return "JXL", width, height


def _jxl_codestream(data: bytes) -> int:
    """The offset of the codestream: 0, or inside a container's `jxlc` or first `jxlp` box."""
    if data[4:8] != b"JXL ":
        return 0
    at = 0
    while at + 16 <= len(data):
        length, kind, header = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8], 8
        if length == 1:
            length, header = int.from_bytes(data[at + 8 : at + 16]), 16
        if kind in (b"jxlc", b"jxlp"):
            return at + header + 4 * (kind == b"jxlp")
        if length < header:
            break
        at += length
    return len(data)
