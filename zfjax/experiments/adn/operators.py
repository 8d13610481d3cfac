"""R: how a layer's maps reconstruct the image, down through filters and switches; and its adjoint.

    R_l = F_1 U_1 F_2 U_2 … F_l        R_lᵀ = F_lᵀ P_(l-1) … F_2ᵀ P_1 F_1ᵀ

F convolves each map with its filters and sums; U puts pooled values back at their switches, and P takes what lies
there. All are linear, and with the same filters and switches R_lᵀ is R_l's exact adjoint.

Filters are [side, side, maps, pooled maps below] and switches as `zfjax.ops.abs_max_pool` returns them; of both there
is one for each layer, from the first.
"""

from collections.abc import Sequence

import jax
from jaxtyping import Array, Float, Integer

from zfjax.experiments.adn.stack import Stack
from zfjax.ops import abs_max_unpool, conv, conv_transpose
from zfjax.ops.tiles import conv_transpose_at, unpool_conv, unpool_conv_gradient

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
    if to == len(filters):
        return maps
    return reconstruct_pooled(stack, filters[:-1], switches, conv(maps, filters[-1]), to)


def reconstruct_pooled(stack: Stack, filters: Filters, switches: Switches, pooled: Maps, to: int = 0) -> Maps:
    """What the pooled values of a layer amount to below; arguments as for `reconstruct`, with the layer's switches."""
    for number in range(len(filters), to, -1):
        pool, kernel = stack.layers[number - 1].pool, filters[number - 1]
        if pool is None:
            pooled = conv(pooled, kernel)
        else:
            shape = (len(pooled), *stack.maps(number))
            pooled = unpool_conv(pooled, switches[number - 1], kernel, pool, shape)
    return unpooled(stack, to, pooled, switches[to - 1]) if to else pooled


def project(stack: Stack, filters: Filters, switches: Switches, images: Maps) -> Maps:
    """The adjoint of `reconstruct`: from images up to the maps of the layer whose filters are the last."""
    below = project_pooled(stack, filters[:-1], switches, images)
    return conv_transpose(below, filters[-1], _ONES, _NONE, (len(images), *stack.maps(len(filters))))


def project_pooled(stack: Stack, filters: Filters, switches: Switches, images: Maps) -> Maps:
    """The adjoint of `reconstruct_pooled`: up to what lies at the switches of the layer whose filters are the last."""
    for number, kernel in enumerate(filters, 1):
        pool, shape = stack.layers[number - 1].pool, (len(images), *stack.maps(number))
        if pool is None:
            images = conv_transpose(images, kernel, _ONES, _NONE, shape)
        else:
            images = conv_transpose_at(images, switches[number - 1], kernel, pool, shape)
    return images


def unpooled(stack: Stack, number: int, pooled: Maps, switches: Integer[Array, "n _ _ _"]) -> Maps:
    """U: a layer's pooled values back at its switches; as they are if it has no pool."""
    pool = stack.layers[number - 1].pool
    return pooled if pool is None else abs_max_unpool(pooled, switches, pool, (len(pooled), *stack.maps(number)))


def filter_gradient(stack: Stack, filters: Filters, switches: Switches, pooled: Maps, images: Maps) -> Kernel:
    """The adjoint of `reconstruct_pooled` as a function of the last layer's filters; a sum over images."""
    number, kernel = len(filters), filters[-1]
    pool, images = stack.layers[number - 1].pool, project_pooled(stack, filters[:-1], switches, images)
    if pool is None:
        return jax.vjp(lambda kernel: conv(pooled, kernel), kernel)[1](images)[0]
    shape = (len(pooled), *stack.maps(number))
    return unpool_conv_gradient(pooled, switches[number - 1], images, kernel.shape, pool, shape)
