"""Half precision is for keeping numbers, not for adding many up."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def widened(x: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape"]:
    """The same numbers in float32 at least, where sums are exact enough and squares do not overflow."""
    array = jnp.asarray(x)
    return array.astype(jnp.float32) if array.dtype.itemsize < 4 else array
