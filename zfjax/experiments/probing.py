"""Table 7: how well a linear SVM and a softmax do on each layer of a net."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from zfjax.console.tables import Cell, Table
from zfjax.experiments.linear import SOFTMAX, SVM, Fold, Kind, Score, classify
from zfjax.experiments.transfer import dataset_of_the_paper, mean_and_std

# The paper's accuracies in per cent by layer: on an SVM, and on a softmax; and its training images per class.
PAPER: Mapping[str, tuple[int, Mapping[int, float], Mapping[int, float]]] = {
    "Caltech-101": (30, {1: 44.8, 2: 66.2, 3: 72.3, 4: 76.6, 5: 86.2, 7: 85.5}, {5: 82.9, 7: 85.4}),
    "Caltech-256": (60, {1: 24.6, 2: 39.6, 3: 46.0, 4: 51.3, 5: 65.6, 7: 71.7}, {5: 65.7, 7: 72.6}),
}


class Probing(NamedTuple):
    """Mean per-class accuracies, 0..1; NaN where a fold was not measured."""

    svm: Float[np.ndarray, "layers folds"]
    softmax: Float[np.ndarray, "layers folds"]


Classify = Callable[[str, Sequence[Kind], Fold], Sequence[Score]]


def probe(
    features: Mapping[str, Float[np.ndarray, "pictures features"]],
    labels: Int[np.ndarray, " pictures"],
    folds: Sequence[Fold],
    *,
    seed: int = 0,
) -> Probing:
    """An SVM and a softmax on each layer, for each fold.

    Args:
        features: of each layer, lowest first, as `experiments.features` gives them.
        labels: of the pictures.
        folds: from `linear.draw_fold`, all with as many training pictures per class.
        seed: draws what is held out to choose the regularisation, inside the training pictures.

    Raises:
        ValueError: there are no layers or folds, or as `linear.classify`.

    Paper: table 7.
    """

    def measure(name: str, kinds: Sequence[Kind], fold: Fold) -> Sequence[Score]:
        return classify(kinds, features[name], labels, fold, seed=seed)

    if not features or not folds:
        raise ValueError(f"features, folds: expected at least one of each, got {len(features)} and {len(folds)}")
    *_, result = fold_by_fold(list(features), folds, measure)
    return result


def fold_by_fold(names: Sequence[str], folds: Sequence[Fold], measure: Classify) -> Iterator[Probing]:
    """What is known so far, after each fold of each layer."""
    svm = np.full((len(names), len(folds)), np.nan)
    softmax = svm.copy()
    for number, fold in enumerate(folds):
        for row, name in enumerate(names):
            svm[row, number], softmax[row, number] = (score.accuracy for score in measure(name, (SVM, SOFTMAX), fold))
            yield Probing(svm.copy(), softmax.copy())


def to_table(result: Probing, names: Sequence[str], dataset: str, num_classes: int, per_class: int) -> Table:
    """Table 7: a row a layer, beside the paper's where dataset and training images per class are the paper's."""
    count, paper_svm, paper_softmax = PAPER.get(dataset_of_the_paper(dataset, num_classes) or "", (0, {}, {}))
    compared = count == per_class
    header = ("layer", "SVM %", "± std", "softmax %", "± std of it")
    rows: list[tuple[Cell, ...]] = []
    for number, (name, svm, softmax) in enumerate(zip(names, *result, strict=True), start=1):
        row = (f"{number} ({name})", *mean_and_std(svm), *mean_and_std(softmax))
        rows.append(row + ((paper_svm.get(number), paper_softmax.get(number)) if compared else ()))
    return Table(
        f"Linear classifiers on each layer, {dataset}, {per_class} training images per class: mean per-class accuracy",
        header + (("paper: SVM", "paper: softmax") if compared else ()),
        rows,
        "Each layer's last output, frozen. ± is the sample standard deviation over"
        f" {int(np.sum(~np.isnan(result.softmax[0])))} folds.",
    )
