"""ROAD: what a net says as pixels are removed so that what is left does not tell which."""

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from zfjax.attribution.asked import Fun, Target, asked, at_least_one, at_least_zero, require_key
from zfjax.attribution.metrics.curves import said_along
from zfjax.attribution.metrics.maps import Maps, checked_maps, ranks_of
from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import array, floats
from zfjax.ops.precision import widened
from zfjax.transform import functions

NEIGHBORS = {  # the paper's weights: 1/6 beside, 1/12 across corners
    (down, across): 1 / 6 if 0 in (down, across) else 1 / 12
    for down, across in itertools.product((-1, 0, 1), repeat=2)
    if (down, across) != (0, 0)
}


ROUGHLY = 1e-4  # how exactly the equations are solved where noise of a hundredth is added


@shown_by_shape
class Road(NamedTuple):
    """What a net says of each image's class with shares of its pixels removed: the most, or the least important."""

    most: Float[np.ndarray, "n shares"]
    least: Float[np.ndarray, "n shares"]

    @property
    def score(self) -> Float[np.ndarray, " n"]:
        """Half of how much more is lost with the most important pixels, the mean over shares; more is better."""
        return (self.least - self.most).mean(axis=1) / 2


def road(
    fun: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
    maps: Maps,
    key: PRNGKeyArray,
    *,
    shares: Sequence[float] = (0.2, 0.4, 0.6, 0.8),
    noise: float = 0.01,
    batch_size: int = 32,
    first: int = 0,
) -> Road:
    """The class's probability as pixels are removed by `imputed`: no shape that was cut out can be recognized.

    A constant map scores by the order of its pixels, row by row, as in `insertion`.

    Args:
        fun: as in `insertion`.
        images: as in `insertion`.
        target: as in `insertion`.
        maps: one number per pixel, with the images' height and width.
        key: draws the noise.
        shares: of the pixels, above 0 and below 1.
        noise: of the imputed pixels: its standard deviation as a share of max − min of the image.
        batch_size: the most pictures that go through `fun` at once.
        first: number of the first image: each has its own noise.

    Raises:
        TypeError: images are not floating-point numbers, or it is no key.
        ValueError: shapes do not fit, maps are not finite, a share, `noise` or `batch_size` is out of range, or as in
            all lenses.

    Paper: Rong et al. 2022, "A Consistent and Efficient Evaluation Strategy for Attribution Methods", section 4; the
    score of both orders is pytorch-grad-cam's.
    """
    require_key(key)
    at_least_one(batch_size=batch_size)
    at_least_zero(noise=noise)
    images = floats("images", images)
    if images.ndim != 4:
        raise ValueError(f"images: expected [n, H, W, C], got {list(images.shape)}")
    question = asked(fun, images, target, has_slope=False)
    maps = checked_maps(maps)
    ranks, size = ranks_of(maps, images.shape[:3]), images.shape[1] * images.shape[2]
    given = np.asarray(shares, float)
    if given.ndim != 1 or not given.size or not ((given > 0) & (given < 1)).all():
        raise ValueError(f"shares: expected some above 0 and below 1, got {shares}")
    counts = np.clip(np.round(given * size), 1, size - 1).astype(np.int32)
    found = []
    for order in (ranks, jnp.int32(size - 1) - ranks):
        change = Partial(_Removed(), order, key, jnp.asarray(noise, images.dtype), jnp.int32(first))
        found.append(said_along(question, change, counts, batch_size, is_class=not callable(target)))
    return Road(*found)


def imputed(
    images: Float[Array | np.ndarray, "n height width channels"], removed: Bool[Array | np.ndarray, "n height width"]
) -> Float[Array, "n height width channels"]:
    """Images with some pixels made of what is around them, each the weighted mean of its neighbors.

    Direct neighbors weigh twice as much as those across corners, and pixels beyond the edge nothing. Removed pixels are
    neighbors of each other, so this is one system of linear equations for each image, solved by conjugate gradients.

    Raises:
        ValueError: removed is not bool [n, H, W] as the images, or leaves nothing of an image.

    Paper: Rong et al. 2022, section 4.2, noisy linear imputation, without the noise.
    """
    images, removed = floats("images", images), array("removed", removed)
    if images.ndim != 4 or removed.dtype != bool or removed.shape != images.shape[:3]:
        got = f"{removed.dtype} {list(removed.shape)} for {list(images.shape)}"
        raise ValueError(f"removed: expected bool [n, H, W] of images [n, H, W, C], got {got}")
    if not functions.is_traced(removed) and np.asarray(removed).all(axis=(1, 2)).any():
        raise ValueError("removed: expected some pixels of each image to be left")
    return _imputed(images, removed)


@functools.partial(jax.jit, static_argnames="tolerance")
def _imputed(
    images: Float[Array, "n h w c"], removed: Bool[Array, "n h w"], tolerance: float = 1e-6
) -> Float[Array, "n h w c"]:
    """Channels come first within, so that sums over neighbors run along rows of pixels."""

    def of_one(image: Float[Array, "c h w"], hole: Bool[Array, "h w"]) -> Float[Array, "c h w"]:
        weight = _around(jnp.ones((1, *hole.shape), image.dtype))

        def left_over(values: Array) -> Array:
            inside = jnp.where(hole, values, jnp.zeros_like(values))
            return jnp.where(hole, weight * values - _around(inside), jnp.zeros_like(values))

        known = jnp.where(hole, jnp.zeros_like(image), image)
        right = jnp.where(hole, _around(known), jnp.zeros_like(image))
        found, _ = jax.scipy.sparse.linalg.cg(left_over, right, tol=tolerance, maxiter=2000)
        return jnp.where(hole, found, image)

    found = jax.vmap(of_one)(widened(images).transpose(0, 3, 1, 2), removed)
    return found.transpose(0, 2, 3, 1).astype(images.dtype)


def _around(values: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
    """The weighted sum of each pixel's neighbors."""
    _, height, width = values.shape
    padded = jnp.pad(values, ((0, 0), (1, 1), (1, 1)))
    parts = (
        jnp.asarray(weight, values.dtype) * padded[:, 1 + down : 1 + down + height, 1 + across : 1 + across + width]
        for (down, across), weight in NEIGHBORS.items()
    )
    return sum(parts, jnp.zeros_like(values))


@dataclasses.dataclass(frozen=True)
class _Removed(functions.Fixed):
    """Imputes the first pixels of images, with noise."""

    def __call__(
        self,
        ranks: Int[Array, "n h w"],
        key: PRNGKeyArray,
        noise: Float[Array, ""],
        first: Int[Array, ""],
        images: Float[Array, "batch h w c"],
        rows: Int[Array, " batch"],
        counts: Int[Array, " batch"],
    ) -> Float[Array, "batch h w c"]:
        """The images with as many pixels removed as `counts` says."""
        removed = ranks[rows] < counts.reshape(-1, 1, 1)
        draw = jax.vmap(lambda row: jax.random.normal(jax.random.fold_in(key, row), images.shape[1:], images.dtype))
        spread = noise * (images.max(axis=(1, 2, 3)) - images.min(axis=(1, 2, 3)))
        noisy = _imputed(images, removed, ROUGHLY) + spread.reshape(-1, 1, 1, 1) * draw(first + rows)
        return jnp.where(removed[..., None], noisy, images)
