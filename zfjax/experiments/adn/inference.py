"""Inference: sparse maps that reconstruct images through fixed filters, and the switches that go with them.

A layer's cost of an image y is  λ/2 ‖R z - y‖² + |z|₁.  One iteration of ISTA goes down its gradient and shrinks:

    z ← shrink(z - t λ Rᵀ(R z - y), t)        t = 1 / (λ L),  L the largest eigenvalue of RᵀR

so that z moves by 1/L times the gradient of the squared error. After each iteration the maps are pooled and unpooled,
which sets the layer's switches; those below stay as they are. FISTA adds momentum, which helps while switches are
fixed; it starts again in each image in which a switch moves.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from zfjax.experiments.adn.operators import Filters, Maps, Switches, pooled_at, project, reconstruct, unpooled
from zfjax.experiments.adn.stack import Stack
from zfjax.ops import abs_max_pool

Number = float | Float[Array, ""]


class Codes(NamedTuple):
    """A layer's maps of some images after its pool, and its switches; without a pool, the maps and zeros."""

    values: Float[Array, "*batch h w maps"]
    switches: Integer[Array, "*batch h w maps"]


class Method(NamedTuple):
    """How maps are inferred: so many iterations in which switches move, then so many in which they are fixed."""

    moving: int = 10
    fixed: int = 0
    momentum: bool = False  # FISTA; False: ISTA


PAPER = Method()


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


@functools.partial(jax.jit, static_argnames=("stack", "iterations"))
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
    start = jnp.broadcast_to(jax.random.normal(jax.random.key(0), (1, *shape[1:]), like.dtype), shape)

    def step(vector: Array, _: None) -> tuple[Array, Array]:
        vector /= _lengths(vector)
        vector = project(stack, filters, switches, reconstruct(stack, filters, switches, vector))
        return vector, _lengths(vector)[:, 0, 0, 0]

    return jax.lax.scan(step, start, None, length=iterations)[1][-1]


def _lengths(maps: Array) -> Float[Array, "n 1 1 1"]:
    return jnp.sqrt(jnp.square(maps).sum((1, 2, 3), keepdims=True))


def no_codes(stack: Stack, number: int, images: Maps) -> Codes:
    """A layer's maps at zero, where inference starts."""
    shape = (images.shape[0], *stack.pooled(number))
    return Codes(jnp.zeros(shape, images.dtype), jnp.zeros(shape, jnp.uint8))


@functools.partial(jax.jit, static_argnames=("stack", "method"))
def infer(
    stack: Stack,
    filters: Filters,
    switches: Switches,
    weight: Number,
    bound: Number | Float[Array, " n"],
    images: Maps,
    codes: Codes,
    method: Method = PAPER,
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
    number, pool = len(filters), stack.layers[len(filters) - 1].pool
    bound = jnp.broadcast_to(jnp.asarray(bound, images.dtype), images.shape[:1])[:, None, None, None]

    def descend(maps: Maps) -> Maps:
        error = reconstruct(stack, filters, switches, maps) - images
        maps = maps - project(stack, filters, switches, error) / bound
        threshold = 1 / (weight * bound)
        return jnp.sign(maps) * jnp.maximum(jnp.abs(maps) - threshold, 0)

    def pooled_anew(maps: Maps, _: Codes) -> Codes:
        return Codes(*abs_max_pool(maps, pool)) if pool else Codes(maps, codes.switches)

    def pooled_as_before(maps: Maps, before: Codes) -> Codes:
        return Codes(pooled_at(stack, number, maps, before.switches), before.switches)

    def step(pooled: Any, state: "_State", _: None) -> tuple["_State", None]:
        maps = unpooled(stack, number, *state.codes)
        if not method.momentum:
            codes = pooled(descend(maps), state.codes)
            return state._replace(codes=codes), None
        ahead = maps + state.share[:, None, None, None] * (maps - unpooled(stack, number, *state.last))
        codes = pooled(descend(ahead), state.codes)
        speed = (1 + jnp.sqrt(1 + 4 * jnp.square(state.speed))) / 2
        moved = _moved(state.codes, codes)
        share = jnp.where(moved, 0, (state.speed - 1) / speed)
        return _State(codes, state.codes, jnp.where(moved, 1, speed), share), None

    def run(state: _State, pooled: Any, iterations: int) -> _State:
        return jax.lax.scan(functools.partial(step, pooled), state, None, length=iterations)[0]

    ones = jnp.ones(images.shape[0], images.dtype)
    state = run(_State(codes, codes, ones, 0 * ones), pooled_anew, method.moving)
    return run(_State(state.codes, state.codes, ones, 0 * ones), pooled_as_before, method.fixed).codes


class _State(NamedTuple):
    codes: Codes
    last: Codes  # those before
    speed: Float[Array, " n"]  # t of FISTA
    share: Float[Array, " n"]  # of the last move that is added to the next


def _moved(before: Codes, after: Codes) -> Bool[Array, " n"]:
    """In which images a switch moved whose window is not zero, before or after."""
    both = (before.values != 0) & (after.values != 0)
    return (both & (before.switches != after.switches)).any((1, 2, 3))
