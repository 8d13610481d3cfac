"""JPEG 2000 files from the inside: how small they can be decoded to, and what their tiles take."""

import struct

_A_TILE = 11_000  # bytes that OpenJPEG holds for each, however small


def held_bytes(data: bytes) -> int:
    """Bytes that the decoder holds for tiles beyond their pixels."""
    size = data.find(b"\xff\x4f\xff\x51")  # the markers SOC and SIZ
    if size < 0 or size + 40 > len(data):
        return 0
    # Of the grid: right and bottom, left and top; of its tiles: width and height, left and top.
    right, bottom, _, _, width, height, left, top = struct.unpack_from(">8I", data, size + 8)
    if not width or not height:
        return 0
    return _A_TILE * -(-(right - left) // width) * -(-(bottom - top) // height)


def halvings(data: bytes, size: tuple[int, int], smallest: int) -> int:
    """How often the decoder can halve a picture of a width and height so that both stay `smallest`."""
    code = data.find(b"\xff\x52")  # the marker COD, whose tenth byte says how often the picture was halved
    levels = min(data[code + 9] if 0 <= code < len(data) - 9 else 0, 32)

    def fits(side: int, times: int) -> bool:  # Pillow expects a rounded side where the decoder rounds up
        return halved(side, times) >= smallest and halved(side, times) == (side + (1 << times >> 1)) >> times

    return max((times for times in range(levels + 1) if all(fits(side, times) for side in size)), default=0)


def halved(side: int, times: int) -> int:
    """A side's pixels after that many halvings."""
    return -(-side >> times)
