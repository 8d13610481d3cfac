"""Learning: filters that reconstruct images better from the maps found for them, by conjugate gradients."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn.inference import Codes
from zfjax.experiments.adn.operators import Filters, Kernel, filter_gradient, reconstruct_pooled
from zfjax.experiments.adn.stack import Stack


def unit_length(kernel: Kernel) -> tuple[Kernel, Float[Array, " maps"]]:
    """Filters, one for each map, scaled to length 1, and their lengths before; a filter of zeros stays."""
    lengths = jnp.sqrt(jnp.square(kernel).sum((0, 1, 3)))
    return kernel / jnp.where(lengths > 0, lengths, 1)[None, None, :, None], lengths


def first_filters(below: Float[Array, "n h w c"], side: int, count: int, key: Array) -> Kernel:
    """Filters before they learn: windows of what they will reconstruct, of unit length.

    Windows are drawn at random, in proportion to their energy. Of filters drawn from a Gaussian some are never used by
    any image, and so never learn.

    Args:
        below: images, or the pooled maps of the layer below.
        side: of the filters.
        count: how many.
        key: of the draw.
    """
    size, ones = (1, side, side, below.shape[3]), (1, 1, 1, 1)
    energy = jax.lax.reduce_window(jnp.square(below), 0.0, jax.lax.add, size, ones, "VALID")
    chosen = jax.random.categorical(key, jnp.log(energy).ravel(), shape=(count,))
    image, row, column, _ = jnp.unravel_index(chosen, energy.shape)
    cut = jax.vmap(lambda *at: jax.lax.dynamic_slice(below, (*at, 0), size)[0])
    return unit_length(cut(image, row, column).transpose(1, 2, 0, 3))[0]


@shown_by_shape
class Inferred(NamedTuple):
    """Some images, and what was found for them."""

    images: Float[Array, "n h w 1"]
    switches: tuple[Integer[Array, "n _ _ _"], ...]  # of the layers below
    codes: Codes  # of the layer that learns


def improve(stack: Stack, filters: Filters, batches: Sequence[Inferred], steps: int = 2) -> Kernel:
    """The last layer's filters after conjugate-gradient steps on Σ ‖R z - y‖² over all images, whose maps z stay.

    This is `jax.scipy.sparse.linalg.cg` with its loop in Python, as in `inference`, and one pass over the images less.

    Args:
        stack: the layers.
        filters: of the layers up to the one that learns.
        batches: the images; they are taken one after another, which bounds the memory.
        steps: conjugate-gradient steps.

    Returns:
        its filters, not yet of unit length.
    """
    *below, kernel = filters
    residual = _total(stack, filters, batches, residual=True)
    direction, length = residual, jnp.vdot(residual, residual)
    for _ in range(steps):
        product = _total(stack, (*below, direction), batches, residual=False)
        curvature = jnp.vdot(direction, product)
        part = jnp.where(curvature > 0, length / curvature, 0)
        kernel, residual = kernel + part * direction, residual - part * product
        before, length = length, jnp.vdot(residual, residual)
        direction = residual + jnp.where(before > 0, length / before, 0) * direction
    return kernel


def _total(stack: Stack, filters: Filters, batches: Sequence[Inferred], *, residual: bool) -> Kernel:
    total = jnp.zeros_like(filters[-1])
    for batch in batches:
        total = total + _gradient(stack, tuple(filters), batch, residual)
    return total


@functools.partial(jax.jit, static_argnames=("stack", "residual"))
def _gradient(stack: Stack, filters: Filters, batch: Inferred, residual: bool) -> Kernel:
    """The adjoint in the filters, of what they reconstruct or of what that leaves of the images."""
    values, switches = batch.codes.values, (*batch.switches, batch.codes.switches)
    made = reconstruct_pooled(stack, filters, switches, values)
    return filter_gradient(stack, filters, switches, values, batch.images - made if residual else made)
