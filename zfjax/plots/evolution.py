"""Figure 4: projections and features from checkpoint to checkpoint."""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes

from zfjax.experiments.evolution import Evolution, LayerEvolution
from zfjax.models.edits import layer_title
from zfjax.plots.colors import LINES
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image, sheet

MARKERS = "osD^v*"


def plot_evolution(found: Evolution, epochs: Sequence[float]) -> Picture:
    """The paper's blocks: one per layer, with one row per map and one column per checkpoint.

    Each projection is scaled on its own (`per_image`). A black bar marks a change of the strongest image since the
    previous checkpoint.

    Args:
        found: the evolution of some maps of each layer.
        epochs: epochs of the checkpoints.

    Returns:
        A figure 12 inches wide with three layers per row.
    """
    columns = min(3, len(found.names))
    rows = math.ceil(len(found.names) / columns)
    blocks = np.array([*range(len(found.names)), *[-1] * (rows * columns - len(found.names))]).reshape(rows, columns)
    # A row is as high as its largest block; cells are square.
    cell = 11.6 / columns / len(epochs)
    heights = [max(len(found.evolved[i].maps) for i in row if i >= 0) * cell + 0.55 for row in blocks]
    figure = Picture(figsize=(12, sum(heights) + 0.3), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=heights)
    for panel in grid.ravel()[len(found.names) :]:
        panel.set_axis_off()
    for number, panel in enumerate(grid.ravel()[: len(found.names)]):
        _show_layer(panel, found.evolved[number], epochs)
        panel.set_title(layer_title(found.names[number]), fontsize=11)
    figure.suptitle(
        "each map's strongest activation, projected, by epoch; after a black bar, it comes from a different image",
        fontsize=11,
    )
    return figure


def plot_convergence(found: Evolution, epochs: Sequence[float]) -> Picture:
    """Curves per layer: distance of the features to the final ones, movement, and changes of the strongest image.

    Args:
        found: the evolution of the layers, bottom first.
        epochs: epochs of the checkpoints.

    Returns:
        A figure of 12 × 4 inches with three panels.
    """
    figure = Picture(figsize=(12, 4), dpi=150, layout="constrained")
    final, moved, jumps = figure.subplots(1, 3)
    _draw_lines(final, found, epochs, found.to_final)
    _draw_lines(moved, found, epochs[1:], found.moved)
    _draw_lines(jumps, found, epochs[1:], found.jumps)
    final.set_title("distance of the features to the final ones", fontsize=10)
    moved.set_title("distance moved since the previous checkpoint", fontsize=10)
    jumps.set_title("strongest image differs from the previous one", fontsize=10)
    for axes, label in ((final, "1 − correlation"), (moved, "1 − correlation"), (jumps, "share of the maps that fire")):
        axes.set_ylabel(label)
        axes.set_xscale("log")
        axes.set_xticks(epochs, [f"{epoch:.3g}" for epoch in epochs])
        axes.minorticks_off()
        axes.set(xlabel="epoch", xlim=(0.9 * epochs[0], 1.1 * epochs[-1]))
        axes.set_ylim(0, None)
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*final.get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
    return figure


def _draw_lines(
    axes: Axes, found: Evolution, epochs: Sequence[float], values: Float[np.ndarray, "layers checkpoints"]
) -> None:
    for i, (name, line) in enumerate(zip(found.names, values, strict=True)):
        # A seventh line reuses the first color, with another marker.
        color, marker = LINES[i % len(LINES)], MARKERS[(i + i // len(LINES)) % len(MARKERS)]
        axes.plot(epochs, line, marker=marker, ms=4, lw=1.5, color=color, label=layer_title(name))


def _show_layer(axes: Axes, layer: LayerEvolution, epochs: Sequence[float]) -> None:
    maps, checkpoints, height, width, channels = layer.projections.shape
    gap = max(1, height // 12)
    pictures = per_image(layer.projections).reshape(-1, height, width, channels)
    axes.imshow(sheet(pictures, checkpoints, gap))
    for row, images in enumerate(layer.images):
        top = row * (height + gap) - 0.5
        for column in np.flatnonzero(np.diff(images)) + 1:
            x = column * (width + gap) - 0.5 - gap / 2
            axes.plot((x, x), (top, top + height), color="black", lw=1.5, solid_capstyle="butt")
    axes.set_xticks([i * (width + gap) + width / 2 - 0.5 for i in range(checkpoints)], [f"{e:.3g}" for e in epochs])
    axes.set_yticks([i * (height + gap) + height / 2 - 0.5 for i in range(maps)], [str(unit) for unit in layer.maps])
    axes.set_xlabel("epoch", fontsize=8)
    axes.set_ylabel("map", fontsize=8)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
