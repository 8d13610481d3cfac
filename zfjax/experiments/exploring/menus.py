"""What one chooses from: sets of rules for projections, and lenses."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from zfjax import attribution
from zfjax.experiments.lenses import LENSES, MORE, Lens
from zfjax.transform import rules
from zfjax.transform.selection import Rules


class Choice(NamedTuple):
    """A set of rules, as the page offers it."""

    title: str
    rules: Rules
    source: str  # the Python that names it


RULES: Mapping[str, Choice] = MappingProxyType(
    {
        "deconvnet": Choice("deconvnet", rules.DECONVNET, "zfjax.DECONVNET"),
        "guided": Choice("guided backprop", rules.GUIDED, "zfjax.GUIDED"),
        "gradient": Choice("gradient", rules.GRADIENT, "zfjax.GRADIENT"),
        "epsilon_plus": Choice("LRP: ε and z⁺", rules.EPSILON_PLUS, "zfjax.rules.EPSILON_PLUS"),
        "epsilon_plus_flat": Choice("LRP: ε, z⁺ and flat", rules.EPSILON_PLUS_FLAT, "zfjax.rules.EPSILON_PLUS_FLAT"),
        "epsilon_gamma_box": Choice("LRP: ε, γ and z^B", rules.EPSILON_GAMMA_BOX, "zfjax.rules.EPSILON_GAMMA_BOX"),
    }
)


def unit_relevance(fun: Any, images: Array, target: Int[Array, " n"]) -> Float[Array, "n h w"]:
    """The relevance of all units of a layer, summed over its maps."""
    return attribution.unit_relevance(fun, images, target).sum(-1)


def maximize(
    fun: Any, images: Array, target: Int[Array, " n"], *, key: Key[Array, ""], reach: float
) -> Float[Array, "n height width channels"]:
    """What would excite a class most: no map of the picture, but a picture of its own."""
    size = images.shape[1], images.shape[2]
    found = attribution.maximize(fun, target, key, size=size, channels=images.shape[3], n_steps=128, reach=reach)
    return jnp.asarray(found)


def maco(
    fun: Any, images: Array, target: Int[Array, " n"], *, others: Array, key: Key[Array, ""]
) -> Float[Array, "n height width channels"]:
    """The same, with the frequencies of other pictures of the split."""
    return attribution.maco(fun, target, key, spectrum=attribution.spectrum(others), n_steps=64).pictures


def accentuate(
    fun: Any, images: Array, target: Int[Array, " n"], *, lower: Any, key: Key[Array, ""], reach: float
) -> Float[Array, "n height width channels"]:
    """The picture, changed such that its class shows."""
    return attribution.accentuate(fun, images, target, lower, key, n_steps=64, reach=reach).images


OTHERS = (
    Lens("gradient", "gradient", attribution.gradient),
    Lens("unit_relevance", "relevance of the layer's units", unit_relevance, at_cut=True),
    Lens("maximize", "what would excite the class most", maximize),
    Lens("maco", "the same, of natural frequencies", maco),
    Lens("accentuate", "the picture, accentuated", accentuate),
)
PICTURES = frozenset(("maximize", "maco", "accentuate"))  # that give pictures, not maps of the one that is looked at
COMPARING = frozenset(("gradient_shap", "expected_gradients", "maco"))  # with other pictures of the split
ALL: Mapping[str, Lens] = MappingProxyType({lens.name: lens for lens in (*LENSES, *MORE, *OTHERS)})
