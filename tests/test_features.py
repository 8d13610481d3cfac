"""Features of frozen layers, linear classifiers on them, and the folds they are measured on."""

import dataclasses
import warnings

import jax
import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

import zfjax
from zfjax.console.errors import UserError
from zfjax.data.crops import center_crop
from zfjax.data.pictures import CachedPictures, ChosenPictures, JoinedPictures
from zfjax.experiments import features as module
from zfjax.experiments.features import (
    Pool,
    features,
    kept_features,
    layer_named,
    require_pictures,
)
from zfjax.experiments.linear import SOFTMAX, SVM, Kind, choose, classify, draw_fold, fit, mean_class_accuracy
from zfjax.experiments.linear import on_one_scale as scaled
from zfjax.models.nets import NetModel
from zfjax.training.scoring import Trained

SIDE = 55


@pytest.fixture(scope="module")
def model():
    net = zfjax.zfnet(3, width=1 / 16, image_size=48)
    variables = jax.jit(net.init)(jax.random.key(0), np.zeros((1, 48, 48, 3), np.float32))
    mean = np.random.default_rng(0).uniform(0, 255, (SIDE, SIDE, 3)).astype(np.float32)
    return Trained(net, jax.tree.map(lambda leaf: 5 * leaf, variables), mean)


@pytest.fixture(scope="module")
def pool():
    rng = np.random.default_rng(1)
    squares = rng.integers(0, 256, (21, SIDE, SIDE, 3), np.uint8)
    labels = np.arange(21, dtype=np.int32) % 3
    return Pool("noise", ("a", "b", "c"), CachedPictures(squares, labels, np.arange(21)), labels, "as made")


# Layers and pictures


@pytest.mark.parametrize(
    ("net", "expected"),
    [
        (zfjax.zfnet, "norm1 norm2 relu3 relu4 pool5 relu6 relu7"),
        (zfjax.zfnet_post, "pool1 pool2 relu3 relu4 pool5 relu6 relu7"),
        (zfjax.alexnet, "pool1 pool2 relu3 relu4 pool5 relu6 relu7"),
    ],
)
def test_a_layer_is_its_last_output(net, expected):
    model = NetModel(net(10), {})
    assert model.numbered_layers == tuple(expected.split())
    assert (layer_named(model, 0), layer_named(model, 5)) == ("relu7", "pool5")


@pytest.mark.parametrize("number", [8, -1])
def test_a_layer_that_is_not_there_is_named(number):
    with pytest.raises(UserError, match=f"layer {number}: expected 1 to 7, or 0"):
        layer_named(NetModel(zfjax.zfnet(10), {}), number)


def test_pictures_are_joined_and_chosen_by_number(pool):
    squares, labels = pool.pictures.squares, pool.labels
    joined = JoinedPictures(
        ChosenPictures(pool.pictures, np.arange(8)), ChosenPictures(pool.pictures, np.arange(8, 21))
    )
    asked = np.array([20, 0, 8, 7, 7])
    assert len(joined) == 21
    for found, expected in zip(joined.load(asked), (squares[asked], labels[asked]), strict=True):
        np.testing.assert_array_equal(found, expected)
    images, found = joined.load(np.array([1, 2]))
    np.testing.assert_array_equal(images, squares[[1, 2]])
    assert found.tolist() == [1, 2]
    chosen = ChosenPictures(pool.pictures, np.array([5, 3]))
    assert len(chosen) == 2
    np.testing.assert_array_equal(chosen.load(np.array([1]))[0], squares[[3]])


def test_features_are_the_nets_outputs_for_center_crops(model, pool):
    """Of every picture once, in order, though the last batch is not full."""
    names = ["norm1", "relu4", "relu7"]
    blocks = list(features(model, pool.pictures, names, batch_size=1))
    assert [len(block.outputs["relu7"]) for block in blocks] == [8, 8, 5]
    assert [block.first for block in blocks] == [0, 8, 16]
    images = pool.pictures.squares.astype(np.float32) - model.mean
    _, acts = jax.jit(model.net.apply)(model.variables, center_crop(images, 48))
    for name in names:
        expected = np.asarray(acts[name]).reshape(21, -1)
        found = np.concatenate([block.outputs[name] for block in blocks])
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_a_layer_that_the_net_lacks_is_named_before_a_pass(model, pool):
    with pytest.raises(UserError, match="no layer 'relu9'"):
        next(features(model, pool.pictures, ["relu9"], batch_size=8))


# Kept features


def count_passes(monkeypatch):
    passes = []

    def counted(model, pictures, names, batch_size):
        passes.append(list(names))
        return features(model, pictures, names, batch_size)

    monkeypatch.setattr(module, "features", counted)
    return passes


def test_features_are_computed_once_and_kept(model, pool, tmp_path, monkeypatch):
    passes = count_passes(monkeypatch)
    first = kept_features(model, pool, ["relu3", "relu7"], tmp_path, batch_size=8)
    expected = {name: np.array(values) for name, values in first.items()}
    second = kept_features(model, pool, ["relu7", "norm2", "relu3"], tmp_path, batch_size=8)
    assert passes == [["relu3", "relu7"], ["norm2"]]
    assert isinstance(second["relu3"], np.memmap)
    for name, values in expected.items():
        np.testing.assert_array_equal(second[name], values)


def test_other_weights_mean_or_pictures_have_other_features(model, pool, tmp_path, monkeypatch):
    passes = count_passes(monkeypatch)
    changed = [
        (model, pool),
        (model._replace(variables=jax.tree.map(lambda leaf: leaf * 2, model.variables)), pool),
        (model._replace(mean=model.mean + 1), pool),
        (model, pool._replace(fingerprint="changed")),
    ]
    for one, other in changed * 2:
        kept_features(one, other, ["relu7"], tmp_path, batch_size=8)
    assert len(passes) == 4


def test_damaged_features_are_computed_again(model, pool, tmp_path):
    expected = np.array(kept_features(model, pool, ["relu7"], tmp_path, batch_size=8)["relu7"])
    (file,) = tmp_path.glob("relu7-*/features.npy")
    whole = file.read_bytes()
    one_bit = whole[:-1] + bytes([whole[-1] ^ 1])
    for damage in (whole[:-1], whole[:40], b"", b"x" * len(whole), whole.replace(b"(21,", b"(20,"), one_bit):
        file.write_bytes(damage)
        np.testing.assert_array_equal(kept_features(model, pool, ["relu7"], tmp_path, batch_size=8)["relu7"], expected)
        assert file.read_bytes() == whole
    for damage in (b"", b"\xff", b"0" * 64):
        file.with_name("features.sha256").write_bytes(damage)
        np.testing.assert_array_equal(kept_features(model, pool, ["relu7"], tmp_path, batch_size=8)["relu7"], expected)
    file.with_name("features.sha256").unlink()  # as an older zfjax kept them
    kept_features(model, pool, ["relu7"], tmp_path, batch_size=8)
    assert not file.with_name("features.sha256").exists()


def test_an_interrupted_pass_leaves_nothing_that_looks_whole(model, pool, tmp_path):
    class Broken(CachedPictures):
        def load(self, indices):
            if 16 in indices:
                raise UserError("cannot be read")
            return super().load(indices)

    broken = pool._replace(pictures=Broken(*dataclasses.astuple(pool.pictures)))
    with pytest.raises(UserError, match="cannot be read"):
        kept_features(model, broken, ["norm1", "relu7"], tmp_path, batch_size=8)
    assert list(tmp_path.iterdir()) == []


def test_features_that_cannot_be_kept_are_named(model, pool, tmp_path):
    with pytest.raises(UserError, match="expected a local folder"):
        kept_features(model, pool, ["relu7"], "gs://bucket/run/features", batch_size=8)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file: .*Not a directory|file: it is no folder"):
        kept_features(model, pool, ["relu7"], tmp_path / "file", batch_size=8)


def test_a_class_with_too_few_images_is_named(pool):
    require_pictures(pool, 6)
    with pytest.raises(
        UserError, match="class 'a' of noise has 7 readable images, too few for 7 to train on and one to"
    ):
        require_pictures(pool, 7)
    with pytest.raises(UserError, match="class 'd' of noise has 0"):
        require_pictures(pool._replace(classes=("a", "b", "c", "d")), 2)


# Folds


def test_a_fold_has_so_many_of_each_class_and_no_picture_twice():
    labels = np.repeat([0, 1, 2], [10, 7, 30])[np.random.default_rng(0).permutation(47)]
    fold = draw_fold(labels, per_class=4, max_test=5, seed=3)
    assert np.bincount(labels[fold.train]).tolist() == [4, 4, 4]
    assert np.bincount(labels[fold.test]).tolist() == [5, 3, 5]
    assert len(set(fold.train) | set(fold.test)) == 12 + 13


def test_folds_come_from_the_seed_and_smaller_ones_lie_in_larger():
    labels = np.repeat(np.arange(4), 20)
    one, again, other = (draw_fold(labels, 5, 50, seed) for seed in ((0, 1), (0, 1), (0, 2)))
    np.testing.assert_array_equal(one.train, again.train)
    assert set(one.train) != set(other.train)
    assert set(one.train) < set(draw_fold(labels, 9, 50, (0, 1)).train)


@pytest.mark.parametrize(
    ("per_class", "max_test", "message"),
    [(3, 5, "less than the 3 pictures of class 1, got 3"), (0, 5, "at least 1, got 0, 5"), (1, 0, "got 1, 0")],
)
def test_folds_that_cannot_be_drawn(per_class, max_test, message):
    with pytest.raises(ValueError, match=message):
        draw_fold(np.array([0, 0, 0, 0, 1, 1, 1]), per_class, max_test, seed=0)


def test_every_class_counts_alike_in_the_mean():
    labels = np.array([0, 0, 0, 0, 2, 2])
    assert mean_class_accuracy(np.array([0, 0, 0, 1, 2, 0]), labels) == pytest.approx((3 / 4 + 1 / 2) / 2)


# Linear classifiers


def blobs(n=24, features=200, seed=0):
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    centers = rng.normal(size=(3, features))
    return (centers[labels] + 2.0 * rng.normal(size=(n, features)) + 5.0).astype(np.float32), labels


@pytest.mark.parametrize("kind", ["softmax", "svm"])
def test_turning_onto_the_span_of_the_training_pictures_changes_no_decision(kind):
    """Against the same classifier on all features, as plain scikit-learn fits it."""
    x, labels = blobs()
    train, test = x[:18], x[18:]
    mean = train.mean(axis=0)
    scale = np.sqrt(np.mean(np.sum((train - mean) ** 2, axis=1)))
    for strength in (0.1, 10.0):
        if kind == "softmax":
            plain, turned = (LogisticRegression(C=strength, tol=1e-10, max_iter=10_000) for _ in range(2))
        else:
            plain, turned = (LinearSVC(C=strength, tol=1e-10, max_iter=100_000) for _ in range(2))
        plain.fit(((train - mean) / scale).astype(np.float64), labels[:18])
        spanned, tested = scaled(train, test)
        assert spanned.shape == (18, 17)
        turned.fit(spanned, labels[:18])
        expected = plain.decision_function((test - mean) / scale)
        np.testing.assert_allclose(turned.decision_function(tested), expected, atol=2e-4 * np.abs(expected).max())


def test_few_features_stay_as_they_are_but_for_mean_and_one_scale():
    x, _ = blobs(features=5)
    train, test = scaled(x[:18], x[18:])
    scale = (x[0] - x[1])[0] / (train[0] - train[1])[0]
    np.testing.assert_allclose(train, (x[:18] - x[:18].mean(axis=0)) / scale, atol=1e-5)
    np.testing.assert_allclose(test, (x[18:] - x[:18].mean(axis=0)) / scale, atol=1e-5)
    assert np.mean(np.sum(train**2, axis=1)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("factor", [1e-3, 1e4])
def test_the_scale_of_a_layer_does_not_matter(factor):
    x, labels = blobs()
    fold = draw_fold(labels, 5, 50, 0)
    one, other = (classify([SOFTMAX], x * np.float32(f), labels, fold) for f in (1.0, factor))
    assert one == other


@pytest.mark.parametrize("x", [np.ones((4, 3), np.float32), np.full((4, 3), np.nan, np.float32)])
def test_features_that_do_not_differ_are_refused(x):
    with pytest.raises(UserError, match="expected finite ones that differ"):
        scaled(x, x)


def test_classifiers_tell_apart_what_can_be_and_chance_stays_chance():
    x, labels = blobs(n=90, features=300)
    fold = draw_fold(labels, 12, 50, 0)
    svm, softmax = classify([SVM, SOFTMAX], x, labels, fold)
    assert min(svm.accuracy, softmax.accuracy) > 0.9
    assert svm.strength in SVM.strengths
    noise = np.random.default_rng(0).normal(size=x.shape).astype(np.float32)
    assert all(score.accuracy < 0.6 for score in classify([SVM, SOFTMAX], noise, labels, fold))


def test_test_pictures_have_no_say_in_the_choice_of_the_strength():
    x, labels = blobs(n=60)
    fold = draw_fold(labels, 10, 50, 0)
    ruined = x.copy()
    ruined[fold.test] = np.random.default_rng(0).normal(size=ruined[fold.test].shape)
    before, after = (classify([SOFTMAX], values, labels, fold)[0] for values in (x, ruined))
    assert before.strength == after.strength
    assert before.accuracy > after.accuracy


class Told:
    """Has so many of ten pictures of each class right, by strength."""

    def __init__(self, right):
        self.right, self.tried = right, []

    def set_params(self, **values):
        self.tried.append(values["C"])
        return self

    def fit(self, x, y):
        return self

    def predict(self, x):
        return np.where(np.arange(len(x)) % 2 < self.right[self.tried[-1]], x[:, 0].astype(int), 7)


@pytest.mark.parametrize(("right", "expected"), [((0, 2, 1, 2), 1.0), ((1, 0, 1, 2), 100.0), ((0, 0, 0, 0), 0.1)])
def test_the_strength_is_the_first_best_of_its_grid(right, expected):
    grid = (0.1, 1.0, 10.0, 100.0)
    told = Told(dict(zip(grid, right, strict=True)))
    labels = np.repeat([0, 1, 2], 10)
    assert choose(Kind(lambda: told, grid), labels[:, None].astype(float), labels, seed=0) == expected
    assert told.tried == list(grid)


def test_a_strength_needs_two_pictures_of_each_class():
    with pytest.raises(ValueError, match="two or more pictures of each class"):
        choose(SVM, np.ones((4, 1)), np.array([0, 0, 0, 1]), seed=0)


class Slow:
    """Converges within `needed` iterations."""

    def __init__(self, needed):
        self.needed, self.max_iter = needed, 2

    def set_params(self, max_iter):
        self.max_iter = max_iter

    def fit(self, x, y):
        if self.max_iter < self.needed:
            warnings.warn("not yet", ConvergenceWarning, stacklevel=2)
        return self


def test_what_has_not_converged_goes_on():
    assert fit(Slow(150), np.ones((2, 1)), np.arange(2)).max_iter == 200


def test_what_never_converges_is_not_hidden():
    with pytest.warns(ConvergenceWarning, match="not yet"):
        fit(Slow(10**9), np.ones((2, 1)), np.arange(2))
