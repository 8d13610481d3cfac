"""The flags of the command, as a request."""

from typing import NamedTuple

from zfjax.runs.given import Given


class Request(NamedTuple):
    """A run or a model, the lenses to compare, and the images to use."""

    given: Given
    batch_size: int
    layer: str  # layer whose maps the CAMs weight; empty: the highest
    only: tuple[str, ...]  # lenses by name; empty: the usual; `all`: each
    images: tuple[str, ...]  # files; empty: images of the val split
    boxes: str  # file with the objects' boxes; empty: the dataset has masks
    drawn: int  # number of images of the val split
    rows: int  # how many of them to show
    sanity_images: int  # how many of them to use with randomized nets
    drawings: int | None  # how many drawings to leave parts out of; None: as usual
    seed: int
