"""Arrays that the functions inside a program close over, as constants of the whole program."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax import lax

from zfjax.ops.platforms import changed
from zfjax.transform import jaxprs


def are_inside(jaxpr: jex.Jaxpr) -> bool:
    """Whether a function under `jax.jit` reads arrays that are not its arguments, also in loops, branches and remat."""
    return any(_holds_any(call) for equation in jaxpr.eqns for call in _inside(equation))


def moved_out(closed: jex.ClosedJaxpr, values: Sequence[Any]) -> list[Any]:
    """Evaluate a jaxpr under a trace, whose jaxpr then has those arrays among its own constants."""
    jaxpr = closed.jaxpr
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *values), strict=True))

    def read(atoms: Sequence[Any]) -> list[Any]:
        return [jnp.asarray(atom.val) if isinstance(atom, jex.Literal) else env[atom] for atom in atoms]

    for equation in jaxpr.eqns:
        if any(map(_holds_any, _inside(equation))):
            found = _again(equation, read(equation.invars))
        else:
            reads = list(dict.fromkeys(jaxprs.variables(equation.invars)))
            piece = jaxprs.piece(jaxpr, [equation], reads, equation.outvars)
            found = jaxprs.evaluate(piece, (), read(reads))
        env.update(zip(equation.outvars, found, strict=True))
    return read(jaxpr.outvars)


def _holds_any(call: jex.ClosedJaxpr) -> bool:
    return bool(call.consts) or are_inside(call.jaxpr)


def _inside(equation: jaxprs.Equation) -> list[jex.ClosedJaxpr]:
    """The jaxprs of an equation that `_again` can write anew."""
    params = equation.params
    match equation.primitive.name:
        case "scan":
            return [params["jaxpr"]]
        case "while":
            return [params["cond_jaxpr"], params["body_jaxpr"]]
        case "cond":
            return list(params["branches"])
        case "by_platform":
            return list(params["forms"])
        case kind if kind in jaxprs.CALLS and kind != "clamp" and not jaxprs.is_custom(equation):
            return [jaxprs.body(equation)]
    return []


def _again(equation: jaxprs.Equation, values: list[Any]) -> Sequence[Any]:
    """The equation anew, with functions of Python for its jaxprs: of these JAX moves the constants out itself."""
    params, calls = equation.params, _inside(equation)
    match equation.primitive.name:
        case "scan":
            # JAX's versions say differently which are which, but what a loop walks along has an axis more outside.
            xs, ys = (
                sum(outer.aval.ndim > inner.aval.ndim for outer, inner in zip(outside, inside, strict=True))
                for outside, inside in zip(
                    (equation.invars, equation.outvars), (calls[0].jaxpr.invars, calls[0].jaxpr.outvars), strict=True
                )
            )
            carried = len(equation.outvars) - ys
            fixed, init, along = _split(values, len(values) - carried - xs, carried)

            def step(carry: list[Any], x: list[Any]) -> tuple[list[Any], list[Any]]:
                found = moved_out(calls[0], [*fixed, *carry, *x])
                return found[:carried], found[carried:]

            last, stacked = lax.scan(step, init, along, *(params[key] for key in ("length", "reverse", "unroll")))
            return [*last, *stacked]
        case "while":
            tested, stepped, init = _split(values, params["cond_nconsts"], params["body_nconsts"])
            return lax.while_loop(
                lambda carry: moved_out(calls[0], [*tested, *carry])[0],
                lambda carry: moved_out(calls[1], [*stepped, *carry]),
                init,
            )
        case "cond":
            branches = [lambda *values, call=call: moved_out(call, values) for call in calls]
            # Chosen by platform, it stays so: what is for other platforms may not compile for this one.
            if platforms := params.get("branches_platforms"):
                pairs = zip(platforms, branches, strict=True)
                named = {name: branch for names, branch in pairs for name in names or ("default",)}
                return lax.platform_dependent(*values[1:], **named)
            return lax.switch(values[0], branches, *values[1:])
        case "by_platform":
            return changed(lambda form: lambda *values: moved_out(form, values), values, params)
        case "checkpoint" | "remat2":
            # Not by `jax.checkpoint`, which would forget that it has been differentiated.
            whole = jax.make_jaxpr(lambda *values: moved_out(calls[0], values))(*values)
            kept = params["prevent_cse"]
            kept = kept if isinstance(kept, bool) else (*(False,) * len(whole.consts), *kept)
            other = {"jaxpr": jaxprs.constants_as_inputs(whole.jaxpr), "prevent_cse": kept}
            return equation.primitive.bind(*whole.consts, *values, **params | other)
    return moved_out(calls[0], values)


def _split(values: list[Any], *counts: int) -> list[list[Any]]:
    parts, start = [], 0
    for count in counts:
        parts.append(values[start : start + count])
        start += count
    return [*parts, values[start:]]
