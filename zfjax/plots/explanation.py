"""One picture explained, on one page."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.gridspec import SubplotSpec
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from zfjax.experiments.explanation import MEASURES, Explanation, best_of
from zfjax.plots.colors import BLUE, VERMILION
from zfjax.plots.overlay import overlay
from zfjax.plots.picture import Picture


class Named(NamedTuple):
    """A picture with what is to be said of it."""

    picture: Float[np.ndarray, "height width 3"]  # 0..255
    title: str


def plot_explanation(
    found: Explanation,
    shown: Named,
    classes: Sequence[str],
    nearest: Sequence[Named],
    lines: Sequence[str],
    sums: Sequence[str],
) -> Picture:
    """Draw what a model says of a picture, why by each lens, what would change it, its neighbors, and the measures.

    Args:
        found: the explanation.
        shown: the picture, as the model sees it.
        classes: names of the outputs.
        nearest: training pictures, nearest first.
        lines: what is said in words: the answer, what would change it, the neighbors.
        sums: of each lens what its parts add up to, or nothing.

    Returns:
        A figure 10 inches wide.
    """
    has_contrast = any(why.contrast is not None for why in found.why)
    rows = 2 + has_contrast + 1 + bool(nearest)
    below = [textwrap.fill(said_below, 32) for said_below in sums]
    heights = [2.15] * rows
    heights[1] += 0.13 * max(len(text.splitlines()) for text in below)  # so that its maps are as large as all others
    layout = ConstrainedLayoutEngine(rect=(0.01, 0.01, 0.98, 0.98))
    figure = Picture(figsize=(10, sum(heights) + 0.6), dpi=150, layout=layout)
    grid = figure.add_gridspec(rows, 1, height_ratios=heights)
    _first(figure, grid[0], found, shown, classes, lines)
    said = classes[found.said]
    maps = [Named(overlay(why.heat, shown.picture) * 255, why.lens.title) for why in found.why]
    for panel, text in zip(_row(figure, grid[1], maps, f"why {said}"), below, strict=True):
        panel.set_xlabel(text, fontsize=7)
    if has_contrast:
        assert found.expected is not None
        contrasts = [
            Named(overlay(why.contrast, shown.picture) * 255, why.lens.title)
            for why in found.why
            if why.contrast is not None
        ]
        _row(figure, grid[2], contrasts, f"{classes[found.expected]} rather than {said}")
    if nearest:
        _row(figure, grid[rows - 2], nearest, "nearest in training")
    _measures(figure.add_subplot(grid[rows - 1]), found)
    return figure


def _first(
    figure: Picture, where: SubplotSpec, found: Explanation, shown: Named, classes: Sequence[str], lines: Sequence[str]
) -> None:
    """The picture, the same with what would change the answer, the most probable classes, and the words."""
    inner = where.subgridspec(1, 5)
    _show(figure.add_subplot(inner[0]), shown.picture, shown.title)
    covered = figure.add_subplot(inner[1])
    if found.flip is None:
        _show(covered, shown.picture, "nothing found that\nchanges the answer")
    else:
        _show(covered, shown.picture, f"covered: {classes[found.flip.becomes]}")
        for top, left, height, width in found.flip.boxes.tolist():
            covered.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, facecolor="0.5", edgecolor=VERMILION))
    bars = figure.add_subplot(inner[2])
    order = np.argsort(-found.probabilities, kind="stable")[:5]
    bars.barh(
        np.arange(len(order)), found.probabilities[order], color=[BLUE if n == found.said else "0.7" for n in order]
    )
    bars.set_yticks(
        np.arange(len(order)), [textwrap.shorten(classes[n], 18, placeholder="…") for n in order], fontsize=7
    )
    bars.set(xlim=(0, 1), xticks=[0, 1])
    bars.invert_yaxis()
    bars.spines[["top", "right"]].set_visible(False)
    bars.tick_params(labelsize=7)
    for label in bars.get_yticklabels():
        label.set_parse_math(False)  # class names are folder names, which may contain $
    words = figure.add_subplot(inner[3:])
    words.axis("off")
    text = "\n\n".join(textwrap.fill(line, 62) for line in lines)
    words.text(0, 1, text, va="top", fontsize=7.5, parse_math=False, transform=words.transAxes)


def _row(figure: Picture, where: SubplotSpec, pictures: Sequence[Named], name: str) -> list[Axes]:
    inner = where.subgridspec(1, max(5, len(pictures)))
    panels = [figure.add_subplot(inner[number]) for number in range(len(pictures))]
    for panel, one in zip(panels, pictures, strict=True):
        _show(panel, one.picture, one.title)
    panels[0].set_ylabel(textwrap.fill(name, 24), fontsize=8, parse_math=False)
    return panels


def _show(panel: Axes, picture: Float[np.ndarray, "height width 3"], title: str) -> None:
    panel.imshow(np.clip(picture / 255, 0, 1), interpolation="nearest")
    panel.set(xticks=[], yticks=[])
    panel.spines[:].set_visible(False)
    panel.set_title(title, fontsize=8, parse_math=False)


def _measures(panel: Axes, found: Explanation) -> None:
    """The measures as a table, the best of each in bold."""
    panel.axis("off")
    cells = [[why.lens.title, *(f"{why.measures[one.name]:.3f}" for one in MEASURES)] for why in found.why]
    heads = ["", *(f"{one.title} {'↑' if one.is_high else '↓'}" for one in MEASURES)]
    table = panel.table(cells, colLabels=heads, loc="center", cellLoc="right", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(7.5)
    table.scale(1, 1.25)
    for column, one in enumerate(MEASURES, start=1):
        if (best := best_of(found, one.name)) is not None:
            table[best + 1, column].get_text().set_fontweight("bold")
