"""LRP-γ, for inputs of both signs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import jax.numpy as jnp

from zfjax.transform.equations import Down, Equation, Input
from zfjax.transform.relevance.layers import layer
from zfjax.transform.relevance.shares import at_least_zero, divided


@dataclasses.dataclass(frozen=True)
class Gamma:
    """Shares of a layer's sum in which what has the sum's own sign counts 1 + γ times.

    With γ = 0 this is `Epsilon`, and for large γ and positive sums `ZPlus`.

    Attributes:
        gamma: 0 or more.
        stabilizer: added to the sums, away from zero.

    Paper: Montavon et al. 2019, section 10.2.3; for inputs of both signs Andéol et al. 2021, "Learning Domain Invariant
    Representations by Joint Wasserstein Distance Minimization", appendix.
    """

    gamma: float = 0.25
    stabilizer: float = 1e-6
    takes_inputs: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least_zero("gamma", self.gamma)
        at_least_zero("stabilizer", self.stabilizer)

    def __call__(self, equation: Equation, inputs: Sequence[Input]) -> Down:
        """Return the way down of an equation."""
        found, z = layer(equation, inputs), equation.fun(*(input.value for input in inputs))
        linear = z if found.bias is None else z - found.bias
        positive, _ = found.parts(1)
        # What is negative needs no product of its own: it counts only where the sum is negative, so nothing cancels.
        sums = {1: positive, -1: jnp.minimum(linear.astype(positive.dtype) - positive, 0)}
        pulls = {sign: found.parts(sign, whole=1.0, part=self.gamma)[1] for sign in sums}

        def down(signal: Any) -> Any:
            signal, below = signal.astype(z.dtype), []
            for sign, pull in pulls.items():
                total = z + self.gamma * (sums[sign] + found.added(sign)).astype(z.dtype)
                share = divided(signal, total, self.stabilizer)
                below.append(pull(jnp.where(z * sign > 0, share, jnp.zeros_like(z))))
            return below[0] + below[1]

        return down
