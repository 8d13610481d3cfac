"""What lenses are compared with: the flags of the command."""

from typing import NamedTuple


class Request(NamedTuple):
    """A run by its folder, which lenses look at it, and at which images."""

    workdir: str
    checkpoint: str
    dataset: str  # where the run's pictures are now; none: where they were
    batch_size: int
    layer: str  # whose maps the CAMs weigh; none: the highest
    only: tuple[str, ...]  # lenses by name; none: all
    images: tuple[str, ...]  # files; none: images of the val split
    boxes: str  # file with the objects' boxes; none: the dataset knows its objects
    drawn: int  # how many images of the val split
    rows: int  # of them, pictured
    sanity_images: int  # of them, shown to randomized nets
    seed: int
