"""Scans and branches with rules inside: evaluated as they are on the way up, and once more on the way down.

What an iteration keeps for its way down is piled up as a scan piles up its results, so the program is as small as the
function's own. What is the same in all iterations is computed once before the scan, and kept once.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from zfjax.transform import jaxprs
from zfjax.transform.tape import Projection, Signal

Run = Callable[..., tuple[list[Any], Projection]]  # takes the values that a body reads
Pull = Callable[[list[Signal]], list[Signal]]


class Ends(NamedTuple):
    """Which outputs and inputs of an equation carry a signal."""

    above: tuple[bool, ...]
    below: tuple[bool, ...]


def evaluate(equation: jaxprs.Equation, runs: Sequence[Run], values: list[Any], ends: Ends) -> tuple[list[Any], Pull]:
    """Evaluate a scan or a cond.

    Args:
        equation: of JAX.
        runs: what to do in place of each of the jaxprs that it holds.
        values: its inputs.
        ends: where signals come from and go to.

    Returns:
        Its outputs, and the way down from those that carry a signal to the inputs that do; a pytree.
    """
    bodies = [_Body.of(run, held) for run, held in zip(runs, jaxprs.bodies(equation), strict=True)]
    if equation.primitive.name == "scan":
        return _scan(equation, bodies[0], values, ends)
    return _cond(bodies, values, ends)


class _Body(NamedTuple):
    """A jaxpr that gives what a loop's own does, and then all that its way down keeps.

    Attributes:
        closed: the jaxpr.
        size: the number of its own results.
        tree: of the `Projection` of which the rest are the leaves.
    """

    closed: jex.ClosedJaxpr
    size: int
    tree: jax.tree_util.PyTreeDef

    @classmethod
    def of(cls, run: Run, held: jex.ClosedJaxpr) -> "_Body":
        closed, (results, project) = jax.make_jaxpr(run, return_shape=True)(*(v.aval for v in held.jaxpr.invars))
        return cls(closed, len(results), jax.tree.structure(project))

    @property
    def kept(self) -> list[Any]:
        return list(self.closed.jaxpr.outvars[self.size :])


def _scan(equation: jaxprs.Equation, body: _Body, values: list[Any], ends: Ends) -> tuple[list[Any], Pull]:
    fixed, carried = jaxprs.scanned(equation)
    jaxpr, steps = body.closed.jaxpr, {name: equation.params[name] for name in ("length", "reverse", "unroll")}
    once, inside = _once(body, values[:fixed])
    pieces = dict(zip(jaxpr.invars[fixed + carried :], values[fixed + carried :], strict=True))
    new = [v for v in dict.fromkeys(jaxprs.variables(body.kept)) if v not in once and v not in pieces]
    outputs = [*jaxpr.outvars[: body.size], *new]
    piece = jaxprs.piece(jaxpr, inside, [*once, *jaxpr.invars[fixed:]], outputs)

    def step(carry: list[Any], pieces: list[Any]) -> tuple[list[Any], list[Any]]:
        made = jaxprs.evaluate(piece, (), [*once.values(), *carry, *pieces])
        return made[:carried], made[carried:]

    carry, piles = lax.scan(step, values[fixed : fixed + carried], list(pieces.values()), **steps)
    piled, rest = piles[: body.size - carried], piles[body.size - carried :]
    each = pieces | dict(zip(new, rest, strict=True))
    is_each = [_is_in(each, atom) for atom in body.kept]
    kept = [each[atom] if cut else _value(once, atom) for atom, cut in zip(body.kept, is_each, strict=True)]
    whole, cut = ([leaf for leaf, where in zip(kept, is_each, strict=True) if where == is_cut] for is_cut in (0, 1))
    down = _DownScan(body.tree, tuple(is_each), ends, fixed, carried, **steps)
    return [*carry, *piled], Partial(down, whole, cut)


def _once(body: _Body, constants: list[Any]) -> tuple[dict[Any, Any], list[jaxprs.Equation]]:
    """The values that are the same in all iterations, by variable, and the equations of which none are made."""
    jaxpr = body.closed.jaxpr
    fixed = len(constants)
    known = dict(zip([*jaxpr.constvars, *jaxpr.invars[:fixed]], [*body.closed.consts, *constants], strict=True))
    varying, before, inside = set(jaxpr.invars[fixed:]), [], []
    for equation in jaxpr.eqns:
        if equation.effects or not varying.isdisjoint(jaxprs.variables(equation.invars)):
            varying.update(equation.outvars)
            inside.append(equation)
        else:
            before.append(equation)
    read = {v for equation in inside for v in jaxprs.variables(equation.invars)} | {*jaxprs.variables(jaxpr.outvars)}
    made = [v for equation in before for v in equation.outvars if v in read]
    results = jaxprs.evaluate(jaxprs.piece(jaxpr, before, list(known), made), (), list(known.values()))
    once = known | dict(zip(made, results, strict=True))
    return {v: value for v, value in once.items() if v in read}, inside


class _DownScan(NamedTuple):
    """The way down through a scan, from the last iteration to the first."""

    tree: jax.tree_util.PyTreeDef
    is_cut: tuple[bool, ...]
    ends: Ends
    fixed: int
    carried: int
    length: int
    reverse: bool
    unroll: int | bool

    def __call__(self, whole: list[Any], cut: list[Any], signals: list[Signal]) -> list[Signal]:
        """Take what is kept of all iterations, what is kept of each, and the signals above."""
        shapes = self._projection(whole, cut).below
        at = range(self.fixed, self.fixed + self.carried)
        moving = [number for number, slot in enumerate(shapes.slots) if slot]
        summed, carried, pieces = (
            [number for number in moving if number in numbers]
            for numbers in (range(self.fixed), at, range(at.stop, len(shapes.slots)))
        )
        given = _by_number(self.ends.above, signals)

        def zeros(numbers: list[int]) -> dict[int, Signal]:
            return {i: jnp.zeros(shapes.leaves[i].shape, shapes.leaves[i].dtype) for i in numbers}

        def step(carry: Any, now: Any) -> Any:
            sums, signals = carry
            kept, piled = now
            project = self._projection(whole, kept)
            seeds = {number - self.fixed: signal for number, signal in signals.items()} | piled
            found = project(_filled(seeds, project))
            sums = {number: sums[number] + found[number] for number in summed}
            return (sums, {number: found[number] for number in carried}), {number: found[number] for number in pieces}

        start = zeros(carried)
        start |= {number: given[number - self.fixed] for number in carried if number - self.fixed in given}
        piled = {number: signal for number, signal in given.items() if number >= self.carried}
        (sums, first), piles = lax.scan(
            step, (zeros(summed), start), (cut, piled), self.length, reverse=not self.reverse, unroll=self.unroll
        )
        below = sums | first | piles
        return [below[number] for number, carries in enumerate(self.ends.below) if carries]

    def _projection(self, whole: list[Any], cut: list[Any]) -> Projection:
        fixed, each = iter(whole), iter(cut)
        leaves = [next(each) if is_cut else next(fixed) for is_cut in self.is_cut]
        return jax.tree.unflatten(self.tree, leaves)


def _cond(bodies: list[_Body], values: list[Any], ends: Ends) -> tuple[list[Any], Pull]:
    """The branches keep different things; those of one shape share a place."""
    index, *operands = values
    pool: list[Any] = []
    places = [_placed(body, pool) for body in bodies]

    def branch(body: _Body, places: list[int | None], *operands: Any) -> tuple[list[Any], list[Any]]:
        made = jaxprs.evaluate(body.closed.jaxpr, body.closed.consts, operands)
        kept = dict(zip(places, made[body.size :], strict=True))
        zeros = (jnp.zeros(aval.shape, aval.dtype) for aval in pool)
        return made[: body.size], [kept.get(place, zero) for place, zero in enumerate(zeros)]

    ups = [functools.partial(branch, body, places) for body, places in zip(bodies, places, strict=True)]
    outputs, kept = lax.switch(index, ups, *operands)
    read = {v for body in bodies for v in jaxprs.variables(body.kept)}
    inputs = list(zip(*(body.closed.jaxpr.invars for body in bodies), strict=True))
    held = [value if not read.isdisjoint(vs) else None for vs, value in zip(inputs, operands, strict=True)]
    sources = tuple(tuple(source) for source in map(_sources, bodies, places))
    return outputs, Partial(_DownCond(tuple(body.tree for body in bodies), sources, ends), index, held, kept)


def _placed(body: _Body, pool: list[Any]) -> list[int | None]:
    """A place in the pool for all that a branch keeps, but its inputs; the pool grows if necessary."""
    free, places = list(enumerate(pool)), list[int | None]()
    for atom in body.kept:
        if _is_in(body.closed.jaxpr.invars, atom):
            places.append(None)
            continue
        fitting = next(
            (pair for pair in free if (pair[1].shape, pair[1].dtype) == (atom.aval.shape, atom.aval.dtype)), None
        )
        if fitting is None:
            fitting = len(pool), atom.aval
            pool.append(atom.aval)
        else:
            free.remove(fitting)
        places.append(fitting[0])
    return places


def _sources(body: _Body, places: list[int | None]) -> list[tuple[bool, int]]:
    """For all that a branch keeps, whether it is one of its inputs, and the number among these or in the pool."""
    inputs = list(body.closed.jaxpr.invars)
    pairs = zip(body.kept, places, strict=True)
    return [(True, inputs.index(atom)) if place is None else (False, place) for atom, place in pairs]


class _DownCond(NamedTuple):
    """The way down through the branch that was taken."""

    trees: tuple[jax.tree_util.PyTreeDef, ...]
    sources: tuple[tuple[tuple[bool, int], ...], ...]
    ends: Ends

    def __call__(self, index: Any, inputs: list[Any], kept: list[Any], signals: list[Signal]) -> list[Signal]:
        given = _by_number(self.ends.above, signals)

        def down(tree: Any, sources: Any, inputs: list[Any], kept: list[Any], given: dict[int, Signal]) -> list[Signal]:
            leaves = [inputs[place] if is_input else kept[place] for is_input, place in sources]
            project = jax.tree.unflatten(tree, leaves)
            found = project(_filled(given, project))
            return [signal for signal, carries in zip(found, self.ends.below[1:], strict=True) if carries]

        downs = [functools.partial(down, *each) for each in zip(self.trees, self.sources, strict=True)]
        return lax.switch(index, downs, inputs, kept, given)


def _by_number(carries: Sequence[bool], signals: list[Signal]) -> dict[int, Signal]:
    numbers = (number for number, is_carrying in enumerate(carries) if is_carrying)
    return dict(zip(numbers, signals, strict=True))


def _filled(signals: dict[int, Signal], project: Projection) -> list[Signal]:
    """A signal for each result: none comes from those that nothing above needs."""
    leaves = enumerate(project.above.leaves)
    return [signals[number] if number in signals else jnp.zeros(leaf.shape, leaf.dtype) for number, leaf in leaves]


def _is_in(env: Any, atom: Any) -> bool:
    return not isinstance(atom, jex.Literal) and atom in env


def _value(env: dict[Any, Any], atom: Any) -> Any:
    if isinstance(atom, jex.Literal):
        aval: Any = atom.aval
        return jnp.asarray(atom.val, aval.dtype)
    return env[atom]
