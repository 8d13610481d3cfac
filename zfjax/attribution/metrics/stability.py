"""Sensitivity of a lens: how much its maps change with images that look the same."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.asked import Target, at_least_one, at_least_zero, check_batch, require_key
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import array, floats


@shown_by_shape
class Stability(NamedTuple):
    """How far maps move with noise in the image, as shares of their norm; less is better."""

    largest: Float[Array, " n"]  # over all samples: max-sensitivity
    mean: Float[Array, " n"]


def sensitivity(
    lens: Callable[[Any, Array, Any], Any],
    fun: Any,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    key: PRNGKeyArray,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
    batch_size: int = 32,
    first: int = 0,
    attributions: Float[Array | np.ndarray, "n ..."] | None = None,
) -> Stability:
    """Max ‖φ(x + r) − φ(x)‖ / ‖φ(x)‖ over images whose pixels are at most `radius` from those of x.

    A map that is zero all over, from which no share can be taken, counts as one of norm 1. The noisy copies of all
    images are one batch to the lens, in parts of one size, so that one program serves all.

    Args:
        lens: `lens(fun, images, target)`, as all in `zfjax.attribution`. Its own draws should be the same for all
            images and each time.
        fun: what the lens takes: a function, or for CAMs (features, head).
        images: as the lens takes them.
        target: as the lens takes it.
        key: draws the noise, uniform, of each image by its number.
        radius: the largest change of a pixel, as a share of max − min of the image.
        n_samples: noisy copies of each image.
        batch_size: the most images that the lens gets at once.
        first: number of the first image.
        attributions: what the lens gives for the images themselves, if that is known.

    Raises:
        TypeError: images are not floating-point numbers, or it is no key.
        ValueError: `n_samples` or `batch_size` is below 1, `radius` is negative, the lens does not give one map for
            each image, attributions have another shape, or as the lens raises it.

    Paper: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 4.1; the share of the norm
    is Quantus'.
    """
    require_key(key)
    at_least_one(n_samples=n_samples, batch_size=batch_size)
    at_least_zero(radius=radius)
    images = floats("images", images)
    check_batch(images, "images")
    n = len(images)
    one_each = jnp.asarray(target) if not callable(target) and np.ndim(target) == 1 else None

    def maps_of(images: Array, rows: Int[np.ndarray, " some"]) -> Float[Array, "some cells"]:
        found = lens(fun, images, target if one_each is None else one_each[rows])
        return _flat("lens", getattr(found, "attributions", found), len(images))

    def in_parts(count: int, of: Callable[[Int[np.ndarray, " some"]], Array]) -> Array:
        parts, size = chunks.even(count, batch_size)
        found = [of(np.minimum(np.arange(part * size, (part + 1) * size), count - 1)) for part in range(parts)]
        return jnp.concatenate(found)[:count]

    def moved(numbers: Int[np.ndarray, " some"]) -> Float[Array, " some"]:
        rows = numbers % n
        copies = noisy(images[rows], key, numbers // n, first + rows, share)
        maps = maps_of(copies, rows)
        if maps.shape[1] != clean.shape[1]:
            got = f"{maps.shape[1]} numbers, as the lens gives them, got {clean.shape[1]}"
            raise ValueError(f"attributions: expected maps of {got}")
        return jnp.linalg.norm(maps - clean[rows], axis=1) / norm[rows]

    share = jnp.asarray(radius, images.dtype)
    if attributions is None:
        clean = in_parts(n, lambda rows: maps_of(images[rows], rows))
    else:
        clean = _flat("attributions", attributions, n)
    norm = jnp.linalg.norm(clean, axis=1)
    norm = jnp.where(norm > 0, norm, jnp.ones_like(norm))
    found = in_parts(n_samples * n, moved).reshape(n_samples, n)
    return Stability(found.max(axis=0), found.mean(axis=0))


def _flat(name: str, maps: Any, count: int) -> Float[Array, "n cells"]:
    """Maps as rows of numbers. Raises a ValueError unless there is one for each of `count` images."""
    maps = array(name, maps)
    if maps.ndim < 2 or len(maps) != count:
        raise ValueError(f"{name}: expected maps [{count}, …], one for each image, got {list(maps.shape)}")
    return maps.astype(jnp.float32).reshape(count, -1)


def _uniform(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jax.random.uniform(key, shape, dtype, -1, 1)


@functools.partial(jax.jit, static_argnames="draw")
def noisy(
    images: Float[Array, "n ..."],
    key: PRNGKeyArray,
    samples: Int[Array | np.ndarray, " n"],
    rows: Int[Array | np.ndarray, " n"],
    share: Float[Array, ""],
    draw: Callable[..., Array] = _uniform,
) -> Float[Array, "n ..."]:
    """Images with noise drawn for each by the numbers of its sample and of its image.

    Args:
        images: any.
        key: of all noise.
        samples: numbers of the samples.
        rows: numbers of the images.
        share: of the image's range, that noise of size 1 takes.
        draw: from a key, a shape and a type to noise.
    """

    def drawn(sample: Array, row: Array) -> Array:
        return draw(jax.random.fold_in(jax.random.fold_in(key, sample), row), images.shape[1:], images.dtype)

    rest = tuple(range(1, images.ndim))
    span = images.max(axis=rest, keepdims=True) - images.min(axis=rest, keepdims=True)
    return images + share * span * jax.vmap(drawn)(jnp.asarray(samples), jnp.asarray(rows))
