"""Annotations of `shapes`: the drawn objects' pixels and parts."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

from zfjax.data.annotations import PartBoxes
from zfjax.data.shapes.masks import masks
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
