"""What functions are given, as the arrays that they take, or one line that names what else it was."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def array(name: str, value: Any) -> Array:
    """An argument as an array.

    Args:
        name: of the argument.
        value: what was given for it.

    Raises:
        TypeError: it is no array, such as a tuple or a dict of some.
    """
    if not hasattr(value, "__array__") and not hasattr(value, "__jax_array__"):
        raise TypeError(f"{name}: expected one array, got {type(value).__name__}")
    return jnp.asarray(value)


def floats(name: str, value: Any) -> Float[Array, "..."]:
    """An argument as an array of floating-point numbers, as nets take images; otherwise as `array`.

    Raises:
        TypeError: it is no array, or one of other numbers.
    """
    dtype = getattr(value, "dtype", None)
    if dtype is not None and not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"{name}: expected floating-point numbers, the mean already subtracted, got {dtype}")
    return array(name, value)
