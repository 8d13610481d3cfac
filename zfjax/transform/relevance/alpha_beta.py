"""LRP-αβ, and LRP-z⁺ as the case without β."""

import dataclasses
import functools
import operator
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from zfjax.transform.equations import Down, Equation, Evaluated, Input
from zfjax.transform.relevance.layers import layer
from zfjax.transform.relevance.shares import at_least_zero, divided


@dataclasses.dataclass(frozen=True)
class AlphaBeta:
    """Shares of what is positive in a layer's sum, times α, less shares of what is negative, times β.

    Positive are x·w of a positive x and weight, and those of a negative x and weight.

    Attributes:
        alpha: at least 1.
        beta: alpha − 1.
        stabilizer: added to the sums, away from zero.

    Paper: Bach et al. 2015, eq. 60.
    """

    alpha: float = 2.0
    beta: float = 1.0
    stabilizer: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_zero("beta", self.beta)
        at_least_zero("stabilizer", self.stabilizer)
        if self.alpha - self.beta != 1:
            raise ValueError(f"alpha and beta: expected alpha = beta + 1, got {self.alpha} and {self.beta}")

    def __call__(self, equation: Equation, inputs: Sequence[Input]) -> Down | Evaluated:
        """Return the way down of an equation, and its result if that is the sum of both sides."""
        found = layer(equation, inputs)
        sides = [(self.alpha, 1), *([(-self.beta, -1)] if self.beta else [])]
        summed = [(factor, sign, *found.parts(sign)) for factor, sign in sides]

        def down(signal: Any) -> Any:
            sides = (
                factor * pull(divided(signal, z + found.added(sign), self.stabilizer))
                for factor, sign, z, pull in summed
            )
            return functools.reduce(operator.add, sides)

        expected = jax.eval_shape(equation.fun, *(input.value for input in inputs))
        if not self.beta or jnp.finfo(expected.dtype).bits < 32:  # each rounded, they may cancel to noise
            return down
        linear = functools.reduce(operator.add, (z for _, _, z, _ in summed))
        return Evaluated((linear if found.bias is None else linear + found.bias).astype(expected.dtype), down)


def ZPlus(stabilizer: float = 1e-6) -> AlphaBeta:
    """Shares of what is positive in a layer's sum: `AlphaBeta(1, 0)`.

    Paper: Montavon et al. 2017, "Explaining Nonlinear Classification Decisions with Deep Taylor Decomposition", section
    4.1, for inputs that are not negative.
    """
    return AlphaBeta(1.0, 0.0, stabilizer)
