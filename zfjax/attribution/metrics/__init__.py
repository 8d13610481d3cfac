"""Measures of maps: do they find the object, and do they say what the net depends on?

Maps are [n, H, W]: one number per pixel, higher is more important. Each measure gives a number for each image,
and `zfjax.experiments.bootstrap.intervals` the 95 % interval of the mean over images.

All take many images at once, through compiled batches. `infidelity`, `sensitivity` and `sparseness` can be parts of a
function under `jax.jit`; the others give NumPy arrays, and their maps and images must be known.
"""

from zfjax.attribution.metrics.curves import Curves, blurred, deletion, insertion
from zfjax.attribution.metrics.fidelity import Infidelity, infidelity
from zfjax.attribution.metrics.objects import (
    LOCALIZED,
    Localization,
    box_masks,
    boxes_of,
    energy_inside,
    localization,
    pointing_game,
)
from zfjax.attribution.metrics.ranking import rank_agreement, sums_inside
from zfjax.attribution.metrics.removal import Road, imputed, road
from zfjax.attribution.metrics.sparsity import sparseness
from zfjax.attribution.metrics.stability import Stability, sensitivity
from zfjax.console.deprecation import renamed

__all__ = [
    "LOCALIZED",
    "Curves",
    "Infidelity",
    "Localization",
    "Road",
    "Stability",
    "blurred",
    "box_masks",
    "boxes_of",
    "deletion",
    "energy_inside",
    "imputed",
    "infidelity",
    "insertion",
    "localization",
    "pointing_game",
    "rank_agreement",
    "road",
    "sensitivity",
    "sparseness",
    "sums_inside",
]

__getattr__ = renamed(__name__, localisation="localization", Localisation="Localization", LOCALISED="LOCALIZED")
