"""Signals to send down: a layer's activations, all but the selected ones set to zero.

y is a layer's activations, [N, H, W, C] or [N, C]; a unit is a map (or unit) in [0, C), one for all images or one per
image. Units and positions may be traced, as under `jax.vmap`; if out of range they then give NaN, and a warning each
time the program runs.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from zfjax.console.warning import warn
from zfjax.ops.arguments import array, described, is_array

Value = float | np.floating | Float[Array | np.ndarray, ""] | Literal["activation"]
Index = int | np.integer | Sequence[int] | Int[Array | np.ndarray, ""] | Int[Array | np.ndarray, "#n"]


def strongest(
    y: Inexact[Array | np.ndarray, "n *grid c"], unit: Index, value: Value = "activation"
) -> Inexact[Array, "n *grid c"]:
    """The strongest activation of one unit in each image; ties go to the first in row-major order.

    Args:
        y: activations, [N, H, W, C] or [N, C].
        unit: in [0, C); one for all images or [N].
        value: what to put there: "activation" for the activation's own value, or a number.

    Returns:
        Shaped and typed as y.

    Raises:
        TypeError: y is not an array; of a tuple or dict of arrays, seed one and replace the others by zeros.
        ValueError: y has fewer than two axes or is empty, or unit is out of range.

    Paper: section 2.1 ("we set all other activations in the layer to zero") and figures 2 and 4.

    >>> y = jnp.array([[[[1.0, 5.0]], [[3.0, 4.0]]]])  # [1, 2, 1, 2]
    >>> print(strongest(y, unit=0)[0, :, 0])
    [[0. 0.]
     [3. 0.]]
    """
    y = _activations(y)
    unit = _checked("unit", unit, y, -1)
    if not math.prod(y.shape[1:]) or jnp.issubdtype(y.dtype, jnp.complexfloating):
        raise ValueError(f"y: expected one real activation or more in each image, got {described(y)}")
    grid = y.reshape(y.shape[0], math.prod(y.shape[1:-1]), y.shape[-1])
    maps = _along(unit, grid, -1)
    column = jnp.sum(jnp.where(maps, grid, jnp.zeros_like(grid)), axis=-1)
    mask = maps & _along(jnp.argmax(column, axis=1), grid, 1)
    return _seed(y, mask.reshape(y.shape), value, _inside(unit, y.shape[-1]))


def whole_map(
    y: Inexact[Array | np.ndarray, "n *grid c"], unit: Index, value: Value = "activation"
) -> Inexact[Array, "n *grid c"]:
    """All positions of one unit. Arguments, result and errors as in `strongest`."""
    y = _activations(y)
    unit = _checked("unit", unit, y, -1)
    return _seed(y, _along(unit, y, -1), value, _inside(unit, y.shape[-1]))


def at(
    y: Inexact[Array | np.ndarray, "n *grid c"],
    unit: Index,
    position: Sequence[Index] | Array | np.ndarray,
    value: Value = "activation",
) -> Inexact[Array, "n *grid c"]:
    """One unit at one position.

    Args:
        y: activations, [N, H, W, C] or [N, C].
        unit: in [0, C); one for all images or [N].
        position: (row, column), each one for all images or [N]; () if y is [N, C].
        value: as in `strongest`.

    Returns:
        Shaped and typed as y.

    Raises:
        ValueError: unit or position is out of range, or position does not have one index per axis of the map.
    """
    y = _activations(y)
    unit = _checked("unit", unit, y, -1)
    if isinstance(position, np.ndarray | jax.Array) and position.ndim:
        position = tuple(position)
    if not isinstance(position, tuple | list) or len(position) != y.ndim - 2:
        raise ValueError(f"position: expected {y.ndim - 2} indices for y of shape {y.shape}, got {position}")
    mask, valid = _along(unit, y, -1), _inside(unit, y.shape[-1])
    for axis, index in enumerate(position, start=1):
        index = _checked(f"position[{axis - 1}]", index, y, axis)
        mask, valid = mask & _along(index, y, axis), valid & _inside(index, y.shape[axis])
    return _seed(y, mask, value, valid)


def masked(
    y: Inexact[Array | np.ndarray, "n *grid c"],
    mask: bool | Bool[Array | np.ndarray, "..."],
    value: Value = "activation",
) -> Inexact[Array, "n *grid c"]:
    """The activations where `mask`, broadcast to the shape of y, is true.

    Raises:
        ValueError: the mask is not boolean, or does not broadcast to y's shape.
    """
    y = array("y", y)
    mask = np.asarray(mask) if isinstance(mask, tuple | list) else mask
    try:
        fits = is_array(mask) and np.broadcast_shapes(jnp.shape(mask), y.shape) == y.shape
    except ValueError:
        fits = False
    if not fits or not jnp.issubdtype(jnp.result_type(mask), jnp.bool_):
        raise ValueError(f"mask: expected booleans that broadcast to y's shape {y.shape}, got {described(mask)}")
    return _seed(y, mask, value)


def _seed(y: jax.Array, mask: bool | Array | np.ndarray, value: Value, valid: jax.Array | bool = True) -> jax.Array:
    if isinstance(value, str) and value == "activation":
        chosen = y
    elif is_array(value) and not jnp.ndim(value) and (jnp.iscomplexobj(y) or not jnp.iscomplexobj(value)):
        chosen = jnp.full_like(y, value)
    else:
        raise ValueError(f"value: expected 'activation' or a number, got {value!r}")
    seed = jnp.where(mask, chosen, jnp.zeros((), y.dtype))
    if not isinstance(valid, jax.core.Tracer):
        return seed  # checked; and under `jax.debug_nans` no NaN may be made
    return jnp.where(jnp.all(valid), seed, jnp.full((), jnp.nan, y.dtype))


def _along(index: jax.Array, y: jax.Array, axis: int) -> jax.Array:
    """Where the coordinate along `axis` is `index` (one, or one per image); broadcasts to y's shape."""
    shape = [1] * y.ndim
    shape[axis] = y.shape[axis]
    return index.reshape(-1, *(1,) * (y.ndim - 1)) == jnp.arange(y.shape[axis]).reshape(shape)


def _activations(y: Any) -> jax.Array:
    y = array("y", y)
    if y.ndim < 2:
        raise ValueError(f"y: expected activations [N, H, W, C] or [N, C], got shape {y.shape}")
    return y


def _checked(name: str, index: Index, y: jax.Array, axis: int) -> jax.Array:
    size = y.shape[axis]
    index = np.asarray(index) if isinstance(index, tuple | list) else index
    fits = is_array(index) and jnp.shape(index) in ((), (1,), (y.shape[0],))
    if not fits or not jnp.issubdtype(jnp.result_type(index), jnp.integer):
        raise ValueError(f"{name}: expected an integer, or one for each of {y.shape[0]} images; got {described(index)}")
    if isinstance(index, jax.core.Tracer):
        _watch(index, name=name, size=size)
    elif not np.all(_inside(np.asarray(index), size)):
        raise ValueError(_text(name, size, index))
    return jnp.asarray(index)


def _inside(index: Any, size: int) -> Any:
    return (index >= 0) & (index < size)


# Under jit, so that JAX caches the callback: a new one would compile the same function again.
@functools.partial(jax.jit, static_argnames=("name", "size"))
def _watch(index: jax.Array, name: str, size: int) -> None:
    jax.debug.callback(functools.partial(_warn, name, size), index)


def _warn(name: str, size: int, index: Array | np.ndarray) -> None:
    if not np.all(_inside(np.asarray(index), size)):
        warn(_text(name, size, index) + "; the seed is NaN", RuntimeWarning)


def _text(name: str, size: int, index: object) -> str:
    return f"{name}: expected 0 to {size - 1}, got {index}"
