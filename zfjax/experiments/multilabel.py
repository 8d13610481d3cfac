"""Table 6: average precision of one linear classifier per class, on images that may show several classes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float
from sklearn.metrics import average_precision_score

from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.tables import Table
from zfjax.console.text import shown_by_shape
from zfjax.data.multilabel import MultiLabelSet, Truth
from zfjax.experiments.features import Pool, join_splits, kept_features, layer_named
from zfjax.experiments.linear import SOFTMAX, fit, on_one_scale
from zfjax.runs.folder import RunInfo
from zfjax.runs.given import Given, of_run

PAPER_MEAN = 79.0  # percent, PASCAL VOC 2012


@shown_by_shape
class Precisions(NamedTuple):
    """Table 6 for one dataset."""

    pool: Pool
    precisions: Float[np.ndarray, " classes"]  # 0..1; NaN for a class that no test image shows
    present: Bool[np.ndarray, "tests classes"]  # which classes the test images show


def transfer(
    run: RunInfo | Given,
    several: MultiLabelSet,
    *,
    layer: int = 0,
    seed: int = 0,
    checkpoint: str = "latest",
    batch_size: int = 64,
) -> Precisions:
    """Measure how well a model's frozen features do on a dataset whose images may show several classes.

    Args:
        run: from `zfjax.runs.folder.read_run`; or any model, from `zfjax.runs.given.given`.
        several: from `zfjax.data.multilabel.open_multilabel`.
        layer: number of the frozen layer to use, counted from 1; 0: the last hidden one.
        seed: as in `average_precisions`.
        checkpoint: the run's checkpoint: latest, best or a step.
        batch_size: pictures on a device at a time, for the features.

    Raises:
        UserError: as in `average_precisions`, or the net has no such layer.

    Paper: table 6.
    """
    given = run if isinstance(run, Given) else of_run(run, "transfer", checkpoint=checkpoint)
    scanned = given.scanned(several.source)
    pool = join_splits(several.source, scanned)
    model = given.scored()
    name = layer_named(model.model, layer)
    kept = kept_features(model, pool, [name], given.home / "features", batch_size=batch_size)[name]
    train = several.train.truth(scanned.record.train_kept, len(pool.classes))
    test = several.val.truth(scanned.record.val_kept, len(pool.classes))
    count = len(train.present)
    with Progress("linear classifiers"):
        return Precisions(pool, average_precisions(kept[:count], train, kept[count:], test, seed=seed), test.present)


def average_precisions(
    train: Float[np.ndarray, "n features"],
    train_truth: Truth,
    test: Float[np.ndarray, "m features"],
    test_truth: Truth,
    *,
    seed: int = 0,
) -> Float[np.ndarray, " classes"]:
    """The average precision of each class, with one logistic one-vs-rest classifier per class.

    One regularization strength for all classes is chosen by the mean average precision on a held-out fifth of the
    training images, drawn by `seed`. Images that show only difficult objects of a class are left out for that class.

    Args:
        train: features of the training images.
        train_truth: their classes.
        test: features of the test images.
        test_truth: their classes.
        seed: draws the held-out fifth.

    Returns:
        Area under each class's precision-recall curve, 0..1; NaN for a class that no test image shows.

    Raises:
        UserError: all or none of the training images show a class, or there are too few to choose the strength.

    Paper: table 6.
    """
    shown = train_truth.present & train_truth.counted
    count = train_truth.counted.sum(axis=0)
    poor = np.flatnonzero((shown.sum(axis=0) == 0) | (shown.sum(axis=0) == count))
    if len(poor):
        raise UserError(f"the training images: expected some with and without class {poor[0]}, got none of one kind")
    spanned, tested = on_one_scale(train, test)
    order = np.random.default_rng(seed).permutation(len(spanned))
    held, rest = np.split(order, [len(order) // 5])
    scores = []
    for strength in SOFTMAX.strengths:
        precisions = _precisions(spanned, train_truth, rest, spanned, train_truth, held, strength)
        scores.append(np.nanmean(precisions) if np.any(np.isfinite(precisions)) else -np.inf)
    if not np.any(np.isfinite(scores)):
        raise UserError(f"train: too few images to choose a strength, got {len(train)}")
    best = SOFTMAX.strengths[int(np.argmax(scores))]
    every, all_tests = np.arange(len(spanned)), np.arange(len(tested))
    return _precisions(spanned, train_truth, every, tested, test_truth, all_tests, best)


def _precisions(
    train: Float[np.ndarray, "n axes"],
    train_truth: Truth,
    chosen: np.ndarray,
    test: Float[np.ndarray, "m axes"],
    test_truth: Truth,
    tested: np.ndarray,
    strength: float,
) -> Float[np.ndarray, " classes"]:
    """Train on the `chosen` images and score on the `tested` ones; NaN for a class that all or none of them show."""
    found = np.full(train_truth.present.shape[1], np.nan)
    for number in range(len(found)):
        rows = chosen[train_truth.counted[chosen, number]]
        asked = tested[test_truth.counted[tested, number]]
        wanted, truth = train_truth.present[rows, number], test_truth.present[asked, number]
        if wanted.any() and not wanted.all() and truth.any():
            model = fit(SOFTMAX.make().set_params(C=strength), train[rows], wanted)
            found[number] = average_precision_score(truth, model.decision_function(test[asked]))
    return found


def to_table(
    precisions: Float[np.ndarray, " classes"], test: Bool[np.ndarray, "m classes"], name: str, classes: Sequence[str]
) -> Table:
    """Table 6: one row per class and one for the mean, beside the paper's mean if the dataset is PASCAL VOC.

    Args:
        precisions: from `average_precisions`.
        test: which classes the test images show.
        name: the dataset's name.
        classes: the classes' names.
    """
    is_voc = "voc" in name.lower() and len(classes) == 20
    shown = [None if np.isnan(value) else 100 * float(value) for value in precisions]
    known = precisions[~np.isnan(precisions)]
    rows = [
        *((label, int(count), value) for label, count, value in zip(classes, test.sum(axis=0), shown, strict=True)),
        ("mean", int(test.any(axis=1).sum()), 100 * float(np.mean(known)) if len(known) else None),
    ]
    last = ("paper",) if is_voc else ()
    return Table(
        f"Transfer to {name}: average precision",
        ("class", "test images", "average precision %", *last),
        [row + ((PAPER_MEAN if row[0] == "mean" else None,) if is_voc else ()) for row in rows],
        "One logistic classifier per class on the frozen net, tested on the second split."
        + (" The paper's mean is on the test set of 2012." if is_voc else ""),
    )
