"""Inference: sparse maps that reconstruct images through fixed filters, and the switches that go with them.

A layer's cost of an image y is  λ/2 ‖R z - y‖² + |z|₁.  One iteration of ISTA goes down its gradient and shrinks:

    z ← shrink(z - t λ Rᵀ(R z - y), t)        t = 1 / (λ L),  L the largest eigenvalue of RᵀR

so that z moves by 1/L times the gradient of the squared error. After each iteration the maps are pooled and unpooled,
which sets the layer's switches; those below stay as they are. FISTA adds momentum, which helps while switches are
fixed; it starts again in each image in which a switch moves.

An iteration over a batch of images is one compiled program, and the loop over iterations is Python's: XLA:CPU takes two
to ten times as long for the same in a loop of its own (jax 0.10).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn.operators import Filters, Maps, Switches, pooled_at, project, reconstruct, unpooled
from zfjax.experiments.adn.stack import Stack
from zfjax.ops import abs_max_pool

Number = float | Float[Array, ""]


@shown_by_shape
class Codes(NamedTuple):
    """A layer's maps of some images after its pool, and its switches; without a pool, the maps and zeros."""

    values: Float[Array, "*batch h w maps"]
    switches: Integer[Array, "*batch h w maps"]


class Method(NamedTuple):
    """How maps are inferred: so many iterations in which switches move, then so many in which they are fixed."""

    moving: int = 10
    fixed: int = 0
    momentum: bool = False  # FISTA; False: ISTA


_USUAL = Method()


@functools.partial(jax.jit, static_argnames=("stack",))
def costs(
    stack: Stack, filters: Filters, switches: Switches, weight: Number, images: Maps, codes: Codes
) -> tuple[Float[Array, " n"], Float[Array, " n"], Integer[Array, " n"]]:
    """Of each image: the cost, the squared error, and how many values are not zero."""
    maps = unpooled(stack, len(filters), codes.values, codes.switches)
    error = jnp.square(reconstruct(stack, filters, switches, maps) - images).sum((1, 2, 3))
    size = jnp.abs(codes.values).sum((1, 2, 3))
    return jnp.asarray(0.5 * weight * error + size), error, jnp.count_nonzero(codes.values, (1, 2, 3))


def decibels(images: Float[Array, "..."], errors: Float[Array, "..."]) -> Float[Array, ""]:
    """The signal-to-noise ratio of images and the squared errors of their reconstructions, over all of them, in dB."""
    return 10 * (jnp.log10(jnp.square(images).sum()) - jnp.log10(errors.sum()))


def largest_eigenvalue(
    stack: Stack, filters: Filters, switches: Switches, like: Maps, iterations: int = 20
) -> Float[Array, " n"]:
    """The largest eigenvalue of RᵀR for each image's switches, from below, by power iteration.

    Args:
        stack: the layers.
        filters: as for `reconstruct`.
        switches: as for `reconstruct`.
        like: [N, H, W, 1], images, of which only the number and the type matter.
        iterations: products with RᵀR.
    """
    shape = (like.shape[0], *stack.maps(len(filters)))
    vector = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, *shape[1:]), like.dtype), shape)
    for _ in range(iterations):
        vector = _multiplied(stack, filters, switches, vector)
    return _lengths(vector)[:, 0, 0, 0]


@functools.partial(jax.jit, static_argnames=("stack",))
def _multiplied(stack: Stack, filters: Filters, switches: Switches, vector: Maps) -> Maps:
    """RᵀR times a vector of length 1, for each image."""
    return project(stack, filters, switches, reconstruct(stack, filters, switches, vector / _lengths(vector)))


def _lengths(maps: Array) -> Float[Array, "n 1 1 1"]:
    return jnp.sqrt(jnp.square(maps).sum((1, 2, 3), keepdims=True))


def no_codes(stack: Stack, number: int, images: Maps) -> Codes:
    """A layer's maps at zero, where inference starts."""
    shape = (images.shape[0], *stack.pooled(number))
    return Codes(jnp.zeros(shape, images.dtype), jnp.zeros(shape, jnp.uint8))


def infer(
    stack: Stack,
    filters: Filters,
    switches: Switches,
    weight: Number,
    bound: Number | Float[Array, " n"],
    images: Maps,
    codes: Codes,
    method: Method = _USUAL,
) -> Codes:
    """The maps of a layer, the last that has filters, for each of some images.

    Args:
        stack: the layers.
        filters: of the layers up to this one.
        switches: of the layers below it, for these images.
        weight: λ.
        bound: L, at least the largest eigenvalue of RᵀR: a number, or one for each image.
        images: [N, H, W, 1].
        codes: where to begin, from `no_codes` or an earlier call.
        method: how many iterations of which kind.
    """
    bound = jnp.broadcast_to(jnp.asarray(bound, images.dtype), images.shape[:1])
    for moving, iterations in ((True, method.moving), (False, method.fixed)):
        ones = jnp.ones(images.shape[0], images.dtype)
        state = _State(codes, codes, ones, 0 * ones)
        for _ in range(iterations):
            state = _step(stack, filters, switches, weight, bound, images, state, moving, method.momentum)
        codes = state.codes
    return codes


@shown_by_shape
class _State(NamedTuple):
    codes: Codes
    last: Codes  # those before
    speed: Float[Array, " n"]  # t of FISTA
    share: Float[Array, " n"]  # of the last move that is added to the next


@functools.partial(jax.jit, static_argnames=("stack", "moving", "momentum"))
def _step(
    stack: Stack,
    filters: Filters,
    switches: Switches,
    weight: Number,
    bound: Float[Array, " n"],
    images: Maps,
    state: _State,
    moving: bool,
    momentum: bool,
) -> _State:
    """One iteration; `moving`: the layer's switches are set anew."""
    number, bound = len(filters), bound[:, None, None, None]
    pool, codes = stack.layers[number - 1].pool, state.codes
    maps = unpooled(stack, number, *codes)
    if momentum:
        maps += state.share[:, None, None, None] * (maps - unpooled(stack, number, *state.last))
    error = reconstruct(stack, filters, switches, maps) - images
    maps -= project(stack, filters, switches, error) / bound
    maps = jnp.sign(maps) * jnp.maximum(jnp.abs(maps) - 1 / (weight * bound), 0)
    if moving and pool:
        found = Codes(*abs_max_pool(maps, pool))
    else:
        found = Codes(pooled_at(stack, number, maps, codes.switches), codes.switches)
    if not momentum:
        return state._replace(codes=found)
    speed = (1 + jnp.sqrt(1 + 4 * jnp.square(state.speed))) / 2
    moved = _moved(codes, found)
    return _State(found, codes, jnp.where(moved, 1, speed), jnp.where(moved, 0, (state.speed - 1) / speed))


def _moved(before: Codes, after: Codes) -> Bool[Array, " n"]:
    """In which images a switch moved whose window is not zero, before or after."""
    both = (before.values != 0) & (after.values != 0)
    return (both & (before.switches != after.switches)).any((1, 2, 3))
