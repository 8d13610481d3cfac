"""Infidelity: whether a map says how much the score falls when something is hidden."""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks, sweeps
from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one, require_key, scores
from zfjax.attribution.covering import covered_at
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import array, filling
from zfjax.ops.windows import Pair, pair


@shown_by_shape
class Infidelity(NamedTuple):
    """How far what a map says is from what happens: the mean square over things hidden; less is better."""

    as_given: Float[Array, " n"]  # of the map as it is, in squares of the score
    scaled: Float[Array, " n"]  # of the map times the number that fits best, as a share of that of an empty map: 0..1


def infidelity(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
    attributions: Float[Array | np.ndarray, "n height width"] | Float[Array | np.ndarray, "n height width channels"],
    key: PRNGKeyArray,
    *,
    window: int | Pair,
    n_samples: int = 64,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    batch_size: int = 32,
) -> Infidelity:
    """E[(Σ I·φ − (f(x) − f(x − I)))²], where I is what a rectangle at a random place takes from the image x.

    A map φ says what each pixel's share in a fall of the score would be. Most lenses show shares of other things, so
    that only `scaled` compares them. A map with one number per pixel has it for each channel.

    Args:
        fun: as in all lenses.
        images: [n, H, W, C], as in all lenses.
        target: as in all lenses; a function needs no gradient.
        attributions: signed, [n, H, W, C], or one number per pixel.
        key: draws the places, the same for all images.
        window: size of the rectangle in pixels, one number or (height, width).
        n_samples: rectangles.
        fill: what they show, as in `occlusion`.
        batch_size: covered images at once.

    Raises:
        ValueError: attributions have another shape, window or fill does not fit, a number is below 1, or as in all
            lenses.

    Paper: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 2.1 and square removal;
    section 3.1 for the best scale, as Captum's `normalize`.

    >>> fun = lambda images: images.sum(axis=(1, 2))
    >>> image, gradient = jnp.arange(16.0).reshape(1, 4, 4, 1), jnp.ones((1, 4, 4, 1))
    >>> float(infidelity(fun, image, 0, gradient, jax.random.key(0), window=2).as_given[0])
    0.0
    """
    require_key(key)
    at_least_one(n_samples=n_samples, batch_size=batch_size)
    question = asked(fun, images, target, has_slope=False)
    images, attributions, window = question.inputs, array("attributions", attributions), pair("window", window)
    if images.ndim != 4 or attributions.shape not in (images.shape, images.shape[:3]):
        got = f"{list(attributions.shape)} for {list(images.shape)}"
        raise ValueError(f"attributions: expected [n, H, W, C] or [n, H, W] of the images, got {got}")
    sweeps.check_window(window, (images.shape[1], images.shape[2]))
    phi = attributions if attributions.ndim == 4 else attributions[..., None]
    cover = filling("fill", fill, images, (1, 3, 4))
    corners = _corners(key, n_samples, images.shape[1:3], window)
    n, columns = len(images), n_samples + 1
    count, size = chunks.even(n * columns, batch_size)
    empty = jnp.zeros(n * columns, jnp.float32), jnp.zeros(n * columns, jnp.float32)
    step = Partial(_Hidden(size, window), question, cover, phi, corners)
    said, expected = chunks.walk(step, empty, count, size, "Infidelity")
    return _mean_squares(said.reshape(n, columns), expected.reshape(n, columns))


@functools.partial(jax.jit, static_argnames=("count", "size", "window"))
def _corners(key: PRNGKeyArray, count: int, size: Pair, window: Pair) -> Int[Array, "corners 2"]:
    """Random places of a rectangle inside of an image; the last covers nothing."""
    draws = [
        jax.random.randint(one, (count,), 0, whole - part + 1, jnp.int32)
        for one, whole, part in zip(jax.random.split(key), size, window, strict=True)
    ]
    return jnp.pad(jnp.stack(draws, axis=1), ((0, 1), (0, 0)), constant_values=size[0])


@jax.jit
def _mean_squares(said: Float[Array, "n corners"], expected: Float[Array, "n corners"]) -> Infidelity:
    """From the scores, of which the last is of the whole image, and from what maps say."""
    fall, expected = said[:, -1:] - said[:, :-1], expected[:, :-1]
    given = jnp.square(expected - fall).mean(axis=1)
    power, whole = jnp.square(expected).sum(axis=1), jnp.square(fall).sum(axis=1)
    fitted = jnp.square((expected * fall).sum(axis=1)) / jnp.where(power > 0, power, jnp.ones_like(power))
    left = jnp.clip(1 - fitted / jnp.where(whole > 0, whole, jnp.ones_like(whole)), 0, 1)
    return Infidelity(given, jnp.where(whole > 0, left, jnp.zeros_like(left)))


@dataclasses.dataclass(frozen=True)
class _Hidden:
    """Puts the scores of a chunk of covered images in their places, and what their maps say of what is hidden."""

    size: int
    window: Pair

    def __call__(
        self,
        question: Asked,
        cover: Array,
        phi: Array,
        corners: Int[Array, "places 2"],
        found: tuple[Array, Array],
        chunk: Int[Array, ""],
    ) -> tuple[Array, Array]:
        numbers = chunks.numbers(chunk, self.size)
        image, place = numbers // jnp.int32(len(corners)), numbers % jnp.int32(len(corners))
        x, covered = covered_at(question, cover, image, corners[place], self.window)
        says = phi.at[image].get(mode="clip").astype(jnp.float32)
        expected = ((x - covered.inputs).astype(jnp.float32) * says).sum(axis=(1, 2, 3))
        said, sums = found
        score = scores(covered).astype(said.dtype)
        return said.at[numbers].set(score, mode="drop"), sums.at[numbers].set(expected, mode="drop")
