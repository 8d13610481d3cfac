"""Reading jaxprs: what equations are called, what they call, what depends on the input."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np

from zfjax.ops.platforms import by_platform_p, default_form
from zfjax.transform import curves

Equation = Any  # JaxprEqn, Var and Atom have no public names
Variable = Any
Atom = Any

_JITS = frozenset(("jit", "pjit"))
_CUSTOM = frozenset(("custom_jvp_call", "custom_vjp_call"))
# Equations that only call a jaxpr, with inputs one to one, so that they can be evaluated in place. A clamp counts as a
# call of a maximum and a minimum, and a choice by platform as one of its default form.
CALLS = _JITS | _CUSTOM | {"by_platform", "clamp", "closed_call", "core_call", "checkpoint", "eval_jaxpr", "remat2"}


class Part(NamedTuple):
    """Equations of a jaxpr that together are a function of one value with a name.

    Attributes:
        name: what rules call it.
        equations: in order; the last gives its result, and nothing else needs those before.
        layer: of a linear layer its number, from 0, and how many there are.
        nonnegative: whether the value is known to have no negative numbers.
    """

    name: str
    equations: list[Equation]
    layer: tuple[int, int] | None = None
    nonnegative: bool = False


class View:
    """What is known about a jaxpr before it is evaluated; it holds the views of all jaxprs inside.

    A function that is called twice has two views: what its equations mean may depend on where it is called.

    Attributes:
        closed: the jaxpr and its constants.
        active: floating-point variables on a path from input to output; a stop_gradient ends a path.
        inner: the views of the jaxprs that an equation holds, in order, by the id of the equation.
        roles: what `rectifiers.recognize` found equations to be, by their id.
        parts: what `parts.recognize` found several to be together, by the id of the last; the largest first.
        scopes: of `jax.named_scope` around the call of this jaxpr, outermost first.
    """

    def __init__(
        self, closed: jex.ClosedJaxpr, active: Iterable[bool], wanted: Iterable[bool], scopes: tuple[str, ...] = ()
    ):
        """Read a jaxpr; `active` and `wanted` mark its inputs and outputs."""
        self.closed, self.scopes = closed, scopes
        self.active = {v for v, is_active in zip(self.jaxpr.invars, active, strict=True) if is_active}
        self.inner: dict[int, list[View]] = {}
        self.roles: dict[int, str] = {}
        self.parts: dict[int, list[Part]] = {}
        outputs = (atom for atom, is_wanted in zip(self.jaxpr.outvars, wanted, strict=True) if is_wanted)
        reaching = set(variables(outputs))
        for equation in reversed(self.jaxpr.eqns):
            reaches = _uses_reference(equation) or not reaching.isdisjoint(equation.outvars)
            if equation.primitive.name != "stop_gradient" and reaches:
                reaching.update(variables(equation.invars))
        for equation in self.jaxpr.eqns:
            stops = equation.primitive.name == "stop_gradient"
            if not stops and (_uses_reference(equation) or not self.active.isdisjoint(variables(equation.invars))):
                self.active.update(v for v in equation.outvars if _is_float(v) and v in reaching)
            if views := self._open(equation, reaching):
                self.inner[id(equation)] = views

    @property
    def jaxpr(self) -> jex.Jaxpr:
        """The jaxpr alone."""
        return self.closed.jaxpr

    def is_active(self, equation: Equation) -> bool:
        """Whether a signal passes down through it."""
        return not self.active.isdisjoint(equation.outvars)

    def carries(self, atom: Atom) -> bool:
        """Whether a variable or literal is active."""
        return not isinstance(atom, jex.Literal) and atom in self.active

    def inside(self, equation: Equation) -> "list[View]":
        """Views of the jaxprs that an equation holds; unless it is in `CALLS`, all inputs count as active."""
        return self.inner.get(id(equation), [])

    def is_call(self, equation: Equation) -> bool:
        """Whether it only calls a jaxpr, so that it can be evaluated in place."""
        return equation.primitive.name in CALLS

    def reads(self, equations: Sequence[Equation]) -> list[Variable]:
        """The variables that equations read and none of them makes, each once."""
        made = {v for equation in equations for v in equation.outvars}
        used = (v for equation in equations for v in variables(equation.invars))
        return [v for v in dict.fromkeys(used) if v not in made]

    def scopes_of(self, equation: Equation) -> tuple[str, ...]:
        """The scopes of `jax.named_scope` around an equation, outermost first."""
        return (*self.scopes, *_scopes(equation))

    def name(self, equation: Equation) -> str:
        """Of an equation alone: its role, the jitted function that it calls, or its primitive."""
        kind = equation.primitive.name
        if id(equation) in self.roles:
            return self.roles[id(equation)]
        if kind not in _JITS:
            return kind
        name = equation.params["name"]
        if name == "relu" and any(view.has_roles() for view in self.inside(equation)):
            return kind  # what was found inside says more than the name
        if name in curves.NAMES and not self._is_of_one_value(equation):
            return kind
        if name in curves.NAMES and any(view.has_part(name) for view in self.inside(equation)):
            return kind
        return kind if hasattr(jex.primitives, f"{name}_p") else name  # no function may pose as a primitive

    def has_roles(self) -> bool:
        """Whether an equation inside has a role."""
        return bool(self.roles) or any(view.has_roles() for views in self.inner.values() for view in views)

    def has_part(self, name: str) -> bool:
        """Whether there is a part of this name inside."""
        within = (view.has_part(name) for views in self.inner.values() for view in views)
        return any(part.name == name for parts in self.parts.values() for part in parts) or any(within)

    def _is_of_one_value(self, equation: Equation) -> bool:
        return len({v for v in equation.invars if self.carries(v)}) == len(equation.outvars) == 1

    def _open(self, equation: Equation, reaching: set[Variable]) -> "list[View]":
        if equation.primitive.name in CALLS:
            wanted = [v in reaching for v in equation.outvars]
            return [View(body(equation), map(self.carries, equation.invars), wanted, self.scopes_of(equation))]
        views = []
        for param in equation.params.values():
            for value in param if isinstance(param, tuple | list) else (param,):
                if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr):
                    inner = value if isinstance(value, jex.ClosedJaxpr) else jex.ClosedJaxpr(value, ())
                    floats = map(_is_float, inner.jaxpr.invars)
                    views.append(View(inner, floats, [True] * len(inner.jaxpr.outvars), self.scopes_of(equation)))
        return views


def is_custom(equation: Equation) -> bool:
    """Whether it calls a function with a custom derivative."""
    return equation.primitive.name in _CUSTOM


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
    if equation.primitive.name == "clamp":
        types = (jax.ShapeDtypeStruct(atom.aval.shape, atom.aval.dtype) for atom in equation.invars)
        return jax.make_jaxpr(lambda low, x, high: jax.lax.min(jax.lax.max(x, low), high))(*types)
    if equation.primitive is by_platform_p:
        return default_form(equation.params)
    inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
    return inner if isinstance(inner, jex.ClosedJaxpr) else jex.ClosedJaxpr(inner, ())


def variables(atoms: Iterable[Atom]) -> Iterator[Variable]:
    """The variables among variables and literals."""
    return (atom for atom in atoms if not isinstance(atom, jex.Literal))


def piece(jaxpr: jex.Jaxpr, equations: list[Equation], inputs: list[Variable], outputs: list[Variable]) -> jex.Jaxpr:
    """Some of the equations of `jaxpr` as a separate jaxpr."""
    return jaxpr.replace(constvars=[], invars=inputs, outvars=outputs, eqns=equations)


def constants_as_inputs(jaxpr: jex.Jaxpr) -> jex.Jaxpr:
    """The jaxpr with its constants as its first inputs."""
    return piece(jaxpr, jaxpr.eqns, [*jaxpr.constvars, *jaxpr.invars], jaxpr.outvars)


def evaluate(jaxpr: jex.Jaxpr, consts: Sequence[Any], values: Sequence[Any]) -> list[jax.Array]:
    """The outputs of a jaxpr."""
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*values)


def is_reference(variable: Variable) -> bool:
    """Whether it is a mutable array, which one equation may write and another read."""
    return hasattr(variable.aval, "inner_aval")


def is_written(jaxpr: jex.Jaxpr, reference: Variable) -> bool:
    """Whether an equation may do more with a mutable array than read it."""
    return any(equation.primitive.name != "get" for equation in jaxpr.eqns if reference in variables(equation.invars))


def _scopes(equation: Equation) -> list[str]:
    stack = getattr(equation.source_info.name_stack, "stack", ())
    scopes: list[str] = []
    for entry in stack:
        if type(entry).__name__ != "Scope":  # a transformation or a jitted function
            continue
        module, dot, _ = entry.name.partition(".")
        if not (dot and scopes and scopes[-1] == module):  # Linen's name of a module's method
            scopes.extend(part for part in entry.name.split("/") if part)
    return scopes


def _uses_reference(equation: Equation) -> bool:
    return any(map(is_reference, variables(equation.invars)))


def _is_float(variable: Variable) -> bool:
    return jnp.issubdtype(getattr(variable.aval, "dtype", np.dtype(bool)), jnp.inexact)
