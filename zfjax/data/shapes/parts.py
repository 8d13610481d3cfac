"""The parts of the drawn things in the pictures of a run, in pixels of what the net sees."""

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
    """Reads the boxes of parts of `shapes` and carries them to center crops; those that show all of them are kept.

    A picture is kept where each part lies whole inside the crop, and no part is mostly covered: half of the median
    area of its box is seen.

    Args:
        builder: from `prepared_builder`.
        split: train or validation.
        examples: numbers in the split of the pictures to look at.
        names: of parts that their class has.
        square: side of the squares that pictures are decoded to.
        size: side of the crop in their middle.

    Returns:
        Their places in `examples`, as `numbers`, and their boxes.

    Raises:
        ValueError: a part that no picture has.
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
    """A split's records, with image and mask as the bytes of their files."""
    import tensorflow_datasets as tfds

    return builder.as_data_source(split, decoders={key: tfds.decode.SkipDecoding() for key in ("image", "mask")})


def in_crop(shares: Float[np.ndarray, "n 4"], square: int, size: int) -> Int[np.ndarray, "n 4"]:
    """The edges of boxes in pixels of the center crop, from those that TFDS keeps as shares of a picture's sides.

    Edges are (top, left, bottom, right), bottom and right exclusive, of the whole pixels that hold a box. They may lie
    beyond the crop's edge. Pictures are placed as `zfjax.data.decode.decode_square` and `zfjax.data.crops.center_crop`
    place square ones.
    """
    # In thousandths, so that 40.000001 does not take in a pixel more.
    edges = np.round(np.asarray(shares, np.float64) * square, 3)
    pixels = np.concatenate([np.floor(edges[:, :2]), np.ceil(edges[:, 2:])], axis=1).astype(np.int64)
    return pixels - (square - size) // 2


def _shown(edges: Int[np.ndarray, "n parts 4"], size: int) -> Bool[np.ndarray, " n"]:
    inside = np.all((edges >= 0) & (edges <= size), axis=(1, 2))
    areas = np.prod(edges[..., 2:] - edges[..., :2], axis=2)
    usual = np.median(areas, axis=0, keepdims=True) if len(areas) else 0
    return inside & np.all(2 * areas >= usual, axis=1)
