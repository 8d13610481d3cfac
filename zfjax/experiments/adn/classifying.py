"""SVMs on a network's pyramids and on plain pixels: how much they say about classes that nobody told the network."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float, Int

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.tables import Table
from zfjax.experiments.linear import SVM, classify, draw_fold
from zfjax.experiments.probing import Protocol
from zfjax.experiments.transfer import mean_and_std


def require_pictures(classes: Sequence[str], labels: Int[np.ndarray, " n"], per_class: int) -> None:
    """Raise a UserError if a class has fewer than `per_class` pictures plus one to test on, or there is one class."""
    if len(classes) < 2:
        raise UserError(f"--per_class={per_class}: expected pictures of two classes or more, got {len(classes)}")
    for name, count in zip(classes, np.bincount(labels, minlength=len(classes)), strict=True):
        if count <= per_class:
            raise UserError(
                f"--per_class={per_class}: class {name!r} has {count} pictures; expected one or more to test on"
            )


def accuracies(
    features: Mapping[str, Float[np.ndarray, "n _"]], labels: Int[np.ndarray, " n"], protocol: Protocol
) -> dict[str, Float[np.ndarray, " folds"]]:
    """Mean accuracy over classes, 0..1, of a linear SVM on each kind of features and in each fold."""
    found: dict[str, list[float]] = {name: [] for name in features}
    with Progress("SVMs", protocol.folds * len(features), unit="SVM") as progress:
        for number in range(protocol.folds):
            fold = draw_fold(labels, protocol.per_class, protocol.max_test, (protocol.seed, number))
            for name, values in features.items():
                (score,) = classify((SVM,), values, labels, fold, seed=protocol.seed)
                found[name].append(score.accuracy)
                progress.advance(1)
    return {name: np.array(values) for name, values in found.items()}


def to_table(
    found: Mapping[str, Float[np.ndarray, " folds"]], dataset: str, labels: Int[np.ndarray, " n"], protocol: Protocol
) -> Table:
    """One row for each kind of features."""
    left = np.minimum(np.bincount(labels) - protocol.per_class, protocol.max_test)
    tested = f"{left.min()} to {left.max()}" if left.min() < left.max() else f"{left.min()}"
    few = "; fewer than ten make a class's accuracy coarse" if left.min() < 10 else ""
    return Table(
        f"SVMs on {dataset}, {protocol.per_class} training images of each of {len(left)} classes: mean class accuracy",
        ("features", "SVM %", "± std"),
        [(name, *mean_and_std(values)) for name, values in found.items()],
        f"Each class is tested on {tested} images{few}. ± is the sample standard deviation over {protocol.folds}"
        " folds.",
    )
