"""Inside JPEG files: the memory their scans take, and how to read truncated files."""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageChops

_TOO_MUCH = 3e9  # pixels times scans: about two seconds
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")  # excludes stuffed, restart and fill bytes
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # markers of the segment that lists the components
_START, _END = b"\xff\xda", b"\xff\xd9"  # start of a scan; end of the picture
_NOISE = np.random.default_rng(0).integers(0, 255, 4096, np.uint8).tobytes()  # contains no marker


class _Scan(NamedTuple):
    """What one scan contains: the coefficients `first` to `last` of each block of some components."""

    components: bytes  # their ids
    first: int
    last: int


def held_bytes(image: Any, data: bytes) -> int:
    """Bytes of all coefficients, which a decoder holds if a picture has several scans; 0 if it has one.

    Decoding to a smaller size does not reduce them.

    Args:
        image: Pillow's JPEG file, at full size.
        data: the file.

    Raises:
        ValueError: there are so many scans that decoding would take long.
    """
    first = next((at for marker, at in _segments(data) if marker == _START[1]), None)
    if first is None or (not image.info.get("progressive") and data[first + 2] >= image.layers):
        return 0
    stop = data.find(_END, first)
    scans = data.count(_START, first - 2, stop if stop >= 0 else len(data))
    if scans * image.width * image.height > _TOO_MUCH:
        raise ValueError(f"{scans} scans of {image.width}×{image.height} pixels, as no camera or editor writes them")
    widest, tallest = (max(layer[i] for layer in image.layer) for i in (1, 2))
    a_pixel = sum(layer[1] * layer[2] for layer in image.layer) / (widest * tallest)
    return round(2 * a_pixel * image.width * image.height)


def mended(data: bytes, read: Callable[[bytes], Image.Image], most: float) -> tuple[Image.Image, float]:
    """The picture in a truncated file, and the share of its pixels that are missing.

    Missing blocks are gray. To find where they begin, different bytes are appended to the file: only missing blocks
    change. If the last of several scans lacks too much, and the earlier ones have every coefficient of every component
    in some form, the last scan is dropped, which loses only fine detail. While any coefficient has not begun to arrive,
    the whole picture counts as missing.

    Args:
        data: the file.
        read: decodes a file.
        most: the largest share of pixels that a picture may lack.

    Raises:
        OSError: the file ends before its first scan.
    """
    segments = list(_segments(data))
    at = segments[-1][1] if segments else len(data)
    if at + int.from_bytes(data[at : at + 2]) > len(data):  # a truncated segment would swallow what follows
        data, segments = data[: at - 2], segments[:-1]
    data = data.rstrip(b"\xff")
    frame = next((at for marker, at in segments if marker in _FRAMES), None)
    starts = [at for marker, at in segments if marker == _START[1]]
    if frame is None or not starts:
        raise OSError("image file is truncated")
    components = data[frame + 8 : frame + 8 + 3 * data[frame + 7]]
    block = 8 * max(sampling & 15 for sampling in components[1::3]) / int.from_bytes(data[frame + 3 : frame + 5])
    scans = [_scan(data, at) for at in starts]

    def attempt(file: bytes, scans: Sequence[_Scan]) -> tuple[Image.Image, float]:
        ended = read(file + _END)
        if not _are_complete(scans, components[::3]):
            return ended, 1.0
        return ended, _lost(ended, read(file + _NOISE + _END), math.ceil(block * ended.height))

    found, lost = attempt(data, scans)
    if lost > most and _are_complete(scans[:-1], components[::3]):
        return attempt(data[: starts[-1] - 2], scans[:-1])
    return found, lost


def _lost(ended: Image.Image, other: Image.Image, rows: int) -> float:
    """The share of pixels from the first block on, `rows` pixels high, in which two pictures differ."""

    def differing(top: int, height: int) -> tuple[int, int, int, int] | None:
        box = (0, top, ended.width, min(top + height, ended.height))
        return ImageChops.difference(ended.crop(box), other.crop(box)).getbbox()

    for top in range(0, ended.height, 64):
        if found := differing(top, 64):
            first, height = top + found[1], min(rows, ended.height - top - found[1])
            left = (differing(first, height) or found)[0]
            return ((ended.height - first) * ended.width - left * height) / (ended.width * ended.height)
    return 0.0


def _are_complete(scans: Sequence[_Scan], components: bytes) -> bool:
    """Whether the scans contain every coefficient of every component."""
    return all(
        {number for scan in scans if component in scan.components for number in range(scan.first, scan.last + 1)}
        >= set(range(64))
        for component in components
    )


def _scan(data: bytes, at: int) -> _Scan:
    spectrum = at + 3 + 2 * data[at + 2] if at + 2 < len(data) else len(data)
    first, last = (*data[spectrum : spectrum + 2], 0, 0)[:2]
    return _Scan(data[at + 3 : spectrum : 2], first, last)


def _segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Each segment's marker and the offset of its length, up to the end of the first picture."""
    at = 2
    while found := _MARKER.search(data, at):
        marker, at = data[found.start() + 1], found.end()
        if marker == _END[1]:
            return
        yield marker, at
        at += max(int.from_bytes(data[at : at + 2]), 2)
