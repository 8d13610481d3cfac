"""Table 7 as a picture: accuracy against the layer."""

import numpy as np

from zfjax.experiments.probing import Probing
from zfjax.experiments.transfer import mean_and_std
from zfjax.plots.colors import BLUE, ORANGE
from zfjax.plots.picture import Picture

SVM, SOFTMAX = BLUE, ORANGE


def plot_probing(result: Probing, title: str) -> Picture:
    """Mean per-class accuracy on each layer, with its standard deviation over folds.

    Args:
        result: accuracies of the folds.
        title: shown above the plot.

    Returns:
        A figure of 5 × 3.6 inches.
    """
    figure = Picture(figsize=(5, 3.6), dpi=150, layout="constrained")
    axes = figure.subplots()
    layers = np.arange(1, len(result.layers) + 1)
    for label, folds, color, marker in (("SVM", result.svm, SVM, "o"), ("softmax", result.softmax, SOFTMAX, "s")):
        means, stds = np.array([mean_and_std(row) for row in folds], float).T
        axes.errorbar(layers, means, np.nan_to_num(stds), color=color, marker=marker, ms=5, capsize=3, label=label)
    axes.set_xticks(layers, [f"{number}\n{name}" for number, name in zip(layers, result.layers, strict=True)])
    axes.set(xlabel="layer", ylabel="accuracy (%)", ylim=(0, 100))
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8)
    return figure
