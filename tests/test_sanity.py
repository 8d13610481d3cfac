"""The model-randomization check: which weights are drawn anew, and what is made of the maps."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from scipy.stats import spearmanr

import zfjax
from zfjax.attribution.gradients import gradient
from zfjax.experiments.sanity import randomized, rank_correlation, sanity_check
from zfjax.models import ConvNet
from zfjax.models.specs import BatchNorm, Conv, Dense, MeanPool, ReLU, Residual, same

BLOCK = Residual(
    "stage1",
    (Conv("stage1_conv1", 4, (3, 3), padding=same(1), bias=False), BatchNorm("stage1_norm1")),
    (Conv("stage1_shortcut_conv", 4, (1, 1), bias=False), BatchNorm("stage1_shortcut_norm")),
)
NETS = {
    "plain": ConvNet(
        (Conv("conv1", 4, (3, 3)), ReLU("relu1"), Conv("conv2", 4, (3, 3)), ReLU("relu2"), Dense("fc3", 3)),
        image_size=8,
        kernel_init=nn.initializers.he_normal(),
    ),
    "residual": ConvNet(
        (
            *(Conv("conv1", 3, (3, 3), bias=False), BatchNorm("norm1"), ReLU("relu1")),
            *(BLOCK, MeanPool("pool5"), Dense("fc", 3)),
        ),
        image_size=8,
        kernel_init=nn.initializers.he_normal(),
    ),
}
LAYERS = {"plain": ["fc3", "conv2", "conv1"], "residual": ["fc", "stage1", "conv1"]}
INSIDE = {
    **{name: {name} for name in ("fc3", "conv2", "fc")},
    "stage1": {"stage1_conv1", "stage1_norm1", "stage1_shortcut_conv", "stage1_shortcut_norm"},
}
IMAGES = np.random.default_rng(0).normal(size=(3, 8, 8, 3)).astype(np.float32)
TARGET = jnp.array([0, 1, 2])


def inside(net, layer):
    return INSIDE.get(layer) or ({"conv1", "norm1"} if net == "residual" else {"conv1"})


def trained(net):
    """Weights of which none is as it is drawn."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(net.init, jax.random.key(0), IMAGES)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.uniform(0.5, 1.5, leaf.shape), jnp.float32), shapes)


def changed(one, other):
    """Names of the layers of which some weight differs, and of those of which some is the same."""
    differs, equal = set(), set()
    for collection in one:
        for name, leaves in one[collection].items():
            for part, leaf in leaves.items():
                same_values = np.array_equal(leaf, other[collection][name][part])
                (equal if same_values else differs).add(name)
    return differs, equal


@pytest.mark.parametrize("name", NETS)
def test_layers_are_drawn_from_the_top_and_each_alone(name):
    net = NETS[name]
    variables = trained(net)
    above = set()
    found = list(randomized(net, variables, jax.random.key(0)))
    assert [redrawn.layer for redrawn in found] == LAYERS[name]
    for redrawn in found:
        here = inside(name, redrawn.layer)
        above |= here
        for weights, expected in ((redrawn.alone, here), (redrawn.cascade, above)):
            differs, equal = changed(weights, variables)
            assert differs == expected
            assert not equal & expected  # biases and averages are new, too
        assert jax.tree.structure(redrawn.cascade) == jax.tree.structure(variables)
    # The whole net is new, as if it had just been made.
    start = {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0}
    for path, leaf in jax.tree.leaves_with_path(found[-1].cascade):
        assert leaf.dtype == jnp.float32
        if path[-1].key == "kernel":
            np.testing.assert_allclose(np.std(leaf), np.sqrt(2 / np.prod(leaf.shape[:-1])), rtol=0.35)
        else:
            np.testing.assert_array_equal(leaf, start[path[-1].key])


def test_a_layer_is_drawn_alike_alone_and_in_the_cascade_unlike_others_and_by_the_key():
    net = NETS["plain"]
    variables = trained(net)
    one, two = (list(randomized(net, variables, jax.random.key(seed))) for seed in (0, 0))
    other = list(randomized(net, variables, jax.random.key(1)))
    for mine, again, elsewhere in zip(one, two, other, strict=True):
        kernels = [found["params"][mine.layer]["kernel"] for found in (mine.alone, mine.cascade, again.alone)]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        np.testing.assert_array_equal(kernels[0], kernels[2])
        assert not np.array_equal(kernels[0], elsewhere.alone["params"][mine.layer]["kernel"])
    block = next(
        redrawn
        for redrawn in randomized(NETS["residual"], trained(NETS["residual"]), jax.random.key(0))
        if redrawn.layer == "stage1"
    )
    first, second = (block.alone["params"][name]["kernel"] for name in ("stage1_conv1", "stage1_shortcut_conv"))
    assert not np.allclose(first[0, 0], second[0, 0])


def test_the_rank_correlation_is_spearmans():
    rng = np.random.default_rng(2)
    one, other = rng.integers(0, 9, size=(2, 5, 6, 7)), rng.normal(size=(2, 5, 6, 7))
    expected = [spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(one[0], other[0], strict=True)]
    np.testing.assert_allclose(rank_correlation(one[0], other[0]), expected, rtol=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = rank_correlation(np.stack([np.zeros((2, 3)), np.arange(6.0).reshape(2, 3)]), rng.normal(size=(2, 2, 3)))
    assert np.isnan(found).tolist() == [True, False]


def by_gradient(net, variables, images, target):
    return gradient(zfjax.layer(net, variables, net.layers[-1].name), images, target)


def of_images(net, variables, images, target):
    return -images


@pytest.mark.parametrize("name", NETS)
def test_a_lens_that_does_not_look_at_the_weights_stays_the_same_and_the_gradient_does_not(name):
    net = NETS[name]
    variables = net.init(jax.random.key(3), IMAGES)
    blind = sanity_check(of_images, net, variables, IMAGES, TARGET, jax.random.key(0))
    assert blind.layers == tuple(LAYERS[name])
    for similarity in (*blind.cascade, *blind.alone):
        assert similarity.shape == (3, 3)
        np.testing.assert_allclose(similarity, 1)
    seeing = sanity_check(by_gradient, net, variables, IMAGES, TARGET, jax.random.key(0))
    for similarity in (seeing.cascade.signed, seeing.alone.signed):
        assert np.abs(similarity.mean(axis=1)).max() < 0.7
    assert np.abs(seeing.cascade.signed[-1].mean()) < 0.3


def test_similarities_are_those_of_each_set_of_weights_by_sign_and_by_strength():
    net = NETS["plain"]
    variables = net.init(jax.random.key(3), IMAGES)
    found = sanity_check(by_gradient, net, variables, IMAGES, TARGET, jax.random.key(5))
    trained_maps = np.asarray(by_gradient(net, variables, IMAGES, TARGET))
    for row, redrawn in enumerate(randomized(net, variables, jax.random.key(5))):
        for similarity, weights in ((found.cascade, redrawn.cascade), (found.alone, redrawn.alone)):
            maps = np.asarray(by_gradient(net, weights, IMAGES, TARGET))
            for image in range(3):
                a, b = maps[image].ravel(), trained_maps[image].ravel()
                np.testing.assert_allclose(similarity.signed[row, image], spearmanr(a, b).statistic, atol=1e-6)
                strengths = spearmanr(np.abs(a), np.abs(b)).statistic
                np.testing.assert_allclose(similarity.absolute[row, image], strengths, atol=1e-6)


def test_a_lens_of_one_layer_feels_that_layer_alone():
    net = NETS["plain"]
    variables = net.init(jax.random.key(3), IMAGES)
    found = sanity_check(
        lambda net, variables, images, target: jnp.einsum(
            "nhwc,hwcd->nhwd", images[:, :3, :3], variables["params"]["conv1"]["kernel"]
        ),
        *(net, variables, IMAGES, TARGET, jax.random.key(0)),
    )
    np.testing.assert_allclose(found.alone.signed[:2], 1)
    np.testing.assert_allclose(found.cascade.signed[:2], 1)
    assert np.abs(found.alone.signed[2]).max() < 0.9
    np.testing.assert_array_equal(found.alone.signed[2], found.cascade.signed[2])


def test_a_lens_without_maps_is_named():
    net = NETS["plain"]
    with pytest.raises(ValueError, match=r"lens: expected maps \[3, H, W\] or with channels, got \[3\]"):
        sanity_check(lambda *_: TARGET, net, trained(net), IMAGES, TARGET, jax.random.key(0))
