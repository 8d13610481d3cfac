"""Figure 5: features and predictions as functions of translation, scale and rotation."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Array, Float
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from zfjax.experiments.invariance import Invariance, Response
from zfjax.plots.colors import LINES
from zfjax.plots.picture import Picture
from zfjax.plots.projections import sheet

DASHES = ("-", "--", ":", "-.")  # one style per six images


def plot_invariance(
    found: Invariance,
    examples: Sequence[Float[Array | np.ndarray, "images _ height width 3"]],
    names: Sequence[str],
    hidden: Sequence[str],
) -> Picture:
    """The paper's grid, one row per transform: images, distance in each layer, probability of the true class.

    Each image has one color throughout. A dashed line shows the mean distance between two different images.

    Args:
        found: the results for the images.
        examples: for each transform, the images in 0..1 at `shown_steps` of its steps.
        names: the images' names for the legend, ideally their true classes.
        hidden: titles of the layers whose distances are shown.

    Returns:
        A figure 12 inches wide.
    """
    figure = Picture(figsize=(12, 8.6), dpi=150, layout="constrained")
    rows = figure.subplots(3, 2 + len(hidden), squeeze=False)
    labels = ("vertical translation (pixels, down)", "scale (ratio)", "rotation (degrees, counter-clockwise)")
    for axes, one, pictures, label in zip(rows, found[:3], examples, labels, strict=True):
        _show_examples(axes[0], one, np.asarray(pictures))
        for i, panel in enumerate(axes[1:-1]):
            _draw_lines(panel, one, one.distances[i])
            panel.axhline(found.apart[i], color="0.4", lw=1, ls=(0, (4, 3)))
        _draw_lines(axes[-1], one, one.probability)
        axes[-1].set_ylim(-0.02, 1.02)
        for panel in axes:
            panel.set_xlabel(label, fontsize=9)
    titles = ("images", *(f"distance in {name}" for name in hidden), "probability of its class")
    for panel, title in zip(rows[0], titles, strict=True):
        panel.set_title(title, fontsize=11)
    # Distances in one layer are comparable: one scale for all transforms.
    for i, column in enumerate(rows[:, 1:-1].T):
        largest = np.nanmax([found.apart[i], *(one.distances[i].max() for one in found[:3])])
        for panel in column:
            panel.set_ylim(0, 1.05 * largest)
    lines = rows[0, 1].lines
    legend = figure.legend(lines, [*names, "two different images"], loc="outside lower center", ncols=6, frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)  # class names are folder names, which may contain $
    return figure


def shown_steps(steps: int) -> list[int]:
    """Up to five evenly spaced steps whose images are shown."""
    return sorted({round(i * (steps - 1) / 4) for i in range(5)})


def _style(image: int) -> tuple[str, str]:
    return LINES[image % len(LINES)], DASHES[image // len(LINES) % len(DASHES)]


def _draw_lines(axes: Axes, one: Response, values: Float[np.ndarray, "images steps"]) -> None:
    for i, line in enumerate(values):
        color, dashes = _style(i)
        axes.plot(one.parameters, line, color=color, ls=dashes, lw=1.5)
    axes.set_xlim(one.parameters[0], one.parameters[-1])
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)


def _show_examples(axes: Axes, one: Response, pictures: Float[np.ndarray, "images shown height width 3"]) -> None:
    images, shown, height, width, _ = pictures.shape
    gap = max(2, height // 16)
    axes.imshow(sheet(pictures.reshape(-1, height, width, 3), shown, gap))
    for i in range(images):
        color, dashes = _style(i)
        corner = (-0.5 - gap / 2, i * (height + gap) - 0.5 - gap / 2)
        size = (shown * (width + gap), height + gap)
        frame = Rectangle(corner, *size, fill=False, edgecolor=color, ls=dashes, lw=2, clip_on=False)
        axes.add_patch(frame)
    columns = [one.parameters[step] for step in shown_steps(len(one.parameters))]
    axes.set_xticks([(i + 0.5) * (width + gap) - gap / 2 for i in range(shown)], [f"{value:g}" for value in columns])
    axes.set_yticks([])
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
