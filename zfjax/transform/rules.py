"""How a signal passes down through one equation of a function, and sets of such rules.

A rule is called on the way up, for each equation that carries its name, with the equation (a JAX `JaxprEqn`, whose
`params` say what it does) and its input x: the one input that depends on the images. It returns the way down: a
function from the signal at the equation's output, shaped as that, to the signal at x, shaped as x. What this function
closes over, such as switches, is kept until then.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from zfjax import ops
from zfjax.console.deprecation import renamed
from zfjax.ops import unpooling
from zfjax.ops.platforms import by_platform
from zfjax.ops.windows import Windows

__getattr__ = renamed(__name__, unpool_at_centres="unpool_at_centers")


class Activation(NamedTuple):
    """What a rule gets for an activation other than ReLU, or attention, in place of an equation: it may be several.

    Attributes:
        name: such as gelu; see `Rules`.
        fun: the same as a function of x alone.
    """

    name: str
    fun: Callable[[Any], Any]


Equation = Any  # a JaxprEqn, whose class is public only under jax.extend, or an Activation
Down = Callable[[jax.Array], jax.Array]
Rule = Callable[[Equation, jax.Array | np.ndarray], Down]


@dataclasses.dataclass(frozen=True)
class Rules:
    """An immutable set of rules by name.

    The name is that of a function under `jax.jit` or of a JAX primitive. `relu` also stands for `jnp.maximum(x, 0)` and
    `jnp.clip(x, 0)`, and `saturation` for the upper bound of a ReLU, as in ReLU6. An equation without a rule passes
    signals by its own transpose or, if it is not linear, by its own derivative at the forward values.

    These names stand for an activation however it is written, with its numbers or weights: `gelu` (exact, by tanh, or
    x · sigmoid(1.702 x)), `silu` (swish), `hard_swish`, `mish`, `elu` (CELU too, and SELU without its factor),
    `leaky_relu` (PReLU too), `softplus`, `sigmoid`, `tanh`, `hard_sigmoid`, `hard_tanh`. And `attention` is a softmax
    that weighs other values; its rule's x are the exponentials before they are divided by their sum.

    Attributes:
        named: pairs of a name and its rule.
        expected: the names whose absence from a function is worth a warning; for `relu` any activation will do.
        beyond: the names whose rule no paper gives, which is worth a warning too.
    """

    named: tuple[tuple[str, Rule], ...] = ()
    expected: frozenset[str] = frozenset()
    beyond: frozenset[str] = frozenset()

    def extend(self, **rules: Rule) -> "Rules":
        """Add rules to these, or replace those of the same name.

        >>> @jax.jit
        ... def swish(x):
        ...     return x * jax.nn.sigmoid(x)
        >>> rules = zfjax.DECONVNET.extend(swish=zfjax.rules.rectify)
        """
        mine = frozenset(rules)
        return Rules(tuple((dict(self.named) | rules).items()), self.expected | mine, self.beyond - mine)


def rectify(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Pass the positive part of the signal, whatever x was.

    Paper: section 2.1, "Rectification".
    """
    return ops.rectify


def guide(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Pass the positive part of the signal where x was positive too (Springenberg et al. 2014)."""
    passed = x > 0
    return lambda signal: jnp.where(passed, ops.rectify(signal), jnp.zeros_like(signal))


def pass_through(activation: Activation, x: jax.Array | np.ndarray) -> Down:
    """Pass the signal through the activation itself: for leaky ReLUs, its negative part times their slope.

    The paper's own reason: what comes down a layer should be something that the layer can produce (section 2.1), which
    for a ReLU is a positive signal, so that it passes through a ReLU. A leaky ReLU produces any number.
    """
    return activation.fun


def guide_through(activation: Activation, x: jax.Array | np.ndarray) -> Down:
    """`pass_through`, then the activation's derivative at x. For a ReLU this would be `guide`."""
    _, pull = jax.vjp(activation.fun, x)
    return lambda signal: pull(activation.fun(signal))[0]


def hold(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Pass no signal: what comes out is kept from the way up, as the switches of a pool are."""
    return lambda signal: jnp.zeros_like(x)


def unclip(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Pass the signal unchanged, even where x was beyond the bound.

    At the upper end of a clip, as in ReLU6, the derivative is zero, and exactly the units that fire most are there:
    by the derivative, nothing would have made them fire. The deconvnet's rectification depends on the sign of the
    signal and never on the size of x: reconstructions "should be positive" (section 2.1). An upper bound changes no
    sign, so it has no part in the way down.
    """
    return lambda signal: signal


def identity(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Pass the signal unchanged.

    Paper: ECCV version, section 2.1: contrast normalization has no part in the way down.
    """
    return lambda signal: signal


def unpool(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Put each value back where its maximum was; where windows overlap, values add up.

    Paper: section 2.1, "Unpooling".
    """
    windows = _windows(equation)
    adjoint = functools.partial(_max_pool_adjoint, equation, x)
    # Switches unroll a window's cells. For large windows JAX's adjoint gives the same; for dilated ones it has none.
    if windows.cells > 64 and set(windows.dilation) == {1}:
        return adjoint
    _, at = unpooling.pool(x, windows)

    def by_switches(signal: jax.Array) -> jax.Array:
        return unpooling.unpool(signal, at, windows, x.shape)

    if set(windows.dilation) != {1}:
        return by_switches
    # A TPU has an instruction for the adjoint; by switches it would write a map of the full size for each cell.
    return lambda signal: by_platform(signal, tpu=adjoint, default=by_switches)


def _max_pool_adjoint(equation: Equation, x: jax.Array | np.ndarray, signal: jax.Array) -> jax.Array:
    _, pull = jax.vjp(lambda x: equation.primitive.bind(x, **equation.params), x)
    return pull(signal)[0]


def unpool_overwriting(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """`unpool`, but where windows overlap the last in row-major order wins, as in PyTorch's `max_unpool2d`."""
    windows = _windows(equation)
    _, at = unpooling.pool(x, windows)
    return lambda signal: unpooling.unpool_overwriting(signal, at, windows, x.shape)


def unpool_at_centers(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """Put each value at the center of its window: unpooling without switches (Mahendran & Vedaldi 2016)."""
    windows = _windows(equation)
    at = jnp.asarray(unpooling.centers(x.shape, windows))
    return lambda signal: unpooling.unpool(signal, at, windows, x.shape)


def unpool_whole(equation: Equation, x: jax.Array | np.ndarray) -> Down:
    """`unpool` for the maximum over whole axes (`jnp.max`): put all at the first maximum in row-major order."""
    axes = equation.params["axes"]
    kept = tuple(axis for axis in range(x.ndim) if axis not in axes)
    folded = math.prod(x.shape[axis] for axis in axes)
    columns = x.transpose(*kept, *axes).reshape(*(x.shape[axis] for axis in kept), folded)
    first = jnp.argmax(columns, axis=-1, keepdims=True)

    def down(signal: jax.Array) -> jax.Array:
        cells = jax.lax.broadcasted_iota(first.dtype, columns.shape, len(kept))
        spread = jnp.where(cells == first, signal[..., None], jnp.zeros((), signal.dtype))
        unflat = spread.reshape(*(x.shape[axis] for axis in (*kept, *axes)))
        return jnp.moveaxis(unflat, range(x.ndim), (*kept, *axes))

    return down


_SMOOTH = ("gelu", "silu", "hard_swish", "mish", "elu")  # relatives of ReLU, which is what they are for large x
_BEYOND = frozenset({*_SMOOTH, "leaky_relu"})

GRADIENT = Rules()
DECONVNET = Rules(
    (
        ("relu", rectify),
        ("saturation", unclip),
        ("reduce_window_max", unpool),
        ("reduce_max", unpool_whole),
        ("local_response_norm", identity),
        *((name, rectify) for name in _SMOOTH),
        ("leaky_relu", pass_through),
        ("attention", hold),
    ),
    frozenset({"relu"}),
    _BEYOND | {"attention"},
)
GUIDED = Rules(
    (
        ("relu", guide),
        ("reduce_window_max", unpool),
        *((name, guide) for name in _SMOOTH),
        ("leaky_relu", guide_through),
    ),
    frozenset({"relu"}),
    _BEYOND,
)


def _windows(equation: Equation) -> Windows:
    """The windows of a reduce_window."""
    names = ("window_dimensions", "window_strides", "padding", "base_dilation", "window_dilation")
    # JAX 0.7 keeps the padding of "SAME" as NumPy integers.
    return Windows(*(jax.tree.map(int, tuple(equation.params[name])) for name in names))
