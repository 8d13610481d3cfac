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
    """One labeled picture as it is stored: `data` are the bytes of an image file, decoded when asked for."""

    name: str
    data: bytes
    label: int

    @property
    def image(self) -> UInt8[np.ndarray, "height width 3"]:
        """The whole picture, RGB. Raises `BrokenImage`."""
        return decode.decode(self.data, self.name)

    def square(self, size: int) -> UInt8[np.ndarray, "size size 3"]:
        """Smallest side brought to `size` pixels, its center square. Raises `BrokenImage`."""
        return decode.decode_square(self.data, size, self.name)


@runtime_checkable
class Examples(Protocol):
    """One split: examples by number, in an order that never changes.

    Indexing raises `BrokenImage` where the picture cannot even be read.
    """

    @property
    def fingerprint(self) -> str:
        """Changes whenever the pictures do, so that a cache of them is known to be stale."""
        ...

    @property
    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Of each picture, without reading it, its size in bytes and a number that changes when the file does.

        0 for what is not known.
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
    notes: tuple[str, ...] = ()  # what to say of it: which split is which, and what is left out
    root: epath.Path | None = None  # the folder that holds the class folders, if the dataset is one
    annotations: Annotations | None = None  # of val, where the dataset knows more than classes


def held_out(
    keys: Sequence[str], labels: Int[np.ndarray, "n"], *, seed: int, fraction: float = 0.1
) -> Bool[np.ndarray, "n"]:
    """Which examples a seeded split keeps for validation: `fraction` of each class, at least one of two.

    Examples are drawn in the order of a hash of their keys: the same on every machine and with every version
    of NumPy, and a file more or less does not reshuffle the others.
    """
    drawn = [hashlib.blake2b(f"{seed}:{key}".encode()).digest()[:8] for key in keys]
    order = np.lexsort((np.array(drawn, dtype="S8"), labels))
    mask = np.zeros(len(keys), bool)
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        count = max(round(fraction * len(members)), 1) if len(members) > 1 else 0
        mask[members[:count]] = True
    return mask
