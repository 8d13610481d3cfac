"""Questions other than a class: any function from a net's outputs to one number for each picture."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree

from zfjax.ops.arguments import described
from zfjax.transform import functions, jaxprs

Number = Callable[[Any], Float[Array, " n"]]


def as_one_class(
    fun: Callable, inputs: Float[Array, "n ..."] | jax.ShapeDtypeStruct, number: Number, name: str, has_slope: bool
) -> Partial:
    """Compose both into a function from inputs to [n, 1], which has one class: the number.

    Args:
        fun: from `functions.live`, from inputs to an array or a pytree of arrays.
        inputs: what it takes, or their shape.
        number: from what it returns, for however many inputs, to one number for each.
        name: what to call the inputs in messages.
        has_slope: whether the number has to have a gradient.

    Raises:
        TypeError: what a Flax Linen module without its variables raises.
        ValueError: it does not return one floating-point number for each input, or these have no gradient.
    """
    number, n = functions.live(number, name="target"), inputs.shape[0]
    outputs = functions.output_of(fun, inputs)
    found = functions.output_of(number, outputs)
    is_array = hasattr(found, "shape")
    if not is_array or not _is_one_each(found, n):
        got = f"{found.dtype}{list(found.shape)}" if is_array else type(found).__name__
        raise ValueError(
            f"target: expected a function from what fun returns to one floating-point number for each of the"
            f" {n} {name}, [{n}]; got {got}"
        )
    if has_slope and not _depends_smoothly(number, outputs):
        raise ValueError(
            "target: expected a function with a gradient; what it returns does not change smoothly with what fun"
            " returns, as after argmax, a comparison or stop_gradient"
        )
    return Partial(OneClass(), fun, number)


@dataclasses.dataclass(frozen=True)
class OneClass(functions.Fixed):
    """A function's outputs as logits of one class."""

    def __call__(self, fun: Callable, number: Number, inputs: Float[Array, "n ..."]) -> Float[Array, "n 1"]:
        """The numbers. Raises a ValueError unless there is one for each input."""
        found = number(fun(inputs))
        if not _is_one_each(found, len(inputs)):  # was right for another number of inputs
            raise ValueError(
                f"target: expected a function of however many images, as copies, steps and chunks are; of"
                f" {len(inputs)} it gives {described(found)}"
            )
        return found[:, None]


def _is_one_each(found: Any, n: int) -> bool:
    return found.shape == (n,) and jnp.issubdtype(found.dtype, jnp.floating)


def _depends_smoothly(number: Number, outputs: PyTree[jax.ShapeDtypeStruct]) -> bool:
    """Whether any gradient arrives where the outputs are, for some outputs."""
    leaves, tree = jax.tree.flatten(outputs)
    smooth = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]

    def gradients(signal: Array, leaves: list[Array]) -> list[Array]:
        def of(floats: list[Array]) -> Array:
            rest = iter(floats)
            mixed = [next(rest) if is_float else leaf for is_float, leaf in zip(smooth, leaves, strict=True)]
            return number(jax.tree.unflatten(tree, mixed))

        floats = [leaf for is_float, leaf in zip(smooth, leaves, strict=True) if is_float]
        return jax.vjp(of, floats)[1](signal)[0]

    jaxpr = jax.make_jaxpr(gradients)(functions.output_of(number, outputs), leaves).jaxpr
    signal = jaxpr.invars[0]
    reads = (equation.invars for equation in jaxprs.live(jaxpr, jaxpr.outvars))
    return any(signal is atom for atoms in (jaxpr.outvars, *reads) for atom in atoms)
