"""Compare lenses: how good the maps of each are, on images with known objects."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, Key

from zfjax.attribution import backward, cam, gradients, metrics
from zfjax.attribution.score_cam import score_cam
from zfjax.console.deprecation import renamed
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.experiments import sanity
from zfjax.experiments.occlusion import occlusion
from zfjax.models import Model
from zfjax.ops.windows import Pair
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing

__getattr__ = renamed(__name__, Labelled="Labeled")


@shown_by_shape
class Grid(NamedTuple):
    """Where the cells of a layer's maps lie: (height, width) in pixels, counted from the image's first pixel, 0."""

    offset: tuple[float, float]  # center of the first cell's receptive field
    stride: tuple[float, float]  # between neighboring cells


@shown_by_shape
class Case(NamedTuple):
    """Images with one class each, and the model to explain, in the forms that lenses take."""

    fun: Partial  # from images to logits
    features: Partial  # from images to a layer's maps
    head: Partial  # from those maps to logits
    grid: Grid  # of those maps
    images: Float[Array, "n height width channels"]  # as the model takes them
    target: Int[Array, " n"]
    numbers: Int[Array, " n"]  # the images' numbers, so that each has its own random draws
    key: Key[Array, ""]
    batch_size: int  # pictures per pass through the net
    cover: float | Float[Array | np.ndarray, " channels"] = 0.0  # what hides a part of an image


class Lens(NamedTuple):
    """A way to make maps: signed pixel maps [n, H, W, C], or region maps [n, H, W] or [n, h, w] like the layer's."""

    name: str
    title: str
    of: Callable[[Case], Float[Array, "n height width ..."]]


def _score_cam(case: Case) -> Float[Array, "n h w"]:
    maps = _maps(case)
    at = maps.at if isinstance(maps, Crossing) else maps
    return score_cam(case.fun, case.images, case.target, at, batch_size=case.batch_size)


def _smooth_grad(case: Case) -> Float[Array, "n h w c"]:
    return gradients.smooth_grad(case.fun, case.images, case.target, case.key, batch_size=case.batch_size)


def _integrated_gradients(case: Case) -> Float[Array, "n h w c"]:
    start = np.broadcast_to(np.asarray(case.cover, np.float32), case.images.shape[1:]) if np.any(case.cover) else 0.0
    found = gradients.integrated_gradients(case.fun, case.images, case.target, start, batch_size=case.batch_size)
    return found.attributions


def _of_features(lens: Callable[[Partial, Array | Crossing, Array], Array]) -> Callable[[Case], Float[Array, "n h w"]]:
    return lambda case: lens(case.head, _maps(case), case.target)


def _maps(case: Case) -> Float[Array, "n h w maps"] | Crossing:
    return _called(functions.live(case.features), case.images)


@functions.jit
def _called(fun: Callable, images: Array) -> Array | Crossing:
    return fun(images)


def _occlusion(case: Case) -> Float[Array, "n h w"]:
    """How far the class's logit falls when a square hides a pixel: the mean over all squares that cover it.

    For 224 px images, squares are 48 px wide, 16 px apart and filled with the cover; other sizes scale.
    """
    height, width = case.images.shape[1:3]
    window, stride = ((max(1, round(height * px / 224)), max(1, round(width * px / 224))) for px in (48, 16))
    maps = []
    for image, target in zip(case.images, case.target, strict=True):
        logit = Partial(_Logit(), target)
        found = occlusion(case.fun, image, window, stride, case.cover, then=logit, batch_size=case.batch_size)
        down, across = (
            (starts[:, None] <= np.arange(length)[None]) & (np.arange(length)[None] < starts[:, None] + side)
            for starts, length, side in ((found.tops, height, window[0]), (found.lefts, width, window[1]))
        )
        fall = down.T.astype(np.float32) @ (found.clean - found.outputs) @ across.astype(np.float32)
        maps.append(fall / np.outer(down.sum(axis=0), across.sum(axis=0)))
    return jnp.asarray(np.stack(maps))


@dataclasses.dataclass(frozen=True)
class _Logit(functions.Fixed):
    def __call__(self, target: Int[Array, ""], logits: Float[Array, "n classes"]) -> Float[Array, " n"]:
        return logits[:, target].astype(jnp.float32)


def _random(case: Case) -> Float[Array, "n h w"]:
    """Noise, drawn separately for each image."""

    def draw(number: Array) -> Array:
        return jax.random.uniform(jax.random.fold_in(case.key, number), case.images.shape[1:3])

    return jax.vmap(draw)(case.numbers)


def _center(case: Case) -> Float[Array, "n h w"]:
    """A Gaussian at the center, with a standard deviation of a quarter of each side."""
    n, height, width, _ = case.images.shape
    down, across = (np.exp(-0.5 * ((np.arange(side) + 0.5) / side - 0.5) ** 2 * 16) for side in (height, width))
    return jnp.asarray(np.tile(np.outer(down, across), (n, 1, 1)), jnp.float32)


LENSES = (
    Lens("saliency", "saliency", lambda case: gradients.saliency(case.fun, case.images, case.target)),
    Lens(
        "gradient_times_input",
        "gradient × input",
        lambda case: gradients.gradient_times_input(case.fun, case.images, case.target),
    ),
    Lens("smooth_grad", "SmoothGrad", _smooth_grad),
    Lens("integrated_gradients", "integrated gradients", _integrated_gradients),
    Lens(
        "guided_backprop", "guided backprop", lambda case: backward.guided_backprop(case.fun, case.images, case.target)
    ),
    Lens("deconvnet", "deconvnet", lambda case: backward.deconvolution(case.fun, case.images, case.target)),
    Lens("grad_cam", "Grad-CAM", _of_features(cam.grad_cam)),
    Lens("grad_cam_plus_plus", "Grad-CAM++", _of_features(cam.grad_cam_plus_plus)),
    Lens("layer_cam", "Layer-CAM", _of_features(cam.layer_cam)),
    Lens("score_cam", "Score-CAM", _score_cam),
    Lens(
        "guided_grad_cam",
        "Guided Grad-CAM",
        lambda case: cam.guided_grad_cam((case.features, case.head), case.images, case.target),
    ),
    Lens("occlusion", "occlusion", _occlusion),
)
BASELINES = (
    Lens("random", "random map", _random),
    Lens("center", "center Gaussian", _center),
)  # these ignore the net


@shown_by_shape
class Labeled(NamedTuple):
    """Images with their labels and object masks."""

    images: Float[Array, "n size size channels"]  # as the model takes them
    labels: Int[np.ndarray, " n"]
    masks: Bool[np.ndarray, "n size size"]  # the object's pixels, at least one
    first: int | None = None  # number of the first image; None: they follow the batch before


@shown_by_shape
class Comparison(NamedTuple):
    """How good the maps of each lens are, image by image; the target is the true class."""

    pointing: Bool[np.ndarray, "lenses images"]  # the maximum lies on the object
    in_box: Bool[np.ndarray, "lenses images"]  # the maximum lies in the object's box
    iou: Float[np.ndarray, "lenses images"]  # of the object's box with the box around the map at 15 % of its maximum
    energy: Float[np.ndarray, "lenses images"]  # share of the map's positive sum inside the object
    insertion: Float[np.ndarray, "lenses images"]  # area under the curve, from a blurred image
    deletion: Float[np.ndarray, "lenses images"]  # area under the curve, toward the cover
    seconds: Float[np.ndarray, " lenses"]  # per image, over all batches but the first, which compiles


def compare(
    model: Model,
    batches: Iterable[Labeled],
    lenses: Sequence[Lens] = LENSES + BASELINES,
    *,
    layer: str,
    key: Key[Array, ""],
    n_steps: int = 20,
    batch_size: int = 32,
    rows: int = 0,
    cover: float | Float[Array | np.ndarray, " channels"] = 0.0,
    progress: Progress | None = None,
) -> Comparison:
    """Score lenses on images with known objects. One batch is in memory at a time.

    Args:
        model: a classifier, such as `zfjax.open_run(…).val.model`.
        batches: the images, ideally in batches of equal size with a smaller last one; it is padded, so that each lens
            compiles once.
        lenses: some of `LENSES` and `BASELINES`, or your own.
        layer: the layer whose maps the CAMs weight, such as the highest, `highest_maps(model)`.
        key: draws SmoothGrad's noise and the random maps; the results do not depend on how images are batched.
        n_steps: steps of the insertion and deletion curves.
        batch_size: pictures per pass through the net, for the curves and for lenses that need many passes.
        rows: images that every batch is padded to; 0: as many as the first has.
        cover: what hides a part of an image, such as `Subject.display.cover`: a number or a color. 0 is the mean for
            nets whose images have it subtracted.
        progress: advanced by one for each lens and image.

    Raises:
        ValueError: there are no batches, or a lens or metric raises it.
        UserError: the model has no such layer.

    The metrics are in `zfjax.attribution.metrics`.
    """
    parts: list[list[_Scores]] = []
    times: list[np.ndarray] = []  # for each batch, seconds per image of each lens
    count = 0
    for batch in batches:
        count = count if batch.first is None else batch.first
        rows = rows or len(batch.images)
        numbers = filled(len(batch.images), max(rows, len(batch.images)))
        images, labels = jnp.asarray(batch.images)[numbers], jnp.asarray(batch.labels, jnp.int32)[numbers]
        case = case_of(model, layer, images, labels, key, first=count, batch_size=batch_size, cover=cover)
        scores, seconds = [], []
        for lens in lenses:
            if progress:
                progress.advance(0, lens.title)
            attributions, elapsed = _timed(lens, case)
            seconds.append(elapsed / len(images))
            scores.append(_scored(case, batch, heat(case, attributions)[: len(batch.images)], n_steps))
            if progress:
                progress.advance(len(batch.images), lens.title)
        parts.append(scores)
        times.append(np.array(seconds))
        count += len(batch.images)
    if not parts:
        raise ValueError("batches: expected at least one batch of images, got none")
    if len(times) == 1:  # it included compilation
        times.append(np.array([_timed(lens, case)[1] / len(images) for lens in lenses]))
    return Comparison(*_joined(parts), np.mean(times[1:], axis=0))


def filled(count: int, rows: int) -> Int[np.ndarray, " rows"]:
    """Indices of `count` images, repeating the last up to `rows`, so that batches of any size share one program."""
    return np.minimum(np.arange(rows), count - 1)


def highest_maps(model: Model) -> str:
    """The layer whose maps CAMs weight where none is named: the highest of those that figures show, with positions.

    In a ViT, whose tokens have none, the patches.

    Raises:
        UserError: there is none.
    """
    shown = [model.layers[name] for name in model.feature_layers]
    for place in [*model.layers.values(), *shown][::-1]:
        if len(place.shape) == 3 and place.offset is not None:
            return place.name
    raise UserError("the model has no maps for CAMs: expected activations of [height, width, maps] with positions")


def case_of(
    model: Model,
    layer_name: str,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Int[Array | np.ndarray, " n"],
    key: Key[Array, ""],
    *,
    first: int = 0,
    batch_size: int = 32,
    cover: float | Float[Array | np.ndarray, " channels"] = 0.0,
) -> Case:
    """Build the input of the lenses.

    Args:
        model: a classifier.
        layer_name: the layer whose maps the CAMs weight.
        images: as the model takes them.
        target: one class per image.
        key: for what lenses draw.
        first: the first image's number.
        batch_size: pictures per pass through the net.
        cover: as in `compare`.

    Raises:
        UserError: the model has no such layer, or the layer has no spatial positions.
    """
    place = model.place(layer_name)
    if place.offset is None or place.stride is None or len(place.shape) != 3:
        raise UserError(f"layer {layer_name}: CAMs need a layer with positions, below the first dense layer")
    features, head = model.split(place.name)
    numbers = jnp.arange(first, first + len(images), dtype=jnp.int32)
    grid = Grid(place.offset, place.stride)
    images, target = jnp.asarray(images), jnp.asarray(target)
    return Case(model.function, features, head, grid, images, target, numbers, key, batch_size, cover)


def heat(case: Case, attributions: Float[Array | np.ndarray, "n ..."]) -> Float[np.ndarray, "n height width"]:
    """A lens's output as one number per pixel.

    A pixel map gives the largest absolute value over channels; a map of the layer's cells goes through `placed`; a map
    [n, H, W] of the images' size stays as it is.
    """
    if np.ndim(attributions) == 4:
        attributions = gradients.per_pixel(attributions)
    size = case.images.shape[1], case.images.shape[2]
    found = np.asarray(attributions, np.float32)
    return found if found.shape[1:] == size else placed(found, case.grid, size)


def placed(cells: Float[np.ndarray, "n h w"], grid: Grid, size: Pair) -> Float[np.ndarray, "n height width"]:
    """Maps at the size of the images: each cell becomes a tent at its field's center, one stride wide to each side.

    This is bilinear between cells and falls to 0 beyond the outermost. Stretching a map over the image instead
    (`zfjax.attribution.upsample`) misplaces the cells: ZFNet has five cells on 96 px, with fields centered at 20, 36,
    … 84, and stretching puts the first at 9.1.

    Args:
        cells: one number per cell.
        grid: where the cells lie.
        size: (height, width) in pixels.
    """
    tents = []
    for count, offset, stride, length in zip(cells.shape[1:], *grid, size, strict=True):
        centers = offset + stride * np.arange(count)
        tents.append(np.maximum(0, 1 - np.abs(np.arange(length)[:, None] - centers[None]) / stride).astype(np.float32))
    return tents[0] @ np.asarray(cells) @ tents[1].T


def for_sanity(
    lens: Lens,
    layer_name: str,
    key: Key[Array, ""],
    batch_size: int = 32,
    cover: float | Float[Array | np.ndarray, " channels"] = 0.0,
) -> sanity.Lens:
    """A lens in the form `sanity_check` takes, run batch by batch; its random draws are the same each time."""

    def of(model: Model, images: Array, target: Array) -> np.ndarray:
        batches = (slice(first, first + batch_size) for first in range(0, len(images), batch_size))
        cases = (
            case_of(model, layer_name, images[some], target[some], key, batch_size=batch_size, cover=cover)
            for some in batches
        )
        return np.concatenate([np.asarray(lens.of(case)) for case in cases])

    return of


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
    rows: list[tuple[Cell, ...]] = []
    for lens, pointing, in_box, iou, energy, insertion, deletion, seconds in zip(lenses, *found, strict=True):
        shares = (pointing, in_box, iou, iou >= metrics.LOCALIZED, energy, insertion, deletion)
        rows.append((lens.title, *(100 * float(np.mean(share)) for share in shares), 1000 * float(seconds)))
    return Table(
        f"Lenses on {found.pointing.shape[1]} images of {dataset}",
        ("lens", "pointing", "in box", "IoU", "localized", "energy", "insertion", "deletion", "ms per image"),
        rows,
        "All but the time in percent, for the true class's logit. pointing: the map's maximum lies on the object; in"
        " box: in the object's box. IoU: of the object's box with the box around the largest segment above 15 % of the"
        " maximum; localized: an IoU of 50 or more. energy: the share of the map's positive sum that lies on the"
        " object. insertion, deletion: area under the class's probability as pixels return to a blurred image (more is"
        " better), or turn into the mean, or gray where that is none (less is better), in the map's order. CAMs use"
        f" {layer_name}. Random map and center Gaussian ignore the net.{said}",
    )


def _timed(lens: Lens, case: Case) -> tuple[Float[Array | np.ndarray, "n ..."], float]:
    start = time.perf_counter()
    attributions = jax.block_until_ready(lens.of(case))
    return attributions, time.perf_counter() - start


class _Scores(NamedTuple):
    """Scores of one lens on one batch, or of all, in the order of a Comparison."""

    pointing: np.ndarray
    in_box: np.ndarray
    iou: np.ndarray
    energy: np.ndarray
    insertion: np.ndarray
    deletion: np.ndarray


def _scored(case: Case, batch: Labeled, maps: Float[np.ndarray, "n h w"], n_steps: int) -> _Scores:
    fun, batch_size = case.fun, case.batch_size
    images, labels = jnp.asarray(batch.images), jnp.asarray(batch.labels)
    boxes = metrics.box_masks(metrics.boxes_of(batch.masks), images.shape[1], images.shape[2])
    # With the paper's blur, 9 of 10 images of `shapes` would still be recognized.
    soft = jnp.asarray(metrics.blurred(np.asarray(images), sigma=images.shape[1] / 10))
    return _Scores(
        metrics.pointing_game(maps, batch.masks),
        metrics.pointing_game(maps, boxes),
        metrics.localization(maps, batch.masks).iou,
        metrics.energy_inside(maps, batch.masks),
        metrics.insertion(fun, images, labels, maps, n_steps=n_steps, fill=soft, batch_size=batch_size).auc,
        metrics.deletion(fun, images, labels, maps, n_steps=n_steps, fill=case.cover, batch_size=batch_size).auc,
    )


def _joined(parts: list[list[_Scores]]) -> _Scores:
    """Join the scores of each batch and lens into fields of [lenses, images]."""
    lenses = [_Scores(*map(np.concatenate, zip(*of_lens, strict=True))) for of_lens in zip(*parts, strict=True)]
    return _Scores(*map(np.stack, zip(*lenses, strict=True)))
