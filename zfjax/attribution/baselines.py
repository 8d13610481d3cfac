"""What each pixel adds to a score compared with baselines: by differences, layer by layer, or by gradients between."""

import dataclasses
import functools
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
    one_hot,
    picked,
    require_key,
    scores,
    scores_and_gradients,
    sums,
)
from zfjax.attribution.gradients import share_of_range
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import described, filling, floats
from zfjax.ops.precision import widened
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject
from zfjax.transform.deep_lift import DEEP_LIFT


@shown_by_shape
class Gains(NamedTuple):
    """What each pixel adds to a score compared with baselines, and how far the sum is from the whole."""

    attributions: Float[Array, "n ..."]  # shaped as the images
    error: Float[Array, " n"]  # their sum − (score of the image − mean score of its baselines)


def deep_lift(
    fun: Fun,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    *,
    baseline: float | Float[Array | np.ndarray, "..."] = 0.0,
) -> Gains:
    """DeepLIFT with the rescale rule: differences from the baseline, shared out layer by layer.

    The parts add up to the score's gain but for rounding, and for what no rule serves: what the function hides from
    gradients (`jax.lax.stop_gradient`, a branch taken on the values), sorting, products along an axis, a softmax whose
    logits differ by ten or more between the two. `error` says by how much. What is done where the rule is not defined:
    `zfjax.transform.deep_lift`.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        baseline: a number, a color [C], one image, or one per image. 0 is the mean image where it is subtracted.

    Raises:
        ValueError: the baseline has another shape, or as in all lenses.

    Paper: Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences".

    >>> fun = lambda x: jax.nn.relu(x - 1).sum(1, keepdims=True)
    >>> found = zfjax.attribution.deep_lift(fun, jnp.array([[3.0, 0.5]]), 0)
    >>> [round(float(part), 3) for part in found.attributions[0]]
    [2.0, 0.0]
    """
    question = asked(fun, images, target)
    start = filling("baseline", baseline, question.inputs, sorted({1, question.inputs.ndim - 1, question.inputs.ndim}))
    return _compared(question, start)


@functions.jit
def _compared(question: Asked, start: Array) -> Gains:
    logits, project = backproject(question.fun, question.inputs, DEEP_LIFT, baseline=start)
    multipliers = project(one_hot(logits, question.target))
    attributions = widened(multipliers) * (widened(question.inputs) - widened(start))
    gain = widened(picked(logits, question.target)) - widened(scores(question._replace(inputs=start)))
    return Gains(attributions, sums(attributions) - gain.astype(jnp.float32))


def expected_gradients(
    fun: Fun,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    baselines: Float[Array | np.ndarray, "m ..."],
    key: PRNGKeyArray,
    *,
    n_samples: int = 200,
    batch_size: int = 32,
) -> Gains:
    """Integrated gradients averaged over many baselines: each sample takes one, and one place on the line from it.

    So no single picture, such as a gray one, stands for "nothing". The parts add up to the score less the mean score of
    the baselines, up to the sampling error, which `error` has. Every image gets the same draws.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        baselines: pictures to compare with, such as some of the training set, [m, …] like the images.
        key: of the draws.
        n_samples: gradients of each image.
        batch_size: images at once.

    Raises:
        ValueError: the baselines are shaped otherwise, `n_samples` or `batch_size` is below 1, or as in all lenses.

    Paper: Erion et al. 2021, "Improving Performance of Deep Learning Models with Axiomatic Attribution Priors and
    Expected Gradients".
    """
    return gradient_shap(fun, images, target, baselines, key, n_samples=n_samples, noise=0.0, batch_size=batch_size)


def gradient_shap(
    fun: Fun,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    baselines: Float[Array | np.ndarray, "m ..."],
    key: PRNGKeyArray,
    *,
    n_samples: int = 200,
    noise: float = 0.1,
    batch_size: int = 32,
) -> Gains:
    """GradientSHAP: `expected_gradients` of noisy copies of each image.

    Sample s draws from `jax.random.fold_in(key, s)`, split in three: the noise, the baseline, the place on the line.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        baselines: pictures to compare with, [m, …] like the images.
        key: of the draws.
        n_samples: gradients of each image.
        noise: its standard deviation, as a share of the image's range.
        batch_size: images at once.

    Raises:
        ValueError: the baselines are shaped otherwise, noise is negative, `n_samples` or `batch_size` is below 1, or as
            in all lenses.

    Paper: Lundberg & Lee 2017, "A Unified Approach to Interpreting Model Predictions", as implemented in SHAP.
    """
    require_key(key)
    at_least_one(n_samples=n_samples, batch_size=batch_size)
    at_least_zero(noise=noise)
    question = asked(fun, images, target)
    images, baselines = question.inputs, floats("baselines", baselines)
    if baselines.shape[1:] != images.shape[1:] or not len(baselines):
        expected = ", ".join(("m", *map(str, images.shape[1:])))
        raise ValueError(f"baselines: expected [{expected}] like the images, got {described(baselines)}")
    baselines = baselines.astype(images.dtype)
    count, size = chunks.even(len(images) * n_samples, batch_size)
    step = Partial(_Drawn(n_samples, size), question, baselines, share_of_range(images, noise), key)
    total = chunks.walk(step, chunks.no_sums(images), count, size, "Expected gradients")
    ends = jnp.concatenate([images, baselines])
    count, size = chunks.even(len(ends), batch_size)
    empty = np.zeros((len(ends), len(images)), np.float32)
    found = chunks.walk(Partial(_Scores(size), question, ends), empty, count, size, "Scores")
    return _from_draws(total, found, key, n_samples=n_samples)


@functools.partial(jax.jit, static_argnames=("n_samples",))
def _from_draws(
    total: Float[Array, "n ..."], ends: Float[Array, "ends n"], key: PRNGKeyArray, *, n_samples: int
) -> Gains:
    """The mean of all draws, and how far its parts are from what the scores at both ends say.

    Args:
        total: the sum of all draws.
        ends: scores of the images, then of the baselines, for the target of each image.
        key: of the draws.
        n_samples: how many there are.
    """
    attributions, count = total / jnp.asarray(n_samples, total.dtype), len(ends) - len(total)
    drawn = jax.vmap(lambda sample: _draws(key, sample, count)[1])(jnp.arange(n_samples, dtype=jnp.int32))
    gain = jnp.diagonal(ends) - ends[len(total) :][drawn].mean(axis=0)
    return Gains(attributions, sums(attributions) - gain)


def _draws(key: PRNGKeyArray, sample: Int[Array, ""], count: int) -> tuple[PRNGKeyArray, Array, Array]:
    """Of one sample: a key for its noise, the number of its baseline, and its place on the line."""
    noise, number, place = jax.random.split(jax.random.fold_in(key, sample), 3)
    return noise, jax.random.randint(number, (), 0, count, jnp.int32), jax.random.uniform(place, (), jnp.float32)


@dataclasses.dataclass(frozen=True)
class _Drawn:
    """Adds the gradients of a chunk of samples, each times the way from its baseline, to its image's sum."""

    samples: int
    size: int

    def __call__(
        self, question: Asked, baselines: Array, std: Array, key: PRNGKeyArray, total: Array, chunk: Int[Array, ""]
    ) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        image, sample = numbers // jnp.int32(self.samples), numbers % jnp.int32(self.samples)
        x, target, std = chunks.taken((question.inputs, question.target, std), image)
        noise, drawn, places = jax.vmap(lambda sample: _draws(key, sample, len(baselines)))(sample)
        shape = (-1, *(1,) * (x.ndim - 1))
        x = x + std.reshape(shape) * jax.vmap(lambda key: jax.random.normal(key, x.shape[1:], x.dtype))(noise)
        dtype, x, start = x.dtype, widened(x), widened(baselines[drawn])
        between = start + places.astype(x.dtype).reshape(shape) * (x - start)
        _, gradients = scores_and_gradients(Asked(question.fun, between.astype(dtype), target))
        return total.at[image].add(widened(gradients) * (x - start), mode="drop")


@dataclasses.dataclass(frozen=True)
class _Scores:
    """Writes the scores of a chunk of pictures for the target of each image."""

    size: int

    def __call__(self, question: Asked, pictures: Array, found: Array, chunk: Int[Array, ""]) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        logits = question.fun(pictures.at[numbers].get(mode="clip"))
        return found.at[numbers].set(logits[:, question.target].astype(found.dtype), mode="drop")
