"""A rectangle slid over images, on all devices of all processes: what a function says of them at each position."""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree, Shaped

from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.models import incremental
from zfjax.models.cut import Layer, Layers
from zfjax.models.incremental import Rectangles
from zfjax.models.specs import Size
from zfjax.ops.windows import Pair
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.transform import functions


@shown_by_shape
class Grid(NamedTuple):
    """The rectangle's positions, visited in shuffled chunks so that each has its share of the border."""

    tops: Int[np.ndarray, " rows"]
    lefts: Int[np.ndarray, " columns"]
    order: Int[np.ndarray, " positions"]
    chunks: list[Rectangles]  # the last one is padded with positions from the start

    def in_order(self, found: np.ndarray) -> Shaped[np.ndarray, "rows columns ..."]:
        """What was found at the positions of the chunks, put back where these are."""
        whole = np.empty_like(found[: len(self.order)])
        whole[self.order] = found[: len(self.order)]
        return whole.reshape(len(self.tops), len(self.lefts), *found.shape[1:])


def grid(image: Pair, window: Pair, strides: Pair, batch_size: int) -> Grid:
    """The positions of a window in an image, in chunks of at most `batch_size`.

    The chunks do not depend on the devices that take them, so neither do the programs.

    Raises:
        ValueError: the batch size is below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    tops, lefts = (_positions(*axis) for axis in zip(image, window, strides, strict=True))
    count = len(tops) * len(lefts)
    order = np.random.default_rng(0).permutation(count)
    size = -(-count // -(-count // batch_size))
    one = np.ones(size, np.int32)
    chunks = [
        Rectangles(tops[chunk // len(lefts)], lefts[chunk % len(lefts)], window[0] * one, window[1] * one)
        for chunk in np.resize(order, (-(-count // size), size))
    ]
    return Grid(tops, lefts, order, chunks)


def check_window(window: Pair, image: Pair) -> None:
    """Raise a ValueError unless the window fits into the image."""
    if window[0] > image[0] or window[1] > image[1]:
        raise ValueError(f"window: expected at most the image's {image[0]}×{image[1]} px, got {window[0]}×{window[1]}")


def swept(
    fun: Callable[[Array], PyTree],
    images: Float[Array, "n height width channels"],
    thens: Sequence[Callable[[PyTree], PyTree]],
    cover: Float[Array, "height width channels"],
    places: Grid,
    mesh: Mesh | None,
    progress: Progress | None,
) -> tuple[PyTree[np.ndarray], PyTree[np.ndarray]]:
    """What a function says of images, each with a rectangle at all positions of a grid.

    Args:
        fun: any function of images; those of layers recompute only what a rectangle changes.
        images: of one size.
        thens: applied to the outputs, one for each image: one function, or partials of it with arrays.
        cover: what the rectangle shows.
        places: the positions. A device takes one chunk of one image at a time.
        mesh: the devices; None: the one of the images.
        progress: advanced by the number of images.

    Returns:
        The outputs of the images themselves [n, …], and of all their chunks, in order [n, positions, …].
    """
    count, chunks = len(images), len(places.chunks)
    mesh = sharding.busy(mesh, count * chunks)
    fun = functions.live(fun, functools.partial(sharding.replicate, mesh=mesh))
    cover = sharding.replicate(cover, mesh)
    rows: PyTree = images, jax.tree.map(lambda *leaves: jnp.stack(leaves), *thens)
    leaves, tree = jax.tree.flatten(rows if mesh is None else jax.device_get(rows))

    def placed(numbers: np.ndarray) -> tuple[Array, Callable]:
        some = _rows(leaves, numbers) if mesh is None else [leaf[numbers] for leaf in leaves]
        return sharding.place(jax.tree.unflatten(tree, some), mesh)

    # Started first, which also checks that `fun` accepts the images; fetched once the sweep has started too.
    clean = shared(count, 1, mesh, lambda some: _uncovered(fun, *placed(some), mesh=mesh))
    kind = _Recomputed if is_listable(fun) else _Plain
    sweep = kind(fun, cover, images.shape[1:], places.chunks, mesh)
    kept: list[tuple[np.ndarray, PyTree, Callable]] = []  # the images that the devices are at

    def work(some: np.ndarray) -> PyTree:
        which, chunk = np.divmod(some, chunks)
        if not kept or not np.array_equal(kept[0][0], which):
            image, then = placed(which)
            kept[:] = [(which, sweep.begun(image), then)]
        return sweep.outputs(*kept[0][1:], chunk)

    parts = shared(count * chunks, 1, mesh, work)
    found = _joined(clean)
    outputs = _joined(_counted(parts, chunks, progress))
    return found, jax.tree.map(lambda leaf: leaf.reshape(count, -1, *leaf.shape[2:]), outputs)


def _joined(parts: Iterator[PyTree[np.ndarray]]) -> PyTree[np.ndarray]:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)


def _counted(parts: Iterator[PyTree], chunks: int, progress: Progress | None) -> Iterator[PyTree]:
    """The outputs of successive chunks, with progress in images."""
    done = 0
    for part in parts:
        before, done = done, done + len(jax.tree.leaves(part)[0])
        if progress:
            progress.advance(done // chunks - before // chunks)
        yield part


def is_listable(fun: Callable) -> bool:
    """Whether the layers of `fun` are known and their changed cells can be listed, as for nets like the paper's."""
    return isinstance(fun, Partial) and isinstance(fun.func, Layer | Layers) and incremental.is_listable(fun.func.net)


class _Recomputed:
    """A sweep by one clean pass over each image, after which only what changes is computed."""

    def __init__(
        self, fun: Any, cover: Array, size: tuple[int, ...], chunks: list[Rectangles], mesh: Mesh | None
    ) -> None:
        cut, (variables,) = fun.func, fun.args
        assert isinstance(cut, Layer | Layers)  # checked by `is_listable`
        self.only = None if isinstance(cut, Layers) else cut.name
        names = cut.names if isinstance(cut, Layers) else (cut.name,)
        self.plan, changed = incremental.plan(cut.net, names, Size(*size), chunks)
        self.changed = _on_devices(changed, mesh)
        self.variables, self.cover, self.mesh = variables, cover.astype(cut.net.dtype), mesh

    def begun(self, images: Array) -> list[Array]:
        return _clean(self.variables, images, plan=self.plan, mesh=self.mesh)

    def outputs(self, clean: list[Array], then: Callable, chunks: np.ndarray) -> PyTree:
        reads = _reads(self.changed, sharding.place(chunks, self.mesh), plan=self.plan, mesh=self.mesh)
        params = self.variables["params"]
        found = _recomputed(params, self.cover, clean, reads, plan=self.plan, mesh=self.mesh)
        return _call(then, found if self.only is None else found[self.only], mesh=self.mesh)


class _Plain:
    """A sweep over whole images."""

    def __init__(
        self, fun: Callable, cover: Array, size: tuple[int, ...], chunks: list[Rectangles], mesh: Mesh | None
    ) -> None:
        self.fun, self.cover, self.mesh = fun, cover, mesh
        self.chunks = _on_devices(chunks, mesh)

    def begun(self, images: Array) -> Array:
        return images

    def outputs(self, images: Array, then: Callable, chunks: np.ndarray) -> PyTree:
        return _covered(
            self.fun, self.cover, self.chunks, images, then, sharding.place(chunks, self.mesh), mesh=self.mesh
        )


def _on_devices(chunks: Sequence[PyTree[np.ndarray]], mesh: Mesh | None) -> PyTree[Array]:
    """All chunks [chunks, …], sent once: many small arrays take a GPU longer to receive than to work on."""
    return sharding.replicate(jax.device_put(jax.tree.map(lambda *parts: np.stack(parts), *chunks)), mesh)


# Programs, each for one image or one chunk on each device.


@jax.jit
def _rows(leaves: list[Array], numbers: Int[Array, " n"]) -> list[Array]:
    return [leaf[numbers] for leaf in leaves]


@functions.jit
def _uncovered(fun: Callable, images: Array, then: Callable, *, mesh: Mesh | None) -> PyTree:
    def of_one(fun: Callable, image: Array, then: Callable) -> PyTree:
        return jax.tree.map(lambda leaf: leaf[0], then(fun(image[None])))

    return sharding.one_on_each(of_one, mesh, whole=1)(fun, images, then)


@functools.partial(jax.jit, static_argnames=("plan", "mesh"))
def _clean(variables: PyTree, images: Array, *, plan: incremental.Plan, mesh: Mesh | None) -> list[Array]:
    """Each image, and the output of each layer whose changed cells are listed."""

    def of_one(variables: PyTree, image: Array) -> list[Array]:
        _, acts = plan.net.clone(layers=plan.listed).apply(variables, image[None])
        maps = [image.astype(plan.net.dtype)]
        for layer in plan.listed:
            maps.append(acts[layer.name][0] if layer.name in acts else maps[-1])
        return maps

    return sharding.one_on_each(of_one, mesh, whole=1)(variables, images)


@functools.partial(jax.jit, static_argnames=("plan", "mesh"))
def _reads(
    changed: tuple[Rectangles, ...], chunks: Array, *, plan: incremental.Plan, mesh: Mesh | None
) -> incremental.Reads:
    def of_one(changed: tuple[Rectangles, ...], chunk: Array) -> incremental.Reads:
        return incremental.reads(plan, jax.tree.map(lambda part: part[chunk], changed))

    return sharding.one_on_each(of_one, mesh, whole=1)(changed, chunks)


@functools.partial(jax.jit, static_argnames=("plan", "mesh"))
def _recomputed(
    params: PyTree,
    cover: Array,
    clean: list[Array],
    reads: incremental.Reads,
    *,
    plan: incremental.Plan,
    mesh: Mesh | None,
) -> dict[str, Array]:
    def of_one(params: PyTree, cover: Array, clean: list[Array], reads: incremental.Reads) -> dict[str, Array]:
        return incremental.recompute(plan, params, clean, cover, reads)

    return sharding.one_on_each(of_one, mesh, whole=2)(params, cover, clean, reads)


@functions.jit
def _call(then: Callable, outputs: PyTree, *, mesh: Mesh | None) -> PyTree:
    return sharding.one_on_each(lambda then, outputs: then(outputs), mesh, whole=0)(then, outputs)


@functions.jit
def _covered(
    fun: Callable, cover: Array, windows: Rectangles, images: Array, then: Callable, chunks: Array, *, mesh: Mesh | None
) -> PyTree:
    def of_one(fun: Callable, cover: Array, windows: Rectangles, image: Array, then: Callable, chunk: Array) -> PyTree:
        here = jax.tree.map(lambda part: part[chunk], windows)
        hidden = here.mask((image.shape[0], image.shape[1]))
        return then(fun(jnp.where(hidden[..., None], cover[None], image[None])))

    return sharding.one_on_each(of_one, mesh, whole=3)(fun, cover, windows, images, then, chunks)


def _positions(length: int, window: int, stride: int) -> Int[np.ndarray, " positions"]:
    """First pixels of the window along one axis; the last lies flush with the end."""
    starts = np.arange(0, length - window + 1, stride, dtype=np.int32)
    last = length - window
    return starts if starts[-1] == last else np.append(starts, np.int32(last))
