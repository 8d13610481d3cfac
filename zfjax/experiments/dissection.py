"""What each map detects, if it has a name: how far its strongest cells overlap with what the pictures show there."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int, UInt8

from zfjax.console.text import shown_by_shape
from zfjax.data import colors
from zfjax.data.crops import center_crop
from zfjax.experiments.lenses import Grid, tents
from zfjax.training import sharding
from zfjax.transform import functions

SHARE = 0.01  # of a map's cells lie above the threshold that its mask is cut at
FLOOR = 0.04  # the least overlap that makes a label, as in the paper
STEP = 2  # pixels, down and across, between those that are counted; as many as in the paper, of images of 224 px
_AT_ONCE = 2**23  # pixels of all maps of a layer that are in memory at a time, or those of one image
COLOR = "color"


class Concept(NamedTuple):
    """Something that pixels may show."""

    kind: str  # such as class, part, color
    name: str


class Label(NamedTuple):
    """What a map detects."""

    concept: Concept
    iou: float  # of the map's mask and the concept's, over all images


@shown_by_shape
class Overlaps(NamedTuple):
    """Pixels of the masks of one layer's maps, of all concepts, and of both, added up over images."""

    both: Int[Array | np.ndarray, "maps concepts"]
    of_map: Int[Array | np.ndarray, " maps"]
    of_concept: Int[Array | np.ndarray, " concepts"]

    @property
    def iou(self) -> Float[np.ndarray, "maps concepts"]:
        """Intersection over union; 0 where there is neither."""
        both, of_map, of_concept = map(np.asarray, self)
        return both / np.maximum(of_map[:, None] + of_concept[None] - both, 1)


@shown_by_shape
class Pictured(NamedTuple):
    """Images with what their pixels show, split over the devices of a mesh if there is one."""

    images: Float[Array, "n height width channels"]
    numbers: Int[Array, " n"]  # -1 for padding
    pictures: UInt8[Array, "n side side 3"]  # RGB; the images are of their centers
    pixels: UInt8[Array, "n height width kinds"]  # numbers from 1 into the names of each kind; 0 for none


def concepts_of(names: Mapping[str, tuple[str, ...]]) -> tuple[Concept, ...]:
    """All that pixels may show: what a dataset knows, by kind, and the colors, which are known of any picture."""
    every = {**names, COLOR: colors.NAMES}
    return tuple(Concept(kind, name) for kind, of_kind in every.items() for name in of_kind)


def overlaps(
    fun: Callable[[Array], Mapping[str, Float[Array, "n h w maps"]]],
    batches: Iterable[Pictured],
    thresholds: Mapping[str, Float[np.ndarray, " maps"]],
    grids: Mapping[str, Grid],
    counts: tuple[int, ...],
    mesh: Mesh | None = None,
    before: Mapping[str, Overlaps] | None = None,
) -> dict[str, Overlaps]:
    """Count the pixels that maps and concepts share, in one pass over any number of images.

    Every other pixel of every other row is counted.

    A map becomes as large as the image, bilinearly between the centers of its cells' receptive fields; where it lies
    above its threshold is its mask.

    Args:
        fun: from images to the activations of some layers, by name.
        batches: the images.
        thresholds: by layer, one number for each map.
        grids: by layer, where its cells lie.
        counts: how many names there are of each kind but the colors.
        mesh: the devices that batches are split over.
        before: what this function has returned for other images, to be gone on with.

    Paper: Bau et al. 2017, "Network Dissection: Quantifying Interpretability of Deep Visual Representations".
    """
    found = None if before is None else {name: Overlaps(*map(np.copy, one)) for name, one in before.items()}
    fun = functions.live(fun, lambda tree: sharding.replicate(tree, mesh))
    for batch in batches:
        shapes = functions.output_of(fun, batch.images)
        size = batch.images.shape[1], batch.images.shape[2]
        every = {name: tents(shapes[name].shape[1:3], grids[name], size) for name in thresholds}
        placing = {name: (down[::STEP], across[::STEP]) for name, (down, across) in every.items()}
        cut = sharding.replicate((placing, dict(thresholds)), mesh)
        new = jax.device_get(_shared(fun, *cut, *batch, counts=(*counts, len(colors.NAMES)), mesh=mesh))
        parts = {name: Overlaps(*(np.asarray(part, np.int64) for part in one)) for name, one in new.items()}
        found = parts if found is None else {name: Overlaps(*map(np.add, found[name], parts[name])) for name in parts}
    if found is None:
        raise ValueError("batches: expected at least one batch of images, got none")
    return found


def labels_of(found: Overlaps, concepts: tuple[Concept, ...], floor: float = FLOOR) -> tuple[Label | None, ...]:
    """The concept that each map overlaps with most, the first of equals; None for less than `floor`.

    By chance, a mask of one percent of the pixels overlaps with no concept by more than one percent, however many
    pixels show it; the paper's floor is four times that. A concept as rare as the mask then has to fill a thirteenth.

    >>> found = Overlaps(np.array([[50, 30], [1, 3]]), np.array([100, 100]), np.array([100, 80]))
    >>> labels_of(found, (Concept("part", "eye"), Concept("color", "red")))
    (Label(concept=Concept(kind='part', name='eye'), iou=0.3333333333333333), None)
    """
    iou = found.iou
    best = iou.argmax(axis=1)
    return tuple(
        Label(concepts[concept], float(of_map[concept])) if of_map[concept] >= floor else None
        for concept, of_map in zip(best, iou, strict=True)
    )


@functions.jit
def _shared(
    fun: Callable,
    placing: Mapping[str, tuple[Array, Array]],
    thresholds: Mapping[str, Array],
    images: Array,
    numbers: Array,
    pictures: Array,
    pixels: Array,
    *,
    counts: tuple[int, ...],
    mesh: Mesh | None,
) -> dict[str, Overlaps]:
    """What all images of a batch add."""

    def on_one(fun: Callable, placing: Mapping, thresholds: Mapping, *rows: Array) -> dict[str, Overlaps]:
        images, numbers, pictures, pixels = rows
        acts = fun(images)
        shown = colors.color_numbers(center_crop(pictures, pixels.shape[1])[:, ::STEP, ::STEP])
        concepts = _as_masks(jnp.concatenate([pixels[:, ::STEP, ::STEP], shown[..., None]], axis=-1), counts)
        concepts &= (numbers >= 0)[:, None, None]

        def of_layer(name: str) -> Overlaps:
            def of_image(row: tuple) -> Overlaps:
                acts, concepts, number = row
                return _of_image(acts, placing[name], thresholds[name], concepts, number >= 0)

            size = max(1, _AT_ONCE // (concepts.shape[1] * acts[name].shape[-1]))
            each = jax.lax.map(of_image, (acts[name], concepts, numbers), batch_size=min(size, len(numbers)))
            return Overlaps(*(part.sum(axis=0, dtype=jnp.int32) for part in each))

        return {name: of_layer(name) for name in thresholds}

    rows = images, numbers, pictures, pixels
    if mesh is None:
        return on_one(fun, placing, thresholds, *rows)

    def on_each(*args: Any) -> dict[str, Overlaps]:
        return jax.lax.psum(on_one(*args), "data")

    specs = (*(P(),) * 3, *(P("data"),) * 4)
    # Not checked: the check knows no rule for some primitives of nets.
    return jax.shard_map(on_each, mesh=mesh, in_specs=specs, out_specs=P(), check_vma=False)(
        fun, placing, thresholds, *rows
    )


def _as_masks(
    numbers: UInt8[Array, "n height width kinds"], counts: tuple[int, ...]
) -> Bool[Array, "n pixels concepts"]:
    """Whether each pixel shows each of all concepts."""
    n, *_, kinds = numbers.shape
    rows = numbers.reshape(n, -1, kinds)
    named = [jnp.arange(1, count + 1, dtype=jnp.uint8)[None, None] for count in counts]
    return jnp.concatenate([rows[..., kind : kind + 1] == names for kind, names in enumerate(named)], axis=-1)


def _of_image(
    acts: Float[Array, "h w maps"],
    placing: tuple[Float[Array, "height h"], Float[Array, "width w"]],
    threshold: Float[Array, " maps"],
    concepts: Bool[Array, "pixels concepts"],
    counts: Bool[Array, ""],
) -> Overlaps:
    exact, (down, across) = jax.lax.Precision.HIGHEST, placing
    rows = jnp.einsum("Hh,hwk->Hwk", down, acts.astype(jnp.float32), precision=exact)
    large = jnp.einsum("Ww,Hwk->HWk", across, rows, precision=exact)
    mask = ((large > threshold[None, None]) & counts).reshape(-1, acts.shape[-1])
    # Zeros and ones, whose sums over one image are exact in any precision.
    ones = jnp.float32
    both = jnp.einsum("pk,pc->kc", mask.astype(ones), concepts.astype(ones), preferred_element_type=jnp.float32)
    return Overlaps(both.astype(jnp.int32), mask.sum(axis=0, dtype=jnp.int32), concepts.sum(axis=0, dtype=jnp.int32))
