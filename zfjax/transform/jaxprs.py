"""Reading jaxprs: what equations are called, what they call, what depends on the input."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
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
_LOOPS = frozenset(("cond", "scan"))


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

    def numbered(self, more: int) -> "Part":
        """The same with another number, if it is a layer."""
        return self._replace(layer=(self.layer[0] + more, self.layer[1])) if self.layer else self


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
        layers: of the body of a loop the number of its first linear layer, how many it has, and how many there are in
            all.
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
        self.layers = (0, 0, 0)
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
        """Views of the jaxprs that an equation holds; unless it is entered, all inputs count as active."""
        return self.inner.get(id(equation), [])

    def is_call(self, equation: Equation) -> bool:
        """Whether it only calls a jaxpr, so that it can be evaluated in place."""
        return equation.primitive.name in CALLS

    def is_entered(self, equation: Equation) -> bool:
        """Whether rules inside can act: of calls, of scans and of the branches of a cond."""
        return self.is_call(equation) or (
            equation.primitive.name in _LOOPS and equation.params.get("length", 1) > 0 and not _uses_reference(equation)
        )

    def later(self, iterations: int) -> "View":
        """The body of a loop as of another iteration: its layers have other numbers."""
        return self._numbered(iterations * self.layers[1])

    def _numbered(self, more: int) -> "View":
        view = copy.copy(self)
        view.layers = (self.layers[0] + more, *self.layers[1:])
        view.parts = {end: [part.numbered(more) for part in parts] for end, parts in self.parts.items()}
        view.inner = {of: [inner._numbered(more) for inner in views] for of, views in self.inner.items()}
        return view

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
        scopes = self.scopes_of(equation)
        if equation.primitive.name in CALLS:
            wanted = [v in reaching for v in equation.outvars]
            return [View(body(equation), map(self.carries, equation.invars), wanted, scopes)]
        if not self.is_entered(equation):
            return [
                View(inner, map(_is_float, inner.jaxpr.invars), [True] * len(inner.jaxpr.outvars), scopes)
                for inner in bodies(equation)
            ]
        if equation.primitive.name == "scan":
            return [self._scanned(equation)]
        active, wanted = list(map(self.carries, equation.invars[1:])), [True] * len(equation.outvars)
        return [View(branch, active, wanted, scopes) for branch in bodies(equation)]

    def _scanned(self, equation: Equation) -> "View":
        """The body of a scan; what is carried from one iteration to the next is active if it is in any of them."""
        fixed, carried = scanned(equation)
        (inner,), scopes = bodies(equation), self.scopes_of(equation)
        before, active = list[bool](), list(map(self.carries, equation.invars))
        while active != before:
            view = View(inner, active, [True] * len(equation.outvars), scopes)
            made = [False] * fixed + [view.carries(atom) for atom in inner.jaxpr.outvars[:carried]]
            before, active = active, [is_active or after for is_active, after in zip_longest(active, made)]
        return view


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


def bodies(equation: Equation) -> list[jex.ClosedJaxpr]:
    """The jaxprs that an equation holds, in order."""
    params = (param if isinstance(param, tuple | list) else (param,) for param in equation.params.values())
    held = (value for values in params for value in values if isinstance(value, jex.ClosedJaxpr | jex.Jaxpr))
    return [value if isinstance(value, jex.ClosedJaxpr) else jex.ClosedJaxpr(value, ()) for value in held]


def scanned(equation: Equation) -> tuple[int, int]:
    """How many inputs of a scan are the same in all iterations, and how many are carried from one to the next.

    The rest is cut up. Parameters have other names with every version of JAX; what is cut has one axis less inside.
    """
    (inner,) = bodies(equation)
    cut, piled = (
        sum(len(outer.aval.shape) > len(inner.aval.shape) for outer, inner in zip(*pairs, strict=True))
        for pairs in ((equation.invars, inner.jaxpr.invars), (equation.outvars, inner.jaxpr.outvars))
    )
    carried = len(equation.outvars) - piled
    return len(equation.invars) - cut - carried, carried


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
