"""A learned network taken apart: one activation down through a few below it, switches that are lost, and how sparse."""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer

from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn import inference, looking
from zfjax.experiments.adn.layerwise import Learned
from zfjax.experiments.adn.looking import Coded, Strongest
from zfjax.experiments.adn.operators import Filters, Maps, project, reconstruct, unpooled
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import Sides, Stack
from zfjax.ops import conv, unpooling
from zfjax.ops.pooling3d import Block
from zfjax.ops.windows import Windows


def apart(
    stack: Stack, layers: Sequence[Learned], coded: Coded, number: int, found: Strongest, which: int, parts: int = 5
) -> list[Float[np.ndarray, "_ side side"]]:
    """The strongest activation of a map in the image, then that of its parts: activations of each layer below.

    Of what each activation amounts to in the layer below, the strongest few are kept, and each goes down alone.

    Args:
        stack: the layers.
        layers: their filters.
        coded: the images.
        number: the layer.
        found: its strongest activations.
        which: the map.
        parts: how many of an activation are kept.

    Returns:
        For each layer from this one down, images of activations: 1, then `parts` of it, then as many of each of these.
    """
    image, (row, column) = found.images[which, 0], found.cells[which, 0]
    maps = np.zeros((1, *stack.maps(number)), np.float32)
    maps[0, row, column, which] = found.values[which, 0]
    shown = []
    for level in range(number, 0, -1):
        filters = looking.kernels(layers, level)
        switches = tuple(at[np.full(len(maps), image)] for at in coded.switches(level))
        of = stack.of(level)
        shown.append(np.asarray(reconstruct(of, filters, switches, jnp.asarray(maps)))[..., 0])
        if level > 1:
            below = np.asarray(reconstruct(of, filters, switches, jnp.asarray(maps), to=level - 1))
            maps = np.concatenate([looking.strongest_cells(each, parts) for each in below])
    return shown


def without_switches(
    settings: Settings, layers: Sequence[Learned], coded: Coded, number: int
) -> dict[str, Float[np.ndarray, "n side side"]]:
    """What remains of images, from a layer's fitted codes, if the switches below it are lost in part.

    Where the place in its window is lost, the center takes its place; where the map is, the first of the group does. Of
    the average, each value is in all cells of its window, with the same energy as in one.
    """
    stack, filters = settings.stack, looking.kernels(layers, number)
    maps = unpooled(stack, number, *looking.fitted(settings, layers, coded, number))
    own = coded.switches(number)
    pools = [layer.pool for layer in stack.layers[: number - 1]]

    def changed(place: bool, group: bool) -> tuple[Array, ...]:
        return tuple(
            at if pool is None else jnp.asarray(_kept(np.asarray(at), stack.maps(below), pool, place, group))
            for below, (at, pool) in enumerate(zip(own, pools, strict=True), 1)
        )

    ways = {
        "all switches": own,
        "places only": changed(place=True, group=False),
        "maps only": changed(place=False, group=True),
        "none": changed(place=False, group=False),
        "another image's": tuple(jnp.roll(at, 1, axis=0) for at in own),
    }
    found = {name: reconstruct(stack.of(number), filters, switches, maps) for name, switches in ways.items()}
    found["average"] = _averaged(stack, filters, maps)
    return {name: np.asarray(made)[..., 0] for name, made in found.items()}


def _averaged(stack: Stack, filters: Filters, maps: Maps) -> Maps:
    """`reconstruct` without switches: each value goes to all cells of its window."""
    for number in range(len(filters), 0, -1):
        pool = stack.layers[number - 1].pool
        if pool is not None and number < len(filters):  # the last layer's maps are not pooled
            for axis, times in enumerate(pool, 1):
                maps = jnp.repeat(maps, times, axis) / np.sqrt(times).astype(np.float32)
            height, width, count = stack.maps(number)
            maps = maps[:, :height, :width, :count]
        maps = conv(maps, filters[number - 1])
    return maps


def _kept(
    switches: Integer[np.ndarray, "n h w maps"], sides: Sides, pool: Block, place: bool, group: bool
) -> Integer[np.ndarray, "n h w maps"]:
    (height, width, _), (rows, columns, maps) = sides, pool
    cell, of = np.divmod(switches.astype(int), maps)
    tiles = Windows((rows, columns), (rows, columns), ((0, -height % rows), (0, -width % columns)), (1, 1), (1, 1))
    center = unpooling.centers((height, width), tiles)[None, :, :, None]  # of what lies on the map
    kept = (cell if place else center) * maps + (of if group else np.zeros_like(of))
    return np.asarray(kept, switches.dtype)


@shown_by_shape
class Tradeoff(NamedTuple):
    """What a layer reaches with different λ."""

    weights: Float[np.ndarray, " k"]
    decibels: Float[np.ndarray, " k"]
    shares: Float[np.ndarray, " k"]  # of values that are not zero


def tradeoff(settings: Settings, layers: Sequence[Learned], coded: Coded, number: int, count: int) -> Tradeoff:
    """Signal-to-noise and sparsity of a layer, on average over the images.

    By `count` λ from twice the least that leaves anything to twice the layer's own, in even ratios.
    """
    stack, filters = settings.stack.of(number), looking.kernels(layers, number)
    last, decibels, shares = layers[number - 1], list[float](), list[float]()
    least = 1 / max(1e-6, float(jnp.abs(project(stack, filters, coded.switches(number), coded.images)).max()))
    weights = np.geomspace(2 * least, 2 * last.weight, count)
    for weight in weights.tolist():
        known = (stack, filters, coded.switches(number), weight)
        start = inference.no_codes(stack, number, coded.images)
        codes = inference.infer(*known, last.bounds, coded.images, start, settings.inference)
        _, errors, nonzero = inference.costs(*known, coded.images, codes)
        decibels.append(float(jnp.nanmean(inference.decibels(coded.images, errors))))
        shares.append(float(nonzero.sum()) / (len(coded.images) * float(np.prod(stack.maps(number)))))
    return Tradeoff(weights, np.array(decibels), np.array(shares))
