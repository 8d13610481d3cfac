"""The model-randomization test in its smooth and efficient forms, which mend two faults of the first.

Maps of one noisy gradient differ between any two nets, so that a noisy lens passes for its noise: the smooth form
compares means over noisy copies of the image. And a rank correlation of pixels says little of coarse or sparse maps:
the efficient form asks, of two nets only, whether the map has become more random itself. Layers randomized from the top
down leave what the bottom has learned; from the bottom up nothing of it arrives.

Paper: Hedström et al. 2023, "Sanity Checks Revisited: An Exploration to Repair the Model Parameter Randomisation Test".
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from zfjax.attribution import chunks
from zfjax.attribution.asked import at_least_one, at_least_zero, require_key
from zfjax.attribution.metrics.stability import noisy
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.experiments.bootstrap import mean_of
from zfjax.experiments.sanity import Lens, Similarity, randomized, rank_correlation
from zfjax.models import Model

BINS = 100  # of a map's histogram


@shown_by_shape
class Forms(NamedTuple):
    """A lens's maps of the trained net against those of a net of which every layer is randomized."""

    smooth: Similarity  # [n], of means over noisy copies; near 0 for a lens that shows what was learned
    efficient: Float[np.ndarray, " n"]  # by what share the map's entropy grows; above 0 for such a lens


def forms(
    lens: Lens,
    model: Model,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Int[Array | np.ndarray, " n"],
    key: PRNGKeyArray,
    *,
    layer: str = "",
    n_samples: int = 16,
    noise: float = 0.1,
    batch_size: int = 32,
) -> Forms:
    """Run both forms on one lens: the smooth one between the trained and the wholly randomized net.

    For the smooth form layer by layer: `sanity_check(smoothed(lens, …), …, bottom_up=True)`.

    Args:
        lens: as in `sanity_check`.
        model: as there.
        images: as there.
        target: as there.
        key: draws the weights, and the noise.
        layer: as there.
        n_samples: as in `smoothed`.
        noise: as there.
        batch_size: as there.

    Raises:
        UserError: as `randomized`.
        ValueError: as `smoothed`.
    """
    weights, draws = jax.random.split(key)
    *_, last = randomized(model, weights)
    average = smoothed(lens, draws, n_samples=n_samples, noise=noise, batch_size=batch_size)
    images, target = jnp.asarray(images), jnp.asarray(target)

    def maps_by(lens: Lens, model: Model) -> np.ndarray:
        found = lens(model.split(layer) if layer else model.function, images, target)
        return np.asarray(getattr(found, "attributions", found), np.float32)

    trained, random = (maps_by(average, one) for one in (model, last.cascade))
    similarity = Similarity(rank_correlation(random, trained), rank_correlation(np.abs(random), np.abs(trained)))
    before, after = (_entropy(maps_by(lens, one)) for one in (model, last.cascade))
    grown = np.where(before > 0, (after - before) / np.where(before > 0, before, 1), np.nan)
    return Forms(similarity, grown)


def smoothed(lens: Lens, key: PRNGKeyArray, *, n_samples: int = 16, noise: float = 0.1, batch_size: int = 32) -> Lens:
    """A lens that gives the mean of a lens's maps over noisy copies of each image.

    Args:
        lens: `lens(fun, images, target)`; its own draws should be the same for all images and each time.
        key: draws Gaussian noise, the same each time.
        n_samples: copies.
        noise: standard deviation, as a share of max − min of the image.
        batch_size: the most images that the lens gets at once.

    Raises:
        TypeError: it is no key.
        ValueError: a number is out of range.
    """
    require_key(key)
    at_least_one(n_samples=n_samples, batch_size=batch_size)
    at_least_zero(noise=noise)

    def of(fun: Any, images: Array, target: Array) -> Float[np.ndarray, "n ..."]:
        n = len(images)
        parts, size = chunks.even(n * n_samples, batch_size)
        found = []
        for part in range(parts):
            numbers = np.minimum(np.arange(part * size, (part + 1) * size), n * n_samples - 1)
            rows = numbers % n
            share = jnp.asarray(noise, images.dtype)
            copies = noisy(images[rows], key, numbers // n, rows, share, draw=jax.random.normal)
            maps = lens(fun, copies, target[rows])
            found.append(np.asarray(getattr(maps, "attributions", maps), np.float32))
        every = np.concatenate(found)[: n * n_samples]
        return every.reshape(n_samples, n, *every.shape[1:]).mean(axis=0)

    return of


def to_table(found: Mapping[str, Forms], dataset: str) -> Table:
    """One row per lens: means over images, in percent.

    Args:
        found: results by the lens's title.
        dataset: the dataset's name.
    """
    rows: list[tuple[Cell, ...]] = [
        (title, *(mean_of(100 * values) for values in (one.smooth.absolute, one.smooth.signed, one.efficient)))
        for title, one in found.items()
    ]
    count = len(next(iter(found.values())).efficient)
    return Table(
        f"Maps of a wholly randomized net vs. the trained net's, {count} images of {dataset}",
        ("lens", "smooth, absolute", "smooth, signed", "efficient"),
        rows,
        "In percent; after ± half of the 95 % interval of the mean, by a bootstrap over images. All layers are"
        " randomized. smooth: Spearman's rank correlation of maps that are each the mean over noisy copies of the"
        " image; near 0 (less is better) the map shows what was learned. efficient: how much the entropy of the map's"
        " histogram grows; above 0 (more is better) the map of the trained net says more than that of a random one. A"
        " constant map has neither.",
    )


def _entropy(maps: Float[np.ndarray, "n ..."]) -> Float[np.ndarray, " n"]:
    """The entropy of the histogram of each map's numbers, from its least to its largest."""
    rows = maps.reshape(len(maps), -1)
    shares = np.stack([np.histogram(row, BINS)[0] / row.size for row in rows])
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(axis=1)
