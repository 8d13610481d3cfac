"""How each map responds to a set of images: how strongly its cells fire, and which classes excite it."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, PyTree

from zfjax.console.deprecation import renamed
from zfjax.console.text import shown_by_shape
from zfjax.experiments.gallery import Top, filled_batch
from zfjax.ops.arguments import array
from zfjax.training import sharding
from zfjax.transform import functions

__getattr__ = renamed(__name__, LabelledImages="LabeledImages")


@shown_by_shape
class LabeledImages(NamedTuple):
    """Images and their classes."""

    images: Float[Array | np.ndarray, "n ..."]
    labels: Int[np.ndarray, " n"]


@shown_by_shape
class Responses(NamedTuple):
    """How the maps of one layer respond to a set of images.

    Each cell of a map in each image is in one bin, or zero, or negative; NaN is not counted.
    """

    edges: Float[np.ndarray, "maps bins"]  # inclusive upper end of each bin; the first begins above 0
    histogram: Int[np.ndarray, "maps bins"]  # cells in each bin
    zeros: Int[np.ndarray, " maps"]  # cells that are exactly zero
    negative: Int[np.ndarray, " maps"]  # cells below zero
    # Mean over a class's images of the strongest activation in each; NaN if any of them is.
    excitation: Float[np.ndarray, "maps classes"]
    images: Int[np.ndarray, " classes"]  # of each class; if there are none, `excitation` is 0

    @property
    def cells(self) -> Int[np.ndarray, " maps"]:
        """Number of cells counted."""
        return self.histogram.sum(axis=1) + self.zeros + self.negative

    @property
    def contrast(self) -> Float[np.ndarray, "maps classes"]:
        """How much more a class excites a map than other classes do on average, over the map's strongest activation.

        Between -1 and 1 for maps without negative activations: 1 if every image of the class excites the map as
        strongly as any image does, and no other image excites it at all. 0 for classes without images, for dead maps,
        and if there is no other class.
        """
        return class_contrast(self.excitation, self.images, self.edges[:, -1])


def responses(
    fun: Callable[[Array], PyTree[Float[Array, "n *grid maps"]]],
    batches: Iterable[LabeledImages],
    top: PyTree,
    num_classes: int,
    bins: int = 24,
    mesh: Mesh | None = None,
) -> PyTree:
    """Compute histograms of each map's activations, and how strongly each class excites it, in one pass.

    A histogram has equal bins from 0 to the map's strongest activation, given by `top`; the last bin has no upper end,
    since another program may round differently. Cells are counted exactly, for any number of images.

    Args:
        fun: from images to activations [N, H, W, C] or [N, C], or to a pytree of them, as `top_activations` takes it.
        batches: the images that `top` was found in, with their classes. They may have any size, but `fun` compiles
            only once if none is larger than the first.
        top: from `top_activations(fun, …)`.
        num_classes: labels are 0 to this minus 1.
        bins: number of bins of each histogram.
        mesh: the devices to split each batch over, as in `top_activations`.

    Returns:
        Responses, or a pytree of them with the structure of `top`.

    Raises:
        ValueError: no batches, no bins, or a label out of range.

    >>> images = jnp.array([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]])
    >>> top = Top(jnp.array([[0.0], [4.0]]), jnp.array([[0], [2]]), jnp.zeros((2, 1, 0), int))
    >>> found = responses(lambda x: x, [LabeledImages(images, np.array([0, 0, 1]))], top, 2, bins=4)
    >>> found.excitation.tolist(), found.histogram.tolist(), found.zeros.tolist()
    ([[0.0, 0.0], [1.5, 4.0]], [[0, 0, 0, 0], [1, 1, 0, 1]], [3, 0])
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    on_devices = functools.partial(sharding.replicate, mesh=mesh)
    fun = functions.live(fun, on_devices)
    tops, tree = jax.tree.flatten(top, is_leaf=lambda node: isinstance(node, Top))
    edges = [_edges(one, bins) for one in tops]
    begins = on_devices(jax.tree.unflatten(tree, [np.pad(one[:, :-1], ((0, 0), (1, 0))) for one in edges]))
    sums = [_Sums.nothing(one.shape[0], bins, num_classes) for one in edges]
    images, rows = np.zeros(num_classes, np.int64), 0
    for batch in batches:
        labels = np.asarray(batch.labels)
        if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
            raise ValueError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
        rows = max(rows, len(labels))
        filled = filled_batch(array("batches", batch.images), rows, mesh)
        found = jax.device_get(_batch(fun, begins, filled, np.int32(len(labels))))
        for kept, new in zip(sums, jax.tree.leaves(found, is_leaf=lambda node: isinstance(node, _Found)), strict=True):
            kept.add(new, labels)
        images += np.bincount(labels, minlength=num_classes)
    if not rows:
        raise ValueError("batches: expected at least one batch of images, got none")
    return jax.tree.unflatten(tree, [one.responses(ends, images) for one, ends in zip(sums, edges, strict=True)])


def class_contrast(
    excitation: Float[np.ndarray, "maps classes"],
    images: Int[np.ndarray, " classes"],
    strongest: Float[np.ndarray, " maps"],
) -> Float[np.ndarray, "maps classes"]:
    """`Responses.contrast` from mean strongest activations; classes without images are ignored.

    >>> class_contrast(np.array([[4.0, 1.0, 0.0]]), np.array([9, 9, 0]), np.array([6.0]))
    array([[ 0.5, -0.5,  0. ]])
    """
    there = (images > 0)[None]
    count = int(there.sum())
    if count < 2:
        return np.zeros(excitation.shape)
    scale = np.where(strongest > 0, strongest, np.inf)[:, None]
    with np.errstate(invalid="ignore"):  # infinite values have no contrast: NaN
        others = (np.sum(np.where(there, excitation, 0), axis=1, keepdims=True) - excitation) / (count - 1)
        return np.where(there, (excitation - others) / scale, 0.0)


class _Found(NamedTuple):
    """Counts for one layer from one batch."""

    above: Int[Array, "maps begins"]  # cells above each bin's lower end, the first of which is 0
    zeros: Int[Array, " maps"]
    negative: Int[Array, " maps"]
    strongest: Float[Array, "n maps"]  # activation in each image


class _Sums(NamedTuple):
    """Exact sums for one layer over all batches."""

    above: Int[np.ndarray, "maps begins"]
    zeros: Int[np.ndarray, " maps"]
    negative: Int[np.ndarray, " maps"]
    strongest: Float[np.ndarray, "classes maps"]

    @classmethod
    def nothing(cls, maps: int, bins: int, classes: int) -> "_Sums":
        counts = (np.zeros((maps, bins), np.int64), np.zeros(maps, np.int64), np.zeros(maps, np.int64))
        return cls(*counts, np.zeros((classes, maps)))

    def add(self, found: _Found, labels: Int[np.ndarray, " n"]) -> None:
        for kept, new in zip(self[:3], found[:3], strict=True):
            kept += new
        np.add.at(self.strongest, labels, found.strongest[: len(labels)].astype(np.float64))

    def responses(self, edges: np.ndarray, images: Int[np.ndarray, " classes"]) -> Responses:
        histogram = self.above - np.pad(self.above[:, 1:], ((0, 0), (0, 1)))
        excitation = (self.strongest / np.maximum(images, 1)[:, None]).T
        return Responses(edges, histogram, self.zeros, self.negative, excitation, images)


def _edges(top: Top, bins: int) -> Float[np.ndarray, "maps bins"]:
    strongest = np.asarray(top.values)[:, 0].astype(np.float32)
    # The bins of a map that never fires have zero width.
    strongest = np.where(np.isfinite(strongest), np.maximum(strongest, 0), np.float32(0))
    return strongest[:, None] * (np.arange(1, bins + 1, dtype=np.float32) / np.float32(bins))[None]


@functions.jit
def _batch(fun: Callable, begins: PyTree, images: Array, count: Int[Array, ""]) -> PyTree:
    return jax.tree.map(lambda begin, acts: _layer(begin, acts, count), begins, fun(images))


def _layer(begins: Float[Array, "maps bins"], acts: Float[Array, "n *grid maps"], count: Int[Array, ""]) -> _Found:
    n, maps = acts.shape[0], acts.shape[-1]
    cells = acts.astype(jnp.float32).reshape(n, -1, maps)
    strongest = jnp.max(cells, axis=1)
    # Padding is NaN, and so is not counted.
    cells = jnp.where((jnp.arange(n) < count)[:, None, None], cells, jnp.float32(jnp.nan)).reshape(-1, maps)

    def number(which: Array) -> Int[Array, " maps"]:
        return jnp.sum(which, axis=0, dtype=jnp.int32)

    # One pass per bin: comparing and counting keeps all lanes busy; scattering into bins does not.
    above = jax.lax.map(lambda begin: number(cells > begin[None]), begins.T)
    return _Found(above.T, number(cells == 0), number(cells < 0), strongest)
