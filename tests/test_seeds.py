"""Seeds against numpy, for maps [N, H, W, C] and vectors [N, C]."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

import zfjax
from zfjax.transform import seeds

MAPS, VECTORS = normal((3, 4, 5, 6)), normal((3, 6), 1)
UNITS = [2, np.array([5, 0, 2]), jnp.array([5, 0, 2]), np.int64(3), np.array([4])]


def units_of(y, unit):
    return np.broadcast_to(np.asarray(unit).reshape(-1), y.shape[:1])


def strongest_by_numpy(y, unit, value="activation"):
    y = np.asarray(y)
    seed = np.zeros_like(y)
    for image, k in enumerate(units_of(y, unit)):
        place = (image, *np.unravel_index(y[image, ..., k].argmax(), y.shape[1:-1]), k)
        seed[place] = y[place] if value == "activation" else value
    return seed


@pytest.mark.parametrize("y", [MAPS, VECTORS, MAPS[:, :, 0], MAPS - 9], ids=["maps", "vectors", "rows", "negative"])
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_strongest_is_the_units_maximum_in_each_image(y, unit):
    seed = zfjax.strongest(y, unit)
    assert seed.dtype == y.dtype
    np.testing.assert_array_equal(seed, strongest_by_numpy(y, unit))


def test_of_equal_activations_the_first_in_row_major_order_is_strongest():
    y = jnp.zeros((2, 3, 3, 2)).at[0, 2, 0, 1].set(4.0).at[0, 1, 2, 1].set(4.0).at[0, 1, 1, 0].set(9.0)
    seed = zfjax.strongest(y, 1, value=1.0)
    assert np.argwhere(seed).tolist() == [[0, 1, 2, 1], [1, 0, 0, 1]]


MAKERS = {
    "strongest": zfjax.strongest,
    "whole_map": lambda y, unit, value: seeds.whole_map(y, unit, value),
    "at": lambda y, unit, value: seeds.at(y, unit, (2, 3), value),
    "masked": lambda y, unit, value: seeds.masked(y, np.arange(y.shape[-1]) == unit, value),
}


@pytest.mark.parametrize("value", [1.0, -2.5, 3, np.float32(2)])
@pytest.mark.parametrize("name", MAKERS)
def test_a_number_stands_where_the_activation_would(name, value):
    expected = np.where(MAKERS[name](MAPS, 1, "activation") != 0, np.float32(value), np.float32(0))
    np.testing.assert_array_equal(MAKERS[name](MAPS, 1, value), expected, strict=True)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", ["activation", 1.0])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_seeds_are_typed_as_the_activations(name, value, dtype):
    seed = MAKERS[name](MAPS.astype(dtype), 1, value)
    assert (seed.dtype, seed.shape) == (dtype, MAPS.shape)
    assert not seed.weak_type


@pytest.mark.parametrize("y", [MAPS, VECTORS], ids=["maps", "vectors"])
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_whole_map_is_one_unit(y, unit):
    expected = np.zeros_like(y)
    for image, k in enumerate(units_of(y, unit)):
        expected[image, ..., k] = y[image, ..., k]
    np.testing.assert_array_equal(seeds.whole_map(y, unit), expected)


@pytest.mark.parametrize("unit", UNITS, ids=str)
@pytest.mark.parametrize("row", [0, 3, np.array([0, 3, 1])], ids=str)
@pytest.mark.parametrize("column", [4, jnp.array([4, 0, 2])], ids=str)
def test_at_is_one_activation_in_each_image(unit, row, column):
    expected = np.zeros_like(MAPS)
    for place in zip(range(3), units_of(MAPS, row), units_of(MAPS, column), units_of(MAPS, unit), strict=True):
        expected[place] = MAPS[place]
    np.testing.assert_array_equal(seeds.at(MAPS, unit, (row, column)), expected)


def test_a_position_may_be_an_array():
    for make in (np.array, jnp.array, list):
        np.testing.assert_array_equal(seeds.at(MAPS, 1, make([2, 3])), seeds.at(MAPS, 1, (2, 3)))


def test_vectors_have_no_position():
    np.testing.assert_array_equal(seeds.at(VECTORS, 4, ()), seeds.whole_map(VECTORS, 4))


@pytest.mark.parametrize(
    "mask", [MAPS > 0.5, MAPS[:1, :, :, :1] > 0, np.arange(6) % 2 == 0, True, jnp.zeros((4, 1, 1), bool)]
)
def test_masked_keeps_activations_where_true(mask):
    np.testing.assert_array_equal(seeds.masked(MAPS, mask), np.where(mask, MAPS, 0))


def test_units_may_be_traced():
    units = jnp.array([0, 5, 3])
    for make in (zfjax.strongest, seeds.whole_map):
        got = jax.vmap(lambda unit, make=make: make(MAPS, unit))(units)
        np.testing.assert_array_equal(got, jnp.stack([make(MAPS, int(unit)) for unit in units]))
    np.testing.assert_array_equal(jax.jit(zfjax.strongest)(MAPS, units), zfjax.strongest(MAPS, units))


def test_positions_may_be_traced():
    rows, columns = jnp.array([0, 3]), jnp.array([4, 1])
    got = jax.vmap(lambda row, column: seeds.at(MAPS, 1, (row, column)))(rows, columns)
    np.testing.assert_array_equal(got, jnp.stack([seeds.at(MAPS, 1, (0, 4)), seeds.at(MAPS, 1, (3, 1))]))


def test_images_may_be_mapped_over():
    got = jax.vmap(lambda y, unit: zfjax.strongest(y[None], unit)[0])(MAPS, jnp.array([1, 0, 2]))
    np.testing.assert_array_equal(got, zfjax.strongest(MAPS, np.array([1, 0, 2])))


def test_signals_pass_to_the_activations_of_a_seed():
    derivative = jax.grad(lambda y: zfjax.strongest(y, 1).sum())(MAPS)
    np.testing.assert_array_equal(derivative, strongest_by_numpy(MAPS, 1, 1.0))


def test_a_nan_is_strongest():
    y = MAPS.at[0, 2, 2, 1].set(jnp.nan)
    assert np.argwhere(np.isnan(zfjax.strongest(y, 1))).tolist() == [[0, 2, 2, 1]]


OUT_OF_RANGE = {
    "strongest": lambda y, i: zfjax.strongest(y, i),
    "whole_map": lambda y, i: seeds.whole_map(y, i),
    "at": lambda y, i: seeds.at(y, i, (0, 0)),
}
each_maker = pytest.mark.parametrize("make", OUT_OF_RANGE.values(), ids=OUT_OF_RANGE)


@each_maker
@pytest.mark.parametrize("unit", [6, -1, np.array([0, 6, 1]), jnp.array(99)], ids=str)
def test_units_out_of_range_are_refused(make, unit):
    with pytest.raises(ValueError, match=r"^unit: expected 0 to 5, got "):
        make(MAPS, unit)


@each_maker
@pytest.mark.parametrize(
    "unit", [1.0, np.array([0, 1]), np.zeros((3, 1), int), True, jnp.ones(3), "1", None, ["1"]], ids=repr
)
@pytest.mark.usefixtures("unchecked")
def test_units_that_are_no_indices_are_refused(make, unit):
    with pytest.raises(ValueError, match=r"^unit: expected an integer, or one for each of 3 images; got "):
        make(MAPS, unit)


@each_maker
@pytest.mark.usefixtures("unchecked")
def test_activations_without_a_batch_are_refused(make):
    with pytest.raises(ValueError, match=r"y: expected activations \[N, H, W, C\] or \[N, C\], got shape \(6,\)"):
        make(VECTORS[0], 1)


@each_maker
@pytest.mark.usefixtures("unchecked")
def test_scalars_are_refused(make):
    with pytest.raises(ValueError, match="y: expected activations"):
        make(jnp.float32(1.0), 0)


@pytest.mark.parametrize("y", [{"a": MAPS}, (MAPS, MAPS), [[1.0]], None, "y", np.array([[None]])], ids=repr)
@pytest.mark.parametrize("make", [*OUT_OF_RANGE.values(), lambda y, _: seeds.masked(y, True)])
def test_what_is_no_array_of_activations_is_named(unchecked, make, y):
    with pytest.raises(TypeError, match=r"^y: expected one array, got (dict|tuple|list|NoneType|str|object\[1, 1\])$"):
        make(y, 0)


def test_of_no_images_the_seed_is_empty():
    for make in (zfjax.strongest, seeds.whole_map, functools.partial(seeds.at, position=(0, 0))):
        assert make(MAPS[:0], 1).shape == (0, 4, 5, 6)
    with pytest.raises(
        ValueError, match=r"^y: expected one real activation or more in each image, got float32\[3, 0, 5"
    ):
        zfjax.strongest(MAPS[:, :0], 1)
    with pytest.raises(ValueError, match=r"^y: expected one real activation or more in each image, got complex64\[3"):
        zfjax.strongest(MAPS.astype(jnp.complex64), 1)


@pytest.mark.parametrize(
    ("position", "message"),
    [
        ((4, 0), r"^position\[0\]: expected 0 to 3, got 4"),
        ((0, -1), r"^position\[1\]: expected 0 to 4, got -1"),
        ((0, np.array([0, 5, 1])), r"^position\[1\]: expected 0 to 4, got \[0 5 1\]"),
        ((0.0, 1), r"^position\[0\]: expected an integer, or one for each of 3 images; got float32\[\]"),
        ((0, "a"), r"^position\[1\]: expected an integer, or one for each of 3 images; got str"),
        (0, "^position: expected 2 indices .* got 0"),
        ((0,), r"^position: expected 2 indices for y of shape \(3, 4, 5, 6\)"),
        ((0, 0, 0), "^position: expected 2 indices .* got \\(0, 0, 0\\)"),
        ((), "^position: expected 2 indices .* got \\(\\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_positions_are_refused(position, message):
    with pytest.raises(ValueError, match=message):
        seeds.at(MAPS, 0, position)


@pytest.mark.parametrize(
    ("mask", "got"),
    [
        (jnp.ones((3, 4, 5, 6)), r"float32\[3, 4, 5, 6\]"),
        (np.ones((3, 4), bool), r"bool\[3, 4\]"),
        (np.ones((2, 3, 4, 5, 6), bool), r"bool\[2, 3, 4, 5, 6\]"),
        (1, r"int32\[\]"),
        ("mask", "str"),
        ([[1, 0]], r"int32\[1, 2\]"),
        (None, "NoneType"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_masks_are_refused(mask, got):
    with pytest.raises(
        ValueError, match=r"^mask: expected booleans that broadcast to y's shape \(3, 4, 5, 6\), got " + got
    ):
        seeds.masked(MAPS, mask)


@pytest.mark.parametrize("make", [zfjax.strongest, seeds.whole_map, functools.partial(seeds.at, position=(0, 0))])
@pytest.mark.usefixtures("unchecked")
def test_a_bad_value_is_refused(make):
    with pytest.raises(ValueError, match=r"^value: expected 'activation' or a number, got 'activations'"):
        make(MAPS, 0, value="activations")
    with pytest.raises(ValueError, match=r"^value"):
        seeds.masked(MAPS, True, "one")


def finished(seed):
    """The seed, when callbacks have run too."""
    jax.effects_barrier()
    return jax.block_until_ready(seed)


def test_traced_units_in_range_do_not_warn():
    assert not np.isnan(finished(jax.jit(zfjax.strongest)(MAPS, jnp.arange(3)))).any()


@each_maker
@pytest.mark.parametrize("unit", [6, -1, [0, 6, 1]], ids=str)
def test_traced_units_out_of_range_warn_and_give_nan(make, unit):
    with pytest.warns(RuntimeWarning, match=r"unit: expected 0 to 5, got .*; the seed is NaN"):
        seed = finished(jax.jit(make)(MAPS, jnp.array(unit)))
    assert np.isnan(seed).all()


@pytest.mark.filterwarnings("default")
def test_the_same_unit_out_of_range_warns_each_time():
    strongest = jax.jit(zfjax.strongest)
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(2):
            finished(strongest(MAPS, jnp.array(6)))
    assert len(caught) == 2


def test_traced_positions_out_of_range_warn_and_give_nan():
    with pytest.warns(RuntimeWarning, match=r"position\[1\]: expected 0 to 4, got 5; the seed is NaN"):
        seed = finished(jax.jit(lambda column: seeds.at(MAPS, 0, (0, column)))(5))
    assert np.isnan(seed).all()


def test_one_unit_out_of_range_leaves_the_others_of_a_vmap():
    with pytest.warns(RuntimeWarning, match=r"unit: expected 0 to 5, got 6"):
        got = finished(jax.vmap(lambda unit: zfjax.strongest(MAPS, unit))(jnp.array([1, 6, 2])))
    assert np.isnan(got[1]).all()
    np.testing.assert_array_equal(got[::2], [strongest_by_numpy(MAPS, 1), strongest_by_numpy(MAPS, 2)])


@pytest.mark.parametrize(
    "value", [None, "activations", np.ones(6), 1j, {}, object()], ids=lambda value: type(value).__name__
)
@pytest.mark.usefixtures("unchecked")
def test_other_values_are_refused(value):
    with pytest.raises(ValueError, match=r"^value: expected 'activation' or a number"):
        zfjax.strongest(jnp.ones((2, 6)), 1, value)


def test_units_may_be_a_list():
    np.testing.assert_array_equal(zfjax.strongest(jnp.ones((2, 3)), [2, 0]), [[0, 0, 1], [1, 0, 0]])


def test_seeds_while_nans_are_looked_for():
    y = jnp.ones((2, 3, 3, 4))
    with jax.debug_nans(True):
        for seed in (seeds.strongest(y, 1), seeds.at(y, 1, (0, 2)), seeds.whole_map(y, [0, 3])):
            assert seed.sum() > 0
