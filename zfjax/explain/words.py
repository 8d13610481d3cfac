"""What an explanation says in words."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from zfjax.experiments.explanation import CELLS, MEASURES, MOST_HIDDEN, Explanation, Why, best_of


def lines(found: Explanation, classes: Sequence[str], nearest: Sequence[str]) -> list[str]:
    """A few sentences: the answer, what would change it, the nearest pictures, and which lens to believe.

    Args:
        found: the explanation.
        classes: names of the outputs.
        nearest: the classes of the nearest training pictures, if any.
    """
    said = [_answer(found, classes), _change(found, classes)]
    if nearest:
        counted = ", ".join(f"{count} {name}" for name, count in Counter(nearest).most_common())
        few = (
            "The nearest training picture is"
            if len(nearest) == 1
            else f"The {len(nearest)} nearest training pictures are"
        )
        said.append(f"{few} of: {counted}.")
    said.append(_trust(found))
    return said


def sum_of(why: Why) -> str:
    """What the parts of a map add up to; nothing where the lens promises no sum, or none can be told as a share."""
    if why.missed is None or not np.isfinite(why.missed.share):
        return ""
    whole = "what the logit gains over an empty picture" if why.missed.has_baseline else "the logit"
    return f"its parts add up to {100 + 100 * why.missed.error / why.missed.whole:.0f} % of {whole}"


def _answer(found: Explanation, classes: Sequence[str]) -> str:
    order = np.argsort(-found.probabilities, kind="stable")
    says = f"The net says {classes[found.said]} ({found.probabilities[found.said]:.1%})"
    if found.expected is None:
        return (
            f"{says}, then {classes[order[1]]} ({found.probabilities[order[1]]:.1%})." if len(order) > 1 else f"{says}."
        )
    if found.expected == found.said:
        return f"{says}, as expected."
    rank = int(np.flatnonzero(order == found.expected)[0]) + 1
    share = found.probabilities[found.expected]
    return f"{says}; expected was {classes[found.expected]}, which it gives {share:.1%}, place {rank} of {len(order)}."


def _change(found: Explanation, classes: Sequence[str]) -> str:
    other = found.expected is not None and found.expected != found.said
    aim = f"say {classes[found.expected]}" if other and found.expected is not None else "say anything else"
    if found.flip is None:
        return f"Covering up to {MOST_HIDDEN} of {CELLS**2} squares was not found to make it {aim}."
    count = len(found.flip.boxes)
    becomes = f"{classes[found.flip.becomes]} ({found.flip.probability:.1%})"
    if count == 1:
        return f"Covering one square, of {CELLS**2}, makes it say {becomes}."
    return (
        f"No one square of {CELLS**2} does, but covering {count} makes it say {becomes}; none of these can be left out,"
        " though other sets may be smaller."
    )


def _trust(found: Explanation) -> str:
    best = Counter(one for measure in MEASURES if (one := best_of(found, measure.name)) is not None)
    if not best:
        return "No map can be measured: all are constant."
    number, count = best.most_common(1)[0]
    return (
        f"On this picture {found.why[number].lens.title} does best by {count} of {len(MEASURES)} measures; one picture"
        " says little, and zfjax compare measures many."
    )
