"""Training curves of a run."""

import math
from collections.abc import Mapping, Sequence

from zfjax.plots.colors import BLUE, ORANGE, VERMILION
from zfjax.plots.picture import Picture

TRAIN, VAL, TOP5 = BLUE, VERMILION, ORANGE


def plot_curves(records: Sequence[Mapping[str, float]]) -> Picture:
    """Loss, error and learning rate against epochs.

    Args:
        records: the lines of a run's metrics.jsonl, oldest first. Lines with `loss` are training steps; lines with
            `val_top1` are ends of epochs.

    Returns:
        A figure of 10 × 3.2 inches with three panels.
    """
    ends = [record for record in records if "val_top1" in record]
    steps = [record for record in records if "loss" in record]
    steps_per_epoch = ends[-1]["step"] / ends[-1]["epoch"] if ends else 1.0
    unit = "epoch" if ends else "step"
    figure = Picture(figsize=(10, 3.2), dpi=150, layout="constrained")
    loss, error, rate = figure.subplots(1, 3)

    at = [record["step"] / steps_per_epoch for record in steps]
    epochs = [record["step"] / steps_per_epoch for record in ends]
    loss.plot(at, [record["loss"] for record in steps], color=TRAIN, lw=1, label="train (with dropout)")
    loss.plot(epochs, [record["val_loss"] for record in ends], "o-", color=VAL, ms=3, label="val")
    # The first steps may be far above all others; clip them to keep the rest readable.
    top = 1.5 * max((record["val_loss"] for record in ends), default=float("nan"))
    loss.set(title="cross-entropy (nats)", xlabel=unit, ylim=(0, top if math.isfinite(top) else None))

    error.plot(at, [100 * (1 - record["top1"]) for record in steps], color=TRAIN, lw=1, label="train top-1")
    error.plot(epochs, [100 * (1 - r["val_top1"]) for r in ends], "o-", color=VAL, ms=3, label="val top-1")
    if any(record["val_top5"] < 1 for record in ends):  # it never is for five classes or fewer
        error.plot(epochs, [100 * (1 - r["val_top5"]) for r in ends], "s--", color=TOP5, ms=3, label="val top-5")
    error.set(title="error (%)", xlabel=unit, ylim=(0, 100))

    rate.plot(at, [record["lr"] for record in steps], color="black", lw=1)
    rate.set(title="learning rate", xlabel=unit, ylim=(0, None))
    for axes in (loss, error):
        axes.legend(frameon=False, fontsize=8)
    for axes in (loss, error, rate):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlim(0, None)
    return figure
