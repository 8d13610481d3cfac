"""Guided backprop and the deconvnet, from a class down to the image: other rules for what passes a ReLU.

Both restore structure of the image and are hardly sensitive to the class: with random weights or another target they
show nearly the same picture (Nie et al. 2018, "A Theoretical Explanation for Perplexing Behaviors of
Backpropagation-based Visualizations"; Adebayo et al. 2018, "Sanity Checks for Saliency Maps"). Use them to see what a
unit's path lets through, not to argue why the net chose a class.
"""

import numpy as np
from jaxtyping import Array, Float

from zfjax.attribution.asked import Asked, Fun, Target, asked, one_hot
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject, warn_of_idle_rules
from zfjax.transform.rules import DECONVNET, GUIDED, Rules


def guided_backprop(fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target) -> Float[Array, "n ..."]:
    """The gradient, except that each ReLU passes only positive signals, and only to units that were positive.

    It restores image structure and is hardly class-sensitive (Nie et al. 2018): see this module's text.

    Paper: Springenberg et al. 2014, "Striving for Simplicity", section 3.4.
    """
    return _answer(asked(fun, images, target), GUIDED)


def deconvolution(fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target) -> Float[Array, "n ..."]:
    """The deconvnet from a class's logit, seeded with 1: unpool, rectify, filter, as `zfjax.deconvnet` does.

    It restores image structure and is hardly class-sensitive (Nie et al. 2018): see this module's text.

    Paper: Zeiler & Fergus 2013, section 2.1; from a logit in Simonyan et al. 2013, section 4.
    """
    return _answer(asked(fun, images, target), DECONVNET)


def _answer(question: Asked, rules: Rules) -> Array:
    warn_of_idle_rules(question.fun, question.inputs, rules)
    return _sent_down(question, rules=Rules(rules.named))


@functions.jit
def _sent_down(question: Asked, *, rules: Rules) -> Array:
    logits, project = backproject(question.fun, question.inputs, rules)
    return project(one_hot(logits, question.target))
