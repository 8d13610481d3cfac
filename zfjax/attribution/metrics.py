"""Scores of maps: pointing game, localization by a box, energy on the object, insertion and deletion.

Maps are [n, H, W]: one number per pixel, higher is more important. Objects are masks, bool [n, H, W]; `box_masks` makes
them from boxes. A constant map, such as one of zeros, counts as a miss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage

from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one
from zfjax.console.deprecation import renamed, renamed_arguments
from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Box, Boxes, wide
from zfjax.ops.arguments import array, filling, floats
from zfjax.transform import functions

Maps = Float[Array | np.ndarray, "n height width"]
Masks = Bool[Array | np.ndarray, "n height width"]

_EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner are connected, as in OpenCV's contours


__getattr__ = renamed(__name__, localisation="localization", Localisation="Localization", LOCALISED="LOCALIZED")

LOCALIZED = 0.5  # the smallest IoU of a correct box


@shown_by_shape
class Localization(NamedTuple):
    """The box around each map's largest segment, and how well it fits."""

    boxes: Boxes  # (top, left, height, width) in pixels; all 0 for a constant map
    iou: Float[np.ndarray, " n"]  # with the object's box, 0..1

    @property
    def localized(self) -> Bool[np.ndarray, " n"]:
        """Whether the IoU with the object's box is at least one half."""
        return self.iou >= LOCALIZED


@shown_by_shape
class Curves(NamedTuple):
    """The probability of each image's class as pixels are added or removed."""

    curve: Float[np.ndarray, "n steps_and_first"]  # probability after 0, 1, … n_steps
    auc: Float[np.ndarray, " n"]  # area under the curve, over shares of pixels from 0 to 1


def box_masks(boxes: Sequence[Sequence[int]] | Boxes, height: int, width: int) -> Masks:
    """Boxes as masks of images of one size.

    Args:
        boxes: (top, left, height, width) in pixels; parts beyond the image's edge are cut off.
        height: height of the images in pixels.
        width: width of the images in pixels.

    Raises:
        ValueError: not [n, 4] of whole pixels, or a box that covers no pixel, which is named.

    >>> box_masks(np.array([[1, 0, 1, 2]]), 3, 3).astype(int).tolist()
    [[[0, 0, 0], [1, 1, 0], [0, 0, 0]]]
    """
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.integer):
        raise ValueError(f"boxes: expected whole pixels [n, 4], got {boxes.dtype} {list(boxes.shape)}")
    top, left, tall, broad = (side[:, None] for side in wide(boxes).T)
    down, across = np.arange(height)[None] - top, np.arange(width)[None] - left
    inside = ((down >= 0) & (down < tall))[:, :, None] & ((across >= 0) & (across < broad))[:, None]
    empty = np.flatnonzero(~inside.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(
            f"boxes: expected (top, left, height, width) on an image of {height}×{width} px,"
            f" got {boxes[empty[0]].tolist()} as number {empty[0]}"
        )
    return inside


def boxes_of(masks: Masks) -> Boxes:
    """The smallest box (top, left, height, width) around each mask.

    Raises:
        ValueError: a mask is empty; the error names it.
    """
    masks = _checked_masks(masks)
    return np.array([Box.around(mask) for mask in masks])


def pointing_game(maps: Maps, masks: Masks, *, tolerance: float = 0.0) -> Bool[np.ndarray, " n"]:
    """Whether each map's maximum (the first in row-major order) is on the object.

    A constant map points nowhere and counts as a miss.

    Args:
        maps: one number per pixel.
        masks: the objects' pixels.
        tolerance: largest distance in pixels from the object that still counts; Zhang et al. allow 15 on images of
            about 500.

    Raises:
        ValueError: maps or masks are not [n, H, W] of the same size, maps are not finite, a mask is empty, or the
            tolerance is negative.

    Paper: Zhang et al. 2018, "Top-down neural attention by excitation backprop", the pointing game.
    """
    maps, masks = _checked(maps, masks)
    if tolerance < 0:
        raise ValueError(f"tolerance: expected 0 px or more, got {tolerance}")
    reached = np.stack([ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]) if tolerance else masks
    values = maps.reshape(len(maps), -1)
    hit = np.take_along_axis(reached.reshape(len(maps), -1), np.argmax(values, axis=1)[:, None], axis=1)[:, 0]
    return hit & (values.max(axis=1) > values.min(axis=1))


def localization(maps: Maps, masks: Masks, *, threshold: float = 0.15) -> Localization:
    """Compare the box around the largest segment of each map with the object's box.

    A segment is a connected set of pixels, also across corners, of at least `threshold` times the map's maximum; of
    equally large ones the first in row-major order counts. A map that is constant or nowhere positive has no box, and
    an IoU of 0.

    Args:
        maps: one number per pixel.
        masks: the objects' pixels, whose smallest box is used; for given boxes, `box_masks(boxes, H, W)`.
        threshold: share of the maximum, above 0 and at most 1.

    Raises:
        ValueError: as in `pointing_game`, or the threshold is out of range.

    Paper: Selvaraju et al. 2017, "Grad-CAM", section 4.1; Zhou et al. 2016, "Learning deep features for discriminative
    localization", section 3.2, with 20 %.
    """
    maps, masks = _checked(maps, masks)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: expected a share of the maximum above 0 and at most 1, got {threshold}")
    found, objects = np.array([_drawn(one, threshold) for one in maps]), boxes_of(masks)
    starts = np.maximum(found[:, :2], objects[:, :2])
    ends = np.minimum(found[:, :2] + found[:, 2:], objects[:, :2] + objects[:, 2:])
    shared = np.prod(np.maximum(ends - starts, 0), axis=1)
    return Localization(found, shared / (np.prod(found[:, 2:], axis=1) + np.prod(objects[:, 2:], axis=1) - shared))


def energy_inside(maps: Maps, masks: Masks) -> Float[np.ndarray, " n"]:
    """The share, 0..1, of each map's positive sum that is on the object; 0 if nothing is positive.

    A constant positive map scores the object's share of the image.

    Raises:
        ValueError: as in `pointing_game`.

    Paper: Wang et al. 2020, "Score-CAM", the energy-based pointing game.
    """
    maps, masks = _checked(maps, masks)
    energy = np.maximum(maps, 0).astype(np.float64)
    total, inside = energy.sum(axis=(1, 2)), np.where(masks, energy, 0).sum(axis=(1, 2))
    return inside / np.where(total > 0, total, 1)


def blurred(images: Float[np.ndarray, "n height width channels"], sigma: float) -> Float[np.ndarray, "n h w c"]:
    """Images blurred by a Gaussian of `sigma` pixels, which `insertion` may start from.

    The net should not be able to recognize anything in them. Petsiuk et al. use 5 px, truncated to 11×11, on images of
    224 px; small images of large objects need more.
    """
    return ndimage.gaussian_filter(np.asarray(images, np.float32), (0, sigma, sigma, 0), mode="nearest", truncate=3.0)


@renamed_arguments(steps="n_steps")
def insertion(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
    maps: Maps,
    *,
    n_steps: int = 50,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    batch_size: int = 32,
) -> Curves:
    """The class's probability as pixels are added, the most important first; a larger area is better.

    At step s, round(s · H · W / n_steps) pixels are shown. Equal pixels are added in row-major order, so a constant map
    uncovers the image from the top.

    Args:
        fun: from images [n, H, W, C] to logits [n, classes] before softmax, or to what `target` takes.
        images: as `fun` takes them, with the mean already subtracted.
        target: one class for all images, or one per image; or a function, as in all lenses, whose number then takes
            the place of the probability.
        maps: one number per pixel, with the images' height and width.
        n_steps: points of the curve besides the first.
        fill: replaces pixels that are not shown: a number, a color [C], a picture [H, W, C], or one picture per image,
            such as `blurred(images, 5)`, which the paper uses. 0 is the mean.
        batch_size: the most pictures that go through `fun` at once.

    Raises:
        TypeError: images are not floating-point numbers.
        ValueError: shapes do not fit, maps are not finite, `fun` does not have the class, or n_steps or batch_size is
            out of range.

    Paper: Petsiuk et al. 2018, "RISE", the insertion metric.
    """
    images, cover = _filled(images, fill)
    return _curves(fun, cover, images, target, maps, n_steps, batch_size)


@renamed_arguments(steps="n_steps")
def deletion(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
    maps: Maps,
    *,
    n_steps: int = 50,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    batch_size: int = 32,
) -> Curves:
    """The class's probability as pixels are removed, the most important first; a smaller area is better.

    Arguments and errors as in `insertion`; the paper fills with gray, the mean.

    Paper: Petsiuk et al. 2018, "RISE", the deletion metric.
    """
    images, cover = _filled(images, fill)
    return _curves(fun, images, cover, target, maps, n_steps, batch_size)


def _curves(
    fun: Fun,
    first: Float[Array, "n h w c"],
    last: Float[Array, "n h w c"],
    target: Target,
    maps: Maps,
    n_steps: int,
    batch_size: int,
) -> Curves:
    """The curves from the pictures `first` to the pictures `last`, in the maps' order."""
    n, height, width, _ = first.shape
    maps = _checked_maps(maps)
    if maps.shape != (n, height, width):
        raise ValueError(f"maps: expected {[n, height, width]} as the images, got {list(maps.shape)}")
    if not 1 <= n_steps <= height * width:
        raise ValueError(f"n_steps: expected 1 to the {height * width} pixels of an image, got {n_steps}")
    at_least_one(batch_size=batch_size)
    question = asked(fun, first, target, has_slope=False)
    ranks = jnp.asarray(_ranks(maps))
    counts = np.round(np.arange(n_steps + 1) * (height * width / n_steps)).astype(np.int32)

    total = n * (n_steps + 1)
    batch_size = min(batch_size, total)
    found = []
    for start in range(0, total, batch_size):
        # The last batch repeats its last picture, so that one program serves all.
        numbers = np.minimum(np.arange(start, start + batch_size), total - 1)
        rows, step = np.divmod(numbers, n_steps + 1)
        rows = rows.astype(np.int32)
        found.append(_said(question, last, ranks, rows, counts[step], is_class=not callable(target)))
        if len(found) > 1:  # at most two batches are in flight
            jax.block_until_ready(found[-2])
    curve = np.concatenate(jax.device_get(found))[:total].reshape(n, n_steps + 1)
    return Curves(curve, (curve.sum(axis=1) - (curve[:, 0] + curve[:, -1]) / 2) / n_steps)


@functions.jit
def _said(
    question: Asked,
    last: Float[Array, "n h w c"],
    ranks: Int[Array, "n h w"],
    rows: Int[Array, " batch"],
    counts: Int[Array, " batch"],
    *,
    is_class: bool,
) -> Float[Array, " batch"]:
    """The probability of the class, or the number that is asked for, of pictures with so many pixels changed."""
    changed = ranks[rows] < counts.reshape(-1, 1, 1)
    pictures = jnp.where(changed[..., None], last[rows], question.inputs[rows])
    said = question.fun(pictures).astype(jnp.float32)
    if is_class:
        said = jax.nn.softmax(said, axis=1)
    return jnp.take_along_axis(said, question.target[rows][:, None], axis=1)[:, 0]


def _ranks(maps: Maps) -> Int[np.ndarray, "n h w"]:
    """Each pixel's rank in its map, from 0."""
    order = np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
    return ranks.reshape(maps.shape)


def _drawn(one: Float[np.ndarray, "h w"], threshold: float) -> tuple[int, int, int, int]:
    highest = one.max()
    if highest <= 0 or highest == one.min():
        return 0, 0, 0, 0
    segments, _ = ndimage.label(one >= threshold * highest, structure=_EIGHT)
    return Box.around(segments == 1 + np.argmax(np.bincount(segments.ravel())[1:]))


def _filled(
    images: Float[Array | np.ndarray, "n h w c"], fill: float | Float[Array | np.ndarray, "..."]
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """The images, and what replaces their pixels."""
    images = floats("images", images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images: expected [n, H, W, C] with one or more, got {list(images.shape)}")
    return images, filling("fill", fill, images, (1, 3, 4))


def _checked(maps: Maps, masks: Masks) -> tuple[Maps, Masks]:
    maps, masks = _checked_maps(maps), _checked_masks(masks)
    if maps.shape != masks.shape:
        raise ValueError(f"maps, masks: expected one shape, got {list(maps.shape)} and {list(masks.shape)}")
    return maps, masks


def _checked_maps(maps: Maps) -> Maps:
    if not isinstance(maps, list):
        array("maps", maps)
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"maps: expected [n, H, W] with one or more, got {list(maps.shape)}")
    wrong = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if len(wrong):
        raise ValueError(f"maps: expected finite numbers, map {wrong[0]} has others")
    return maps


def _checked_masks(masks: Masks) -> Masks:
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != bool or not masks.size:
        raise ValueError(f"masks: expected bool [n, H, W] with one or more, got {masks.dtype} {list(masks.shape)}")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"masks: expected some pixels of an object, mask {empty[0]} has none")
    return masks
