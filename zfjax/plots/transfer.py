"""Figure 9: accuracy by number of training images per class."""

from collections.abc import Mapping

import numpy as np

from zfjax.experiments.transfer import Transfer, mean_and_std
from zfjax.plots.colors import BLUE, VERMILION
from zfjax.plots.picture import Picture

PRETRAINED, SCRATCH = BLUE, VERMILION


def plot_transfer(result: Transfer, name: str, paper: Mapping[int, tuple[float, float]] | None = None) -> Picture:
    """Mean per-class accuracy with its standard deviation over folds, pretrained and from scratch.

    Args:
        result: accuracies of the folds.
        name: the dataset's name.
        paper: the paper's accuracies in percent by training images per class: (pretrained, from scratch).

    Returns:
        A figure of 5 × 3.6 inches.
    """
    figure = Picture(figsize=(5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    curves = (("pretrained", result.pretrained, PRETRAINED, "o"), ("from scratch", result.scratch, SCRATCH, "s"))
    for column, (label, folds, color, marker) in enumerate(curves):
        means, stds = np.array([mean_and_std(row) for row in folds], float).reshape(-1, 2).T
        if np.any(np.isfinite(means)):
            deviation = np.nan_to_num(stds)
            axes.errorbar(result.per_class, means, deviation, color=color, marker=marker, ms=5, capsize=3, label=label)
        if paper:
            known = [values[column] for values in paper.values()]
            axes.plot(
                list(paper), known, "--", color=color, marker=marker, mfc="white", ms=5, lw=1, label=f"paper: {label}"
            )
    axes.set(xlabel="training images per class", ylabel="accuracy (%)", xlim=(0, None), ylim=(0, 100))
    axes.set_title(f"transfer to {name}", fontsize=10, parse_math=False)
    axes.set_xticks(sorted({*map(int, result.per_class), *(paper or {})}))
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
