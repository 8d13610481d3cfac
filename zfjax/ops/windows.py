"""Windows that slide over maps, as convolutions and pools have them; pairs are (height, width)."""

import reprlib
from collections.abc import Iterable
from numbers import Integral

Pair = tuple[int, int]
Padding = tuple[Pair, Pair]  # ((top, bottom), (left, right)) in cells


def pair(name: str, value: int | Pair) -> Pair:
    """One number for both, or (height, width), as a pair.

    Args:
        name: of the argument.
        value: what was given for it.

    Raises:
        ValueError: anything else, or a number below 1.
    """
    both = [value, value] if isinstance(value, Integral) else list(value) if isinstance(value, Iterable) else []
    if len(both) != 2 or not all(isinstance(one, Integral) and one >= 1 for one in both):
        raise ValueError(f"{name}: expected a positive number of pixels or (height, width), got {reprlib.repr(value)}")
    return int(both[0]), int(both[1])


def window_count(size: int, window: int, stride: int, padding: Pair) -> int:
    """How many windows fit along an axis of `size` cells with `padding` (before, after); below 1 if none does."""
    return (size + sum(padding) - window) // stride + 1
