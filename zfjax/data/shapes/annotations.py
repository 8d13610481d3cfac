"""Annotations of `shapes`: the drawn objects' pixels and parts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from zfjax.data.annotations import PartBoxes
from zfjax.data.shapes.masks import PIXEL_NAMES, masks, pixels
from zfjax.data.shapes.parts import part_boxes


@dataclasses.dataclass(frozen=True)
class DrawnObjects:
    """The annotations of one split; see `zfjax.data.annotations.Annotations`."""

    builder: Any  # from `prepared_builder`
    split: str  # train or validation

    def masks(self, examples: Int[np.ndarray, " n"], *, square: int, size: int) -> Bool[np.ndarray, "n {size} {size}"]:
        """The objects' pixels."""
        return masks(self.builder, self.split, examples, square=square, size=size)

    def part_boxes(self, examples: Int[np.ndarray, " n"], names: Sequence[str], *, square: int, size: int) -> PartBoxes:
        """The pictures that show all the named parts, with the parts' boxes."""
        return part_boxes(self.builder, self.split, examples, names, square=square, size=size)

    @property
    def pixel_names(self) -> dict[str, tuple[str, ...]]:
        """What pixels may show: an object of a class, a part of it, or what is around it."""
        return PIXEL_NAMES

    def pixels(
        self, examples: Int[np.ndarray, " n"], *, square: int, size: int
    ) -> UInt8[np.ndarray, "n {size} {size} kinds"]:
        """What each pixel shows, of each kind."""
        return pixels(self.builder, self.split, examples, square=square, size=size)
