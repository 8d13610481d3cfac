"""Relevance through what is no layer: activations, products of signals, quotients, norms, softmaxes."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from zfjax.transform import curves
from zfjax.transform.equations import Down, Equation, Input, only, takes_inputs
from zfjax.transform.relevance.shares import divided, shared


def is_curve(equation: Equation) -> bool:
    """Whether it makes each number from one number of one signal, and does not only choose among them."""
    if sum(equation.carrying) != 1:
        return False
    if equation.is_part:
        return equation.name in curves.NAMES
    moves = equation.kind in curves.CASTS or (equation.kind == "select_n" and equation.name == "select_n")
    return curves.is_known(equation.source[-1]) and not moves


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


@takes_inputs
def normalization(equation: Equation, inputs: Sequence[Input]) -> Down:
    """All goes to what is scaled, as if one over its standard deviation were a constant.

    Paper: Achtibat et al. 2024, "AttnLRP", section 3.3.2, for layer norms.
    """
    read = equation.source[-1].invars
    carried = [(v, i.value) for v, i in zip(equation.variables, inputs, strict=True) if i.carries]
    return lambda signal: [
        _summed_to(signal, x).astype(x.dtype) if any(v is atom for atom in read) else jnp.zeros_like(x)
        for v, x in carried
    ]


@takes_inputs
def softmax(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Gradient × input of the softmax: x · (R − s ΣR), for logits x and weights s.

    Paper: Achtibat et al. 2024, "AttnLRP", section 3.3.1.
    """
    x = only(equation, inputs)
    weights, pull = jax.vjp(equation.of_signals(inputs), x)

    def down(signal: Any) -> Any:
        (slopes,) = pull(divided(signal.astype(weights.dtype), weights, 0.0))
        return jnp.where(slopes == 0, jnp.zeros_like(x), x * slopes)  # where a mask is infinite

    return down


def _summed_to(signal: Any, x: Any) -> Any:
    """A signal summed over the axes along which x was repeated."""
    axes = tuple(axis for axis in range(x.ndim) if x.shape[axis] != signal.shape[axis])
    return jnp.sum(signal, axis=axes, keepdims=True) if axes else signal
