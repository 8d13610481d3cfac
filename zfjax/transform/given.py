"""What may be given to `backproject`: functions of one argument, floating-point arrays, a baseline like these."""

import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import keystr
from jaxtyping import PyTree

from zfjax.ops.arguments import described, is_array
from zfjax.transform import tape


def check_input(fun: Callable[[PyTree], PyTree], x: PyTree) -> None:
    """Raise a TypeError unless x holds floating-point arrays and the function takes x as its only argument."""
    leaves = jax.tree_util.tree_leaves_with_path(x)
    if not any(is_array(leaf) and is_float(leaf) for _, leaf in leaves):
        kinds = ", ".join(described(leaf) for _, leaf in leaves) or "nothing"
        raise TypeError(f"x: expected floating-point images [N, H, W, C] with the mean already subtracted, got {kinds}")
    for path, leaf in leaves:
        if not is_array(leaf):
            raise TypeError(f"x{keystr(path)}: expected an array, got {described(leaf)}; close over anything else")
    with contextlib.suppress(ValueError):  # some built-in functions do not say what they take
        signature = inspect.signature(fun, follow_wrapped=False)
        try:
            signature.bind(x)
        except TypeError as error:
            raise TypeError(f"fun: expected a function of x alone, such as lambda x: fun(x, more); {error}") from error


def besides_of(baseline: PyTree, x: PyTree) -> list[Any]:
    """The leaves of a baseline, checked."""
    shapes, expected = (jax.tree.map(tape.shape_of, tree) for tree in (baseline, x))
    if shapes != expected:
        raise ValueError(f"baseline: expected {expected} like x, got {shapes}")
    return list(map(tape.as_array, jax.tree.leaves(baseline)))


def is_float(value: Any) -> bool:
    """Whether an array or number is floating-point."""
    return jnp.issubdtype(value.dtype if hasattr(value, "dtype") else jnp.result_type(value), jnp.inexact)
