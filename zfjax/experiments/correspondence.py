"""Figure 8 and Table 1: whether hiding the same part of several images changes their features alike."""

import functools
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Int8, PyTree

from zfjax.console.text import shown_by_shape
from zfjax.data.boxes import Boxes, edges, wide
from zfjax.ops.arguments import array
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.transform import functions


@shown_by_shape
class Correspondence(NamedTuple):
    """How a layer's features change when something is hidden in each of n images, compared between images.

    A feature's change has sign -1, 0 or 1. After a ReLU most are 0, and two zeros agree, so Δ (`mean`) grows with the
    number of features that change at all: read it together with `sparsity`, and with `opposed`, which ignores zeros.
    The matrices hold fractions of the layer's dimensions, for each pair of images.
    """

    differing: Float[np.ndarray, "draws n n"]  # whose change has a different sign in the two images
    changing: Float[np.ndarray, "draws n n"]  # that change in both; on the diagonal, that change in the image
    opposing: Float[np.ndarray, "draws n n"]  # that change in both, in opposite directions

    @property
    def mean(self) -> float:
        """Table 1's Δ, read as a mean over dimensions and pairs of images i ≠ j."""
        return float(_pairs(self.differing).mean())

    @property
    def std(self) -> float:
        """Standard deviation of Δ over pairs and draws."""
        return float(_pairs(self.differing).std())

    @property
    def sparsity(self) -> float:
        """Mean fraction of an image's dimensions that do not change."""
        return 1 - float(np.diagonal(self.changing, axis1=1, axis2=2).mean())

    @property
    def opposed(self) -> float:
        """Of the features that change in both images of a pair, the fraction that change in opposite directions.

        NaN if none change in both. 0.5 is chance if as many features rise as fall.
        """
        shared = float(_pairs(self.changing).sum())
        return float(_pairs(self.opposing).sum()) / shared if shared else math.nan


@shown_by_shape
class Difference(NamedTuple):
    """The difference of a measure between two parts of the same images."""

    value: float
    error: float  # standard error, by leaving out one image at a time


def correspondence(
    features: Callable[[Array], PyTree[Float[Array, "n ..."]]],
    images: Float[np.ndarray, "n height width c"],
    boxes: Boxes,
    *,
    fill: float | Float[np.ndarray, " c"] = 0.0,
    batch_size: int = 64,
    mesh: Mesh | None = None,
) -> PyTree:
    """Hide a box in each image and compare how the features change from image to image.

    With ε_i = x_i - x̃_i, the features before minus after, Δ sums H(sign ε_i, sign ε_j) over pairs i ≠ j, where H counts
    the dimensions that differ. H is symmetric, so the mean over ordered pairs equals that over unordered pairs.

    Args:
        features: from images to a layer's activations, or to a pytree of them: `zfjax.layers(net, variables, names)`.
        images: as `features` takes them, two or more.
        boxes: [draws, n, 4], (top, left, height, width) in pixels: one box per image and draw; one draw for a part,
            several for random boxes.
        fill: what to fill the box with, a number or a color; 0 is the mean image if the mean is subtracted.
        batch_size: images on a device at a time.
        mesh: the devices to split the draws over, as in `sharding.data_mesh`; default: one.

    Returns:
        A Correspondence, or a pytree of them with the structure of the features.

    Raises:
        ValueError: fewer than two images, a box that is empty or not inside its image (it is named), or features that
            are not finite.

    Paper: section 4.5, figure 8 and table 1.

    >>> import zfjax.experiments.correspondence as experiment
    >>> images = np.random.default_rng(0).normal(size=(4, 8, 8, 3))
    >>> found = experiment.correspondence(lambda x: x, images, np.full((1, 4, 4), (2, 2, 2, 2)))
    >>> print(f"{found.sparsity:.4f}")  # all but 4 of 64 pixels are unchanged
    0.9375
    """
    images = np.asarray(array("images", images))
    images = images if jnp.issubdtype(images.dtype, jnp.floating) else images.astype(np.float32)
    boxes = _checked(boxes, images)
    # All batches have one shape, and an image the same place in each draw's, so features that are not affected are
    # computed identically and differ by exactly 0.
    each = min(batch_size, len(images))
    mesh = sharding.busy(mesh, len(boxes) * -(-len(images) // each))
    features = functions.live(features, functools.partial(sharding.replicate, mesh=mesh), name="features")
    untouched = _features(features, lambda _, some: images[some], 1, len(images), each, mesh)
    before = jax.tree.map(_joined, *(found for _, found in untouched))

    def covered(draw: np.ndarray, some: np.ndarray) -> np.ndarray:
        return _hidden(images[some], boxes[draw, some], fill)

    after = _features(features, covered, len(boxes), len(images), each, mesh)
    # Of each batch at once, since signs take a quarter of the memory.
    signs = [jax.tree.map(functools.partial(_signs, some), before, found) for some, found in after]
    return jax.tree.map(lambda *parts: _compared(_joined(*parts).reshape(len(boxes), len(images), -1)), *signs)


def hidden(
    images: Float[np.ndarray, "n height width c"], boxes: Boxes, fill: float | Float[np.ndarray, " c"] = 0.0
) -> Float[np.ndarray, "n height width c"]:
    """The images with one box in each filled; boxes are [n, 4], (top, left, height, width) in pixels.

    Raises:
        ValueError: as in `correspondence`.
    """
    return _hidden(images, _checked(np.asarray(boxes)[None], images)[0], fill)


def _hidden(images: np.ndarray, boxes: Boxes, fill: float | np.ndarray) -> np.ndarray:
    covered = np.array(images)
    for image, (top, left, height, width) in zip(covered, boxes, strict=True):
        image[top : top + height, left : left + width] = fill
    return covered


def random_boxes(rng: np.random.Generator, like: Boxes, within: Boxes, draws: int) -> Int[np.ndarray, "draws n 4"]:
    """Random boxes [draws, n, 4] with the sizes of `like` [n, 4], anywhere inside `within` [n, 4].

    Raises:
        ValueError: a box is larger than the one it must lie within.

    Paper: table 1's "random".
    """
    like, within = wide(like), wide(within)
    room = within[:, 2:] - like[:, 2:]
    if room.min() < 0:
        number = int(np.argmax(room.min(axis=1) < 0))
        raise ValueError(f"boxes: box {number} {like[number].tolist()} is larger than {within[number].tolist()}")
    corners = within[None, :, :2] + rng.integers(0, room + 1, size=(draws, *room.shape))
    return np.concatenate([corners, np.broadcast_to(like[:, 2:], corners.shape)], axis=2)


def difference(
    one: Correspondence, other: Correspondence, measure: Callable[[Correspondence], float] = lambda found: found.mean
) -> Difference:
    """How much higher a measure, Δ by default, is for `one` than for `other`, over the same images.

    Pairs share images and so are not independent: the error is the jackknife's over images.

    Raises:
        ValueError: fewer than three images, or a different number of images in the two.
    """
    n = one.differing.shape[1]
    if n < 3 or other.differing.shape[1] != n:
        raise ValueError(f"expected the same three or more images, got {n} and {other.differing.shape[1]}")
    left_out = np.array([measure(_without(one, i)) - measure(_without(other, i)) for i in range(n)])
    return Difference(measure(one) - measure(other), float(np.sqrt((n - 1) * left_out.var())))


def _checked(boxes: Boxes, images: Float[np.ndarray, "n h w c"]) -> Boxes:
    n, height, width, _ = images.shape
    boxes = np.asarray(boxes)
    if n < 2:
        raise ValueError(f"images: expected two or more to compare, got {n}")
    if boxes.ndim != 3 or boxes.shape[1:] != (n, 4) or not len(boxes):
        raise ValueError(f"boxes: expected [draws, {n}, 4] for {n} images, got {list(boxes.shape)}")
    if not np.issubdtype(boxes.dtype, np.integer):
        raise ValueError(f"boxes: expected whole pixels, got {boxes.dtype}")
    for number, box in enumerate(boxes.reshape(-1, 4).tolist()):
        top, left, bottom, right = edges(np.array(box))
        if not (0 <= top < bottom <= height and 0 <= left < right <= width):
            raise ValueError(
                f"boxes: expected (top, left, height, width) inside image {number % n} of {height}×{width} px,"
                f" got {tuple(box)}"
            )
    return wide(boxes)


def _features(
    fun: Callable,
    images_of: Callable[[np.ndarray, np.ndarray], np.ndarray],
    draws: int,
    count: int,
    each: int,
    mesh: Mesh | None,
) -> Iterator[tuple[np.ndarray, PyTree[np.ndarray]]]:
    """Features of all images in all draws, in order: the numbers of some images, and their features, flattened.

    `images_of` takes the numbers of draws, and of an image in each.
    """
    rows = -(-count // each) * each  # of a draw, the last ones repeated, so that no batch has two draws

    def work(some: np.ndarray) -> PyTree:
        draw, image = np.divmod(some, rows)
        return _apply(fun, sharding.place(images_of(draw, np.minimum(image, count - 1)), mesh), mesh=mesh)

    first = 0
    for found in shared(draws * rows, each, mesh, work):
        numbers = np.arange(first, first + len(jax.tree.leaves(found)[0])) % rows
        first += len(numbers)
        kept = numbers < count
        flat = jax.tree.map(lambda leaf, kept=kept: leaf.reshape(len(leaf), -1)[kept], found)
        yield numbers[kept], flat


@functions.jit
def _apply(fun: Callable, images: Array, *, mesh: Mesh | None) -> PyTree:
    return sharding.on_each(lambda fun, images: fun(images), mesh, whole=1)(fun, images)


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _signs(
    some: Int[np.ndarray, " k"], before: Float[np.ndarray, "n d"], after: Float[np.ndarray, "k d"]
) -> Int8[np.ndarray, "k d"]:
    if not np.all(np.isfinite(before)) or not np.all(np.isfinite(after)):
        raise ValueError("features: expected finite numbers; the net has diverged")
    return np.sign(before[some] - after).astype(np.int8)


def _compared(signs: Int8[np.ndarray, "draws n d"]) -> Correspondence:
    """Count by products of indicators: exact in float32 up to 2^24 dimensions."""
    up, down = ((signs == sign).astype(np.float32) for sign in (1, -1))
    moved = up + down
    still = 1 - moved
    agreeing = sum(_shared(part, part) for part in (up, down, still))
    shares = (signs.shape[2] - agreeing, _shared(moved, moved), _shared(up, down) + _shared(down, up))
    return Correspondence(*(share / signs.shape[2] for share in shares))


def _shared(one: Float[np.ndarray, "draws n d"], other: Float[np.ndarray, "draws n d"]) -> np.ndarray:
    return (one @ other.swapaxes(1, 2)).astype(np.float64)


def _without(found: Correspondence, image: int) -> Correspondence:
    return Correspondence(*(np.delete(np.delete(matrix, image, axis=1), image, axis=2) for matrix in found))


def _pairs(matrices: Float[np.ndarray, "draws n n"]) -> Float[np.ndarray, " pairs"]:
    """The entries with i < j, for every draw."""
    return matrices[:, *np.triu_indices(matrices.shape[1], k=1)].ravel()
