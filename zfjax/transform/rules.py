"""Rules for the deconvnet, guided backprop and the gradient: how a signal passes down through one equation.

`rule(equation, inputs)` is called on the way up and returns the way down; see `zfjax.transform.equations`. Those here
are for an equation with one input x that carries a signal, unless they say more.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from zfjax import ops
from zfjax.console.deprecation import renamed
from zfjax.ops import unpooling
from zfjax.ops.platforms import by_platform
from zfjax.ops.windows import Windows
from zfjax.transform.deep_lift import DEEP_LIFT as DEEP_LIFT
from zfjax.transform.equations import Activation as Activation
from zfjax.transform.equations import Down, Equation, Input, only
from zfjax.transform.equations import Evaluated as Evaluated
from zfjax.transform.equations import Rule as Rule
from zfjax.transform.equations import takes_inputs as takes_inputs
from zfjax.transform.relevance.composites import ATTN_LRP as ATTN_LRP
from zfjax.transform.relevance.composites import EPSILON_ALPHA2_BETA1 as EPSILON_ALPHA2_BETA1
from zfjax.transform.relevance.composites import EPSILON_ALPHA2_BETA1_FLAT as EPSILON_ALPHA2_BETA1_FLAT
from zfjax.transform.relevance.composites import EPSILON_GAMMA_BOX as EPSILON_GAMMA_BOX
from zfjax.transform.relevance.composites import EPSILON_PLUS as EPSILON_PLUS
from zfjax.transform.relevance.composites import EPSILON_PLUS_FLAT as EPSILON_PLUS_FLAT
from zfjax.transform.relevance.composites import LRP_ZERO as LRP_ZERO
from zfjax.transform.relevance.composites import epsilon_gamma_box as epsilon_gamma_box
from zfjax.transform.selection import Rules
from zfjax.transform.selection import Where as Where

__getattr__ = renamed(__name__, unpool_at_centres="unpool_at_centers")


@takes_inputs
def rectify(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the positive part of the signal, whatever x was.

    Paper: section 2.1, "Rectification".
    """
    only(equation, inputs)
    return ops.rectify


@takes_inputs
def guide(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the positive part of the signal where x was positive too (Springenberg et al. 2014)."""
    passed = only(equation, inputs) > 0
    return lambda signal: jnp.where(passed, ops.rectify(signal), jnp.zeros_like(signal))


@takes_inputs
def gradient(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the signal by the derivative, as without a rule: to take back an earlier rule for some equations."""
    _, pull = jax.vjp(equation.of_signals(inputs), *(input.value for input in inputs if input.carries))
    return pull


@takes_inputs
def pass_through(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the signal through the activation itself: for leaky ReLUs, its negative part times their slope.

    The paper's own reason: what comes down a layer should be something that the layer can produce (section 2.1), which
    for a ReLU is a positive signal, so that it passes through a ReLU. A leaky ReLU produces any number.
    """
    only(equation, inputs)
    return equation.of_signals(inputs)


@takes_inputs
def guide_through(equation: Equation, inputs: Sequence[Input]) -> Down:
    """`pass_through`, then the activation's derivative at x. For a ReLU this would be `guide`."""
    fun = equation.of_signals(inputs)
    _, pull = jax.vjp(fun, only(equation, inputs))
    return lambda signal: pull(fun(signal))[0]


@takes_inputs
def hold(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass no signal: what comes out is kept from the way up, as the switches of a pool are."""
    x = only(equation, inputs)
    return lambda signal: jnp.zeros_like(x)


@takes_inputs
def unclip(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the signal unchanged, even where x was beyond the bound.

    At the upper end of a clip, as in ReLU6, the derivative is zero, and exactly the units that fire most are there:
    by the derivative, nothing would have made them fire. The deconvnet's rectification depends on the sign of the
    signal and never on the size of x: reconstructions "should be positive" (section 2.1). An upper bound changes no
    sign, so it has no part in the way down.
    """
    only(equation, inputs)
    return lambda signal: signal


@takes_inputs
def identity(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Pass the signal unchanged.

    Paper: ECCV version, section 2.1: contrast normalization has no part in the way down.
    """
    only(equation, inputs)
    return lambda signal: signal


@takes_inputs
def unpool(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Put each value back where its maximum was; where windows overlap, values add up.

    Paper: section 2.1, "Unpooling".
    """
    windows, x = _windows(equation), only(equation, inputs)
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
    _, pull = jax.vjp(equation.fun, x)
    return pull(signal)[0]


@takes_inputs
def unpool_overwriting(equation: Equation, inputs: Sequence[Input]) -> Down:
    """`unpool`, but where windows overlap the last in row-major order wins, as in PyTorch's `max_unpool2d`."""
    windows, x = _windows(equation), only(equation, inputs)
    _, at = unpooling.pool(x, windows)
    return lambda signal: unpooling.unpool_overwriting(signal, at, windows, x.shape)


@takes_inputs
def unpool_at_centers(equation: Equation, inputs: Sequence[Input]) -> Down:
    """Put each value at the center of its window: unpooling without switches (Mahendran & Vedaldi 2016)."""
    windows, x = _windows(equation), only(equation, inputs)
    at = jnp.asarray(unpooling.centers(x.shape, windows))
    return lambda signal: unpooling.unpool(signal, at, windows, x.shape)


@takes_inputs
def unpool_whole(equation: Equation, inputs: Sequence[Input]) -> Down:
    """`unpool` for the maximum over whole axes (`jnp.max`): put all at the first maximum in row-major order."""
    axes, x = equation.params["axes"], only(equation, inputs)
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
