"""Maps as measures take them: [n, H, W], one number per pixel, higher is more important."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zfjax.ops.arguments import array

Maps = Float[Array | np.ndarray, "n height width"]


def checked_maps(maps: Maps) -> Maps:
    """Maps as float32. Raises a ValueError unless they are [n, H, W] of finite numbers."""
    if not isinstance(maps, list):
        array("maps", maps)
    maps = np.asarray(maps, np.float32)
    if maps.ndim != 3 or not maps.size:
        raise ValueError(f"maps: expected [n, H, W] with one or more, got {list(maps.shape)}")
    wrong = np.flatnonzero(~np.isfinite(maps).all(axis=(1, 2)))
    if len(wrong):
        raise ValueError(f"maps: expected finite numbers, map {wrong[0]} has others")
    return maps


def ranks_of(maps: Maps, shape: Sequence[int]) -> Int[Array, "n h w"]:
    """Each pixel's rank in its map, from 0, the most important; equal ones in row-major order.

    Args:
        maps: checked as in `checked_maps`.
        shape: [n, H, W], of the images.

    Raises:
        ValueError: the maps have another shape.
    """
    maps = checked_maps(maps)
    if maps.shape != tuple(shape):
        raise ValueError(f"maps: expected {list(shape)} as the images, got {list(maps.shape)}")
    order = np.argsort(-maps.reshape(len(maps), -1), axis=1, kind="stable")
    ranks = np.empty(order.shape, np.int32)
    np.put_along_axis(ranks, order, np.arange(order.shape[1], dtype=np.int32)[None], axis=1)
    return jnp.asarray(ranks.reshape(maps.shape))
