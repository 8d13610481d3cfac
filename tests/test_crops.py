import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from zfjax.data.crops import center_crop, fixed_crop, random_crop, subtract_mean, ten_crops

SIZE, SQUARE, N = 5, 8, 64
IMAGES = np.random.default_rng(0).integers(0, 256, (N, SQUARE, SQUARE, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def strict():
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield


def upright(images):
    ends = slice(0, SIZE), slice(SQUARE - SIZE, SQUARE)
    places = [(a, b) for a in ends for b in ends]
    middle = slice(1, 1 + SIZE)
    return [images[:, a, b] for a, b in [*places, (middle, middle)]]


def test_ten_crops_in_the_documented_order():
    found = jax.jit(ten_crops, static_argnums=1)(IMAGES, SIZE)
    expected = upright(IMAGES)
    expected = expected + [crop[:, :, ::-1] for crop in expected]
    assert found.dtype == jnp.uint8
    np.testing.assert_array_equal(found, np.stack(expected))


def test_center_crop():
    np.testing.assert_array_equal(center_crop(jnp.asarray(IMAGES), SIZE), IMAGES[:, 1:6, 1:6])
    np.testing.assert_array_equal(center_crop(jnp.asarray(IMAGES), SQUARE), IMAGES)


def test_mean_is_subtracted_where_each_pixel_lies():
    mean = IMAGES.astype(np.float64).mean(0).astype(np.float32)
    found = subtract_mean(jnp.asarray(IMAGES), jnp.asarray(mean))
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, IMAGES.astype(np.float32) - mean)


def test_fixed_crop_draws_evenly_from_the_ten():
    images = np.tile(IMAGES[:1], (2000, 1, 1, 1))
    found = np.asarray(jax.jit(fixed_crop, static_argnums=2)(jax.random.key(1), images, SIZE))
    ten = np.asarray(ten_crops(jnp.asarray(IMAGES[:1]), SIZE))[:, 0]
    which = [np.flatnonzero((ten == crop).all((1, 2, 3))) for crop in found]
    counts = np.bincount(np.concatenate(which), minlength=10)
    assert counts.sum() == 2000
    assert (np.abs(counts - 200) < 70).all()  # five standard deviations


def test_random_crop_reaches_every_place_both_ways():
    ramp = np.arange(SQUARE * SQUARE, dtype=np.uint8).reshape(1, SQUARE, SQUARE, 1)
    images = np.tile(ramp, (1000, 1, 1, 1))
    found = np.asarray(random_crop(jax.random.key(2), images, SIZE))[..., 0]
    seen = {(int(crop[0].min()), bool(crop[0, 0] > crop[0, -1])) for crop in found}
    places = SQUARE - SIZE + 1
    assert seen == {(row * SQUARE + col, flip) for row in range(places) for col in range(places)
                    for flip in (False, True)}  # fmt: skip
    rows = found.reshape(1000, -1).astype(int)
    assert {tuple(np.abs(np.diff(crop))) for crop in rows[:, :SIZE]} == {(1,) * (SIZE - 1)}


@pytest.mark.parametrize("crop", [fixed_crop, random_crop])
def test_crops_depend_on_key_and_place_only(crop):
    key = jax.random.key(3)
    found = crop(key, IMAGES, SIZE)
    np.testing.assert_array_equal(found, crop(key, IMAGES, SIZE))
    assert not np.array_equal(found, crop(jax.random.key(4), IMAGES, SIZE))
    # Cropping commutes with what is done to each picture: the same places are taken from other pictures.
    np.testing.assert_array_equal(crop(key, 255 - IMAGES, SIZE), 255 - found)


@pytest.mark.parametrize("crop", [fixed_crop, random_crop])
def test_sharded_batch_gives_the_same(crop):
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    images = jax.device_put(IMAGES, NamedSharding(mesh, PartitionSpec("batch")))
    found = jax.jit(crop, static_argnums=2)(jax.random.key(5), images, SIZE)
    np.testing.assert_array_equal(found, crop(jax.random.key(5), IMAGES, SIZE))


@pytest.mark.parametrize("crop", [fixed_crop, random_crop])
def test_whole_square_as_a_crop(crop):
    found = np.asarray(crop(jax.random.key(0), IMAGES, SQUARE))
    same = (found == IMAGES).all((1, 2, 3))
    flipped = (found == IMAGES[:, :, ::-1]).all((1, 2, 3))
    assert (same | flipped).all()
    assert same.any()
    assert flipped.any()


def test_crop_larger_than_the_picture():
    with pytest.raises(ValueError, match="crop of 9 px does not fit into images of 8x8"):
        random_crop(jax.random.key(0), jnp.asarray(IMAGES), 9)
