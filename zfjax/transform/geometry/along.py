"""How the elements of a value lie along one axis of the images: for each, the first and last pixel that it depends on.

A table rather than a formula, so that slices, joined pieces and merged axes are exact. Cells beyond the edges, which
padding adds, count as if the map went on there, so that a field has one size, as in the paper's Fig. 3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Ends = tuple[np.ndarray, np.ndarray]  # first and last pixels


@dataclass(frozen=True, eq=False)
class Along:
    """How the elements of a value lie along one axis of the images: batch, height or width.

    Attributes:
        axis: the axis of the value along which this changes; None if it does not.
        first: float64 [size of that axis, or 1]: the first pixel that each element depends on, which may lie outside
            the image; minus infinity for all of the image, infinity for none.
        last: the last pixel; infinity for all of the image, minus infinity for none.
        stride: pixels from one element's field to the next one's, for cells beyond the edges; these are empty if it is
            not a number.
    """

    axis: int | None
    first: np.ndarray
    last: np.ndarray
    stride: float

    @property
    def is_even(self) -> bool:
        """Whether all fields have one size and lie one stride apart."""
        if not (np.isfinite(self.first).all() and np.isfinite(self.last).all()):
            return False
        steps = np.diff([self.first, self.last])
        return bool((abs(steps - self.stride) < 1e-6).all())

    def at(self, axis: int | None) -> "Along":
        """The same along another axis of another value."""
        return self if axis == self.axis else Along(axis, self.first, self.last, self.stride)

    def taken(self, cells: slice | np.ndarray, axis: int | None, stride: float = 1) -> "Along":
        """Some of the elements, so many cells apart."""
        return Along(axis, self.first[cells], self.last[cells], self.stride * stride)


NOTHING = Along(None, np.array([np.inf]), np.array([-np.inf]), 1.0)
WHOLE = Along(None, np.array([-np.inf]), np.array([np.inf]), 1.0)


def everywhere(along: Along) -> Along:
    """Of elements that depend on all of the image but still lie along an axis."""
    ends = np.full(len(along.first), np.inf)
    return Along(along.axis, -ends, ends, along.stride)


def union(one: Along, other: Along) -> Along:
    """Of values that are combined element by element; where they lie along different axes, all of the image."""
    if one is NOTHING or other is NOTHING:
        return one if other is NOTHING else other
    if one.axis is None:
        one, other = other, one
    if other.axis not in (None, one.axis):
        return everywhere(one)
    stride = one.stride if other.axis is None or one.stride == other.stride else np.nan
    return Along(one.axis, np.minimum(one.first, other.first), np.maximum(one.last, other.last), stride)


def padded(along: Along, axis: int, padding: tuple[int, int], spacing: int) -> Along:
    """With cells added at both ends, or cut off where negative, after the cells were moved apart."""
    low, high = padding
    before, after = max(0, math.ceil(low / spacing)), max(0, math.ceil(high / spacing))
    first, last = _continued(along, before, after)
    if spacing > 1:
        first, last = _apart(first, np.inf, spacing), _apart(last, -np.inf, spacing)
    cells = slice(before * spacing - low, len(first) - (after * spacing - high))
    return Along(axis, first[cells], last[cells], along.stride / spacing)


def windows(along: Along, axis: int, size: int, stride: int, dilation: int) -> Along:
    """Of windows of cells."""
    reach = (size - 1) * dilation + 1
    if reach > len(along.first):
        return Along(axis, np.empty(0), np.empty(0), along.stride * stride)

    def cells(ends: np.ndarray) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(ends, reach)[::stride, ::dilation]

    return Along(axis, cells(along.first).min(1), cells(along.last).max(1), along.stride * stride)


def reshaped(along: Along, old: tuple[int, ...], new: tuple[int, ...]) -> Along:
    """Of a value whose axes are merged or split."""
    assert along.axis is not None
    start, stop, begin, end = _block(along.axis, old, new)
    if stop - start == end - begin == 1:
        return along.at(begin)
    block, made = old[start:stop], new[begin:end]
    place = along.axis - start
    across = [1] * len(block)
    across[place] = -1
    first, last = (np.broadcast_to(e.reshape(across), block).reshape(made) for e in (along.first, along.last))
    stride = along.stride / math.prod(block[place + 1 :])
    strides = [stride * math.prod(made[axis + 1 :]) for axis in range(len(made))]
    return arranged(first, last, strides, range(begin, end))


def arranged(first: np.ndarray, last: np.ndarray, strides: Sequence[float], axes: Sequence[int]) -> Along:
    """Of a value that may change along several axes.

    The outermost of these keeps positions, and each cell along it depends on all that those along the others do.

    Args:
        first: an array with several axes, unlike that of an `Along`.
        last: shaped like it.
        strides: along each of its axes, where the fields do not tell.
        axes: of the value.
    """
    kept = next((axis for axis in range(first.ndim) if _changes(first, axis) or _changes(last, axis)), None)
    if kept is None:
        return Along(None, first.reshape(-1)[:1], last.reshape(-1)[:1], strides[0] if strides else 1.0)
    others = tuple(axis for axis in range(first.ndim) if axis != kept)
    first, last = first.min(others), last.max(others)
    if len(first) > 1 and np.isfinite([*first, strides[kept]]).all():
        even = Along(axes[kept], first, last, float(first[1] - first[0]))
        if even.is_even:
            return even
    return Along(axes[kept], first, last, strides[kept])


def _continued(along: Along, before: int, after: int) -> Ends:
    """The fields of cells and of some beyond both ends."""
    if before == after == 0:
        return along.first, along.last
    if along.is_even:
        steps = along.stride * np.arange(-before, len(along.first) + after)
        return along.first[0] + steps, along.last[0] + steps
    return (
        np.pad(along.first, (before, after), constant_values=np.inf),
        np.pad(along.last, (before, after), constant_values=-np.inf),
    )


def _apart(ends: np.ndarray, none: float, spacing: int) -> np.ndarray:
    spread = np.full((len(ends) - 1) * spacing + 1, none)
    spread[::spacing] = ends
    return spread


def _changes(ends: np.ndarray, axis: int) -> bool:
    return bool((ends != ends.take([0], axis)).any())


def _block(axis: int, old: tuple[int, ...], new: tuple[int, ...]) -> tuple[int, int, int, int]:
    """The axes around `axis` that a reshape merges and splits, and those that they become: start, stop, start, stop."""
    stop = end = 0
    while stop <= axis:
        start, begin = stop, end
        stop, end = start + 1, min(begin + 1, len(new))
        while (size := math.prod(old[start:stop])) != (made := math.prod(new[begin:end])):
            if size < made:
                stop += 1
            else:
                end += 1
    return start, stop, begin, end
