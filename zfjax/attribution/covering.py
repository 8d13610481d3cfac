"""Occlusion: what a score loses where a rectangle covers the image."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from zfjax.attribution import chunks, sweeps
from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one, scores
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.models.incremental import Rectangles
from zfjax.ops.arguments import filling
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions

WINDOW, STRIDES = 48 / 224, 16 / 224  # shares of an image's sides


@shown_by_shape
class Occluded(NamedTuple):
    """What a score loses where a rectangle covers the image, pixel by pixel and position by position."""

    attributions: Float[Array, "n height width"]  # of each pixel, the mean over the positions that cover it
    falls: Float[Array, "n rows columns"]  # at each position
    tops: Int[np.ndarray | Array, " rows"]  # the rectangle's first row, in pixels
    lefts: Int[np.ndarray | Array, " columns"]


def occlusion(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
    *,
    window: int | Pair | None = None,
    strides: int | Pair | None = None,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    batch_size: int = 64,
) -> Occluded:
    """How far the score falls when a rectangle hides a pixel: the mean over all positions that cover it.

    For functions from `zfjax.layer`, an image goes through the net once, and each position recomputes only what the
    rectangle changes, unless `fill` differs between images or something is traced. `zfjax.occlusion` gives all outputs
    at each position, of one image.

    Args:
        fun: as in all lenses.
        images: [n, H, W, C], as in all lenses.
        target: as in all lenses; a function needs no gradient.
        window: size of the rectangle in pixels, one number or (height, width); default as 48 of 224.
        strides: pixels between positions, one number or (down, across); default as 16 of 224. The last row and column
            lie flush with the border. If they are larger than the window, pixels that are never covered are 0.
        fill: what to cover with: a number, a color [C], a picture [H, W, C], or one per image. 0 is the mean where it
            is subtracted.
        batch_size: covered images at once.

    Raises:
        ValueError: `images` is not [n, H, W, C], window, strides or fill does not fit, `batch_size` is below 1, or as
            in all lenses.

    Paper: Zeiler & Fergus 2013, section 4.2.

    >>> fun = lambda images: images.sum(axis=(1, 2))
    >>> found = occlusion(fun, jnp.arange(8.0).reshape(1, 2, 4, 1), target=0, window=2, strides=2)
    >>> found.falls[0].tolist(), found.attributions[0, 0].tolist()
    ([[10.0, 18.0]], [10.0, 10.0, 18.0, 18.0])
    """
    at_least_one(batch_size=batch_size)
    question = asked(fun, images, target, has_slope=False)
    images = question.inputs
    if images.ndim != 4:
        raise ValueError(f"images: expected [n, H, W, C], got {list(images.shape)}")
    size = images.shape[1], images.shape[2]
    window, strides = _pair("window", window, size, WINDOW), _pair("strides", strides, size, STRIDES)
    sweeps.check_window(window, size)
    cover = filling("fill", fill, images, (1, 3, 4))
    places = sweeps.grid(size, window, strides, batch_size)
    if sweeps.is_listable(fun) and np.ndim(fill) < 4 and not _is_traced(question, cover):
        falls = _recomputed(fun, question, target, cover[0], places)
    else:
        falls = _falls(question, cover, window, places.tops, places.lefts, batch_size)
    return Occluded(_spread(falls, places.tops, places.lefts, window, size), falls, places.tops, places.lefts)


def _pair(name: str, given: int | Pair | None, size: Pair, share: float) -> Pair:
    if given is None:
        return max(1, round(size[0] * share)), max(1, round(size[1] * share))
    return pair(name, given)


def _is_traced(question: Asked, cover: Array) -> bool:
    """Whether anything is traced, also what a function that is asked about closes over."""
    held = functions.jaxpr_of(question.fun, question.inputs[:1]).consts
    return functions.is_traced((question, cover, held))


def _recomputed(fun: Callable, question: Asked, target: Target, cover: Array, places: sweeps.Grid) -> Array:
    """The falls by recomputing what changes."""
    if callable(target):
        thens = [functions.live(target, name="target")] * len(question.inputs)
    else:
        thens = [Partial(_Logit(), one) for one in question.target]
    with Progress("Occlusion", len(thens)) as progress:
        clean, found = sweeps.swept(fun, question.inputs, thens, cover, places, None, progress)
    found = np.stack([places.in_order(one) for one in found])
    return jnp.asarray(clean.astype(np.float32)[:, None, None] - found.astype(np.float32))


@dataclasses.dataclass(frozen=True)
class _Logit(functions.Fixed):
    def __call__(self, target: Int[Array, ""], logits: Float[Array, "n classes"]) -> Float[Array, " n"]:
        return logits[:, target]


def _falls(
    question: Asked,
    cover: Float[Array, "n height width channels"],
    window: Pair,
    tops: Int[np.ndarray, " rows"],
    lefts: Int[np.ndarray, " columns"],
    batch_size: int,
) -> Float[Array, "n rows columns"]:
    """The falls by whole images, of which the last of each is covered nowhere."""
    n, beyond = len(question.inputs), question.inputs.shape[1]
    corners = [(top, left) for top in tops for left in lefts] + [(beyond, 0)]
    places = np.asarray(corners, np.int32)
    count, size = chunks.even(n * len(places), batch_size)
    step = Partial(_Covered(size, window), question, cover, places)
    found = chunks.walk(step, np.zeros(n * len(places), np.float32), count, size, "Occlusion")
    return _from_clean(found, (n, len(tops), len(lefts)))


@functools.partial(jax.jit, static_argnames=("shape",))
def _from_clean(found: Float[Array, " outputs"], shape: tuple[int, int, int]) -> Float[Array, "n rows columns"]:
    """How far each image's outputs are below its last one."""
    found = found.reshape(shape[0], -1)
    return (found[:, -1:] - found[:, :-1]).reshape(shape)


@dataclasses.dataclass(frozen=True)
class _Covered:
    """Puts the scores of a chunk of covered images in their places."""

    size: int
    window: Pair

    def __call__(
        self,
        question: Asked,
        cover: Array,
        places: Int[Array | np.ndarray, "places 2"],
        found: Array,
        chunk: Int[Array, ""],
    ) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        image, place = numbers // jnp.int32(len(places)), numbers % jnp.int32(len(places))
        _, covered = covered_at(question, cover, image, jnp.asarray(places)[place], self.window)
        return found.at[numbers].set(scores(covered).astype(found.dtype), mode="drop")


def covered_at(
    question: Asked,
    cover: Float[Array, "n height width channels"],
    image: Int[Array, " rows"],
    corners: Int[Array, "rows 2"],
    window: Pair,
) -> tuple[Float[Array, "rows height width channels"], Asked]:
    """Some images, and the question about them with a rectangle of each covered.

    Args:
        question: about n images.
        cover: what covers each.
        image: their numbers; those beyond the last are the last.
        corners: of the rectangles, (top, left); nothing is covered where they are outside the image.
        window: height and width of all rectangles.
    """
    rows = question.inputs, question.target, cover
    x, target, behind = chunks.taken(rows, image)
    sides = (jnp.full_like(image, side) for side in window)
    hidden = Rectangles(corners[:, 0], corners[:, 1], *sides).mask((x.shape[1], x.shape[2]))
    return x, Asked(question.fun, jnp.where(hidden[..., None], behind, x), target)


def _spread(
    falls: Float[Array, "n rows columns"],
    tops: Int[np.ndarray, " rows"],
    lefts: Int[np.ndarray, " columns"],
    window: Pair,
    size: Pair,
) -> Float[Array, "n height width"]:
    """Each pixel's mean over the positions that cover it."""
    down, across = (
        ((pixels >= starts[:, None]) & (pixels < starts[:, None] + side)).astype(np.float32)
        for starts, side, pixels in zip((tops, lefts), window, map(np.arange, size), strict=True)
    )
    return _means(falls, down, across)


@jax.jit
def _means(falls: Float[Array, "n rows columns"], down: Float[Array, "rows height"], across: Array) -> Array:
    total = jnp.einsum("nrc,rh,cw->nhw", falls, down, across, precision=jax.lax.Precision.HIGHEST)
    return total / jnp.maximum(jnp.outer(down.sum(axis=0), across.sum(axis=0)), jnp.float32(1))[None]
