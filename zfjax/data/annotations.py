"""What a dataset may know about its pictures besides their classes: where the objects and their parts are."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Int, UInt8

from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Boxes


@shown_by_shape
class PartBoxes(NamedTuple):
    """Pictures of one class with the boxes of their parts, (top, left, height, width) in pixels."""

    numbers: Int[np.ndarray, " n"]  # positions in the list of requested pictures
    objects: Boxes  # [n, 4], the visible part of the whole object
    parts: Mapping[str, Boxes]  # [n, 4], by name; left is the picture's left


@runtime_checkable
class Annotations(Protocol):
    """Where the objects in one split are, in the center crops that nets see.

    `examples` are picture numbers in the split, counting broken ones. Pictures are decoded to squares with sides of
    `square` pixels; the center crop has sides of `size` pixels.
    """

    def masks(self, examples: Int[np.ndarray, " n"], *, square: int, size: int) -> Bool[np.ndarray, "n {size} {size}"]:
        """The objects' pixels."""
        ...

    def part_boxes(self, examples: Int[np.ndarray, " n"], names: Sequence[str], *, square: int, size: int) -> PartBoxes:
        """The pictures that show all the named parts, with the parts' boxes."""
        ...

    @property
    def pixel_names(self) -> Mapping[str, tuple[str, ...]]:
        """The names of what pixels may show, by kind, such as part."""
        ...

    def pixels(
        self, examples: Int[np.ndarray, " n"], *, square: int, size: int
    ) -> UInt8[np.ndarray, "n {size} {size} kinds"]:
        """What each pixel shows, of each kind: the number of its name, from 1; 0 for none of these."""
        ...
