"""Relevance propagation (LRP): an output is shared out among the inputs by what each adds to it.

The signal is relevance: a share of the output that stays the same in sum on its way down. At a layer z = Σ x·w + b,
each input gets its share of z (`Epsilon`), or of what is positive in it (`ZPlus`, `AlphaBeta`, `Gamma`); at the pixels,
rules that do not ask how bright a pixel is (`Flat`, `WSquare`, `Box`). Additions share out likewise, activations pass
relevance unchanged, and maximum pools to where the maximum was.

`composites` has the sets that are used in practice. Rules are values: equal ones are one to `jax.jit`.

Papers: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
Propagation"; Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview".
"""

from zfjax.transform.relevance.alpha_beta import AlphaBeta, ZPlus
from zfjax.transform.relevance.box import Box
from zfjax.transform.relevance.epsilon import Epsilon
from zfjax.transform.relevance.flat import Flat, WSquare
from zfjax.transform.relevance.gamma import Gamma

__all__ = ["AlphaBeta", "Box", "Epsilon", "Flat", "Gamma", "WSquare", "ZPlus"]
