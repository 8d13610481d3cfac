"""Check that a lens depends on the weights at all: how its maps change as layers are randomized, top down."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree, Real
from scipy import stats

from zfjax.console.deprecation import renamed
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.models import ConvNet
from zfjax.models.specs import BatchNorm, Conv, Dense, flat

__getattr__ = renamed(__name__, randomised="randomized", Randomised="Randomized", drawn_anew="randomized_layers")

# From a net, its variables, images and one class per image to one map per image, [n, H, W] or [n, H, W, C].
Lens = Callable[
    [ConvNet, PyTree, Float[Array, "n h w c"], Int[Array, " n"]], Float[Array | np.ndarray, "n height width ..."]
]


@shown_by_shape
class Randomized(NamedTuple):
    """A net's variables with some of its layers randomized."""

    layer: str
    cascade: PyTree  # this layer and all above it are randomized
    alone: PyTree  # only this layer is randomized


@shown_by_shape
class Similarity(NamedTuple):
    """Spearman's rank correlation of each image's map with that of the trained net, -1..1.

    NaN if either map is constant and so has no ranks.
    """

    signed: Float[np.ndarray, "layers n"]  # of the maps as they are
    absolute: Float[np.ndarray, "layers n"]  # of their absolute values


@shown_by_shape
class Sanity(NamedTuple):
    """How similar a lens's maps stay as the net is randomized; for a lens that shows what was learned it falls to 0."""

    layers: tuple[str, ...]  # top first
    cascade: Similarity  # the layer and all above it randomized
    alone: Similarity  # the layer alone randomized


def sanity_check(
    lens: Lens,
    net: ConvNet,
    variables: PyTree,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Sequence[int] | Int[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
) -> Sanity:
    """Run the model-randomization test on one lens: the net's layers randomized from the top down, and each alone.

    Args:
        lens: `lens(net, variables, images, target)` gives one map per image; any random draws of its own should be the
            same each time.
        net: a ConvNet.
        variables: its trained variables.
        images: as the net takes them, with the mean already subtracted.
        target: one class per image.
        key: draws the new weights.

    Raises:
        ValueError: the lens does not return maps [n, …].

    Paper: Adebayo et al. 2018, "Sanity checks for saliency maps", section 3.

    >>> from zfjax.attribution.gradients import gradient
    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> variables = net.init(jax.random.key(1), images)
    >>> def lens(net, variables, images, target):
    ...     return gradient(zfjax.layer(net, variables, "fc8"), images, target)
    >>> found = sanity_check(lens, net, variables, images, jnp.arange(2), jax.random.key(2))
    >>> found.layers[:3], found.cascade.signed.shape
    (('fc8', 'fc7', 'fc6'), (8, 2))
    """
    images, target = jnp.asarray(images), jnp.asarray(target)
    trained = np.asarray(lens(net, variables, images, target))
    if trained.ndim < 2 or len(trained) != len(images):
        raise ValueError(f"lens: expected maps [{len(images)}, H, W] or with channels, got {list(trained.shape)}")
    names: list[str] = []
    cascade: list[tuple[np.ndarray, np.ndarray]] = []
    alone: list[tuple[np.ndarray, np.ndarray]] = []
    for redrawn in randomized(net, variables, key):
        names.append(redrawn.layer)
        for found, weights in ((cascade, redrawn.cascade), (alone, redrawn.alone)):
            maps = np.asarray(lens(net, weights, images, target))
            found.append((rank_correlation(maps, trained), rank_correlation(np.abs(maps), np.abs(trained))))
    return Sanity(tuple(names), *(Similarity(*np.swapaxes(found, 0, 1)) for found in (cascade, alone)))


def randomized(net: ConvNet, variables: PyTree, key: PRNGKeyArray) -> Iterator[Randomized]:
    """Yield the variables with one layer after another randomized, the top layer first.

    Kernels are drawn from the net's initial distribution, `net.kernel_init`; biases are reset to 0, and batch norm to
    scale 1, mean 0, variance 1. A residual block counts as one layer, and batch norm belongs to the layer below it.

    Args:
        net: a ConvNet.
        variables: its variables.
        key: draws the kernels; a layer's new kernel is the same in the cascade and alone.
    """
    cascade = variables
    for number, (name, names) in enumerate(reversed(_groups(net).items())):
        fresh = jax.random.fold_in(key, number)
        cascade = _redrawn(net, cascade, names, fresh)
        yield Randomized(name, cascade, _redrawn(net, variables, names, fresh))


def randomized_layers(net: ConvNet) -> tuple[str, ...]:
    """The layers that `randomized` randomizes, the top layer first."""
    return tuple(reversed(_groups(net)))


def to_table(found: Mapping[str, Sanity], dataset: str) -> Table:
    """Mean similarities in percent: one column per layer, four rows per lens.

    Args:
        found: results by the lens's title, all for one net.
        dataset: the dataset's name.
    """
    rows: list[tuple[Cell, ...]] = []
    for title, one in found.items():
        for way, similarity in (("from the top", one.cascade), ("alone", one.alone)):
            for kind, values in (("absolute", similarity.absolute), ("signed", similarity.signed)):
                rows.append((title, way, kind, *(100 * _mean(layer) for layer in values)))
    first = next(iter(found.values()))
    return Table(
        f"Maps of a randomized net vs. the trained net's, {first.cascade.signed.shape[1]} images of {dataset}",
        ("lens", "randomized", "map", *first.layers),
        rows,
        "Spearman's rank correlation in percent, mean over images. from the top: the layer and all above it are"
        " randomized; alone: only it is. Near 0, a map shows what was learned; near 100, what is in the image or in the"
        " architecture. Constant maps have no ranks and are left out; if all maps are constant, there is no number."
        " Ranks of a few coarse cells say little. Maps without a sign have the same row twice.",
    )


def rank_correlation(one: Real[np.ndarray, "n ..."], other: Real[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
    """Spearman's rank correlation between matching rows of two arrays; NaN if a row is constant."""
    rows = (np.reshape(array, (len(array), -1)).astype(float) for array in (one, other))
    first, second = (stats.rankdata(array, axis=1) for array in rows)
    first -= first.mean(axis=1, keepdims=True)
    second -= second.mean(axis=1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.where(spread > 0, (first * second).sum(axis=1) / np.where(spread > 0, spread, 1), np.nan)


def _mean(similarities: Float[np.ndarray, " n"]) -> float:
    there = similarities[~np.isnan(similarities)]
    return float(there.mean()) if len(there) else math.nan


def _groups(net: ConvNet) -> dict[str, list[str]]:
    """Layers, bottom first, each with the names of the specs that are randomized together with it."""
    groups: dict[str, list[str]] = {}
    last: list[str] = []
    for spec in net.layers:
        weighted = [part.name for part in flat([spec]) if isinstance(part, Conv | Dense | BatchNorm)]
        if isinstance(spec, BatchNorm) and groups:
            last += weighted
        elif weighted:
            last = groups[spec.name] = weighted
    return groups


def _redrawn(net: ConvNet, variables: PyTree, names: list[str], key: PRNGKeyArray) -> PyTree:
    """The variables with the layers of these names randomized."""
    fresh: dict[str, Callable[[PRNGKeyArray, Array], Array]] = {
        "kernel": lambda key, leaf: net.kernel_init(key, leaf.shape, leaf.dtype),
        "bias": lambda _, leaf: jnp.zeros_like(leaf),
        "mean": lambda _, leaf: jnp.zeros_like(leaf),
        "scale": lambda _, leaf: jnp.ones_like(leaf),
        "var": lambda _, leaf: jnp.ones_like(leaf),
    }
    keys = {name: jax.random.fold_in(key, number) for number, name in enumerate(names)}

    def layer(name: str, leaves: PyTree) -> PyTree:
        return {part: fresh[part](keys[name], leaf) for part, leaf in leaves.items()} if name in keys else leaves

    return {
        collection: {name: layer(name, leaves) for name, leaves in layers.items()}
        for collection, layers in variables.items()
    }
