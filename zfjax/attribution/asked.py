"""The question that every lens answers: the score of a class, or any other number, as a function of the inputs."""

import reprlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, PRNGKeyArray, PyTree

from zfjax.attribution.targets import Number, as_one_class
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import described, floats
from zfjax.transform import functions

Fun = Callable[[Float[Array, "n ..."]], PyTree[Array]]
Class = int | np.integer | Sequence[int] | Int[Array | np.ndarray, ""] | Int[Array | np.ndarray, " n"]
Target = Class | Number


@shown_by_shape
class Asked(NamedTuple):
    """A lens's arguments, checked. A pytree, so that jitted functions take it whole."""

    fun: Callable[[Float[Array, "n ..."]], Float[Array, "n classes"]]  # from `functions.live`
    inputs: Float[Array, "n ..."]
    target: Int[Array | np.ndarray, " n"]


def asked(
    fun: Fun,
    inputs: Float[Array | np.ndarray, "n ..."],
    target: Target,
    *,
    name: str = "images",
    has_slope: bool = True,
) -> Asked:
    """Check the arguments that all lenses have in common.

    Args:
        fun: from inputs to logits [n, classes] before softmax, or to whatever `target` takes.
        inputs: what it takes.
        target: a class, one for all inputs or one per input; or a function from what `fun` returns to [n]. The answer
            then has a function with one class, this number.
        name: what to call the inputs in messages.
        has_slope: whether the lens needs the gradient of the number.

    Raises:
        TypeError: inputs that are not one array of floating-point numbers, or fun cannot be called.
        ValueError: fun does not return logits [n, classes], a class is out of range (checked only if `target` is
            not traced), or a function does not return [n] or has no gradient.
    """
    inputs, fun = floats(name, inputs), functions.live(fun)
    check_batch(inputs, name)
    if callable(target):
        one_class = as_one_class(fun, inputs, target, name, has_slope)
        return Asked(one_class, inputs, np.zeros(len(inputs), np.int32))
    n, classes = _logits(fun, inputs, name)
    numbers = target if isinstance(target, jax.Array) else np.asarray(target)
    if not jnp.issubdtype(numbers.dtype, jnp.integer) or numbers.shape not in ((), (n,)):
        got = f"{numbers.dtype}{list(numbers.shape)}"
        raise ValueError(f"target: expected a class, or one for each of the {n} {name}, or a function; got {got}")
    if isinstance(numbers, jax.core.Tracer):
        return Asked(fun, inputs, jnp.broadcast_to(numbers.astype(jnp.int32), (n,)))
    numbers = np.asarray(numbers)
    wrong = numbers[(numbers < 0) | (numbers >= classes)]
    if wrong.size:
        raise ValueError(f"target: expected one of the {classes} classes, 0 to {classes - 1}; got {wrong[0]}")
    # Left on the host: a program takes it along, while each operation by itself takes a GPU's host a fifth of a
    # millisecond.
    return Asked(fun, inputs, np.broadcast_to(numbers.astype(np.int32), (n,)))


def scores(asked: Asked) -> Float[Array, " n"]:
    """The target's logit, or number, of each input."""
    return picked(asked.fun(asked.inputs), asked.target)


def scores_and_gradients(asked: Asked) -> tuple[Float[Array, " n"], Float[Array, "n ..."]]:
    """The target's logit, or number, of each input, and its gradient, from one pass.

    This is the gradient of the sum over inputs. Since the function treats inputs independently, each gets its own.
    """
    logits, pull = jax.vjp(asked.fun, asked.inputs)
    (gradients,) = pull(one_hot(logits, asked.target))
    return picked(logits, asked.target), gradients


def one_hot(logits: Float[Array, "n classes"], target: Int[Array | np.ndarray, " n"]) -> Float[Array, "n classes"]:
    """The signal to send down: 1 at each input's target; NaN if a traced target is out of range."""
    hot = _is_target(logits, target)
    found = jnp.where(hot, jnp.ones((), logits.dtype), jnp.zeros((), logits.dtype))
    return jnp.where(hot.any(axis=1, keepdims=True), found, jnp.full((), jnp.nan, logits.dtype))


def picked(logits: Float[Array, "n classes"], target: Int[Array | np.ndarray, " n"]) -> Float[Array, " n"]:
    """The target's logit of each input; NaN if a traced target is out of range."""
    hot = _is_target(logits, target)
    found = jnp.where(hot, logits, jnp.zeros((), logits.dtype)).sum(axis=1)
    return jnp.where(hot.any(axis=1), found, jnp.full((), jnp.nan, logits.dtype))


def check_batch(inputs: Array, name: str) -> None:
    """Raise a ValueError for anything but one or more inputs [n, …]."""
    if inputs.ndim < 2 or not inputs.size:
        raise ValueError(f"{name}: expected a batch [n, …] of one or more, got {list(inputs.shape)}")


def sums(attributions: Float[Array, "n ..."]) -> Float32[Array, " n"]:
    """The sum of each image's attributions."""
    return attributions.astype(jnp.float32).sum(axis=tuple(range(1, attributions.ndim)))


def at_least_one(**numbers: int) -> None:
    """Raise a TypeError or ValueError naming the argument that is no whole number, or below 1."""
    for name, number in numbers.items():
        if not isinstance(number, int | np.integer):
            raise TypeError(f"{name}: expected a whole number of at least 1, got {reprlib.repr(number)}")
        if number < 1:
            raise ValueError(f"{name}: expected at least 1, got {number}")


def at_least_zero(**numbers: float) -> None:
    """Raise a TypeError or ValueError naming the argument that is no number, or negative."""
    for name, number in numbers.items():
        if not isinstance(number, int | float | np.number | jax.Array):
            raise TypeError(f"{name}: expected a number of 0 or more, got {reprlib.repr(number)}")
        if not number >= 0:  # as NaN is not
            raise ValueError(f"{name}: expected 0 or more, got {number}")


def require_key(key: PRNGKeyArray) -> None:
    """Raise a TypeError unless this is one of JAX's random keys."""
    try:
        jax.eval_shape(jax.random.fold_in, key, 0)
    except (TypeError, ValueError) as error:
        raise TypeError(f"key: expected one key, such as jax.random.key(0), got {described(key)}") from error


def _is_target(logits: Float[Array, "n classes"], target: Int[Array | np.ndarray, " n"]) -> Array:
    return target[:, None] == jnp.arange(logits.shape[1], dtype=jnp.int32)[None]


def _logits(fun: Fun, inputs: Array, name: str) -> tuple[int, int]:
    """The shape of `fun`'s logits, checked."""
    logits = functions.output_of(fun, inputs)
    shape = getattr(logits, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != len(inputs):
        got = type(logits).__name__ if shape is None else list(shape)
        raise ValueError(
            f"fun: expected logits [{len(inputs)}, classes] of {len(inputs)} {name}, got {got}; of other outputs, make"
            " target a function, such as lambda outputs: outputs[:, 3, 5, 7]"
        )
    return shape[0], shape[1]
