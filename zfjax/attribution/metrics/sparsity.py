"""How few pixels of a map have most of it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zfjax.ops.arguments import array


def sparseness(attributions: Float[Array | np.ndarray, "n ..."]) -> Float[Array, " n"]:
    """The Gini index of the magnitudes of each map: 0 if all are equal, near 1 if one pixel has everything.

    A map of zeros has 0.

    Args:
        attributions: one number per pixel, or per pixel and channel.

    Raises:
        ValueError: they are not [n, …].

    Paper: Chalasani et al. 2020, "Concise Explanations of Neural Networks using Adversarial Training", section 4.

    >>> sparseness(jnp.array([[1.0, 1, 1, 1], [0, 0, 0, 4]])).tolist()
    [0.0, 0.75]
    """
    found = array("attributions", attributions)
    if found.ndim < 2 or not found.size:
        raise ValueError(f"attributions: expected [n, …] with one number or more, got {list(found.shape)}")
    return _gini(found)


@jax.jit
def _gini(found: Float[Array, "n ..."]) -> Float[Array, " n"]:
    sizes = jnp.sort(jnp.abs(found.astype(jnp.float32)).reshape(len(found), -1), axis=1)
    count, total = sizes.shape[1], sizes.sum(axis=1)
    weights = (2 * jnp.arange(1, count + 1, dtype=jnp.float32) - (count + 1))[None]
    return (weights * sizes).sum(axis=1) / (jnp.float32(count) * jnp.where(total > 0, total, jnp.ones_like(total)))
