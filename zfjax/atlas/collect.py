"""Collect what an atlas shows: facts of the run or model, and each layer's strongest images, histograms and classes."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import as_file
from zfjax.data.folder import FolderExamples
from zfjax.experiments.concepts import Concepts, find_concepts
from zfjax.experiments.dissection import Label
from zfjax.experiments.gallery import Gallery, Top, gallery
from zfjax.experiments.passes import Dissected, Parts, dissected, most_relevant, responded, strongest
from zfjax.experiments.responses import Responses
from zfjax.models.edits import layer_title
from zfjax.ops.windows import Pair
from zfjax.runs.given import Given
from zfjax.runs.subject import Subject
from zfjax.training.metrics import read_metrics
from zfjax.training.sharding import data_mesh

STRONGEST = 9  # images per map, as in the paper
CONCEPTS = 10
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
    dissected: Dissected | None = None  # None: cells without positions, or nothing is known of the pictures
    relevant: Top | None = None  # the images in which each map matters most, on the host; None: there are no classes
    concepts: Concepts | None = None  # what its activations are made of; of one layer

    def label(self, number: int) -> Label | None:
        """What a map detects, if it has a name."""
        return self.dissected.labels[number] if self.dissected else None

    @property
    def slug(self) -> str:
        """The name in files and links."""
        return as_file(self.name)

    @property
    def maps(self) -> int:
        """Number of maps."""
        return len(self.top.values)


class Survey(NamedTuple):
    """A model's layers, evaluated on a validation split."""

    facts: Facts
    layers: tuple[Layer, ...]
    classes: tuple[str, ...]
    labels: Int[np.ndarray, " images"]
    names: tuple[str, ...]  # of the images
    features: tuple[str, ...] = ()  # layers of which there is a picture that each map responds to


def survey(given: Given, subject: Subject, names: Sequence[str], batch_size: int, parts: Parts | None = None) -> Survey:
    """Pass over a split: for the strongest activations, for histograms up to these, for labels, and for relevance.

    Args:
        given: the run or model that `subject` is of.
        subject: the model and its images.
        names: names of layers, in any order; they are shown bottom first.
        batch_size: images on a device at a time.
        parts: where the done parts of the passes are kept.

    Raises:
        UserError: no such layer, or no images.
    """
    count, model = len(subject.pictures), subject.model
    if not count:
        raise UserError(f"{given.name} has no validation images")
    subject = with_unknown(subject)
    wanted = {model.place(name).name for name in names}
    places = [place for name, place in model.layers.items() if name in wanted]
    with Progress("strongest activations", count) as progress:
        in_order = [place.name for place in places]
        tops = strongest(subject, in_order, min(STRONGEST, count), batch_size, parts, progress)
    with Progress("histograms and classes", count) as progress:
        found = responded(subject, tops, batch_size, parts, progress)
    with Progress("labels", count) as progress:
        known = dissected(subject, found, batch_size, parts, progress)
    relevant: Mapping[str, Top] = {}
    if subject.classes and len(getattr(model.output, "shape", ())) == 2:
        with Progress("relevance", count) as progress:
            relevant = most_relevant(subject, in_order, min(STRONGEST, count), batch_size, parts, progress)
    concepts: dict[str, Concepts] = {}
    made_of = [name for name in in_order if name in known and _adds_up(found[name])][-1:]  # the highest
    for name in made_of if relevant and count >= CONCEPTS else ():
        with Progress("concepts", count) as progress:
            most = min(CONCEPTS, model.place(name).shape[-1])
            concepts[name] = find_concepts(
                subject, name, most, k=min(STRONGEST, count), each=batch_size, parts=parts, progress=progress
            )
    surveyed = tuple(
        Layer(
            place.name,
            layer_title(place.name),
            _smaller(place.receptive_field, subject.size),
            tops[place.name],
            found[place.name],
            known.get(place.name),
            relevant.get(place.name),
            concepts.get(place.name),
        )
        for place in places
    )
    return Survey(_facts(given, subject), surveyed, subject.classes, subject.labels, _names(given, subject))


def with_unknown(subject: Subject) -> Subject:
    """The same with one more class, `unknown`, for pictures that are of no class of the model; others have images."""
    if (subject.labels >= 0).all():
        return subject
    there, numbers = np.unique(subject.labels, return_inverse=True)  # -1 comes first
    named = (subject.classes[label] for label in there[1:])
    return subject._replace(classes=("unknown", *named), labels=numbers.astype(np.int32))


def galleries(subject: Subject, surveyed: Layer, top: Top) -> Iterator[Gallery]:
    """Yield patches and projections of a layer's maps in order, some maps at a time, in all processes.

    Args:
        subject: the model and its images.
        surveyed: the layer.
        top: which images and cells: `surveyed.top` or `surveyed.relevant`.
    """
    fun, mesh = subject.model.layer(surveyed.name), data_mesh()
    for first in range(0, surveyed.maps, _MAPS_AT_ONCE):
        maps = np.arange(first, min(first + _MAPS_AT_ONCE, surveyed.maps))
        yield gallery(fun, top, maps, subject.load, batch_size=4 * top.values.shape[1], mesh=mesh)


def _adds_up(responses: Responses) -> bool:
    """Whether activations may be sums of concepts: they are finite, nowhere negative and not all zero."""
    is_finite = bool(np.isfinite(responses.excitation).all())
    return is_finite and not responses.negative.any() and bool(responses.histogram.any())


def _smaller(field: Pair | None, size: int) -> Pair | None:
    """The field, unless it is as large as the image."""
    return field if field and min(field) < size else None


def _facts(given: Given, subject: Subject) -> Facts:
    lines = read_metrics(given.folder) if given.folder else []
    top1 = {line["step"]: line["val_top1"] for line in lines if "val_top1" in line}
    return Facts(
        given.name,
        given.title,
        subject.size,
        given.dataset_title,
        len(subject.pictures),
        None if subject.step is None else top1.get(subject.step),
    )


def _names(given: Given, subject: Subject) -> tuple[str, ...]:
    """Names of the images: file paths below the dataset's folder, or numbers in the validation split."""
    examples = given.examples()
    if isinstance(examples, FolderExamples):
        return tuple(examples.names[number] for number in subject.kept)
    return tuple(f"validation image {number}" for number in subject.kept)
