"""Concepts: planted ones are found, with the strengths, importance and projections that they have by definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import nnls

import zfjax
from zfjax.attribution import unit_relevance
from zfjax.console.errors import UserError
from zfjax.experiments.concepts import _factorized, find_concepts, projections, strengths
from zfjax.experiments.passes import most_relevant
from zfjax.models.display import display_of
from zfjax.models.fields import project_directions, project_fields
from zfjax.runs.subject import of_model

PLANTED = np.array([[1.0, 0.4, 0.0], [0.0, 0.3, 1.0]])  # colors, each of them a concept
WEIGHTS = np.array([[1.0, -2.0], [0.5, 0.5], [0.0, 3.0]], np.float32)


class Squares:
    """Pictures each of whose pixels has some of both colors, or of one alone, or none."""

    def __init__(self):
        rng = np.random.default_rng(0)
        amounts = rng.uniform(0, 120, (70, 16, 16, 2)) * rng.integers(0, 2, (70, 16, 16, 2))
        self.squares = np.rint(amounts @ PLANTED).astype(np.uint8)

    def __len__(self):
        return len(self.squares)

    def load(self, indices):
        return self.squares[indices], np.zeros(len(indices), np.int32)


def net(images):
    maps = jax.nn.relu(images)
    return maps.mean(axis=(1, 2)) @ WEIGHTS


def preprocess(pictures):
    return jnp.asarray(pictures).astype(jnp.float32) / 100


@pytest.fixture(scope="module")
def subject():
    pictures, labels = Squares(), np.arange(70) % 2
    model = zfjax.Model(net, (1, 16, 16, 3), classes=("a", "b"), preprocess=preprocess)
    bare = of_model(model, 16, display_of(model.preprocess, (16, 16)), model.classes)
    return bare._replace(pictures=pictures, labels=np.where(labels, 1, -1), kept=np.arange(70), fingerprint="planted")


def test_planted_concepts_are_found(subject):
    found = find_concepts(subject, "relu1", 2, k=3, images=50, each=16)
    unit = PLANTED / np.linalg.norm(PLANTED, axis=1, keepdims=True)
    order = np.argmax(found.directions @ unit.T, axis=1)
    assert sorted(order) == [0, 1]
    assert (found.directions * unit[order]).sum(axis=1).min() > 0.999
    assert found.explained > 0.999
    np.testing.assert_allclose(np.linalg.norm(found.directions, axis=1), 1, rtol=1e-5)

    # The net is linear above the place: what it loses is the mean strength times what the direction adds to the logit.
    numbers = np.unique(np.linspace(0, 69, 50).round().astype(int))
    maps = np.maximum(np.asarray(subject.load(numbers)), 0)
    amounts = np.asarray(strengths(maps, found.directions)).mean(axis=(1, 2))
    said = np.argmax(maps.mean(axis=(1, 2)) @ WEIGHTS, axis=1)
    labels = np.where(subject.labels[numbers] >= 0, subject.labels[numbers], said)
    assert found.labels.tolist() == labels.tolist()
    expected = amounts.T * (found.directions @ WEIGHTS[:, labels])
    np.testing.assert_allclose(found.falls, expected, rtol=1e-3, atol=1e-4)
    mean, low, high = found.importance.T
    np.testing.assert_allclose(mean, found.falls.mean(axis=1))
    assert (np.diff(mean) <= 0).all()
    assert ((low < mean) & (mean < high)).all()
    by_class = found.by_class(3)
    np.testing.assert_allclose(by_class[:, 1], found.falls[:, labels == 1].mean(axis=1), rtol=1e-5)
    assert np.isnan(by_class[:, 2]).all()

    # The whole split is searched for what shows them most, whatever the batch.
    every = np.asarray(strengths(np.maximum(np.asarray(subject.load(np.arange(70))), 0), found.directions))
    largest = every.max(axis=(1, 2))
    assert found.top.images.tolist() == np.argsort(-largest, axis=0, kind="stable")[:3].T.tolist()
    for concept in range(2):
        for value, image, (row, column) in zip(*(part[concept] for part in found.top), strict=True):
            np.testing.assert_allclose(value, every[image, row, column, concept], rtol=1e-5)

    # At the place the deconvnet's way down to these images is the identity: one cell, with the direction's color.
    shown = projections(subject, found)
    assert shown.projections.shape == (2, 3, 1, 1, 3)  # a cell sees one pixel
    sent = found.top.values[..., None] * found.directions[:, None]
    np.testing.assert_allclose(shown.projections[:, :, 0, 0], sent, rtol=1e-5)


def test_where_a_map_matters_most_is_told_by_relevance_over_the_whole_split(subject):
    """As `unit_relevance` gives it for all images at once, whatever the devices and parts."""
    found = most_relevant(subject, ["relu1"], k=4, each=3)["relu1"]
    every = unit_relevance(subject.model.split("relu1"), subject.load(np.arange(70)), lambda logits: logits.max(axis=1))
    largest = np.asarray(every).max(axis=(1, 2))
    assert found.images.tolist() == np.argsort(-largest, axis=0, kind="stable")[:4].T.tolist()
    for unit in range(3):
        for value, image, (row, column) in zip(*(part[unit] for part in found), strict=True):
            np.testing.assert_allclose(value, every[image, row, column, unit], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(value, largest[image, unit], rtol=1e-4, atol=1e-6)


def test_strengths_are_the_least_squares_that_are_not_negative():
    rng = np.random.default_rng(1)
    directions = np.abs(rng.normal(size=(6, 20))).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    cells = np.maximum(rng.normal(size=(4, 5, 20)), 0).astype(np.float32)
    found = np.asarray(jax.jit(strengths)(cells, directions))
    for cell, amounts in zip(cells.reshape(-1, 20), found.reshape(-1, 6), strict=True):
        exact, residual = nnls(directions.T.astype(float), cell.astype(float))
        np.testing.assert_allclose(amounts, exact, atol=2e-3)
        assert np.linalg.norm(cell - amounts @ directions) <= residual * 1.0001
    assert not np.asarray(strengths(np.zeros((3, 20)), directions)).any()


def test_a_direction_along_one_map_is_that_map():
    """The projection of a unit is the one of its own activation at its own cell."""
    net = zfjax.zfnet(10, width=0.0625, image_size=64)
    images = jax.random.normal(jax.random.key(0), (3, 64, 64, 3))
    fun = zfjax.layer(net, net.init(jax.random.key(1), images), "relu2")
    units, positions = np.array([0, 3, 5]), np.array([[0, 0], [2, 3], [1, 2]])
    one = project_fields(fun, images, units, positions)
    directions = np.zeros((3, fun(images).shape[-1]), np.float32)
    directions[np.arange(3), units] = one.values
    other = project_directions(fun, images, directions, positions)
    np.testing.assert_array_equal(one.fields, other.fields)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_allclose(one.projections, other.projections, atol=1e-5 * np.abs(one.projections).max())


@pytest.mark.parametrize(
    ("words", "error", "line"),
    [
        (("conv1", 2), UserError, "nowhere negative, as after a ReLU; here the lowest is -"),
        (("dense1", 1), UserError, "concepts need maps with positions"),
        (("relu1", 4), ValueError, "count: expected at most the 3 maps"),
        (("relu1", 0), ValueError, "count: expected at least 1"),
        (("relu7", 2), UserError, "relu7"),
    ],
)
def test_what_has_no_concepts_is_named(subject, words, error, line):
    def below(images):
        less = jax.lax.conv_general_dilated(
            images, -jnp.eye(3)[None, None], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(less).mean(axis=(1, 2)) @ jnp.asarray(WEIGHTS)

    model = zfjax.Model(below, (1, 16, 16, 3), preprocess=preprocess)
    with pytest.raises(error, match=line):
        find_concepts(subject._replace(model=model), *words, images=5)


@pytest.mark.parametrize(
    ("cells", "line"),
    [
        (np.ones((2, 5)), "3 concepts need as many cells of all images, but there are 2"),
        (np.zeros((9, 5)), "it never fires"),
        (np.full((9, 5), np.nan), "not finite"),
    ],
)
def test_cells_that_are_no_sums_are_named(cells, line):
    with pytest.raises(UserError, match=line):
        _factorized(cells, 3, "relu5")
