"""Which of a model's places figures show where none are named: the paper's layers 1 to 5, in any model."""

import math
from collections.abc import Iterable, Sequence

from zfjax.console.errors import UserError
from zfjax.models.places import Place
from zfjax.transform import curves

CHAIN = 8  # rectified maps of a model without branches that are all shown
FEWEST = 4  # places to show, where there are as many
RECTIFIED = curves.NAMES | {"relu", "relu6"}
_JOINED = frozenset(("add", "block", "concat"))


def feature_layers(places: Iterable[Place]) -> tuple[str, ...]:
    """The places whose maps are worth looking at, bottom first.

    In a chain of few layers all rectified maps, as in the paper. In other models what is rectified, added or
    concatenated last at each size of the maps, or four of these spread evenly where the maps all have one size, as in a
    ViT.

    Raises:
        UserError: there are no such places.
    """
    places = tuple(places)
    maps = [place for place in places if len(place.shape) in (2, 3) and math.prod(place.shape[:-1]) > 1]
    rectified = _in_grids(place for place in maps if place.kind in RECTIFIED)
    joined = _in_grids(place for place in maps if place.kind in _JOINED)
    if rectified and not joined and len(rectified) <= CHAIN:
        return tuple(place.name for place in rectified)
    # A model without rectifiers, as one of linear maps, still has maps.
    candidates = _in_grids(place for place in maps if place.kind in RECTIFIED | _JOINED) or maps
    if not candidates:
        raise UserError("the model has no maps to show: expected activations of [height, width, maps]")
    chosen = list({place.shape[:-1]: place for place in candidates}.values())  # the last of each size
    if len(chosen) < FEWEST:
        blocks = [place for place in joined if place.kind == "block" and not _is_linear(place.name, places)]
        chosen = _spread(next((some for some in (blocks, joined) if len(some) >= FEWEST), candidates))
    return tuple(place.name for place in chosen)


def last_hidden(places: Sequence[Place]) -> str:
    """The place from which a model's outputs are read: the last below its highest dense layer.

    Raises:
        UserError: there is none.
    """
    dense = [number for number, place in enumerate(places) if place.kind in ("dense", "conv")]
    below = [place for place in places[: dense[-1]] if place.kind != "block"] if dense else []
    if not below:
        raise UserError("the model has no hidden layer: expected a layer below its outputs")
    return below[-1].name


def _spread(places: Sequence[Place]) -> list[Place]:
    """A few of the places, spread evenly up to the last one."""
    count = min(FEWEST, len(places))
    return [places[(number + 1) * len(places) // count - 1] for number in range(count)]


def _is_linear(block: str, places: Iterable[Place]) -> bool:
    """Whether all layers in a block are linear maps or norms, such as a matrix product and its bias in ONNX."""
    inside = [place.kind for place in places if place.name.startswith(f"{block}/")]
    return bool(inside) and not any(kind in RECTIFIED | _JOINED for kind in inside)


def _in_grids(places: Iterable[Place]) -> list[Place]:
    """Those of [height, width, maps], or of [tokens, maps] where these are more, as in a ViT above its patches."""
    tokens, grids = list[Place](), list[Place]()
    for place in places:
        (grids if len(place.shape) == 3 else tokens).append(place)
    return tokens if len(tokens) > len(grids) else grids
