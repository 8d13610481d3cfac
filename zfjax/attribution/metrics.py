"""How good a map is: where it points, what it boxes, how much of it lies on the object, what it lets the net see.

Maps are [n, H, W]: one number per pixel, higher is more important. Objects are masks, bool [n, H, W]; `box_masks` makes
them from boxes. A map that is the same everywhere, such as one of zeros, says nothing, and scores as a miss.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int
from scipy import ndimage

from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one
from zfjax.console.deprecation import renamed, renamed_arguments
from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Box, Boxes
from zfjax.ops.arguments import array, filling, floats
from zfjax.transform import functions

Maps = Float[np.ndarray, "n height width"]
Masks = Bool[np.ndarray, "n height width"]

_EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner belong together, as in OpenCV's contours


__getattr__ = renamed(__name__, localisation="localization", Localisation="Localization", LOCALISED="LOCALIZED")

LOCALIZED = 0.5  # the IoU from which a box counts as right


@shown_by_shape
class Localization(NamedTuple):
    """The box that each map draws, and how well it fits."""

    boxes: Boxes  # (top, left, height, width) in pixels; of a map that says nothing all 0
    iou: Float[np.ndarray, " n"]  # with the object's box, 0..1

    @property
    def localized(self) -> Bool[np.ndarray, " n"]:
        """Whether box and object's box share half of what they cover together."""
        return self.iou >= LOCALIZED


@shown_by_shape
class Curves(NamedTuple):
    """What the net says of each image's class while pixels come or go."""

    curve: Float[np.ndarray, "n steps_and_first"]  # probability after 0, 1, … n_steps
    auc: Float[np.ndarray, " n"]  # area under it, over shares of pixels from 0 to 1


def box_masks(boxes: Boxes, height: int, width: int) -> Masks:
    """Boxes as masks of images of one size.

    Args:
        boxes: (top, left, height, width) in pixels; what hangs over the image's edge is cut off.
        height: of the images, in pixels.
        width: likewise.

    Raises:
        ValueError: not [n, 4] of whole pixels, or a box that covers no pixel; it is named.

    >>> box_masks(np.array([[1, 0, 1, 2]]), 3, 3).astype(int).tolist()
    [[[0, 0, 0], [1, 1, 0], [0, 0, 0]]]
    """
    boxes = np.asarray(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or not np.issubdtype(boxes.dtype, np.integer):
        raise ValueError(f"boxes: expected whole pixels [n, 4], got {boxes.dtype} {list(boxes.shape)}")
    top, left, tall, wide = (side[:, None] for side in boxes.T)
    rows, columns = np.arange(height)[None], np.arange(width)[None]
    inside = ((rows >= top) & (rows < top + tall))[:, :, None] & ((columns >= left) & (columns < left + wide))[:, None]
    empty = np.flatnonzero(~inside.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(
            f"boxes: expected (top, left, height, width) on an image of {height}×{width} px,"
            f" got {boxes[empty[0]].tolist()} as number {empty[0]}"
        )
    return inside


def boxes_of(masks: Masks) -> Boxes:
    """The smallest box (top, left, height, width) round each mask.

    Raises:
        ValueError: a mask is empty; it is named.
    """
    masks = _checked_masks(masks)
    return np.array([Box.around(mask) for mask in masks])


def pointing_game(maps: Maps, masks: Masks, *, tolerance: float = 0.0) -> Bool[np.ndarray, " n"]:
    """Whether each map's maximum lies on the object: of several, the first in row-major order.

    A map that is the same everywhere points nowhere and is a miss.

    Args:
        maps: one number per pixel.
        masks: the objects' pixels.
        tolerance: how far from the object, in pixels, still counts; Zhang et al. allow 15 on images of about 500.

    Raises:
        ValueError: maps and masks of different or other shapes, maps that are not finite, an empty mask, a negative
            tolerance.

    Paper: Zhang et al. 2018, "Top-down neural attention by excitation backprop", the pointing game.
    """
    maps, masks = _checked(maps, masks)
    if tolerance < 0:
        raise ValueError(f"tolerance: expected 0 px or more, got {tolerance}")
    reached = np.stack([ndimage.distance_transform_edt(~mask) <= tolerance for mask in masks]) if tolerance else masks
    values = maps.reshape(len(maps), -1)
    hit = np.take_along_axis(reached.reshape(len(maps), -1), values.argmax(axis=1)[:, None], axis=1)[:, 0]
    return hit & (values.max(axis=1) > values.min(axis=1))


def localization(maps: Maps, masks: Masks, *, threshold: float = 0.15) -> Localization:
    """The box round the largest segment of each map, against the object's box.

    A segment is what hangs together, also over corners, of the pixels from `threshold` times the map's maximum up; of
    equally large ones the first in row-major order counts. A map that is the same everywhere, or nowhere positive, has
    no box, and an IoU of 0.

    Args:
        maps: one number per pixel.
        masks: the objects' pixels, of which the smallest box is taken; for given boxes `box_masks(boxes, H, W)`.
        threshold: share of the maximum, above 0 and at most 1.

    Raises:
        ValueError: as `pointing_game`, or a threshold out of range.

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
    """Which share, 0..1, of all that is positive in each map lies on the object; 0 where nothing is.

    A map that is the same and positive everywhere gives the object's share of the image.

    Raises:
        ValueError: as `pointing_game`.

    Paper: Wang et al. 2020, "Score-CAM", the energy-based pointing game.
    """
    maps, masks = _checked(maps, masks)
    energy = np.maximum(maps, 0).astype(np.float64)
    total, inside = energy.sum(axis=(1, 2)), np.where(masks, energy, 0).sum(axis=(1, 2))
    return inside / np.where(total > 0, total, 1)


def blurred(images: Float[np.ndarray, "n height width channels"], sigma: float) -> Float[np.ndarray, "n h w c"]:
    """Images under a Gaussian of `sigma` pixels: what `insertion` may start from.

    It should leave nothing that the net can tell. Petsiuk et al. take 5 px, cut off to 11×11, on images of 224; small
    images of large objects need more.
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
    """The class's probability while the pixels come back, the most important first; a larger area is better.

    At step s, round(s · H · W / n_steps) pixels are there. Equal pixels come in row-major order, so that a map that is
    the same everywhere uncovers the image from the top.

    Args:
        fun: as in all lenses: from images [n, H, W, C] to logits [n, classes] before the softmax.
        images: as `fun` takes them, with the mean already subtracted.
        target: a class for all, or one for each image.
        maps: one number per pixel, of the images' height and width.
        n_steps: points of the curve besides the first.
        fill: what stands where no pixel is yet: a number, a color [C], a picture [H, W, C], or one for each image,
            such as `blurred(images, 5)`, which the paper takes. 0 is the mean.
        batch_size: at most so many pictures go through `fun` at once.

    Raises:
        TypeError: images that are not floating-point numbers.
        ValueError: shapes that do not fit, maps that are not finite, a class that `fun` does not have, n_steps or
            a batch size out of range.

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
    """The class's probability while the pixels go, the most important first; a smaller area is better.

    Arguments and errors as `insertion`; the paper fills with gray, the mean.

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
    """From the pictures `first` to the pictures `last`, in the maps' order."""
    n, height, width, _ = first.shape
    maps = _checked_maps(maps)
    if maps.shape != (n, height, width):
        raise ValueError(f"maps: expected {[n, height, width]} as the images, got {list(maps.shape)}")
    if not 1 <= n_steps <= height * width:
        raise ValueError(f"n_steps: expected 1 to the {height * width} pixels of an image, got {n_steps}")
    at_least_one(batch_size=batch_size)
    question = asked(fun, first, target)
    ranks = jnp.asarray(_ranks(maps))
    counts = np.round(np.arange(n_steps + 1) * (height * width / n_steps)).astype(np.int32)

    total = n * (n_steps + 1)
    batch_size = min(batch_size, total)
    found = []
    for start in range(0, total, batch_size):
        # The last batch is filled up with its last picture: one program for all.
        numbers = np.minimum(np.arange(start, start + batch_size), total - 1)
        rows, step = np.divmod(numbers, n_steps + 1)
        found.append(_probabilities(question, last, ranks, rows.astype(np.int32), counts[step]))
        if len(found) > 1:  # so that no more than two batches are under way
            jax.block_until_ready(found[-2])
    curve = np.concatenate(jax.device_get(found))[:total].reshape(n, n_steps + 1)
    return Curves(curve, (curve.sum(axis=1) - (curve[:, 0] + curve[:, -1]) / 2) / n_steps)


@functions.jit
def _probabilities(
    question: Asked,
    last: Float[Array, "n h w c"],
    ranks: Int[Array, "n h w"],
    rows: Int[Array, " batch"],
    counts: Int[Array, " batch"],
) -> Float[Array, " batch"]:
    changed = ranks[rows] < counts.reshape(-1, 1, 1)
    pictures = jnp.where(changed[..., None], last[rows], question.inputs[rows])
    said = jax.nn.softmax(question.fun(pictures).astype(jnp.float32), axis=1)
    return jnp.take_along_axis(said, question.target[rows][:, None], axis=1)[:, 0]


def _ranks(maps: Maps) -> Int[np.ndarray, "n h w"]:
    """Each pixel's place in its map's order, from 0."""
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
    """The images, and what stands in their place."""
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
