"""What a learned network found: strongest activations, each sent down alone, and reconstructions of images."""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Shaped

from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.experiments.adn import inference
from zfjax.experiments.adn.inference import Codes
from zfjax.experiments.adn.layerwise import Learned
from zfjax.experiments.adn.operators import Filters, reconstruct, unpooled
from zfjax.experiments.adn.settings import Settings
from zfjax.experiments.adn.stack import Stack


@shown_by_shape
class Strongest(NamedTuple):
    """The activations of each map that are farthest from zero, at most one for each image, strongest first."""

    values: Float[np.ndarray, "maps top"]
    images: Int[np.ndarray, "maps top"]
    cells: Int[np.ndarray, "maps top 2"]  # row and column


@shown_by_shape
class Coded(NamedTuple):
    """Some images with their codes in each layer, of values that are not fitted again."""

    images: Float[Array, "n side side 1"]
    codes: tuple[Codes, ...]

    def switches(self, number: int) -> tuple[Array, ...]:
        """Of the layers below one."""
        return tuple(codes.switches for codes in self.codes[: number - 1])


def spread(images: Shaped[np.ndarray, "n ..."], count: int) -> Shaped[np.ndarray, "m ..."]:
    """Some of the images, spread evenly over all."""
    return images[np.linspace(0, len(images) - 1, min(len(images), count)).astype(int)]


def coded(
    settings: Settings,
    layers: Sequence[Learned],
    images: Float[np.ndarray, "n side side"],
    progress: Progress | None = None,
) -> Coded:
    """Infer the codes of images in all layers, the lower first, as many images at once as when they were learned.

    Their values are still shrunk: of `fitted` ones, large ones cancel each other.
    """
    size, count, method = settings.batch_size, len(images), settings.inference._replace(refit=0)
    filled = np.zeros((-(-count // size) * size, *images.shape[1:], 1), np.float32)
    filled[:count] = images[..., None]
    parts = []
    for begin in range(0, count, size):
        shown, found = jnp.asarray(filled[begin : begin + size]), list[Codes]()
        for number in range(1, len(layers) + 1):
            stack, filters = settings.stack.of(number), kernels(layers, number)
            known = (stack, filters, tuple(codes.switches for codes in found))
            last, start = layers[number - 1], inference.no_codes(stack, number, shown)
            found.append(inference.infer(*known, last.weight, last.bounds, shown, start, method))
        parts.append(Coded(shown, tuple(found)))
        if progress:
            progress.advance(size)
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)


def fitted(settings: Settings, layers: Sequence[Learned], coded: Coded, number: int) -> Codes:
    """A layer's codes with values fitted again, as inference ends: those that reconstruct the images best."""
    filters, size, count = kernels(layers, number), settings.batch_size, len(coded.images)
    parts = []
    for begin in range(0, count, size):
        at = np.minimum(np.arange(begin, begin + size), count - 1)  # the last batch is filled up
        some = jax.tree.map(lambda leaf, at=at: leaf[at], coded)
        known = settings.stack.of(number), filters, some.switches(number)
        parts.append(inference.fitted(*known, some.images, some.codes[number - 1], settings.inference.refit))
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves)[:count], *parts)


def strongest(stack: Stack, number: int, codes: Codes, top: int = 1) -> Strongest:
    """The strongest activations of each map of a layer over some images."""
    maps = np.asarray(unpooled(stack, number, *codes))
    n, height, width, count = maps.shape
    flat = np.abs(maps).reshape(n, height * width, count)
    cells, sizes = flat.argmax(1), flat.max(1)  # [n, maps]
    images = np.argsort(-sizes, axis=0, kind="stable")[:top].T  # [maps, top]
    which = np.arange(count)[:, None]
    rows, columns = np.divmod(cells[images, which], width)
    return Strongest(maps[images, rows, columns, which], images, np.stack([rows, columns], -1))


def strongest_cells(maps: Float[np.ndarray, "h w maps"], count: int) -> Float[np.ndarray, "count h w maps"]:
    """The cells of an image's maps that are farthest from zero, each by itself; zeros where there are fewer."""
    chosen = np.argsort(-np.abs(maps), axis=None, kind="stable")[:count]
    alone = np.zeros((count, maps.size), maps.dtype)
    alone[np.arange(len(chosen)), chosen] = maps.ravel()[chosen]
    return alone.reshape(count, *maps.shape)


def alone(
    stack: Stack, layers: Sequence[Learned], coded: Coded, number: int, found: Strongest, batch: int = 16
) -> Float[np.ndarray, "maps top side side"]:
    """Each of the strongest activations sent down to the image by itself, through the switches of its image."""
    filters, (count, top) = kernels(layers, number), found.values.shape
    made = []
    for start in range(0, count * top, batch):
        some = np.arange(start, start + batch) % (count * top)  # the last batch is filled up
        which, rank = np.divmod(some, top)
        images = found.images[which, rank]
        rows, columns = found.cells[which, rank].T
        maps = np.zeros((batch, *stack.maps(number)), np.float32)
        maps[np.arange(batch), rows, columns, which] = found.values[which, rank]
        switches = tuple(at[images] for at in coded.switches(number))
        made.append(np.asarray(reconstruct(stack.of(number), filters, switches, jnp.asarray(maps)))[..., 0])
    return np.concatenate(made)[: count * top].reshape(count, top, *stack.image)


def field(stack: Stack, number: int, row: int, column: int) -> tuple[int, int, int, int]:
    """The pixels that a cell of a layer's maps can reach: (top, left, height, width), which may begin outside."""
    spans = []
    for axis, cell in enumerate((row, column)):
        first = last = cell
        for below in range(number, 0, -1):
            first -= stack.layers[below - 1].side - 1
            pool = stack.layers[below - 2].pool if below > 1 else None
            if pool is not None:
                first, last = first * pool[axis], (last + 1) * pool[axis] - 1
        spans.append((first, last - first + 1))
    return spans[0][0], spans[1][0], spans[0][1], spans[1][1]


def windows(
    stack: Stack,
    number: int,
    found: Strongest,
    made: Float[np.ndarray, "maps top side side"],
    images: Float[np.ndarray, "n side side"],
) -> tuple[Float[np.ndarray, "maps top height width"], Float[np.ndarray, "maps top height width"]]:
    """The part that each activation can reach, of its projection and of its image; zeros outside."""
    spans = [
        min(size, side) for size, side in zip(field(stack, number, 0, 0)[2:], stack.image, strict=True)
    ]  # a field that is larger than the image becomes the image
    shape = (*found.values.shape, *spans)
    projections, patches = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    for which, rank in np.ndindex(*found.values.shape):
        corner = field(stack, number, *map(int, found.cells[which, rank]))[:2]
        top, left = (at if span < side else 0 for at, span, side in zip(corner, spans, stack.image, strict=True))
        rows, columns = (
            slice(at + span, at + 2 * span) for at, span in zip((top, left), spans, strict=True)
        )  # after padding
        around = [(span, span) for span in spans]
        projections[which, rank] = np.pad(made[which, rank], around)[rows, columns]
        patches[which, rank] = np.pad(images[found.images[which, rank]], around)[rows, columns]
    return projections, patches


def reconstructed(
    settings: Settings, layers: Sequence[Learned], coded: Coded, number: int
) -> tuple[Float[np.ndarray, "n side side"], Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Images from a layer's fitted codes: what they give, its signal-to-noise in dB, the share of cells not zero."""
    stack, codes = settings.stack, fitted(settings, layers, coded, number)
    maps = unpooled(stack, number, *codes)
    made = np.asarray(reconstruct(stack.of(number), kernels(layers, number), coded.switches(number), maps))
    errors = np.square(made - np.asarray(coded.images)).sum((1, 2, 3))
    decibels = np.asarray(inference.decibels(coded.images, jnp.asarray(errors)))
    share = np.count_nonzero(np.asarray(codes.values), (1, 2, 3)) / np.prod(stack.maps(number))
    return made[..., 0], decibels, share


def kernels(layers: Sequence[Learned], number: int) -> Filters:
    """The filters of the layers up to one."""
    return tuple(layer.kernel for layer in layers[:number])


def orientation(kernel: Float[np.ndarray, "side side maps"]) -> Float[np.ndarray, " maps"]:
    """How much of each filter's energy lies in one band of orientations, 45° wide: 0.25 if it has none, 1 for a wave.

    Of filters drawn from a Gaussian, one in a hundred is above `ORIENTED`.
    """
    bands, size = 12, 64
    y, x = np.mgrid[-size // 2 : size // 2, -size // 2 : size // 2]
    band = np.minimum((np.arctan2(y, x) % np.pi / np.pi * bands).astype(int), bands - 1)
    scores = []
    for filters in np.moveaxis(np.asarray(kernel), -1, 0):
        spectrum = np.fft.fftshift(np.abs(np.fft.fft2(filters - filters.mean(), (size, size))) ** 2)
        energy = np.bincount(band.ravel(), spectrum.ravel(), bands)
        three = energy + np.roll(energy, 1) + np.roll(energy, -1)
        scores.append(three.max() / max(energy.sum(), 1e-30))
    return np.array(scores)


ORIENTED = 0.5
