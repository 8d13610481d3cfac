"""A linear layer taken apart: its weights, with batch norm folded in, and its bias."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from zfjax.transform import jaxprs
from zfjax.transform.equations import Equation, Input
from zfjax.transform.linear import CORES, MOVES, maps_of

_SIGNAL = object()  # in the place of the value that carries the signal


@dataclasses.dataclass(frozen=True)
class Layer:
    """y = apply(x, kernel) + bias.

    Attributes:
        x: the input that carries a signal.
        kernel: the weights, times what batch norm or another constant scales the maps by.
        bias: all that is added, shaped as y; None if nothing is.
        apply: linear in both.
        nonnegative: whether x is known to have no negative numbers.
        axes: batch and channels of a convolution's x; None for a matrix product.
    """

    x: Any
    kernel: Any
    bias: Any
    apply: Callable[[Any, Any], Any]
    nonnegative: bool
    axes: tuple[int, int] | None

    def parts(self, sign: int, whole: float = 0.0, part: float = 1.0) -> tuple[Any, Callable[[Any], Any]]:
        """The sum of the x·w of one sign, without the bias; and the way down of a signal c to it: each x·w·c.

        Args:
            sign: 1 or -1.
            whole: how often the x·w of any sign count.
            part: how often those of this sign count besides.
        """
        positive, negative = jnp.maximum(self.kernel, 0), jnp.minimum(self.kernel, 0)
        sides = (positive, negative) if sign > 0 else (negative, positive)
        same, opposite = (whole * self.kernel + part * side if whole else side for side in sides)
        if self.nonnegative:
            return self.of(self.x, same)
        above, down_above = self.of(jnp.maximum(self.x, 0), same)
        below, down_below = self.of(jnp.minimum(self.x, 0), opposite)
        return above + below, lambda signal: down_above(signal) + down_below(signal)

    def of(self, x: Any, kernel: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The sum of all x·w for other inputs or weights, without the bias; and the way down to it: each x·w·c."""
        z, down = self.slopes(x, kernel)
        return z, lambda signal: x * down(signal)

    def slopes(self, x: Any, kernel: Any) -> tuple[Any, Callable[[Any], Any]]:
        """The same sum; and the way down of a signal c to the slopes: each w·c."""
        z, pull = jax.vjp(lambda x: self.apply(x, kernel), x)
        return z, lambda signal: pull(signal)[0]

    def added(self, sign: int) -> Any:
        """The bias where it has this sign, else zero."""
        if self.bias is None:
            return jnp.zeros((), self.x.dtype)
        return jnp.maximum(self.bias, 0) if sign > 0 else jnp.minimum(self.bias, 0)


def layer(equation: Equation, inputs: Sequence[Input]) -> Layer:
    """Take a `convolution` or `dense` apart.

    Raises:
        ValueError: it is another equation.
    """
    if equation.name not in CORES.values():
        raise ValueError(
            f"rule {equation.name!r}: expected a convolution or a matrix product of one signal with weights; for what"
            " adds up signals there is zfjax.transform.relevance.Epsilon"
        )
    env = {v: _SIGNAL if i.carries else i.value for v, i in zip(equation.variables, inputs, strict=True)}
    (x,) = (input.value for input in inputs if input.carries)
    found = _Reading(equation.jaxpr)
    found.follow(equation.source, env)
    core, kernel = found.core, found.kernel

    def apply(x: Any, kernel: Any) -> Any:
        return found.after(core(x, kernel), only_moves=True)

    shape = jax.eval_shape(core, x, kernel)
    zero, kinds = jnp.zeros(shape.shape, shape.dtype), {above.primitive.name for above, _ in found.above}
    if not kinds.isdisjoint(("mul", "div")):
        kernel = found.scaled(zero)
    bias = None if kinds.isdisjoint(("add", "add_any", "sub")) else found.after(zero).astype(x.dtype)
    return Layer(x, kernel, bias, apply, equation.nonnegative, found.axes())


class _Core(NamedTuple):
    """A convolution or product, in an equation that is it or only calls it.

    Attributes:
        equation: the convolution or product itself.
        side: which of its operands are the weights.
        x: which operand of the equation around it carries the signal.
        weights: and which are the weights.
    """

    equation: Any
    side: int
    x: int
    weights: int


class _Reading:
    """The equations of a layer, followed from its input to its result, through calls.

    Attributes:
        found: the convolution or product.
        core: it as a function of x and the kernel; with the call around it if there is nothing else in this, so that it
            keeps a derivative of its own.
        kernel: the weights.
        above: the equations above, each with its operands.
    """

    core: Callable[[Any, Any], Any]
    kernel: Any

    def __init__(self, jaxpr: jex.Jaxpr):
        self._jaxpr = jaxpr
        self.found: _Core | None = None
        self.above: list[tuple[Any, list[Any]]] = []

    def follow(self, equations: Sequence[Any], env: dict[Any, Any]) -> None:
        for equation in equations:
            operands = [None if isinstance(atom, jex.Literal) else env[atom] for atom in equation.invars]
            found = None if self.found else _core(equation, [operand is _SIGNAL for operand in operands])
            made: Sequence[Any] = [_SIGNAL]
            if not any(operand is _SIGNAL for operand in operands):
                made = self._evaluated(equation, operands)
            elif found:
                self.found, self.kernel = found, operands[found.weights]
                self.core = self._core_of(equation, operands, found)
            elif equation.primitive.name in jaxprs.CALLS:
                body = jaxprs.body(equation)
                inside = dict(zip(body.jaxpr.constvars, body.consts, strict=True))
                literals = [atom.val if isinstance(atom, jex.Literal) else None for atom in equation.invars]
                given = [o if o is not None else value for o, value in zip(operands, literals, strict=True)]
                self.follow(body.jaxpr.eqns, inside | dict(zip(body.jaxpr.invars, given, strict=True)))
            else:
                self.above.append((equation, operands))
            env.update(zip(equation.outvars, made, strict=True))

    def _core_of(self, equation: Any, operands: list[Any], found: _Core) -> Callable[[Any, Any], Any]:
        def core(x: Any, kernel: Any) -> Any:
            given = {found.x: x, found.weights: kernel}
            return self._evaluated(equation, [given.get(i, operand) for i, operand in enumerate(operands)])[0]

        return core

    def after(self, value: Any, only_moves: bool = False) -> Any:
        """What becomes of the convolution's result, or where its numbers go."""
        for equation, operands in self.above:
            if not only_moves or equation.primitive.name in MOVES | {"slice"}:
                given = [value if operand is _SIGNAL else operand for operand in operands]
                (value,) = self._evaluated(equation, given)
        return value

    def scaled(self, zero: Any) -> Any:
        """The weights times what their maps are multiplied by, which is the same everywhere on a map."""
        y, pull = jax.vjp(self.after, zero)
        (factors,) = pull(jnp.ones_like(y))
        ours, axes = maps_of(self.found.equation, self.found.side) if self.found else ((), ())
        at = tuple(slice(None) if axis in ours else 0 for axis in range(zero.ndim))
        shape = [self.kernel.shape[axis] if axis in axes else 1 for axis in range(self.kernel.ndim)]
        return self.kernel * factors[at].reshape(shape if axes else [1] * self.kernel.ndim).astype(self.kernel.dtype)

    def axes(self) -> tuple[int, int] | None:
        """Batch and channels of a convolution's x."""
        if self.found is None or self.found.equation.primitive.name != "conv_general_dilated":
            return None
        batch, channels, *_ = self.found.equation.params["dimension_numbers"].lhs_spec
        return batch, channels

    def _evaluated(self, equation: Any, operands: Sequence[Any]) -> list[Any]:
        values = {v: o for v, o in zip(equation.invars, operands, strict=True) if not isinstance(v, jex.Literal)}
        piece = jaxprs.piece(self._jaxpr, [equation], list(values), equation.outvars)
        return jaxprs.evaluate(piece, (), list(values.values()))


def _core(equation: Any, signals: list[bool]) -> _Core | None:
    """The convolution or product that an equation is, or calls and nothing else; its operands for x and the weights."""
    if sum(signals) != 1:
        return None
    at, kind = signals.index(True), equation.primitive.name
    if kind in CORES:
        return _Core(equation, 1 - at, at, 1 - at)
    if kind not in jaxprs.CALLS:
        return None
    body = jaxprs.body(equation).jaxpr
    x = body.invars[at]
    users = [inner for inner in body.eqns if x in jaxprs.variables(inner.invars)]
    if len(users) != 1 or list(body.outvars) != list(users[0].outvars):
        return None
    reads = [atom is x for atom in users[0].invars]
    found = _core(users[0], reads)
    if found is None or users[0].invars[found.weights] not in body.invars:
        return None
    return found._replace(x=at, weights=body.invars.index(users[0].invars[found.weights]))
