"""LRP-ε, and LRP-0 as its limit."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

from zfjax.transform.equations import Down, Equation, Input
from zfjax.transform.relevance.shares import at_least_zero, shared


@dataclasses.dataclass(frozen=True)
class Epsilon:
    """To each input its share of the sum: x·w / (z + ε sign z). For layers, and for anything else that adds up.

    ε takes some of the relevance where inputs nearly cancel out. A bias keeps its own share.

    Attributes:
        epsilon: 0 or more; with 0, LRP-0, which is gradient × input in a net of ReLUs.

    Paper: Bach et al. 2015, section 2.4, eq. 58.
    """

    epsilon: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_zero("epsilon", self.epsilon)

    def __call__(self, equation: Equation, inputs: Sequence[Input]) -> Down:
        """Return the way down of an equation."""
        return shared(equation.of_signals(inputs), [input.value for input in inputs if input.carries], self.epsilon)
