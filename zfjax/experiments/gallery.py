"""Figure 2: what makes each feature map fire most, projected down to pixels, beside the image patches."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from zfjax import seeds
from zfjax.backproject import deconvnet
from zfjax.models.table import Row


class Top(NamedTuple):
    """The k strongest activations of each map over a set of images, each of another image, strongest first.

    Where there were fewer than k images, the rest has value -inf and image -1.
    """

    values: Float[Array, "maps k"]
    images: Int[Array, "maps k"]  # numbers in the order of the batches
    positions: Int[Array, "maps k axes"]  # (row, column) on the map; no axes for dense layers


class Gallery(NamedTuple):
    """Some maps of a layer with their strongest images and projections."""

    maps: Int[np.ndarray, " maps"]
    values: Float[np.ndarray, "maps k"]
    projections: Float[np.ndarray, "maps k height width channels"]  # of whole images, signed, 0 where nothing arrived
    images: Float[np.ndarray, "maps k height width channels"]  # as the net saw them, mean subtracted
    fields: Int[np.ndarray, "maps k 4"]  # what the unit sees: (top, left, height, width) in pixels, inside the image


def top_activations(
    fun: Callable[[Array], PyTree[Float[Array, "n ..."]]], batches: Iterable[Float[Array, "n ..."]], k: int = 9
) -> PyTree[Top]:
    """The k images that excite each map most, in one pass over any number of images.

    Only k entries a map are kept, on the device. An image counts once a map, by its strongest activation, at the first
    position in row-major order; of equal activations the earlier image comes first.

    Args:
        fun: from images to activations [N, H, W, C] or [N, C], or to a pytree of such (all layers in one pass), like
            `zfjax.layer(net, variables, "relu5")`.
        batches: of images, as `fun` takes them; numbered from 0 through all batches.
        k: how many.

    Returns:
        A Top, or a pytree of them like `fun`'s result.

    Raises:
        ValueError: k is below 1, or there are no batches.

    Paper: section 4.1 and figure 2.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    fun = fun if isinstance(fun, Partial) else Partial(fun)
    top, count = None, 0
    for images in batches:
        if top is None:
            top = jax.tree.map(lambda acts: _nothing(acts, k), jax.eval_shape(fun, images))
        top = _merge(fun, top, images, count)
        count += len(images)
    if top is None:
        raise ValueError("batches: expected at least one batch of images, got none")
    return top


def project_units(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    images: Float[Array, "n height width channels"],
    units: Int[np.ndarray, " n"],
    positions: Int[np.ndarray, "n axes"],
) -> Float[Array, "n height width channels"]:
    """The projection of one unit for each image, by its own activation there.

    Args:
        fun: from images to a layer's activations.
        images: as `fun` takes them.
        units: the map, for each image.
        positions: (row, column) on the map, for each image.

    Returns:
        Projections shaped as the images.
    """
    y, project = _deconvnet(fun if isinstance(fun, Partial) else Partial(fun), images)
    return _play(project, seeds.at(y, jnp.asarray(units), tuple(jnp.asarray(positions.T))))


def gallery(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    top: Top,
    maps: Int[np.ndarray, " maps"],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    row: Row,
) -> Gallery:
    """Projects the winners of some maps, each separately.

    Args:
        fun: the layer's function, of which `top` tells the winners.
        top: from `top_activations`.
        maps: which maps.
        load: from image numbers to images as `fun` takes them.
        row: the layer's line of the layer table, for what its units see.

    Raises:
        ValueError: fewer images than k were seen.

    Paper: figure 2.
    """
    values, numbers, positions = (np.asarray(part)[maps] for part in top)
    if numbers.min() < 0:
        raise ValueError(f"top: expected {numbers.shape[1]} images a map, but fewer were seen")
    projections, images = [], []
    for unit, winners, places in zip(maps, numbers, positions, strict=True):
        batch = load(winners)
        projections.append(np.asarray(project_units(fun, batch, np.full(len(winners), unit), places)))
        images.append(np.asarray(batch))
    fields = [[field_of(row, place, images[0].shape[1:3]) for place in places] for places in positions]
    return Gallery(maps, values, np.stack(projections), np.stack(images), np.array(fields))


def some_maps(top: Top, count: int, rng: np.random.Generator) -> Int[np.ndarray, " maps"]:
    """Up to `count` maps drawn by `rng`, in order: first of those that all k images excite."""
    drawn = rng.permutation(len(top.values))
    fires = np.asarray(top.values)[drawn, -1] > 0
    return np.sort(np.concatenate([drawn[fires], drawn[~fires]])[:count])


def field_of(row: Row, position: Int[np.ndarray, " axes"], size: tuple[int, ...]) -> tuple[int, ...]:
    """What the unit at `position` of a layer sees: (top, left, height, width) in pixels.

    A field that hangs over the edge is moved inside, so that all patches of a layer have one size; one larger than the
    image is cut to it, and the field of a dense unit is the image.

    Args:
        row: the layer's line of the layer table.
        position: (row, column) on the map.
        size: (height, width) of the image.
    """
    if row.receptive_field is None or row.total_stride is None or row.offset is None:
        return (0, 0, *size)
    starts, sizes = [], []
    for at, pixels, field, stride, centre in zip(
        position, size, row.receptive_field, row.total_stride, row.offset, strict=True
    ):
        sizes.append(min(field, pixels))
        first = round(centre + int(at) * stride - (field - 1) / 2)
        starts.append(min(max(first, 0), pixels - sizes[-1]))
    return (*starts, *sizes)


_deconvnet = jax.jit(deconvnet)
_play = jax.jit(lambda project, seed: project(seed))


def _nothing(acts: jax.ShapeDtypeStruct, k: int) -> Top:
    maps, axes = acts.shape[-1], len(acts.shape) - 2
    return Top(
        jnp.full((maps, k), -jnp.inf, acts.dtype),
        jnp.full((maps, k), -1, jnp.int32),
        jnp.zeros((maps, k, axes), jnp.int32),
    )


@jax.jit
def _merge(fun: Partial, top: PyTree[Top], images: Array, first: Int[Array, ""]) -> PyTree[Top]:
    return jax.tree.map(
        lambda kept, acts: _merge_layer(kept, acts, first),
        top,
        fun(images),
        is_leaf=lambda node: isinstance(node, Top),
    )


def _merge_layer(top: Top, acts: Float[Array, "n *grid maps"], first: Int[Array, ""]) -> Top:
    n, *grid, maps = acts.shape
    cells = jnp.nan_to_num(acts.reshape(n, -1, maps), nan=-jnp.inf, posinf=jnp.inf, neginf=-jnp.inf)
    strongest = jnp.argmax(cells, axis=1)  # [n, maps]
    values = jnp.take_along_axis(cells, strongest[:, None], axis=1)[:, 0]
    numbers = jnp.broadcast_to((first + jnp.arange(n, dtype=jnp.int32))[:, None], values.shape)
    places = jnp.stack(jnp.unravel_index(strongest, grid), axis=-1) if grid else jnp.zeros((n, maps, 0), jnp.int32)
    k = top.values.shape[1]
    values, order = lax.top_k(jnp.concatenate([top.values, values.T], axis=1), k)
    numbers = jnp.concatenate([top.images, numbers.T], axis=1)
    places = jnp.concatenate([top.positions, places.transpose(1, 0, 2).astype(jnp.int32)], axis=1)
    return Top(
        values,
        jnp.take_along_axis(numbers, order, axis=1),
        jnp.take_along_axis(places, order[..., None], axis=1),
    )
