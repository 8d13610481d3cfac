"""Gradients of a class's score with respect to the image: plain, over noisy copies, and along a path."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.asked import (
    Asked,
    Fun,
    Target,
    asked,
    at_least_one,
    at_least_zero,
    require_key,
    scores_and_gradients,
    sums,
)
from zfjax.console.deprecation import renamed_arguments
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import array, filling
from zfjax.ops.precision import widened
from zfjax.transform import functions


def gradient(fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target) -> Float[Array, "n ..."]:
    """∂ score / ∂ image, signed.

    Paper: Simonyan et al. 2013, "Deep Inside Convolutional Networks", section 3.
    """
    return _gradient(asked(fun, images, target))


def saliency(fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target) -> Float[Array, "n ..."]:
    """|∂ score / ∂ image|: what matters, whether for or against the class. The paper's maps are its `per_pixel`.

    Paper: Simonyan et al. 2013, section 3.1.
    """
    return jnp.abs(gradient(fun, images, target))


def gradient_times_input(fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target) -> Float[Array, "n ..."]:
    """Image · ∂ score / ∂ image: for a linear function, what each input adds to the score.

    Paper: Shrikumar et al. 2016, "Not Just a Black Box", section 3.2.
    """
    question = asked(fun, images, target)
    return widened(_gradient(question)) * widened(question.inputs)


@renamed_arguments(samples="n_samples")
def smooth_grad(
    fun: Fun,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    key: PRNGKeyArray,
    *,
    n_samples: int = 50,
    noise: float = 0.15,
    batch_size: int = 32,
) -> Float[Array, "n ..."]:
    """The mean gradient over noisy copies of each image, signed.

    Every image gets the same draws, scaled by its own range, so its map depends on the key and `n_samples`, but not on
    `batch_size` or the other images.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        key: draws the Gaussian noise.
        n_samples: copies of each image.
        noise: standard deviation of the noise, as a share of max − min of the image.
        batch_size: copies at once.

    Raises:
        ValueError: `n_samples` or `batch_size` is below 1, `noise` is negative, or as in all lenses.

    Paper: Smilkov et al. 2017, "SmoothGrad", section 3; 10-20 % of noise and 50 samples are theirs.
    """
    require_key(key)
    at_least_one(n_samples=n_samples, batch_size=batch_size)
    at_least_zero(noise=noise)
    question = asked(fun, images, target)
    images = question.inputs
    count, size = chunks.even(len(images) * n_samples, batch_size)
    step = Partial(_NoisyGradients(n_samples, size), question, share_of_range(images, noise), key)
    return chunks.walk(step, chunks.no_sums(images), count, size, "SmoothGrad") / float(n_samples)


@jax.jit
def share_of_range(images: Float[Array, "n ..."], share: float | Array) -> Float[Array, " n"]:
    """A share of max − min of each image."""
    rest = tuple(range(1, images.ndim))
    return jnp.asarray(share, images.dtype) * (images.max(axis=rest) - images.min(axis=rest))


@shown_by_shape
class IntegratedGradients(NamedTuple):
    """What each input adds to the score compared with a baseline, and how far the sum is from the whole."""

    attributions: Float[Array, "n ..."]  # shaped as the images
    error: Float[Array, " n"]  # their sum − (score of the image − score of the baseline)


@renamed_arguments(steps="n_steps")
def integrated_gradients(
    fun: Fun,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    baseline: float | Float[Array | np.ndarray, "..."] = 0.0,
    *,
    n_steps: int = 50,
    batch_size: int = 32,
) -> IntegratedGradients:
    """(image − baseline) · the mean gradient along the straight line from the baseline to the image.

    The integral uses Gauss-Legendre nodes, as in Captum. The parts add up to what the score gains along the line, up to
    `error`; take more steps if that is large.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        baseline: a number, a color [C], one image, or one per image. 0 is the mean image where it is subtracted.
        n_steps: nodes of the integral.
        batch_size: images at once.

    Raises:
        ValueError: `n_steps` or `batch_size` is below 1, the baseline has another shape, or as in all lenses.

    Paper: Sundararajan et al. 2017, "Axiomatic Attribution for Deep Networks", sections 3 and 5.

    >>> double = lambda images: 2 * images
    >>> found = integrated_gradients(double, jnp.array([[3.0, 5.0]]), target=1)
    >>> [round(float(part)) for part in found.attributions[0]]
    [0, 10]
    """
    at_least_one(n_steps=n_steps, batch_size=batch_size)
    question = asked(fun, images, target)
    images = question.inputs
    start = filling("baseline", baseline, images, sorted({1, images.ndim - 1, images.ndim}))
    count, size = chunks.even(len(images) * (n_steps + 2), batch_size)
    empty = chunks.no_sums(images), np.zeros(len(images), np.float32)
    step = Partial(_PathGradients(n_steps, size), question, start)
    total, gain = chunks.walk(step, empty, count, size, "Integrated gradients")
    return _along(images, start, total, gain)


@jax.jit
def _along(images: Array, start: Array, slopes: Array, gain: Array) -> IntegratedGradients:
    """The parts of the way from the start, and how far they are from the gain."""
    attributions = slopes * (widened(images) - widened(start))
    return IntegratedGradients(attributions, sums(attributions) - gain)


def per_pixel(attributions: Float[Array | np.ndarray, "n height width channels"]) -> Float[Array, "n height width"]:
    """The largest absolute value over the channels of each pixel.

    Raises:
        ValueError: the attributions have another shape, such as a CAM's, which has one value per cell already.

    Paper: Simonyan et al. 2013, section 3.1.
    """
    attributions = array("attributions", attributions)
    if attributions.ndim != 4:
        raise ValueError(f"attributions: expected [n, height, width, channels], got {list(attributions.shape)}")
    return jnp.abs(attributions).max(axis=-1)


@functions.jit
def _gradient(question: Asked) -> Array:
    return scores_and_gradients(question)[1]


@dataclasses.dataclass(frozen=True)
class _NoisyGradients:
    """Adds the gradients of a chunk of copies, each to its image's sum."""

    samples: int
    size: int

    def __call__(self, question: Asked, std: Array, key: PRNGKeyArray, total: Array, chunk: Int[Array, ""]) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        image, sample = numbers // jnp.int32(self.samples), numbers % jnp.int32(self.samples)
        x, target, std = chunks.taken((question.inputs, question.target, std), image)
        draw = jax.vmap(lambda number: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:], x.dtype))
        noisy = x + std.reshape(-1, *(1,) * (x.ndim - 1)) * draw(sample)
        _, gradients = scores_and_gradients(Asked(question.fun, noisy, target))
        return total.at[image].add(widened(gradients), mode="drop")


@dataclasses.dataclass(frozen=True)
class _PathGradients:
    """Adds weighted gradients of a chunk of nodes to their images' sums, and the scores at both ends to the gain."""

    steps: int
    size: int

    def __call__(
        self, question: Asked, start: Array, carry: tuple[Array, Array], chunk: Int[Array, ""]
    ) -> tuple[Array, Array]:
        total, gain = carry
        places, weights, ends = (jnp.asarray(part, total.dtype) for part in self._nodes())
        numbers = chunks.numbers(chunk, self.size)
        image, node = numbers // jnp.int32(self.steps + 2), numbers % jnp.int32(self.steps + 2)
        x, start, target = chunks.taken((question.inputs, start, question.target), image)
        dtype, x, start = x.dtype, widened(x), widened(start)
        place, weight = (part[node].reshape(-1, *(1,) * (x.ndim - 1)) for part in (places, weights))
        between = (start + place * (x - start)).astype(dtype)
        scores, gradients = scores_and_gradients(Asked(question.fun, between, target))
        return (
            total.at[image].add(weight * widened(gradients), mode="drop"),
            gain.at[image].add(ends[node].astype(gain.dtype) * scores.astype(gain.dtype), mode="drop"),
        )

    def _nodes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Points in 0..1 including both ends, and their weights in the integral and in the gain from end to end."""
        places, weights = np.polynomial.legendre.leggauss(self.steps)
        ends = np.zeros(self.steps + 2)
        ends[[0, -1]] = -1, 1
        return np.concatenate([[0], (1 + places) / 2, [1]]), np.concatenate([[0], weights / 2, [0]]), ends
