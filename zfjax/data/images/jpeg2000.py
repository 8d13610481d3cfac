"""Inside JPEG 2000 files: how small they can be decoded, and the memory their tiles take."""

import struct

_A_TILE = 11_000  # bytes that OpenJPEG holds per tile, however small


def held_bytes(data: bytes) -> int:
    """Bytes that the decoder holds for tiles beyond their pixels."""
    size = data.find(b"\xff\x4f\xff\x51")  # the markers SOC and SIZ
    if size < 0 or size + 40 > len(data):
        return 0
    # The grid's right, bottom, left, top; the tiles' width, height, left, top.
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, size + 8)
    if not width or not height:
        return 0
    return _A_TILE * -(-(right - left) // width) * -(-(bottom - top) // height)


def halvings(data: bytes, size: tuple[int, int], smallest: int) -> int:
    """How often the decoder can halve a picture of this (width, height) with both staying at least `smallest`."""
    code = data.find(b"\xff\x52")  # the marker COD, whose tenth byte is the number of stored halvings
    levels = min(data[code + 9] if 0 <= code < len(data) - 9 else 0, 32)

    def fits(side: int, times: int) -> bool:  # Pillow rounds to nearest, but the decoder rounds up
        return halved(side, times) >= smallest and halved(side, times) == (side + (1 << times >> 1)) >> times

    return max((times for times in range(levels + 1) if all(fits(side, times) for side in size)), default=0)


def halved(side: int, times: int) -> int:
    """A side in pixels after `times` halvings."""
    return -(-side >> times)
