"""The rectified linear unit."""

import jax
from jaxtyping import Array, Inexact


def rectify(x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """max(x, 0), with gradient 0 at 0.

    Args:
        x: any shape.

    Returns:
        `x` where it is positive, else 0. It is `jax.nn.relu`, the spelling by which a ReLU is recognized.

    Paper: section 2 (forward) and 2.1 (the same function rectifies what comes down).

    >>> import jax.numpy as jnp
    >>> print(rectify(jnp.array([-1.0, 2.0])))
    [0. 2.]
    """
    return jax.nn.relu(x)
