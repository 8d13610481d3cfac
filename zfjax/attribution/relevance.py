"""Relevance propagation: a class's logit shared out among the pixels, layer by layer."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from zfjax.attribution.asked import Asked, Fun, Target, asked, one_hot
from zfjax.console.text import shown_by_shape
from zfjax.ops.precision import widened
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject, warn_of_idle_rules
from zfjax.transform.relevance.composites import EPSILON_PLUS
from zfjax.transform.selection import Rules


@shown_by_shape
class Relevance(NamedTuple):
    """What each pixel contributes to a logit, and how far the sum is from the whole."""

    attributions: Float[Array, "n ..."]  # shaped as the images
    error: Float[Array, " n"]  # their sum − the logit


def lrp(
    fun: Fun, images: Float[Array | np.ndarray, "n ..."], target: Target, *, rules: Rules = EPSILON_PLUS
) -> Relevance:
    """Layer-wise relevance propagation of the target's logit.

    What biases contribute stays with them, and what ε takes is lost: both are in `error`.

    Args:
        fun: as in all lenses.
        images: as in all lenses.
        target: as in all lenses.
        rules: a set of relevance rules, such as ``zfjax.rules.EPSILON_PLUS_FLAT``, or one extended.

    Raises:
        TypeError: rules is no set of rules, or as in all lenses.
        ValueError: a rule that takes weights is for an equation without any, or as in all lenses.

    Warns:
        RuleWarning: the function has no convolution and no matrix product with weights.

    Paper: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation"; Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview", for the choice of rules.

    >>> weights = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    >>> relevance, error = zfjax.attribution.lrp(lambda x: jax.nn.relu(x) @ weights, jnp.array([[2.0, 1.0]]), 0)
    >>> [round(float(part), 3) for part in relevance[0]], round(float(error[0]), 3)
    ([2.0, 3.0], -0.0)
    """
    if not isinstance(rules, Rules):
        raise TypeError(f"rules: expected a set of rules, such as zfjax.rules.EPSILON_PLUS, got {type(rules).__name__}")
    question = asked(fun, images, target)
    warn_of_idle_rules(question.fun, question.inputs, rules)
    return _shared_out(question, rules=Rules(rules.named))


@functions.jit
def _shared_out(question: Asked, *, rules: Rules) -> Relevance:
    logits, project = backproject(question.fun, question.inputs, rules)
    hot = one_hot(logits, question.target)
    start = jnp.where(hot == 0, jnp.zeros_like(logits), hot * logits)
    relevance = widened(project(start))
    total = relevance.astype(jnp.float32).sum(axis=tuple(range(1, relevance.ndim)))
    return Relevance(relevance, total - start.astype(jnp.float32).sum(axis=1))
