"""Compiled programs, looked up by what they compute: the equations of their jaxpr, whichever function it came from."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jaxtyping import PyTree

from zfjax.transform import forms, jaxprs


class Program:
    """A jaxpr that equals others that compute the same from their inputs."""

    def __init__(self, jaxpr: jex.Jaxpr, differentiable: bool):
        """`differentiable`: as in `forms.form`."""
        self.jaxpr = jaxpr
        self._form = forms.form(jaxpr, differentiable)
        self._hash = hash(self._form)

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Program) and self._form == other._form)


class Trace(NamedTuple):
    """A function as it was when traced: a program, and the arrays that it read."""

    program: Program
    consts: list[Any]
    out: jax.tree_util.PyTreeDef

    def __call__(self, values: Sequence[Any]) -> PyTree:
        """Run the program, which is compiled once."""
        return jax.tree.unflatten(self.out, _run(self.program, [*self.consts, *values]))


def trace(fun: Callable, values: Sequence[Any], place: Callable[[PyTree], PyTree] = lambda arrays: arrays) -> Trace:
    """Trace a function of arrays.

    Args:
        fun: from arrays to a pytree. Pass a new object each time: JAX caches traces by identity.
        values: the arrays, or others of the same shapes and dtypes.
        place: puts the arrays that the function reads on the devices that need them.
    """
    closed, out = jax.make_jaxpr(fun, return_shape=True)(*values)
    if _holds_constants(closed.jaxpr):
        opened = functools.partial(_opened, closed)
        closed = jax.make_jaxpr(lambda *values: opened(values))(*values)
    consts = place([const if isinstance(const, jax.Array) else jnp.asarray(const) for const in closed.consts])
    differentiable = any(isinstance(value, jax.core.Tracer) for value in (*values, *consts))
    jaxpr = closed.jaxpr
    # Constants as inputs: a cached program must not keep them alive.
    freed = jaxprs.piece(jaxpr, jaxpr.eqns, [*jaxpr.constvars, *jaxpr.invars], jaxpr.outvars)
    return Trace(Program(freed, differentiable), consts, jax.tree.structure(out))


@functools.partial(jax.jit, static_argnums=0)
def _run(program: Program, values: list[Any]) -> list[jax.Array]:
    return jaxprs.evaluate(program.jaxpr, (), values)


def _holds_constants(jaxpr: jex.Jaxpr) -> bool:
    """Whether any function under `jax.jit` in it reads arrays that are not its arguments."""
    calls = (jaxprs.body(equation) for equation in jaxpr.eqns if jaxprs.is_jit(equation))
    return any(call.consts or _holds_constants(call.jaxpr) for call in calls)


def _opened(closed: jex.ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr, entering such functions, so that their arrays become constants of the whole."""
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
