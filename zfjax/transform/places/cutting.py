"""A program cut in two at one of its values: what gives the value, and what is made of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
from jaxtyping import Array, Float

from zfjax.transform import jaxprs
from zfjax.transform.graph import Path

Site = tuple[Path, int]  # an equation's path, and which of its outputs


class Crossing(NamedTuple):
    """What crosses a cut where more than one value does, as beside a skip connection.

    Attributes:
        at: the value at which the program was cut.
        beside: the others, in the order in which the program makes them.
    """

    at: Float[Array, "n ..."]
    beside: tuple[Array, ...]


class Cut(NamedTuple):
    """Both parts of a program.

    Attributes:
        below: from the program's inputs to the value, and then the others that cross the cut.
        above: from the program's first inputs (its weights), the value and the others, to the outputs.
    """

    below: jex.ClosedJaxpr
    above: jex.ClosedJaxpr


def up_to(closed: jex.ClosedJaxpr, sites: Sequence[Site]) -> jex.ClosedJaxpr:
    """The part of a program that gives some of its values; nothing else is computed."""
    flat = _opened(closed, sites)
    wanted = flat.jaxpr.outvars[: len(sites)]
    return _part(flat, flat.jaxpr.invars, jaxprs.live(flat.jaxpr, wanted), wanted)


def cut(closed: jex.ClosedJaxpr, site: Site, fixed: int) -> Cut:
    """Cut a program at a value.

    Calls around the value lose their custom derivatives; calls inside either part keep theirs.

    Args:
        closed: the program.
        site: the value.
        fixed: how many of its first inputs are weights, which both parts take. What is made of weights alone crosses
            no cut: the part above makes it again.
    """
    flat = _opened(closed, [site])
    jaxpr = flat.jaxpr
    at, *outputs = jaxpr.outvars
    moving = dict.fromkeys(jaxpr.invars[fixed:])  # what depends on the images, in the order in which it is made
    for equation in jaxpr.eqns:
        if not moving.keys().isdisjoint(jaxprs.variables(equation.invars)):
            moving |= dict.fromkeys(equation.outvars)
    below = {v for equation in jaxprs.live(jaxpr, [at]) for v in equation.outvars} | set(jaxpr.invars[fixed:])
    needed, above = set(jaxprs.variables(outputs)), []
    for equation in reversed(jaxpr.eqns):
        is_below = any(v in moving and v in below for v in equation.outvars)
        if not is_below and (equation.effects or not needed.isdisjoint(equation.outvars)):
            above.append(equation)
            needed.update(jaxprs.variables(equation.invars))
    crossing = [at, *(v for v in moving if v in below and v in needed and v is not at)]
    return Cut(
        _part(flat, jaxpr.invars, jaxprs.live(jaxpr, crossing), crossing),
        _part(flat, [*jaxpr.invars[:fixed], *crossing], above[::-1], outputs),
    )


def _part(
    flat: jex.ClosedJaxpr, inputs: Sequence[Any], equations: list[jaxprs.Equation], outputs: Sequence[Any]
) -> jex.ClosedJaxpr:
    """Some of a program's equations, with the constants that they read."""
    read = {v for equation in equations for v in jaxprs.variables(equation.invars)} | set(jaxprs.variables(outputs))
    pairs = zip(flat.jaxpr.constvars, flat.consts, strict=True)
    consts = {v: const for v, const in pairs if v in read}
    part = jaxprs.piece(flat.jaxpr, equations, [*consts, *inputs], list(outputs))
    return jex.ClosedJaxpr(part.replace(constvars=list(consts), invars=list(inputs)), list(consts.values()))


def _opened(closed: jex.ClosedJaxpr, sites: Sequence[Site]) -> jex.ClosedJaxpr:
    """The program with the calls around some sites entered, whose first outputs are the values there."""
    around = {path[:depth] for path, _ in sites for depth in range(1, len(path))}
    jaxpr = closed.jaxpr
    if not around:
        wanted = [jaxpr.eqns[path[0]].outvars[index] for path, index in sites]
        return jex.ClosedJaxpr(jaxpr.replace(outvars=[*wanted, *jaxpr.outvars]), closed.consts)
    found: dict[Site, Any] = {}

    def run(inner: jex.ClosedJaxpr, values: Sequence[Any], path: Path) -> list[Any]:
        jaxpr = inner.jaxpr
        env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*inner.consts, *values), strict=True))

        def read(atoms: Sequence[Any]) -> list[Any]:
            return [atom.val if isinstance(atom, jex.Literal) else env[atom] for atom in atoms]

        for number, equation in enumerate(jaxpr.eqns):
            here = (*path, number)
            if here in around:
                made = run(jaxprs.body(equation), read(equation.invars), here)
            else:
                reads = list(dict.fromkeys(jaxprs.variables(equation.invars)))
                piece = jaxprs.piece(jaxpr, [equation], reads, equation.outvars)
                made = jaxprs.evaluate(piece, (), read(reads))
            found.update(((here, index), value) for index, value in enumerate(made))
            env.update(zip(equation.outvars, made, strict=True))
        return read(jaxpr.outvars)

    def whole(*values: Any) -> list[Any]:
        outputs = run(closed, values, ())
        return [*(found[site] for site in sites), *outputs]

    return jax.make_jaxpr(whole)(*closed.in_avals)
