"""Sets of rules: which rule is for which equation of a function."""

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from zfjax.transform.equations import Equation, Rule
from zfjax.transform.jaxprs import Part, View


@dataclasses.dataclass(frozen=True)
class Where:
    """Which equations a rule is for: those for which all that is given holds.

    Attributes:
        name: of a primitive, a jitted function or a part, as in `Rules`.
        scope: a pattern with `*` and `?` for the scopes around an equation, joined by `/`, such as `*/stage4`; it takes
            what is in scopes below, too.
        layer: the number of a convolution or dense layer, counted from the input, or with -1 from the output. Those in
            a scan count anew in each iteration, as if it were written out.
        when: any function of an `Equation` that says whether.
    """

    name: str | None = None
    scope: str | None = None
    layer: int | None = None
    when: Callable[[Equation], bool] | None = None

    def __repr__(self) -> str:
        given = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        shown = {name: getattr(value, "__name__", repr(value)) for name, value in given.items() if value is not None}
        return " and ".join(f"{name} {text}" for name, text in shown.items())

    def takes(self, equation: Equation) -> bool:
        """Whether the rule is for this equation."""
        if self.name is not None and self.name != equation.name:
            return False
        if self.scope is not None and not _is_inside(equation.scopes, self.scope):
            return False
        if self.layer is not None and not _is_numbered(equation.layer, self.layer):
            return False
        return self.when is None or bool(self.when(equation))


Key = str | Where


@dataclasses.dataclass(frozen=True)
class Rules:
    """An immutable set of rules, by name or by other marks of an equation; a later rule wins over those before.

    The name is that of a function under `jax.jit` or of a JAX primitive. `relu` also stands for `jnp.maximum(x, 0)` and
    `jnp.clip(x, 0)`, and `saturation` for the upper bound of a ReLU, as in ReLU6. An equation without a rule passes
    signals by its own transpose or, if it is not linear, by its own derivative at the forward values.

    These names stand for an activation however it is written, with its numbers or weights: `gelu` (exact, by tanh, or
    x · sigmoid(1.702 x)), `silu` (swish), `hard_swish`, `mish`, `elu` (CELU too, and SELU without its factor),
    `leaky_relu` (PReLU too), `softplus`, `sigmoid`, `tanh`, `hard_sigmoid`, `hard_tanh`. And `attention` is a softmax
    that weighs other values; its rule's x are the exponentials before they are divided by their sum. All of such a
    softmax is `softmax`, a product of a signal with one over its standard deviation or norm `normalization`.
    `convolution` and `dense` are a convolution and a matrix product of one signal with weights, with the bias added to
    it and with what scales and shifts it, as batch norm does at inference.

    Attributes:
        named: pairs of a name, or a `Where`, and the rule.
        expected: the names whose absence from a function is worth a warning; for `relu` any activation will do.
        beyond: the names whose rule no paper gives, which is worth a warning too.
    """

    named: tuple[tuple[Key, Rule], ...] = ()
    expected: frozenset[Key] = frozenset()
    beyond: frozenset[Key] = frozenset()

    def extend(self, **rules: Rule) -> "Rules":
        """Add rules to these, or replace those of the same name.

        >>> @jax.jit
        ... def swish(x):
        ...     return x * jax.nn.sigmoid(x)
        >>> rules = zfjax.DECONVNET.extend(swish=zfjax.rules.rectify)
        """
        return self._with(rules)

    def where(
        self,
        rule: Rule,
        *,
        name: str | None = None,
        scope: str | None = None,
        layer: int | None = None,
        when: Callable[[Equation], bool] | None = None,
    ) -> "Rules":
        """Add a rule for the equations for which all that is given holds; see `Where`.

        Raises:
            ValueError: nothing is given.

        >>> rules = zfjax.GUIDED.where(zfjax.rules.identity, name="relu", scope="*stage4")
        """
        key = Where(name, scope, layer, when)
        if key == Where():
            raise ValueError("where: expected a name, scope, layer or when; a rule for all equations is when=callable")
        return self._with({key: rule})

    def _with(self, rules: dict[Any, Rule]) -> "Rules":
        kept = tuple((key, rule) for key, rule in self.named if key not in rules)
        mine = frozenset(rules)
        return Rules((*kept, *rules.items()), self.expected | mine, self.beyond - mine)


class Chosen(NamedTuple):
    """A unit that a walk with some rules sees: equations that together have a name, and the rule for them, if any."""

    rule: Any
    name: str
    source: list[Any]


class Choice:
    """Finds the rule for each equation.

    Attributes:
        by_layer: whether linear layers must be known for it.
    """

    def __init__(self, named: Iterable[tuple[Key, Any]]):
        """Take pairs of keys and rules; any value can stand in for a rule."""
        pairs = list(enumerate(named))
        self._names = {key: (place, rule) for place, (key, rule) in pairs if isinstance(key, str)}
        self._wheres = [(place, key, rule) for place, (key, rule) in pairs if isinstance(key, Where)][::-1]
        names = {*self._names, *(where.name for _, where, _ in self._wheres)}
        by_layer = any(where.layer is not None or where.when is not None for _, where, _ in self._wheres)
        self.by_layer = by_layer or not names.isdisjoint(("convolution", "dense"))
        self._numbers = {where.layer for _, where, _ in self._wheres if where.layer is not None}

    def inside(self, view: View, equation: Any) -> list[View]:
        """The views inside of an equation; one for each iteration of a scan if a rule is for some of them alone."""
        views = view.inside(equation)
        if not self._numbers or equation.primitive.name != "scan" or not view.is_entered(equation):
            return views
        (body,), length = views, equation.params["length"]
        first, each, total = body.layers
        numbers = {number if number >= 0 else total + number for number in self._numbers}
        if numbers.isdisjoint(range(first, first + each * length)):
            return views
        return [body.later(iteration) for iteration in range(length)]

    def units(self, view: View, source: Iterable[Any]) -> list[Chosen]:
        """What a walk sees of equations of a view: parts with a rule as one, all else one by one."""
        ends = {end: found for end, parts in view.parts.items() if (found := self._part(view, parts))}
        inside = {id(equation) for found in ends.values() for equation in found.source[:-1]}
        units = []
        for equation in source:
            if found := ends.get(id(equation)):
                units.append(found)
            elif id(equation) not in inside:
                name = view.name(equation)
                units.append(Chosen(self._rule(view, name, [equation]), name, [equation]))
        return units

    def _part(self, view: View, parts: list[Part]) -> Chosen | None:
        """The first part with a rule."""
        for part in parts:
            if (rule := self._rule(view, part.name, part.equations)) is not None:
                return Chosen(rule, part.name, part.equations)
        return None

    def _rule(self, view: View, name: str, source: list[Any]) -> Any:
        last, rule = self._names.get(name, (-1, None))
        described = None
        for place, where, other in self._wheres:
            if place < last:
                break
            described = described or equation_of(view, name, source)
            if where.takes(described):
                return other
        return rule

    def acting(self, view: View, loop: str | None = None) -> set[tuple[Any, str, str | None]]:
        """Where rules act: each with the equation's name and the outermost equation around it that is not entered."""
        found: set[tuple[Any, str, str | None]] = set()
        for rule, name, source in self.units(view, view.jaxpr.eqns):
            if view.is_active(source[-1]):
                here = {(rule, name, loop)} if rule is not None else self.acting_inside(view, source[-1], loop)
                found |= here
        return found

    def acting_inside(self, view: View, equation: Any, loop: str | None = None) -> set[tuple[Any, str, str | None]]:
        """Like `acting`, inside one equation."""
        around = loop if view.is_entered(equation) else loop or equation.primitive.name
        return set().union(*(self.acting(inner, around) for inner in self.inside(view, equation)))


def equation_of(view: View, name: str, source: list[Any]) -> Equation:
    """An equation, or a part, as its rule gets it."""
    reads = view.reads(source)
    part = next((part for part in view.parts.get(id(source[-1]), []) if part.name == name), None)
    return Equation(
        name,
        tuple(source),
        tuple(reads),
        tuple(map(view.carries, reads)),
        view.scopes_of(source[0]),
        part.layer if part else None,
        view.jaxpr,
        part.nonnegative if part else False,
    )


def _is_inside(scopes: tuple[str, ...], pattern: str) -> bool:
    return any(fnmatch.fnmatchcase("/".join(scopes[:end]), pattern) for end in range(1, len(scopes) + 1))


def _is_numbered(layer: tuple[int, int] | None, number: int) -> bool:
    return layer is not None and layer[0] == (number if number >= 0 else layer[1] + number)
