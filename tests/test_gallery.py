"""Figure 2: the strongest activations of a whole set in one pass, and their projections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zfjax
from zfjax import seeds
from zfjax.experiments import gallery as galleries
from zfjax.experiments.gallery import Top, field_of, gallery, some_maps, top_activations
from zfjax.models.cut import layers


def small_net():
    net = zfjax.zfnet(10, width=1 / 16, image_size=64)
    images = 50 * jax.random.normal(jax.random.key(0), (11, 64, 64, 3))
    variables = jax.tree.map(lambda leaf: 5 * leaf, net.init(jax.random.key(1), images))
    return net, variables, images


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
    tops = top_activations(fun, [images[:4], images[4:8], images[8:]], k=9)
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
    row = zfjax.layer_table(zfjax.zfnet(10, image_size=64))[1]
    with pytest.raises(ValueError, match="expected 3 images a map, but fewer were seen"):
        gallery(lambda x: x, top, np.array([0]), lambda numbers: jnp.ones((3, 1, 1, 1)), row)


@pytest.mark.parametrize(("batches", "k", "message"), [([], 9, "batches: .* got none"), ([None], 0, "k: .* got 0")])
def test_nothing_to_look_at_is_named(batches, k, message):
    with pytest.raises(ValueError, match=message):
        top_activations(lambda x: x, batches, k)


def test_a_gallery_projects_each_winner_alone():
    net, variables, images = small_net()
    fun = zfjax.layer(net, variables, "relu2")
    top = top_activations(fun, [images], k=4)
    maps = np.argsort(-np.asarray(top.values[:, 3]))[:2]
    row = next(row for row in zfjax.layer_table(net) if row.name == "relu2")
    found = gallery(fun, top, maps, lambda numbers: images[numbers], row)
    assert found.projections.shape == (2, 4, 64, 64, 3)
    for i, unit in enumerate(maps):
        for j in range(4):
            number, place = int(top.images[unit, j]), tuple(map(int, top.positions[unit, j]))
            image = images[number][None]
            y, project = zfjax.deconvnet(fun, image)
            expected = np.asarray(project(seeds.at(y, int(unit), place)))[0]
            assert np.any(expected)
            np.testing.assert_allclose(found.projections[i, j], expected, atol=1e-5 * np.abs(expected).max())
            np.testing.assert_array_equal(found.images[i, j], image[0])


def test_a_field_holds_all_that_a_unit_in_the_middle_sees():
    net, variables, images = small_net()
    fun = zfjax.layer(net, variables, "conv2")
    row = next(row for row in zfjax.layer_table(net) if row.name == "conv2")
    place = np.array([3, 2])
    top, left, height, width = field_of(row, place, (64, 64))
    assert (height, width) == row.receptive_field
    # Every pixel that any channel of this unit depends on, through each pool's winners in several images.
    seen = np.zeros((64, 64), bool)
    for i in range(11):
        y, pull = jax.vjp(fun, images[i : i + 1])
        (pixels,) = pull(jnp.zeros_like(y).at[0, 3, 2].set(1.0))
        seen |= np.any(np.asarray(pixels[0]), axis=-1)
    inside = np.zeros((64, 64), bool)
    inside[top : top + height, left : left + width] = True
    assert seen.any()
    assert not np.any(seen & ~inside)


@pytest.mark.parametrize(
    ("name", "place", "expected"),
    [
        ("relu1", (0, 0), (0, 0, 7, 7)),  # hangs over the edge by its padding: moved inside
        ("relu1", (5, 30), (9, 57, 7, 7)),
        ("relu5", (1, 1), (0, 0, 64, 64)),  # 139 pixels wide: all of the image
        ("fc6", (), (0, 0, 64, 64)),
    ],
)
def test_fields_lie_inside_the_image(name, place, expected):
    rows = {row.name: row for row in zfjax.layer_table(zfjax.zfnet(10, image_size=64))}
    assert field_of(rows[name], np.array(place, int), (64, 64)) == expected


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
    top = galleries._nothing(jax.ShapeDtypeStruct((5, 4, 4, 3), jnp.float32), 9)
    assert isinstance(top, Top)
    after = top_activations(lambda x: x, (jnp.ones((5, 4, 4, 3)) for _ in range(7)))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, top)


def test_what_is_no_number_excites_nothing():
    images = jnp.array([1.0, jnp.nan, 2.0]).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(top_activations(lambda x: x, [images], k=2).images, [[2, 0]])
