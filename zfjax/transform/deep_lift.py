"""Rules for DeepLIFT: where a derivative would be, the difference of values to those at a baseline.

The signal is a multiplier: how much the output differs for each unit that a value differs from its value at the
baseline. Through a function of one number it is Δy/Δx ("rescale"), through what is linear the weights. So Σ m·Δx is the
same at each depth, and at the pixels it is f(x) − f(baseline).

Where the rescale rule is not defined, the difference is shared out such that the sum still holds: a maximum by who has
it at either end, as Captum does; a product of two signals by its slopes halfway; other functions of two signals by
changing one after the other, in both orders; a softmax of attention by its derivative along the straight line.

Papers: Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences", section 3; for
both orders Lundberg & Lee 2017, "A Unified Approach to Interpreting Model Predictions".
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.transform import curves
from zfjax.transform.equations import Down, Equation, Input, only, takes_inputs
from zfjax.transform.relevance.passing import is_curve
from zfjax.transform.selection import Rules, Where

_NODES = 12  # of the integral along the line


def is_of_two(equation: Equation) -> bool:
    """Whether it makes each number from one number each of two signals, and is not linear."""
    linear = equation.kind in ("add", "add_any", "sub", "select_n")
    known = not equation.is_part and curves.is_known(equation.source[-1])
    return known and not linear and sum(equation.carrying) == 2


def is_nonlinear(equation: Equation) -> bool:
    """Whether it makes each number from one number of one signal, and has no derivative of its own that serves."""
    if not is_curve(equation):
        return False
    if equation.is_part or equation.kind != "div":
        return equation.is_part or equation.kind not in ("add", "add_any", "sub", "neg")
    (carrying,) = (v for v, carries in zip(equation.variables, equation.carrying, strict=True) if carries)
    return carrying is not equation.source[-1].invars[0]


@takes_inputs
def rescale(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Δy/Δx; the derivative where x is as at the baseline."""
    only(equation, inputs)
    ((x, start),) = _ends(equation, inputs)
    fun = _between(equation, inputs)
    y, pull = jax.vjp(lambda x: fun(1.0, x), x)
    before = fun(0.0, start)
    return lambda signal: [_quotient(signal * (y - before), x, start, pull(signal)[0])]


@takes_inputs
def maximum(equation: Equation, inputs: Sequence[Input]) -> Down:
    """What a maximum gains goes to whose value it is, what it loses to whose it was; a minimum the other way round."""
    x, start = _ends(equation, inputs)[0]
    y, pull = jax.vjp(equation.fun, x)
    before, pull_before = jax.vjp(equation.fun, start)
    gain, loss = jnp.maximum(y, before) - before, jnp.minimum(y - before, 0)
    now, then = (loss, gain) if equation.kind in ("reduce_min", "reduce_window_min") else (gain, loss)

    def down(signal: Any) -> Any:
        moved = pull(signal * now)[0] + pull_before(signal * then)[0]
        return [_quotient(moved, x, start, pull(signal)[0])]

    return down


@takes_inputs
def product(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Through a product of signals the slopes halfway; through one with weights these."""
    middle = [(x + start) / 2 for x, start in _ends(equation, inputs)]
    _, pull = jax.vjp(lambda *xs: _between(equation, inputs)(1.0, *xs), *middle)
    return pull


@takes_inputs
def in_turns(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Changing one of two signals, then the other, and the other way round: the mean of what each changes."""
    (a, b), (c, d) = _ends(equation, inputs)
    fun = _between(equation, inputs)
    both, first, second, neither = fun(1.0, a, c), fun(1.0, a, d), fun(1.0, b, c), fun(0.0, b, d)
    gains = (both - second + first - neither) / 2, (both - first + second - neither) / 2
    _, pull = jax.vjp(lambda *xs: fun(1.0, *xs), a, c)

    def down(signal: Any) -> Any:
        slopes = zip(gains, ((a, b), (c, d)), pull(signal), strict=True)
        return [_quotient(signal * gain, *ends, slope) for gain, ends, slope in slopes]

    return down


@takes_inputs
def along(equation: Equation, inputs: Sequence[Input]) -> Down:
    """The mean slope on the straight line from the baseline."""
    ((x, start),) = _ends(equation, inputs)
    change = jnp.where(x == start, jnp.zeros_like(x), x - start)  # where a mask is infinite
    places, weights = np.polynomial.legendre.leggauss(_NODES)
    fun = _between(equation, inputs)

    def down(signal: Any) -> Any:
        total = jnp.zeros_like(x)
        for place, weight in zip((1 + places) / 2, weights / 2, strict=True):
            y, pull = jax.vjp(lambda x: fun(1.0, x), start + jnp.asarray(place, x.dtype) * change)
            total += jnp.asarray(weight, x.dtype) * pull(signal.astype(y.dtype))[0]
        return [total]

    return down


DEEP_LIFT = Rules(
    (
        (Where(when=is_nonlinear), rescale),
        (Where(when=is_of_two), in_turns),
        *((name, product) for name in ("conv_general_dilated", "dot_general", "mul")),
        *((name, maximum) for name in ("reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min")),
        ("softmax", along),
    )
)


def _ends(equation: Equation, inputs: Sequence[Input]) -> list[tuple[Any, Any]]:
    """The values of the inputs that carry a signal, each with that at the baseline."""
    if any(input.baseline is None for input in inputs):
        raise ValueError(
            f"rule {equation.name!r}: expected values at a baseline, as zfjax.backproject(fun, x, rules, baseline=…)"
            " and zfjax.attribution.deep_lift give them"
        )
    return [(jnp.asarray(input.value), jnp.asarray(input.baseline)) for input in inputs if input.carries]


def _between(equation: Equation, inputs: Sequence[Input]) -> Any:
    """The equation as a function of what carries a signal; the rest is as at x, or for 0 as at the baseline."""

    def fun(end: float, *values: Any) -> Any:
        rest = iter(values)
        other = "value" if end else "baseline"
        return equation.fun(*(next(rest) if input.carries else getattr(input, other) for input in inputs))

    return fun


def _quotient(moved: Any, x: Any, start: Any, slope: Any) -> Any:
    """What moves for each unit of change of x; the slope where the change is nothing but rounding."""
    change = x - start
    tiny = jnp.finfo(x.dtype).eps * (jnp.abs(x) + jnp.abs(start))
    some = jnp.abs(change) > tiny
    quotient = moved.astype(x.dtype) / jnp.where(some, change, jnp.ones_like(change))
    return jnp.where(some, quotient, slope)
