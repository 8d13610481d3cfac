"""Whether maps are where the object is: pointing game, localization by a box, energy on the object.

Objects are masks, bool [n, H, W]; `box_masks` makes them from boxes. A constant map, such as one of zeros, counts as a
miss.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Bool, Float
from scipy import ndimage

from zfjax.attribution.metrics.maps import Maps, checked_maps
from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Box, Boxes, wide

Masks = Bool[Array | np.ndarray, "n height width"]

_EIGHT = np.ones((3, 3), bool)  # pixels that touch at a corner are connected, as in OpenCV's contours
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


def _drawn(one: Float[np.ndarray, "h w"], threshold: float) -> tuple[int, int, int, int]:
    highest = one.max()
    if highest <= 0 or highest == one.min():
        return 0, 0, 0, 0
    segments, _ = ndimage.label(one >= threshold * highest, structure=_EIGHT)
    return Box.around(segments == 1 + np.argmax(np.bincount(segments.ravel())[1:]))


def _checked(maps: Maps, masks: Masks) -> tuple[Maps, Masks]:
    maps, masks = checked_maps(maps), _checked_masks(masks)
    if maps.shape != masks.shape:
        raise ValueError(f"maps, masks: expected one shape, got {list(maps.shape)} and {list(masks.shape)}")
    return maps, masks


def _checked_masks(masks: Masks) -> Masks:
    masks = np.asarray(masks)
    if masks.ndim != 3 or masks.dtype != bool or not masks.size:
        raise ValueError(f"masks: expected bool [n, H, W] with one or more, got {masks.dtype} {list(masks.shape)}")
    empty = np.flatnonzero(~masks.any(axis=(1, 2)))
    if len(empty):
        raise ValueError(f"masks: expected some pixels of an object, mask {empty[0]} has none")
    return masks
