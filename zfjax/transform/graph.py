"""A program as one graph: the equations of a jaxpr and of all that it calls, with values shared across calls."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import jax.extend.core as jex

from zfjax.transform import jaxprs

Value = int  # what a variable holds; a call's inputs and outputs are the same values inside and outside
Path = tuple[int, ...]  # of an equation: its number, in what the equation before it calls


@dataclass(frozen=True, eq=False)
class Node:
    """An equation, called from one place of the program."""

    view: jaxprs.View
    equation: jaxprs.Equation
    path: Path
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]

    @property
    def kind(self) -> str:
        """The name of its primitive."""
        return str(self.equation.primitive.name)

    @functools.cached_property
    def scopes(self) -> tuple[str, ...]:
        """Those of `jax.named_scope`, which libraries open for their modules; outermost first."""
        return self.view.scopes_of(self.equation)


class Graph:
    """All equations that run once, in order; what is inside of loops and branches is not entered.

    Attributes:
        PASSED: names of primitives that give their inputs back, several at once, and are no nodes.
        nodes: the equations, except for those that only call a jaxpr.
        makers: which node makes a value.
        users: which nodes read a value.
        inputs: the values of the program's inputs.
        outputs: the values of its outputs.
        active: the floating-point values between the active inputs and the outputs.
        avals: shape and dtype of each value.
        sites: the outermost equation that gives a value, and as which of its outputs.
        constants: values that are known.
    """

    PASSED: frozenset[str] = frozenset()

    def __init__(self, view: jaxprs.View, known: Mapping[int, Any] = MappingProxyType({})):
        """Read a program; the view says which of its inputs are active, `known` what some of them are, by number."""
        self.nodes: list[Node] = []
        self.makers: dict[Value, Node] = {}
        self.users: defaultdict[Value, list[Node]] = defaultdict(list)
        self.active: set[Value] = set()
        self.avals: dict[Value, Any] = {}
        self.sites: dict[Value, tuple[Path, int]] = {}
        self.constants: dict[Value, Any] = {}
        self.inputs = [self._new(v) for v in view.jaxpr.invars]
        self.constants.update((self.inputs[number], constant) for number, constant in known.items())
        self.outputs = self._add(view, self.inputs, ())

    def _new(self, atom: jaxprs.Atom) -> Value:
        self.avals[len(self.avals)] = atom.aval
        return len(self.avals) - 1

    def _add(self, view: jaxprs.View, inputs: Sequence[Value], path: Path) -> list[Value]:
        """Add the equations of a jaxpr applied to some inputs; return its outputs."""
        values = dict(zip(view.jaxpr.invars, inputs, strict=True))
        for variable, constant in zip(view.jaxpr.constvars, view.closed.consts, strict=True):
            values[variable] = self._constant(variable, constant)

        def value(atom: jaxprs.Atom) -> Value:
            return self._constant(atom, atom.val) if isinstance(atom, jex.Literal) else values[atom]

        for number, equation in enumerate(view.jaxpr.eqns):
            read = tuple(map(value, equation.invars))
            here = *path, number
            if equation.primitive.name in jaxprs.CALLS:
                (inner,) = view.inside(equation)
                made = self._add(inner, read, here)
            elif equation.primitive.name in self.PASSED:
                made = list(read)
            else:
                made = [self._new(v) for v in equation.outvars]
                node = Node(view, equation, here, read, tuple(made))
                self.nodes.append(node)
                self.makers.update((output, node) for output in made)
                for input in dict.fromkeys(read):
                    self.users[input].append(node)
                self._enter(node)
            for index, output in enumerate(made):
                if output in self.makers and self.makers[output].path[: len(here)] == here:
                    self.sites[output] = here, index
            values.update(zip(equation.outvars, made, strict=True))
        self.active.update(value for v, value in values.items() if v in view.active)
        return list(map(value, view.jaxpr.outvars))

    def _enter(self, node: Node) -> None:
        """Add what is inside of a loop or branch, for graphs that have it."""

    def _constant(self, atom: jaxprs.Atom, constant: Any) -> Value:
        value = self._new(atom)
        self.constants[value] = constant
        return value
