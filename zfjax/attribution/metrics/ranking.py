"""Whether a map tells which of several things matters more, where it is known what happens without each."""

import numpy as np
from jaxtyping import Bool, Float

from zfjax.attribution.metrics.maps import Maps, checked_maps


def rank_agreement(
    claims: Float[np.ndarray, "*many things"], effects: Float[np.ndarray, "*some"]
) -> Float[np.ndarray, "*many"]:
    """Kendall's τ of what is claimed of some things and what is so: pairs in the right order less wrong ones, −1..1.

    It is a share of all pairs whose effects differ, so two equal claims count as neither right nor wrong, and one that
    claims the same of everything has 0. Spearman's coefficient would have no value there, and means little of five
    things.

    Args:
        claims: one number for each thing, more for what should matter more.
        effects: what happens without it; NaN for a thing that is not there.

    Returns:
        NaN where there are no two things with different effects.

    Raises:
        ValueError: the numbers of things differ.

    Paper: Kendall 1938, "A New Measure of Rank Correlation", with ties as in his τ-a.

    >>> rank_agreement(np.array([[3.0, 2, 1], [1, 3, 2], [1, 1, 1]]), np.array([9.0, 5, 1])).round(2)
    array([ 1.  , -0.33,  0.  ])
    """
    if claims.shape[-1:] != effects.shape[-1:] or not claims.ndim:
        raise ValueError(
            f"claims, effects: expected one of each for each thing, got {claims.shape} and {effects.shape}"
        )
    one, other = np.triu_indices(claims.shape[-1], 1)
    actual = np.nan_to_num(np.sign(effects[..., one] - effects[..., other]))
    right = np.sign(claims[..., one] - claims[..., other]) * actual
    pairs = np.abs(actual).sum(axis=-1)
    return np.where(pairs > 0, right.sum(axis=-1) / np.maximum(pairs, 1), np.nan)


def sums_inside(maps: Maps, regions: Bool[np.ndarray, "n things h w"]) -> Float[np.ndarray, "n things"]:
    """The sum of each map, with its signs, over each of some regions of its image.

    Raises:
        ValueError: maps are not finite numbers [n, H, W], or regions are of other images.
    """
    maps = checked_maps(maps)
    if regions.dtype != bool or regions.shape[:1] + regions.shape[2:] != maps.shape:
        got = f"{regions.dtype} {list(regions.shape)} for {list(maps.shape)}"
        raise ValueError(f"regions: expected bool [n, things, H, W] of maps [n, H, W], got {got}")
    return np.einsum("nthw,nhw->nt", regions, maps.astype(np.float64))
