"""One picture explained: what a model says of it, why by several lenses, what would change it, what to believe."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zfjax.attribution import metrics
from zfjax.attribution.asked import Target
from zfjax.attribution.maps import features_of
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Boxes, from_edges
from zfjax.experiments.gallery import Top
from zfjax.experiments.lenses import (
    LENSES,
    MORE,
    Case,
    Lens,
    Options,
    answer_of,
    case_of,
    given_to,
    heat,
    maps_by,
    maps_in,
)
from zfjax.experiments.passes import strongest_of
from zfjax.experiments.sanity import randomized, rank_correlation
from zfjax.models import Model
from zfjax.runs.subject import Subject
from zfjax.training import sharding
from zfjax.training.scoring import AnyModel
from zfjax.transform import functions

# Each asks in another way: weights of maps, their gradients cell by cell, relevance, a path of images, and hiding.
FIVE = tuple(
    lens
    for name in ("grad_cam", "layer_cam", "lrp", "integrated_gradients", "occlusion")
    for lens in LENSES + MORE
    if lens.name == name
)
CELLS = 7  # down and across: the squares that are covered to change the answer
MOST_HIDDEN = 24  # squares, after which the search is given up


class Measure(NamedTuple):
    """Something that tells how far a map can be believed."""

    name: str
    title: str
    is_high: bool  # whether more is better
    says: str


MEASURES = (
    Measure("deletion", "deletion", False, "mean probability while pixels are removed, the most important first"),
    Measure("insertion", "insertion", True, "the same while they are added to an empty image"),
    Measure("road", "ROAD", True, "probability lost with the most, less with the least important pixels, filled in"),
    Measure("infidelity", "infidelity", False, "share of the falls of the score that the map does not tell, 0 to 1"),
    Measure("sensitivity", "sensitivity", False, "largest change of the map, as its share, with noise one cannot see"),
    Measure(
        "randomized",
        "random weights",
        False,
        "size of the rank correlation with the map of random weights",
    ),
    Measure("agreement", "agreement", True, "mean rank correlation with the other lenses' maps"),
)


class Missed(NamedTuple):
    """How far the parts of a map do not add up to what they are parts of, as such a lens says itself."""

    whole: float  # the logit, or with a baseline what the logit gains over it
    error: float  # the sum of the parts − the whole
    has_baseline: bool

    @property
    def share(self) -> float:
        """The size of the error by that of the whole; NaN if that is 0."""
        return abs(self.error / self.whole) if self.whole else float("nan")


@shown_by_shape
class Why(NamedTuple):
    """One lens's answer."""

    lens: Lens
    heat: Float[np.ndarray, "height width"]  # for what the model says
    contrast: Float[np.ndarray, "height width"] | None  # for the expected class less what it says; None: there is none
    measures: dict[str, float]  # by name of `MEASURES`; NaN where a map is constant
    missed: Missed | None = None  # None: its parts are not meant to add up to anything


@shown_by_shape
class Flip(NamedTuple):
    """Squares that change the answer when they are covered, none of which can be left out."""

    boxes: Boxes  # [squares, 4], in the order in which they matter
    becomes: int  # what the model says then
    probability: float  # of that


@shown_by_shape
class Explanation(NamedTuple):
    """What a model says of a picture, and why."""

    probabilities: Float[np.ndarray, " classes"]
    said: int
    expected: int | None
    why: tuple[Why, ...]
    flip: Flip | None  # None: covering up to `MOST_HIDDEN` squares changes nothing
    nearest: Top | None  # pictures of the training split, by cosine; None: there are none


def explained(
    model: Model,
    layer: str,
    image: Float[Array, "1 height width channels"],
    expected: int | None,
    options: Options,
    lenses: Sequence[Lens] = FIVE,
) -> Explanation:
    """Explain what a model says of one image; `nearest` is left to `nearest_of`.

    Args:
        model: a classifier.
        layer: whose maps CAMs weigh, such as `lenses.highest_maps(model)`.
        image: as the model takes it.
        expected: the class that was expected, or None.
        options: for the lenses; its `cover` hides parts of the image.
        lenses: those that are asked.

    Raises:
        UserError: as `lenses.case_of`.
    """
    model = model.logits
    # Logarithms of probabilities that are of no one softmax, such as the mean of several nets'.
    logits = np.asarray(features_of(functions.live(AnyModel(model).logits), image), np.float64)[0]
    said, other = int(logits.argmax()), None
    if expected is not None and expected != said:
        other = expected
    case = case_of(model, layer, image, np.array([said], np.int32), options)
    why = _why(model, layer, case, other, lenses)
    with Progress("what would change it"):
        flip = flipped(case, said, other)
    return Explanation(_softmax(logits), said, expected, why, flip, None)


def flipped(case: Case, said: int, expected: int | None) -> Flip | None:
    """Find a small set of squares whose covering makes a model say `expected`, or without it anything but `said`.

    If one square is enough, it is the one that changes the answer most. Else squares are added one by one, each the one
    after which the margin is largest, and then those are given back that are not needed. So none of the set can be left
    out, though another set may be smaller: to try all would take too many passes.

    Args:
        case: of one image.
        said: what the model says of it.
        expected: what it is to say.
    """
    image = np.asarray(case.images)[0]
    edges = [np.linspace(0, side, CELLS + 1).round().astype(int) for side in image.shape[:2]]
    corners = [(edges[0][i], edges[1][j], edges[0][i + 1], edges[1][j + 1]) for i in range(CELLS) for j in range(CELLS)]
    squares = np.zeros((len(corners), *image.shape[:2]), bool)
    for square, (top, left, bottom, right) in zip(squares, corners, strict=True):
        square[top:bottom, left:right] = True
    fun = functions.live(case.fun)

    def margins(hidden: Bool[np.ndarray, "n height width"]) -> tuple[Float[np.ndarray, " n"], np.ndarray]:
        logits = _covered_logits(fun, image, hidden, case.options)
        wanted = np.ones(logits.shape[1], bool)
        wanted[said] = False
        if expected is not None:
            wanted[:] = np.arange(len(wanted)) == expected
        return logits[:, wanted].max(axis=1) - logits[:, ~wanted].max(axis=1), logits

    chosen: list[int] = []
    hidden = np.zeros(image.shape[:2], bool)
    while len(chosen) < min(MOST_HIDDEN, len(squares)):
        margin, _ = margins(squares | hidden[None])  # of the same number each time, so that one program serves all
        margin[chosen] = -np.inf
        chosen.append(int(margin.argmax()))
        hidden |= squares[chosen[-1]]
        if margin.max() > 0:
            break
    else:
        return None
    while len(chosen) > 1:
        without = np.stack([squares[[other for other in chosen if other != one]].any(axis=0) for one in chosen])
        margin, _ = margins(np.concatenate([without, np.repeat(without[:1], len(squares) - len(without), axis=0)]))
        if margin[: len(chosen)].max() <= 0:
            break
        del chosen[int(margin[: len(chosen)].argmax())]
    _, logits = margins(np.repeat(squares[chosen].any(axis=0, keepdims=True), len(squares), axis=0))
    becomes = int(logits[0].argmax())
    return Flip(from_edges(np.array([corners[one] for one in chosen])), becomes, float(_softmax(logits[0])[becomes]))


def nearest_of(
    train: Subject, place: str, image: Float[Array, "1 height width channels"], k: int, each: int, progress: Progress
) -> Top:
    """The training pictures whose activations at a place have the largest cosine with those of an image.

    Args:
        train: the model and its training split.
        place: usually `model.last_hidden`.
        image: as the model takes it.
        k: how many to find.
        each: images on a device at a time.
        progress: advanced by the number of pictures.
    """
    fun = train.model.layer(place)

    def directions(images: Array) -> Array:
        flat = fun(images).astype(jnp.float32).reshape(len(images), -1)
        return flat / jnp.maximum(jnp.linalg.norm(flat, axis=1, keepdims=True), jnp.float32(1e-12))

    here = directions(image)

    def cosine(images: Array) -> dict[str, Array]:
        return {"cosine": jnp.matmul(directions(images), here.T, precision=jax.lax.Precision.HIGHEST)}

    found = functions.live(cosine, functools.partial(sharding.replicate, mesh=sharding.data_mesh()))
    top = strongest_of(train, found, ("cosine",), min(k, len(train.pictures)), each, None, progress)["cosine"]
    return Top(*(np.asarray(part)[0] for part in top))


def best_of(found: Explanation, measure: str) -> int | None:
    """The number of the lens that does best by a measure; None if no map has it."""
    values = np.array([why.measures[measure] for why in found.why])
    (one,) = (one for one in MEASURES if one.name == measure)
    if np.isnan(values).all():
        return None
    return int(np.nanargmax(values if one.is_high else -values))


def _why(model: Model, layer: str, case: Case, other: int | None, lenses: Sequence[Lens]) -> tuple[Why, ...]:
    """What each lens says, and how far it can be believed."""
    said = int(case.target[0])
    maps, missed, heats, contrasts = {}, {}, {}, {}
    with Progress("lenses", len(lenses), unit="map") as progress:
        for lens in lenses:
            answer = answer_of(lens, case)
            maps[lens.name], missed[lens.name] = np.asarray(maps_in(answer)), _missed(lens, answer)
            heats[lens.name] = heat(case, maps[lens.name])
            if other is not None:
                fun, asks = case.split if lens.at_cut else case.fun, _difference(other, said)
                contrasts[lens.name] = heat(case, given_to(lens, case.options)(fun, case.images, asks))[0]
            progress.advance(1, lens.title)
    (*_, last) = randomized(model, case.options.key)
    found = []
    with Progress("measures", len(lenses), unit="map") as progress:
        for lens in lenses:
            progress.advance(0, lens.title)
            measures = _measured(lens, case, maps[lens.name], heats[lens.name])
            random = case._replace(fun=last.cascade.function, split=last.cascade.split(layer))
            measures["randomized"] = abs(_like(heat(random, maps_by(lens, random)), heats[lens.name]))
            others = [_like(heats[lens.name], heats[one]) for one in heats if one != lens.name]
            measures["agreement"] = float(np.mean(others)) if others else float("nan")
            contrast = contrasts.get(lens.name)
            found.append(Why(lens, heats[lens.name][0], contrast, measures, missed[lens.name]))
            progress.advance(1, lens.title)
    return tuple(found)


def _missed(lens: Lens, answer: Any) -> Missed | None:
    """How far the parts that a lens gives of one image miss their whole, if it says so."""
    if not hasattr(answer, "error"):
        return None
    error, total = float(answer.error[0]), float(np.asarray(answer.attributions, np.float64).sum())
    return Missed(total - error, error, "baseline" in inspect.signature(lens.of).parameters)


def _difference(one: int, other: int) -> Target:
    return lambda logits: logits[:, one] - logits[:, other]


def _like(one: Float[np.ndarray, "1 height width"], other: Float[np.ndarray, "1 height width"]) -> float:
    return float(rank_correlation(one, other)[0])


def _measured(
    lens: Lens, case: Case, maps: Float[np.ndarray, "1 ..."], heats: Float[np.ndarray, "1 height width"]
) -> dict[str, float]:
    """The measures that ask the net about one lens's map."""
    fun, images, target, (key, batch_size, cover, *_) = case.fun, case.images, case.target, case.options
    window = max(1, round(images.shape[1] / 8))
    whole = maps if maps.ndim == 4 else heats
    along: Any = {"n_steps": 25, "fill": cover, "batch_size": batch_size}
    noisy = metrics.sensitivity(
        given_to(lens, case.options), case.split if lens.at_cut else fun, images, target, key, n_samples=5
    )
    road = metrics.road(fun, images, target, heats, key, batch_size=batch_size)
    falls = metrics.infidelity(fun, images, target, whole, key, window=window, fill=cover, batch_size=batch_size)
    return {
        "deletion": float(metrics.deletion(fun, images, target, heats, **along).auc[0]),
        "insertion": float(metrics.insertion(fun, images, target, heats, **along).auc[0]),
        "road": float(road.score[0]),
        "infidelity": float(falls.scaled[0]),
        "sensitivity": float(noisy.largest[0]),
    }


def _covered_logits(
    fun: Callable[[Array], Array],
    image: Float[np.ndarray, "height width channels"],
    hidden: Bool[np.ndarray, "n height width"],
    options: Options,
) -> Float[np.ndarray, "n classes"]:
    """Logits of an image with some of its pixels covered, in batches of one size."""
    found, size = [], min(options.batch_size, len(hidden))
    cover = np.asarray(options.cover, image.dtype)
    for first in range(0, len(hidden), size):
        some = np.minimum(np.arange(first, first + size), len(hidden) - 1)
        images = np.where(hidden[some][..., None], cover, image[None])
        found.append(np.asarray(features_of(fun, jnp.asarray(images)), np.float64))
    return np.concatenate(found)[: len(hidden)]


def _softmax(logits: Float[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    shares = np.exp(logits - logits.max())
    return (shares / shares.sum()).astype(np.float32)
