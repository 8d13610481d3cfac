"""Compare lenses: how good the maps of each are, on images whose objects may be known."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from zfjax.attribution import metrics
from zfjax.console.deprecation import renamed
from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.experiments.bootstrap import mean_of
from zfjax.experiments.lenses import BASELINES, LENSES, Case, Lens, Options, case_of, given_to, heat, maps_by
from zfjax.models import Model

COLUMNS = {
    "pointing": "pointing",
    "in_box": "in box",
    "iou": "IoU",
    "localized": "localized",
    "energy": "energy",
    "insertion": "insertion",
    "deletion": "deletion",
    "road": "ROAD",
    "infidelity": "infidelity",
    "sensitivity": "sensitivity",
    "sparseness": "sparseness",
}  # of the table, as a Comparison names them
OF_OBJECTS = ("pointing", "in_box", "iou", "localized", "energy")  # of these, what only masks can tell
ABOUT_OBJECTS = (
    "pointing: the map's maximum lies on the object; in box: in the object's box. IoU: of the object's box with the box"
    " around the largest segment above 15 % of the maximum; localized: an IoU of 50 or more. energy: the share of the"
    " map's positive sum that lies on the object."
)
UNKNOWN_OBJECTS = "Where the objects are is not known, so whether maps find them is not measured."
SHARES = (0.2, 0.5)  # of the pixels, which ROAD removes

__getattr__ = renamed(__name__, Labelled="Labeled")


@shown_by_shape
class Labeled(NamedTuple):
    """Images with their labels and, if known, the masks of their objects."""

    images: Float[Array, "n size size channels"]  # as the model takes them
    labels: Int[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n size size"] | None  # the object's pixels, at least one; None: not known
    first: int | None = None  # number of the first image; None: they follow the batch before


@shown_by_shape
class Comparison(NamedTuple):
    """How good the maps of each lens are, image by image; the target is the true class."""

    # Of objects, NaN without masks:
    pointing: Float[np.ndarray, "lenses images"]  # 1: the maximum lies on the object; 0: it does not
    in_box: Float[np.ndarray, "lenses images"]  # 1: the maximum lies in the object's box; 0: it does not
    iou: Float[np.ndarray, "lenses images"]  # of the object's box with the box around the map at 15 % of its maximum
    energy: Float[np.ndarray, "lenses images"]  # share of the map's positive sum inside the object
    # Of every image:
    insertion: Float[np.ndarray, "lenses images"]  # area under the curve, from a blurred image
    deletion: Float[np.ndarray, "lenses images"]  # area under the curve, toward the cover
    sparseness: Float[np.ndarray, "lenses images"]  # few pixels have most of the map: 0..1
    # Of the first images only, of others NaN; sensitivity also of lenses that ignore the net.
    road: Float[np.ndarray, "lenses images"]  # how much more is lost with the most important pixels than with the least
    infidelity: Float[np.ndarray, "lenses images"]  # what a map says of squares against what is lost without them: 0..1
    sensitivity: Float[np.ndarray, "lenses images"]  # how far the map moves with noise that nobody sees
    seconds: Float[np.ndarray, " lenses"]  # per image, over all batches but the first, which compiles


def compare(
    model: Model,
    batches: Iterable[Labeled],
    lenses: Sequence[Lens] = LENSES + BASELINES,
    *,
    layer: str,
    options: Options,
    n_steps: int = 20,
    costly: int = 32,
    rows: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Score lenses on images, by their objects too where these are known. One batch is in memory at a time.

    Args:
        model: a classifier, such as `zfjax.open_run(…).val.model`.
        batches: the images, ideally in batches of equal size with a smaller last one; it is padded, so that each lens
            compiles once.
        lenses: some of `LENSES`, `MORE` and `BASELINES`, or your own: `Lens("mine", "mine", lens)` with any function
            `lens(fun, images, target)`.
        layer: the layer whose maps the CAMs weight, such as the highest, `highest_maps(model)`.
        options: the key of random draws, on whose order in batches the results do not depend; pictures per pass, for
            the curves and for lenses that need many passes; and what hides a part of an image, such as
            `Subject.display.cover`.
        n_steps: steps of the insertion and deletion curves.
        costly: how many images, the first ones, have a ROAD score, infidelity and sensitivity.
        rows: images that every batch is padded to; 0: as many as the first has.
        progress: advanced by one for each lens and image.

    Raises:
        ValueError: there are no batches, or a lens or metric raises it.
        UserError: the model has no such layer.

    The metrics are in `zfjax.attribution.metrics`.
    """
    model = model.logits
    parts: list[list[_Scores]] = []
    times: list[np.ndarray] = []  # for each batch, seconds per image of each lens
    for batch, case in _cases(model, batches, layer, options, rows):
        scores, seconds = [], []
        for lens in lenses:
            if progress:
                progress.advance(0, lens.title)
            attributions, elapsed = _timed(lens, case)
            seconds.append(elapsed)
            cheap = _scored(case, batch, heat(case, attributions)[: len(batch.images)], n_steps)
            scores.append(cheap._replace(**_trusted(lens, case, batch, attributions, costly)))
            if progress:
                progress.advance(len(batch.images), lens.title)
        parts.append(scores)
        times.append(np.array(seconds))
    if not parts:
        raise ValueError("batches: expected at least one batch of images, got none")
    if len(times) == 1:  # it included compilation
        times.append(np.array([_timed(lens, case)[1] for lens in lenses]))
    return Comparison(*_joined(parts), np.mean(times[1:], axis=0))


def _cases(
    model: Model, batches: Iterable[Labeled], layer: str, options: Options, rows: int
) -> Iterator[tuple[Labeled, Case]]:
    """Each batch, and its images as lenses take them, padded by repeating the last."""
    count = 0
    for batch in batches:
        count = count if batch.first is None else batch.first
        rows = rows or len(batch.images)
        numbers = filled(len(batch.images), max(rows, len(batch.images)))
        images, labels = jnp.asarray(batch.images)[numbers], jnp.asarray(batch.labels, jnp.int32)[numbers]
        yield batch, case_of(model, layer, images, labels, options, first=count)
        count += len(batch.images)


def filled(count: int, rows: int) -> Int[np.ndarray, " rows"]:
    """Indices of `count` images, repeating the last up to `rows`, so that batches of any size share one program."""
    return np.minimum(np.arange(rows), count - 1)


def to_table(found: Comparison, lenses: Sequence[Lens], dataset: str, layer_name: str, unknown: int = 0) -> Table:
    """One row per lens: means over images, in percent, and the time.

    Args:
        found: from `compare`.
        lenses: the compared lenses.
        dataset: the dataset's name.
        layer_name: the layer whose maps the CAMs weighted.
        unknown: images whose target is what the model says, since it has no output for their class.
    """
    said = (
        f" The class of {unknown} images is what the model says, as it has no output of that name." if unknown else ""
    )
    localized = np.where(np.isnan(found.iou), np.nan, found.iou >= metrics.LOCALIZED)
    measured = {**found._asdict(), "localized": localized}
    known = not np.isnan(found.iou).all()
    titles = {name: title for name, title in COLUMNS.items() if known or name not in OF_OBJECTS}
    columns = [[mean_of(of_lens) for of_lens in 100 * measured[name]] for name in titles]
    rows: list[tuple[Cell, ...]] = [
        (lens.title, *cells, 1000 * float(seconds))
        for lens, seconds, *cells in zip(lenses, found.seconds, *columns, strict=True)
    ]
    few = int((~np.isnan(found.road)).any(axis=0).sum())
    return Table(
        f"Lenses on {found.pointing.shape[1]} images of {dataset}",
        ("lens", *titles.values(), "ms per image"),
        rows,
        "All but the time in percent, for the true class's logit; after ± half of the 95 % interval of the mean, by a"
        f" bootstrap over images. {ABOUT_OBJECTS if known else UNKNOWN_OBJECTS} insertion, deletion: area under the"
        " class's probability as pixels return to a blurred image (more is better), or turn into the mean, or gray"
        " where that is none (less is better), in the map's order. ROAD: half of how much more of the class's"
        " probability is lost with the most important pixels than with the least, if they are made of what is around"
        " them (more is better). infidelity: how far what the map has in a square is from what the logit loses without"
        " it, 100 for an empty map (less is better). sensitivity: how far the map moves with noise of 2 % of the"
        f" image's range, as a share of its norm (less is better). sparseness: the Gini index. {few} of the images have"
        f" ROAD, infidelity and sensitivity, which take long. CAMs use {layer_name}. Random map and center Gaussian"
        f" ignore the net.{said}",
    )


def _timed(lens: Lens, case: Case) -> tuple[Float[Array | np.ndarray, "n ..."], float]:
    """The maps, and the seconds per image that they took."""
    start = time.perf_counter()
    attributions = jax.block_until_ready(maps_by(lens, case))
    return attributions, (time.perf_counter() - start) / len(case.images)


class _Scores(NamedTuple):
    """Scores of one lens on one batch, or of all, in the order of a Comparison."""

    pointing: np.ndarray
    in_box: np.ndarray
    iou: np.ndarray
    energy: np.ndarray
    insertion: np.ndarray
    deletion: np.ndarray
    sparseness: np.ndarray
    road: np.ndarray
    infidelity: np.ndarray
    sensitivity: np.ndarray


def _scored(case: Case, batch: Labeled, maps: Float[np.ndarray, "n h w"], n_steps: int) -> _Scores:
    fun, (_, batch_size, cover, *_) = case.fun, case.options
    images, labels = jnp.asarray(batch.images), jnp.asarray(batch.labels)
    # With the paper's blur, 9 of 10 images of `shapes` would still be recognized.
    soft = jnp.asarray(metrics.blurred(np.asarray(images), sigma=images.shape[1] / 10))
    nothing = np.full((4, len(maps)), np.nan)
    pointing, in_box, iou, energy = nothing if batch.masks is None else _of_objects(batch.masks, maps)
    return _Scores(
        pointing,
        in_box,
        iou,
        energy,
        metrics.insertion(fun, images, labels, maps, n_steps=n_steps, fill=soft, batch_size=batch_size).auc,
        metrics.deletion(fun, images, labels, maps, n_steps=n_steps, fill=cover, batch_size=batch_size).auc,
        np.asarray(metrics.sparseness(maps)),
        *nothing[:3],
    )


def _of_objects(masks: Bool[np.ndarray, "n h w"], maps: Float[np.ndarray, "n h w"]) -> Float[np.ndarray, "4 n"]:
    """Pointing, in box, IoU and energy, in the order of a Comparison."""
    boxes = metrics.box_masks(metrics.boxes_of(masks), *maps.shape[1:])
    return np.stack(
        [
            metrics.pointing_game(maps, masks).astype(float),
            metrics.pointing_game(maps, boxes).astype(float),
            metrics.localization(maps, masks).iou,
            metrics.energy_inside(maps, masks),
        ]
    )


def _trusted(
    lens: Lens, case: Case, batch: Labeled, attributions: Float[Array | np.ndarray, "n ..."], costly: int
) -> dict[str, Float[np.ndarray, " images"]]:
    """The scores that take long, of a batch that has some of the first `costly` images."""
    count = min(len(batch.images), costly - case.first)
    if count <= 0:
        return {}
    (key, batch_size, cover, *_), side = case.options, case.images.shape[1]
    images, target = case.images[:count], case.target[:count]
    maps = heat(case, attributions)[:count]
    claims = attributions[:count] if np.ndim(attributions) == 4 else maps
    by_number = {"first": case.first, "batch_size": batch_size}
    road = metrics.road(case.fun, images, target, maps, key, shares=SHARES, **by_number).score
    window = max(1, round(side * 48 / 224))  # as occlusion's
    found = metrics.infidelity(
        case.fun, images, target, claims, key, window=window, fill=cover, n_samples=32, batch_size=batch_size
    )
    scores = {"road": road, "infidelity": found.scaled}
    if lens not in BASELINES:
        fun, of = case.split if lens.at_cut else case.fun, given_to(lens, case.options, case.first)
        known = attributions[:count]
        moved = metrics.sensitivity(of, fun, images, target, key, n_samples=4, attributions=known, **by_number)
        scores["sensitivity"] = moved.largest
    missing = (0, len(batch.images) - count)
    return {name: np.pad(np.asarray(some), missing, constant_values=np.nan) for name, some in scores.items()}


def _joined(parts: list[list[_Scores]]) -> _Scores:
    """Join the scores of each batch and lens into fields of [lenses, images]."""
    lenses = [_Scores(*map(np.concatenate, zip(*of_lens, strict=True))) for of_lens in zip(*parts, strict=True)]
    return _Scores(*map(np.stack, zip(*lenses, strict=True)))
