"""Which pixels of a run's pictures show the drawn object, and which of its parts."""

import functools
import hashlib
import io
import zlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8
from PIL import Image

from zfjax.console.progress import Progress
from zfjax.data.shapes.canvas import CLUTTER, COVER, SIDE
from zfjax.data.shapes.compose import owners
from zfjax.data.shapes.objects import DRAWINGS
from zfjax.data.shapes.parts import encoded_records

PIXEL_NAMES: dict[str, tuple[str, ...]] = {
    "class": tuple(drawing.name for drawing in DRAWINGS),
    "part": tuple(f"{drawing.name} {part.replace('_', ' ')}" for drawing in DRAWINGS for part in drawing.parts),
    "around": ("background", "clutter", "cover"),  # cover is what hides a corner of the object
}
_FIRST_PART = np.cumsum([1, *(len(drawing.parts) for drawing in DRAWINGS)])[:-1]  # of each class, in the names
SPLITS = ("train", "validation")


def masks(
    builder: Any, split: str, examples: Int[np.ndarray, " n"], *, square: int, size: int
) -> Bool[np.ndarray, "n size size"]:
    """The objects' pixels in the center crops of some pictures of `shapes`.

    Args:
        builder: from `prepared_builder`.
        split: train or validation.
        examples: picture numbers in the split.
        square: side in pixels of the squares that pictures are decoded to.
        size: side in pixels of the center crop.
    """
    records = encoded_records(builder, split)
    found = []
    for example in examples:
        drawn = _stored(records[int(example)]).resize((square, square), Image.Resampling.BILINEAR)
        found.append(_center(np.asarray(drawn), size) > 127)
    return np.stack(found)


def pixels(
    builder: Any, split: str, examples: Int[np.ndarray, " n"], *, square: int, size: int
) -> UInt8[np.ndarray, "n size size kinds"]:
    """What each pixel shows: the number of its name in `PIXEL_NAMES`, from 1, of each kind; 0 for none.

    Only boxes of parts are stored, so the split is drawn again, once, and its pictures are told by their objects'
    pixels. Of one that is not found, as if another version drew it, only the class is known.

    Args:
        builder: from `prepared_builder`.
        split: train or validation.
        examples: picture numbers in the split.
        square: side in pixels of the squares that pictures are decoded to.
        size: side in pixels of the center crop.
    """
    records, config = encoded_records(builder, split), builder.builder_config
    again = _drawn_again(config.seed, split, getattr(config, split))
    found = np.zeros((len(examples), size, size, len(PIXEL_NAMES)), np.uint8)
    for of_picture, example in zip(found, examples, strict=True):
        record = records[int(example)]
        label, stored = int(record["label"]), np.asarray(_stored(record)) > 127
        numbers = [np.where(stored, np.uint8(label + 1), np.uint8(0))]
        if kept := again.get(_digest(label, stored)):
            drawn = np.frombuffer(zlib.decompress(kept), np.uint8).reshape(SIDE, SIDE)
            first = np.uint8(_FIRST_PART[label] - 1)
            numbers.append(np.where((drawn > 0) & (drawn < CLUTTER), drawn + first, np.uint8(0)))
            numbers.append(np.select([drawn == 0, drawn == CLUTTER, drawn == COVER], [1, 2, 3]).astype(np.uint8))
        for kind, of_kind in enumerate(numbers):
            of_picture[..., kind] = _center(_resized(of_kind, square), size)
    return found


@functools.lru_cache(maxsize=2)
def _drawn_again(seed: int, split: str, count: int) -> dict[bytes, bytes]:
    """What each pixel of all pictures of a split shows, packed, by the digest of their classes and objects.

    TFDS shuffles what it stores, so a picture's number does not say how it was drawn.
    """
    found, number = {}, SPLITS.index(split)
    with Progress("drawing the parts of the pictures", count) as progress:
        for index in range(count):
            label = index % len(DRAWINGS)
            drawn = owners(np.random.default_rng((seed, number, index)), label)
            found[_digest(label, (drawn > 0) & (drawn < CLUTTER))] = zlib.compress(drawn.tobytes(), 1)
            progress.advance(1)
    return found


def _digest(label: int, mask: Bool[np.ndarray, "side side"]) -> bytes:
    return hashlib.sha256(bytes([label]) + np.packbits(mask).tobytes()).digest()


def _stored(record: Any) -> Image.Image:
    return Image.open(io.BytesIO(record["mask"]), formats=["PNG"])


def _resized(numbers: UInt8[np.ndarray, "side side"], square: int) -> UInt8[np.ndarray, "square square"]:
    """Each pixel's nearest: numbers have no means."""
    at = ((np.arange(square) + 0.5) * SIDE / square).astype(int)
    return numbers[np.ix_(at, at)]


def _center(square: Shaped[np.ndarray, "square square"], size: int) -> Shaped[np.ndarray, "size size"]:
    first = (len(square) - size) // 2
    return square[first : first + size, first : first + size]
