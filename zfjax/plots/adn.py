"""A deconvolutional network: its filters, its strongest activations, its reconstructions, and how it learned."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from zfjax.plots.colors import BLUE, GREEN, ORANGE, VERMILION
from zfjax.plots.picture import Picture
from zfjax.plots.projections import per_image, sheet

_COLORS = (BLUE, VERMILION, GREEN, ORANGE)


def plot_activations(
    projections: Float[np.ndarray, "maps height width"], patches: Float[np.ndarray, "maps height width"], title: str
) -> Picture:
    """Each map's strongest activation as a picture, beside the part of the image that it is from.

    Args:
        projections: what the activation is in the image, by itself; gray is zero, each scaled by its own contrast.
        patches: the same part of the normalized image.
        title: shown above.

    Returns:
        A figure 9 inches wide.
    """
    pairs = np.concatenate([per_image(projections[..., None]), per_image(patches[..., None])], axis=2)
    columns = max(1, min(len(pairs), round((2 * len(pairs)) ** 0.5 / 1.6)))
    page = sheet(np.broadcast_to(pairs, (*pairs.shape[:3], 3)), columns, gap=max(2, pairs.shape[1] // 12))
    return _page(page, title)


def plot_apart(levels: Sequence[Float[np.ndarray, "_ side side"]], parts: int = 5) -> Picture:
    """One activation, and below it its parts in each layer, each by itself and on its own scale.

    Args:
        levels: of each layer from the top down, as `experiments.adn.dissecting.apart` returns them.
        parts: of an activation.

    Returns:
        A figure 9 inches wide.
    """
    names = [f"layer {len(levels) - at}: {len(level)}" for at, level in enumerate(levels)]
    pages = [
        sheet(
            np.broadcast_to(per_image(level[..., None]), (*level.shape, 3)),
            len(level) if len(level) <= parts else 13,
            gap=3,
        )
        for level in levels
    ]
    widths = (2.2, 9.0, 9.0, 9.0)
    heights = [width * page.shape[0] / page.shape[1] + 0.3 for width, page in zip(widths, pages, strict=False)]
    figure = Picture(figsize=(9, sum(heights)), dpi=150, layout="constrained")
    for axes, page, name in zip(
        figure.subplots(len(pages), 1, squeeze=False, height_ratios=heights)[:, 0], pages, names, strict=True
    ):
        axes.imshow(page, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name, fontsize=8)
    return figure


def plot_tradeoff(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Picture:
    """Signal-to-noise against the share of values that are not zero, one line for each layer.

    Args:
        layers: by title, shares in 0..1 and dB.

    Returns:
        A figure of 4.5 × 3.2 inches.
    """
    figure = Picture(figsize=(4.5, 3.2), dpi=150, layout="constrained")
    axes = figure.subplots()
    for color, (name, (shares, decibels)) in zip(_COLORS, layers.items(), strict=False):
        axes.plot(100 * shares, decibels, ".-", color=color, label=name)
    axes.set(xlabel="values that are not zero (%)", ylabel="signal to noise (dB)")
    axes.set_xscale("log")  # a layer may need a hundred times the share of another
    axes.xaxis.set_major_formatter("{x:g}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _page(page: Float[np.ndarray, "h w 3"], title: str) -> Picture:
    figure = Picture(figsize=(9, 9 * page.shape[0] / page.shape[1] + 0.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.imshow(page, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=10)
    return figure


def plot_reconstructions(
    images: Float[np.ndarray, "n side side"], rows: Mapping[str, Float[np.ndarray, "n side side"]],
    decibels: Mapping[str, Float[np.ndarray, " n"]],
) -> Picture:  # fmt: skip
    """Images in the first row, and in each other what remains of them, on the image's own scale.

    Args:
        images: normalized.
        rows: reconstructions by title.
        decibels: by title, the signal-to-noise ratio of each.

    Returns:
        A figure 1.5 inches wide for each image.
    """
    count = len(images)
    scale = np.array([max(np.quantile(np.abs(image), 0.995), 1e-6) for image in images])
    figure = Picture(figsize=(1.5 * count + 0.4, 1.75 * (len(rows) + 1)), dpi=150, layout="constrained")
    grid = figure.subplots(len(rows) + 1, count, squeeze=False)
    for line, (title, shown) in zip(grid, {"image": images, **rows}.items(), strict=True):
        for number, axes in enumerate(line):
            axes.imshow(shown[number], cmap="gray", vmin=-scale[number], vmax=scale[number], interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if title in decibels:
                axes.set_title(f"{decibels[title][number]:.1f} dB", fontsize=8)
        line[0].set_ylabel(title, fontsize=8)
    return figure


def plot_learning(histories: Sequence[Float[np.ndarray, "epochs 4"]]) -> Picture:
    """Cost, signal-to-noise and sparsity of each layer against epochs.

    Args:
        histories: of each layer, from the first: cost of an image, dB, share of values that are not zero, λ.

    Returns:
        A figure of 11 × 2.8 inches.
    """
    figure = Picture(figsize=(11, 2.8), dpi=150, layout="constrained")
    titles = ("cost of an image", "signal to noise (dB)", "not zero (%)", "λ")
    for column, (axes, title) in enumerate(zip(figure.subplots(1, 4), titles, strict=True)):
        for number, history in enumerate(histories, 1):
            values = history[:, column] * (100 if column == 2 else 1)
            color = _COLORS[(number - 1) % len(_COLORS)]
            axes.plot(np.arange(1, len(values) + 1), values, ".-", color=color, label=f"layer {number}")
        axes.set(title=title, xlabel="epoch")
        axes.spines[["top", "right"]].set_visible(False)
        if column in (0, 3):
            axes.set_yscale("log")
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure
