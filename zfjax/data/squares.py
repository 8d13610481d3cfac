"""Several pictures read and decoded: here, or on many cores in processes of their own.

A picture takes a fifth of a millisecond of Python and some ten handovers of its lock from thread to thread. So threads
of one process decode no more pictures on sixteen cores than on two.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.prints import DIGEST, SIZE, digest_of
from zfjax.data.source import BrokenImage, Example

Numbers = Sequence[int] | Int[np.ndarray, " n"]


@shown_by_shape
class Squares(NamedTuple):
    """Pictures as squares; a broken one is black and has the label 0."""

    images: UInt8[np.ndarray, "n size size 3"]
    labels: Int32[np.ndarray, "n"]
    prints: Int64[np.ndarray, "n 3"]  # without stamps; 0 for unreadable pictures
    broken: list[tuple[int, str]]  # rows, and why


@runtime_checkable
class Portable(Protocol):
    """Examples of which some can be sent to another process, which reads them there if it can."""

    def some(self, numbers: Numbers) -> "Readable":
        """Those with these numbers."""
        ...


@runtime_checkable
class Readable(Protocol):
    """What `decoded` asks of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@dataclasses.dataclass(frozen=True)
class ReadExamples:
    """Examples that were read already, or could not be."""

    items: tuple[Example | BrokenImage, ...]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Example:
        item = self.items[index]
        if isinstance(item, BrokenImage):
            raise item
        return item


def already_read(examples: Readable, numbers: Numbers) -> ReadExamples:
    """Some examples, read now."""

    def item(number: int) -> Example | BrokenImage:
        try:
            return examples[number]
        except BrokenImage as error:
            return error

    return ReadExamples(tuple(item(int(number)) for number in numbers))


def decoded(examples: Readable, numbers: Numbers, size: int, classes: int | None = None) -> Squares:
    """The squares of some examples.

    Args:
        examples: pictures.
        numbers: which.
        size: pixels of a square's side.
        classes: how many there are, for a scan; None: neither labels are checked nor prints taken.

    Raises:
        UserError: a label is out of range.
    """
    n = len(numbers)
    found = Squares(np.zeros((n, size, size, 3), np.uint8), np.zeros(n, np.int32), np.zeros((n, 3), np.int64), [])
    for row, number in enumerate(numbers):
        try:
            example = examples[int(number)]
            if classes is not None:
                found.prints[row, [SIZE, DIGEST]] = len(example.data), digest_of(example.data)
                if not 0 <= example.label < classes:
                    raise UserError(f"{example.name}: expected a label in 0..{classes - 1}, found {example.label}")
            found.images[row], found.labels[row] = example.square(size), example.label
        except BrokenImage as error:
            found.broken.append((row, str(error)))
    return found
