"""How each map responds to a set of images: how strongly its cells fire, and which classes excite it."""

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int, PyTree

from zfjax.console.deprecation import renamed
from zfjax.console.text import shown_by_shape
from zfjax.experiments.gallery import Top, numbered
from zfjax.training import sharding
from zfjax.training.sharding import Numbered
from zfjax.transform import functions

FINE = 1024  # bins of a map for quantiles

__getattr__ = renamed(__name__, LabelledImages="LabeledImages")


@shown_by_shape
class LabeledImages(NamedTuple):
    """Images and their classes, in the order of the images' numbers if they have any."""

    images: Float[Array | np.ndarray, "n ..."] | Numbered
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
    fine: Int[
        np.ndarray, "maps fine_bins"
    ]  # the same as `histogram` in `FINE` bins, of which the last holds the largest

    def threshold(self, share: float) -> Float32[np.ndarray, " maps"]:
        """The activation that at most this share of each map's cells lies above, to a thousandth of its strongest.

        It is not below 0, and 0 for a map that fires in fewer cells.
        """
        above = self.fine[:, ::-1].cumsum(axis=1)[:, ::-1]  # cells in each bin and those after it
        first = (above > share * self.cells[:, None]).sum(axis=1)
        return (self.edges[:, -1] * (first / self.fine.shape[1])).astype(np.float32)

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
        batches: the images that `top` was found in, with their classes; images as `top_activations` takes them.
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
    return responses_of(summed(fun, batches, top, num_classes, bins, mesh), top)


@shown_by_shape
class Sums(NamedTuple):
    """What `responses` knows of one layer after some images; all of it adds up exactly, image by image."""

    above: Int[np.ndarray, "maps begins"]  # cells above each bin's lower end, the first of which is 0
    zeros: Int[np.ndarray, " maps"]
    negative: Int[np.ndarray, " maps"]
    strongest: Float[np.ndarray, "classes maps"]  # sums, in the order of the images
    images: Int[np.ndarray, " classes"]
    fine: Int[np.ndarray, "maps fine_bins"]  # cells in each of `FINE` bins

    @classmethod
    def nothing(cls, maps: int, bins: int, classes: int) -> "Sums":
        """Those of no images."""
        counts = (np.zeros((maps, bins), np.int64), np.zeros(maps, np.int64), np.zeros(maps, np.int64))
        fine = np.zeros((maps, FINE), np.int64)
        return cls(*counts, np.zeros((classes, maps)), np.zeros(classes, np.int64), fine)


def summed(
    fun: Callable[[Array], PyTree[Float[Array, "n *grid maps"]]],
    batches: Iterable[LabeledImages],
    top: PyTree,
    num_classes: int,
    bins: int = 24,
    mesh: Mesh | None = None,
    before: PyTree | None = None,
) -> PyTree:
    """A part of the pass of `responses`, which has the same arguments and errors, to be gone on with.

    Args:
        fun: as there.
        batches: as there; some of the images.
        top: as there, of all images.
        num_classes: as there.
        bins: as there.
        mesh: as there.
        before: what this function has returned for the images before these.

    Returns:
        Sums, or a pytree of them with the structure of `top`; `responses_of` makes Responses of it.
    """
    if bins < 1:
        raise ValueError(f"bins: expected at least 1, got {bins}")
    on_devices = functools.partial(sharding.replicate, mesh=mesh)
    fun = functions.live(fun, on_devices)
    tops, tree = jax.tree.flatten(top, is_leaf=_is(Top))
    edges = [_edges(one, bins) for one in tops]
    ends = on_devices(jax.tree.unflatten(tree, edges))
    sums = [Sums.nothing(one.shape[0], bins, num_classes) for one in edges]
    if before is not None:
        sums = [Sums(*map(np.copy, one)) for one in jax.tree.leaves(before, is_leaf=_is(Sums))]
    batches, again = itertools.tee(batches)
    of_each = (checked_labels(batch.labels, num_classes) for batch in again if len(batch.labels))
    for (some, numbers), labels in zip(numbered((batch.images for batch in batches), mesh), of_each, strict=True):
        found = jax.device_get(_batch(fun, ends, some, numbers, mesh=mesh))
        for kept, new in zip(sums, jax.tree.leaves(found, is_leaf=_is(_Found)), strict=True):
            _add(kept, new, labels)
    if not sums[0].images.any():
        raise ValueError("batches: expected at least one batch of images, got none")
    return jax.tree.unflatten(tree, sums)


def responses_of(sums: PyTree, top: PyTree) -> PyTree:
    """The Responses of all images, whose Sums and Tops these are."""
    return jax.tree.map(_responses, top, sums, is_leaf=_is(Top))


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


def checked_labels(labels: Int[np.ndarray, " n"], num_classes: int) -> Int[np.ndarray, " n"]:
    """The labels. Raises a ValueError if one is not a class's number."""
    labels = np.asarray(labels)
    if not 0 <= labels.min() <= labels.max() < num_classes:
        raise ValueError(f"labels: expected 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}")
    return labels


class _Found(NamedTuple):
    """Counts for one layer from one batch, of each device."""

    above: Int[Array, "devices maps begins"]  # cells above each bin's lower end, the first of which is 0
    zeros: Int[Array, "devices maps"]
    negative: Int[Array, "devices maps"]
    strongest: Float[Array, "n maps"]  # activation in each image
    numbers: Int[Array, " n"]  # of these; -1 for padding
    fine: Int[Array, "maps fine_bins"] | None  # of all devices together


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda node: isinstance(node, kind)


def _add(sums: Sums, found: _Found, labels: Int[np.ndarray, " n"]) -> None:
    for kept, new in zip(sums[:3], found[:3], strict=True):
        kept += new.sum(axis=0, dtype=np.int64)
    sums.fine[...] += found.fine
    # In the order of the images, as sums of floats depend on it.
    order = np.argsort(found.numbers, kind="stable")[len(found.numbers) - len(labels) :]
    np.add.at(sums.strongest, labels, found.strongest[order].astype(np.float64))
    np.add.at(sums.images, labels, 1)


def _responses(top: Top, sums: Sums) -> Responses:
    above, zeros, negative, strongest, images, fine = sums
    histogram = above - np.pad(above[:, 1:], ((0, 0), (0, 1)))
    excitation = (strongest / np.maximum(images, 1)[:, None]).T
    return Responses(_edges(top, above.shape[1]), histogram, zeros, negative, excitation, images, fine)


def _edges(top: Top, bins: int) -> Float[np.ndarray, "maps bins"]:
    strongest = np.asarray(top.values)[:, 0].astype(np.float32)
    # The bins of a map that never fires have zero width.
    strongest = np.where(np.isfinite(strongest), np.maximum(strongest, 0), np.float32(0))
    return strongest[:, None] * (np.arange(1, bins + 1, dtype=np.float32) / np.float32(bins))[None]


@functions.jit
def _batch(fun: Callable, ends: PyTree, images: Array, numbers: Int[Array, " n"], *, mesh: Mesh | None) -> PyTree:
    def on_one(fun: Callable, ends: PyTree, images: Array, numbers: Array) -> PyTree:
        return jax.tree.map(lambda end, acts: _layer(end, acts, numbers), ends, fun(images))

    if mesh is None:
        return on_one(fun, ends, images, numbers)

    def on_each(*args: Any) -> PyTree:
        def of_all(found: _Found) -> _Found:
            parts = jax.lax.all_gather(found._replace(fine=None), "data", tiled=True)
            return parts._replace(fine=jax.lax.psum(found.fine, "data"))  # the largest by far

        return jax.tree.map(of_all, on_one(*args), is_leaf=_is(_Found))

    rows = P("data")
    return jax.shard_map(on_each, mesh=mesh, in_specs=(P(), P(), rows, rows), out_specs=P(), check_vma=False)(
        fun, ends, images, numbers
    )


def _layer(ends: Float[Array, "maps bins"], acts: Float[Array, "n *grid maps"], numbers: Int[Array, " n"]) -> _Found:
    n, maps = acts.shape[0], acts.shape[-1]
    cells = acts.astype(jnp.float32).reshape(n, -1, maps)
    strongest = jnp.max(cells, axis=1)
    # Padding is NaN, and so is not counted.
    cells = jnp.where((numbers >= 0)[:, None, None], cells, jnp.float32(jnp.nan)).reshape(-1, maps)

    def number(which: Array) -> Int[Array, " maps"]:
        return jnp.sum(which, axis=0, dtype=jnp.int32)

    begins = jnp.pad(ends[:, :-1], ((0, 0), (1, 0)))
    # One pass per bin: comparing and counting keeps all lanes busy; scattering into bins does not.
    above = jax.lax.map(lambda begin: number(cells > begin[None]), begins.T)
    zeros, negative = number(cells == 0)[None], number(cells < 0)[None]
    return _Found(above.T[None], zeros, negative, strongest, numbers, _fine(cells, ends[:, -1]))


def _fine(cells: Float[Array, "cells maps"], largest: Float[Array, " maps"]) -> Int[Array, "maps fine_bins"]:
    """The number of cells above zero in each of `FINE` equal bins up to the largest."""
    maps = cells.shape[1]
    scale = jnp.where(largest > 0, jnp.float32(FINE) / largest, jnp.float32(0))
    bins = jnp.clip(jnp.floor(cells * scale[None]), 0, FINE - 1).astype(jnp.int32)
    beyond = jnp.int32(maps * FINE)  # where nothing is counted
    at = jnp.where(cells > 0, bins + jnp.arange(maps, dtype=jnp.int32)[None] * jnp.int32(FINE), beyond)
    return jnp.zeros(maps * FINE, jnp.int32).at[at.reshape(-1)].add(1, mode="drop").reshape(maps, FINE)
