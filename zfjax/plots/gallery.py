"""Figure 2: projections of each map's strongest activations, beside the patches of the images that caused them."""

import math

import numpy as np
from jaxtyping import Array, Float

from zfjax.experiments.gallery import Gallery
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image, sheet


def plot_gallery(gallery: Gallery, mean: Array | np.ndarray | None = None, title: str = "") -> Picture:
    """For each map, projections of its strongest activations, strongest first, with their patches to the right.

    Each projection is scaled on its own (`per_image`).

    Args:
        gallery: the gallery of one layer.
        mean: the mean subtracted from the images, [height, width, 3] in 0..255; None if they are pictures, as
            `in_rgb` gives them.
        title: shown at the top.

    Returns:
        A figure 10 inches wide with two maps per row; wider, with more per row, for more than 16 maps.
    """
    blocks = list(zip(map(per_image, gallery.projections), patches(gallery, mean), strict=True))
    k = gallery.values.shape[1]
    side = math.ceil(math.sqrt(k))
    columns = max(2, math.ceil(math.sqrt(len(blocks)) / 2))
    rows = math.ceil(len(blocks) / columns)
    figure = Picture(figsize=(5 * columns, 2.75 * rows + 0.3), dpi=150, layout="constrained")
    ratios = [1, 1, 0.1] * columns  # gap after each map's pair
    grid = figure.add_gridspec(rows, 3 * columns - 1, width_ratios=ratios[:-1])
    places = [(row, 3 * column) for row in range(rows) for column in range(columns)][: len(blocks)]
    axes = [[figure.add_subplot(grid[row, column + i]) for i in (0, 1)] for row, column in places]
    for pair, block, unit in zip(axes, blocks, gallery.maps, strict=True):
        gap = max(1, block[0].shape[1] // 24)
        for panel, pictures in zip(pair, block, strict=True):
            panel.imshow(sheet(pictures, side, gap), interpolation="nearest")
            panel.set_axis_off()
        pair[0].set_title(f"map {unit}", fontsize=9, x=1.02)  # centered over both
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def patches(gallery: Gallery, mean: Array | np.ndarray | None = None) -> Float[np.ndarray, "maps k height width 3"]:
    """The patches as pictures in 0..1, with `mean` added back: that of whole images, [height, width, 3] in 0..255."""
    pictures = gallery.images
    if mean is not None:
        fields = gallery.fields.reshape(-1, 4)
        means = [mean[top : top + height, left : left + width] for top, left, height, width in fields]
        pictures = pictures + np.stack(means).reshape(pictures.shape)
    return np.clip(pictures / 255, 0, 1)
