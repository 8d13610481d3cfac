"""Jaxprs by value: what they compute, in a form that can be hashed and compared."""

import functools
from collections.abc import Hashable
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from zfjax.transform import jaxprs


def form(jaxpr: jex.Jaxpr, differentiable: bool) -> Hashable:
    """Everything a jaxpr computes; equal for jaxprs that compute the same from their constants and inputs.

    Args:
        jaxpr: its variables are identified by order of appearance.
        differentiable: it may be differentiated, so custom derivatives count too.
    """
    numbers: dict[Any, int] = {}

    def atom(atom: Any) -> Hashable:
        if isinstance(atom, jex.Literal):
            return _value(atom.val, differentiable), atom.aval
        return numbers.setdefault(atom, len(numbers)), atom.aval

    inputs = tuple(map(atom, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(atom, equation.invars)),
            tuple(map(atom, equation.outvars)),
            _params(jaxpr, equation, differentiable),
            equation.ctx,
        )
        for equation in jaxpr.eqns
    )
    return inputs, equations, tuple(map(atom, jaxpr.outvars))


def _params(jaxpr: jex.Jaxpr, equation: jaxprs.Equation, differentiable: bool) -> Hashable:
    """An equation's parameters.

    Functions next to a jaxpr say how to transform it: custom derivatives, a `jax.checkpoint` policy. Each trace creates
    new ones, and they compute nothing unless the jaxpr is transformed again.
    """
    params = equation.params
    if jaxprs.is_custom(equation):
        inside = tuple(_value(param, differentiable) for param in params.values() if _is_jaxpr(param))
        return inside, _derivative(jaxpr, equation) if differentiable else None
    aside = callable if not differentiable and any(map(_is_jaxpr, params.values())) else lambda param: False
    return tuple((key, _value(param, differentiable)) for key, param in params.items() if not aside(param))


def _derivative(jaxpr: jex.Jaxpr, equation: jaxprs.Equation) -> Hashable:
    """What an equation's custom derivative computes; if that cannot be determined, equal only to itself."""
    reads = list(dict.fromkeys(jaxprs.variables(equation.invars)))
    piece = jaxprs.piece(jaxpr, [equation], reads, equation.outvars)
    places = [place for place, variable in enumerate(reads) if _is_float(variable)]

    def pull(values: list[Any], signals: list[Any]) -> Any:
        def outputs(*moved: Any) -> list[Any]:
            all_values = [*values]
            for place, value in zip(places, moved, strict=True):
                all_values[place] = value
            found = jaxprs.evaluate(piece, (), all_values)
            return [one for one, variable in zip(found, equation.outvars, strict=True) if _is_float(variable)]

        return jax.vjp(outputs, *(values[place] for place in places))[1](signals)

    values, signals = (
        [jax.ShapeDtypeStruct(variable.aval.shape, variable.aval.dtype) for variable in variables]
        for variables in (reads, filter(_is_float, equation.outvars))
    )
    try:
        return _value(jax.make_jaxpr(pull)(values, signals), False)
    except Exception:  # the function may be anyone's
        return _Same(equation)


def _value(value: Any, differentiable: bool) -> Hashable:
    """A parameter or constant by value; by identity if it is large and immutable, or cannot be hashed."""
    inner = functools.partial(_value, differentiable=differentiable)
    if isinstance(value, jex.ClosedJaxpr):
        return form(value.jaxpr, differentiable), tuple(map(inner, value.consts))
    if isinstance(value, jex.Jaxpr):
        return form(value, differentiable)
    if isinstance(value, tuple | list):
        return type(value), tuple(map(inner, value))
    if isinstance(value, dict):
        return tuple((key, inner(part)) for key, part in value.items())
    if isinstance(value, jax.Array):
        return _Same(value)
    if isinstance(value, float) or hasattr(value, "__array__"):
        array = np.asarray(value)  # compared as bytes, NaN equals itself, and 0 differs from -0
        return array.dtype, array.shape, array.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


def _is_jaxpr(value: Any) -> bool:
    return isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)


def _is_float(variable: Any) -> bool:
    return jnp.issubdtype(variable.aval.dtype, jnp.floating)


class _Same:
    """Equal only to itself; it keeps its value alive, so that no new object can reuse its id."""

    def __init__(self, value: Any):
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value
