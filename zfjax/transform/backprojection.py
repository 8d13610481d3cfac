"""Send a signal from the output of any JAX function down to its input, following rules that the caller chooses.

`backproject(fun, x, rules)` is a counterpart of `jax.vjp(fun, x)`. It evaluates the jaxpr of `fun` and writes a tape:
where a rule acts, the way down that the rule returns; for each piece between two such equations, its own `jax.vjp`.
`project` plays the tape backward. So without rules (`GRADIENT`) it is `jax.vjp`; only the rules make a difference.
"""

import functools
import itertools
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.extend.core as jex
import jax.numpy as jnp
from jax.tree_util import Partial, keystr
from jaxtyping import PyTree

from zfjax.console.warning import warn
from zfjax.ops.arguments import described, is_array, kept
from zfjax.transform import functions, jaxprs, loops, parts, rectifiers, tape
from zfjax.transform.equations import Evaluated, Input, in_full
from zfjax.transform.given import besides_of, check_input, is_float
from zfjax.transform.idle import RuleWarning as RuleWarning
from zfjax.transform.idle import warnings_of
from zfjax.transform.rules import DECONVNET
from zfjax.transform.selection import Choice, Chosen, Rules, equation_of
from zfjax.transform.tape import Projection


def deconvnet(fun: Callable[[PyTree], PyTree], x: PyTree) -> tuple[PyTree, Projection]:
    """Project what units of `fun` respond to down to pixels: unpool, rectify, filter.

    The same as `backproject(fun, x, DECONVNET)`.

    Args:
        fun: any JAX function of one argument, such as `zfjax.layer(net, variables, "relu5")`.
        x: its argument; for images float [N, H, W, C] with the mean already subtracted.

    Returns:
        y: `fun(x)`.
        project: see `Projection`; `project(zfjax.strongest(y, unit))` is shaped as x.

    Raises:
        TypeError: x holds no floating-point array.

    Paper: section 2.1. A deconvnet shows the image structure that reaches the unit, and mostly not what distinguishes
    classes (Nie et al. 2018).

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    >>> variables = net.init(jax.random.key(1), images)
    >>> y, project = jax.jit(zfjax.deconvnet)(zfjax.layer(net, variables, "relu5"), images)
    >>> project(zfjax.strongest(y, unit=12)).shape
    (1, 64, 64, 3)
    """
    return backproject(fun, x, DECONVNET)


def backproject(
    fun: Callable[[PyTree], PyTree], x: PyTree, rules: Rules, *, baseline: PyTree | None = None
) -> tuple[PyTree, Projection]:
    """Like `jax.vjp(fun, x)`, with rules for how the signal passes down.

    It works under `jit`, `vmap`, `grad` and sharding. `project` is a pytree: jitted functions may return it and take it
    as an argument, and `jax.vmap(project)(seeds)` sends many signals down after one forward pass.

    Args:
        fun: any JAX function of one argument.
        x: an array or a pytree of arrays, at least one of them floating-point.
        rules: `DECONVNET`, `GUIDED`, `GRADIENT`, or one of these extended.
        baseline: for rules that compare with another x, such as `DEEP_LIFT`: that one, shaped as x.

    Returns:
        y: `fun(x)`.
        project: see `Projection`.

    Raises:
        TypeError: x holds no floating-point array, or something other than arrays; fun does not take one argument, or
            returns something other than arrays; rules is not a `Rules`.
        ValueError: a rule for one input met a function of several that depend on x, a rule met one of several outputs,
            a rule gives signals of other shapes than the inputs', or the baseline has other shapes than x.
        NotImplementedError: a mutable reference lives on both sides of an equation with a rule.

    Warns:
        RuleWarning: a rule of `rules.expected` found nothing to act on, or only where it is not entered, as in a while
            loop; or an activation such as GELU was found, for which the papers have no rule. It is given each time
            `fun` is traced; in a compiled function, when it is compiled.
    """
    if not callable(fun):
        raise TypeError(f"fun: expected a function of x, got {type(fun).__name__}")
    if not isinstance(rules, Rules):
        raise TypeError(
            f"rules: expected zfjax.DECONVNET, GUIDED, GRADIENT or one extended, got {type(rules).__name__}"
        )
    check_input(fun, x)
    x = jax.tree.map(kept, x)
    leaves, tree = jax.tree.flatten(x)
    function = functions.live(fun)

    def traced(x: PyTree) -> PyTree:  # a new function each time, here and for rules: JAX keeps its traces by identity
        y = function(x)
        for path, leaf in jax.tree_util.tree_leaves_with_path(y):
            if not is_array(leaf):
                raise TypeError(f"fun: expected it to return arrays, got {described(leaf)} as y{keystr(path)}")
        return y

    closed, out = jax.make_jaxpr(traced, return_shape=True)(x)
    closed = jex.ClosedJaxpr(closed.jaxpr, list(map(kept, closed.consts)))  # `project` will read them later
    choice = Choice(rules.named)
    view = _viewed(closed, list(map(is_float, leaves)), choice)
    for text in warnings_of(view, rules):
        warn(text, RuleWarning)
    besides = None if baseline is None else besides_of(baseline, x)
    y, project = _walked(choice, view, *map(tape.as_array, leaves), besides=besides)
    out = jax.tree.structure(out)
    ends = project.above._replace(tree=out), project.below._replace(tree=tree)
    return jax.tree.unflatten(out, y), Projection(project.steps, *ends)


def warn_of_idle_rules(fun: Callable[[PyTree], PyTree], x: PyTree, rules: Rules) -> None:
    """Warn as `backproject` does, and do nothing else.

    This is for functions that call `backproject` under `jax.jit`, which traces them once for many calls: a warning from
    the trace would appear on the first call only. They call this first, then `backproject` with rules that expect
    nothing, `Rules(rules.named)`.

    Takes the arguments, and gives the warnings, of `backproject`.
    """
    closed = functions.jaxpr_of(functions.live(fun), x)
    floats = tuple(map(is_float, jax.tree.leaves(x)))
    said = _SAID.setdefault(closed.jaxpr, {})
    if (rules, floats) not in said:
        said[rules, floats] = warnings_of(_viewed(closed, floats, Choice(rules.named)), rules)
    for text in said[rules, floats]:
        warn(text, RuleWarning)


# What there was to warn of, by jaxpr: the same function of zfjax has the same one at each call.
_SAID: weakref.WeakKeyDictionary[jex.Jaxpr, dict[tuple, list[str]]] = weakref.WeakKeyDictionary()


def _viewed(closed: jex.ClosedJaxpr, floats: Sequence[bool], choice: Choice) -> jaxprs.View:
    """Analyze a function before it is evaluated, as far as rules need it.

    Args:
        closed: whose last inputs are x's leaves.
        floats: which of these are floating-point.
        choice: of rules.
    """
    jaxpr = closed.jaxpr
    active = [False] * (len(jaxpr.invars) - len(floats)) + list(floats)
    view = jaxprs.View(closed, active, [True] * len(jaxpr.outvars))
    rectifiers.recognize(view)
    parts.recognize(view, choice.by_layer)
    return view


def _walked(
    choice: Choice, view: jaxprs.View, *values: Any, besides: list[Any] | None = None
) -> tuple[list[Any], Projection]:
    """Evaluate a whole jaxpr; the results, and the way down from these as a list to the list of values."""
    ascent = _Ascent(choice, besides is not None)
    inputs = [
        _Wire(value, ascent.new_slot(value) if v in view.active else None, beside)
        for v, value, beside in zip(view.jaxpr.invars, values, besides or [None] * len(values), strict=True)
    ]
    climbed = ascent.climb(view, inputs, [True] * len(view.jaxpr.outvars))
    outputs = [wire for wire in climbed if wire]
    ends = (
        tape.End(
            jax.tree.structure([0] * len(wires)),
            tuple(tape.shape_of(wire.value) for wire in wires),
            tuple(wire.slot for wire in wires),
        )
        for wires in (outputs, inputs)
    )
    return [wire.value for wire in outputs], Projection(tuple(ascent.steps), *ends)


class _Wire(NamedTuple):
    """A value on the way up; it has no slot if it does not depend on x or is not floating-point."""

    value: Any
    slot: tape.Slot | None = None
    beside: Any = None  # the value at the baseline, if there is one and it differs

    @property
    def other(self) -> Any:
        """The value at the baseline."""
        return self.value if self.beside is None else self.beside


class _Level(NamedTuple):
    """A jaxpr while it is being evaluated."""

    view: jaxprs.View
    env: dict[Any, _Wire]  # by variable


# Takes also the equations, and the variables needed above them.
_Action = Callable[[_Level, list[jaxprs.Equation], set[Any]], None]


class _Ascent:
    """One evaluation of a function, which writes the tape. Calls that are entered lose their remat policy.

    Attributes:
        steps: the tape, bottom first.
    """

    def __init__(self, choice: Choice, has_baseline: bool):
        self.steps: list[tape.Step] = []
        self._choice = choice
        self._has_baseline = has_baseline
        self._numbers = itertools.count()

    def new_slot(self, value: Any) -> tape.Slot:
        return tape.Slot(next(self._numbers), tape.shape_of(value))

    def climb(self, view: jaxprs.View, inputs: Sequence[_Wire], wanted: Sequence[bool]) -> list[_Wire | None]:
        """Evaluate a jaxpr: rule equations by their rule, calls that contain some in place, pieces between as one."""
        jaxpr = view.jaxpr
        env = dict(zip(jaxpr.constvars, map(_Wire, view.closed.consts), strict=True))
        level = _Level(view, env | dict(zip(jaxpr.invars, inputs, strict=True)))
        outputs = [atom for atom, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted]
        plan = self._plan(level, outputs)
        needed = [set(jaxprs.variables(outputs))]  # above each piece, from the top
        for _, equations in reversed(plan):
            needed.append(needed[-1] | {v for equation in equations for v in jaxprs.variables(equation.invars)})
        for (act, equations), above in zip(plan, needed[-2::-1], strict=True):
            act(level, equations, above)
        return [_read(level, atom) if want else None for atom, want in zip(jaxpr.outvars, wanted, strict=True)]

    def _plan(self, level: _Level, outputs: list[Any]) -> list[tuple[_Action, list[jaxprs.Equation]]]:
        plan: list[tuple[_Action, list[jaxprs.Equation]]] = []
        for unit in self._choice.units(level.view, jaxprs.live(level.view.jaxpr, outputs)):
            act = self._action(level.view, unit)
            if act == self._differentiate and plan and plan[-1][0] == act:
                plan[-1][1].extend(unit.source)
            else:
                plan.append((act, [*unit.source]))
        return plan

    def _action(self, view: jaxprs.View, unit: Chosen) -> _Action:
        end = unit.source[-1]
        if not view.is_active(end):
            return self._differentiate
        if unit.rule is not None:
            return functools.partial(self._apply_rule, unit)
        if all(loop for _, _, loop in self._choice.acting_inside(view, end)):
            return self._differentiate
        if view.is_call(end):
            return self._enter
        # At a baseline a cond may take another branch.
        return self._differentiate if self._has_baseline and end.primitive.name == "cond" else self._enter_loop

    def _apply_rule(self, unit: Chosen, level: _Level, source: list[jaxprs.Equation], needed: set[Any]) -> None:
        """Keep the forward value; take the way down from the rule. Only here does the walk differ from autodiff."""
        name, end, equation = unit.name, source[-1], equation_of(level.view, unit.name, source)
        wires = [level.env[v] for v in equation.variables]
        inputs = tuple(
            Input(wire.value, wire.slot is not None, wire.other if self._has_baseline else None) for wire in wires
        )
        below = tuple(wire.slot for wire in wires if wire.slot)
        rule, beside = in_full(unit.rule)(equation, inputs), self._beside(equation.fun, wires)
        y, rule = rule if isinstance(rule, Evaluated) else (equation.fun(*(wire.value for wire in wires)), rule)
        if len(end.outvars) != 1:
            raise ValueError(f"rule {name!r}: expected a function with one output, got {len(end.outvars)}")
        if not callable(rule):
            raise ValueError(
                f"rule {name!r}: expected it to return a function of the signal, got {type(rule).__name__}"
            )
        above = self.new_slot(y)
        # A part may hold casts. As a jaxpr, the way down is data: what the rule closed over becomes the leaves of a
        # pytree. Of y, not of its shape: sharding counts.
        dtype = below[0].shape.dtype if equation.is_part else y.dtype
        down = jax.make_jaxpr(lambda signal: rule(signal.astype(dtype)))(y)
        expected = [(slot.shape.shape, slot.shape.dtype) for slot in below]
        if [(aval.shape, aval.dtype) for aval in down.out_avals] != expected:
            shapes = (
                f"{below[0].shape} like its input" if len(below) == 1 else f"{len(below)}, {expected}, like its inputs"
            )
            raise ValueError(f"rule {name!r}: gives {down.out_avals} below, expected {shapes}")
        pull = Partial(functools.partial(jaxprs.evaluate, down.jaxpr), down.consts)
        self.steps.append(tape.Step(pull, (above,), below))
        level.env[end.outvars[0]] = _Wire(y, above, beside)

    def _beside(self, fun: Callable[..., Any], wires: Iterable[_Wire]) -> Any:
        """What a function gives at the baseline; None if there is none, or all is the same there."""
        wires = list(wires)
        return fun(*(wire.other for wire in wires)) if any(wire.beside is not None for wire in wires) else None

    def _enter(self, level: _Level, equations: list[jaxprs.Equation], needed: set[Any]) -> None:
        """Evaluate a call in place; the rules inside take precedence over its custom derivatives."""
        (equation,) = equations
        (view,) = level.view.inside(equation)
        inputs = [_read(level, atom) for atom in equation.invars]
        outputs = self.climb(view, inputs, [v in needed for v in equation.outvars])
        level.env.update((v, wire) for v, wire in zip(equation.outvars, outputs, strict=True) if wire)

    def _enter_loop(self, level: _Level, equations: list[jaxprs.Equation], needed: set[Any]) -> None:
        """Evaluate a scan or the branches of a cond as they are, each with a tape of its own."""
        (equation,) = equations
        views = self._choice.inside(level.view, equation)
        wires = [_read(level, atom) for atom in equation.invars]
        if self._has_baseline:
            views = [views[0].later(i) for i in range(equation.params["length"])] if len(views) == 1 else views
        if equation.primitive.name == "scan" and (self._has_baseline or len(views) > 1):
            level.env.update(zip(equation.outvars, self._unroll(equation, views, wires), strict=True))
            return
        runs = [functools.partial(_walked, self._choice, view) for view in views]
        ends = loops.Ends(
            tuple(v in level.view.active for v in equation.outvars), tuple(wire.slot is not None for wire in wires)
        )
        values, pull = loops.evaluate(equation, runs, [wire.value for wire in wires], ends)
        slots = [self.new_slot(value) if active else None for value, active in zip(values, ends.above, strict=True)]
        below = tuple(wire.slot for wire in wires if wire.slot)
        self.steps.append(tape.Step(pull, tuple(slot for slot in slots if slot), below))
        level.env.update(zip(equation.outvars, map(_Wire, values, slots), strict=True))

    def _unroll(self, equation: jaxprs.Equation, views: list[jaxprs.View], wires: list[_Wire]) -> list[_Wire]:
        """Evaluate a scan iteration by iteration, since a rule is for some of these alone."""
        fixed, carried = jaxprs.scanned(equation)
        constants, carry, cut = wires[:fixed], wires[fixed : fixed + carried], wires[fixed + carried :]
        pieces = [self._through(lambda x: [x[i] for i in range(len(views))], [wire]) for wire in cut]
        piles: list[list[_Wire]] = []
        order = slice(None, None, -1 if equation.params["reverse"] else 1)
        for i, view in zip(range(len(views))[order], views, strict=True):
            inputs = [*constants, *carry, *(piece[i] for piece in pieces)]
            made = [wire for wire in self.climb(view, inputs, [True] * len(equation.outvars)) if wire]
            carry = made[:carried]
            piles.append(made[carried:])
        piled = zip(*piles[order], strict=True)
        return [*carry, *(self._through(lambda *ys: [jnp.stack(ys)], pile)[0] for pile in piled)]

    def _through(self, fun: Callable[..., list[jax.Array]], wires: Sequence[_Wire]) -> list[_Wire]:
        """Evaluate a linear function of values on the way up, and its transpose on the way down."""
        moving = [wire.value for wire in wires if wire.slot]

        def of_moving(*values: Any) -> list[jax.Array]:
            rest = iter(values)
            return fun(*(next(rest) if wire.slot else wire.value for wire in wires))

        if moving:
            values, pull = jax.vjp(of_moving, *moving)
            slots: list[tape.Slot | None] = list(map(self.new_slot, values))
            above = tuple(slot for slot in slots if slot)
            self.steps.append(tape.Step(pull, above, tuple(wire.slot for wire in wires if wire.slot)))
        else:
            values = of_moving()
            slots = [None] * len(values)
        return list(map(_Wire, values, slots, self._beside(fun, wires) or [None] * len(values)))

    def _differentiate(self, level: _Level, equations: list[jaxprs.Equation], needed: set[Any]) -> None:
        """Differentiate everything between two rules with its own `jax.vjp`."""
        env = level.env
        defined = {v for equation in equations for v in equation.outvars}
        used = (v for equation in equations for v in jaxprs.variables(equation.invars))
        reads = dict.fromkeys(v for v in used if v not in defined)
        below, fixed = _split(reads, lambda v: env[v].slot is not None)
        outputs = [v for equation in equations for v in equation.outvars if v in needed]
        if any(jaxprs.is_written(level.view.jaxpr, v) for v in (*reads, *outputs) if jaxprs.is_reference(v)):
            raise NotImplementedError("a mutable reference (jax.new_ref) around a rule: signals cannot follow it")
        above, rest = _split(outputs, lambda v: v in level.view.active)
        piece = jaxprs.piece(level.view.jaxpr, equations, [*below, *fixed], [*above, *rest])

        def evaluate(*values: jax.Array) -> tuple[list[jax.Array], list[jax.Array]]:
            results = jaxprs.evaluate(piece, (), [*values, *(env[v].value for v in fixed)])
            return results[: len(above)], results[len(above) :]

        reading = [env[v] for v in (*below, *fixed)]
        besides = self._beside(lambda *values: jaxprs.evaluate(piece, (), values), reading)
        besides = besides or [None] * (len(above) + len(rest))
        if above:
            values, pull, others = jax.vjp(evaluate, *(env[v].value for v in below), has_aux=True)
            slots = tuple(map(self.new_slot, values))
            self.steps.append(tape.Step(pull, slots, tuple(slot for v in below if (slot := env[v].slot))))
            env.update(zip(above, map(_Wire, values, slots, besides), strict=True))
        else:
            _, others = evaluate(*(env[v].value for v in below))
        env.update(zip(rest, map(_Wire, others, [None] * len(rest), besides[len(above) :]), strict=True))


def _read(level: _Level, atom: Any) -> _Wire:
    if isinstance(atom, jex.Literal):
        aval: Any = atom.aval
        return _Wire(jnp.asarray(atom.val, aval.dtype))
    return level.env[atom]


def _split(items: Iterable[Any], first: Callable[[Any], bool]) -> tuple[list[Any], list[Any]]:
    items = list(items)
    return [item for item in items if first(item)], [item for item in items if not first(item)]
