"""A picture that each map responds to, found by MACO from the magnitudes of the run's own images."""

import io
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from zfjax.atlas.collect import Layer
from zfjax.atlas.site import FEATURE_GAP
from zfjax.attribution import maco, spectrum
from zfjax.runs.subject import Subject

_IMAGES = 128  # whose magnitudes are taken
_STEPS, _CROPS = 96, 2
_FULL = 0.98  # pixels that matter more than this share of all are not faded


def can_have(layer: Layer, val: Subject) -> bool:
    """Whether the layer has units as MACO takes them: maps with positions, or single numbers."""
    return len(val.model.place(layer.name).shape) in (1, 3)


def features(
    layer: Layer, val: Subject, batch_size: int, progress: Callable[[int], None] = lambda count: None
) -> Iterator[tuple[int, bytes]]:
    """Each map of a layer, and its picture beside the same faded where the map does not look, as WebP.

    Args:
        layer: with units, as `can_have` says.
        val: the model, and images.
        batch_size: images on the device at a time.
        progress: called with the number of maps done.
    """
    numbers = np.unique(np.linspace(0, len(val.pictures) - 1, _IMAGES).astype(int))
    seen, each = spectrum(val.load(numbers)), max(1, batch_size // _CROPS)
    for first in range(0, layer.maps, each):
        units = np.arange(first, min(first + each, layer.maps))
        found = maco(
            val.model.layer(layer.name),
            units,
            jax.random.key(0),
            spectrum=seen,
            n_steps=_STEPS,
            n_crops=_CROPS,
            batch_size=each,
        )
        pictures = np.clip(np.asarray(val.display.pixels(found.pictures)), 0, 255)
        for unit, picture, shares in zip(units, pictures, np.asarray(found.transparency), strict=True):
            yield int(unit), _webp(_beside(picture, shares))
        progress(len(units))


def _beside(picture: Float[np.ndarray, "h w 3"], shares: Float[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h wide 4"]:
    opaque = np.full(picture.shape[:2], 255.0)
    most = np.quantile(shares, _FULL)
    faded = 255 * np.clip(shares / most if most > 0 else shares, 0, 1)
    gap = np.zeros((len(picture), FEATURE_GAP, 4))
    both = (np.dstack([picture, strength]) for strength in (opaque, faded))
    whole, part = both
    return np.rint(np.concatenate([whole, gap, part], axis=1)).astype(np.uint8)


def _webp(pixels: UInt8[np.ndarray, "h w 4"]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="WEBP", quality=82, method=4)
    return file.getvalue()
