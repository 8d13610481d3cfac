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


class Kind(NamedTuple):
    """A kind of classifier, and the grid its strength is chosen from."""

    make: Callable[[], Any]  # a scikit-learn classifier with a parameter C
    strengths: tuple[float, ...]  # values of C, growing, for features as `on_one_scale` gives them


# A softmax over all classes with an L2 penalty, all weights at once, by L-BFGS that goes on from one C to the next.
SOFTMAX = Kind(lambda: LogisticRegression(max_iter=2000, warm_start=True), (0.1, 1.0, 10.0, 100.0, 1000.0))
# One linear SVM a class against the rest: squared hinge loss, L2 penalty, in the dual, which is sooner on few pictures.
SVM = Kind(lambda: LinearSVC(max_iter=2000, dual=True, random_state=0), (0.1, 1.0, 10.0))


class Fold(NamedTuple):
    """Which pictures are trained on and which are tested on; none is both."""

    train: Int[np.ndarray, " train"]
    test: Int[np.ndarray, " test"]


class Score(NamedTuple):
    """A linear classifier's result on one fold."""

    accuracy: float  # mean of the classes' accuracies, 0..1
    strength: float  # the C that was chosen; large is weak regularisation


def draw_fold(labels: Int[np.ndarray, " pictures"], per_class: int, max_test: int, seed: int | Sequence[int]) -> Fold:
    """`per_class` pictures of each class to train on, and up to `max_test` of the rest to test on.

    With the same seed, the training pictures of a smaller `per_class` are among those of a larger one.

    Args:
        labels: of all pictures; each class from 0 to the largest must be there.
        per_class: at least 1.
        max_test: at least 1.
        seed: the only source of the draw.

    Raises:
        ValueError: a class has too few pictures: `per_class` and one to test on.

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
    """The share of right answers in each class, averaged over the classes (not over pictures)."""
    right = np.bincount(labels, weights=predicted == labels)
    count = np.bincount(labels)
    return float(np.mean(right[count > 0] / count[count > 0]))


def on_one_scale(
    train: Float[np.ndarray, "n features"], test: Float[np.ndarray, "m features"]
) -> tuple[Float[np.ndarray, "n axes"], Float[np.ndarray, "m axes"]]:
    """Features that one grid of strengths fits, whatever layer they are of, and never more axes than pictures.

    From both parts goes the mean of `train`; both are divided by one number, the RMS distance of the training pictures
    from it. Where there are more features than training pictures, both are turned onto the axes that `train` spans: a
    linear classifier with an L2 penalty has its weights in that span, so it stays the same classifier, and a layer of
    300,000 features costs what one of 4,096 does.

    Raises:
        UserError: the training pictures all have the same features, as those of a dead layer.
    """
    mean = train.mean(axis=0, dtype=np.float64).astype(np.float32)
    train, test = train - mean, test - mean
    scale = np.sqrt(np.mean(np.einsum("nd,nd->n", train, train, dtype=np.float64)))
    if not np.isfinite(scale) or scale == 0:
        raise UserError("a layer's features: expected finite ones that differ between pictures")
    train, test = train / np.float32(scale), test / np.float32(scale)
    if train.shape[1] <= train.shape[0]:
        return train.astype(np.float64), test.astype(np.float64)
    # In double precision, since a Gram matrix squares the condition of what it is made of.
    train = train.astype(np.float64)
    squares, turn = np.linalg.eigh(train @ train.T)
    kept = squares > 1e-10 * squares[-1]
    lengths, turn = np.sqrt(squares[kept]), turn[:, kept]
    # In blocks: a layer of many features in double precision may not fit into memory.
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
    """Trains linear classifiers on a fold's training pictures and scores each on its test pictures.

    The strength is the best on a fifth of each class (at least one picture) of the training pictures, held out by
    `seed`; the classifier is then trained on all of them.

    Args:
        kinds: such as `(SVM, SOFTMAX)`.
        features: of all pictures; may be memory-mapped.
        labels: likewise.
        fold: from `draw_fold`.
        seed: draws what is held out.

    Raises:
        ValueError: fewer than two training pictures in a class.
        UserError: features that do not differ.

    Paper: section 4.3 (softmax) and table 7 (both).
    """
    # In order, so that a memory map is read from front to back.
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
    """The strength that is best on pictures held out of these; of equals the smallest.

    Arguments are as in `classify`, for the training pictures alone.

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
    """Fits until it has converged, with ever more iterations; what then still warns is for the user to see."""
    for _ in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                return model.fit(features, labels)
            except ConvergenceWarning:
                model.set_params(max_iter=10 * model.max_iter)
    return model.fit(features, labels)
