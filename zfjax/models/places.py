"""A model's places, and their table."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from zfjax.console.tables import as_csv, as_markdown
from zfjax.console.text import align
from zfjax.ops.windows import Pair
from zfjax.transform.places.reading import Spot


class Place(NamedTuple):
    """One of a model's places: a layer's result, or a block's.

    Attributes:
        name: such as block1/conv2/relu.
        kind: conv, dense, relu, pool, norm, add, concat, … or block.
        shape: of one image's activations, channels last: (height, width, maps), (tokens, maps) or (maps,).
        parameters: how many numbers the layer holds.
        multiply_adds: per image.
        receptive_field: pixels (height, width) that one unit sees, the most if units differ; None for the whole image.
        stride: pixels between the fields of neighboring units; None where units differ.
        offset: the pixel at the center of the first unit's field, the image's first pixel being 0; None likewise.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int
    multiply_adds: int
    receptive_field: Pair | None
    stride: tuple[float, float] | None
    offset: tuple[float, float] | None


def place_of(name: str, spot: Spot, count: int) -> Place:
    """A place of a program as one of a model, for `count` images at once."""
    place = Place(
        name, spot.kind, spot.shape[1:], sum(spot.leaves.values()), spot.multiply_adds // count, None, None, None
    )
    if spot.fields is None:
        return place
    height, width = spot.fields
    place = place._replace(receptive_field=(height.size, width.size))
    if math.isnan(height.stride) or math.isnan(width.stride):
        return place
    return place._replace(stride=(height.stride, width.stride), offset=(height.offset, width.offset))


HEADER = ("layer", "kind", "output", "parameters", "multiply-adds", "receptive field", "stride", "offset")


def to_text(places: Iterable[Place], parameters: int) -> str:
    """The table in aligned columns, with sums below.

    Args:
        places: one row each.
        parameters: of all layers together, since several may read the same.
    """
    places = tuple(places)
    return align([HEADER, *(_cells(place, "{:,}") for place in places), _sums(places, parameters)])


def to_markdown(places: Iterable[Place], parameters: int) -> str:
    """The table in Markdown, with sums below; arguments are those of `to_text`."""
    places = tuple(places)
    return as_markdown([HEADER, *(_cells(place, "{:,}") for place in places), _sums(places, parameters)])


def to_csv(places: Iterable[Place]) -> str:
    """The table as CSV, without sums and with plain numbers."""
    return as_csv([HEADER, *(_cells(place, "{}") for place in places)]).rstrip("\n")


def _sums(places: tuple[Place, ...], parameters: int) -> tuple[str, ...]:
    multiply_adds = sum(place.multiply_adds for place in places if place.kind != "block")
    return ("total", "", "", f"{parameters:,}", f"{multiply_adds:,}", "", "", "")


def _cells(place: Place, number: str) -> tuple[str, ...]:
    return (
        place.name,
        place.kind,
        "×".join(map(str, place.shape)),
        number.format(place.parameters),
        number.format(place.multiply_adds),
        "whole image" if place.receptive_field is None else "×".join(map(str, place.receptive_field)),
        _pair(place.stride),
        _pair(place.offset),
    )


def _pair(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return ""
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}×{pair[1]:g}"
