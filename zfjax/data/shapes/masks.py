"""Which pixels of a run's pictures show the drawn object."""

import io
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from PIL import Image

from zfjax.data.shapes.parts import encoded_records


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
    first = (square - size) // 2
    for example in examples:
        png = Image.open(io.BytesIO(records[int(example)]["mask"]), formats=["PNG"])
        drawn = png.resize((square, square), Image.Resampling.BILINEAR)
        found.append(np.asarray(drawn)[first : first + size, first : first + size] > 127)
    return np.stack(found)
