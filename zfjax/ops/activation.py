"""The rectified linear unit."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact


def rectify(x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """max(x, 0), with gradient 0 at 0.

    Args:
        x: any shape.

    Returns:
        `x` where it is positive, else 0.

    Paper: section 2 (forward) and 2.1 (the same function rectifies what comes down).

    >>> import jax.numpy as jnp
    >>> print(rectify(jnp.array([-1.0, 2.0])))
    [0. 2.]
    """
    return relu(x)


@jax.custom_jvp
@jax.jit
def relu(x: Inexact[Array, "*shape"]) -> Inexact[Array, "*shape"]:
    """By this name a ReLU is recognized, as `jax.nn.relu` is."""
    return jnp.maximum(x, 0)


@relu.defjvp
def _relu_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    # By the result, not by x as `jax.nn.relu` does, so that a training step keeps one map and not two.
    y, (tangent,) = relu(*primals), tangents
    return y, lax.select(y > 0, tangent, lax.full_like(tangent, 0))
