"""Figure 6: layer 1's filters: how strong each is, which dominate, and how much its stride aliases into layer 2."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.experiments.gallery import Top, gallery, some_maps
from zfjax.models import Model
from zfjax.models.landmarks import RECTIFIED
from zfjax.models.places import Place
from zfjax.ops.windows import Pair

DEAD, DOMINATING = 0.05, 3.0  # times the median RMS


@shown_by_shape
class Filters(NamedTuple):
    """A convolution's filters and their flaws."""

    kernel: Float[np.ndarray, "kh kw c maps"]
    rms: Float[np.ndarray, " maps"]  # √mean(w²) of each filter; renormalization bounds it
    dead: Bool[np.ndarray, " maps"]  # RMS far below the median
    dominating: Bool[np.ndarray, " maps"]  # RMS several times the median
    aliased: Float[np.ndarray, " maps"]  # share of each filter's energy that the stride aliases
    aliased_total: Float[np.ndarray, ""]  # the same for the energy of all filters together: strong filters weigh more


@shown_by_shape
class FirstLayers(NamedTuple):
    """A net's layers 1 and 2, as in the paper's Figure 6, with k of layer 2's maps."""

    filters: Filters
    silent: Bool[np.ndarray, " maps"]  # layer-1 maps that no image excited
    maps: Int[np.ndarray, " k"]
    projections: Float[np.ndarray, "k height width 3"]  # of each map's strongest activation, cropped to its field
    # Share of each projection's energy beyond the Nyquist limit of layer 1's stride.
    aliased_projections: Float[np.ndarray, " k"]
    strides: Pair  # of layer 1, in pixels


def filters(kernel: Float[np.ndarray, "kh kw c maps"], strides: Pair) -> Filters:
    """Measure how strong each filter of a convolution is, and how much of its output the stride aliases.

    Args:
        kernel: the convolution's weights.
        strides: (height, width) in pixels.

    Raises:
        ValueError: no filters, weights that are not finite, or a stride below 1.

    Paper: section 3 (renormalization), section 4.2 and figure 6.

    >>> import zfjax.experiments.filters as experiment
    >>> kernel = np.random.default_rng(0).normal(size=(7, 7, 3, 8)); kernel[..., 5] *= 10
    >>> print(np.flatnonzero(experiment.filters(kernel, (2, 2)).dominating))
    [5]
    """
    kernel = np.asarray(kernel, np.float32)
    if kernel.ndim != 4 or not kernel.size:
        raise ValueError(f"kernel: expected [kh, kw, c, maps], got {list(kernel.shape)}")
    energy = np.sum(np.square(kernel, dtype=np.float64), axis=(0, 1, 2))
    if not np.all(np.isfinite(energy)):
        raise ValueError("kernel: expected finite weights; the net has diverged")
    rms = np.sqrt(energy / np.prod(kernel.shape[:3]))
    median = np.median(rms)
    aliased = aliased_share(np.moveaxis(kernel, -1, 0), strides)
    total = np.sum(aliased * energy) / max(float(energy.sum()), 1e-300)
    return Filters(kernel, rms, rms <= DEAD * median, rms > DOMINATING * median, aliased, np.asarray(total))


def aliased_share(patterns: Float[np.ndarray, "n height width c"], strides: Pair) -> Float[np.ndarray, " n"]:
    """The share of each pattern's spectral energy that lies beyond the Nyquist limit of a stride.

    Sampled every s pixels, a frequency above 1/(2s) cycles per pixel, along either axis, looks like a lower one. A
    filter's spectrum is that of its response to white noise, so this is the share of that response that folds over.
    The constant part counts as below the limit: sampling keeps it. A pattern without structure (one pixel, noise) has
    1 - 1/(s·s) beyond the limit; an empty one counts as 0.

    The spectrum is that of the pattern on an infinite plane of zeros. It is integrated in closed form, without a grid
    of frequencies: the energy of w within |f| ≤ 1/(2s) is Σ w[a] w[b] sinc((a - b)/s)/s.

    Args:
        patterns: filters, or projections in pixels.
        strides: (height, width) in pixels.

    Raises:
        ValueError: a stride below 1.

    Paper: section 4.2 and figure 6 ("aliasing artifacts caused by the large stride 4").
    """
    if min(strides) < 1:
        raise ValueError(f"strides: expected at least 1, got {strides}")
    patterns = np.asarray(patterns, np.float64)
    down, across = (_below(size, stride) for size, stride in zip(patterns.shape[1:3], strides, strict=True))
    columns = np.moveaxis(patterns, 3, 1)  # [n, c, height, width]
    below = np.sum(columns * (down @ columns @ across), axis=(1, 2, 3))
    energy = np.sum(columns**2, axis=(1, 2, 3))
    # Rounding can produce a share of -1e-17.
    return np.where(energy > 0, np.clip(1 - below / np.where(energy > 0, energy, 1.0), 0, 1), 0.0)


def first_layers(
    model: Model,
    tops: Mapping[str, Top],
    load: Callable[[Int[np.ndarray, " n"]], Float[Array, "n height width channels"]],
    rng: np.random.Generator,
    count: int = 16,
) -> FirstLayers:
    """Layer 1's filters and layer 2's projections, with the counts of Figure 6.

    Args:
        model: a model whose first layer is a convolution of pixels, or a linear map of patches.
        tops: by layer, the strongest activation of each map over a split: `top_activations(…, k=1)` for
            `first_two(model)`.
        load: from image numbers, as in `tops`, to images.
        rng: draws the maps of layer 2, preferring those that fire.
        count: how many maps to draw.

    Raises:
        ValueError: as in `filters`.
        UserError: as in `first_two` and `pixel_filters`.

    Paper: figure 6.
    """
    first, second = first_two(model)
    found = pixel_filters(model)
    maps = some_maps(tops[second], count, rng)
    projections = gallery(model.layer(second), tops[second], maps, load).projections[:, 0]
    return FirstLayers(
        filters(found.kernel, found.strides),
        np.asarray(tops[first].values)[:, 0] <= 0,
        maps,
        projections,
        aliased_share(projections, found.strides),
        found.strides,
    )


def first_two(model: Model) -> tuple[str, str]:
    """The paper's layers 1 and 2: what is made of the filters of pixels, rectified if it is, and the next to look at.

    Raises:
        UserError: the model has no filters of pixels, or no layer above.
    """
    places = list(model.layers.values())
    start = places.index(_first_linear(model))
    alike = [place for place in places[start + 1 :] if place.shape == places[start].shape]
    first = next((place for place in alike[:3] if place.kind in RECTIFIED), places[start])
    above = {place.name for place in places[places.index(first) + 1 :]}
    second = next((name for name in model.feature_layers if name in above), None)
    if second is None:
        raise UserError("figure 6 shows layers 1 and 2; expected a model with a second layer of maps")
    return first.name, second


@shown_by_shape
class PixelFilters(NamedTuple):
    """The filters of a model's first layer, and the distance between two places where they are applied."""

    kernel: Float[np.ndarray, "kh kw channels maps"]
    strides: Pair


def pixel_filters(model: Model) -> PixelFilters:
    """How much each pixel adds to a unit of each map of a model's first convolution, or of what embeds its patches.

    They are read from the derivative at a unit in the middle, so that it makes no difference how the model stores its
    weights.

    Raises:
        UserError: the model's first layer reads no limited part of the image.

    Paper: figure 6.
    """
    place = _first_linear(model)
    assert place.receptive_field is not None
    fun, unit = model.layer(place.name), tuple(length // 2 for length in place.shape[:-1])
    image = jnp.zeros((1, *model.image_shape), jnp.float32)

    @jax.jit
    def at_unit(fun: Partial) -> Float[Array, "maps height width channels"]:
        maps, down = jax.vjp(lambda image: fun(image)[0, *unit], image)
        return jax.lax.map(lambda seed: down(seed)[0][0], jnp.eye(len(maps), dtype=maps.dtype))

    pixels = np.asarray(at_unit(fun), np.float32)
    height, width = place.receptive_field
    if place.stride is None or place.offset is None:  # as of the patches of a ViT, which are numbered in a row
        rows, columns = np.nonzero(np.abs(pixels).sum(axis=(0, 3)))
        tops, strides = (rows.min(initial=0), columns.min(initial=0)), (height, width)
    else:
        centers = [first + step * at for first, step, at in zip(place.offset, place.stride, unit, strict=True)]
        tops = round(centers[0] - (height - 1) / 2), round(centers[1] - (width - 1) / 2)
        strides = round(place.stride[0]), round(place.stride[1])
    padded = np.pad(pixels, ((0, 0), (height, height), (width, width), (0, 0)))
    kernel = padded[:, tops[0] + height :, tops[1] + width :][:, :height, :width]
    return PixelFilters(np.moveaxis(kernel, 0, -1), strides)


def _first_linear(model: Model) -> Place:
    for place in model.layers.values():
        if place.kind in ("conv", "dense"):
            if place.receptive_field is None or place.receptive_field == model.image_shape[:2]:
                break
            return place
    raise UserError("figure 6 shows filters of pixels; the model's first layer looks at whole images")


def _below(size: int, stride: int) -> Float[np.ndarray, "size size"]:
    """The projection, along one axis, onto frequencies up to 1/(2·stride)."""
    apart = np.arange(size)[:, None] - np.arange(size)[None]
    return np.sinc(apart / stride) / stride
