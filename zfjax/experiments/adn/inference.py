"""Inference: sparse maps that reconstruct images through fixed filters, and the switches that go with them.

A layer's cost of an image y is  λ/2 ‖R z - y‖² + |z|₁.  One iteration of ISTA goes down its gradient and shrinks:

    z ← shrink(z - t λ Rᵀ(R z - y), t)        t = 1 / (λ L),  L the largest eigenvalue of RᵀR

so that z moves by 1/L times the gradient of the squared error. After each iteration the maps are pooled and unpooled,
which sets the layer's switches; those below stay as they are. While switches are fixed, only the cells that they point
to can move, and their L is a seventh of that of all cells, so steps are that much longer. FISTA adds momentum; it
starts again in each image in which a switch moves, or whose cost rises by a fifth: then L was too small for it, and is
doubled.

At the end the values that are left can be fitted again by conjugate gradients, without the penalty, which made them too
small: |z|₁ chooses cells, least squares their values. Upper layers need that: their largest eigenvalue is a hundred
times a cell's own, so that steps of 1/L take hundreds of iterations to do the same. Fitted values reconstruct, but say
little by themselves: large ones cancel each other. Which activation is strongest is asked before.

An iteration over a batch of images is one compiled program, and the loop over iterations is Python's: XLA:CPU takes two
to ten times as long for the same in a loop of its own (jax 0.10).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Integer

from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn.operators import (
    Filters,
    Maps,
    Switches,
    project,
    project_pooled,
    reconstruct,
    reconstruct_pooled,
    unpooled,
)
from zfjax.experiments.adn.stack import Stack
from zfjax.ops import abs_max_pool

Number = float | Float[Array, ""]
Own = Integer[Array, "n h w maps"]


@shown_by_shape
class Codes(NamedTuple):
    """A layer's maps of some images after its pool, and its switches; without a pool, the maps and zeros."""

    values: Float[Array, "*batch h w maps"]
    switches: Integer[Array, "*batch h w maps"]


@shown_by_shape
class Bounds(NamedTuple):
    """L, at least the largest eigenvalue of RᵀR: a number, or one for each image."""

    moving: Number | Float[Array, " n"]  # of all cells
    fixed: Number | Float[Array, " n"]  # of those that the layer's switches point to; of a layer without a pool, of all


class Method(NamedTuple):
    """How maps are inferred: so many iterations in which switches move, then so many in which they are fixed."""

    moving: int = 10
    fixed: int = 0
    momentum: bool = False  # FISTA; False: ISTA
    refit: int = 0  # then so many conjugate-gradient steps on the values that are not zero


_USUAL = Method()


@functools.partial(jax.jit, static_argnames=("stack",))
def costs(
    stack: Stack, filters: Filters, switches: Switches, weight: Number, images: Maps, codes: Codes
) -> tuple[Float[Array, " n"], Float[Array, " n"], Integer[Array, " n"]]:
    """Of each image: the cost, the squared error, and how many values are not zero."""
    made = reconstruct_pooled(stack, filters, (*switches, codes.switches), codes.values)
    error = jnp.square(made - images).sum((1, 2, 3))
    size = jnp.abs(codes.values).sum((1, 2, 3))
    return jnp.asarray(0.5 * weight * error + size), error, jnp.count_nonzero(codes.values, (1, 2, 3))


def decibels(images: Maps, errors: Float[Array, " n"]) -> Float[Array, " n"]:
    """The signal-to-noise ratio in dB of each image, from the squared error of its reconstruction; NaN for zeros."""
    energy = jnp.square(images).sum((1, 2, 3))
    ratio = jnp.where(energy > 0, energy, 1) / jnp.maximum(errors, 1e-30)
    return jnp.where(energy > 0, 10 * jnp.log10(ratio), jnp.nan)


def largest_eigenvalue(
    stack: Stack, filters: Filters, switches: Switches, like: Maps, iterations: int = 20, own: Own | None = None
) -> Float[Array, " n"]:
    """The largest eigenvalue of RᵀR for each image's switches, from below, by power iteration.

    Args:
        stack: the layers.
        filters: as for `reconstruct`.
        switches: as for `reconstruct`.
        like: [N, H, W, 1], images, of which only the number, the type and the devices matter.
        iterations: products with RᵀR.
        own: the layer's own switches, if only the cells that they point to shall count.
    """
    shape = (like.shape[0], *stack.maps(len(filters))) if own is None else own.shape
    vector = jax.random.normal(jax.random.key(0), (1, *shape[1:]), like.dtype)
    vector = _beside(like, jnp.broadcast_to(vector, shape))
    for _ in range(iterations):
        vector = _multiplied(stack, filters, switches, vector, own)
    return _lengths(vector)[:, 0, 0, 0]


@functools.partial(jax.jit, static_argnames=("stack",))
def _multiplied(stack: Stack, filters: Filters, switches: Switches, vector: Maps, own: Own | None) -> Maps:
    """RᵀR times a vector of length 1, for each image."""
    vector /= _lengths(vector)
    if own is None:
        return project(stack, filters, switches, reconstruct(stack, filters, switches, vector))
    known = stack, filters, (*switches, own)
    return project_pooled(*known, reconstruct_pooled(*known, vector))


def _lengths(maps: Array) -> Float[Array, "n 1 1 1"]:
    return jnp.sqrt(jnp.square(maps).sum((1, 2, 3), keepdims=True))


def no_codes(stack: Stack, number: int, images: Maps) -> Codes:
    """A layer's maps at zero, where inference starts."""
    shape = (images.shape[0], *stack.pooled(number))
    zeros = Codes(jnp.zeros(shape, images.dtype), jnp.zeros(shape, jnp.uint8))
    return _beside(images, zeros)


def infer(
    stack: Stack,
    filters: Filters,
    switches: Switches,
    weight: Number,
    bounds: Bounds,
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
        bounds: L.
        images: [N, H, W, 1].
        codes: where to begin, from `no_codes` or an earlier call.
        method: how many iterations of which kind.
    """
    ones = jnp.ones(images.shape[0], images.dtype)
    for moving, iterations in ((True, method.moving), (False, method.fixed)):
        state = _State(codes, codes, ones, 0 * ones, jnp.inf * ones, ones * (bounds.moving if moving else bounds.fixed))
        state = _beside(images, state)
        for _ in range(iterations):
            state = _step(stack, filters, switches, weight, images, state, moving, method.momentum)
        codes = state.codes
    return fitted(stack, filters, switches, images, codes, method.refit)


def fitted(stack: Stack, filters: Filters, switches: Switches, images: Maps, codes: Codes, steps: int) -> Codes:
    """The maps of a layer with the values that are not zero fitted again, by conjugate gradients without a penalty.

    Args:
        stack: as for `infer`.
        filters: as for `infer`.
        switches: as for `infer`.
        images: [N, H, W, 1].
        codes: from `infer`.
        steps: conjugate-gradient steps; 0: none.
    """
    if not steps:
        return codes
    known = stack, filters, (*switches, codes.switches)
    fit = _unfitted(*known, images, codes.values)
    for _ in range(steps):
        fit = _refit(*known, fit)
    return codes._replace(values=fit.values)


@shown_by_shape
class _State(NamedTuple):
    codes: Codes
    last: Codes  # those before
    speed: Float[Array, " n"]  # t of FISTA
    share: Float[Array, " n"]  # of the last move that is added to the next
    lowest: Float[Array, " n"]  # cost so far
    bound: Float[Array, " n"]  # L


@functools.partial(jax.jit, static_argnames=("stack", "moving", "momentum"))
def _step(
    stack: Stack,
    filters: Filters,
    switches: Switches,
    weight: Number,
    images: Maps,
    state: _State,
    moving: bool,
    momentum: bool,
) -> _State:
    """One iteration; `moving`: the layer's switches are set anew."""
    number, codes, last = len(filters), state.codes, state.last
    pool, values, all_switches = stack.layers[number - 1].pool, codes.values, (*switches, codes.switches)
    if momentum:
        same = codes.switches == last.switches
        values += state.share[:, None, None, None] * jnp.where(same, values - last.values, 0)
    error = reconstruct_pooled(stack, filters, all_switches, values) - images
    cost = 0.5 * weight * jnp.square(error).sum((1, 2, 3)) + jnp.abs(values).sum((1, 2, 3))
    short = (cost > 1.2 * state.lowest) & (not moving)  # momentum makes it swing, but not by that much
    bound = jnp.where(short, 2 * state.bound, state.bound)
    step = 1 / bound[:, None, None, None]
    if moving and pool:
        maps = unpooled(stack, number, values, codes.switches) - step * project(stack, filters, switches, error)
        found = Codes(*abs_max_pool(_shrunk(maps, step / weight), pool))
    else:
        values -= step * project_pooled(stack, filters, all_switches, error)
        found = Codes(_shrunk(values, step / weight), codes.switches)
    state = state._replace(codes=found, lowest=jnp.minimum(cost, state.lowest), bound=bound)
    if not momentum:
        return state
    speed = (1 + jnp.sqrt(1 + 4 * jnp.square(state.speed))) / 2
    again = _moved(codes, found) | short
    share = jnp.where(again, 0, (state.speed - 1) / speed)
    return state._replace(last=codes, speed=jnp.where(again, 1, speed), share=share)


@shown_by_shape
class _Fit(NamedTuple):
    values: Maps
    kept: Bool[Array, "n _ _ _"]  # which may change: those that were not zero
    residual: Maps  # Rᵀ(y - R z) of these
    direction: Maps
    length: Float[Array, "n 1 1 1"]  # of the residual, squared


@functools.partial(jax.jit, static_argnames=("stack",))
def _unfitted(stack: Stack, filters: Filters, switches: Switches, images: Maps, values: Maps) -> _Fit:
    left = images - reconstruct_pooled(stack, filters, switches, values)
    kept = values != 0
    residual = jnp.where(kept, project_pooled(stack, filters, switches, left), 0)
    return _Fit(values, kept, residual, residual, _products(residual, residual))


@functools.partial(jax.jit, static_argnames=("stack",))
def _refit(stack: Stack, filters: Filters, switches: Switches, fit: _Fit) -> _Fit:
    """One step of conjugate gradients on ‖R z - y‖² in the values that are kept, for each image by itself."""
    made = reconstruct_pooled(stack, filters, switches, fit.direction)
    part = _ratio(fit.length, _products(made, made))
    up = jnp.where(fit.kept, project_pooled(stack, filters, switches, made), 0)
    residual = fit.residual - part * up
    length = _products(residual, residual)
    direction = residual + _ratio(length, fit.length) * fit.direction
    return _Fit(fit.values + part * fit.direction, fit.kept, residual, direction, length)


def _products(one: Maps, other: Maps) -> Float[Array, "n 1 1 1"]:
    return (one * other).sum((1, 2, 3), keepdims=True)


def _ratio(above: Array, below: Array) -> Array:
    """0 where there is nothing below, as in images of zeros."""
    return jnp.where(below > 0, above / jnp.where(below > 0, below, 1), 0)


def _beside(images: Maps, tree: Any) -> Any:
    """On the devices of the images, as what is computed from them is; else each program would be compiled twice."""
    return jax.device_put(tree, images.sharding) if images.committed else tree


def _shrunk(maps: Maps, by: Float[Array, "n 1 1 1"]) -> Maps:
    return jnp.sign(maps) * jnp.maximum(jnp.abs(maps) - by, 0)


def _moved(before: Codes, after: Codes) -> Bool[Array, " n"]:
    """In which images a switch moved whose window is not zero, before or after."""
    both = (before.values != 0) & (after.values != 0)
    return (both & (before.switches != after.switches)).any((1, 2, 3))
