"""Compiled programs, looked up by what they compute: the equations of their jaxpr, whichever function it came from."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
from jaxtyping import PyTree

from zfjax.ops.arguments import kept
from zfjax.transform import constants, forms, jaxprs

KEPT = 128  # programs; the least recently used one goes first


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
        return jax.tree.unflatten(self.out, _compiled(self.program)([*self.consts, *values]))


def trace(fun: Callable, values: Sequence[Any], place: Callable[[PyTree], PyTree] = lambda arrays: arrays) -> Trace:
    """Trace a function of arrays.

    Args:
        fun: from arrays to a pytree. Pass a new object each time: JAX caches traces by identity.
        values: the arrays, or others of the same shapes and dtypes.
        place: puts the arrays that the function reads on the devices that need them.
    """
    closed, out = jax.make_jaxpr(fun, return_shape=True)(*values)
    if constants.are_inside(closed.jaxpr):
        whole = functools.partial(constants.moved_out, closed)
        closed = jax.make_jaxpr(lambda *values: whole(values))(*values)
    consts = place(list(map(kept, closed.consts)))
    differentiable = any(isinstance(value, jax.core.Tracer) for value in (*values, *consts))
    freed = jaxprs.constants_as_inputs(closed.jaxpr)  # a cached program must not keep them alive
    return Trace(Program(freed, differentiable), consts, jax.tree.structure(out))


# Bounded: a compiled program takes megabytes, and JAX would keep thousands.
@functools.lru_cache(maxsize=KEPT)
def _compiled(program: Program) -> Callable[[list[Any]], list[jax.Array]]:
    @jax.jit
    def run(values: list[Any]) -> list[jax.Array]:
        return jaxprs.evaluate(program.jaxpr, (), values)

    return run
