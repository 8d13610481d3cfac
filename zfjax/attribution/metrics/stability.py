"""Sensitivity of a lens: how much its maps change with images that look the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from zfjax.attribution.asked import Fun, Target, at_least_one, at_least_zero, require_key
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import array, floats


@shown_by_shape
class Stability(NamedTuple):
    """How far maps move with noise in the image, as shares of their norm; less is better."""

    largest: Float[Array, " n"]  # over all samples: max-sensitivity
    mean: Float[Array, " n"]


def sensitivity(
    lens: Callable[[Fun, Array, Target], Any],
    fun: Any,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    key: PRNGKeyArray,
    *,
    radius: float = 0.02,
    n_samples: int = 10,
) -> Stability:
    """Max ‖φ(x + r) − φ(x)‖ / ‖φ(x)‖ over images whose pixels are at most `radius` from those of x.

    A map that is zero all over, from which no share can be taken, counts as one of norm 1.

    Args:
        lens: `lens(fun, images, target)`, as all in `zfjax.attribution`. Its own draws should be the same each time.
        fun: what the lens takes: a function, or for CAMs (features, head).
        images: as the lens takes them.
        target: as the lens takes it.
        key: draws the noise, uniform, of each image by its number.
        radius: the largest change of a pixel, as a share of max − min of the image.
        n_samples: noisy copies of each image.

    Raises:
        TypeError: images are not floating-point numbers, or it is no key.
        ValueError: `n_samples` is below 1, `radius` is negative, or as the lens raises it.

    Paper: Yeh et al. 2019, "On the (In)fidelity and Sensitivity of Explanations", definition 4.1; the share of the norm
    is Quantus'.
    """
    require_key(key)
    at_least_one(n_samples=n_samples)
    at_least_zero(radius=radius)
    images = floats("images", images)

    def maps_of(images: Array) -> Float[Array, "n cells"]:
        found = lens(fun, images, target)
        maps = array("lens", getattr(found, "attributions", found))
        return maps.astype(jnp.float32).reshape(len(images), -1)

    clean, share = maps_of(images), jnp.asarray(radius, images.dtype)
    norm = jnp.linalg.norm(clean, axis=1)
    norm = jnp.where(norm > 0, norm, jnp.ones_like(norm))
    moved = [
        jnp.linalg.norm(maps_of(_noisy(images, jax.random.fold_in(key, number), share)) - clean, axis=1) / norm
        for number in range(n_samples)
    ]
    return Stability(jnp.stack(moved).max(axis=0), jnp.stack(moved).mean(axis=0))


@jax.jit
def _noisy(images: Float[Array, "n ..."], key: PRNGKeyArray, share: Float[Array, ""]) -> Float[Array, "n ..."]:
    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(len(images), dtype=jnp.uint32))
    draw = jax.vmap(lambda key: jax.random.uniform(key, images.shape[1:], images.dtype, -1, 1))(keys)
    rest = tuple(range(1, images.ndim))
    span = images.max(axis=rest, keepdims=True) - images.min(axis=rest, keepdims=True)
    return images + share * span * draw
