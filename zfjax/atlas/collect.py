"""Collect what an atlas shows: facts of the run, and each layer's strongest images, histograms and classes."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.data.folder import FolderExamples
from zfjax.data.spec import parse_spec
from zfjax.experiments.gallery import Gallery, Top, gallery
from zfjax.experiments.passes import Parts, responded, strongest
from zfjax.experiments.responses import Responses
from zfjax.models import layer, layers
from zfjax.models.edits import layer_title
from zfjax.models.specs import Pair
from zfjax.models.table import layer_table
from zfjax.runs.folder import RunInfo, open_own
from zfjax.runs.subject import Subject
from zfjax.training.metrics import read_metrics
from zfjax.training.sharding import data_mesh

STRONGEST = 9  # images per map, as in the paper
_MAPS_AT_ONCE = 16  # maps whose patches and projections are in memory at a time


class Facts(NamedTuple):
    """A run in a few words."""

    name: str
    net: str
    image_size: int  # pixels, as the net takes them
    dataset: str  # of a folder, only its name: pages should not reveal its path
    images: int  # of the validation split
    top1: float | None  # accuracy on it, if the run recorded it for this checkpoint


class Layer(NamedTuple):
    """A layer of feature maps, with everything but their pictures."""

    name: str
    title: str
    field: Pair | None  # receptive field (height, width) in pixels; None: the whole image
    top: Top  # on the host
    responses: Responses

    @property
    def maps(self) -> int:
        """Number of maps."""
        return len(self.top.values)


class Survey(NamedTuple):
    """A net's layers, evaluated on the run's validation split."""

    facts: Facts
    layers: tuple[Layer, ...]
    classes: tuple[str, ...]
    labels: Int[np.ndarray, " images"]
    names: tuple[str, ...]  # of the images


def survey(run: RunInfo, subject: Subject, names: Sequence[str], batch_size: int, parts: Parts | None = None) -> Survey:
    """Pass over a split twice: for the strongest activations, and for the histograms up to these.

    Args:
        run: the run that `subject` was read from.
        subject: the net and its images.
        names: names of layers, in any order; they are shown bottom first.
        batch_size: images on a device at a time.
        parts: where the done parts of both passes are kept.

    Raises:
        UserError: no such layer, or no images.
    """
    if not len(subject.pictures):
        raise UserError(f"the run in {run.folder} has no validation images")
    count = len(subject.pictures)
    layers(subject.net, subject.variables, names)  # which names one that there is not
    names = [spec.name for spec in subject.net.layers if spec.name in names]
    with Progress("strongest activations", count) as progress:
        tops = strongest(subject, names, min(STRONGEST, count), batch_size, parts, progress)
    with Progress("histograms and classes", count) as progress:
        found = responded(subject, tops, batch_size, parts, progress)
    fields = {row.name: row.receptive_field for row in layer_table(subject.net)}
    size = subject.net.image_size
    surveyed = tuple(
        Layer(name, layer_title(name), _smaller(fields[name], size), tops[name], found[name]) for name in names
    )
    return Survey(_facts(run, subject), surveyed, subject.classes, subject.labels, _names(run, subject))


def galleries(subject: Subject, surveyed: Layer) -> Iterator[Gallery]:
    """Yield the patches and projections of a layer's maps in order, some maps at a time, in all processes."""
    fun, mesh = layer(subject.net, subject.variables, surveyed.name), data_mesh()
    for first in range(0, surveyed.maps, _MAPS_AT_ONCE):
        maps = np.arange(first, min(first + _MAPS_AT_ONCE, surveyed.maps))
        yield gallery(fun, surveyed.top, maps, subject.load, batch_size=4 * surveyed.top.values.shape[1], mesh=mesh)


def _smaller(field: Pair | None, size: int) -> Pair | None:
    """The field, unless it is as large as the image."""
    return field if field and min(field) < size else None


def _facts(run: RunInfo, subject: Subject) -> Facts:
    top1 = {line["step"]: line["val_top1"] for line in read_metrics(run.folder) if "val_top1" in line}
    width = f" at {run.config.width:g} × full width" if run.config.width != 1 else ""
    return Facts(
        run.folder.name,
        f"{run.config.net}{width}",
        subject.net.image_size,
        parse_spec(run.config.dataset).title,
        len(subject.pictures),
        None if subject.step is None else top1.get(subject.step),
    )


def _names(run: RunInfo, subject: Subject) -> tuple[str, ...]:
    """Names of the images: file paths below the dataset's folder, or numbers in the validation split."""
    examples = open_own(run.config, run.folder).val
    if isinstance(examples, FolderExamples):
        return tuple(examples.names[number] for number in subject.kept)
    return tuple(f"validation image {number}" for number in subject.kept)
