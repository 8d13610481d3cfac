"""Relevance propagation: a class's logit shared out among the pixels, or the units of a place, layer by layer."""

from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from zfjax.attribution import through
from zfjax.attribution.asked import Asked, Fun, Target, asked, one_hot, sums
from zfjax.attribution.maps import Split, in_two, joined
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
    error: Float[Array, " n"]  # their sum − the logit, or − the relevance of the units


def lrp(
    fun: Fun | Split,
    images: Float[Array | np.ndarray, "n ..."],
    target: Target,
    *,
    rules: Rules = EPSILON_PLUS,
    units: through.Units | None = None,
) -> Relevance:
    """Layer-wise relevance propagation of the target's logit.

    What biases contribute stays with them, and what ε takes is lost: both are in `error`.

    With `units`, only what passes through these units of a place inside the net: what the pixels add to a class by way
    of a concept. Those of all units add up to the whole, unless something passes the place by, as a skip connection
    does.

    Args:
        fun: as in all lenses; with `units` (features, head), as `model.split` and `zfjax.split` return.
        images: as in all lenses.
        target: as in all lenses.
        rules: a set of relevance rules, such as ``zfjax.rules.EPSILON_PLUS_FLAT``, or one extended.
        units: numbers of maps where the net is split, or booleans like its maps, such as [h, w, k] for units at places.

    Raises:
        TypeError: rules is no set of rules, or as in all lenses.
        ValueError: a rule that takes weights is for an equation without any, there are no such units, or as in all
            lenses.

    Warns:
        RuleWarning: the function has no convolution and no matrix product with weights.

    Paper: Bach et al. 2015, "On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance
    Propagation"; Montavon et al. 2019, "Layer-Wise Relevance Propagation: An Overview", for the choice of rules;
    Achtibat et al. 2023, "From Attribution Maps to Human-Understandable Explanations through Concept Relevance
    Propagation", for units.

    >>> weights = jnp.array([[1.0, 2.0], [3.0, -1.0]])
    >>> relevance, error = zfjax.attribution.lrp(lambda x: jax.nn.relu(x) @ weights, jnp.array([[2.0, 1.0]]), 0)
    >>> [round(float(part), 3) for part in relevance[0]], round(float(error[0]), 3)
    ([2.0, 3.0], -0.0)
    """
    _check_rules(rules)
    parts = in_two(fun)
    if units is None:
        question = asked(joined(*parts) if parts else cast(Fun, fun), images, target)
        warn_of_idle_rules(question.fun, question.inputs, rules)
        return _shared_out(question, rules=Rules(rules.named))
    if parts is None:
        raise ValueError("units: expected fun to be (features, head), as model.split and zfjax.split return them")
    question = asked(joined(*parts), images, target)
    warn_of_idle_rules(question.fun, question.inputs, rules)
    mask = through.mask_of(units, through.place_of(parts[0], question.inputs))
    relevance, at = _through_units(question, mask, rules=Rules(rules.named))
    arrived = jnp.where(mask, at, jnp.zeros_like(at))
    return Relevance(relevance, sums(relevance) - sums(arrived))


def unit_relevance(
    split: Split, images: Float[Array | np.ndarray, "n ..."], target: Target, *, rules: Rules = EPSILON_PLUS
) -> Float[Array, "n ... k"]:
    """The relevance of each unit where a net is split: its share of the target's logit.

    Its sum over positions says how much each map matters for the answer. The pictures in which a map matters most, as
    `zfjax.top_activations` finds those that excite it most (relevance maximization):

        zfjax.top_activations(lambda images: unit_relevance(split, images, lambda logits: logits.max(1)), batches)

    Args:
        split: (features, head), as `model.split` and `zfjax.split` return.
        images: as in all lenses.
        target: as in all lenses.
        rules: as in `lrp`.

    Returns:
        Shaped as what the features give.

    Raises:
        TypeError: split is no pair of functions, or as in `lrp`.
        ValueError: as in `lrp`.

    Paper: Achtibat et al. 2023, "From Attribution Maps to Human-Understandable Explanations through Concept Relevance
    Propagation".
    """
    _check_rules(rules)
    parts = in_two(split)
    if parts is None:
        raise TypeError(f"split: expected (features, head), as zfjax.split returns them, got {type(split).__name__}")
    question = asked(joined(*parts), images, target)
    warn_of_idle_rules(question.fun, question.inputs, rules)
    everything = jnp.ones((1,) * len(through.place_of(parts[0], question.inputs).shape), bool)
    return _through_units(question, everything, rules=Rules(rules.named))[1]


@functions.jit
def _shared_out(question: Asked, *, rules: Rules) -> Relevance:
    logits, project = backproject(question.fun, question.inputs, rules)
    start = _start(logits, question)
    relevance = widened(project(start))
    return Relevance(relevance, sums(relevance) - start.astype(jnp.float32).sum(axis=1))


@functions.jit
def _through_units(question: Asked, mask: Array, *, rules: Rules) -> tuple[Array, Array]:
    """The relevance of the inputs that passes a mask at the place of the split; and all the relevance there."""
    fun = cast(Partial, question.fun)
    place = through.place_of(through.features_of(fun), question.inputs)

    def met(inputs: tuple[Array, Array]) -> Array:
        images, probe = inputs
        return through.passing(fun, probe, mask)(images)

    probe = jnp.zeros(place.shape, place.dtype)
    logits, project = backproject(met, (question.inputs, probe), Rules((*rules.named, *through.MEETING)))
    relevance, at = project(_start(logits, question))
    return widened(relevance), widened(at)


def _start(logits: Array, question: Asked) -> Array:
    """The signal to send down: the target's logit."""
    hot = one_hot(logits, question.target)
    return jnp.where(hot == 0, jnp.zeros_like(logits), hot * logits)


def _check_rules(rules: Rules) -> None:
    if not isinstance(rules, Rules):
        raise TypeError(f"rules: expected a set of rules, such as zfjax.rules.EPSILON_PLUS, got {type(rules).__name__}")
