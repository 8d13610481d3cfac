"""Images described by a network for a classifier: spatial pyramids of visual words over layer 1's maps.

Layer 1's maps stand where SIFT does in a spatial pyramid (Lazebnik et al. 2006). The maps are those of an image, or
what single activations of the last layer amount to in layer 1, each by itself: its pyramid then has one structure of
the image alone, and an image is the average of those of its strongest activations.

Patches, words, levels and kernel are zfjax's choice; the paper's are not known in full.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float
from sklearn.cluster import MiniBatchKMeans

from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn import kept, looking
from zfjax.experiments.adn.layerwise import Learned
from zfjax.experiments.adn.looking import Coded
from zfjax.experiments.adn.operators import Maps, reconstruct, unpooled
from zfjax.experiments.adn.settings import Settings


class Patches(NamedTuple):
    """What is a word, and where it counts."""

    cell: int = 4  # pixels; a patch is 4 × 4 cells, and each two cells there is one
    words: int = 1000
    levels: tuple[int, ...] = (1, 2, 4)  # parts of the image down and across
    activations: int = 50  # of the last layer, in each image


_FOR_WORDS = 200  # images, of whose patches words are made
_IN_A_FILE = 100  # images, or a few more


@shown_by_shape
class Described(NamedTuple):
    """Patches of maps."""

    patches: Float[Array, "n down across values"]  # of length 1, or zero
    there: Float[Array, "n down across"]  # 1 where anything is, else 0


@functools.partial(jax.jit, static_argnames=("side", "cell"))
def described(maps: Maps, side: tuple[int, int], cell: int) -> Described:
    """Patches of layer 1's maps: sizes of what is in each cell, map by map, and all 4 × 4 of them scaled to length 1.

    Args:
        maps: [N, H, W, maps] of layer 1, unpooled.
        side: (height, width) of the image, which lies in their middle.
        cell: pixels.
    """
    top, left = ((large - small) // 2 for large, small in zip(maps.shape[1:3], side, strict=True))
    rows, columns = (one // cell for one in side)
    inside = jnp.abs(maps)[:, top : top + rows * cell, left : left + columns * cell]
    cells = inside.reshape(len(maps), rows, cell, columns, cell, -1).sum((2, 4))
    down, across = (rows - 4) // 2 + 1, (columns - 4) // 2 + 1
    parts = [
        cells[:, i : i + 2 * down - 1 : 2, j : j + 2 * across - 1 : 2] for i in range(4) for j in range(4)
    ]  # of each patch
    patches = jnp.concatenate(parts, -1)
    lengths = jnp.sqrt(jnp.square(patches).sum(-1, keepdims=True))
    there = lengths > 1e-6
    return Described(patches / jnp.where(there, lengths, 1), there[..., 0].astype(patches.dtype))


def vocabulary(patches: Float[np.ndarray, "n values"], words: int, seed: int) -> Float[np.ndarray, "words values"]:
    """Visual words: centers of clusters of patches; as many as there are patches, if these are fewer."""
    means = MiniBatchKMeans(
        min(words, len(patches)), batch_size=4096, n_init=1, random_state=seed, max_no_improvement=5
    )
    return means.fit(patches).cluster_centers_.astype(np.float32)


@functools.partial(jax.jit, static_argnames=("levels",))
def pyramid(found: Described, words: Float[Array, "words values"], levels: tuple[int, ...]) -> Float[Array, "n bins"]:
    """How often each word is in each part of an image, for parts of several sizes; all together add up to 1.

    A level counts half as much as the one with smaller parts below it, and the coarsest as much as the next.
    """
    n, down, across, _ = found.patches.shape
    nearest = jnp.argmax(found.patches @ words.T - jnp.square(words).sum(1)[None, None, None] / 2, -1)
    total = jnp.maximum(found.there.sum((1, 2)), 1)
    row, column, image = np.arange(down)[:, None], np.arange(across)[None], jnp.arange(n)[:, None, None]
    finest, weights, histograms = max(levels), [], []
    for parts in sorted(levels):
        part = (row * parts // down) * parts + column * parts // across
        bins = jnp.zeros((n, parts * parts, len(words)))
        histograms.append(bins.at[image, part[None], nearest].add(found.there).reshape(n, -1))
        weights.append(0.5 ** (np.log2(finest / parts) + (1 if parts > 1 else 0)))
    scale = sum(weights)
    scaled = [weight / scale * one for weight, one in zip(weights, histograms, strict=True)]
    return jnp.concatenate(scaled, 1) / total[:, None]


def strongest_below(
    settings: Settings, layers: Sequence[Learned], coded: Coded, image: int, count: int
) -> Float[Array, "activations h w maps"]:
    """What each of the strongest activations of an image's last layer amounts to in layer 1, by itself."""
    number, stack = len(layers), settings.stack
    own = [codes._replace(values=codes.values[image : image + 1], switches=codes.switches[image : image + 1])
           for codes in coded.codes]  # fmt: skip
    alone = looking.strongest_cells(np.asarray(unpooled(stack, number, *own[-1]))[0], count)
    switches = tuple(jnp.broadcast_to(codes.switches, (count, *codes.switches.shape[1:])) for codes in own[:-1])
    filters = looking.kernels(layers, number)
    return reconstruct(stack, filters, switches, jnp.asarray(alone), to=1)


def _parts(settings: Settings, layers: Sequence[Learned], images: Float[np.ndarray, "n side side"]) -> Iterator[Coded]:
    """The codes of some images at a time."""
    for start in range(0, len(images), settings.batch_size):
        yield looking.coded(settings, layers, images[start : start + settings.batch_size])


def features(
    settings: Settings,
    layers: Sequence[Learned],
    images: Float[np.ndarray, "n side side"],
    patches: Patches,
    folder: epath.Path,
    progress: Progress,
) -> dict[str, Float[np.ndarray, "n bins"]]:
    """Pyramids of images: of their layer 1, and of the strongest activations of the last layer, if that is another.

    Args:
        settings: of the network; its seed draws the patches that words are made of.
        layers: the network.
        images: normalized pictures.
        patches: what is a word, and where it counts.
        folder: keeps what is found, so that the next call goes on from there; files of another network, other images or
            patches, and damaged ones, are written anew.
        progress: counts images.

    Raises:
        UserError: a file cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = [[kept.digest_of(np.asarray(layer.kernel)), layer.weight, *layer.bounds] for layer in layers]
    about = {
        "network": network,
        "settings": settings.as_json(),
        "images": kept.digest_of(images),
        "patches": list(map(str, patches)),
        "values": "before they are fitted again",
    }
    file = folder / "words.safetensors"
    words = kept.known(file, about)
    if words is None:
        words = {"words": _words(settings, layers, images, patches)}
        kept.write(file, words, about)
    parts, each = [], -(-_IN_A_FILE // settings.batch_size) * settings.batch_size
    for start in range(0, len(images), each):
        some, file = images[start : start + each], folder / f"{start:07}.safetensors"
        part = kept.known(file, about)
        if part is None:
            part = _pyramids(settings, layers, some, patches, jnp.asarray(words["words"]), progress)
            kept.write(file, part, about)
        else:
            progress.advance(len(some))
        parts.append(part)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _words(
    settings: Settings, layers: Sequence[Learned], images: Float[np.ndarray, "n side side"], patches: Patches
) -> Float[np.ndarray, "words values"]:
    """Visual words, of patches drawn from some images."""
    stack, generator = settings.stack.of(1), np.random.default_rng(settings.seed)
    drawn = []
    for coded in _parts(settings, layers[:1], looking.spread(images, _FOR_WORDS)):
        found = described(unpooled(stack, 1, *coded.codes[0]), stack.image, patches.cell)
        full = np.asarray(found.patches)[np.asarray(found.there) > 0]
        drawn.append(full[generator.permutation(len(full))[: 100 * len(coded.images)]])
    return vocabulary(np.concatenate(drawn), patches.words, settings.seed)


def _pyramids(
    settings: Settings,
    layers: Sequence[Learned],
    images: Float[np.ndarray, "n side side"],
    patches: Patches,
    words: Float[Array, "words values"],
    progress: Progress,
) -> dict[str, Float[np.ndarray, "n bins"]]:
    stack, top = settings.stack, f"layer {len(layers)}"

    def of(maps: Maps) -> np.ndarray:
        return np.asarray(pyramid(described(maps, stack.image, patches.cell), words, patches.levels))

    found: dict[str, list[np.ndarray]] = {"layer 1": []} if len(layers) == 1 else {"layer 1": [], top: []}
    for coded in _parts(settings, layers, images):
        found["layer 1"].append(of(unpooled(stack.of(1), 1, *coded.codes[0])))
        if len(layers) > 1:
            each = (
                strongest_below(settings, layers, coded, at, patches.activations) for at in range(len(coded.images))
            )
            found[top].append(np.stack([of(maps).mean(0) for maps in each]))
        progress.advance(len(coded.images))
    return {name: np.concatenate(parts) for name, parts in found.items()}


def embedded(histograms: Float[np.ndarray, "n bins"]) -> Float[np.ndarray, "n axes"]:
    """Vectors whose products are the intersections of histograms, so that a linear SVM on these is one on those.

    No picture's labels are used, and of each pair of pictures the product is as if there were no others.
    """
    rows = jnp.asarray(histograms)
    kernel = np.asarray(_intersections(rows), np.float64)
    squares, turn = np.linalg.eigh((kernel + kernel.T) / 2)
    kept = squares > 1e-7 * squares[-1]
    return (turn[:, kept] * np.sqrt(squares[kept])).astype(np.float32)


@jax.jit
def _intersections(rows: Float[Array, "n bins"]) -> Float[Array, "n n"]:
    return jax.lax.map(lambda row: jnp.minimum(row[None], rows).sum(1), rows)
