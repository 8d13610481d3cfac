"""Reading jaxprs: what calls what, which variables depend on which, what is zero.

Zeros are followed so that `jnp.maximum(x, jnp.zeros_like(x))` is seen to be a ReLU: `zeros` is a set of variables known
to be all zero.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

Equation = Any  # JaxprEqn, Var and Atom are public only as what jaxprs hold
Variable = Any
Atom = Any

# Equations that only call a jaxpr, with inputs one to one: what they do can be done in place.
CALLS = frozenset(
    ("jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2", "custom_jvp_call", "custom_vjp_call")
)
_KEEP_ZERO = frozenset(("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze"))


def name(equation: Equation, zeros: set[Variable]) -> str:
    """What rules call an equation: the jitted function's name, the primitive's, or `relu` for a maximum with zero."""
    kind = equation.primitive.name
    if kind in ("jit", "pjit"):
        return equation.params["name"]
    if kind == "max" and any(is_zero(atom, zeros) for atom in equation.invars):
        return "relu"
    return kind


def live(jaxpr: jex.Jaxpr) -> list[Equation]:
    """The equations that the outputs need, and those with effects."""
    needed = set(variables(jaxpr.outvars))
    kept = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(variables(equation.invars))
            kept.append(equation)
    return kept[::-1]


def called(equation: Equation, zeros: set[Variable]) -> Iterator[tuple[jex.Jaxpr, set[Variable]]]:
    """The jaxprs inside an equation, each with those of its inputs that are known to be zero."""
    for param in equation.params.values():
        for value in param if isinstance(param, tuple | list) else (param,):
            if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
                inner = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
                passes = equation.primitive.name in CALLS
                atoms = zip(inner.invars, equation.invars, strict=True) if passes else ()
                yield inner, {v for v, atom in atoms if is_zero(atom, zeros)}


def body(equation: Equation) -> jex.ClosedJaxpr:
    """The jaxpr that one of `CALLS` calls."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())


def spread(equation: Equation, active: set[Variable], zeros: set[Variable]) -> None:
    """Adds the equation's outputs to `active` (floats that depend on one of these) and to `zeros`."""
    if not active.isdisjoint(variables(equation.invars)):
        active.update(v for v in equation.outvars if jnp.issubdtype(v.aval.dtype, jnp.inexact))
    if equation.primitive.name in _KEEP_ZERO and is_zero(equation.invars[0], zeros):
        zeros.update(equation.outvars)


def is_zero(atom: Atom, zeros: set[Variable]) -> bool:
    """Whether a variable or literal is known to be all zero."""
    if isinstance(atom, jex.Literal):
        return np.ndim(atom.val) == 0 and bool(atom.val == 0)
    return atom in zeros


def variables(atoms: Iterable[Atom]) -> Iterator[Variable]:
    """The variables among variables and literals."""
    return (atom for atom in atoms if not isinstance(atom, jex.Literal))


def piece(jaxpr: jex.Jaxpr, equations: list[Equation], inputs: list[Variable], outputs: list[Variable]) -> jex.Jaxpr:
    """Some of the equations of `jaxpr` as a jaxpr of their own."""
    return jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=equations)


def evaluate(jaxpr: jex.Jaxpr, values: Sequence[Any]) -> list[jax.Array]:
    """The outputs of a jaxpr without constants."""
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, ()))(*values)
