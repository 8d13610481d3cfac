"""A map as colors over a gray picture."""

import numpy as np
from jaxtyping import Array, Float
from matplotlib import colormaps


def overlay(
    heat: Float[Array | np.ndarray, "height width"], picture: Float[Array | np.ndarray, "height width 3"]
) -> Float[np.ndarray, "height width 3"]:
    """The picture in gray with a map's positive part over it, from its zero to its maximum; 0..1.

    Args:
        heat: one number per pixel.
        picture: RGB in 0..255.
    """
    gray = np.clip(np.asarray(picture).mean(axis=2, keepdims=True) / 255, 0, 1)
    shares = np.maximum(np.asarray(heat), 0) / max(float(np.nanmax(heat, initial=0)), np.finfo(np.float32).tiny)
    return 0.35 * gray + 0.65 * colormaps["viridis"](shares)[..., :3]
