"""Signals met where a net is split: what arrives at each unit, and what passes through some of them alone.

The net stays whole, so that rules for its first or last layer, and layers across the split, are what they were.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Int

from zfjax.attribution.targets import OneClass
from zfjax.ops.arguments import described
from zfjax.transform import functions
from zfjax.transform.equations import Down, Equation, Input, takes_inputs
from zfjax.transform.places.cutting import Crossing

Units = int | np.integer | Sequence[int] | Int[Array | np.ndarray, "..."] | Bool[Array | np.ndarray, "..."]


class _Passing(functions.Fixed):
    """The function of a split, with something to meet in the middle."""

    def __call__(self, features: Callable, head: Callable, probe: Array, mask: Array, images: Array) -> Array:
        """The same as without."""
        found: Any = features(images)
        if isinstance(found, Crossing):
            return head(Crossing(zfjax_meet(found.at, probe, mask), tuple(map(zfjax_block, found.beside))))
        return head(zfjax_meet(found, probe, mask))


def passing(fun: Partial, probe: Array, mask: Array) -> Partial:
    """A joined function, also within a target's, that meets a probe and a mask where it is split."""
    if isinstance(fun.func, OneClass):
        inner, number = fun.args
        return Partial(fun.func, passing(inner, probe, mask), number)
    return Partial(_Passing(), *fun.args, probe, mask)


def features_of(fun: Partial) -> Callable:
    """The first part of a joined function, also within a target's."""
    return features_of(fun.args[0]) if isinstance(fun.func, OneClass) else fun.args[0]


@jax.jit
def zfjax_meet(y: Array, probe: Array, mask: Array) -> Array:
    """Y itself; by its rule the probe, which is zero, gets all of the signal, and y what passes the mask."""
    return jnp.where(mask, y + probe, y)


@takes_inputs
def _part_of_all(equation: Equation, inputs: Sequence[Input]) -> Down:
    *_, mask = (input.value for input in inputs)
    return lambda signal: [jnp.where(mask, signal, jnp.zeros_like(signal)), signal]


@jax.jit
def zfjax_block(y: Array) -> Array:
    """Y itself; by its rule no signal passes."""
    return y + jnp.zeros_like(y)


@takes_inputs
def _nothing(equation: Equation, inputs: Sequence[Input]) -> Down:
    return lambda signal: [jnp.zeros_like(signal)]


MEETING = ("zfjax_meet", _part_of_all), ("zfjax_block", _nothing)


def place_of(features: Callable, images: Array) -> jax.ShapeDtypeStruct:
    """The shape and type of the maps where a net is split."""
    found: Any = functions.output_of(features, images)
    shape = found.at if isinstance(found, Crossing) else found
    return jax.ShapeDtypeStruct(shape.shape, shape.dtype)


def mask_of(units: Units, place: jax.ShapeDtypeStruct) -> Array:
    """Which units of a place are meant, with as many axes as this. Raises a ValueError if there are no such units."""
    numbers = units if isinstance(units, jax.Array) else np.asarray(units)
    if numbers.dtype == np.bool_:
        shape = (1,) * (len(place.shape) - numbers.ndim) + numbers.shape
        if len(shape) != len(place.shape) or any(n not in (1, m) for n, m in zip(shape, place.shape, strict=True)):
            raise ValueError(f"units: expected booleans like the maps {list(place.shape)}, got {described(units)}")
        return jnp.asarray(numbers).reshape(shape)
    count = place.shape[-1]
    if not jnp.issubdtype(numbers.dtype, jnp.integer) or numbers.ndim > 1:
        raise ValueError(f"units: expected numbers of maps, 0 to {count - 1}, or booleans, got {described(units)}")
    if not isinstance(numbers, jax.core.Tracer):
        wrong = np.ravel(numbers)[(np.ravel(numbers) < 0) | (np.ravel(numbers) >= count)]
        if wrong.size:
            raise ValueError(f"units: expected some of the {count} maps, 0 to {count - 1}; got {wrong[0]}")
    chosen = jnp.isin(jnp.arange(count, dtype=jnp.int32), jnp.asarray(numbers, jnp.int32))
    return chosen.reshape((1,) * (len(place.shape) - 1) + (count,))
