"""Figure 7: what a net loses when a square hides part of the image."""

import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle

from zfjax.experiments.occlusion import Sensitivity
from zfjax.plots.colors import AREAS
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image, sheet

REST = "#BBBBBB"


class Occluded(NamedTuple):
    """One row of the figure."""

    image: Float[np.ndarray, "height width 3"]  # 0..255
    label: int  # the class measured in `found`
    projection: Float[np.ndarray, "height width 3"]  # of the strongest map on this image
    others: Float[np.ndarray, "n height width 3"]  # projections of that map on other images
    found: Sensitivity
    title: str = ""  # beside the image; default: the class of `label`


def plot_occlusion(rows: Sequence[Occluded], classes: Sequence[str]) -> Picture:
    """One row per image, with the columns of the paper's Fig. 7.

    (a) The image with the square at its first position, (b) total activation of layer 5's strongest map by position
    of the square's center, (c) that map's projection, framed, with projections of other images, (d) the probability
    of the image's class, (e) the most probable class.

    Args:
        rows: the images and their results.
        classes: names of the classes.

    Returns:
        A figure 11 inches wide.
    """
    figure = Picture(figsize=(11, 1.95 * len(rows) + 0.45), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), 5, squeeze=False)
    for axes, title in zip(
        grid[0],
        (
            "(a) image and square",
            "(b) activation of the top\nlayer's strongest map,\nsquare centered there",
            "(c) that map's projections:\nthis image, then others",
            "(d) probability of\nits class",
            "(e) most probable class",
        ),
        strict=True,
    ):
        axes.set_title(title, fontsize=9)
    for axes, row in zip(grid, rows, strict=True):
        _draw_row(axes, row, classes)
    return figure


def _draw_row(axes: Sequence[Axes] | np.ndarray, row: Occluded, classes: Sequence[str]) -> None:
    image, found = row.image, row.found
    height, width = image.shape[:2]
    axes[0].imshow(np.clip(image / 255, 0, 1))
    axes[0].add_patch(Rectangle((-0.5, -0.5), found.window[1], found.window[0], color="#808080"))
    title = textwrap.fill(row.title or classes[row.label], 24)
    axes[0].set_ylabel(title, fontsize=9, parse_math=False)

    for panel, values, top in ((axes[1], found.activation, None), (axes[3], found.probability, 1.0)):
        shown = panel.pcolormesh(*_edges(found), values, cmap="viridis", vmin=0.0, vmax=top)
        panel.figure.colorbar(shown, ax=panel, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
    axes[1].set_xlabel(f"map {found.unit}, {found.clean_activation:.3g} unhidden", fontsize=7)
    axes[3].set_xlabel(f"{found.clean_probability:.2f} unhidden", fontsize=7)

    pictures = per_image(np.concatenate([row.projection[None], row.others]))
    pictures[0, [0, -1]] = pictures[0, :, [0, -1]] = (0.835, 0.369, 0.0)
    axes[2].imshow(sheet(pictures, columns=2, gap=max(1, height // 48)), interpolation="nearest")

    _draw_classes(axes[4], found, row.label, classes)
    for panel in (axes[1], axes[3], axes[4]):
        panel.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    for panel in axes:
        panel.set(xticks=[], yticks=[])


def _draw_classes(axes: Axes, found: Sensitivity, label: int, classes: Sequence[str]) -> None:
    """Draw the true class in blue, the others by how often they are most probable, and the rest in gray."""
    labels, counts = np.unique(found.most_probable, return_counts=True)
    order = [label, *(int(k) for k in labels[np.argsort(-counts, kind="stable")] if k != label)]
    order = [k for k in order if k in labels]
    colors = list(AREAS) if label in labels else list(AREAS[1:])
    shown = order[: len(colors)]
    index = np.full(found.most_probable.shape, len(shown))
    for i, k in enumerate(shown):
        index[found.most_probable == k] = i
    palette = [*colors[: len(shown)], REST]
    axes.pcolormesh(*_edges(found), index, cmap=ListedColormap(palette), vmin=-0.5, vmax=len(shown) + 0.5)
    handles = [Patch(color=color, label=classes[k]) for k, color in zip(shown, palette, strict=False)]
    if len(order) > len(shown):
        handles.append(Patch(color=REST, label="others"))
    legend = axes.legend(handles=handles, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)


def _edges(found: Sensitivity) -> tuple[np.ndarray, np.ndarray]:
    """Edges of the cells for each position, across and down, in pixels: halfway between the squares' centers.

    The last positions lie flush with the border, so they may be closer together than the others.
    """

    def along(starts: np.ndarray, window: int) -> np.ndarray:
        centers = starts + (window - 1) / 2
        if len(centers) == 1:
            return np.array([centers[0] - window / 2, centers[0] + window / 2])
        middles = (centers[1:] + centers[:-1]) / 2
        return np.concatenate([[2 * centers[0] - middles[0]], middles, [2 * centers[-1] - middles[-1]]])

    return along(found.lefts, found.window[1]), along(found.tops, found.window[0])
