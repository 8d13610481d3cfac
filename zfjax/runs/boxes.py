"""Where the objects in pictures of class folders are, from a file of boxes."""

import dataclasses
import json
import reprlib
from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Int, UInt8

from zfjax.console.errors import UserError
from zfjax.console.files import read_whole
from zfjax.console.paths import user_path
from zfjax.console.text import brief, first_line, readable, reason, shown_by_shape
from zfjax.data.annotations import PartBoxes
from zfjax.data.folder import FolderExamples
from zfjax.data.shapes.parts import in_crop
from zfjax.data.spec import parse_spec
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject

MANY = 256  # classes


@shown_by_shape
class Known(NamedTuple):
    """Pictures of a split with known objects."""

    numbers: Int[np.ndarray, " n"]
    masks: Callable[[Int[np.ndarray, " some"]], Bool[np.ndarray, "some size size"]]  # from picture numbers to masks


@dataclasses.dataclass(frozen=True)
class BoxedObjects:
    """The annotations of a split with a file of boxes; see `zfjax.data.annotations.Annotations`."""

    known: Known
    kept: Int[np.ndarray, " pictures"]  # the pictures' numbers in the dataset's split
    labels: Int[np.ndarray, " pictures"]
    classes: tuple[str, ...]

    def masks(self, examples: Int[np.ndarray, " n"], *, square: int, size: int) -> Bool[np.ndarray, "n {size} {size}"]:
        """The pixels in the boxes; none of pictures without one."""
        numbers = np.searchsorted(self.kept, examples)
        found = np.zeros((len(examples), size, size), bool)
        has_box = np.isin(numbers, self.known.numbers)
        if has_box.any():
            found[has_box] = self.known.masks(numbers[has_box])
        return found

    def part_boxes(self, examples: Int[np.ndarray, " n"], names: Sequence[str], *, square: int, size: int) -> PartBoxes:
        """Of no picture: boxes are of whole objects."""
        none = np.zeros((0, 4), np.int64)
        return PartBoxes(np.zeros(0, np.int64), none, dict.fromkeys(names, none))

    @property
    def pixel_names(self) -> dict[str, tuple[str, ...]]:
        """What pixels may show: the box of an object of a class; of very many classes, of any object."""
        return {"class": self.classes} if len(self.classes) < MANY else {"object": ("object",)}

    def pixels(
        self, examples: Int[np.ndarray, " n"], *, square: int, size: int
    ) -> UInt8[np.ndarray, "n {size} {size} 1"]:
        """The class of the object in whose box each pixel is, from 1; 0 for none, and for classes that are unknown."""
        masks = self.masks(examples, square=square, size=size)[..., None]
        labels = self.labels[np.searchsorted(self.kept, examples)] + 1
        if len(self.classes) >= MANY:
            labels = np.ones_like(labels)
        return np.where(masks, labels[:, None, None, None], 0).astype(np.uint8)


def with_boxes(given: Given, subject: Subject, file: str) -> Subject:
    """A subject whose pictures' objects are known from a file of boxes.

    Raises:
        UserError: the dataset knows more than boxes say, is not of class folders, or the file cannot be used.
    """
    known = _of_boxes(given, subject, file)
    return subject._replace(annotations=BoxedObjects(known, subject.kept, subject.labels, subject.classes))


def known_objects(given: Given, subject: Subject, file: str) -> Known | None:
    """The pictures with known objects, from a file of boxes or, without one, from the dataset; None: it knows of none.

    Raises:
        UserError: as `with_boxes`.
    """
    if file:
        return _of_boxes(given, subject, file)
    return None if subject.annotations is None else Known(np.arange(len(subject.pictures)), subject.masks)


def _of_boxes(given: Given, subject: Subject, file: str) -> Known:
    """The pictures named in the file, and their boxes in the center crops."""
    if subject.annotations is not None:
        raise UserError(f"--boxes: the dataset {given.dataset} has its objects' pixels; boxes are for folder:PATH")
    if not given.dataset or parse_spec(given.dataset).kind != "folder":
        raise UserError(f"--boxes: boxes are for folder:PATH, and the dataset is {given.dataset or 'none'}")
    boxes = _read_boxes(file)
    pictures = given.examples()
    assert isinstance(pictures, FolderExamples)
    names = pictures.names
    numbers = np.array([i for i, number in enumerate(subject.kept) if names[number] in boxes], np.int64)
    if not len(numbers):
        raise UserError(f"--boxes: {file} names no picture of the val split; expected names like {names[0]!r}")

    def of_some(some: np.ndarray) -> np.ndarray:
        size = subject.size
        found = np.zeros((len(some), size, size), bool)
        for mask, number in zip(found, subject.kept[some], strict=True):
            height, width = pictures[int(number)].image.shape[:2]
            box = _inside(file, names[number], boxes[names[number]], height, width)
            side = min(height, width)  # of the center square, which is the part that is decoded
            shares = (box - np.array([height - side, width - side] * 2) / 2) / side
            top, left, bottom, right = np.clip(in_crop(shares[None], subject.side, size)[0], 0, size)
            mask[top:bottom, left:right] = True
        return found

    return Known(numbers, of_some)


def _read_boxes(file: str) -> dict[str, list[float]]:
    expected = '{"CLASS/picture.jpg": [top, left, height, width], …}'
    path = user_path(file, "--boxes")
    try:
        boxes = json.loads(read_whole(path))  # with or without a byte-order mark
    except OSError as error:
        raise UserError(f"--boxes: cannot read {file}: {reason(error)}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"--boxes: {file} is not JSON ({first_line(error)}); expected {expected}") from error
    if not isinstance(boxes, dict):
        raise UserError(f"--boxes: {file} holds no object; expected {expected}")
    for name, box in boxes.items():
        if not (isinstance(box, list) and len(box) == 4 and all(_is_length(side) for side in box)):
            got = reprlib.repr(box)
            raise UserError(f"--boxes: expected [top, left, height, width] for {brief(name)!r} in {file}, got {got}")
    return {readable(name): box for name, box in boxes.items()}


def _is_length(value: object) -> bool:
    """Whether a value is a number of pixels, not infinite, NaN or beyond any picture."""
    return type(value) in (int, float) and abs(cast(float, value)) < 2**31


def _inside(file: str, name: str, box: list[float], height: int, width: int) -> np.ndarray:
    """The box as (top, left, bottom, right), clipped to its picture."""
    top, left, tall, wide = box
    edges = np.clip([top, left, top + tall, left + wide], 0, [height, width] * 2)
    if not (edges[0] < edges[2] and edges[1] < edges[3]):
        raise UserError(f"--boxes: {name!r} in {file} is a picture of {height}×{width} px; its box {box} lies outside")
    return edges
