"""What functions are given, as the arrays that they take, or one line that names what else it was."""

import functools
from collections.abc import Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from zfjax.console.text import first_line, is_out_of_memory


def is_array(value: Any) -> TypeGuard[ArrayLike]:
    """Whether JAX takes it for an array as it is: one of numbers, booleans or keys, or a number of Python's."""
    if isinstance(value, np.ndarray | np.generic):
        return value.dtype == bool or jnp.issubdtype(value.dtype, jnp.number)
    return isinstance(value, jax.Array | bool | int | float | complex) or hasattr(value, "__jax_array__")


def described(value: Any) -> str:
    """An array by its type and shape, as in `float32[2, 3]`; anything else by its kind."""
    if is_array(value):
        return f"{jnp.result_type(value)}{list(jnp.shape(value))}"
    if isinstance(value, np.ndarray | jax.ShapeDtypeStruct):
        return f"{value.dtype}{list(value.shape)}"
    return type(value).__name__


def array(name: str, value: Any) -> Array:
    """An argument as an array.

    Args:
        name: of the argument.
        value: what was given for it.

    Raises:
        TypeError: it is not one array, but for example a tuple or dict of arrays, or another library's that JAX cannot
            read.
    """
    numbers = not isinstance(value, np.ndarray) or is_array(value)
    if not numbers or not (hasattr(value, "__array__") or hasattr(value, "__jax_array__")):
        raise TypeError(f"{name}: expected one array, got {described(value)}")
    try:
        return kept(value)
    except (TypeError, ValueError, RuntimeError) as error:  # such as a masked array, or PyTorch's with a gradient
        if is_out_of_memory(error):
            raise
        kind = type(value).__name__
        raise TypeError(f"{name}: expected an array that JAX can read, got {kind}: {first_line(error)}") from error


def kept(value: Any) -> Any:
    """An argument that stays as it is when the caller writes to its array later; what is no array is returned.

    JAX may share a NumPy array's memory, and works on it after it has returned; even `jnp.array` copies later. It takes
    numbers in this machine's byte order only.
    """
    if isinstance(value, jax.Array):
        return value
    if isinstance(value, np.ma.MaskedArray) or hasattr(value, "__jax_array__"):
        return jnp.asarray(value)  # refuses masks
    if not hasattr(value, "__array__"):
        return value
    numbers = np.asarray(value)
    with jax.ensure_compile_time_eval():  # a constant also while something is traced; `jnp.asarray` would compile
        return jax.device_put(numbers.astype(numbers.dtype.newbyteorder("=")))


def floats(name: str, value: Any) -> Float[Array, "..."]:
    """An argument as an array of floating-point numbers, as nets take images; otherwise as `array`.

    Raises:
        TypeError: it is not an array, or has other numbers.
    """
    known = value if isinstance(value, np.ndarray) else array(name, value)  # JAX has fewer kinds of numbers
    if not jnp.issubdtype(known.dtype, jnp.floating):
        raise TypeError(f"{name}: expected floating-point numbers, the mean already subtracted, got {known.dtype}")
    return array(name, known)


def filling(name: str, value: Any, like: Array | jax.ShapeDtypeStruct, axes: Sequence[int]) -> Float[Array, "..."]:
    """A number, or an array of some of the last axes of `like`, in its shape and type.

    Args:
        name: of the argument.
        value: what was given for it.
        like: what it fills.
        axes: how many of these axes an array may have.

    Raises:
        TypeError: it cannot be read as numbers.
        ValueError: an array of another shape.
    """
    shapes = [like.shape[like.ndim - count :] for count in axes]
    *first, last = ["a number", *(str(list(shape)) for shape in shapes)]
    expected = f"{name}: expected {', '.join(first)} or {last}"
    try:
        found = (np if isinstance(value, int | float) else jnp).asarray(value, like.dtype)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{expected}, got {type(value).__name__}") from error
    if found.shape not in ((), *shapes):
        raise ValueError(f"{expected}, got {list(found.shape)}")
    return _broadcast(found, tuple(like.shape))


@functools.partial(jax.jit, static_argnames=("shape",))
def _broadcast(values: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(values.reshape((1,) * (len(shape) - values.ndim) + values.shape), shape)
