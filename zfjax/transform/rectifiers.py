"""Find the equations that rectify. A program is full of maxima with zero, and not all of them are ReLUs.

Names do not tell them apart; what happens to the result does, across all calls (jit, remat, custom derivatives) on its
way. A maximum with zero is not a ReLU if its result

- goes into a square root or a denominator: it guards a variance or a norm;
- meets another piece of the same function, as in `max(x, 0) + expm1(min(x, 0))` (ELU) or softplus, is subtracted from
  its own input, which leaves the other piece, `x - max(x, 0)`, or gates it, `x * relu6(x + 3) / 6` (hard swish): it is
  part of that function, which passes its own derivative;
- is a ramp centered at zero, `clip(x + 3, 0, 6)`: it is a piecewise linear sigmoid.

The upper bound of a ReLU, as in ReLU6, is its `saturation`.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.transform import curves, jaxprs
from zfjax.transform.graph import Graph, Node, Value

_SHAPES = curves.CASTS | {"broadcast_in_dim", "expand_dims", "reshape", "squeeze"}
_MOVES = _SHAPES | {"slice", "tile", "transpose"}
_PARTS = frozenset(("concatenate", "dynamic_slice", "gather", "pad", "rev", "split", "stack", "unstack"))
_ARITHMETIC = frozenset(("add", "div", "max", "min", "mul", "select_n", "sub"))
_FUNCTIONS = frozenset(
    (
        *("abs", "asinh", "atan", "cbrt", "ceil", "cos", "cosh", "erf", "erfc", "exp", "exp2", "expm1", "floor"),
        *("integer_pow", "log", "log1p", "log2", "logistic", "neg", "pow", "round", "rsqrt", "sign", "sin", "sinh"),
        *("sqrt", "square", "tan", "tanh"),
    )
)
_ELEMENTWISE = curves.CASTS | _ARITHMETIC | _FUNCTIONS


def recognize(view: jaxprs.View) -> None:
    """Mark in a view, and in all views inside, which equations are a `relu` or a ReLU's `saturation`."""
    _Program(view).mark()


class _Bound(NamedTuple):
    """y is x, bounded below (or above) by something that does not depend on the program's input."""

    node: Node
    x: Value
    at: Value
    lower: bool

    @property
    def y(self) -> Value:
        return self.node.outputs[0]


class _Program(Graph):
    """A program with the insides of its loops and branches."""

    PASSED = frozenset(("device_put", "optimization_barrier"))

    def __init__(self, view: jaxprs.View):
        # A loop's outputs, and what the next iteration reads, by what its body returns.
        self.outside: defaultdict[Value, list[Value]] = defaultdict(list)
        super().__init__(view)

    def _enter(self, node: Node) -> None:
        """Values are followed into a loop where possible, and only guards out of one."""
        one_to_one = node.kind in ("scan", "cond", "shard_map")  # except the index that chooses the branch of a cond
        for inner in node.view.inside(node.equation):
            skipped = len(node.inputs) - len(inner.jaxpr.invars)
            read = [self._new(v) for v in inner.jaxpr.invars]
            fixed, carried = jaxprs.scanned(node.equation) if node.kind == "scan" else (0, 0)
            fixed = len(node.inputs) if node.kind == "cond" else fixed
            if one_to_one:
                atoms = zip(node.equation.invars[skipped:], node.inputs[skipped:], strict=True)
                for number, (atom, outer) in enumerate(atoms):
                    if number < fixed or node.view.carries(atom):
                        read[number] = outer
            made = self._add(inner, read, node.path)
            if len(made) == len(node.outputs):  # not what tells whether a loop goes on
                again = read[fixed : fixed + carried]
                for place, after in [*zip(made, node.outputs, strict=True), *zip(made[:carried], again, strict=True)]:
                    self.outside[place].append(after)

    def mark(self) -> None:
        """Decide for each maximum with zero."""
        for node in self.nodes:
            bound = self._bound(node)
            if bound and self._rectifies(bound):
                caps = list(self._caps(bound))
                real = jnp.issubdtype(node.equation.outvars[0].aval.dtype, jnp.floating)
                is_relu = real and not (self._guards(bound) or self._is_part(bound, caps) or self._is_gate(bound, caps))
                node.view.roles[id(node.equation)] = "relu" if is_relu else node.kind
                for cap, _ in caps if is_relu else ():
                    cap.node.view.roles[id(cap.node.equation)] = "saturation"

    # What a value is made of.

    def _number(self, place: Value, most: float = math.inf) -> float | None:
        """The number that fills a constant of at most `most` elements; None if unknown or not uniform."""
        while (node := self.makers.get(place)) and node.kind in _MOVES:
            place = node.inputs[0]
        value = self.constants.get(place)
        if value is None or isinstance(value, jax.core.Tracer) or not 0 < np.size(value) <= most:
            return None
        dtype = jnp.result_type(value)
        if not (jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.integer)):
            return None
        numbers = np.asarray(value).reshape(-1)
        return float(numbers[0]) if np.all(numbers == numbers[0]) else None

    def _origin(self, place: Value, kinds: frozenset[str] = curves.CASTS) -> Value:
        """The value before equations of these kinds, by default casts."""
        while (node := self.makers.get(place)) and node.kind in kinds:
            place = node.inputs[0]
        return place

    def _bound(self, node: Node) -> _Bound | None:
        """The bound that an equation applies: a maximum, a minimum, or a choice by comparing a value with its bound."""
        if node.kind in ("max", "min"):
            x, at = sorted(node.inputs, key=lambda place: place not in self.active)
            return _Bound(node, x, at, node.kind == "max") if x in self.active and at not in self.active else None
        if node.kind == "select_n" and len(node.inputs) == 3:
            return self._chosen(node)
        return None

    def _chosen(self, node: Node) -> _Bound | None:
        which, below, above = node.inputs
        while (test := self.makers.get(self._origin(which))) and test.kind == "not":
            which, below, above = test.inputs[0], above, below
        if test is None or test.kind not in ("gt", "ge", "lt", "le"):
            return None
        compared, at = test.inputs
        if (test.kind in ("lt", "le")) != (compared not in self.active):
            below, above = above, below
        if compared not in self.active:
            compared, at = at, compared
        for x, other, lower in ((above, below, True), (below, above, False)):
            if x in self.active and other not in self.active and self._alike(other, at) and self._keeps(x, compared):
                return _Bound(node, x, other, lower)
        return None

    def _alike(self, a: Value, b: Value) -> bool:
        number = self._number(a)
        return self._origin(a, _MOVES) == self._origin(b, _MOVES) or (number is not None and number == self._number(b))

    def _keeps(self, x: Value, other: Value) -> bool:
        """Whether x is that other value, bounded or not."""
        while self._origin(x) != self._origin(other):
            maker = self.makers.get(self._origin(x))
            bound = self._bound(maker) if maker else None
            if bound is None:
                return False
            x = bound.x
        return True

    def _rectifies(self, bound: _Bound) -> bool:
        return bound.lower and bound.node.view.is_active(bound.node.equation) and self._number(bound.at) == 0

    def _scaled(self, node: Node) -> tuple[Value, float, float] | None:
        """The x, factor and shift of an equation y = factor · x + shift; NaN for unknown numbers."""
        known = [place for place in node.inputs if place in self.active]
        if len(known) != 1:
            return None
        (x,) = known
        others = [self._number(place, most=1) for place in node.inputs if place != x]
        number = math.nan if not others or others[0] is None else others[0]
        match node.kind:
            case "add":
                return x, 1.0, number
            case "sub":
                return (x, 1.0, -number) if x == node.inputs[0] else (x, -1.0, number)
            case "mul":
                return x, number, 0.0
            case "div" if x == node.inputs[0]:
                return x, 1 / number if number else math.nan, 0.0
            case "neg":
                return x, -1.0, 0.0
            case kind if kind in _MOVES:
                return x, 1.0, 0.0
        return None

    # What happens to it.

    def _guards(self, bound: _Bound) -> bool:
        """Whether it ends up in a square root or a denominator, possibly scaled, shifted or bounded first.

        A root of its sum with other values counts too.
        """
        start = bound.y, False  # a value, and whether others were added to it on the way
        seen, upwards = {start}, [start]
        while upwards:
            place, summed = upwards.pop()
            left = {(other, summed) for other in self.outside.get(place, [])} - seen
            seen |= left
            upwards.extend(left)
            for node in self.users[place]:
                if self._is_guarded(node, place, summed, bound):
                    return True
                if node.kind in _MOVES | _PARTS | _ARITHMETIC:
                    alone = all(other == place or other not in self.active for other in node.inputs)
                    if alone or node.kind == "add" or node.kind in _PARTS:
                        rest = summed or not (alone or node.kind in _PARTS)
                        reached = {(output, rest) for output in node.outputs} - seen
                        seen |= reached
                        upwards.extend(reached)
        return False

    def _is_guarded(self, node: Node, place: Value, summed: bool, bound: _Bound) -> bool:
        """Whether an equation takes a value's root or divides by it."""
        match node.kind:
            case "sqrt" | "rsqrt":
                return True
            case "integer_pow":
                return node.equation.params["y"] < 0
            case "pow" if place == node.inputs[0]:
                power = self._number(node.inputs[1], most=1)
                return power is not None and (power < 0 or power == 0.5)
            case "div" if place == node.inputs[1] and not summed:
                # But y / (1 + y) is a squashed y.
                return self._sources(node.inputs[0], bound, {}) != {"self"}
        return False

    def _is_part(self, bound: _Bound, caps: list[tuple[_Bound, float]]) -> bool:
        """Whether it is combined elementwise with another piece of the same function, or gates its own input."""
        ways = self._ways(bound.x)
        reached, upwards = {bound.y}, [bound.y]
        while upwards:
            for node in self.users[upwards.pop()]:
                if node.kind not in _ELEMENTWISE or reached.issuperset(node.outputs):
                    continue
                if self._is_rest(node, bound):
                    return True
                others = [self._sources(place, bound, ways) for place in node.inputs if place not in reached]
                sources = set().union(*others)
                if "other" in sources:
                    continue
                pieces = "piece" in sources or node.kind in ("max", "min", "select_n")
                if "input" in sources and (pieces or (caps and node.kind in ("mul", "div"))):
                    return True
                reached.update(node.outputs)
                upwards.extend(node.outputs)
        return False

    def _is_rest(self, node: Node, bound: _Bound) -> bool:
        """Whether it is z - max(z, 0), or z - max(max(z), 0): a negative piece, or the steadying of an exponential."""
        ends = {self._origin(place, _SHAPES) for place in node.inputs}
        return node.kind == "sub" and ends == {bound.y, self._origin(bound.x, _SHAPES | {"reduce_max"})}

    def _sources(self, place: Value, bound: _Bound, ways: dict[Value, float]) -> set[str]:
        """Elementwise sources of a value: y (`self`), sources of x (`input`), kinks (`piece`), or `other`."""
        found: set[str] = set()
        seen, downwards = {place}, [place]
        while downwards:
            place = downwards.pop()
            maker = self.makers.get(place)
            if place not in self.active:
                continue
            if place == bound.y or (maker and self._is_like(maker, ways)):
                found.add("self")
            elif place in ways:
                found.add("input")
            elif maker is None or maker.kind not in _ELEMENTWISE:
                found.add("other")
            else:
                if maker.kind in ("abs", "max", "min", "select_n", "sign"):
                    found.add("piece")
                downwards.extend(set(maker.inputs) - seen)
                seen.update(maker.inputs)
        return found

    def _is_like(self, maker: Node, ways: dict[Value, float]) -> bool:
        """Whether an equation rectifies the same value with the same sign: relu(x) + relu(2 x) holds two ReLUs."""
        bound = self._bound(maker)
        if bound is None or not self._rectifies(bound):
            return False
        return any(sign * ways.get(place, 0.0) > 0 for place, sign in self._ways(bound.x).items())

    def _ways(self, place: Value) -> dict[Value, float]:
        """The values it comes from by scaling, shifting and upper bounds, each with its sign, 0 if that is lost."""
        ways, sign = {place: 1.0}, 1.0
        while maker := self.makers.get(place):
            upper, scaled = self._bound(maker), self._scaled(maker)
            if maker.kind == "abs":
                place, sign = maker.inputs[0], 0.0
            elif upper and not upper.lower:
                place = upper.x
            elif scaled:
                place, sign = scaled[0], -sign if scaled[1] < 0 else sign
            else:
                break
            ways[place] = sign
        return ways

    def _caps(self, bound: _Bound) -> Iterator[tuple[_Bound, float]]:
        """Its upper bounds, applied before or after it, and their numbers in its own scale, NaN if unknown."""
        below = self.makers.get(self._origin(bound.x))
        found = [(self._bound(below), 1.0)] if below else []
        upwards = [(bound.y, 1.0)]
        for place, scale in upwards:
            for node in self.users[place]:
                cap, scaled = self._bound(node), self._scaled(node)
                if cap and cap.x == place:
                    found.append((cap, scale))
                elif scaled and not scaled[2] and not scaled[1] <= 0:
                    upwards.append((node.outputs[0], scale * scaled[1]))
        for cap, scale in found:
            number = self._number(cap.at) if cap and not cap.lower else 0.0
            if cap and (number is None or number > 0):
                yield cap, math.nan if number is None else number / scale

    def _is_gate(self, bound: _Bound, caps: list[tuple[_Bound, float]]) -> bool:
        """Whether it is a ramp centered where the value below, before constants were added, is zero."""
        place, factor, middle = bound.x, 1.0, 0.0
        while maker := self.makers.get(place):
            upper, scaled = self._bound(maker), self._scaled(maker)
            if upper and not upper.lower:
                place = upper.x
            elif scaled and not math.isnan(factor * scaled[2]):
                place, middle, factor = scaled[0], middle + factor * scaled[2], factor * scaled[1]
            else:
                break
        return middle > 0 and any(math.isclose(cap, 2 * middle, rel_tol=1e-3) for _, cap in caps)
