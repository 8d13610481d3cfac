"""Sets of rules for whole nets, each with the names and choices of zennit's composites.

What is common to all: additions, sums and average pools share out by ε, activations and factors pass relevance
unchanged, maximum pools to the maximum, products of signals in equal parts, quotients and norms to what is divided,
softmaxes of attention by gradient × input.

Paper: Montavon et al. 2019, section 10.3: different rules at different depths.
"""

from zfjax.transform.equations import Rule
from zfjax.transform.relevance.alpha_beta import AlphaBeta, ZPlus
from zfjax.transform.relevance.box import Bound, Box
from zfjax.transform.relevance.epsilon import Epsilon
from zfjax.transform.relevance.flat import Flat
from zfjax.transform.relevance.gamma import Gamma
from zfjax.transform.relevance.passing import (
    is_curve,
    is_layer,
    normalization,
    product,
    quotient,
    softmax,
    unchanged,
)
from zfjax.transform.selection import Rules, Where

_SUMS = ("add", "add_any", "sub", "cumsum", "reduce_sum", "reduce_window_sum")
_PRODUCTS = ("conv_general_dilated", "dot_general", "mul")


def composite(*, convolution: Rule, dense: Rule, first: Rule | None = None, other: Rule | None = None) -> Rules:
    """A set of relevance rules.

    Args:
        convolution: for convolutions.
        dense: for matrix products with weights.
        first: for the first of these.
        other: for additions, sums and average pools; `Epsilon()` if not given.
    """
    sums = other or Epsilon()
    named: list[tuple[str | Where, Rule]] = [
        (Where(when=is_curve), unchanged),
        *((name, sums) for name in _SUMS),
        *((name, product) for name in _PRODUCTS),
        ("div", quotient),
        ("local_response_norm", unchanged),
        ("normalization", normalization),
        ("softmax", softmax),
        ("convolution", convolution),
        ("dense", dense),
    ]
    if first:
        named.append((Where(layer=0), first))
    return Rules(tuple(named), frozenset({Where(when=is_layer)}))


def epsilon_gamma_box(
    low: Bound | None = None, high: Bound | None = None, *, gamma: float = 0.25, epsilon: float = 1e-6
) -> Rules:
    """z^B at the first layer, γ at other convolutions, ε at dense layers.

    Args:
        low: the least that a pixel can be, for all channels or for each, in the units of the images that the net takes;
            None for the least of the image at hand.
        high: the largest.
        gamma: of `Gamma`.
        epsilon: of `Epsilon`.
    """
    return composite(convolution=Gamma(gamma), dense=Epsilon(epsilon), first=Box(low, high))


LRP_ZERO = composite(convolution=Epsilon(0.0), dense=Epsilon(0.0), other=Epsilon(0.0))
ATTN_LRP = composite(convolution=Epsilon(), dense=Epsilon())
EPSILON_PLUS = composite(convolution=ZPlus(), dense=Epsilon())
EPSILON_PLUS_FLAT = composite(convolution=ZPlus(), dense=Epsilon(), first=Flat())
EPSILON_GAMMA_BOX = epsilon_gamma_box()
EPSILON_ALPHA2_BETA1 = composite(convolution=AlphaBeta(), dense=Epsilon())
EPSILON_ALPHA2_BETA1_FLAT = composite(convolution=AlphaBeta(), dense=Epsilon(), first=Flat())
