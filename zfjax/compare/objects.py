"""Locate the objects in pictures of a dataset."""

import numpy as np

from zfjax.console.errors import UserError
from zfjax.data.spec import parse_spec
from zfjax.runs.boxes import Known, has_pixels, of_boxes
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject


def known_objects(given: Given, subject: Subject, boxes: str) -> Known:
    """The pictures with known objects, from a file of boxes or, without one, from the dataset.

    Raises:
        UserError: neither has them, or both do.
    """
    dataset, annotations = given.dataset, subject.annotations
    if annotations is not None and boxes:
        raise has_pixels(given)
    if annotations is not None:
        return Known(np.arange(len(subject.pictures)), subject.masks)
    if not (boxes and parse_spec(dataset).kind == "folder"):
        raise UserError(
            f"compare scores lenses by where the objects are: the dataset shapes has masks, folder:PATH needs"
            f" --boxes=FILE.json (see --help), and the dataset is {dataset}; for pictures without scores:"
            " --images=FILES"
        )
    return of_boxes(given, subject, boxes)
