"""The content of the pages as plain values: which maps, images and classes, in which order."""

import math
from collections import Counter
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zfjax.atlas.collect import Layer, Survey
from zfjax.atlas.pictures import COLUMNS
from zfjax.experiments.concepts import Concepts
from zfjax.experiments.gallery import Top
from zfjax.experiments.responses import Responses

CLASSES_OF_MAP = 10  # shown on its page
CONCEPTS_OF_MAP = 5  # shown there, too
MAPS_OF_CLASS = 4  # per layer, on the class's page


class Winner(NamedTuple):
    """One of the images in which a map fires most, or matters most."""

    rank: int  # from 1
    row: int  # of its tiles in the picture
    column: int
    value: float  # its activation, or its relevance
    label: int
    name: str


class Excited(NamedTuple):
    """A map and a class that excites it."""

    layer: Layer
    map: int
    label: int
    mean: float  # of the strongest activation in each image of the class
    others: float  # the same for the other classes
    share: float  # of the longest bar; 0 if the mean is not above zero


class Detected(NamedTuple):
    """Something that pixels show, and how far a map overlaps with it."""

    kind: str
    name: str
    iou: float
    share: float  # of the longest bar


class Shown(NamedTuple):
    """A concept: what shows it, and what the net loses without it."""

    number: int
    winners: list[Winner]
    importance: tuple[float, float, float]  # the mean fall of the logit, and its interval
    by_class: list[tuple[int, float, float]]  # label, fall, and share of the longest bar


class Bar(NamedTuple):
    """One bin of a histogram, in a box of 1 by 1."""

    left: float
    width: float
    height: float
    begin: float
    end: float
    cells: int


class Histogram(NamedTuple):
    """A map's activations above zero; heights are logarithmic."""

    bars: tuple[Bar, ...]
    ticks: tuple[tuple[float, int], ...]  # height and number of cells
    strongest: float
    cells: int
    zeros: float  # share of the cells
    negative: float


def winners(survey: Survey, top: Top, number: int) -> list[Winner]:
    """The images of a map in a layer's top, of those with a value above zero."""
    found = []
    for rank, (value, image) in enumerate(zip(top.values[number], top.images[number], strict=True)):
        if value > 0:
            label, name = int(survey.labels[image]), survey.names[image]
            found.append(Winner(rank + 1, rank // COLUMNS, rank % COLUMNS, float(value), label, name))
    return found


def histogram(responses: Responses, number: int) -> Histogram:
    """A map's histogram, with ticks at powers of ten."""
    counts, edges = responses.histogram[number], responses.edges[number]
    top = math.log10(max(int(counts.max()), 1) * 10)

    def height(cells: float) -> float:
        return (math.log10(cells) + 1) / (top + 0.08) if cells else 0.0

    bins = len(counts)
    begins = np.concatenate([[0.0], edges[:-1]])
    bars = tuple(
        Bar(i / bins, 1 / bins, height(int(cells)), float(begin), float(end), int(cells))
        for i, (cells, begin, end) in enumerate(zip(counts, begins, edges, strict=True))
    )
    powers = range(0, int(top), max(1, round(top / 4)))
    cells = int(responses.cells[number])
    zeros, negative = (int(part[number]) / max(cells, 1) for part in (responses.zeros, responses.negative))
    ticks = tuple((height(10**power), 10**power) for power in powers)
    return Histogram(bars, ticks, float(edges[-1]), cells, zeros, negative)


def detected(layer: Layer, number: int) -> list[Detected]:
    """What a map overlaps with most, with its label first if it has one."""
    if layer.dissected is None:
        return []
    iou = layer.dissected.overlaps.iou[number]
    order = [place for place in np.argsort(-iou, kind="stable") if iou[place] > 0][:CONCEPTS_OF_MAP]
    concepts = layer.dissected.concepts
    return [Detected(concepts[i].kind, concepts[i].name, float(iou[i]), float(iou[i] / iou[order[0]])) for i in order]


def concepts(survey: Survey, found: Concepts) -> list[Shown]:
    """The concepts of a layer, the most important first, each with the classes that lose most without it."""
    falls, shown = np.nan_to_num(found.by_class(len(survey.classes))), []
    for number, (of_class, importance) in enumerate(zip(falls, found.importance, strict=True)):
        order = [int(i) for i in np.argsort(-of_class, kind="stable") if of_class[i] > 0][:CONCEPTS_OF_MAP]
        bars = [(i, float(of_class[i]), float(of_class[i] / of_class[order[0]])) for i in order]
        low, high = importance[1:].tolist()
        shown.append(Shown(number, winners(survey, found.top, number), (float(importance[0]), low, high), bars))
    return shown


def exciting(layer: Layer, number: int) -> list[Excited]:
    """The classes that excite a map most, strongest first, by mean strongest activation."""
    means = np.nan_to_num(layer.responses.excitation[number])
    order = [label for label in np.argsort(-means, kind="stable") if means[label] > 0][:CLASSES_OF_MAP]
    return _excited(layer, [(number, int(label)) for label in order])


def excited(layer: Layer, label: int, contrast: Float[np.ndarray, "maps classes"]) -> list[Excited]:
    """The maps that a class excites more than other classes do, highest contrast first."""
    of_class = np.nan_to_num(contrast[:, label])
    order = [number for number in np.argsort(-of_class, kind="stable") if of_class[number] > 0][:MAPS_OF_CLASS]
    return _excited(layer, [(int(number), label) for number in order])


def showpieces(contrast: Float[np.ndarray, "maps classes"], count: int) -> list[int]:
    """Some maps of a layer that clearly prefer one class, each a different class if possible."""
    contrast = np.nan_to_num(contrast)
    favorites = contrast.argmax(axis=1)
    seen: Counter[int] = Counter()
    turns = []  # the second map of a class comes after the first of every class
    for place, number in enumerate(np.argsort(-contrast.max(axis=1), kind="stable")):
        turns.append((seen[favorites[number]], place, int(number)))
        seen[favorites[number]] += 1
    return sorted(number for _, _, number in sorted(turns)[:count])


def _excited(layer: Layer, pairs: list[tuple[int, int]]) -> list[Excited]:
    excitation = layer.responses.excitation
    rest = max(int((layer.responses.images > 0).sum()) - 1, 1)
    means = [float(excitation[pair]) for pair in pairs]
    # Dense layers before their ReLU, and diverged nets, have means that are not above zero, or not finite.
    longest = max((mean for mean in means if 0 < mean < math.inf), default=1.0)
    found = []
    for (number, label), mean in zip(pairs, means, strict=True):
        with np.errstate(invalid="ignore"):  # infinite values give NaN
            others = (float(excitation[number].sum()) - mean) / rest
        found.append(Excited(layer, number, label, mean, others, min(mean / longest, 1.0) if mean > 0 else 0.0))
    return found
