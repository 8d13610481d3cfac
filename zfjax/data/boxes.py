"""Boxes: (top, left, height, width) in whole pixels, wherever zfjax takes or returns one."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer

Boxes = Integer[np.ndarray, "*boxes 4"]  # the last axis is a Box


class Box(NamedTuple):
    """The pixels top <= y < top + height, left <= x < left + width."""

    top: int
    left: int
    height: int
    width: int

    @classmethod
    def around(cls, mask: Bool[np.ndarray, "height width"]) -> "Box":
        """The smallest box around the true pixels.

        >>> Box.around(np.array([[False, False], [True, True]]))
        Box(top=1, left=0, height=1, width=2)
        """
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        return cls(int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1)


def wide(boxes: Boxes) -> Boxes:
    """Boxes as int64, so that sums and differences of smaller or unsigned integers do not wrap around.

    >>> wide(np.array([200, 200, 100, 100], np.uint8)).sum()
    np.int64(600)
    """
    return np.asarray(boxes).astype(np.int64)


def edges(boxes: Boxes) -> Boxes:
    """Boxes as (top, left, bottom, right), bottom and right exclusive, for cutting and clipping.

    >>> edges(np.array([1, 1, 8, 8])).tolist()
    [1, 1, 9, 9]
    """
    boxes = wide(boxes)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def from_edges(edges: Boxes) -> Boxes:
    """The boxes whose edges are (top, left, bottom, right), bottom and right exclusive."""
    edges = wide(edges)
    return np.concatenate([edges[..., :2], edges[..., 2:] - edges[..., :2]], axis=-1)
