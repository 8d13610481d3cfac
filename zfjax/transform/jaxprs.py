"""Reading jaxprs: what equations are called, what they call, what depends on the input, what is zero."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

Equation = Any  # JaxprEqn, Var and Atom are public only as what jaxprs hold
Variable = Any
Atom = Any

_JITS = frozenset(("jit", "pjit"))
_CUSTOM = frozenset(("custom_jvp_call", "custom_vjp_call"))
# Equations that only call a jaxpr, with inputs one to one: what they do can be done in place.
CALLS = _JITS | _CUSTOM | {"closed_call", "core_call", "checkpoint", "remat2"}
_KEEP_ZERO = frozenset(("broadcast_in_dim", "convert_element_type", "copy", "reshape", "squeeze"))
_OF_STATISTICS = _KEEP_ZERO | {"add", "sub", "mul", "div", "neg", "square", "integer_pow"}


class View:
    """What can be said of a jaxpr's variables and equations before it is evaluated.

    Attributes:
        active: floating-point variables between the input and the output, not counting ways through a stop_gradient.
        zeros: variables known to be all zero, so that `jnp.maximum(x, jnp.zeros_like(x))` is seen to be a ReLU.
    """

    def __init__(self, jaxpr: jex.Jaxpr, active: set[Variable], zeros: set[Variable], custom: bool = False):
        """Reads `jaxpr`, of whose inputs some are active and some zero; `custom`: it has a derivative of its own."""
        self.active, self.zeros = set(active), set(zeros)
        self._custom = custom
        self._makers: dict[Variable, Equation] = {}
        self._equations = jaxpr.eqns
        reaching = set(variables(jaxpr.outvars))
        for equation in reversed(jaxpr.eqns):
            reaches = _uses_reference(equation) or not reaching.isdisjoint(equation.outvars)
            if equation.primitive.name != "stop_gradient" and reaches:
                reaching.update(variables(equation.invars))
        for equation in jaxpr.eqns:
            self._makers.update((v, equation) for v in equation.outvars)
            stops = equation.primitive.name == "stop_gradient"
            if not stops and (_uses_reference(equation) or not self.active.isdisjoint(variables(equation.invars))):
                self.active.update(v for v in equation.outvars if _is_float(v) and v in reaching)
            if equation.primitive.name in _KEEP_ZERO and self.is_zero(equation.invars[0]):
                self.zeros.update(equation.outvars)

    def is_active(self, equation: Equation) -> bool:
        """Whether a signal passes down through it."""
        return not self.active.isdisjoint(equation.outvars)

    def is_zero(self, atom: Atom) -> bool:
        """Whether a variable or literal is known to be all zero."""
        if isinstance(atom, jex.Literal):
            return np.ndim(atom.val) == 0 and bool(atom.val == 0)
        return atom in self.zeros

    def name(self, equation: Equation) -> str:
        """What rules call an equation: its primitive, the jitted function that it calls, or `relu`."""
        kind = equation.primitive.name
        if self._is_relu(kind, equation):
            return "relu"
        if kind in _JITS:
            name = equation.params["name"]
            return kind if hasattr(jex.primitives, f"{name}_p") else name  # no function passes for a primitive
        return kind

    def acting(self, rules: Iterable[str]) -> set[str]:
        """The rules among `rules` that would act somewhere in this jaxpr."""
        found: set[str] = set()
        for equation in filter(self.is_active, self._equations):
            name = self.name(equation)
            found.update([name] if name in rules else self.acting_inside(equation, rules))
        return found

    def acting_inside(self, equation: Equation, rules: Iterable[str]) -> set[str]:
        """The rules that would act inside an equation."""
        return set().union(*(view.acting(rules) for view in self.inside(equation)))

    def inside(self, equation: Equation) -> Iterator["View"]:
        """Views of the jaxprs that an equation holds; of what is not in `CALLS`, all inputs count as active."""
        kind = equation.primitive.name
        for param in equation.params.values():
            for value in param if isinstance(param, tuple | list) else (param,):
                if not isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
                    continue
                jaxpr = value.jaxpr if isinstance(value, jex.ClosedJaxpr) else value
                if kind in CALLS:
                    pairs = list(zip(jaxpr.invars, equation.invars, strict=True))
                    active = {v for v, atom in pairs if not isinstance(atom, jex.Literal) and atom in self.active}
                    zeros = {v for v, atom in pairs if self.is_zero(atom)}
                    alone = [inner.primitive.name for inner in jaxpr.eqns] == ["max"]  # a ReLU with its own derivative
                    custom = self._custom or (kind in _CUSTOM and not alone)
                    yield View(jaxpr, active, zeros, custom and equation.params.get("name") != "relu6")
                else:
                    yield View(jaxpr, set(filter(_is_float, jaxpr.invars)), set())

    def _is_relu(self, kind: str, equation: Equation) -> bool:
        """`jnp.maximum(x, 0)`, `jnp.where(x > 0, x, 0)`; not in functions like softplus, nor of a variance."""
        atoms = equation.invars
        if not _is_float(equation.outvars[0]) or self._custom:
            return False
        if kind == "max":
            others = [atom for atom in atoms if not self.is_zero(atom)]
            return len(others) < 2 and not any(map(self._is_statistic, others))
        if kind == "select_n" and len(atoms) == 3:
            return self._is_mask(atoms[0], atoms[2]) and self.is_zero(atoms[1])
        if kind in _JITS and equation.params["name"] == "_where" and len(atoms) == 3:
            return self._is_mask(atoms[0], atoms[1]) and self.is_zero(atoms[2])
        return False

    def _is_mask(self, atom: Atom, x: Atom) -> bool:
        """Whether `atom` says where x is positive."""
        maker = None if isinstance(atom, jex.Literal) else self._makers.get(atom)
        return bool(
            maker and maker.primitive.name in ("gt", "ge") and maker.invars[0] is x and self.is_zero(maker.invars[1])
        )

    def _is_statistic(self, atom: Atom) -> bool:
        """Whether `atom` is made of sums alone, as means and variances are: these are guarded by a maximum too."""
        maker = None if isinstance(atom, jex.Literal) else self._makers.get(atom)
        if maker is None:
            return False
        kind = maker.primitive.name
        if kind == "reduce_sum" or (kind in _JITS and maker.params["name"] in ("_mean", "_var", "mean", "var")):
            return True
        parts = list(variables(maker.invars))
        return kind in _OF_STATISTICS and bool(parts) and all(map(self._is_statistic, parts))


def zero_constants(closed: jex.ClosedJaxpr) -> set[Variable]:
    """The constants that are the zeros of a maximum, where they are known."""
    compared = {
        v for equation in closed.jaxpr.eqns if equation.primitive.name == "max" for v in variables(equation.invars)
    }
    return {
        v
        for v, value in zip(closed.jaxpr.constvars, closed.consts, strict=True)
        if v in compared and not isinstance(value, jax.core.Tracer) and not np.any(value)
    }


def live(jaxpr: jex.Jaxpr, outputs: Iterable[Atom]) -> list[Equation]:
    """The equations that `outputs` need, and those with effects."""
    needed = set(variables(outputs))
    kept = []
    for equation in reversed(jaxpr.eqns):
        if equation.effects or not needed.isdisjoint(equation.outvars):
            needed.update(variables(equation.invars))
            kept.append(equation)
    return kept[::-1]


def body(equation: Equation) -> jex.ClosedJaxpr:
    """The jaxpr that one of `CALLS` calls."""
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())


def variables(atoms: Iterable[Atom]) -> Iterator[Variable]:
    """The variables among variables and literals."""
    return (atom for atom in atoms if not isinstance(atom, jex.Literal))


def piece(jaxpr: jex.Jaxpr, equations: list[Equation], inputs: list[Variable], outputs: list[Variable]) -> jex.Jaxpr:
    """Some of the equations of `jaxpr` as a jaxpr of their own."""
    return jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=equations)


def evaluate(jaxpr: jex.Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[jax.Array]:
    """The outputs of a jaxpr."""
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*values)


def is_reference(variable: Variable) -> bool:
    """Whether it is a mutable array: what one equation writes there another may read."""
    return hasattr(variable.aval, "inner_aval")


def _uses_reference(equation: Equation) -> bool:
    return any(map(is_reference, variables(equation.invars)))


def _is_float(variable: Variable) -> bool:
    return jnp.issubdtype(getattr(variable.aval, "dtype", np.dtype(bool)), jnp.inexact)
