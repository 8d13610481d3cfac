"""Half precision: what is added up is added up in float32 at least."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from lens_nets import assert_close, draw

import zfjax
from zfjax import attribution as lenses
from zfjax.experiments import sanity
from zfjax.experiments.evolution import feature_distances
from zfjax.experiments.invariance import transformed, translations
from zfjax.models import ConvNet, specs

HALVES = (jnp.bfloat16, jnp.float16)
IMAGES = draw((2, 4, 5, 3), 0)
WEIGHTS = draw((60, 3), 1)
KEY = jax.random.key(0)


def linear(x):
    return x.reshape(len(x), -1) @ jnp.asarray(WEIGHTS, x.dtype)


@pytest.mark.parametrize("dtype", HALVES)
def test_many_samples_and_steps_of_a_linear_model(dtype):
    """Each has the same gradient, and so has their mean; that of 1,000 in bfloat16 was half of it."""
    images, slope = jnp.asarray(IMAGES, dtype), WEIGHTS[:, 1].reshape(4, 5, 3)
    found = lenses.smooth_grad(linear, images, 1, KEY, n_samples=1000, batch_size=500)
    assert_close(found, np.stack([slope, slope]), 0.005)
    path = lenses.integrated_gradients(linear, images, 1, n_steps=1000, batch_size=500)
    assert_close(path.attributions, IMAGES * slope, 0.01)
    # The score itself is in half precision.
    np.testing.assert_allclose(path.error, 0, atol=0.01 * np.abs(IMAGES * slope).sum(axis=(1, 2, 3)).max())


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("lens", [lenses.grad_cam, lenses.grad_cam_plus_plus, lenses.layer_cam])
def test_cams_of_large_maps_and_logits(lens, dtype):
    """As in float32, of the very same numbers; sums and products go beyond 65504, where float16 ends."""
    maps = jnp.asarray(300 * np.abs(draw((2, 12, 12, 8), 2)), dtype)
    weights = jnp.asarray(20 * draw((8, 3), 3), dtype)

    def head(maps):
        return (jax.nn.relu(maps) / 16).sum(axis=(1, 2)) @ weights.astype(maps.dtype)

    found, expected = lens(head, maps, 1), lens(head, maps.astype(jnp.float32), 1)
    assert np.isfinite(found).all()
    assert (maps.astype(jnp.float32).sum(axis=(1, 2)) > 2**15).any()
    assert_close(found, expected, 0.02)


def test_score_cam_and_products_in_float16():
    images = jnp.asarray(200 * np.abs(IMAGES), jnp.float16)
    steep = lambda x: (500 * x).mean(axis=(1, 2))  # noqa: E731
    assert np.isfinite(lenses.gradient_times_input(lambda x: 20 * steep(x), images, 1)).all()
    for lens in (lenses.score_cam, lambda *args: lenses.guided_grad_cam((jax.nn.relu, steep), *args[1:3])):
        found = lens(lambda x: jax.nn.relu(x).mean(axis=(1, 2)), images, 1, images)
        assert np.isfinite(found).all()
        assert np.any(found)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16])
def test_experiments(dtype):
    maps = IMAGES.astype(dtype)
    np.testing.assert_allclose(sanity.rank_correlation(maps, -maps), -1)
    moved = transformed(maps[0], translations(np.array([1.0])))
    assert moved.dtype == dtype
    np.testing.assert_array_equal(moved[0, 1:], maps[0, :-1])
    many = np.tile(draw((2, 40, 3), 4), (1, 500, 1)).astype(dtype)
    assert_close(feature_distances(many), feature_distances(many.astype(np.float64)), 1e-3)


def test_occlusion_adds_up_changes_tap_by_tap():
    """As near to the net in float32 as whole images in bfloat16 are, but for a little."""
    net = ConvNet((specs.Conv("conv1", 4, (7, 7), padding=((3, 3), (3, 3))),), 24)
    variables = {"params": {"conv1": {"kernel": jnp.asarray(draw((7, 7, 3, 4), 5)), "bias": jnp.zeros(4)}}}
    image = draw((24, 24, 3), 6) + 3
    half = zfjax.layer(net.clone(dtype=jnp.bfloat16), variables, "conv1")
    exact = zfjax.occlusion(zfjax.layer(net, variables, "conv1"), image, 6, 6).outputs
    listed, whole = (
        np.abs(zfjax.occlusion(fun, image, 6, 6).outputs.astype(np.float32) - exact).max()
        for fun in (half, lambda x: half(x))
    )
    assert 0 < listed < 2 * whole


def test_filters_are_renormalized_in_float16():
    kernel = jnp.full((3, 3, 4, 2), 300.0, jnp.float16)
    found = zfjax.ops.renormalize_kernel(kernel, 0.1)
    assert found.dtype == jnp.float16
    np.testing.assert_allclose(found, 0.1, rtol=1e-3)
