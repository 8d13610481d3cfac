"""Any JAX function sends a signal at its output down to its input, by rules of one's choice.

`backproject(fun, x, rules)` stands beside `jax.vjp(fun, x)`. It evaluates the jaxpr of `fun` and writes a tape: where a
rule acts, the way down that the rule gives; for what lies between two such equations, the piece's own `jax.vjp`.
`project` plays the tape backwards. So without rules (`GRADIENT`) it is `jax.vjp`, and only the rules differ from it.
"""

import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial, register_dataclass
from jaxtyping import PyTree

from zfjax import jaxprs
from zfjax.rules import DECONVNET, Equation, Rules


class RuleWarning(UserWarning):
    """A rule found nothing to act on, or cannot act where it should."""


def deconvnet(fun: Callable[[PyTree], PyTree], x: PyTree) -> "tuple[PyTree, Projection]":
    """Projects what units of `fun` fire for down to pixels: unpool, rectify, filter.

    The same as `backproject(fun, x, DECONVNET)`.

    Args:
        fun: any JAX function of one argument, such as `zfjax.layer(net, variables, "relu5")`.
        x: its argument; for images float [N, H, W, C] with the mean already subtracted.

    Returns:
        y: `fun(x)`.
        project: see `Projection`; `project(zfjax.strongest(y, unit))` is shaped as x.

    Raises:
        TypeError: x holds no floating-point array.

    Paper: section 2.1. A deconvnet shows the image's structure that the unit's path lets through, and mostly not what
    tells classes apart (Nie et al. 2018).

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    >>> variables = net.init(jax.random.key(1), images)
    >>> y, project = jax.jit(zfjax.deconvnet)(zfjax.layer(net, variables, "relu5"), images)
    >>> project(zfjax.strongest(y, unit=12)).shape
    (1, 64, 64, 3)
    """
    return _backproject(fun, x, DECONVNET)


def backproject(fun: Callable[[PyTree], PyTree], x: PyTree, rules: Rules) -> "tuple[PyTree, Projection]":
    """Like `jax.vjp(fun, x)`, with rules for how the signal passes down.

    It works under `jit`, `vmap`, `grad` and sharding. `project` is a pytree: it may leave and enter jitted functions,
    and `jax.vmap(project)(seeds)` sends many signals down after one forward pass.

    Args:
        fun: any JAX function of one argument.
        x: an array or a pytree of arrays, of which at least one is floating-point.
        rules: `DECONVNET`, `GUIDED`, `GRADIENT`, or one of these extended.

    Returns:
        y: `fun(x)`.
        project: see `Projection`.

    Raises:
        TypeError: x holds no floating-point array.
        ValueError: a rule's function has several inputs that depend on x, or a rule changes the signal's shape.

    Warns:
        RuleWarning: a rule of `rules.expected` found nothing to act on, or only inside a loop.
    """
    return _backproject(fun, x, rules)


def _backproject(fun: Callable[[PyTree], PyTree], x: PyTree, rules: Rules) -> "tuple[PyTree, Projection]":
    leaves, tree = jax.tree.flatten(x)
    if not any(_is_float(leaf) for leaf in leaves):
        kinds = ", ".join(str(jax.api_util.shaped_abstractify(leaf)) for leaf in leaves) or "nothing"
        raise TypeError(f"x: expected floating-point images [N, H, W, C] with the mean already subtracted, got {kinds}")
    closed, out = jax.make_jaxpr(fun, return_shape=True)(x)
    ascent = _Ascent(rules)
    inputs = [_Wire(leaf, ascent.new_slot(leaf) if _is_float(leaf) else None) for leaf in leaves]
    outputs = ascent.climb(closed, inputs)
    if ascent.idle:
        warnings.warn(_idle_text(ascent.idle), RuleWarning, stacklevel=3)

    y = [wire.value for wire in outputs]
    return jax.tree.unflatten(jax.tree.structure(out), y), Projection(
        tuple(ascent.steps),
        _End(jax.tree.structure(out), tuple(map(_shape, y)), tuple(wire.slot for wire in outputs)),
        _End(tree, tuple(map(_shape, leaves)), tuple(wire.slot for wire in inputs)),
    )


class _Slot(NamedTuple):
    """A place where the signals to one value add up on the way down."""

    number: int
    shape: jax.ShapeDtypeStruct


class _Wire(NamedTuple):
    """A value on the way up; without a slot it does not depend on x, or is no floating-point number."""

    value: Any
    slot: _Slot | None = None
    zero: bool = False  # known to be all zero


class _End(NamedTuple):
    """The form of y or x: pytree, leaves, and their slots."""

    tree: jax.tree_util.PyTreeDef
    leaves: tuple[jax.ShapeDtypeStruct, ...]
    slots: tuple[_Slot | None, ...]


@register_dataclass
@dataclasses.dataclass(frozen=True)
class _Step:
    """One piece of the tape: takes the signals at `above`, gives those at `below`."""

    pull: Callable[[list[jax.Array]], Sequence[jax.Array]]  # a pytree, with all that is kept of the forward pass
    above: tuple[_Slot, ...] = dataclasses.field(metadata={"static": True})
    below: tuple[_Slot, ...] = dataclasses.field(metadata={"static": True})


@register_dataclass
@dataclasses.dataclass(frozen=True)
class Projection:
    """The way down: `project(seed)` takes a signal shaped as y to one shaped as x.

    It is linear in the seed for `GRADIENT`, and scales with positive factors of the seed for `DECONVNET` and `GUIDED`.
    Leaves of y that are no floating-point numbers take any seed and leave no trace; such leaves of x come back as
    `float0` zeros, as from `jax.vjp`.
    """

    steps: tuple[_Step, ...]
    above: _End = dataclasses.field(metadata={"static": True})
    below: _End = dataclasses.field(metadata={"static": True})

    def __call__(self, seed: PyTree) -> PyTree:
        """Sends `seed` down.

        Raises:
            ValueError: the seed's pytree, or a leaf's shape or dtype, is not that of y.
        """
        signals: dict[_Slot, jax.Array] = {}
        for slot, leaf in zip(self.above.slots, _leaves_like(seed, self.above), strict=True):
            if slot:
                _add(signals, slot, leaf)
        for step in reversed(self.steps):
            arrived = [signals.pop(slot, None) for slot in step.above]
            if all(signal is None for signal in arrived):
                continue
            filled = [
                jnp.zeros(slot.shape.shape, slot.shape.dtype) if signal is None else signal
                for slot, signal in zip(step.above, arrived, strict=True)
            ]
            for slot, signal in zip(step.below, step.pull(filled), strict=True):
                _add(signals, slot, signal)
        ends = [
            np.zeros(leaf.shape, jax.dtypes.float0)
            if slot is None
            else signals.get(slot, jnp.zeros(leaf.shape, leaf.dtype))
            for slot, leaf in zip(self.below.slots, self.below.leaves, strict=True)
        ]
        return jax.tree.unflatten(self.below.tree, ends)


class _Ascent:
    """One evaluation of a function that writes the tape.

    Attributes:
        steps: the tape, bottom first.
        idle: expected rules that have not acted yet.
    """

    def __init__(self, rules: Rules):
        self.steps: list[_Step] = []
        self.idle = set(rules.expected)
        self._rules = dict(rules.named)
        self._expected = rules.expected
        self._numbers = itertools.count()

    def new_slot(self, value: Any) -> _Slot:
        return _Slot(next(self._numbers), _shape(value))

    def climb(self, closed: jex.ClosedJaxpr, inputs: Sequence[_Wire]) -> list[_Wire]:
        """Evaluates a jaxpr: equations with a rule by it, calls that hold such ones in place, pieces between whole."""
        jaxpr = closed.jaxpr
        env = dict(zip(jaxpr.constvars, map(_Wire, closed.consts), strict=True))
        env |= dict(zip(jaxpr.invars, inputs, strict=True))
        plan = self._plan(jaxpr, env)
        needed = [{*jaxprs.variables(jaxpr.outvars)}]  # by what lies above each piece
        for _, equations in reversed(plan):
            needed.append(needed[-1] | {v for equation in equations for v in jaxprs.variables(equation.invars)})
        for (do, equations), above in zip(plan, needed[-2::-1], strict=True):
            do(equations, env, jaxpr, above)
        return [_read(env, atom) for atom in jaxpr.outvars]

    def _plan(self, jaxpr: jex.Jaxpr, env: "_Env") -> list[tuple[Callable[..., None], list[Equation]]]:
        active = {v for v, wire in env.items() if wire.slot}
        zeros = {v for v, wire in env.items() if wire.zero}
        plan: list[tuple[Callable[..., None], list[Equation]]] = []
        for equation in jaxprs.live(jaxpr):
            acts = not active.isdisjoint(jaxprs.variables(equation.invars))
            do = self._handler(equation, zeros) if acts else self._differentiate
            if do == self._differentiate and plan and plan[-1][0] == do:
                plan[-1][1].append(equation)
            else:
                plan.append((do, [equation]))
            jaxprs.spread(equation, active, zeros)
        return plan

    def _handler(self, equation: Equation, zeros: set[Any]) -> Callable[..., None]:
        if jaxprs.name(equation, zeros) in self._rules:
            return self._apply_rule
        inside = set().union(*(self._names(sub, inner) for sub, inner in jaxprs.called(equation, zeros)))
        if inside and equation.primitive.name in jaxprs.CALLS:
            return self._enter
        # A maximum's own derivative is its unpooling: only rules that matter are worth a warning.
        for name in sorted(inside & self._expected):
            warnings.warn(_loop_text(name, equation.primitive.name), RuleWarning, stacklevel=2)
            self.idle.discard(name)
        return self._differentiate

    def _names(self, jaxpr: jex.Jaxpr, zeros: set[Any]) -> set[str]:
        """The rules that would act somewhere in `jaxpr`."""
        found = set()
        for equation in jaxpr.eqns:
            name = jaxprs.name(equation, zeros)
            if name in self._rules:
                found.add(name)
            else:
                found.update(*(self._names(sub, inner) for sub, inner in jaxprs.called(equation, zeros)))
            jaxprs.spread(equation, set(), zeros)
        return found

    def _apply_rule(self, equations: list[Equation], env: "_Env", jaxpr: jex.Jaxpr, needed: set[Any]) -> None:
        """The forward value as it is; the way down by the rule. Here the walk differs from reverse-mode autodiff."""
        (equation,) = equations
        reads = list(dict.fromkeys(jaxprs.variables(equation.invars)))
        name = jaxprs.name(equation, {v for v in reads if env[v].zero})
        below = [(wire.value, wire.slot) for wire in (env[v] for v in reads) if wire.slot]
        if len(below) != 1 or len(equation.outvars) != 1:
            raise ValueError(
                f"rule {name!r}: expected a function with one input that depends on x and one output; got {len(below)}"
                f" of {len(reads)} inputs, and {len(equation.outvars)} outputs"
            )
        x, slot = below[0]
        (y,) = jaxprs.evaluate(jaxprs.piece(jaxpr, equations, reads, equation.outvars), [env[v].value for v in reads])
        above = self.new_slot(y)
        # As a jaxpr the way down is data: what the rule closed over becomes the leaves of a pytree.
        down = jax.make_jaxpr(self._rules[name](equation, x))(above.shape)
        if [(aval.shape, aval.dtype) for aval in down.out_avals] != [(slot.shape.shape, slot.shape.dtype)]:
            raise ValueError(f"rule {name!r}: gives {down.out_avals} below, expected {slot.shape} like its input")
        self.steps.append(_Step(Partial(functools.partial(_replay, down.jaxpr), down.consts), (above,), (slot,)))
        env[equation.outvars[0]] = _Wire(y, above)
        self.idle.discard(name)

    def _enter(self, equations: list[Equation], env: "_Env", jaxpr: jex.Jaxpr, needed: set[Any]) -> None:
        """A call done in place; derivatives of its own (custom_jvp, custom_vjp) give way to the rules in it."""
        (equation,) = equations
        outputs = self.climb(jaxprs.body(equation), [_read(env, atom) for atom in equation.invars])
        env.update(zip(equation.outvars, outputs, strict=True))

    def _differentiate(self, equations: list[Equation], env: "_Env", jaxpr: jex.Jaxpr, needed: set[Any]) -> None:
        """All that lies between two rules, by its own `jax.vjp`."""
        defined = {v for equation in equations for v in equation.outvars}
        reads = dict.fromkeys(
            v for equation in equations for v in jaxprs.variables(equation.invars) if v not in defined
        )
        active = {v for v in reads if env[v].slot}
        zeros = {v for v in reads if env[v].zero}
        below = [v for v in reads if v in active]
        fixed = [v for v in reads if v not in active]
        for equation in equations:
            jaxprs.spread(equation, active, zeros)
        outputs = [v for equation in equations for v in equation.outvars if v in needed]
        above = [v for v in outputs if v in active]
        rest = [v for v in outputs if v not in active]
        piece = jaxprs.piece(jaxpr, equations, [*below, *fixed], [*above, *rest])

        def evaluate(*values: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
            results = jaxprs.evaluate(piece, [*values, *(env[v].value for v in fixed)])
            return results[: len(above)], results[len(above) :]

        if above:
            values, pull, others = jax.vjp(evaluate, *(env[v].value for v in below), has_aux=True)
        else:
            values, others = evaluate(*(env[v].value for v in below))
        slots = [self.new_slot(value) for value in values]
        if slots:
            self.steps.append(_Step(pull, tuple(slots), tuple(slot for v in below if (slot := env[v].slot))))
        env.update(zip(above, map(_Wire, values, slots), strict=True))
        env.update((v, _Wire(value, zero=v in zeros)) for v, value in zip(rest, others, strict=True))


_Env = dict[Any, _Wire]  # by jaxpr variable


def _read(env: _Env, atom: Any) -> _Wire:
    if isinstance(atom, jex.Literal):
        aval: Any = atom.aval
        return _Wire(jnp.asarray(atom.val, aval.dtype), zero=jaxprs.is_zero(atom, set()))
    return env[atom]


def _replay(jaxpr: jex.Jaxpr, consts: Sequence[Any], signals: list[jax.Array]) -> list[jax.Array]:
    return jex.jaxpr_as_fun(jex.ClosedJaxpr(jaxpr, consts))(*signals)


def _leaves_like(seed: PyTree, end: _End) -> list[Any]:
    leaves, tree = jax.tree.flatten(seed)
    if tree != end.tree:
        raise ValueError(f"seed: expected a pytree like that of y, {end.tree}; got {tree}")
    for leaf, shape, slot in zip(leaves, end.leaves, end.slots, strict=True):
        if slot and _shape(leaf) != shape:
            got = _shape(leaf)
            raise ValueError(
                f"seed: expected {shape.dtype}{list(shape.shape)} like y, got {got.dtype}{list(got.shape)};"
                " for many seeds at once use jax.vmap(project)"
            )
    return leaves


def _add(signals: dict[_Slot, jax.Array], slot: _Slot, signal: jax.Array) -> None:
    signals[slot] = signals[slot] + signal if slot in signals else signal


def _shape(value: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(jnp.shape(value), jnp.result_type(value))


def _is_float(value: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(value), jnp.inexact)


def _idle_text(names: Iterable[str]) -> str:
    return (
        f"no {' and no '.join(sorted(names))} found in the function, so that rule does nothing; where no rule acts, the"
        " signal is the plain gradient. A ReLU is recognised as jax.nn.relu, jnp.maximum(x, 0) or jnp.clip(x, 0);"
        " another function f by its name under jax.jit, with rules.extend(f=zfjax.rules.rectify)"
    )


def _loop_text(name: str, loop: str) -> str:
    return (
        f"{name} inside {loop}: this is not entered, so there the signal is the plain gradient; for the rule to act,"
        " write it as a Python loop or branch"
    )
