"""Learning: filters that reconstruct images better from the maps found for them, by conjugate gradients."""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.scipy.sparse.linalg import cg
from jaxtyping import Array, Float, Integer, PyTree

from zfjax.experiments.adn.inference import Codes
from zfjax.experiments.adn.operators import Filters, Kernel, Switches, filter_gradient, reconstruct, unpooled
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


@functools.partial(jax.jit, static_argnames=("stack", "steps"))
def improve(
    stack: Stack,
    filters: Filters,
    switches: Sequence[Integer[Array, "batches n _ _ _"]],
    images: Float[Array, "batches n h w 1"],
    codes: Codes,
    steps: int = 2,
) -> Kernel:
    """The last layer's filters after conjugate-gradient steps on ‖R z - y‖² over all images, whose maps z stay.

    Args:
        stack: the layers.
        filters: of the layers up to the one that learns.
        switches: of the layers below it, in batches like the images.
        images: [batches, N, H, W, 1]; batches are taken one after another, which bounds the memory.
        codes: of the layer that learns, in batches.
        steps: conjugate-gradient steps.

    Returns:
        its filters, not yet of unit length.
    """

    def sum_over_batches(fun: Callable[..., Array]) -> Array:
        def add(total: Array, batch: PyTree) -> tuple[Array, None]:
            images, codes, switches = batch
            return total + fun(images, unpooled(stack, len(filters), *codes), switches), None

        return jax.lax.scan(add, jnp.zeros_like(filters[-1]), (images, codes, tuple(switches)))[0]

    def target(images: Array, maps: Array, switches: Switches) -> Array:
        return filter_gradient(stack, filters, switches, maps, images)

    def normal(kernel: Array) -> Array:
        def applied(_: Array, maps: Array, switches: Switches) -> Array:
            known = (*filters[:-1], kernel)
            return filter_gradient(stack, known, switches, maps, reconstruct(stack, known, switches, maps))

        return sum_over_batches(applied)

    return cg(normal, sum_over_batches(target), x0=filters[-1], maxiter=steps, tol=0.0)[0]
