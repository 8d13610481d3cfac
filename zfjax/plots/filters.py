"""Layer-1 filters as pictures, and layer 2's projections (Fig. 6)."""

import itertools
import math
from collections.abc import Mapping

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes

from zfjax.experiments.filters import DEAD, DOMINATING, Filters, FirstLayers
from zfjax.plots.colors import LINES
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image, sheet


def plot_filters(kernel: Float[Array | np.ndarray, "kh kw 3 maps"], title: str = "") -> Picture:
    """Every filter of the first layer as an RGB picture, side by side.

    All share one scale, set by the largest weight: gray is 0, so a dominating filter stands out and a dead one is flat
    gray (Fig. 6a).

    Args:
        kernel: conv1's weights, [height, width, RGB, maps].
        title: shown above the filters.

    Returns:
        A figure with about twice as many columns as rows.
    """
    page = _in_grid(_alike(np.asarray(kernel)))

    width = 8.0
    figure = Picture(figsize=(width, width * page.shape[0] / page.shape[1] + (0.4 if title else 0.0)), dpi=150)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=10)
    return figure


def plot_first_layers(nets: Mapping[str, FirstLayers]) -> Picture:
    """Nets side by side: layer-1 filters on a shared scale and each on its own, layer-2 projections, and counts.

    Below: each filter's RMS relative to the net's median, and the share of its energy that the stride aliases, both
    sorted.

    Args:
        nets: the nets by title.

    Returns:
        A figure 3.4 inches wide per net, but at least 7.
    """
    count = len(nets)
    pages = [{name: _in_grid(pictures) for name, pictures in _pictures(net).items()} for net in nets.values()]
    # Each row is as high as its highest page; pages are 3.3 inches wide.
    rows = zip(*(page.values() for page in pages), strict=True)
    heights = [3.3 * max(picture.shape[0] / picture.shape[1] for picture in row) for row in rows]
    figure = Picture(figsize=(max(7.0, 3.4 * count), sum(heights) + 3.6), dpi=150, layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(sum(heights) + 1, 2.6), squeeze=False)[:, 0]
    grid = above.subplots(3, count, squeeze=False, height_ratios=heights)
    for column, page, (title, net) in zip(grid.T, pages, nets.items(), strict=True):
        for axes, (name, picture) in zip(column, page.items(), strict=True):
            axes.imshow(picture, interpolation="nearest")
            axes.set_axis_off()
            axes.set_title(name, fontsize=8)
        column[0].set_title(f"{title}\n{_counts(net)}\n{column[0].get_title()}", fontsize=8, parse_math=False)
    strength, aliasing = below.subplots(1, 2)
    _plot_counted(strength, aliasing, nets)
    if count > 1:
        below.legend(*aliasing.get_legend_handles_labels(), fontsize=8, loc="outside lower center", ncols=1)
    return figure


def _plot_counted(strength: Axes, aliasing: Axes, nets: Mapping[str, FirstLayers]) -> None:
    for color, (title, net) in zip(itertools.cycle(LINES), nets.items(), strict=False):
        _plot_strengths(strength, net.filters, color)
        across = np.linspace(0, 1, len(net.filters.rms))
        aliasing.plot(across, 100 * np.sort(net.filters.aliased), color=color, label=title, linewidth=1.5)
    for level, name in ((DEAD, "dead"), (DOMINATING, "dominating")):
        strength.axhline(level, color="0.6", linewidth=1, linestyle=":")
        strength.annotate(name, (0, level), color="0.4", fontsize=7, va="bottom")
    strength.set(yscale="log", xlabel="filters, weakest to strongest", ylabel="RMS / median RMS")
    low, high = strength.get_ylim()
    strength.set_ylim(min(low, 0.7 * DEAD), max(high, 2 * DOMINATING))
    aliasing.set(xlabel="filters, least aliased to most", ylabel="energy beyond Nyquist, %", ylim=(0, 100))
    for axes in (strength, aliasing):
        axes.set_xticks([])
        axes.tick_params(labelsize=8)
        axes.xaxis.label.set_fontsize(8)
        axes.yaxis.label.set_fontsize(8)


def _pictures(net: FirstLayers) -> dict[str, np.ndarray]:
    kernel = net.filters.kernel
    return {
        "layer-1 filters, one scale for all": _alike(kernel),
        "each scaled by its largest weight": _alone(kernel),
        f"layer-2 projections: {net.aliased_projections.mean():.0%} aliased": per_image(net.projections),
    }


def _counts(net: FirstLayers) -> str:
    of = net.filters
    return (
        f"{of.dead.sum()} dead, {net.silent.sum()} silent, {of.dominating.sum()} dominating of {len(of.rms)},"
        f" {of.aliased_total:.0%} aliased"
    )


def _plot_strengths(axes: Axes, filters: Filters, color: str) -> None:
    median = max(float(np.median(filters.rms)), 1e-12)
    relative = np.maximum(np.sort(filters.rms) / median, 1e-4)  # so that an all-zero filter shows on a logarithmic axis
    axes.plot(np.linspace(0, 1, len(relative)), relative, color=color, marker=".", markersize=4, linewidth=1)


def _alike(kernel: Float[np.ndarray, "kh kw 3 maps"]) -> Float[np.ndarray, "maps kh kw 3"]:
    """Pictures in 0..1, all scaled by the largest weight."""
    return np.moveaxis(0.5 + 0.5 * np.asarray(kernel, np.float32) / max(float(np.abs(kernel).max()), 1e-12), -1, 0)


def _alone(kernel: Float[np.ndarray, "kh kw 3 maps"]) -> Float[np.ndarray, "maps kh kw 3"]:
    largest = np.maximum(np.abs(kernel).max(axis=(0, 1, 2), keepdims=True), np.float32(1e-12))
    return np.moveaxis(0.5 + 0.5 * kernel / largest, -1, 0)


def _in_grid(pictures: Float[np.ndarray, "n height width 3"]) -> Float[np.ndarray, "h w 3"]:
    """Arrange pictures with about twice as many columns as rows."""
    rows = max(1, round(math.sqrt(len(pictures) / 2)))
    return sheet(pictures, math.ceil(len(pictures) / rows))
