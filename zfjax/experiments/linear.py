"""Linear classifiers on frozen features, and the folds they are trained and tested on."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape


class Kind(NamedTuple):
    """A kind of classifier, and the grid its regularization strength is chosen from."""

    make: Callable[[], Any]  # a scikit-learn classifier with a parameter C
    strengths: tuple[float, ...]  # values of C, ascending, for features from `on_one_scale`


# A softmax over all classes with an L2 penalty, fit by L-BFGS, warm-started from one C to the next.
SOFTMAX = Kind(lambda: LogisticRegression(max_iter=2000, warm_start=True), (0.1, 1.0, 10.0, 100.0, 1000.0))
# One-vs-rest linear SVMs: squared hinge loss, L2 penalty, solved in the dual, which is faster with few pictures.
SVM = Kind(lambda: LinearSVC(max_iter=2000, dual=True, random_state=0), (0.1, 1.0, 10.0))


@shown_by_shape
class Fold(NamedTuple):
    """Numbers of the training and test pictures; the two do not overlap."""

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


class Score(NamedTuple):
    """A linear classifier's result on one fold."""

    accuracy: float  # mean of the classes' accuracies, 0..1
    strength: float  # the C that was chosen; large is weak regularization


def draw_fold(labels: Int[np.ndarray, " pictures"], per_class: int, max_test: int, seed: int | Sequence[int]) -> Fold:
    """Draw `per_class` pictures of each class to train on, and up to `max_test` of the rest to test on.

    With the same seed, the training pictures of a smaller `per_class` are among those of a larger one.

    Args:
        labels: of all pictures; every class from 0 to the largest must occur.
        per_class: training pictures per class, at least 1.
        max_test: maximum test pictures per class, at least 1.
        seed: the only source of the draw.

    Raises:
        ValueError: a class has fewer than `per_class` pictures plus one to test on.

    Paper: section 4.3, "Caltech-101" and "Caltech-256".

    >>> draw_fold(np.array([0, 0, 0, 1, 1, 1]), per_class=2, max_test=50, seed=0).test.shape
    (2,)
    """
    if per_class < 1 or max_test < 1:
        raise ValueError(f"per_class, max_test: expected at least 1, got {per_class}, {max_test}")
    rng = np.random.default_rng(seed)
    train, test = [], []
    for label in range(int(labels.max()) + 1):
        drawn = rng.permutation(np.flatnonzero(labels == label))
        if len(drawn) <= per_class:
            raise ValueError(
                f"per_class: expected less than the {len(drawn)} pictures of class {label}, got {per_class}"
            )
        train.append(drawn[:per_class])
        test.append(drawn[per_class : per_class + max_test])
    return Fold(np.concatenate(train), np.concatenate(test))


def mean_class_accuracy(predicted: Int[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Accuracy on each class, averaged over classes (not over pictures)."""
    right = np.bincount(labels, weights=predicted == labels)
    count = np.bincount(labels)
    return float(np.mean(right[count > 0] / count[count > 0]))


def on_one_scale(
    train: Float[np.ndarray, "n features"], test: Float[np.ndarray, "m features"]
) -> tuple[Float[np.ndarray, "n axes"], Float[np.ndarray, "m axes"]]:
    """Scale features so that one grid of strengths suits any layer, with no more axes than training pictures.

    Subtracts the mean of `train` from both parts, and divides both by the RMS distance of the training pictures from
    it. If there are more features than training pictures, both are rotated onto the axes that `train` spans: the
    weights of a linear classifier with an L2 penalty lie in that span, so the classifier is the same, and a layer of
    300,000 features costs no more than one of 4,096.

    Raises:
        UserError: all training pictures have the same features, as in a dead layer.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = train - mean, test - mean
    scale = np.sqrt(np.mean(np.einsum("nd,nd->n", train, train, dtype=np.float64)))
    if not np.isfinite(scale) or scale == 0:
        raise UserError("a layer's features: expected finite ones that differ between pictures")
    train, test = train / np.float32(scale), test / np.float32(scale)
    if train.shape[1] <= train.shape[0]:
        return train.astype(np.float64), test.astype(np.float64)
    # In double precision, since forming a Gram matrix squares the condition number.
    train = train.astype(np.float64)
    squares, turn = np.linalg.eigh(train @ train.T)
    kept = squares > 1e-10 * squares[-1]
    lengths, turn = np.sqrt(squares[kept]), turn[:, kept]
    # In blocks: a large layer in double precision may not fit in memory.
    blocks = np.array_split(test, max(1, len(test) // 256))
    return turn * lengths, np.concatenate([block @ train.T for block in blocks]) @ (turn / lengths)


def classify(
    kinds: Sequence[Kind],
    features: Float[np.ndarray, "pictures features"],
    labels: Int[np.ndarray, " pictures"],
    fold: Fold,
    *,
    seed: int | Sequence[int] = 0,
) -> tuple[Score, ...]:
    """Train linear classifiers on a fold's training pictures and score each on its test pictures.

    The strength is the one that scores best on a held-out fifth of each class's training pictures (at least one),
    drawn by `seed`; the classifier is then trained on all of them.

    Args:
        kinds: such as `(SVM, SOFTMAX)`.
        features: of all pictures; may be memory-mapped.
        labels: of all pictures.
        fold: from `draw_fold`.
        seed: draws the held-out pictures.

    Raises:
        ValueError: fewer than two training pictures in a class.
        UserError: all features are the same.

    Paper: section 4.3 (softmax) and table 7 (both).
    """
    # Sorted, so that a memory map is read front to back.
    train, test = (np.sort(numbers) for numbers in fold)
    spanned, tested = on_one_scale(features[train], features[test])
    scores = []
    for kind in kinds:
        chosen = choose(kind, spanned, labels[train], seed)
        model = fit(kind.make().set_params(C=chosen), spanned, labels[train])
        scores.append(Score(mean_class_accuracy(model.predict(tested), labels[test]), chosen))
    return tuple(scores)


def choose(
    kind: Kind,
    features: Float[np.ndarray, "n axes"],
    labels: Int[np.ndarray, " n"],
    seed: int | Sequence[int],
) -> float:
    """Choose the strength that scores best on held-out pictures; ties go to the smallest.

    Arguments are as in `classify`, but for the training pictures only.

    Raises:
        ValueError: fewer than two pictures in a class.
    """
    fewest = int(np.bincount(labels).min())
    if fewest < 2:
        raise ValueError(f"labels: expected two or more pictures of each class, to choose a strength; got {fewest}")
    held = max(1, fewest // 5)
    inner = draw_fold(labels, fewest - held, held, seed)
    model, scores = kind.make(), []
    for strength in kind.strengths:
        fit(model.set_params(C=strength), features[inner.train], labels[inner.train])
        scores.append(mean_class_accuracy(model.predict(features[inner.test]), labels[inner.test]))
    return kind.strengths[int(np.argmax(scores))]


def fit(
    model: Any, features: Float[np.ndarray, "n axes"], labels: Int[np.ndarray, " n"] | Bool[np.ndarray, " n"]
) -> Any:
    """Fit until converged, with ever more iterations; the user sees the warning of the last attempt."""
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return model.fit(features, labels)
            except ConvergenceWarning:
                model.set_params(max_iter=10 * model.max_iter)
    return model.fit(features, labels)
