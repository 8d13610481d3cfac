"""Maps of several lenses for the same images, and how they change as the net is randomized."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Bool, Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

from zfjax.attribution.metrics import boxes_of
from zfjax.experiments.bootstrap import mean_of
from zfjax.experiments.counterfactuals import Agreement, readings
from zfjax.experiments.lenses import Lens
from zfjax.experiments.sanity import Sanity
from zfjax.plots.colors import BLUE, LINES, ORANGE
from zfjax.plots.overlay import overlay
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image

MARK = ORANGE
BOX = "outline: the object's box; "
READING = "dot: the map's maximum. Pixel maps: gray is zero. Region maps: dark violet is 0, yellow the maximum."
INCHES = 0.86  # side of a picture


def plot_comparison(
    images: Float[Array | np.ndarray, "rows height width 3"],
    masks: Bool[Array | np.ndarray, "rows height width"] | None,
    maps: Mapping[str, Float[Array | np.ndarray, "rows height width ..."]],
    names: Sequence[str],
) -> Picture:
    """One row per image, one column per lens; known objects are boxed, and a dot marks each map's maximum.

    Pixel maps use the paper's display, where gray is zero; region maps are overlaid on the image, from dark violet for
    0 to yellow for the maximum.

    Args:
        images: 0..255.
        masks: the objects' pixels; None if unknown.
        maps: pixel maps [rows, H, W, 3] or region maps [rows, H, W], by the lens's title.
        names: the images' classes.

    Returns:
        A figure 0.86 inches wide for each column.

    Raises:
        ValueError: there is not one name for each image, or a map is not of the images' size.
    """
    if len(names) != len(images):
        raise ValueError(f"names: expected {len(images)}, one for each image; got {len(names)}")
    for title, of_lens in maps.items():
        if of_lens.shape[:3] != images.shape[:3] or of_lens.ndim > 4:
            expected, got = list(images.shape[:3]), list(of_lens.shape)
            raise ValueError(
                f"maps: expected {title} of {expected}, as the images, got {got}; zfjax.attribution.upsample enlarges"
            )
    columns = len(maps) + 1
    tight = ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0.01, hspace=0.01)
    figure = Picture(figsize=(INCHES * columns + 0.2, INCHES * len(images) + 0.6), dpi=150, layout=tight)
    grid = figure.subplots(len(images), columns, squeeze=False)
    boxes = np.zeros((0, 4), int) if masks is None else boxes_of(masks)
    for row, axes in enumerate(grid):
        axes[0].imshow(np.clip(images[row] / 255, 0, 1))
        axes[0].set_ylabel(names[row], fontsize=7, parse_math=False)
        for panel, of_lens in zip(axes[1:], maps.values(), strict=True):
            _draw(panel, of_lens[row], images[row])
        for panel in axes:
            for top, left, height, width in boxes[row : row + 1]:
                corner = left - 0.5, top - 0.5
                panel.add_patch(Rectangle(corner, width, height, fill=False, color=MARK, linewidth=0.8))
            panel.set(xticks=[], yticks=[])
            panel.spines[:].set_visible(False)
    for panel, title in zip(grid[0], ("image", *maps), strict=True):
        panel.set_title(textwrap.fill(title, 11), fontsize=7, parse_math=False)
    _explain(figure, f"{'' if masks is None else BOX}{READING}")
    return figure


def plot_sanity(found: Mapping[str, Sanity]) -> Picture:
    """How similar the maps stay to the trained net's: one curve per lens, with a band of ± one standard deviation.

    Left and middle: layers randomized from the top down to the named one, comparing absolute and signed maps; right:
    only the named layer. Six lenses per row.

    Args:
        found: results by the lens's title.

    Returns:
        A figure 11 inches wide.
    """
    lenses = list(found.items())
    rows = [lenses[first : first + len(LINES)] for first in range(0, len(lenses), len(LINES))]
    figure = Picture(figsize=(11, 2.6 * len(rows) + 0.8), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False, sharey=True)
    for axes, row in zip(grid, rows, strict=True):
        for color, (title, one) in zip(LINES, row, strict=False):
            layers = ("none", *one.layers)
            first = np.ones((1, one.cascade.absolute.shape[1]))
            _curve(axes[0], layers, np.concatenate([first, one.cascade.absolute]), color, title)
            _curve(axes[1], layers, np.concatenate([first, one.cascade.signed]), color, title)
            _curve(axes[2], one.layers, one.alone.absolute, color, title)
        axes[0].set_ylabel("rank correlation\nwith the trained net's map", fontsize=8)
        axes[2].legend(
            title="lens",
            title_fontsize=7,
            alignment="left",
            fontsize=7,
            loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
            frameon=False,
        )
        for panel in axes:
            panel.axhline(0, color="0.6", linewidth=1, linestyle=":")
            panel.tick_params(labelsize=7)
            panel.tick_params(axis="x", rotation=60)
    titles = (
        "layers randomized from the top: absolute maps",
        "from the top: signed maps",
        "one layer alone randomized: absolute maps",
    )
    for panel, title in zip(grid[0], titles, strict=True):
        panel.set_title(title, fontsize=8)
    for panel, label in zip(grid[-1], ("randomized down to", "randomized down to", "randomized"), strict=True):
        panel.set_xlabel(label, fontsize=8)
    count = lenses[0][1].cascade.signed.shape[1] if lenses else 0
    _explain(
        figure,
        f"Lines: mean over {count} images; bands: ± one standard deviation. At 1 the map equals the trained net's; near"
        " 0 nothing of it is left, so it showed what was learned.",
    )
    return figure


def plot_agreement(found: Agreement, lenses: Sequence[Lens]) -> Picture:
    """How well lenses tell what is lost without each thing in a drawing, best first; those that ignore the net in gray.

    Args:
        found: from `zfjax.experiments.counterfactuals.agreement`.
        lenses: the compared lenses.
    """
    rows = readings(found, lenses)
    figure = Picture(figsize=(7, 0.24 * len(rows) + 1.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for name, label, marker, color in (("things", "all things", "o", BLUE), ("per_pixel", "per pixel", "x", ORANGE)):
        for place, row in enumerate(rows):
            mean = mean_of(getattr(row.agreement, name))
            shade = "0.6" if row.is_baseline else color
            axes.plot([mean.low, mean.high], [place, place], color=shade, linewidth=1.2)
            axes.plot(mean.value, place, marker, color=shade, markersize=4, label=label if not place else None)
    axes.set_yticks(range(len(rows)), [row.title for row in rows], fontsize=7)
    axes.invert_yaxis()
    axes.axvline(0, color="0.6", linewidth=1, linestyle=":")
    axes.tick_params(axis="x", labelsize=7)
    axes.set_xlabel("rank correlation with what the logit loses", fontsize=8)
    axes.legend(fontsize=7, loc="lower right", frameon=False)
    _explain(figure, f"Means over {found.things.shape[-1]} drawings, with 95 % intervals. Gray: ignores the net.")
    return figure


def _explain(figure: Figure, text: str) -> None:
    """Write a caption below all panels, wrapped to their width."""
    figure.supxlabel(textwrap.fill(text, int(figure.get_figwidth() * 20)), fontsize=6, color="0.25")


def _draw(
    axes: Axes, one: Float[Array | np.ndarray, "height width ..."], image: Float[Array | np.ndarray, "height width 3"]
) -> None:
    """Draw one lens's map of one image, and mark its maximum."""
    if one.ndim == 3:
        axes.imshow(per_image(one), interpolation="nearest")
        strength = np.abs(one).max(axis=2)
    else:
        axes.imshow(overlay(one, image))
        strength = one
    if strength.max() > strength.min():  # otherwise there is no maximum
        row, column = np.unravel_index(np.argmax(strength), strength.shape)
        axes.plot(column, row, "o", markersize=3.5, color=MARK, markeredgecolor="black", markeredgewidth=0.5)


def _curve(
    axes: Axes, layers: Sequence[str], similarity: Float[np.ndarray, "layers n"], color: str, title: str
) -> None:
    """Draw a curve; NaN, a map without ranks, is left out of the mean, and a layer with only NaN is a gap."""
    there = ~np.isnan(similarity).all(axis=1)
    mean, std = (np.full(len(layers), np.nan) for _ in range(2))
    mean[there], std[there] = np.nanmean(similarity[there], axis=1), np.nanstd(similarity[there], axis=1)
    places = np.arange(len(layers))
    axes.plot(places, mean, "o-", color=color, markersize=3, linewidth=1.2, label=title)
    low, high = np.clip(mean - std, -1, 1), np.clip(mean + std, -1, 1)
    axes.fill_between(places, low, high, color=color, alpha=0.12, linewidth=0)
    axes.set_xticks(places, layers)
    axes.set_xlim(-0.3, len(layers) - 0.7)
