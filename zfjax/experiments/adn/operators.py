"""R: how a layer's maps reconstruct the image, down through filters and switches; and its adjoint.

    R_l = F_1 U_1 F_2 U_2 … F_l        R_lᵀ = F_lᵀ P_(l-1) … F_2ᵀ P_1 F_1ᵀ

F convolves each map with its filters and sums; U puts pooled values back at their switches, and P takes what lies
there. All are linear, and with the same filters and switches R_lᵀ is R_l's exact adjoint.

Filters are [side, side, maps, pooled maps below] and switches as `zfjax.ops.abs_max_pool` returns them; of both there
is one for each layer, from the first.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from zfjax.experiments.adn.stack import Stack
from zfjax.ops import abs_max_unpool, at_switches, conv, conv_transpose

# Sides differ from layer to layer, so they have no names.
Kernel = Float[Array, "_ _ _ _"]  # [side, side, maps, pooled maps below]
Filters = Sequence[Kernel]
Switches = Sequence[Integer[Array, "_ _ _ _"]]
Maps = Float[Array, "n _ _ _"]
_ONES, _NONE = (1, 1), ((0, 0), (0, 0))


def reconstruct(stack: Stack, filters: Filters, switches: Switches, maps: Maps, to: int = 0) -> Maps:
    """What the maps of a layer amount to below.

    Args:
        stack: the layers.
        filters: of the layers up to that of the maps, which is the last that has any here.
        switches: of the layers below it.
        maps: [N, H, W, maps] of the layer, unpooled.
        to: the layer whose maps are asked for, unpooled as they lie at its switches; 0: the image [N, H, W, 1].
    """
    for number in range(len(filters), to, -1):
        maps = conv(maps, filters[number - 1])
        if number > 1:
            maps = unpooled(stack, number - 1, maps, switches[number - 2])
    return maps


def project(stack: Stack, filters: Filters, switches: Switches, images: Maps) -> Maps:
    """The adjoint of `reconstruct`: from images up to the maps of the layer whose filters are the last."""
    for number, kernel in enumerate(filters, 1):
        if number > 1:
            images = pooled_at(stack, number - 1, images, switches[number - 2])
        images = conv_transpose(images, kernel, _ONES, _NONE, (images.shape[0], *stack.maps(number)))
    return images


def unpooled(stack: Stack, number: int, pooled: Maps, switches: Integer[Array, "n _ _ _"]) -> Maps:
    """U: a layer's pooled values back at its switches; as they are if it has no pool."""
    pool = stack.layers[number - 1].pool
    return pooled if pool is None else abs_max_unpool(pooled, switches, pool, (len(pooled), *stack.maps(number)))


def pooled_at(stack: Stack, number: int, maps: Maps, switches: Integer[Array, "n _ _ _"]) -> Maps:
    """P: the cells of a layer's maps at its switches; all of them if it has no pool."""
    pool = stack.layers[number - 1].pool
    return maps if pool is None else at_switches(maps, switches, pool)


def filter_gradient(stack: Stack, filters: Filters, switches: Switches, maps: Maps, images: Maps) -> Kernel:
    """The adjoint of `reconstruct` as a function of the last layer's filters, its maps given; a sum over images."""
    number, kernel = len(filters), filters[-1]
    if number > 1:
        images = project(stack, filters[:-1], switches, images)
        images = pooled_at(stack, number - 1, images, switches[number - 2])
    if images.shape[1] * images.shape[2] < 256:
        return jax.vjp(lambda kernel: conv(maps, kernel), kernel)[1](images)[0]
    # There are fewer maps below, so it is cheaper to lay the windows over those: 14 ms where XLA takes 378 (15 maps of
    # 156×156 to 1, 4 images, 2 cores, jax 0.10).
    (height, width), below = kernel.shape[:2], kernel.shape[3]
    wide = jnp.pad(images, ((0, 0), (height - 1, height - 1), (width - 1, width - 1), (0, 0)))
    swapped = jnp.zeros((height, width, below, maps.shape[3]), maps.dtype)
    found = jax.vjp(lambda swapped: conv(wide, swapped), swapped)[1](maps)[0]
    return found[::-1, ::-1].transpose(0, 1, 3, 2)
