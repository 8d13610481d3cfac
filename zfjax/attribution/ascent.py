"""What activation maximization in all its forms shares: which units, and the way up to them from pictures."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from zfjax.attribution.targets import Number, as_one_class
from zfjax.ops.windows import Pair
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject
from zfjax.transform.equations import Down, Equation, Input, only, takes_inputs
from zfjax.transform.rules import Rules

Units = int | np.integer | Sequence[int] | Int[Array | np.ndarray, " k"] | Number

# Of the steps, in which ReLUs pass the signal as if they were not there, much as in Lucid: most rectified units are
# silent on noise, and have no gradient there.
LINEAR_SHARE = 0.1


def uphill(
    fun: Callable, images: Float[Array, "n h w c"], units: Int[Array, " n"], linear: Bool[Array, ""], *, center: bool
) -> Float[Array, "n h w c"]:
    """The gradient of each image's unit, scaled to root mean square 1.

    Args:
        fun: to activations [n, units] or [n, h, w, units].
        images: as `fun` takes them.
        units: one of each image.
        linear: whether to go up as if there were no ReLUs.
        center: of a map its center cell, else the sum of its cells.
    """

    @takes_inputs
    def relu(equation: Equation, inputs: Sequence[Input]) -> Down:
        passed = (only(equation, inputs) > 0) | linear
        return lambda signal: jnp.where(passed, signal, jnp.zeros_like(signal))

    activations, project = backproject(fun, images, Rules((("relu", relu),)))
    places = tuple(length // 2 if center else slice(None) for length in activations.shape[1:-1])
    here = jnp.zeros(activations.shape[1:-1], activations.dtype).at[places].set(1)
    chosen = jax.nn.one_hot(units, activations.shape[-1], dtype=activations.dtype)
    gradient = project(here[None, ..., None] * chosen.reshape(len(units), *(1,) * here.ndim, -1))
    size = jnp.sqrt(jnp.mean(gradient**2, axis=(1, 2, 3), keepdims=True))
    return gradient / jnp.where(size > 0, size, jnp.ones_like(size))


def asked_units(fun: Callable, units: Units, size: Pair, channels: int) -> tuple[Callable, Int[Array, " k"]]:
    """A function with units, and which of these, checked: raises a ValueError as `maximize` says."""
    outputs = _outputs(fun, size, channels)
    if callable(units):
        fun, units = as_one_class(fun, _picture(size, channels), units, "pictures", has_slope=True), 0
        outputs = functions.output_of(fun, _picture(size, channels))
    return fun, _checked_units(units, _activations(outputs))


def _picture(size: Pair, channels: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct((1, *size, channels), jnp.float32)


def _outputs(fun: Callable, size: Pair, channels: int) -> PyTree:
    """What `fun` gives for one picture."""

    def of(channels: int) -> Any:
        return functions.output_of(fun, _picture(size, channels))

    try:
        return of(channels)
    except Exception as error:  # of any library
        for other in (1, 3, 4):
            if other != channels and _works(of, other):
                raise ValueError(
                    f"channels: fun takes pictures of {other}, not of {channels}; say channels={other}"
                ) from error
        raise


def _activations(outputs: PyTree) -> jax.ShapeDtypeStruct:
    shape = getattr(outputs, "shape", None)
    if shape is None or len(shape) not in (2, 4) or shape[0] != 1:
        got = type(outputs).__name__ if shape is None else f"{list(shape)} of one image"
        raise ValueError(f"fun: expected activations [n, units] or [n, h, w, units], got {got}")
    return cast(jax.ShapeDtypeStruct, outputs)


def _works(function: Callable, *args: Any) -> bool:
    try:
        function(*args)
    except Exception:
        return False
    return True


def _checked_units(
    units: int | np.integer | Sequence[int] | Array | np.ndarray, activations: jax.ShapeDtypeStruct
) -> Int[Array, " k"]:
    shape = activations.shape
    found = units if isinstance(units, jax.Array) else np.asarray(units)
    if not jnp.issubdtype(found.dtype, jnp.integer) or found.ndim > 1 or not found.size:
        raise ValueError(f"units: expected numbers of units, one or [k], got {found.dtype}{list(found.shape)}")
    if not isinstance(found, jax.core.Tracer):
        wrong = [int(number) for number in np.atleast_1d(found) if not 0 <= number < shape[-1]]
        if wrong:
            raise ValueError(f"units: expected some of the {shape[-1]} units, 0 to {shape[-1] - 1}; got {wrong[0]}")
    return jnp.atleast_1d(jnp.asarray(found, jnp.int32))
