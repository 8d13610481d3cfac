"""LRP-flat and LRP-w²: shares that do not depend on the input, for the first layer."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from zfjax.transform.equations import Down, Equation, Input
from zfjax.transform.relevance.layers import Layer, layer
from zfjax.transform.relevance.shares import at_least_zero, divided


@dataclasses.dataclass(frozen=True)
class _ByWeights:
    stabilizer: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_zero("stabilizer", self.stabilizer)

    def __call__(self, equation: Equation, inputs: Sequence[Input]) -> Down:
        """Return the way down of an equation."""
        found = layer(equation, inputs)
        weights, bias = self._shares(found)
        z, pull = found.of(jnp.ones_like(found.x), weights)
        total = z if bias is None else z + bias
        return lambda signal: pull(divided(signal, total, self.stabilizer))

    def _shares(self, found: Layer) -> tuple[Any, Any]:
        """What stands for the layer's weights and bias."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Flat(_ByWeights):
    """Equal shares to all inputs of a layer's sum: a map as coarse as the filters.

    Attributes:
        stabilizer: added to the number of inputs.

    Paper: Lapuschkin et al. 2019, "Unmasking Clever Hans Predictors and Assessing What Machines Really Learn".
    """

    def _shares(self, found: Layer) -> tuple[Any, Any]:
        return jnp.ones_like(found.kernel), None


@dataclasses.dataclass(frozen=True)
class WSquare(_ByWeights):
    """Shares by the squares of the weights; a bias keeps its own.

    Attributes:
        stabilizer: added to the sums.

    Paper: Montavon et al. 2017, "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", section
    4.1.
    """

    def _shares(self, found: Layer) -> tuple[Any, Any]:
        return found.kernel**2, None if found.bias is None else found.bias**2
