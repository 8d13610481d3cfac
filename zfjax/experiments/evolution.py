"""Figure 4: how projections and features change while a net learns."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.experiments.gallery import Gallery, Top, gallery, top_activations
from zfjax.models import ConvNet, layer, layer_table
from zfjax.models.cut import layers

SIDE = 8  # compare features at up to this many rows and columns of a map


@shown_by_shape
class LayerEvolution(NamedTuple):
    """Some maps of one layer: at each checkpoint, the image that excites each map most."""

    maps: Int[np.ndarray, " maps"]
    values: Float[np.ndarray, "maps checkpoints"]
    images: Int[np.ndarray, "maps checkpoints"]  # numbers in the order of the batches
    fields: Int[np.ndarray, "maps checkpoints 4"]  # receptive field of the unit: (top, left, height, width) in pixels
    projections: Float[np.ndarray, "maps checkpoints height width channels"]  # signed, cropped to the receptive field


@shown_by_shape
class Evolution(NamedTuple):
    """A net's layers from checkpoint to checkpoint."""

    names: tuple[str, ...]  # of the layers
    evolved: tuple[LayerEvolution, ...]  # one per layer
    jumps: Float[np.ndarray, "layers intervals"]  # share of the firing maps whose strongest image is new
    distances: Float[np.ndarray, "layers checkpoints checkpoints"]  # between any two, by `feature_distances`

    @property
    def moved(self) -> Float[np.ndarray, "layers intervals"]:
        """How far the features moved from each checkpoint to the next."""
        return np.diagonal(self.distances, offset=1, axis1=1, axis2=2)

    @property
    def to_final(self) -> Float[np.ndarray, "layers checkpoints"]:
        """How far the features are from those of the last checkpoint."""
        return self.distances[:, :, -1]


@shown_by_shape
class Snapshot(NamedTuple):
    """One layer at one checkpoint."""

    top: Top  # the strongest activation (k = 1) of every map
    found: Gallery  # of the chosen maps
    responses: Float[np.ndarray, "samples maps"]


def evolution(
    net: ConvNet,
    checkpoints: Iterable[PyTree],
    maps: Mapping[str, Int[np.ndarray, " _"]],
    batches: Callable[[], Iterable[Float[Array, "n height width channels"]]],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    probes: Sequence[Float[Array, "_ height width channels"]],
    mesh: Mesh | None = None,
) -> Evolution:
    """Project the strongest activations at each checkpoint, and measure how far features moved between checkpoints.

    One pass over the images per checkpoint; only one checkpoint's variables are in memory at a time.

    Args:
        net: a ConvNet.
        checkpoints: its variables `{"params": …}` at several times, oldest first; read one at a time.
        maps: the maps to project, by layer, bottom first.
        batches: each call starts a new pass over all training images, mean subtracted.
        load: from image numbers, in the order of the batches, to images.
        probes: batches of the images on which features are compared.
        mesh: the devices to split each batch over.

    Raises:
        ValueError: fewer than two checkpoints, or no probes.
        UserError: there is no such layer or map.

    Paper: section 4.2 ("feature evolution during training") and figure 4.
    """

    def of(variables: PyTree) -> list[Snapshot]:
        tops = top_activations(layers(net, variables, tuple(maps)), batches(), k=1, mesh=mesh)
        return snapshots_of(net, variables, maps, jax.device_get(tops), load, probes)

    require_maps(net, maps, probes)
    return joined(tuple(maps), [of(variables) for variables in checkpoints])


def joined(names: tuple[str, ...], snapshots: Sequence[Sequence[Snapshot]]) -> Evolution:
    """The snapshots of checkpoints, oldest first, as an evolution of the layers with these names.

    Raises:
        ValueError: fewer than two checkpoints.
    """
    if len(snapshots) < 2:
        raise ValueError(f"checkpoints: expected at least two, got {len(snapshots)}")
    layers_over_time = list(zip(*snapshots, strict=True))
    return Evolution(
        names,
        tuple(_evolved(over_time) for over_time in layers_over_time),
        np.stack([_jumps([snapshot.top for snapshot in over_time]) for over_time in layers_over_time]),
        np.stack([feature_distances(np.stack([one.responses for one in over_time])) for over_time in layers_over_time]),
    )


def feature_distances(
    responses: Float[np.ndarray, "checkpoints samples maps"],
) -> Float[np.ndarray, "checkpoints checkpoints"]:
    """How far features differ between checkpoints: the mean over maps of 1 − the correlation of a map's responses.

    0: every map responds as before, up to scale and offset; 1: its responses are unrelated. The strength of the
    weights, which grows and decays throughout training, does not matter, and every map counts the same. A map without
    variance (dead) at both checkpoints has distance 0; at only one of them, 1.

    Args:
        responses: each map's activations at the same positions of the same images, at each checkpoint.
    """
    responses = responses.astype(np.result_type(responses, np.float32))  # sums in half precision would be too coarse
    centered = responses - responses.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(centered, axis=1)  # [checkpoints, maps]
    units = centered / np.where(lengths > 0, lengths, 1)[:, None]
    correlations = np.einsum("asm,bsm->abm", units, units, optimize=True)
    dead = lengths == 0
    # For equal features, rounding would leave values slightly above or below 0.
    return np.where(dead[:, None] & dead[None], 0.0, np.maximum(1.0 - correlations, 0.0)).mean(axis=2)


def mean_distances(found: Evolution, epochs: Sequence[float]) -> Float[np.ndarray, " layers"]:
    """The mean distance of each layer's features to the final ones, over the epochs from first to last checkpoint.

    This is the area under `to_final`, linear between checkpoints, divided by the number of epochs: the smaller, the
    earlier a layer converged. The paper finds that lower layers converge first.
    """
    at = np.asarray(epochs, float)
    middles = (found.to_final[:, 1:] + found.to_final[:, :-1]) / 2
    return (middles * np.diff(at)[None]).sum(axis=1) / (at[-1] - at[0])


def convergence_epochs(found: Evolution, epochs: Sequence[float], within: float = 0.25) -> Float[np.ndarray, " layers"]:
    """The epoch from which each layer's features stay within a distance of `within` of the final ones.

    Interpolates linearly between checkpoints; the first checkpoint's epoch if they always do.
    """
    crossings = []
    for line in found.to_final:
        beyond = np.flatnonzero(line > within)
        if not len(beyond):
            crossings.append(float(epochs[0]))
            continue
        before, after = beyond[-1], beyond[-1] + 1  # at the last checkpoint the distance is 0
        share = (line[before] - within) / (line[before] - line[after])
        crossings.append(epochs[before] + share * (epochs[after] - epochs[before]))
    return np.array(crossings)


def snapshots_of(
    net: ConvNet,
    variables: PyTree,
    maps: Mapping[str, Int[np.ndarray, " _"]],
    tops: Mapping[str, Top],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    probes: Sequence[Float[Array, "_ height width channels"]],
    mesh: Mesh | None = None,
) -> list[Snapshot]:
    """One checkpoint's layers, in the order of `maps`, from the strongest activation of each map, on the host.

    `mesh` has the devices to project on, as in `gallery`.
    """
    fun = layers(net, variables, tuple(maps))
    responses = [jax.device_get(_responses(fun, images)) for images in probes]
    return [
        Snapshot(
            tops[name],
            gallery(layer(net, variables, name), tops[name], chosen, load, mesh=mesh),
            np.concatenate([part[name] for part in responses]),
        )
        for name, chosen in maps.items()
    ]


@jax.jit
def _responses(fun: Partial, images: Array) -> dict[str, Float[Array, "_ _"]]:
    """Activations sampled evenly over each map, so that what is kept of a checkpoint stays small."""

    def sample(acts: Array) -> Array:
        for axis in range(1, acts.ndim - 1):
            size = acts.shape[axis]
            acts = jnp.take(acts, np.linspace(0, size - 1, min(size, SIDE)).round().astype(int), axis=axis)
        return acts.reshape(-1, acts.shape[-1]).astype(jnp.float32)

    return {name: sample(acts) for name, acts in fun(images).items()}


def _evolved(over_time: Sequence[Snapshot]) -> LayerEvolution:
    maps = over_time[0].found.maps
    found = [one.found for one in over_time]
    return LayerEvolution(
        maps,
        np.concatenate([one.values for one in found], axis=1),
        np.concatenate([one.top.images[maps] for one in over_time], axis=1),
        np.concatenate([one.fields for one in found], axis=1),
        np.concatenate([one.projections for one in found], axis=1),
    )


def _jumps(tops: Sequence[Top]) -> Float[np.ndarray, " intervals"]:
    """Share of the maps firing at both checkpoints whose strongest image changed; NaN if none fires at both."""
    shares = []
    for before, after in itertools.pairwise(tops):
        fire = (before.values > 0) & (after.values > 0)
        shares.append(np.mean((before.images != after.images)[fire]) if fire.any() else np.nan)
    return np.array(shares)


def require_maps(
    net: ConvNet, maps: Mapping[str, Int[np.ndarray, " _"]], probes: Sequence[Float[Array, "_ height width channels"]]
) -> None:
    """Raise a UserError if a layer lacks one of its maps, and a ValueError if there are no probes."""
    if not len(probes):
        raise ValueError("probes: expected at least one batch of images, got none")
    sizes = {row.name: row.output.maps for row in layer_table(net)}
    for name, chosen in maps.items():
        outside = [unit for unit in chosen if name in sizes and not 0 <= unit < sizes[name]]
        if outside:
            raise UserError(f"map {outside[0]}: {name} has {sizes[name]} maps, 0 to {sizes[name] - 1}")
