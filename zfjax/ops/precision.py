"""Numbers in half precision are added and multiplied in single."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def widened(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """X in float32 at least, in which many numbers can be added, and squares do not overflow."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
