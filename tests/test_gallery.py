"""Figure 2: the strongest activations of a whole set in one pass, and their projections."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import compiles
from devices import eight_devices, tolerance
from jax.tree_util import Partial
from small_models import normal, randomized

import zfjax
from zfjax.console.errors import UserError
from zfjax.experiments import gallery as galleries
from zfjax.experiments.gallery import Top, gallery, some_maps, top_activations
from zfjax.models.cut import layers
from zfjax.training import sharding
from zfjax.transform import seeds


@functools.cache
def small_net():
    net = zfjax.zfnet(10, width=1 / 16, image_size=64)
    images = normal((11, 64, 64, 3), scale=50.0)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(1), images))
    return net, variables, images


def loader(images):
    return lambda numbers: jax.device_put(np.asarray(images)[numbers])


def by_numpy(acts, k):
    """The definition: of each image its first strongest cell, then the k strongest images, earlier ones first."""
    n, *grid, maps = acts.shape
    cells = acts.reshape(n, -1, maps)
    values, places = cells.max(axis=1), cells.argmax(axis=1)
    order = np.argsort(-values, axis=0, kind="stable")[:k].T
    picked = np.take_along_axis(values.T, order, axis=1), np.take_along_axis(places.T, order, axis=1)
    return picked[0], order, np.stack(np.unravel_index(picked[1], grid), axis=-1)


def test_top_activations_are_those_of_all_images_in_one_pass_over_all_layers():
    net, variables, images = small_net()
    fun = layers(net, variables, ["relu1", "relu3", "relu7"])
    tops = top_activations(fun, jax.device_put(np.split(np.asarray(images), (4, 8))), k=9)
    acts = jax.jit(fun)(images)
    for name in ("relu1", "relu3"):
        values, numbers, places = by_numpy(np.asarray(acts[name]), 9)
        np.testing.assert_allclose(tops[name].values, values, rtol=1e-4, atol=1e-5)
        alive = values > 1e-3  # maps that hardly fire are near ties, which rounding may shift
        np.testing.assert_array_equal(np.asarray(tops[name].images)[alive], numbers[alive])
        np.testing.assert_array_equal(np.asarray(tops[name].positions)[alive], places[alive])
    assert tops["relu7"].positions.shape == (256, 9, 0)


def test_the_nine_are_nine_images():
    """Not nine cells of one image, however strong these are."""
    images = jnp.arange(12 * 16.0).reshape(12, 4, 4, 1)
    top = top_activations(lambda x: x, [images[:7], images[7:]])
    np.testing.assert_array_equal(top.images, [np.arange(11, 2, -1)])
    np.testing.assert_array_equal(top.positions, np.full((1, 9, 2), 3))


def test_of_equals_the_earlier_image_and_the_first_cell_win():
    top = top_activations(lambda x: x, [jnp.ones((2, 3, 3, 1)), jnp.ones((2, 3, 3, 1))], k=3)
    np.testing.assert_array_equal(top.images, [[0, 1, 2]])
    np.testing.assert_array_equal(top.positions, np.zeros((1, 3, 2)))


def test_fewer_images_than_k_are_told():
    top = top_activations(lambda x: x, [jnp.ones((2, 1, 1, 1))], k=3)
    np.testing.assert_array_equal(top.images, [[0, 1, -1]])
    assert top.values[0, 2] == -jnp.inf
    with pytest.raises(ValueError, match="expected 3 images per map, but fewer were seen"):
        gallery(lambda x: x, top, [0], lambda numbers: jnp.ones((3, 1, 1, 1)))


@pytest.mark.parametrize("sizes", [(16,), (16, 13), (5, 16, 8), (3, 1)])
def test_on_many_devices_it_is_what_it_is_on_one(sizes):
    """Batches that the devices cannot share evenly too, and ones larger than the first."""
    rng = np.random.default_rng(0)
    images = jax.device_put([np.float32(rng.integers(0, 50, (size, 5, 4, 3))) for size in sizes])  # many are equal
    fun = Partial(lambda x: {"maps": x, "dense": x.sum(axis=(1, 2))})
    expected, found = (top_activations(fun, images, 9, mesh) for mesh in (None, sharding.data_mesh()))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@eight_devices
def test_on_many_devices_the_net_gives_the_same_winners():
    net, variables, images = small_net()
    fun = layers(net, variables, ["relu1", "relu3"])
    batches = jax.device_put(np.split(np.asarray(images), [7]))
    expected, found = (top_activations(fun, batches, 4, mesh) for mesh in (None, sharding.data_mesh()))
    assert len(found["relu3"].values.sharding.device_set) == 8
    for name in expected:
        np.testing.assert_allclose(found[name].values, expected[name].values, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(found[name].images, expected[name].images)
        np.testing.assert_array_equal(found[name].positions, expected[name].positions)


def test_devices_find_the_strongest_without_waiting_for_each_other():
    """What each has found is put together once, after the last batch: until then nothing is sent."""
    fun, mesh = Partial(lambda x: jax.nn.relu(x)), sharding.data_mesh()
    (batch,) = galleries.numbered([jnp.zeros((16, 32, 32, 8))], mesh)
    top = galleries._nothing(jax.ShapeDtypeStruct(batch.images.shape, batch.images.dtype), 9, mesh)
    merge = jax.jit(galleries._merge.__wrapped__, static_argnames="mesh")
    text = merge.lower(fun, top, *batch, mesh=mesh).compile().as_text()
    assert not re.findall(r"= .*(?:all-gather|all-reduce|all-to-all|collective-permute)", text)


def test_a_smaller_last_batch_needs_no_other_program():
    fun, batch = Partial(lambda x: x + 1), jnp.ones((4, 2, 2, 1))
    top_activations(fun, [batch], 2)
    with compiles() as programs:
        top_activations(fun, [batch, batch, batch[:1]], 2)
    assert not [program for program in programs if "jit(_run)" in program]


@pytest.mark.parametrize(("batches", "k", "message"), [([], 9, "batches: .* got none"), ([None], 0, "k: .* got 0")])
def test_nothing_to_look_at_is_named(unchecked, batches, k, message):
    with pytest.raises(ValueError, match=message):
        top_activations(lambda x: x, batches, k)


@pytest.mark.parametrize("batch_size", [3, 32])
def test_a_gallery_projects_each_winner_alone(batch_size):
    net, variables, images = small_net()
    fun = zfjax.layer(net, variables, "relu2")
    top = top_activations(fun, [images], k=4)
    maps = np.argsort(-np.asarray(top.values[:, 3]))[:2]
    found = gallery(fun, top, maps, loader(images), batch_size)
    assert found.projections.shape == found.images.shape == (2, 4, 27, 27, 3)
    np.testing.assert_array_equal(found.values, np.asarray(top.values)[maps])

    @jax.jit
    def project(image, unit, place):
        y, down = zfjax.deconvnet(fun, image)
        return down(seeds.at(y, unit, place))[0]

    for i, unit in enumerate(maps):
        for j in range(4):
            image = np.asarray(images)[int(top.images[unit, j])][None]
            expected = np.asarray(project(image, unit[None], tuple(np.asarray(top.positions)[unit, j][:, None])))
            assert np.any(expected)
            up, left, height, width = found.fields[i, j]
            projection, patch = np.zeros_like(expected), (slice(up, up + height), slice(left, left + width))
            projection[patch] = found.projections[i, j]
            np.testing.assert_allclose(projection, expected, atol=tolerance(1e-5) * np.abs(expected).max())
            np.testing.assert_array_equal(found.images[i, j], image[0][patch])


@eight_devices
@pytest.mark.parametrize("batch_size", [3, 32])
def test_a_gallery_is_the_same_to_the_last_bit_on_many_devices(batch_size):
    net, variables, images = small_net()
    for fun in (zfjax.layer(net, variables, "relu2"), lambda x: jax.nn.relu(x[:, ::16, ::16])):
        top = top_activations(fun, [images], k=4)
        one, many = (
            gallery(fun, top, [2, 0], loader(images), batch_size, mesh) for mesh in (None, sharding.data_mesh())
        )
        jax.tree.map(np.testing.assert_array_equal, many, one)


def test_the_gallery_of_a_dense_layer_and_of_any_function_shows_whole_images():
    net, variables, images = small_net()
    for fun in (zfjax.layer(net, variables, "relu7"), lambda x: jax.nn.relu(x[:, ::16, ::16])):
        top = top_activations(fun, [images], k=2)
        found = gallery(fun, top, [2, 0], loader(images))
        np.testing.assert_array_equal(found.images, np.asarray(images)[np.asarray(top.images)[[2, 0]]])
        assert found.projections.shape == (2, 2, 64, 64, 3)
        assert np.all(found.fields == [0, 0, 64, 64])


@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ([0, 3], "map 3: the layer has 3 maps, 0 to 2"),
        (np.array([-1]), "map -1: the layer has 3 maps"),
        ([], "maps: expected numbers of maps, got"),
        ([0.5], "maps: expected numbers of maps, got"),
        ("all", "maps: expected numbers of maps, got all"),
    ],
)
def test_maps_that_are_not_there_are_named(unchecked, maps, message):
    top = top_activations(lambda x: x, [jnp.ones((2, 1, 1, 3))], k=2)
    with pytest.raises(UserError, match=message):
        gallery(lambda x: x, top, maps, lambda numbers: jnp.ones((2, 1, 1, 3)))


def test_maps_that_fire_are_drawn_first():
    values = np.ones((6, 9), np.float32)
    values[[1, 4]] = 0.0
    top = Top(values, np.zeros((6, 9), int), np.zeros((6, 9, 2), int))
    rng = np.random.default_rng(0)
    assert {tuple(some_maps(top, 4, rng)) for _ in range(5)} == {(0, 2, 3, 5)}
    assert len({tuple(some_maps(top, 2, rng)) for _ in range(20)}) > 1
    assert tuple(some_maps(top, 9, rng)) == tuple(range(6))


def test_memory_does_not_grow_with_the_number_of_images():
    """What is kept between batches is a Top, whatever came before."""
    top = galleries._nothing(jax.ShapeDtypeStruct((5, 4, 4, 3), jnp.float32), 9, None)
    assert isinstance(top, Top)
    after = top_activations(lambda x: x, (jnp.ones((5, 4, 4, 3)) for _ in range(7)))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, top)


def test_what_is_no_number_excites_nothing():
    images = jnp.array([1.0, jnp.nan, 2.0]).reshape(3, 1, 1, 1)
    top = top_activations(lambda x: x, [images], k=3)
    np.testing.assert_array_equal(top.images, [[2, 0, -1]])
    np.testing.assert_array_equal(top.values, [[2, 1, -jnp.inf]])


def test_an_image_does_not_count_for_maps_on_which_it_gives_nan():
    images = jnp.array([[5.0, jnp.nan], [1.0, 2.0], [-jnp.inf, jnp.inf]]).reshape(3, 1, 2, 1)
    top = top_activations(lambda x: jnp.concatenate([x, jnp.ones_like(x)], axis=3), [images], k=2)
    np.testing.assert_array_equal(top.images, [[2, 1], [0, 1]])
    np.testing.assert_array_equal(top.positions, [[[0, 1], [0, 1]], [[0, 0], [0, 0]]])
