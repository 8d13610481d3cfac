"""A net's predictions for some pictures."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from zfjax.plots.colors import GREEN, VERMILION
from zfjax.plots.picture import Picture

RIGHT, WRONG = GREEN, VERMILION


def plot_predictions(
    images: UInt8[Array | np.ndarray, "n side side 3"],
    labels: Int[Array | np.ndarray, " n"],
    probabilities: Float[Array | np.ndarray, "n classes"],
    classes: Sequence[str],
) -> Picture:
    """Pictures in rows of six, titled with the net's top prediction, its probability, and the true class if different.

    Args:
        images: RGB, 0..255.
        labels: the true classes.
        probabilities: the net's softmax.
        classes: names of the classes.

    Returns:
        A figure 10 inches wide.
    """
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = Picture(figsize=(10, 1.95 * rows), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, label, softmax in zip(grid, images, labels, probabilities, strict=False):
        first = int(np.argmax(softmax))
        text = f"{classes[first]} {softmax[first]:.0%}"
        axes.imshow(image)
        axes.set_title(
            text if first == label else f"{text}\n(is {classes[label]})",
            color=RIGHT if first == label else WRONG,
            fontsize=9,
            parse_math=False,  # class names are folder names, which may contain $
        )
    return figure
