"""Figure 8: parts hidden in several images, and how consistently the features change."""

from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from zfjax.experiments.correspondence import Correspondence
from zfjax.plots.colors import BLUE, GRAY, GREEN, VERMILION
from zfjax.plots.picture import Picture
from zfjax.plots.projections import sheet

COLORS = (BLUE, VERMILION, GREEN, GRAY)


def plot_correspondence(
    pictures: Mapping[str, Float[Array | np.ndarray, "n height width 3"]],
    results: Mapping[str, Mapping[str, Correspondence]],
) -> Picture:
    """Rows of images, with a different part hidden in each row; to the right, Δ and opposed changes by layer and part.

    Args:
        pictures: images in 0..1, by the hidden part.
        results: by the layer's title and the hidden part.

    Returns:
        A figure 10 inches wide.
    """
    figure = Picture(figsize=(10, 5), dpi=150, layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    for axes, (name, row) in zip(left.subplots(len(pictures), 1, squeeze=False)[:, 0], pictures.items(), strict=True):
        axes.imshow(sheet(np.asarray(row), len(row), gap=max(1, row.shape[2] // 24)), interpolation="nearest")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
        axes.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    panels = right.subplots(len(results), 2, squeeze=False)
    for (first, second), (title, found) in zip(panels, results.items(), strict=True):
        _dots(first, found, [100 * one.mean for one in found.values()], [100 * one.std for one in found.values()])
        first.set_title(f"{title}: sign changes that differ", fontsize=9)
        first.set_xlabel("Δ, % of features (± std over pairs)", fontsize=8)
        _dots(second, found, [100 * one.opposed for one in found.values()], [0.0] * len(found))
        second.set_title(f"{title}: opposite changes", fontsize=9)
        second.set_xlabel("% of features that change in both", fontsize=8)
        second.axvline(50, color="0.6", linewidth=1, linestyle=":")
        second.annotate("chance", (50, 0), (2, 0), textcoords="offset points", color="0.4", fontsize=7, va="center")
        second.set_xlim(0, max(65, 105 * max(one.opposed for one in found.values())))
        second.set_yticklabels([])
    return figure


def _dots(axes: Axes, names: Iterable[str], values: list[float], errors: list[float]) -> None:
    for place, (value, error) in enumerate(zip(values, errors, strict=True)):
        axes.errorbar(value, place, xerr=error, fmt="o", color=COLORS[place % len(COLORS)], capsize=3)
    axes.set_yticks(range(len(values)), list(names), fontsize=9)
    axes.set_ylim(len(values) - 0.5, -0.5)
    axes.set_xlim(left=0)
    axes.tick_params(axis="x", labelsize=8)
