"""Histograms of activations, and which classes excite a map: against their definitions in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial

import zfjax
from zfjax.experiments.gallery import Top, top_activations
from zfjax.experiments.responses import FINE, LabeledImages, Sums, _add, _Found, class_contrast, responses, responses_of
from zfjax.models.cut import layers
from zfjax.training import sharding

BINS = 6


def by_numpy(acts, labels, classes, bins=BINS):
    """The definition, cell by cell and image by image."""
    n, *_, maps = acts.shape
    cells = acts.reshape(n, -1, maps)
    histogram = np.zeros((maps, bins), int)
    excitation = np.zeros((maps, classes))
    for unit in range(maps):
        strongest = max(cells[:, :, unit].max(), 0)
        ends = [np.float32(strongest) * (np.float32(i) / np.float32(bins)) for i in range(1, bins + 1)]
        for value in cells[:, :, unit].ravel():
            if value > 0:
                histogram[unit, next(i for i, end in enumerate(ends) if value <= end)] += 1
        for label in range(classes):
            of_class = [float(cells[i, :, unit].max()) for i in range(n) if labels[i] == label]
            excitation[unit, label] = np.mean(of_class) if of_class else 0
    flat = cells.reshape(-1, maps)
    return histogram, (flat == 0).sum(axis=0), (flat < 0).sum(axis=0), excitation


def some(seed=0, n=11):
    """Activations of five maps, many on the edges of bins; map 3 is dead, map 4 is never above zero."""
    rng = np.random.default_rng(seed)
    acts = np.maximum(rng.integers(-20, 24, (n, 5, 4, 5)), 0).astype(np.float32)
    acts[..., 2] -= 9
    acts[..., 3] = 0
    acts[..., 4] = -1 - acts[..., 4]
    return acts, rng.choice([0, 1, 3], n)  # no image of class 2


def identity(x):
    return x


def found_in(acts, labels, sizes, classes=4, fun=identity, mesh=None):
    parts = np.split(np.arange(len(acts)), np.cumsum(sizes)[:-1])
    top = top_activations(fun, [jnp.asarray(acts[part]) for part in parts])
    batches = [LabeledImages(jnp.asarray(acts[part]), labels[part]) for part in parts]
    return responses(fun, batches, top, classes, BINS, mesh)


@pytest.mark.parametrize("sizes", [(11,), (4, 4, 3), (3, 8), (1,) * 11])
def test_all_is_what_it_is_by_definition(sizes):
    acts, labels = some()
    found = found_in(acts, labels, sizes)
    histogram, zeros, negative, excitation = by_numpy(acts, labels, 4)
    np.testing.assert_array_equal(found.histogram, histogram)
    np.testing.assert_array_equal(found.zeros, zeros)
    np.testing.assert_array_equal(found.negative, negative)
    np.testing.assert_allclose(found.excitation, excitation, rtol=1e-12)
    np.testing.assert_array_equal(found.images, np.bincount(labels, minlength=4))
    np.testing.assert_array_equal(found.cells, np.full(5, acts[..., 0].size))
    np.testing.assert_array_equal(found.edges[:, -1], np.maximum(acts.max(axis=(0, 1, 2)), 0))


@pytest.mark.parametrize("sizes", [(11,), (8, 3), (3, 8)])
def test_on_many_devices_it_is_what_it_is_on_one(sizes):
    acts, labels = some(1)
    fun = Partial(lambda x: {"maps": x, "dense": x.sum(axis=(1, 2))})
    one, many = (found_in(acts, labels, sizes, fun=fun, mesh=mesh) for mesh in (None, sharding.data_mesh()))
    jax.tree.map(np.testing.assert_array_equal, many, one)
    np.testing.assert_array_equal(one["dense"].cells, np.full(5, len(acts)))


def test_dead_maps_and_classes_without_images_give_no_nan():
    acts, labels = some()
    found = found_in(acts, labels, (11,))
    for part in (*found, found.contrast):
        assert np.isfinite(part).all()
    np.testing.assert_array_equal(found.histogram[3], np.zeros(BINS))
    np.testing.assert_array_equal(found.contrast[3], np.zeros(4))
    np.testing.assert_array_equal(found.contrast[:, 2], np.zeros(5))


def test_a_nan_cell_is_in_no_bin():
    acts, labels = some()
    acts[4, 1, 1, 0] = np.nan
    assert found_in(acts, labels, (11,)).cells.tolist() == [219, 220, 220, 220, 220]


def test_contrast_is_the_class_less_the_mean_of_the_others_by_the_strongest():
    acts, labels = some()
    found = found_in(acts, labels, (11,))
    mean = {label: acts[labels == label][..., 0].max(axis=(1, 2)).mean(dtype=np.float64) for label in (0, 1, 3)}
    expected = (mean[1] - (mean[0] + mean[3]) / 2) / acts[..., 0].max()
    np.testing.assert_allclose(found.contrast[0, 1], expected)
    alone = class_contrast(np.array([[4.0, 0.0]]), np.array([3, 0]), np.array([4.0]))
    np.testing.assert_array_equal(alone, [[0, 0]])  # there is no other class
    np.testing.assert_array_equal(class_contrast(np.array([[4.0, 0.0]]), np.array([3, 1]), np.array([4.0])), [[1, -1]])


def test_layers_of_a_net_in_one_pass():
    net = zfjax.zfnet(10, width=1 / 16, image_size=64)
    images = 50 * jax.random.normal(jax.random.key(0), (7, 64, 64, 3))
    variables = jax.tree.map(lambda leaf: 5 * leaf, net.init(jax.random.key(1), images))
    fun = layers(net, variables, ["relu2", "relu7"])
    labels = np.array([0, 1, 1, 0, 2, 2, 2])
    parts = [images[:4], images[4:]]
    top = top_activations(fun, parts)
    found = responses(fun, map(LabeledImages, parts, (labels[:4], labels[4:])), top, 3)
    acts = jax.device_get(jax.jit(fun)(images))
    for name, one in found.items():
        strongest = acts[name].reshape(7, -1, acts[name].shape[-1]).max(axis=1)
        means = np.stack([strongest[labels == label].mean(axis=0) for label in range(3)], axis=1)
        np.testing.assert_allclose(one.excitation, means, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(one.cells, np.full(len(one.cells), acts[name][..., 0].size))


def test_counts_do_not_overflow_32_bits():
    """A batch's counts are 32-bit; their sums are made on the host in 64 bits."""
    many = np.int32(2**31 - 1)
    counts = np.array([[[many, many - 7]]]), np.array([[many]]), np.array([[many - 1]])
    found = _Found(*counts, np.ones((1, 1), np.float32), np.zeros(1, np.int32), np.full((1, FINE), many))
    sums = Sums.nothing(maps=1, bins=2, classes=1)
    for _ in range(3):
        _add(sums, found, np.array([0]))
    said = responses_of(sums, Top(np.array([[2.0]], np.float32), np.array([[0]]), np.zeros((1, 1, 0), int)))
    assert said.histogram.tolist() == [[3 * 7, 3 * (2**31 - 8)]]
    assert (said.zeros.tolist(), said.negative.tolist()) == ([3 * (2**31 - 1)], [3 * (2**31 - 2)])
    assert said.cells.tolist() == [9 * 2**31 - 12]
    assert (said.fine == 3 * (2**31 - 1)).all()
    assert said.excitation.tolist() == [[1]]


def test_what_is_infinite_has_no_contrast():
    infinite = np.array([[np.inf, 1.0, 0.0], [2.0, 1.0, 9.0]])
    contrast = class_contrast(infinite, np.array([1, 1, 0]), np.array([4.0, 4.0]))
    assert np.isnan(contrast[0, 0])
    np.testing.assert_array_equal(contrast[1], [0.25, -0.25, 0])


def test_what_is_wrong_is_named():
    acts, labels = some()
    top = top_activations(identity, [jnp.asarray(acts)])
    with pytest.raises(ValueError, match="expected at least one batch"):
        responses(identity, [], top, 4)
    with pytest.raises(ValueError, match="labels: expected 0 to 2, got 0 to 3"):
        responses(identity, [LabeledImages(jnp.asarray(acts), labels)], top, 3)
    with pytest.raises(ValueError, match="bins"):
        responses(identity, [LabeledImages(jnp.asarray(acts), labels)], top, 4, bins=0)
