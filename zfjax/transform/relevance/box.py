"""LRP-z^B, for pixels between two bounds."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from zfjax.transform.equations import Down, Equation, Input
from zfjax.transform.relevance.layers import Layer, layer
from zfjax.transform.relevance.shares import at_least_zero, divided

Bound = float | tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Box:
    """Shares of how far the sum is above the least that pixels between two bounds could give. For the first layer.

    Attributes:
        low: the least that a pixel can be, for all channels or for each; None for the least of the image at hand.
        high: the largest; None for the largest of the image at hand.
        stabilizer: added to the sums.

    Paper: Montavon et al. 2017, "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", section
    4.1 ("z^B-rule").
    """

    low: Bound | None = None
    high: Bound | None = None
    stabilizer: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_zero("stabilizer", self.stabilizer)

    def __call__(self, equation: Equation, inputs: Sequence[Input]) -> Down:
        """Return the way down of an equation."""
        found = layer(equation, inputs)
        lowest, highest = (_bound(name, getattr(self, name), found, least) for name, least in _BOUNDS.items())
        positive = jnp.maximum(found.kernel, 0)
        z, whole = found.slopes(found.x, found.kernel)
        low, part = found.slopes(lowest, positive)
        high, _ = found.slopes(highest, found.kernel - positive)

        def down(signal: Any) -> Any:
            share = divided(signal, z - low - high, self.stabilizer)
            slope, positive_slope = whole(share), part(share)
            return found.x * slope - lowest * positive_slope - highest * (slope - positive_slope)

        return down


_BOUNDS = {"low": jnp.min, "high": jnp.max}


def _bound(name: str, bound: Bound | None, found: Layer, least: Any) -> Any:
    """The bound shaped as x."""
    x, (batch, channels) = found.x, found.axes or (0, found.x.ndim - 1)
    if bound is None:
        rest = tuple(axis for axis in range(x.ndim) if axis != batch)
        return jnp.broadcast_to(least(x, axis=rest, keepdims=True), x.shape)
    numbers = jnp.asarray(bound, x.dtype)
    if numbers.ndim and numbers.shape != (x.shape[channels],):
        raise ValueError(f"{name}: expected a number, or one for each of the {x.shape[channels]} channels, got {bound}")
    shape = [x.shape[axis] if axis == channels else 1 for axis in range(x.ndim)] if numbers.ndim else [1] * x.ndim
    return jnp.broadcast_to(numbers.reshape(shape), x.shape)
