"""The model-randomization check: which weights are drawn anew, and what is made of the maps."""

import warnings

import jax
import jax.numpy as jnp
import looked_at
import numpy as np
import pytest
from flax import linen as nn
from scipy.stats import entropy, spearmanr

import zfjax
from zfjax.attribution.gradients import gradient
from zfjax.console.errors import UserError
from zfjax.experiments import randomization, sanity
from zfjax.experiments.randomization import forms, smoothed
from zfjax.experiments.sanity import randomized, randomized_layers, rank_correlation, sanity_check
from zfjax.models import ConvNet
from zfjax.models.nets import NetModel
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
    return jax.tree.map(lambda leaf: jax.device_put(np.float32(rng.uniform(0.5, 1.5, leaf.shape))), shapes)


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
    found = list(randomized(NetModel(net, variables), jax.random.key(0)))
    assert [redrawn.layer for redrawn in found] == LAYERS[name]
    for redrawn in found:
        here = inside(name, redrawn.layer)
        above |= here
        for weights, expected in ((redrawn.alone.variables, here), (redrawn.cascade.variables, above)):
            differs, equal = changed(weights, variables)
            assert differs == expected
            assert not equal & expected  # biases and averages are new, too
        assert jax.tree.structure(redrawn.cascade.variables) == jax.tree.structure(variables)
    # The whole net is new, as if it had just been made.
    start = {"bias": 0.0, "mean": 0.0, "scale": 1.0, "var": 1.0}
    for path, leaf in jax.tree.leaves_with_path(found[-1].cascade.variables):
        assert leaf.dtype == jnp.float32
        if path[-1].key == "kernel":
            np.testing.assert_allclose(np.std(leaf), np.sqrt(2 / np.prod(leaf.shape[:-1])), rtol=0.35)
        else:
            np.testing.assert_array_equal(leaf, start[path[-1].key])


def test_a_layer_is_drawn_alike_alone_and_in_the_cascade_unlike_others_and_by_the_key():
    net = NETS["plain"]
    variables = trained(net)
    one, two = (list(randomized(NetModel(net, variables), jax.random.key(seed))) for seed in (0, 0))
    other = list(randomized(NetModel(net, variables), jax.random.key(1)))
    for mine, again, elsewhere in zip(one, two, other, strict=True):
        kernels = [found.variables["params"][mine.layer]["kernel"] for found in (mine.alone, mine.cascade, again.alone)]
        np.testing.assert_array_equal(kernels[0], kernels[1])
        np.testing.assert_array_equal(kernels[0], kernels[2])
        assert not np.array_equal(kernels[0], elsewhere.alone.variables["params"][mine.layer]["kernel"])
    block = next(
        redrawn
        for redrawn in randomized(NetModel(NETS["residual"], trained(NETS["residual"])), jax.random.key(0))
        if redrawn.layer == "stage1"
    )
    first, second = (
        block.alone.variables["params"][name]["kernel"] for name in ("stage1_conv1", "stage1_shortcut_conv")
    )
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


def of_images(fun, images, target):
    return -images


@pytest.mark.parametrize("name", NETS)
def test_a_lens_that_does_not_look_at_the_weights_stays_the_same_and_the_gradient_does_not(name):
    net = NETS[name]
    variables = net.init(jax.random.key(3), IMAGES)
    blind = sanity_check(of_images, NetModel(net, variables), IMAGES, TARGET, jax.random.key(0))
    assert blind.layers == tuple(LAYERS[name])
    for similarity in (*blind.cascade, *blind.alone):
        assert similarity.shape == (3, 3)
        np.testing.assert_allclose(similarity, 1)
    seeing = sanity_check(gradient, NetModel(net, variables), IMAGES, TARGET, jax.random.key(0))
    for similarity in (seeing.cascade.signed, seeing.alone.signed):
        assert np.abs(similarity.mean(axis=1)).max() < 0.7
    assert np.abs(seeing.cascade.signed[-1].mean()) < 0.3


def test_similarities_are_those_of_each_set_of_weights_by_sign_and_by_strength():
    net = NETS["plain"]
    variables = net.init(jax.random.key(3), IMAGES)
    found = sanity_check(gradient, NetModel(net, variables), IMAGES, TARGET, jax.random.key(5))
    trained_maps = np.asarray(gradient(NetModel(net, variables).function, IMAGES, TARGET))
    for row, redrawn in enumerate(randomized(NetModel(net, variables), jax.random.key(5))):
        for similarity, one in ((found.cascade, redrawn.cascade), (found.alone, redrawn.alone)):
            maps = np.asarray(gradient(one.function, IMAGES, TARGET))
            for image in range(3):
                a, b = maps[image].ravel(), trained_maps[image].ravel()
                np.testing.assert_allclose(similarity.signed[row, image], spearmanr(a, b).statistic, atol=1e-6)
                strengths = spearmanr(np.abs(a), np.abs(b)).statistic
                np.testing.assert_allclose(similarity.absolute[row, image], strengths, atol=1e-6)


def test_a_lens_of_one_layer_feels_that_layer_alone():
    net = NETS["plain"]
    variables = net.init(jax.random.key(3), IMAGES)
    found = sanity_check(
        lambda fun, images, target: jnp.einsum(
            "nhwc,hwcd->nhwd", images[:, :3, :3], fun.args[0]["params"]["conv1"]["kernel"]
        ),
        *(NetModel(net, variables), IMAGES, TARGET, jax.random.key(0)),
    )
    np.testing.assert_allclose(found.alone.signed[:2], 1)
    np.testing.assert_allclose(found.cascade.signed[:2], 1)
    assert np.abs(found.alone.signed[2]).max() < 0.9
    np.testing.assert_array_equal(found.alone.signed[2], found.cascade.signed[2])


def test_a_lens_without_maps_is_named():
    net = NETS["plain"]
    with pytest.raises(ValueError, match=r"lens: expected maps \[3, H, W\] or with channels, got \[3\]"):
        sanity_check(lambda *_: TARGET, NetModel(net, trained(net)), IMAGES, TARGET, jax.random.key(0))


def closure():
    """A tiny net as a function that holds its weights."""
    net, drawn = looked_at.own_net()
    variables = jax.device_put(drawn)
    return zfjax.Model(lambda images: net.apply(variables, images)[0], (1, net.image_size, net.image_size, 3))


CLASSIFIER, CONVOLUTIONS = ("fc8", "fc7", "fc6"), ("conv5", "conv4", "conv3", "conv2", "conv1")
FOREIGN = {
    "a pytree": (looked_at.vit, ["head", "narrow", "wide", "out", "value", "key", "query", "patches"]),
    "a module": (looked_at.convnext, ["head", "narrow", "wide", "depthwise", "stem"]),
    "a closure": (closure, [f"ConvNet/{name}" for name in (*CLASSIFIER, *CONVOLUTIONS)]),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_the_weights_of_any_model_are_shuffled_layer_by_layer(kind):
    make, layers = FOREIGN[kind]
    model = make()
    leaves = {path: np.asarray(leaf) for path, leaf in model.leaves.items()}
    images = np.random.default_rng(0).normal(size=(2, *model.image_shape)).astype(np.float32)
    before, count = np.asarray(model(images)), 0
    found = list(randomized(model, jax.random.key(0)))
    assert [redrawn.layer for redrawn in found] == layers == list(randomized_layers(model))
    for redrawn in found:
        alone = {path for path, leaf in redrawn.alone.leaves.items() if not np.array_equal(leaf, leaves[path])}
        cascade = {path for path, leaf in redrawn.cascade.leaves.items() if not np.array_equal(leaf, leaves[path])}
        assert alone <= cascade
        assert any(redrawn.layer.rpartition("/")[2] in path for path in alone)
        count += len(alone)
        assert len(cascade) == count
        for path, leaf in redrawn.cascade.leaves.items():
            np.testing.assert_array_equal(np.sort(leaf, axis=None), np.sort(leaves[path], axis=None))
    varied = {path for path, leaf in leaves.items() if leaf.min() < leaf.max()}
    assert cascade == varied  # by the end all is new
    np.testing.assert_array_equal(model(images), before)  # the model itself stays
    for one in (found[0].alone, found[-1].cascade):
        assert not np.array_equal(one(images), before)
        assert one.layers.keys() == model.layers.keys()
    np.testing.assert_array_equal(found[0].cascade.replaced(leaves)(images), before)


def test_neighbors_of_very_many_layers_are_randomized_together(monkeypatch):
    monkeypatch.setattr(sanity, "MOST", 3)
    assert randomized_layers(looked_at.convnext()) == ("head", "wide", "stem")


def test_a_function_that_makes_its_weights_has_none_to_randomize():
    model = zfjax.Model(lambda images: images.mean((1, 2)) @ jnp.ones((3, 4)), (1, 8, 8, 3))
    with pytest.raises(UserError, match="weights of this model cannot be replaced: expected Model"):
        randomized_layers(model)
    with pytest.raises(ValueError, match="expected some of the model's weights, got 'kernel'"):
        looked_at.vit().replaced({"kernel": jnp.ones(3)})


def test_from_the_bottom_up_the_same_weights_are_new_and_all_in_the_end():
    model = NetModel(NETS["plain"], trained(NETS["plain"]))
    down, up = (list(randomized(model, jax.random.key(0), bottom_up=bottom_up)) for bottom_up in (False, True))
    assert [redrawn.layer for redrawn in up] == LAYERS["plain"][::-1]
    for one, other in zip(down, up[::-1], strict=True):
        assert not changed(one.alone.variables, other.alone.variables)[0]
    assert changed(up[1].cascade.variables, model.variables)[0] == {"conv1", "conv2"}
    assert not changed(up[-1].cascade.variables, down[-1].cascade.variables)[0]
    key = jax.random.key(0)
    found = sanity_check(smoothed(gradient, key, n_samples=2), model, IMAGES, TARGET, key, bottom_up=True)
    assert found.layers == ("conv1", "conv2", "fc3")


def test_smoothed_maps_are_means_over_noisy_copies_whatever_the_batches():
    copies = []

    def lens(fun, images, target):
        copies.append(np.asarray(images))
        return images * target.astype(jnp.float32)[:, None, None, None]

    one, other = (smoothed(lens, jax.random.key(0), n_samples=5, noise=0.2, batch_size=size) for size in (15, 4))
    found, again = (each(None, jnp.asarray(IMAGES), jnp.array([1, 2, 3])) for each in (one, other))
    assert {len(some) for some in copies[1:]} == {4}
    every = copies[0].reshape(5, *IMAGES.shape)
    np.testing.assert_allclose(found, every.mean(axis=0) * np.array([1, 2, 3]).reshape(3, 1, 1, 1), rtol=1e-4)
    np.testing.assert_allclose(again, found, rtol=1e-4)
    span = IMAGES.max(axis=(1, 2, 3)) - IMAGES.min(axis=(1, 2, 3))
    np.testing.assert_allclose((every - IMAGES).std(axis=(0, 2, 3, 4)), 0.2 * span, rtol=0.1)
    with pytest.raises(ValueError, match="n_samples: expected at least 1"):
        smoothed(lens, jax.random.key(0), n_samples=0)


def test_the_efficient_form_is_the_growth_of_entropy_and_0_for_a_lens_that_ignores_the_net():
    model = NetModel(NETS["plain"], trained(NETS["plain"]))
    blind = forms(lambda fun, images, target: images, model, IMAGES, TARGET, jax.random.key(0), n_samples=2)
    np.testing.assert_allclose(blind.smooth.signed, 1)
    np.testing.assert_array_equal(blind.efficient, 0)
    seen = []

    def lens(fun, images, target):
        seen.append(np.asarray(gradient(fun, images, target)))
        return seen[-1]

    found = forms(lens, model, IMAGES, TARGET, jax.random.key(0), n_samples=2)
    before, after = ([entropy(np.histogram(one, 100)[0]) for one in maps] for maps in seen[-2:])
    np.testing.assert_allclose(found.efficient, np.divide(after, before) - 1, rtol=1e-5)
    assert (np.abs(found.smooth.signed) < 0.9).all()
    flat = forms(lambda fun, images, target: 0 * images, model, IMAGES, TARGET, jax.random.key(0), n_samples=1)
    assert np.isnan(flat.efficient).all()
    assert np.isnan(flat.smooth.absolute).all()
    table = randomization.to_table({"blind": blind, "seeing": found, "flat": flat}, "noise")
    assert [cell if isinstance(cell, str) else round(cell.value) for cell in table.rows[0]] == ["blind", 100, 100, 0]
    assert "–" in table.text()
