"""Layer-1 filters as pictures (Fig. 6)."""

import math

import numpy as np
from jaxtyping import Float
from matplotlib.figure import Figure

from zfjax.plots.projections import sheet


def plot_filters(kernel: Float[np.ndarray, "kh kw 3 maps"], title: str = "") -> Figure:
    """Every filter of the first layer as an RGB picture, side by side.

    All are scaled alike, by the largest weight of all: grey is 0, so a dominating filter is seen to dominate and a dead
    one is flat grey (Fig. 6a).

    Args:
      kernel: conv1's weights, [height, width, RGB, maps].
      title: a line above the filters.

    Returns:
      A figure with near twice as many columns as rows.
    """
    maps = kernel.shape[-1]
    rows = max(1, round(math.sqrt(maps / 2)))
    columns = math.ceil(maps / rows)
    pictures = 0.5 + 0.5 * np.asarray(kernel, np.float32) / max(float(np.abs(kernel).max()), 1e-12)
    page = sheet(np.moveaxis(pictures, -1, 0), columns)

    width = 8.0
    figure = Figure(figsize=(width, width * page.shape[0] / page.shape[1] + (0.4 if title else 0.0)), dpi=150)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)
    return figure
