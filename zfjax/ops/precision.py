"""Half precision is for keeping numbers, not for adding many up."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def widened(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers in float32 at least, where sums are exact enough and squares do not overflow."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x
