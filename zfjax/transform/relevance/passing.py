"""Relevance through what is no layer: activations, products of signals, quotients."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp

from zfjax.transform import curves
from zfjax.transform.equations import Down, Equation, Input, takes_inputs
from zfjax.transform.relevance.shares import shared


def is_curve(equation: Equation) -> bool:
    """Whether it makes each number from one number of one signal, and does not only choose among them."""
    if sum(equation.carrying) != 1:
        return False
    moves = equation.kind in curves.CASTS or (equation.kind == "select_n" and equation.name == "select_n")
    return equation.name in curves.NAMES or (curves.is_known(equation.source[-1]) and not moves)


def is_layer(equation: Equation) -> bool:
    """Whether it is a linear layer."""
    return equation.layer is not None


@takes_inputs
def unchanged(equation: Equation, inputs: Sequence[Input]) -> Down:
    """All of it passes, whatever an activation makes of its input."""
    (x,) = (input.value for input in inputs if input.carries)
    return lambda signal: _summed_to(signal, x)


@takes_inputs
def product(equation: Equation, inputs: Sequence[Input]) -> Down:
    """A product of signals shares out equally among them; a factor that is none gets nothing.

    Paper: Achtibat et al. 2024, "AttnLRP", section 3.2.2, for products of matrices in attention.
    """
    values = [input.value for input in inputs if input.carries]
    if len(values) == 1:
        return unchanged(equation, inputs)
    down = shared(equation.of_signals(inputs), values, 0.0)
    return lambda signal: [part / len(values) for part in down(signal)]


@takes_inputs
def quotient(equation: Equation, inputs: Sequence[Input]) -> Down:
    """All goes to the numerator, as if the denominator, such as a standard deviation, were a constant."""
    numerator = equation.source[-1].invars[0]
    carried = [(v, i.value) for v, i in zip(equation.variables, inputs, strict=True) if i.carries]
    if len(carried) == 1:
        return unchanged(equation, inputs)
    return lambda signal: [_summed_to(signal, x) if v is numerator else jnp.zeros_like(x) for v, x in carried]


def _summed_to(signal: Any, x: Any) -> Any:
    """A signal summed over the axes along which x was repeated."""
    axes = tuple(axis for axis in range(x.ndim) if x.shape[axis] != signal.shape[axis])
    return jnp.sum(signal, axis=axes, keepdims=True) if axes else signal
