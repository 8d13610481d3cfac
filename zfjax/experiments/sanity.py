"""Check that a lens depends on the weights at all: how its maps change as layers are randomized, top down."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, Real
from scipy import stats

from zfjax.console.deprecation import renamed
from zfjax.console.errors import UserError
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.experiments.bootstrap import mean_of
from zfjax.models import ConvNet, Model
from zfjax.models.nets import NetModel
from zfjax.models.specs import BatchNorm, Conv, Dense, flat

__getattr__ = renamed(__name__, randomised="randomized", Randomised="Randomized", drawn_anew="randomized_layers")

# `lens(fun, images, target)` gives one map per image, [n, H, W] or [n, H, W, C], or a tuple with `attributions`.
Lens = Callable[[Any, Float[Array, "n h w c"], Int[Array, " n"]], Any]
MOST = 16  # layers of a model that are randomized one after the other; of more, neighbors go together


@shown_by_shape
class Randomized(NamedTuple):
    """A model with some of its layers randomized."""

    layer: str
    cascade: Model  # this layer and all above it are randomized
    alone: Model  # only this layer is randomized


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

    layers: tuple[str, ...]  # top first, unless it began at the bottom
    cascade: Similarity  # the layer and all before it randomized
    alone: Similarity  # the layer alone randomized


def sanity_check(
    lens: Lens,
    model: Model,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Sequence[int] | Int[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    layer: str = "",
    bottom_up: bool = False,
) -> Sanity:
    """Run the model-randomization test on one lens: the model's layers randomized from the top down, and each alone.

    Args:
        lens: any of `zfjax.attribution`, or another `lens(fun, images, target)`; any random draws of its own should be
            the same each time.
        model: with its trained weights.
        images: as the model takes them.
        target: one class per image.
        key: draws the new weights.
        layer: the layer whose maps a CAM weights: its `fun` is then `model.split(layer)`.
        bottom_up: begin with the lowest layer.

    Raises:
        ValueError: the lens does not return maps [n, …].
        UserError: as `randomized`.

    Paper: Adebayo et al. 2018, "Sanity checks for saliency maps", section 3.

    >>> from zfjax.models.nets import NetModel
    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> model = NetModel(net, net.init(jax.random.key(1), images))
    >>> lens = zfjax.attribution.grad_cam
    >>> found = sanity_check(lens, model, images, jnp.arange(2), jax.random.key(2), layer="relu5")
    >>> found.layers[:3], found.cascade.signed.shape
    (('fc8', 'fc7', 'fc6'), (8, 2))
    """
    images, target = jnp.asarray(images), jnp.asarray(target)

    def maps_of(model: Model) -> np.ndarray:
        found = lens(model.split(layer) if layer else model.function, images, target)
        return np.asarray(getattr(found, "attributions", found))

    trained = maps_of(model)
    if trained.ndim < 2 or len(trained) != len(images):
        raise ValueError(f"lens: expected maps [{len(images)}, H, W] or with channels, got {list(trained.shape)}")
    ranks = [_centered_ranks(part) for part in (trained, np.abs(trained))]

    def similarity(model: Model) -> list[np.ndarray]:
        maps = maps_of(model)
        return [_correlation(_centered_ranks(part), of) for part, of in zip((maps, np.abs(maps)), ranks, strict=True)]

    names: list[str] = []
    cascade: list[list[np.ndarray]] = []
    alone: list[list[np.ndarray]] = []
    for redrawn in randomized(model, key, bottom_up=bottom_up):
        names.append(redrawn.layer)
        cascade.append(similarity(redrawn.cascade))
        alone.append(similarity(redrawn.alone) if len(names) > 1 else cascade[0])
    return Sanity(tuple(names), *(Similarity(*np.swapaxes(found, 0, 1)) for found in (cascade, alone)))


def randomized(model: Model, key: PRNGKeyArray, *, bottom_up: bool = False) -> Iterator[Randomized]:
    """Yield the model with one layer after another randomized, the top layer first.

    In a net of zfjax kernels are drawn from its initial distribution, `net.kernel_init`; biases are reset to 0, and
    batch norm to scale 1, mean 0, variance 1. A residual block counts as one layer, and batch norm belongs to the layer
    below it.

    Nobody knows how the weights of other models were drawn, so each of their arrays is shuffled: it keeps its mean and
    deviation. Layers are the convolutions and products; the arrays between two of them belong to the lower one. Of more
    than `MOST` layers, neighbors are randomized together, under the name of the lowest.

    Args:
        model: with its weights, in a pytree or in modules and arrays that its function holds.
        key: draws the weights; a layer's new weights are the same in the cascade, in both directions, and alone.
        bottom_up: begin with the lowest layer; the cascade is then that layer and all below it.

    Raises:
        UserError: the model's weights cannot be replaced.
    """
    cascade = model
    layers = list(enumerate(reversed(_layers(model).items())))
    for number, (name, parts) in reversed(layers) if bottom_up else layers:
        fresh = _fresh(model, parts, jax.random.fold_in(key, number))
        cascade = cascade.replaced(fresh)
        yield Randomized(name, cascade, model.replaced(fresh))


def randomized_layers(model: Model) -> tuple[str, ...]:
    """The layers that `randomized` randomizes, the top layer first. Raises a UserError as `randomized` does."""
    return tuple(reversed(_layers(model)))


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
                rows.append((title, way, kind, *(mean_of(100 * layer) for layer in values)))
    first = next(iter(found.values()))
    return Table(
        f"Maps of a randomized net vs. the trained net's, {first.cascade.signed.shape[1]} images of {dataset}",
        ("lens", "randomized", "map", *first.layers),
        rows,
        "Spearman's rank correlation in percent, mean over images; after ± half of the 95 % interval of the mean, by a"
        " bootstrap over images. from the top: the layer and all above it are randomized; alone: only it is. Near 0, a"
        " map shows what was learned; near 100, what is in the image or in the architecture. Constant maps have no"
        " ranks and are left out; if all maps are constant, there is no number. Ranks of a few coarse cells say"
        " little. Maps without a sign have the same row twice.",
    )


def rank_correlation(one: Real[np.ndarray, "n ..."], other: Real[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
    """Spearman's rank correlation between matching rows of two arrays; NaN if a row is constant."""
    return _correlation(_centered_ranks(one), _centered_ranks(other))


def _centered_ranks(array: Real[np.ndarray, "n ..."]) -> Float[np.ndarray, "n cells"]:
    """Each row's ranks, less their mean."""
    ranks = stats.rankdata(np.reshape(array, (len(array), -1)).astype(float), axis=1)
    return ranks - ranks.mean(axis=1, keepdims=True)


def _correlation(first: Float[np.ndarray, "n cells"], second: Float[np.ndarray, "n cells"]) -> Float[np.ndarray, " n"]:
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.where(spread > 0, (first * second).sum(axis=1) / np.where(spread > 0, spread, 1), np.nan)


def _layers(model: Model) -> dict[str, list[str]]:
    """Layers, bottom first, each with what is randomized together: names of specs, or in other models paths."""
    if isinstance(model, NetModel):
        return _groups(model.net)
    free = {path for path, leaf in model.leaves.items() if jnp.issubdtype(leaf.dtype, jnp.floating)}
    layers: dict[str, list[str]] = {}
    last: list[str] = []
    for name, reads in model.reads.items():
        paths = [path for path in reads if path in free]
        free -= {*paths}  # what several places read belongs to the lowest
        if paths and (model.layers[name].kind in ("conv", "dense") or not layers):
            last = layers[name] = []
        last += paths
    if not layers:
        raise UserError(
            "the weights of this model cannot be replaced: expected Model(fun, images, weights=), or a function that"
            " holds them in modules or arrays of JAX"
        )
    layers[next(iter(layers))] += sorted(free)  # what no place reads, such as a class token
    names = np.array_split(list(layers), min(MOST, len(layers)))
    return {str(some[0]): [path for name in some for path in layers[name]] for some in names}


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


def _fresh(model: Model, parts: Sequence[str], key: PRNGKeyArray) -> dict[str, Array]:
    """New weights by path, of one of `_layers`."""
    if isinstance(model, NetModel):
        return _redrawn(model, parts, key)
    leaves = model.leaves
    keys = {path: jax.random.fold_in(key, number) for number, path in enumerate(parts)}
    return {path: _shuffled(jnp.asarray(leaves[path]), one) for path, one in keys.items()}


def _shuffled(leaf: Array, key: PRNGKeyArray) -> Array:
    """The array with its numbers in another order."""
    return jax.random.permutation(key, leaf.ravel()).reshape(leaf.shape)


def _redrawn(model: NetModel, names: Sequence[str], key: PRNGKeyArray) -> dict[str, Array]:
    """New weights of the layers with these names."""
    draw: dict[str, Callable[[PRNGKeyArray, Array], Array]] = {
        "kernel": lambda key, leaf: model.net.kernel_init(key, leaf.shape, leaf.dtype),
        "bias": lambda _, leaf: jnp.zeros_like(leaf),
        "mean": lambda _, leaf: jnp.zeros_like(leaf),
        "scale": lambda _, leaf: jnp.ones_like(leaf),
        "var": lambda _, leaf: jnp.ones_like(leaf),
    }
    keys = {name: jax.random.fold_in(key, number) for number, name in enumerate(names)}
    fresh = {}
    for path, leaf in model.leaves.items():
        name, _, part = path.rpartition("/")
        if name in keys:
            fresh[path] = draw[part](keys[name], jnp.asarray(leaf))
    return fresh
