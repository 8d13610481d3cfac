"""The gradients' lenses against finite differences in float64, and against what their papers promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from lens_nets import IMAGES, NET, TARGETS, assert_close, draw, logits_of, numpy_logits, slope
from small_models import deconv_relu, guided_relu

import zfjax
from zfjax import attribution as lenses

KEY = jax.random.key(3)
ROWS = np.arange(len(IMAGES))


def test_gradient_is_the_slope():
    """Independent of JAX: central differences of a NumPy net; each image has its own target."""
    expected = slope(numpy_logits, IMAGES, TARGETS)
    found = lenses.gradient(NET, IMAGES, TARGETS)
    assert_close(found, expected)
    assert_close(lenses.saliency(NET, IMAGES, TARGETS), np.abs(expected))
    assert_close(lenses.gradient_times_input(NET, IMAGES, TARGETS), expected * IMAGES)
    assert_close(lenses.per_pixel(found), np.abs(expected).max(axis=-1))
    assert (found < 0).any()


def test_other_inputs_than_images():
    """Any [n, …], as features without positions are."""
    weights = draw((5, 3), 0)
    found = lenses.gradient(lambda x: x @ weights, draw((2, 5), 1), [2, 0])
    assert_close(found, weights.T[[2, 0]], 1e-6)


@pytest.mark.parametrize(("lens", "relu"), [(lenses.guided_backprop, guided_relu), (lenses.deconvolution, deconv_relu)])
def test_backward_lenses(lens, relu):
    """Plain `jax.vjp` of the net with another ReLU in place is the oracle; the seed is 1 at the target."""
    logits, pull = jax.vjp(lambda x: logits_of(NET.args[0], x, relu), IMAGES)
    (expected,) = pull(jnp.zeros_like(logits).at[ROWS, TARGETS].set(1.0))
    assert_close(lens(NET, IMAGES, TARGETS), expected)
    assert np.abs(expected - lenses.gradient(NET, IMAGES, TARGETS)).max() > 0.1 * np.abs(expected).max()


def test_function_without_relus_is_said_to_have_none():
    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        lenses.guided_backprop(lambda x: x.sum(axis=(1, 2)), IMAGES, 0)


def test_smooth_grad_without_noise_is_the_gradient():
    found = lenses.smooth_grad(NET, IMAGES, TARGETS, KEY, n_samples=3, noise=0)
    assert_close(found, lenses.gradient(NET, IMAGES, TARGETS))


def test_noise_of_smooth_grad():
    """Where the gradient is x itself, the mean tells the noise: its size is the share of each image's own range."""
    images = np.stack([np.zeros((40, 40, 1)), np.zeros((40, 40, 1))]).astype(np.float32)
    images[0, 0, :2, 0], images[1, 0, :2, 0] = (-1, 3), (0, 50)

    def square(x):
        return (x**2).sum(axis=(1, 2, 3))[:, None] / 2

    found = lenses.smooth_grad(square, images, 0, KEY, n_samples=4, noise=0.2) - images
    np.testing.assert_allclose(found.std(axis=(1, 2, 3)) * 2, [0.2 * 4, 0.2 * 50], rtol=0.05)
    np.testing.assert_allclose(found.mean(axis=(1, 2, 3)), 0, atol=0.5)
    other = lenses.smooth_grad(square, images, 0, jax.random.key(4), n_samples=4, noise=0.2) - images
    assert abs(np.corrcoef(found[0].ravel(), other[0].ravel())[0, 1]) < 0.1


def test_samples_differ_and_the_first_stay():
    """Of 2 samples the first is that of 1, and the second another."""
    one, two = (lenses.smooth_grad(NET, IMAGES, TARGETS, KEY, n_samples=count) for count in (1, 2))
    draws = [jax.random.normal(jax.random.fold_in(KEY, sample), IMAGES.shape[1:]) for sample in (0, 1)]
    std = 0.15 * (IMAGES.max(axis=(1, 2, 3)) - IMAGES.min(axis=(1, 2, 3))).reshape(-1, 1, 1, 1)
    first, second = (lenses.gradient(NET, IMAGES + std * draw[None], TARGETS) for draw in draws)
    assert_close(one, first)
    assert_close(2 * two - one, second)
    assert np.abs(second - first).max() > 0.01 * np.abs(first).max()


@pytest.mark.parametrize("steps", [1, 2, 50])
def test_integrated_gradients_of_a_quadratic_are_exact(steps):
    """Its gradient is linear along the way, which one node integrates: w (x² − b²)."""
    weights, start = draw((8, 10, 3), 0), draw((8, 10, 3), 1)

    def quadratic(x):
        return jnp.stack([(x**2 * weights[None]).sum(axis=(1, 2, 3)), x.sum(axis=(1, 2, 3))], axis=1)

    for baseline in (0.0, 1.5, start, np.stack([start, 2 * start, 0 * start])):
        found = lenses.integrated_gradients(quadratic, IMAGES, [0, 0, 1], baseline, n_steps=steps)
        there = np.broadcast_to(baseline, IMAGES.shape)
        assert_close(found.attributions[:2], (weights * (IMAGES**2 - there**2))[:2])
        assert_close(found.attributions[2], (IMAGES - there)[2])
        np.testing.assert_allclose(found.error, 0, atol=tolerance(1e-3))


def test_completeness():
    """The error is what is missing, by the NumPy net's scores; it shrinks with steps."""
    rest = (1, 2, 3)
    gains = (numpy_logits(IMAGES) - numpy_logits(IMAGES - IMAGES + 0.5))[ROWS, TARGETS]
    coarse = lenses.integrated_gradients(NET, IMAGES, TARGETS, 0.5, n_steps=2)
    np.testing.assert_allclose(coarse.error, coarse.attributions.sum(axis=rest) - gains, atol=tolerance(1e-4))
    assert np.abs(coarse.error).max() > 0.01 * np.abs(gains).max()
    fine = lenses.integrated_gradients(NET, IMAGES, TARGETS, 0.5, n_steps=200)
    assert np.abs(fine.error).max() < 0.1 * np.abs(coarse.error).max()


def test_integral_by_hand():
    """A fine Riemann sum of finite differences, without Gauss' nodes."""
    places = (np.arange(400) + 0.5) / 400
    image, target = IMAGES[:1], TARGETS[:1]
    step = 1e-6

    def score(x):
        return numpy_logits(x)[:, target[0]]

    for place in [(0, 0, 0), (3, 4, 1), (7, 9, 2)]:
        moved = np.zeros_like(image, np.float64)
        moved[:, *place] = step
        ways = places.reshape(-1, 1, 1, 1) * image
        mean = ((score(ways + moved) - score(ways - moved)) / (2 * step)).mean()
        found = lenses.integrated_gradients(NET, image, target, n_steps=100).attributions[0, *place]
        np.testing.assert_allclose(found, mean * image[0, *place], rtol=0.02, atol=0.01)
