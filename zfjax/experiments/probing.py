"""Table 7: accuracy of a linear SVM and a softmax on each layer of a net."""

import functools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from zfjax.console.progress import Progress
from zfjax.console.tables import Cell, Table
from zfjax.console.text import shown_by_shape
from zfjax.experiments.features import Pool, folder_of, kept_features, open_pool, require_pictures
from zfjax.experiments.ledger import Ledger, fold_key
from zfjax.experiments.linear import SOFTMAX, SVM, Score, classify, draw_fold
from zfjax.experiments.transfer import dataset_of_the_paper, mean_and_std
from zfjax.runs import claim
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import Given, of_run

# The paper's training images per class, and its accuracies in percent by layer: with an SVM, and with a softmax.
PAPER: Mapping[str, tuple[int, Mapping[int, float], Mapping[int, float]]] = {
    "Caltech-101": (30, {1: 44.8, 2: 66.2, 3: 72.3, 4: 76.6, 5: 86.2, 7: 85.5}, {5: 82.9, 7: 85.4}),
    "Caltech-256": (60, {1: 24.6, 2: 39.6, 3: 46.0, 4: 51.3, 5: 65.6, 7: 71.7}, {5: 65.7, 7: 72.6}),
}


@shown_by_shape
class Probing(NamedTuple):
    """Mean per-class accuracies, 0..1; NaN for folds not measured."""

    layers: tuple[str, ...]  # outputs that represent layers 1, 2, …, lowest first
    svm: Float[np.ndarray, "layers folds"]
    softmax: Float[np.ndarray, "layers folds"]


class Protocol(NamedTuple):
    """How accuracies are measured; the defaults are the paper's protocol for Caltech-101."""

    per_class: int = 30  # training images of each class
    max_test: int = 50  # maximum test images of each class
    folds: int = 5
    seed: int = 0  # draws the folds


def probe(
    run: RunInfo,
    dataset: str = "",
    protocol: Protocol = Protocol(),  # noqa: B008  (immutable)
    *,
    checkpoint: str = "latest",
    batch_size: int = 64,
) -> Probing:
    """Train an SVM and a softmax on each layer of a run.

    Folds are measured only once: results are saved in the run's folder.

    Args:
        run: from `zfjax.runs.folder.read_run`.
        dataset: shapes, folder:PATH or tfds:NAME; empty for the val split of the run's dataset.
        protocol: what to measure.
        checkpoint: the run's checkpoint: latest, best or a step.
        batch_size: pictures on a device at a time, for the features.

    Raises:
        UserError: the dataset cannot be used or has too few pictures.

    Paper: table 7.
    """
    given = of_run(run, "probe", checkpoint=checkpoint)
    *_, result = fold_by_fold(given, open_pool(run, dataset), protocol, batch_size=batch_size)
    return result


def fold_by_fold(given: Given, pool: Pool, protocol: Protocol, *, batch_size: int = 64) -> Iterator[Probing]:
    """Yield the results so far after each layer of each fold, for a run or any model; see `probe`.

    All layers of a fold come before the next fold, so that an interrupted probing leaves whole columns. The results'
    folder stays locked until the last one.
    """
    require_pictures(pool, protocol.per_class)
    with claim.writing(folder_of(given, pool), "zfjax probe", given.root) as folder:
        ledger = Ledger(folder / "folds.json")
        with Progress("features"):
            model = given.scored()
            layers = model.model.numbered_layers
            kept = kept_features(model, pool, layers, given.home / "features", batch_size=batch_size)
            behind = model.fingerprint(pool.fingerprint)
        svm = np.full((len(layers), protocol.folds), np.nan)
        softmax = svm.copy()
        kinds = (SVM, SOFTMAX)
        with Progress("linear classifiers", svm.size, unit="layer") as progress:
            for number in range(protocol.folds):
                fold = draw_fold(pool.labels, protocol.per_class, protocol.max_test, (protocol.seed, number))
                for row, layer in enumerate(layers):
                    key = fold_key(fold, *(kind.strengths for kind in kinds), layer, behind)
                    measure = functools.partial(classify, kinds, kept[layer], pool.labels, fold, seed=protocol.seed)
                    both = (Score(*one).accuracy for one in ledger.get_or_first(key, measure))
                    svm[row, number], softmax[row, number] = both
                    progress.advance(1)
                    yield Probing(layers, svm.copy(), softmax.copy())


def to_table(result: Probing, dataset: str, num_classes: int, per_class: int) -> Table:
    """Table 7: one row per layer, beside the paper's if dataset and training images per class are the paper's."""
    count, paper_svm, paper_softmax = PAPER.get(dataset_of_the_paper(dataset, num_classes) or "", (0, {}, {}))
    compared = count == per_class
    header = ("layer", "SVM %", "± std", "softmax %", "± std of it")
    rows: list[tuple[Cell, ...]] = []
    for number, (name, svm, softmax) in enumerate(zip(*result, strict=True), start=1):
        row = (f"{number} ({name})", *mean_and_std(svm), *mean_and_std(softmax))
        rows.append(row + ((paper_svm.get(number), paper_softmax.get(number)) if compared else ()))
    return Table(
        f"Linear classifiers on each layer, {dataset}, {per_class} training images per class: mean per-class accuracy",
        header + (("paper: SVM", "paper: softmax") if compared else ()),
        rows,
        "Each layer's last output, frozen. ± is the sample standard deviation over"
        f" {int(np.sum(~np.isnan(result.softmax[0])))} folds.",
    )
