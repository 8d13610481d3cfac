"""Figure 2: each feature map's strongest activations, projected down to pixels, beside the image patches."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from zfjax.attribution.asked import at_least_one
from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.models.fields import Projected, projected
from zfjax.ops.arguments import array, described, floats
from zfjax.training import sharding
from zfjax.transform import functions
from zfjax.transform.backprojection import warn_of_idle_rules
from zfjax.transform.rules import DECONVNET


@shown_by_shape
class Top(NamedTuple):
    """The k strongest activations of each map over a set of images, at most one per image, strongest first.

    With fewer than k images, the remaining entries have value -inf and image -1.
    """

    values: Float[Array | np.ndarray, "maps k"]
    images: Int[Array | np.ndarray, "maps k"]  # numbers in the order of the batches
    positions: Int[Array | np.ndarray, "maps k axes"]  # (row, column) on the map; zero axes for dense layers


@shown_by_shape
class Gallery(NamedTuple):
    """Some maps of a layer with their strongest images and projections, both cropped to the receptive field."""

    maps: Int[np.ndarray, " maps"]
    values: Float[np.ndarray, "maps k"]
    projections: Float[np.ndarray, "maps k height width channels"]  # signed, 0 where nothing arrived
    images: Float[np.ndarray, "maps k height width channels"]  # as the net saw them, mean subtracted
    fields: Int[np.ndarray, "maps k 4"]  # where both were cropped: (top, left, height, width) in pixels


def top_activations(
    fun: Callable[[Array], PyTree[Float[Array, "n ..."]]],
    batches: Iterable[Float[Array | np.ndarray, "_ ..."]],
    k: int = 9,
    mesh: Mesh | None = None,
) -> PyTree:
    """Find the k images that excite each map most, in one pass over any number of images.

    Memory on the device: k entries per map, and two batches. An image counts once per map, by its strongest activation
    (the first in row-major order); ties go to the earlier image. An image does not count for maps where it gives NaN.

    Args:
        fun: from images to activations [N, H, W, C] or [N, C], or to a pytree of them (all layers in one pass), like
            `zfjax.layer(net, variables, "relu5")`.
        batches: batches of images, as `fun` takes them, numbered from 0 across batches. They may have any size, but
            `fun` compiles only once if none is larger than the first.
        k: how many images to find for each map.
        mesh: the devices to split each batch over, as in `sharding.data_mesh`; default: the device of the images.

    Returns:
        A Top, or a pytree of them with the structure of `fun`'s result.

    Raises:
        TypeError: a batch is not a single array, but for example a pair of images and labels.
        ValueError: k is below 1, or there are no batches.

    Paper: section 4.1 and figure 2.
    """
    at_least_one(k=k)
    if hasattr(batches, "shape") or not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected batches of images, such as [images], got {described(batches)}")
    on_devices = functools.partial(sharding.replicate, mesh=mesh)
    fun = functions.live(fun, on_devices)
    top, count, rows = None, 0, 0
    for batch in batches:
        images = array("batches", batch)
        if not images.ndim:
            raise ValueError(f"batches: expected images [n, …], got {described(images)}")
        if not len(images):  # as the last batch may be
            continue
        rows = max(rows, len(images))
        filled = filled_batch(images, rows, mesh)
        if top is None:
            outputs = functions.output_of(fun, filled)
            top = on_devices(jax.tree.map(lambda acts: _nothing(acts, k), outputs))
        # At most two batches are in flight, so a split of any size fits in memory.
        top = _merge(fun, jax.block_until_ready(top), filled, np.int32(count), np.int32(len(images)))
        count += len(images)
    if top is None:
        raise ValueError("batches: expected at least one batch of images, got none")
    return top


def gallery(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    top: Top,
    maps: Sequence[int] | Int[np.ndarray, " maps"],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    batch_size: int = 32,
) -> Gallery:
    """Project the strongest activations of some maps, each separately.

    If `fun` comes from `zfjax.layer`, patches are cropped to the receptive field, and only that part of each image is
    computed (`fields.project_fields`). Receptive fields of other functions are unknown: their patches are whole images.

    Args:
        fun: the layer's function, whose strongest activations are in `top`.
        top: from `top_activations`.
        maps: the maps to project: `some_maps(top, 8, rng)`, a list, or `range(len(top.values))`.
        load: from image numbers to images as `fun` takes them.
        batch_size: activations per pass.

    Raises:
        ValueError: `top` saw fewer than k images.
        UserError: there are no such maps.

    Warns:
        RuleWarning: as `zfjax.deconvnet` does, once per call.

    Paper: figure 2.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (9, 64, 64, 3))
    >>> fun = zfjax.layer(net, net.init(jax.random.key(1), images), "relu2")
    >>> found = gallery(fun, top_activations(fun, [images]), [3, 5], lambda numbers: images[numbers])
    >>> found.projections.shape
    (2, 9, 27, 27, 3)
    """
    maps = checked_maps(maps, len(top.values))
    values, numbers, positions = (np.asarray(part)[maps] for part in top)
    if numbers.min() < 0:
        raise ValueError(f"top: expected {numbers.shape[1]} images per map, but fewer were seen")
    winners = np.repeat(maps, numbers.shape[1]), positions.reshape(numbers.size, -1)
    fun, found = functions.live(fun), list[Projected]()
    for first in range(0, numbers.size, batch_size):
        # The last batch repeats its last entry, so that one program serves all batches.
        batch = np.minimum(np.arange(first, first + min(batch_size, numbers.size)), numbers.size - 1)
        images = floats("load", load(numbers.reshape(-1)[batch]))
        if not found:
            warn_of_idle_rules(fun, images, DECONVNET)
        found.append(jax.device_get(projected(fun, images, *(part[batch] for part in winners))))
    _, *parts = (np.concatenate(part)[: numbers.size] for part in zip(*found, strict=True))
    return Gallery(maps, values, *(part.reshape(*numbers.shape, *part.shape[1:]) for part in parts))


def some_maps(top: Top, count: int, rng: np.random.Generator) -> Int[np.ndarray, " maps"]:
    """Draw up to `count` maps with `rng`, in ascending order, preferring maps that all k images excite."""
    drawn = rng.permutation(len(top.values))
    fires = np.asarray(top.values)[drawn, -1] > 0
    return np.sort(np.concatenate([drawn[fires], drawn[~fires]])[:count])


def filled_batch(images: Float[Array | np.ndarray, "n ..."], rows: int, mesh: Mesh | None) -> Float[Array, "rows ..."]:
    """Pad a batch with zeros to `rows`, rounded up so that the devices share it evenly."""
    rows += -rows % (mesh.size if mesh else 1)
    filled = jnp.pad(images, ((0, rows - len(images)), *((0, 0),) * (images.ndim - 1)))
    return filled if mesh is None else jax.device_put(filled, NamedSharding(mesh, P("data")))


def checked_maps(maps: Sequence[int] | Int[np.ndarray, " maps"], count: int) -> Int[np.ndarray, " maps"]:
    """The numbers of some maps of a layer that has `count`. Raises a UserError for a map it lacks."""
    numbers = np.asarray(maps)
    if not (numbers.ndim == 1 and numbers.size and np.issubdtype(numbers.dtype, np.integer)):
        raise UserError(f"maps: expected numbers of maps, got {maps}")
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if wrong.size:
        raise UserError(f"map {wrong[0]}: the layer has {count} maps, 0 to {count - 1}")
    return numbers


def _nothing(acts: jax.ShapeDtypeStruct, k: int) -> Top:
    maps, axes = acts.shape[-1], len(acts.shape) - 2
    return Top(
        jnp.full((maps, k), -jnp.inf, acts.dtype),
        jnp.full((maps, k), -1, jnp.int32),
        jnp.zeros((maps, k, axes), jnp.int32),
    )


@functions.jit
def _merge(fun: Callable, top: PyTree, images: Array, first: Int[Array, ""], count: Int[Array, ""]) -> PyTree:
    return jax.tree.map(
        lambda kept, acts: _merge_layer(kept, acts, first, count),
        top,
        fun(images),
        is_leaf=lambda node: isinstance(node, Top),
    )


def _merge_layer(top: Top, acts: Float[Array, "n *grid maps"], first: Int[Array, ""], count: Int[Array, ""]) -> Top:
    n, *grid, maps = acts.shape
    k = top.values.shape[1]
    # A plain maximum is nearly free compared with the convolutions, and the barrier keeps it plain; on a CPU an argmax
    # over all cells, or a NaN test fused into it, took a tenth to a half of the whole pass.
    rows = acts.reshape(n, -1, grid[-1] if grid else 1, maps)
    strongest = lax.optimization_barrier(jnp.max(rows, axis=2))  # [n, rows, maps]
    values = jnp.max(strongest, axis=1)
    counts = (jnp.arange(n) < count)[:, None] & ~jnp.isnan(values)
    values = jnp.where(counts, values, -jnp.inf).T
    numbers = jnp.broadcast_to(first + jnp.arange(n, dtype=jnp.int32)[None], values.shape)
    values, order = lax.top_k(jnp.concatenate([top.values, values], axis=1), k)
    image, unit = jnp.maximum(order - k, 0), jnp.arange(maps)[:, None]

    # Look up positions only if there are new entries. A separate branch reads the activations that the next layer
    # reads; otherwise XLA:CPU would keep the convolution's sums for it as well, using twice the memory.
    def find() -> Int[Array, "maps k"]:
        row = _first(strongest[image, :, unit])
        return row * rows.shape[2] + _first(rows[image, row, :, unit])

    cell = lax.cond(jnp.any(order >= k), find, lambda: jnp.zeros_like(order))
    cells = jnp.unravel_index(cell, grid) if grid else ()
    places = jnp.stack(cells, axis=-1).astype(jnp.int32) if grid else jnp.zeros((maps, k, 0), jnp.int32)
    kept = jnp.take_along_axis(top.positions, jnp.minimum(order, k - 1)[..., None], axis=1)
    return Top(
        values,
        jnp.take_along_axis(jnp.concatenate([top.images, numbers], axis=1), order, axis=1),
        jnp.where((order < k)[..., None], kept, places),
    )


def _first(x: Float[Array, "maps k cells"]) -> Int[Array, "maps k"]:
    """Index of the first largest cell. Faster than `jnp.argmax` on a CPU."""
    cells = lax.broadcasted_iota(jnp.int32, x.shape, 2)
    largest = jnp.max(x, axis=2, keepdims=True)
    return jnp.min(jnp.where(x == largest, cells, jnp.int32(x.shape[2] - 1)), axis=2)
