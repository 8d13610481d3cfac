"""Windows that slide over maps, as convolutions and pools have them; pairs are (height, width)."""

import math
import reprlib
from collections.abc import Iterable
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right)) in cells


def pair(name: str, value: int | np.integer | Iterable[int | np.integer]) -> Pair:
    """One number for both, or (height, width), as a pair.

    Args:
        name: of the argument.
        value: what was given for it.

    Raises:
        ValueError: anything else, or a number below 1.
    """
    both = list(value) if isinstance(value, Iterable) else [value, value]
    if len(both) != 2 or not all(isinstance(one, Integral) and one >= 1 for one in both):
        raise ValueError(f"{name}: expected a positive number of pixels or (height, width), got {reprlib.repr(value)}")
    return int(both[0]), int(both[1])


def require_pairs(padding: Any, **pairs: Any) -> None:
    """Raise a ValueError naming what is no (height, width) in cells, or if padding is no pair of pairs."""
    for name, value in pairs.items():
        if not _is_pair(value):
            raise ValueError(f"{name}: expected (height, width) in cells, got {reprlib.repr(value)}")
    if not (isinstance(padding, tuple) and len(padding) == 2 and all(map(_is_pair, padding))):
        raise ValueError(f"padding: expected ((top, bottom), (left, right)) in cells, got {reprlib.repr(padding)}")


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(one, Integral) for one in value)


def window_count(size: int, window: int, stride: int, padding: Pair) -> int:
    """How many windows fit along an axis of `size` cells with `padding` (before, after); below 1 if none does."""
    return (size + sum(padding) - window) // stride + 1


class Windows(NamedTuple):
    """Windows that slide over an array: one entry per axis, in cells, as `lax.reduce_window` takes them."""

    size: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[Pair, ...]  # (before, after)
    base_dilation: tuple[int, ...]  # of the array: cells from one of its elements to the next
    dilation: tuple[int, ...]  # of the window

    @classmethod
    def over_maps(cls, window: Pair, strides: Pair, padding: Padding) -> "Windows":
        """Over maps [N, H, W, C]."""
        ones = (1, 1, 1, 1)
        return cls((1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)), ones, ones)

    @property
    def cells(self) -> int:
        """How many cells a window has."""
        return math.prod(self.size)

    def dilated(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The sides of an array of `shape` after its own dilation."""
        return tuple(
            max(0, (side - 1) * dilation + 1) for side, dilation in zip(shape, self.base_dilation, strict=True)
        )

    def counts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """How many windows there are along each axis of an array of `shape`."""
        reach = [(size - 1) * dilation + 1 for size, dilation in zip(self.size, self.dilation, strict=True)]
        steps = zip(self.dilated(shape), reach, self.strides, self.padding, strict=True)
        return tuple(max(0, window_count(*step)) for step in steps)

    def starts(self, shape: tuple[int, ...]) -> list[np.ndarray]:
        """Along each axis of an array of `shape`, the cell where each window begins, which may lie outside of it."""
        steps = zip(self.counts(shape), self.strides, self.padding, strict=True)
        return [np.arange(count) * stride - before for count, stride, (before, _) in steps]
