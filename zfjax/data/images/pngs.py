"""Inside PNG files: which chunks are read."""

import re
import zlib

_START = b"\x89PNG\r\n\x1a\n"
_CRITICAL = {b"IHDR", b"PLTE", b"IDAT", b"IEND"}
_KEPT = {b"tRNS", b"eXIf"}  # transparency; orientation
_TURNED = re.compile(rb"iTXtXML:com\.adobe\.xmp\0\0|[tz]TXtRaw profile type exif\0")  # texts with the orientation
_LONGEST = 1 << 17  # bytes of such a text


def without_extras(data: bytes) -> bytes:
    """Strip from a PNG file what its pixels do not need: texts, color profiles, other frames, damaged extras.

    Pillow refuses a file if any of these is damaged or too long. Other files are returned unchanged, and so is what
    follows the first invalid chunk.
    """
    if not data.startswith(_START):
        return data
    if b"IEND" not in data:  # an unfinished download may end in zeros, which would be read as black pixels
        data = data.rstrip(b"\0")
    kept, at, taken = [_START], len(_START), len(_START)
    while at + 8 <= len(data):
        length, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        stop = at + 12 + length
        if stop > len(data) or not kind.isalpha():
            break
        if kind in _CRITICAL or _is_wanted(kind, data[at + 4 : stop]):
            kept.append(data[at:stop])
        at = taken = stop
    return data if taken == len(data) == sum(map(len, kept)) else b"".join([*kept, data[taken:]])


def _is_wanted(kind: bytes, chunk: bytes) -> bool:
    if zlib.crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
        return False
    text = _TURNED.match(chunk)
    if not text or len(chunk) > _LONGEST:
        return kind in _KEPT
    plain = zlib.decompressobj()
    if kind == b"zTXt":
        plain.decompress(chunk[text.end() + 1 : -4], _LONGEST)
    return not plain.unconsumed_tail
