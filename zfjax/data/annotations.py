"""What a dataset may know of its pictures besides their classes: where the objects are, and their parts."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int

from zfjax.data.boxes import Boxes


class PartBoxes(NamedTuple):
    """Pictures of one class with the boxes of their parts, (top, left, height, width) in pixels."""

    numbers: Int[np.ndarray, " n"]  # which of the pictures that were asked for
    objects: Boxes  # [n, 4], what is seen of the whole object
    parts: Mapping[str, Boxes]  # [n, 4], by name; left is the picture's left


@runtime_checkable
class Annotations(Protocol):
    """Where the things in one split are, in the center crops that nets see.

    Pictures are meant by their numbers in the split, broken ones counted; `square` is the side of the squares that
    pictures are decoded to, `size` that of the crop in their middle, both in pixels.
    """

    def masks(self, examples: Int[np.ndarray, " n"], *, square: int, size: int) -> Bool[np.ndarray, "n {size} {size}"]:
        """The objects' pixels."""
        ...

    def part_boxes(self, examples: Int[np.ndarray, " n"], names: Sequence[str], *, square: int, size: int) -> PartBoxes:
        """The pictures that show all the named parts, and the parts' boxes."""
        ...
