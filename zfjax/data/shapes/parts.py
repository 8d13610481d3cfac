"""The parts of the drawn objects in a run's pictures, in pixels of the net's input."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from zfjax.data.annotations import PartBoxes
from zfjax.data.boxes import from_edges


def part_boxes(
    builder: Any,
    split: str,
    examples: Int[np.ndarray, " pictures"],
    names: Sequence[str],
    *,
    square: int,
    size: int,
) -> PartBoxes:
    """Read the boxes of parts of `shapes` and map them to center crops, for the pictures that show all the parts.

    A picture is kept if each part is entirely inside the crop and mostly visible: its box has at least half of the
    part's median area.

    Args:
        builder: from `prepared_builder`.
        split: train or validation.
        examples: picture numbers in the split.
        names: names of parts of the pictures' class.
        square: side in pixels of the squares that pictures are decoded to.
        size: side in pixels of the center crop.

    Returns:
        The kept pictures' positions in `examples`, as `numbers`, and their boxes.

    Raises:
        ValueError: there is no such part in `shapes`.
    """
    known = builder.info.features["parts"]["name"].names
    for name in names:
        if name not in known:
            raise ValueError(f"parts: no part {name!r} in shapes; there are {', '.join(known)}")
    records = encoded_records(builder, split)
    found, objects, boxes = [], [], []
    for place, example in enumerate(examples):
        record = records[int(example)]
        seen = dict(zip((known[i] for i in record["parts"]["name"]), record["parts"]["bbox"], strict=True))
        if all(name in seen for name in names):
            found.append(place)
            objects.append(record["bbox"])
            boxes.append([seen[name] for name in names])
    whole = in_crop(np.array(objects).reshape(-1, 4), square, size)
    inner = in_crop(np.array(boxes).reshape(-1, 4), square, size).reshape(-1, len(names), 4)
    kept = _shown(inner, size)
    parts = {name: from_edges(inner[kept, i]) for i, name in enumerate(names)}
    return PartBoxes(np.array(found, np.int64)[kept], from_edges(np.clip(whole[kept], 0, size)), parts)


def encoded_records(builder: Any, split: str) -> Any:
    """A split's records, with image and mask still encoded."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding() for key in ("image", "mask")})


def in_crop(shares: Float[np.ndarray, "n 4"], square: int, size: int) -> Int[np.ndarray, "n 4"]:
    """Convert edges of boxes from TFDS's fractions of a picture's sides to pixels of the center crop.

    Edges are (top, left, bottom, right), bottom and right exclusive, of the smallest whole-pixel box that contains the
    box. They may be outside the crop. Pictures are placed as `zfjax.data.decode.decode_square` and
    `zfjax.data.crops.center_crop` place square ones.
    """
    # Rounded to thousandths, so that 40.000001 does not add a pixel.
    edges = np.round(np.asarray(shares, np.float64) * square, 3)
    pixels = np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1).astype(np.int64)
    return pixels - (square - size) // 2


def _shown(edges: Int[np.ndarray, "n parts 4"], size: int) -> Bool[np.ndarray, " n"]:
    inside = np.all((edges >= 0) & (edges <= size), axis=(1, 2))
    areas = np.prod(edges[..., 2:] - edges[..., :2], axis=2)
    usual = np.median(areas, axis=0, keepdims=True) if len(areas) else 0
    return inside & np.all(2 * areas >= usual, axis=1)
