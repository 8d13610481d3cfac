"""Projections as pictures: gray is zero, lighter is positive and darker negative, per color."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Array, Float

from zfjax.plots.picture import Picture

Projections = Float[Array | np.ndarray, "*grid height width channels"]
Pictures = Float[np.ndarray, "*grid height width channels"]


def per_image(projections: Projections) -> Pictures:
    """Pictures in 0..1, each scaled by its own contrast, to show its form: 0.5 is zero.

    The contrast is the 99.5th percentile of the nonzero absolute values; larger values are clipped. A projection has a
    few values far above the rest, which would leave everything else gray.
    """
    return _stretched(projections, over=3)


def per_map(projections: Projections) -> Pictures:
    """Like `per_image`, but projections of one map (the last axis before height) share one scale."""
    return _stretched(projections, over=4)


def shared(projections: Projections) -> Pictures:
    """Like `per_image`, but all share one scale, so that their strengths can be compared."""
    return _stretched(projections, over=np.ndim(projections))


def show(
    projections: Projections,
    labels: Sequence[object] | np.ndarray = (),
    contrast: Callable[[Projections], Pictures] = per_image,
    columns: int = 0,
) -> Picture:
    """Projections in a grid, in the paper's display: gray is zero.

    Args:
        projections: [H, W, C], [N, H, W, C], or [rows, columns, H, W, C], of 3 channels or 1.
        labels: a title above each, in order; one per projection, or none.
        contrast: `per_image` (each scaled by its own contrast), `per_map` (one scale for each row of [rows, columns,
            …]) or `shared` (one scale for all).
        columns: pictures per row; default: as in `projections`, or about as many as rows.

    Returns:
        A figure with about 1.6 inches per picture, shown by notebooks; `savefig("file.png")` saves it.

    Raises:
        ValueError: the projections have the wrong shape, or the number of labels is wrong.

    Paper: figures 2 and 4.

    >>> figure = zfjax.show(np.random.default_rng(0).normal(size=(4, 16, 16, 3)), labels="abcd")
    """
    projections = np.asarray(projections, np.float32)
    if projections.ndim not in (3, 4, 5) or projections.shape[-1] not in (1, 3) or not projections.size:
        hint = "; heat maps [N, H, W] are drawn by zfjax.plots.comparison" if projections.ndim == 3 else ""
        raise ValueError(f"projections: expected [N, H, W, 3], got {list(projections.shape)}{hint}")
    pictures = contrast(projections)
    if projections.ndim == 5:
        columns = columns or projections.shape[1]
    pictures = pictures.reshape(-1, *projections.shape[-3:])
    titles = [str(label) for label in labels]
    if len(titles) not in (0, len(pictures)):
        raise ValueError(f"labels: expected {len(pictures)} or none, got {len(titles)}")
    columns = columns or math.ceil(math.sqrt(len(pictures)))
    rows = math.ceil(len(pictures) / columns)
    aspect = projections.shape[-3] / projections.shape[-2]
    figure = Picture(
        figsize=(1.6 * columns, rows * (1.6 * aspect + 0.25 * bool(titles))), dpi=150, layout="constrained"
    )
    for axes in figure.subplots(rows, columns, squeeze=False).ravel():
        axes.set_axis_off()
    for i, picture in enumerate(pictures):
        figure.axes[i].imshow(np.broadcast_to(picture, (*picture.shape[:2], 3)), interpolation="nearest")
        if titles:
            figure.axes[i].set_title(titles[i], fontsize=8, parse_math=False)
    return figure


def sheet(pictures: Float[np.ndarray, "n height width 3"], columns: int, gap: int = 1) -> Float[np.ndarray, "h w 3"]:
    """Arrange pictures of one size in rows on white, `gap` pixels apart."""
    n, height, width, channels = pictures.shape
    rows = math.ceil(n / columns)
    page = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), np.float32)
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        page[top : top + height, left : left + width] = picture
    return page


def _stretched(projections: Projections, over: int) -> Pictures:
    projections = np.asarray(projections, np.float32)
    over = min(over, projections.ndim)
    groups = np.abs(projections).reshape(-1, math.prod(projections.shape[projections.ndim - over :]))
    seen = [group[np.isfinite(group) & (group > 0)] for group in groups]
    contrasts = [np.quantile(values, 0.995) if len(values) else 1.0 for values in seen]
    scale = np.array(contrasts, np.float32).reshape(projections.shape[: projections.ndim - over] + (1,) * over)
    return np.clip(0.5 + 0.5 * projections / scale, 0, 1)
