"""Compiled programs, found again by what they compute: the equations of their jaxpr, whatever function these are of."""

import functools
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from zfjax.transform import jaxprs


class Program:
    """A jaxpr, equal to others that compute the same of their constants and inputs."""

    def __init__(self, jaxpr: jex.Jaxpr, differentiable: bool):
        """`differentiable`: derivatives may be asked of it, and so its custom derivatives count too."""
        self.jaxpr = jaxpr
        self._form = _form(jaxpr, differentiable)
        self._hash = hash(self._form)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self._form == other._form)


class Trace(NamedTuple):
    """A function as it was when it was traced: a program, and the arrays that it read."""

    program: Program
    consts: list[Any]
    out: jax.tree_util.PyTreeDef

    def __call__(self, values: Sequence[Any]) -> PyTree:
        """What it gives, by a program that is compiled once."""
        return jax.tree.unflatten(self.out, _run(self.program, self.consts, list(values)))


def trace(fun: Callable, values: Sequence[Any], place: Callable[[PyTree], PyTree] = lambda arrays: arrays) -> Trace:
    """Traces a function of arrays.

    Args:
        fun: from arrays to a pytree. It must be a new object each time: JAX keeps what it has traced, by identity.
        values: the arrays, or others of their shapes and types.
        place: puts the arrays that the function reads where they are needed.
    """
    closed, out = jax.make_jaxpr(fun, return_shape=True)(*values)
    if _holds_constants(closed.jaxpr):
        opened = functools.partial(_opened, closed)
        closed = jax.make_jaxpr(lambda *values: opened(values))(*values)
    consts = place([const if isinstance(const, jax.Array) else jnp.asarray(const) for const in closed.consts])
    differentiable = any(isinstance(value, jax.core.Tracer) for value in (*values, *consts))
    return Trace(Program(closed.jaxpr, differentiable), consts, jax.tree.structure(out))


@functools.partial(jax.jit, static_argnums=0)
def _run(program: Program, consts: list[Any], values: list[Any]) -> list[jax.Array]:
    return jaxprs.evaluate(program.jaxpr, consts, values)


def _holds_constants(jaxpr: jex.Jaxpr) -> bool:
    """Whether functions under `jax.jit` in it read arrays that are not their arguments."""
    calls = (jaxprs.body(equation) for equation in jaxpr.eqns if jaxprs.is_jit(equation))
    return any(call.consts or _holds_constants(call.jaxpr) for call in calls)


def _opened(closed: jex.ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr, going into such functions, so that their arrays become constants of the whole."""
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *values), strict=True))

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [jnp.asarray(atom.val) if isinstance(atom, jex.Literal) else env[atom] for atom in atoms]

    for equation in jaxpr.eqns:
        call = jaxprs.body(equation) if jaxprs.is_jit(equation) else None
        if call and (call.consts or _holds_constants(call.jaxpr)):
            found = _opened(call, read(equation.invars))
        else:
            reads = list(dict.fromkeys(jaxprs.variables(equation.invars)))
            piece = jaxprs.piece(jaxpr, [equation], reads, equation.outvars)
            found = jaxprs.evaluate(piece, (), read(reads))
        env.update(zip(equation.outvars, found, strict=True))
    return read(jaxpr.outvars)


def _form(jaxpr: jex.Jaxpr, differentiable: bool) -> Hashable:
    """All that a jaxpr computes, with numbers for its variables."""
    numbers: dict[Any, int] = {}

    def name(atom: Any) -> Hashable:
        if isinstance(atom, jex.Literal):
            return _value(atom.val, differentiable), atom.aval
        return numbers.setdefault(atom, len(numbers)), atom.aval

    inputs = tuple(map(name, (*jaxpr.constvars, *jaxpr.invars)))
    equations = tuple(
        (
            equation.primitive,
            tuple(map(name, equation.invars)),
            tuple(map(name, equation.outvars)),
            tuple((key, _value(param, differentiable)) for key, param in _params(equation, differentiable)),
            equation.ctx,
        )
        for equation in jaxpr.eqns
    )
    return inputs, equations, tuple(map(name, jaxpr.outvars))


def _params(equation: jaxprs.Equation, differentiable: bool) -> list[tuple[str, Any]]:
    """The parameters that matter: new functions hold a custom derivative each time."""
    params = list(equation.params.items())
    if equation.primitive.name in jaxprs.CALLS and not jaxprs.is_jit(equation) and not differentiable:
        return [(key, value) for key, value in params if isinstance(value, jex.Jaxpr | jex.ClosedJaxpr)]
    return params


def _value(value: Any, differentiable: bool) -> Hashable:
    """A parameter or constant, by value; by identity what cannot be hashed, or might be large and never changes."""
    inner = functools.partial(_value, differentiable=differentiable)
    if isinstance(value, jex.ClosedJaxpr):
        return _form(value.jaxpr, differentiable), tuple(map(inner, value.consts))
    if isinstance(value, jex.Jaxpr):
        return _form(value, differentiable)
    if isinstance(value, tuple | list):
        return type(value), tuple(map(inner, value))
    if isinstance(value, dict):
        return tuple((key, inner(part)) for key, part in value.items())
    if isinstance(value, jax.Array):
        return _Same(value)
    if isinstance(value, float) or hasattr(value, "__array__"):
        array = np.asarray(value)  # of floats, NaN equals itself, and 0 not -0
        return array.dtype, array.shape, array.tobytes()
    try:
        hash(value)
    except TypeError:
        return _Same(value)
    return value


class _Same:
    """Equal to itself alone, and keeps what it holds, so that nothing else is taken for it."""

    def __init__(self, value: Any):
        self._value = value

    def __hash__(self) -> int:
        return id(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self._value is other._value
