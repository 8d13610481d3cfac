"""A scanned split: its readable pictures as numbered squares, decoded on demand or read from the cache."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, UInt8

from zfjax.console.errors import UserError
from zfjax.data.source import Example, Examples
from zfjax.data.workers import squares_of


@runtime_checkable
class Pictures(Protocol):
    """Pictures 0..len-1 of a split, without the broken ones."""

    def __len__(self) -> int: ...

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """The squares (RGB, 0..255) and labels of the pictures with these numbers. Thread-safe."""
        ...


@dataclasses.dataclass(frozen=True)
class DecodedPictures:
    """Pictures decoded on each load: picture i is number `kept[i]` in `examples`."""

    examples: Examples | Sequence[Example]
    kept: Int[np.ndarray, "kept"]
    size: int

    def __len__(self) -> int:
        return len(self.kept)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """Raises `UserError` if a picture that the scan could read is no longer readable."""
        found = squares_of(self.examples, self.kept[indices], self.size)
        if found.broken:
            raise UserError(f"{found.broken[0][1]}; it could be read when the run began")
        return found.images, found.labels


@dataclasses.dataclass(frozen=True)
class CachedPictures:
    """Pictures read from the memory-mapped squares of all examples: picture i is row `kept[i]`."""

    squares: UInt8[np.ndarray, "all size size 3"]
    labels: Int32[np.ndarray, "all"]
    kept: Int[np.ndarray, "kept"]

    def __len__(self) -> int:
        return len(self.kept)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """Copy squares out of the memory map."""
        rows = self.kept[indices]
        return np.asarray(self.squares[rows]), self.labels[rows]


@dataclasses.dataclass(frozen=True)
class ChosenPictures:
    """A subset: picture i is number `numbers[i]` in `pictures`."""

    pictures: Pictures
    numbers: Int[np.ndarray, "chosen"]

    def __len__(self) -> int:
        return len(self.numbers)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """Load from the underlying pictures."""
        return self.pictures.load(self.numbers[indices])


@dataclasses.dataclass(frozen=True)
class LabeledPictures:
    """Pictures with other labels than their own: those of `labels`."""

    pictures: Pictures
    labels: Int32[np.ndarray, "all"]

    def __len__(self) -> int:
        return len(self.pictures)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """Load from the underlying pictures."""
        return self.pictures.load(indices)[0], self.labels[indices]


@dataclasses.dataclass(frozen=True)
class JoinedPictures:
    """Two splits as one: the pictures of `second` are numbered after those of `first`."""

    first: Pictures
    second: Pictures

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def load(self, indices: Int[np.ndarray, "n"]) -> tuple[UInt8[np.ndarray, "n size size 3"], Int32[np.ndarray, "n"]]:
        """Load from both splits; the result is in the order of `indices`."""
        indices = np.asarray(indices)
        count = len(self.first)
        in_second = indices >= count
        parts = (self.first.load(indices[~in_second]), self.second.load(indices[in_second] - count))
        back = np.argsort(np.concatenate([np.flatnonzero(~in_second), np.flatnonzero(in_second)]))
        images, labels = (np.concatenate(pair)[back] for pair in zip(*parts, strict=True))
        return images, labels
