"""Figure 2: each feature map's strongest activations, projected down to pixels, beside the image patches."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Int, PyTree

from zfjax.attribution.asked import at_least_one
from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.experiments.tops import Top, joined, merged
from zfjax.models.cut import pools_above
from zfjax.models.display import Display
from zfjax.models.fields import Fields, Projected, fields_of, projected
from zfjax.ops.arguments import array, described, floats
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.training.sharding import Numbered
from zfjax.transform import functions
from zfjax.transform.backprojection import warn_of_idle_rules
from zfjax.transform.rules import DECONVNET


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
    batches: Iterable[Float[Array | np.ndarray, "_ ..."]] | Iterable[Numbered],
    k: int = 9,
    mesh: Mesh | None = None,
    before: PyTree | None = None,
) -> PyTree:
    """Find the k images that excite each map most, in one pass over any number of images.

    Memory on each device: k entries per map, and two batches. An image counts once per map, by its strongest activation
    (the first in row-major order); ties go to the earlier image. An image does not count for maps where it gives NaN.

    Args:
        fun: from images to activations [N, H, W, C] or [N, C], or to a pytree of them (all layers in one pass), like
            `zfjax.layer(net, variables, "relu5")`.
        batches: batches of images, as `fun` takes them, numbered from 0 across batches. They may have any size, but
            `fun` compiles only once if none is larger than the first. With a mesh, `Numbered` ones too, as
            `Subject.numbered` gives them: each process has those of its own devices.
        k: how many images to find for each map.
        mesh: the devices to split each batch over, as in `sharding.data_mesh`; default: the device of the images.
        before: what a pass over other images has found, with the same k; equals among both go to these.

    Returns:
        A Top, or a pytree of them with the structure of `fun`'s result, on every device.

    Raises:
        TypeError: a batch is not a single array, but for example a pair of images and labels.
        ValueError: k is below 1, or there are no batches.

    Paper: section 4.1 and figure 2.
    """
    at_least_one(k=k)
    if hasattr(batches, "shape") or not isinstance(batches, Iterable):
        raise TypeError(f"batches: expected batches of images, such as [images], got {described(batches)}")
    fun = functions.live(fun, functools.partial(sharding.replicate, mesh=mesh))
    top = None
    for images, numbers in numbered(batches, mesh):
        if top is None:
            top = _nothing(functions.output_of(fun, images), k, mesh)
        before_it, top = top, _merge(fun, top, images, numbers, mesh=mesh)
        jax.block_until_ready(before_it)  # at most two batches are in flight, so a split of any size fits in memory
    if top is None:
        raise ValueError("batches: expected at least one batch of images, got none")
    return top if mesh is None and before is None else _joined(before, top, mesh)


def gallery(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    top: Top,
    maps: Sequence[int] | Int[np.ndarray, " maps"],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    batch_size: int = 32,
    mesh: Mesh | None = None,
) -> Gallery:
    """Project the strongest activations of some maps, each separately.

    If `fun` comes from `zfjax.layer`, patches are cropped to the receptive field, and only that part of each image is
    computed (`fields.project_fields`); if it comes from `Model.layer`, whole images are computed and patches cropped.
    Receptive fields of other functions are unknown: their patches are whole images.

    Args:
        fun: the layer's function, whose strongest activations are in `top`.
        top: from `top_activations`.
        maps: the maps to project: `some_maps(top, 8, rng)`, a list, or `range(len(top.values))`.
        load: from image numbers to images as `fun` takes them.
        batch_size: activations on a device at a time.
        mesh: the devices to split them over, as in `sharding.data_mesh`; default: the device of the images. Each
            process loads the images of its own devices, and gets all that is found.

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
    at_once, warned = min(batch_size, numbers.size), list[bool]()
    mesh = sharding.busy(mesh, -(-numbers.size // at_once))
    given, fun = fun, functions.live(fun, functools.partial(sharding.replicate, mesh=mesh))

    def work(some: np.ndarray) -> Projected:
        images = floats("load", load(numbers.reshape(-1)[some]))
        if not warned:
            warn_of_idle_rules(fun, images, DECONVNET)
            warned.append(True)
        fields = fields_of(given, (images.shape[1], images.shape[2]))
        rows = sharding.place((images, *(part[some] for part in winners)), mesh)
        return _projected(fun, *rows, mesh=mesh, fields=fields)

    found = list(shared(numbers.size, at_once, mesh, work))
    _, *parts = (np.concatenate(part) for part in zip(*found, strict=True))
    return Gallery(maps, values, *(part.reshape(*numbers.shape, *part.shape[1:]) for part in parts))


def in_rgb(found: Gallery, display: Display) -> Gallery:
    """A gallery to look at: its patches as RGB pictures in 0..255, and its projections as signals at these."""
    pictures = display.pixels(found.images, found.fields)
    return found._replace(images=pictures, projections=display.signals(found.projections))


def some_maps(top: Top, count: int, rng: np.random.Generator) -> Int[np.ndarray, " maps"]:
    """Draw up to `count` maps with `rng`, in ascending order, preferring maps that all k images excite."""
    drawn = rng.permutation(len(top.values))
    fires = np.asarray(top.values)[drawn, -1] > 0
    return np.sort(np.concatenate([drawn[fires], drawn[~fires]])[:count])


@functions.jit
def _projected(
    fun: Callable, images: Array, units: Array, positions: Array, *, mesh: Mesh | None, fields: Fields | None
) -> Projected:
    on_one = functools.partial(projected, fields=fields)
    return sharding.on_each(on_one, mesh, whole=1)(fun, images, units, positions)


def numbered(batches: Iterable, mesh: Mesh | None) -> Iterator[Numbered]:
    """Batches of images with their numbers, padded to the largest so far so that one program serves most.

    Batches that are `Numbered` stay as they are. Of others, every process has all images.
    """
    count, rows = 0, 0
    for batch in batches:
        if isinstance(batch, Numbered):
            yield batch
            continue
        images = array("batches", batch)
        if not images.ndim:
            raise ValueError(f"batches: expected images [n, …], got {described(images)}")
        if not len(images):  # as the last batch may be
            continue
        rows = max(rows, len(images))
        rows += -rows % (mesh.size if mesh else 1)
        padding = rows - len(images)
        numbers = np.pad(np.arange(count, count + len(images), dtype=np.int32), (0, padding), constant_values=-1)
        filled = jnp.pad(images, ((0, padding), *((0, 0),) * (images.ndim - 1))) if padding else images
        split = None if mesh is None else NamedSharding(mesh, P("data"))
        yield Numbered(*jax.device_put((filled, numbers), split))
        count += len(images)


def checked_maps(maps: Sequence[int] | Int[np.ndarray, " maps"], count: int) -> Int[np.ndarray, " maps"]:
    """The numbers of some maps of a layer that has `count`. Raises a UserError for a map it lacks."""
    numbers = np.asarray(maps)
    if not (numbers.ndim == 1 and numbers.size and np.issubdtype(numbers.dtype, np.integer)):
        raise UserError(f"maps: expected numbers of maps, got {maps}")
    wrong = numbers[(numbers < 0) | (numbers >= count)]
    if wrong.size:
        raise UserError(f"map {wrong[0]}: the layer has {count} maps, 0 to {count - 1}")
    return numbers


def _nothing(acts: PyTree[jax.ShapeDtypeStruct], k: int, mesh: Mesh | None) -> PyTree:
    """A Top of no images for each output of a function; with a mesh, one for each device, stacked along the maps."""
    split = None if mesh is None else NamedSharding(mesh, P("data"))
    leaves, tree = jax.tree.flatten(acts)
    make = jax.jit(_of_no_images, static_argnums=(0, 1, 2), out_shardings=split)
    return jax.tree.unflatten(tree, make(tuple(leaves), k, mesh.size if mesh else 1))


def _of_no_images(acts: Sequence[jax.ShapeDtypeStruct], k: int, devices: int) -> list[Top]:
    return [
        Top(
            jnp.full((devices * each.shape[-1], k), -jnp.inf, each.dtype),
            jnp.full((devices * each.shape[-1], k), -1, jnp.int32),
            jnp.zeros((devices * each.shape[-1], k, len(each.shape) - 2), jnp.int32),
        )
        for each in acts
    ]


@functions.jit
def _merge(fun: Callable, top: PyTree, images: Array, numbers: Int[Array, " n"], *, mesh: Mesh | None) -> PyTree:
    """Add images to what has been found. Devices keep what they find to themselves: none waits for another."""

    def on_one(fun: Callable, top: PyTree, images: Array, numbers: Array) -> PyTree:
        acts = fun(images)
        tops, tree = jax.tree.flatten(top, is_leaf=_is_top)
        each = zip(tops, jax.tree.leaves(acts), pools_above(fun, acts), strict=True)
        return jax.tree.unflatten(tree, [merged(kept, maps, numbers, pool) for kept, maps, pool in each])

    return sharding.on_each(on_one, mesh, whole=1)(fun, top, images, numbers)


def _joined(before: PyTree | None, top: PyTree, mesh: Mesh | None) -> PyTree:
    """What several passes, or several devices, have found of different images, as one pass would have found it."""
    devices = mesh.size if mesh else 1
    whole = None if mesh is None else NamedSharding(mesh, P())
    tops, tree = jax.tree.flatten(top, is_leaf=_is_top)
    earlier = [None] * len(tops) if before is None else jax.tree.leaves(before, is_leaf=_is_top)
    return jax.tree.unflatten(tree, jax.jit(_join, static_argnums=2, out_shardings=whole)(earlier, tops, devices))


def _join(before: Sequence[Top | None], tops: Sequence[Top], devices: int) -> list[Top]:
    return [joined(*pair, devices) for pair in zip(before, tops, strict=True)]


def _is_top(node: object) -> bool:
    return isinstance(node, Top)
