"""What a dataset is to zfjax: class names and two splits of pictures in random access."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from etils import epath
from jaxtyping import Bool, Int, Int64, UInt8

from zfjax.data import decode
from zfjax.data.annotations import Annotations

BrokenImage = decode.BrokenImage


@dataclasses.dataclass(frozen=True)
class Example:
    """One labeled picture as stored: `data` holds an image file's bytes, decoded on demand."""

    name: str
    data: bytes
    label: int

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """The whole picture in RGB, 0..255. Raises `BrokenImage`."""
        return decode.decode(self.data, self.name)

    def square(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """The center square, after scaling the smallest side to `size` pixels. Raises `BrokenImage`."""
        return decode.decode_square(self.data, size, self.name)


@runtime_checkable
class Examples(Protocol):
    """One split: examples by number, in a fixed order.

    Indexing raises `BrokenImage` if the picture's file cannot be read.
    """

    @property
    def fingerprint(self) -> str:
        """Changes whenever the pictures do, which makes a cache of them stale."""
        ...

    @property
    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Each picture's size in bytes, and a number that changes when its file does, without reading the file.

        Unknown values are 0.
        """
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class Source:
    """A dataset: `classes[label]` is the name of a label."""

    name: str
    classes: tuple[str, ...]
    train: Examples
    val: Examples
    notes: tuple[str, ...] = ()  # lines about it: which split is which, and what is left out
    root: epath.Path | None = None  # the folder that holds the class folders, if any
    annotations: Annotations | None = None  # of val, if the dataset knows more than classes


def held_out(keys: Sequence[str], labels: Int[np.ndarray, "n"], *, seed: int) -> Bool[np.ndarray, "n"]:
    """Which examples a seeded split keeps for validation: a tenth of each class, at least one if it has two.

    Examples are drawn in the order of a hash of their keys: it is the same on every machine and with every version of
    NumPy, and adding or removing a file does not reshuffle the others.
    """
    drawn = [hashlib.blake2b(f"{seed}:{key}".encode()).digest()[:8] for key in keys]
    order = np.lexsort((np.array(drawn, dtype="S8"), labels))
    mask = np.zeros(len(keys), bool)
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        count = max(round(0.1 * len(members)), 1) if len(members) > 1 else 0
        mask[members[:count]] = True
    return mask
