"""What a rule gets, an equation with all its inputs, and what it returns, the way down.

A rule is a function `rule(equation, inputs) -> down`. It is called on the way up; `down` takes the signal at the
equation's output, shaped as that, and returns one for each input that carries a signal, in their order, shaped as
these. What `down` closes over, such as switches, is kept until then. `takes_inputs` marks a rule of this form; any
other function is a rule of one input, `rule(equation, x) -> down`, whose down returns the one signal itself. A rule
that has the equation's result anyway may return it too, as `Evaluated`.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from zfjax.transform import curves, jaxprs

Value = jax.Array | np.ndarray


class Input(NamedTuple):
    """One input of an equation: its value, whether a signal goes down to it, and its value at a baseline, if any."""

    value: Value
    carries: bool
    baseline: Value | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One equation of a function, or several that together have a name.

    Attributes:
        name: what rules call it: a primitive, a jitted function, or a part such as relu, gelu or convolution.
        source: the equations themselves, as JAX has them; the last gives the result.
        variables: of the inputs, in order. Literals are no inputs.
        carrying: for each input, whether it carries a signal.
        scopes: of `jax.named_scope`, which libraries open for their modules; outermost first.
        layer: its number among the function's linear layers, from 0, and how many there are; None if it is none.
        jaxpr: of the function in which it is.
        nonnegative: whether the one input that carries a signal is known to have no negative values.
    """

    name: str
    source: tuple[Any, ...]
    variables: tuple[Any, ...]
    carrying: tuple[bool, ...]
    scopes: tuple[str, ...]
    layer: tuple[int, int] | None
    jaxpr: Any
    nonnegative: bool = False

    @property
    def kind(self) -> str:
        """The name of the last equation's primitive."""
        return str(self.source[-1].primitive.name)

    @property
    def params(self) -> dict[str, Any]:
        """What the last equation does, as JAX says it."""
        return dict(self.source[-1].params)

    @property
    def is_part(self) -> bool:
        """Whether it has its name for what it computes, so that it may be several equations, with casts among them."""
        return self.name in PARTS

    def fun(self, *values: Any) -> Any:
        """The same as a function of its inputs' values: its result, or a list if there are several."""
        end = self.source[-1]
        piece = jaxprs.piece(self.jaxpr, list(self.source), list(self.variables), end.outvars)
        results = jaxprs.evaluate(piece, (), values)
        return results[0] if len(results) == 1 else results

    def of_signals(self, inputs: Sequence[Input]) -> Callable[..., Any]:
        """The same as a function of those inputs alone that carry a signal; the others are as they were."""

        def fun(*values: Any) -> Any:
            rest = iter(values)
            return self.fun(*(next(rest) if input.carries else input.value for input in inputs))

        return fun


PARTS = frozenset((*curves.NAMES, "attention", "convolution", "dense", "normalization", "softmax"))
Signals = Value | Sequence[Value]
Down = Callable[[jax.Array], Any]  # returns Signals


class Evaluated(NamedTuple):
    """What a rule may return in place of the way down alone, so that the result is not computed a second time."""

    result: Value
    down: Down


Rule = Callable[[Any, Any], Down | Evaluated]
_Rule = TypeVar("_Rule", bound=Rule)


class Activation(NamedTuple):
    """What a rule of one input gets for a part of a function, in place of an equation of JAX's.

    Attributes:
        name: such as gelu; see `Rules`.
        fun: the same as a function of x alone.
    """

    name: str
    fun: Callable[[Any], Any]


def takes_inputs(rule: _Rule) -> _Rule:
    """Mark a rule that takes all of an equation's inputs: `rule(equation, inputs)`.

    >>> @zfjax.rules.takes_inputs
    ... def in_halves(equation, inputs):
    ...     return lambda signal: [signal / 2 for input in inputs if input.carries]
    >>> rules = zfjax.GRADIENT.extend(add=in_halves)
    """
    rule.takes_inputs = True  # type: ignore[attr-defined]
    return rule


def in_full(rule: Rule) -> Rule:
    """A rule as one that takes all inputs."""
    return rule if getattr(rule, "takes_inputs", False) else functools.partial(_of_one_input, rule)


def only(equation: Equation, inputs: Sequence[Input]) -> Value:
    """The value of the one input that carries a signal.

    Raises:
        ValueError: there are several, or the equation has several outputs.
    """
    carried = [input.value for input in inputs if input.carries]
    outputs = len(equation.source[-1].outvars)
    if len(carried) != 1 or outputs != 1:
        raise ValueError(
            f"rule {equation.name!r}: expected a function with one input that depends on x and one output; got"
            f" {len(carried)} of {len(inputs)} inputs, and {outputs} outputs"
        )
    return carried[0]


def _of_one_input(rule: Rule, equation: Equation, inputs: Sequence[Input]) -> Down | Evaluated:
    x = only(equation, inputs)
    named = Activation(equation.name, equation.of_signals(inputs)) if equation.is_part else equation.source[-1]
    return rule(named, x)
