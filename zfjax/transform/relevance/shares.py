"""How relevance is divided by the sum that it is a share of."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp


def divided(signal: Any, z: Any, epsilon: float) -> Any:
    """Divide a signal by z, with ε added to z away from zero; nothing where that is zero."""
    away = jnp.where(z < 0, jnp.asarray(-epsilon, z.dtype), jnp.asarray(epsilon, z.dtype))
    total = z + away
    some = total != 0
    return jnp.where(some, signal / jnp.where(some, total, jnp.ones_like(total)), jnp.zeros_like(signal))


def shared(fun: Callable[..., Any], xs: Sequence[Any], epsilon: float) -> Callable[[Any], list[Any]]:
    """The way down to the inputs of a function that is linear in each: to each its share x · ∂z/∂x of z."""
    z, pull = jax.vjp(fun, *xs)

    def down(signal: Any) -> list[Any]:
        slopes = pull(divided(signal.astype(z.dtype), z, epsilon))
        return [x * slope for x, slope in zip(xs, slopes, strict=True)]

    return down


def at_least_zero(name: str, number: float) -> None:
    """Raise a ValueError that names the number unless it is one, 0 or more."""
    if not (isinstance(number, int | float) and number >= 0):
        raise ValueError(f"{name}: expected a number of 0 or more, got {number!r}")
