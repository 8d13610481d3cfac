"""Locate the objects in pictures of a dataset."""

import json
import reprlib
from collections.abc import Callable
from typing import NamedTuple, cast

import numpy as np
from jaxtyping import Bool, Int

from zfjax.console.errors import UserError
from zfjax.console.files import read_whole
from zfjax.console.paths import user_path
from zfjax.console.text import brief, first_line, readable, reason
from zfjax.data.folder import FolderExamples
from zfjax.data.shapes.parts import in_crop
from zfjax.data.spec import parse_spec
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject


class Known(NamedTuple):
    """Pictures of a split with known objects."""

    numbers: Int[np.ndarray, " n"]
    masks: Callable[[Int[np.ndarray, " some"]], Bool[np.ndarray, "some size size"]]  # from picture numbers to masks


def known_objects(given: Given, subject: Subject, boxes: str) -> Known:
    """The pictures with known objects, from a file of boxes or, without one, from the dataset.

    Raises:
        UserError: neither has them, or both do.
    """
    dataset, annotations = given.dataset, subject.annotations
    if annotations is not None and boxes:
        raise UserError(f"--boxes: the dataset {dataset} has its objects' pixels; boxes are for folder:PATH")
    if annotations is not None:
        return Known(np.arange(len(subject.pictures)), subject.masks)
    if not (boxes and parse_spec(dataset).kind == "folder"):
        raise UserError(
            f"compare scores lenses by where the objects are: the dataset shapes has masks, folder:PATH needs"
            f" --boxes=FILE.json (see --help), and the dataset is {dataset}; for pictures without scores:"
            " --images=FILES"
        )
    return of_boxes(given, subject, boxes)


def of_boxes(given: Given, subject: Subject, file: str) -> Known:
    """The pictures named in the file, and their boxes in the center crops."""
    boxes = _read_boxes(file)
    pictures = given.examples()
    assert isinstance(pictures, FolderExamples)  # boxes are refused for other datasets
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
