"""What a net says as pixels are added to an image or taken away, in the order of a map."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int
from scipy import ndimage

from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one
from zfjax.attribution.metrics.maps import Maps, ranks_of
from zfjax.console.deprecation import renamed_arguments
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import filling, floats
from zfjax.transform import functions


@shown_by_shape
class Curves(NamedTuple):
    """The probability of each image's class as pixels are added or removed."""

    curve: Float[np.ndarray, "n steps_and_first"]  # probability after 0, 1, … n_steps
    auc: Float[np.ndarray, " n"]  # area under the curve, over shares of pixels from 0 to 1


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


def said_along(
    question: Asked,
    change: Partial,
    counts: Int[np.ndarray, " steps"],
    batch_size: int,
    *,
    is_class: bool,
) -> Float[np.ndarray, "n steps"]:
    """What is said of each image with the so many first pixels of its map changed.

    Args:
        question: about the images.
        change: `change(images, rows, counts)` changes so many pixels of each image, whose numbers are `rows`.
        counts: how many, at each step.
        batch_size: the most pictures that go through the function at once.
        is_class: whether to give the probability of the class; else the number that is asked for.
    """
    total = len(question.inputs) * len(counts)
    batch_size = min(batch_size, total)
    found = []
    for start in range(0, total, batch_size):
        # The last batch repeats its last picture, so that one program serves all.
        numbers = np.minimum(np.arange(start, start + batch_size), total - 1)
        rows, step = np.divmod(numbers, len(counts))
        found.append(_said(question, change, rows.astype(np.int32), counts[step], is_class=is_class))
        if len(found) > 1:  # at most two batches are in flight
            jax.block_until_ready(found[-2])
    return np.concatenate(jax.device_get(found))[:total].reshape(-1, len(counts))


@functions.jit
def _said(
    question: Asked, change: Partial, rows: Int[Array, " batch"], counts: Int[Array, " batch"], *, is_class: bool
) -> Float[Array, " batch"]:
    said = question.fun(change(question.inputs[rows], rows, counts)).astype(jnp.float32)
    if is_class:
        said = jax.nn.softmax(said, axis=1)
    return jnp.take_along_axis(said, jnp.asarray(question.target)[rows][:, None], axis=1)[:, 0]


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
    height, width = first.shape[1:3]
    ranks = ranks_of(maps, first.shape[:3])
    if not 1 <= n_steps <= height * width:
        raise ValueError(f"n_steps: expected 1 to the {height * width} pixels of an image, got {n_steps}")
    at_least_one(batch_size=batch_size)
    question = asked(fun, first, target, has_slope=False)
    counts = np.round(np.arange(n_steps + 1) * (height * width / n_steps)).astype(np.int32)
    change = Partial(_Mixed(), last, ranks)
    curve = said_along(question, change, counts, batch_size, is_class=not callable(target))
    return Curves(curve, (curve.sum(axis=1) - (curve[:, 0] + curve[:, -1]) / 2) / n_steps)


@dataclasses.dataclass(frozen=True)
class _Mixed(functions.Fixed):
    """Replaces the first pixels of images by those of others."""

    def __call__(
        self,
        last: Float[Array, "n h w c"],
        ranks: Int[Array, "n h w"],
        images: Float[Array, "batch h w c"],
        rows: Int[Array, " batch"],
        counts: Int[Array, " batch"],
    ) -> Float[Array, "batch h w c"]:
        """The images with as many pixels changed as `counts` says."""
        changed = ranks[rows] < counts.reshape(-1, 1, 1)
        return jnp.where(changed[..., None], last[rows], images)


def _filled(
    images: Float[Array | np.ndarray, "n h w c"], fill: float | Float[Array | np.ndarray, "..."]
) -> tuple[Float[Array, "n h w c"], Float[Array, "n h w c"]]:
    """The images, and what replaces their pixels."""
    images = floats("images", images)
    if images.ndim != 4 or not len(images):
        raise ValueError(f"images: expected [n, H, W, C] with one or more, got {list(images.shape)}")
    return images, filling("fill", fill, images, (1, 3, 4))
