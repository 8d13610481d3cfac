"""Pictures of more than 8 bits: their samples, and which of their bits are shown.

Files of 16 bits often hold in their low bits what a camera of 12 bits saw, or 8 bits: their high byte is nearly black.
Where a file does not say what its white is, its largest sample tells: below 256 it is taken for 8 bits, below 4096
for 12.
"""

import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from zfjax.data import formats
from zfjax.data.images.notes import say_once

Box = tuple[int, int, int, int]  # left, top, right, bottom
Part = Callable[[Box], np.ndarray]  # samples of a part: [height, width] or [height, width, channels], whole numbers
_BITS = 258  # TIFF's tag BitsPerSample


def view(image: Any, tile: Any, data: bytes, name: str = "") -> Callable[[Box], Image.Image] | None:
    """Parts of a picture of more than 8 bits as pictures of 8.

    Args:
        image: Pillow's picture, loaded; one of the codec `ppm` need not be.
        tile: its first tile, as it was before it was loaded.
        data: the file.
        name: what to call it where its bits are guessed, which is said once.

    Returns:
        None for a picture of 8 bits, and for one whose high bytes, which Pillow reads, are what to show.

    Raises:
        ValueError: samples below 0 or above 65535, for which no white is defined.
    """
    codec, _, _, args = tile
    mode = str(args if isinstance(args, str) or not args else args[0])
    white = 0 if image.format in ("PNG", "TIFF", "PPM") else 65535  # other formats say how many bits they have
    if codec == "ppm" and mode in ("L", "RGB"):
        part, white = _ppm(image, tile, data), args[1] % 65535
    elif image.mode.startswith("I"):
        part = _gray(image)
        bits = image.tag_v2.get(_BITS, (16,))[0] if image.format == "TIFF" else 16
        white = (1 << bits) - 1 if bits < 16 else white
    elif mode.startswith(("RGB;16", "RGBA;16", "RGBX;16", "LA;16")) and _is_dark(image):
        part = _low_bytes(image, data, mode)
    else:
        return None
    whites = _whites(part, image.size, white, name)
    return lambda box: Image.fromarray(_shown(part(box), whites))


def _whites(part: Part, size: tuple[int, int], white: int, name: str) -> np.ndarray:
    """The sample that is shown as white in each channel, or as opaque; 0 for `white`: to be guessed."""
    ends = [(samples.min(), samples.max(axis=(0, 1))) for samples in map(part, _bands(size))]
    least, most = min(least for least, _ in ends), np.atleast_1d(np.max([most for _, most in ends], axis=0))
    if least < 0 or most.max() > 65535:
        raise ValueError("32-bit pixels have no defined white; expected 8 or 16 bits")
    colors = most[: 3 if len(most) > 2 else 1]
    found = white or _guessed(int(colors.max()))
    if not white and found < 65535:
        bits = found.bit_length()
        say_once(f"{bits} bits", name, f"its 16-bit samples end at {colors.max()}, so it is shown as {bits}-bit")
    return np.array([found] * len(colors) + [_guessed(int(alpha)) for alpha in most[len(colors) :]])


def _guessed(most: int) -> int:
    return 255 if 0 < most < 256 else 4095 if 0 < most < 4096 else 65535


def _shown(samples: np.ndarray, whites: np.ndarray) -> UInt8[np.ndarray, "..."]:
    whites = whites if samples.ndim == 3 else whites[0]
    return np.minimum(samples.astype(np.uint32) * np.uint32(256) // (whites.astype(np.uint32) + 1), 255).astype(
        np.uint8
    )


def _bands(size: tuple[int, int]) -> Iterator[Box]:
    """Boxes that cover a picture, of about a million pixels each."""
    width, height = size
    rows = max(1, 1_000_000 // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def _gray(image: Any) -> Part:
    return lambda box: np.asarray(image.crop(box))


def _ppm(image: Any, tile: Any, data: bytes) -> Part:
    """The samples of a binary PGM or PPM file whose white is not 255: Pillow takes them one by one."""
    _, _, offset, (mode, white) = tile
    shape = (image.height, image.width, *([3] if mode == "RGB" else []))
    whole = np.frombuffer(data, ">u2" if white > 255 else "u1", math.prod(shape), offset).reshape(shape)
    return lambda box: whole[box[1] : box[3], box[0] : box[2]]


def _is_dark(image: Any) -> bool:
    """Whether the high bytes of the colors are so small that no sample is above 4095."""
    ends = zip(image.getbands(), image.getextrema(), strict=True)
    return max(most for band, (_, most) in ends if band != "A") < 16


def _low_bytes(image: Any, data: bytes, mode: str) -> Part:
    """The samples of a 16-bit picture with colors or alpha, of which Pillow reads the high bytes.

    With the other byte order the same file gives the low ones.
    """
    low = formats.open_lazily(data)
    gray = mode.startswith("LA")  # two samples of two bytes, read as four
    low.tile = [tile._replace(args="RGBA" if gray else _other_order(tile.args)) for tile in low.tile]
    low.load()
    if gray:
        return lambda box: np.asarray(low.crop(box)).view(">u2")
    return lambda box: np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))


def _other_order(args: Any) -> Any:
    """A decoder's arguments with the last letter of its mode, the byte order, exchanged."""
    mode, rest = (args, None) if isinstance(args, str) else (args[0], args[1:])
    swapped = mode[:-1] + {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[mode[-1]]
    return swapped if rest is None else (swapped, *rest)
