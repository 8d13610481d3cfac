"""Pictures with more than 8 bits: their samples, and which of their bits are shown.

16-bit files often hold 12-bit camera data or 8-bit data in their low bits, so that their high byte is nearly black.
If a file does not say which sample is white, its largest sample decides: below 256, the file is taken as 8-bit; below
4096, as 12-bit.
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
Part = Callable[[Box], np.ndarray]  # samples of a part: [height, width] or [height, width, channels], integers
_BITS, _PHOTOMETRIC, _PLANES = 258, 262, 284  # TIFF's tags: bits; what zero means; channels side by side or apart


def view(image: Any, tile: Any, data: bytes, name: str = "") -> Callable[[Box], Image.Image] | None:
    """Show parts of a picture with more than 8 bits as 8-bit pictures.

    Args:
        image: Pillow's picture, loaded; with the codec `ppm` it need not be.
        tile: its first tile, as it was before loading.
        data: the file.
        name: what to call it in the warning that its bits are guessed.

    Returns:
        A function from a box to that part; None for 8-bit pictures, and if Pillow already reads the bytes to show.

    Raises:
        ValueError: there are samples below 0 or above 65535, for which no white is defined.
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
    elif mode.startswith(("RGB;16", "RGBA;16", "RGBX;16", "LA;16", "R;16")) and _is_dark(image):
        part = _low_bytes(image, data, mode)
    else:
        return None
    whites = _whites(part, image.size, white, name)
    inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == 0  # white is zero, as in X-ray images
    return lambda box: Image.fromarray(_shown(part(box), whites) ^ np.uint8(255 * inverted))


def _whites(part: Part, size: tuple[int, int], white: int, name: str) -> np.ndarray:
    """Each channel's sample that is shown as white or opaque; guessed if `white` is 0."""
    ends = [(samples.min(), samples.max(axis=(0, 1))) for samples in map(part, _bands(size))]
    least, most = min(least for least, _ in ends), np.atleast_1d(np.max([most for _, most in ends], axis=0))
    if least < 0 or most.max() > 65535:
        raise ValueError("negative and 32-bit pixels have no defined white; expected 8 or 16 bits")
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
    levels = np.where(whites < 255, 255, 256).astype(np.uint32)  # 256: the high byte of 8 bits and more
    steps = np.where(whites < 255, whites, whites + 1).astype(np.uint32)
    return np.minimum(samples.astype(np.uint32) * levels // steps, 255).astype(np.uint8)


def _bands(size: tuple[int, int]) -> Iterator[Box]:
    """Boxes of about a million pixels each that cover a picture."""
    width, height = size
    rows = max(1, 1_000_000 // width)
    return ((0, top, width, min(top + rows, height)) for top in range(0, height, rows))


def _gray(image: Any) -> Part:
    return lambda box: np.asarray(image.crop(box))


def _ppm(image: Any, tile: Any, data: bytes) -> Part:
    """The samples of a binary PGM or PPM file whose white is not 255; Pillow would read them one by one."""
    _, _, offset, (mode, white) = tile
    shape = (image.height, image.width, *([3] if mode == "RGB" else []))
    whole = np.frombuffer(data, ">u2" if white > 255 else "u1", math.prod(shape), offset).reshape(shape)
    return lambda box: whole[box[1] : box[3], box[0] : box[2]]


def _is_dark(image: Any) -> bool:
    """Whether the colors' high bytes are so small that all samples are below 4096."""
    ends = zip(image.getbands(), image.getextrema(), strict=True)
    return max(most for band, (_, most) in ends if band != "A") < 16


def _low_bytes(image: Any, data: bytes, mode: str) -> Part:
    """The samples of a 16-bit picture with colors or alpha, of which Pillow reads only the high bytes.

    Reading the same file in the opposite byte order gives the low bytes.
    """
    low = formats.open_lazily(data)
    if low.format == "TIFF" and low.tile[0][0] == "libtiff" and low.tag_v2.get(_PLANES) == 2:  # always high bytes
        raise ValueError("colors of 12 bits in compressed planes cannot be read; expected channels side by side")
    gray = mode.startswith("LA")  # two samples of two bytes, read as four
    low.tile = [tile._replace(args="RGBA" if gray else _other_order(tile.args)) for tile in low.tile]
    low.load()
    if gray:
        return lambda box: np.asarray(low.crop(box)).view(">u2")
    return lambda box: np.asarray(image.crop(box)).astype(np.uint16) << 8 | np.asarray(low.crop(box))


def _other_order(args: Any) -> Any:
    """A decoder's arguments with the byte order, the last letter of its mode, swapped."""
    mode, rest = (args, None) if isinstance(args, str) else (args[0], args[1:])
    swapped = mode[:-1] + {"L": "B", "B": "L", "N": "B" if sys.byteorder == "little" else "L"}[mode[-1]]
    return swapped if rest is None else (swapped, *rest)
