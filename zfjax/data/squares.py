"""Several pictures read and decoded, and parts of a dataset that another process can decode (`workers.py`)."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.prints import DIGEST, SIZE, digest_of
from zfjax.data.source import BrokenImage, Example

Numbers = Sequence[int] | Int[np.ndarray, " n"]
_PART = 8_000_000  # bytes of files that are in memory for another process to decode


@shown_by_shape
class Squares(NamedTuple):
    """Pictures as squares; a broken one is black and has the label 0."""

    images: UInt8[np.ndarray, "n size size 3"]
    labels: Int32[np.ndarray, "n"]
    prints: Int64[np.ndarray, "n 3"]  # without stamps; 0 for unreadable pictures
    broken: list[tuple[int, str]]  # rows, and why


@runtime_checkable
class Readable(Protocol):
    """What `decoded` asks of examples."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Portable(Protocol):
    """Examples of which parts can be sent to another process."""

    def parts(self, numbers: Numbers) -> Iterator[Readable]:
        """Those with these numbers, in one part or several."""
        ...


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


def read_parts(examples: Readable, numbers: Numbers) -> Iterator[ReadExamples]:
    """Some examples in parts that were read, each of a few megabytes or of one large file, for other processes."""
    items: list[Example | BrokenImage] = []
    held = 0
    for number in numbers:
        try:
            items.append(example := examples[int(number)])
            held += len(example.data)
        except BrokenImage as error:
            items.append(error)
        if held > _PART:
            yield ReadExamples(tuple(items))
            items, held = [], 0
    if items:
        yield ReadExamples(tuple(items))


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


def joined(parts: Sequence[Squares]) -> Squares:
    """The squares of all parts, one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.labels) for part in parts)])
    broken = [
        (int(start) + row, message) for start, part in zip(starts, parts, strict=False) for row, message in part.broken
    ]
    images, labels, prints = (np.concatenate([part[field] for part in parts]) for field in range(3))
    return Squares(images, labels, prints, broken)
