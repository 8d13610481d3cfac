"""Lenses that compare with baselines, and Captum's LRP: against Captum on the same weights, and what must hold."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import make_captum as goldens
from jax import lax
from lens_nets import CLASSES, IMAGES, NET, TARGETS, assert_close, draw
from small_models import MODELS, normal

import zfjax
from zfjax import attribution
from zfjax.transform.relevance import Epsilon, Gamma, ZPlus, composites

KEY = jax.random.key(4)
STARTS = draw(IMAGES.shape, 8)


def captum_net(x, activation=jax.nn.relu, bias=1, pool=lax.max):
    weights = {name: jnp.asarray(value) for name, value in goldens.weights().items()}

    def conv(x, name, strides):
        kernel = weights[name].transpose(2, 3, 1, 0)
        dimensions = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(x, kernel, strides, ((1, 1), (1, 1)), dimension_numbers=dimensions)
        return activation(y + bias * weights[f"{name}_bias"].reshape(1, 1, 1, -1))

    start = -jnp.inf if pool is lax.max else 0.0
    x = lax.reduce_window(conv(x, "first", (1, 1)), start, pool, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    x = conv(x if pool is lax.max else x / 4, "second", (2, 2)).transpose(0, 3, 1, 2).reshape(x.shape[0], -1)
    x = activation(x @ weights["hidden"].T + weights["hidden_bias"].reshape(1, -1))
    return x @ weights["last"].T + weights["last_bias"].reshape(1, -1)


@pytest.fixture(scope="module")
def theirs():
    with np.load(goldens.FILE) as stored:
        return dict(stored)


@pytest.mark.parametrize(("kind", "pool"), [("deep_lift", lax.add), ("deep_lift_max", lax.max)])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_deep_lift_is_captums(theirs, activation, kind, pool):
    fun = functools.partial(captum_net, activation=getattr(jax.nn, activation), pool=pool)
    found = attribution.deep_lift(fun, goldens.pictures(), goldens.TARGETS, baseline=goldens.baselines()[:2])
    assert_close(found.attributions, theirs[f"{kind}.{activation}"], 1e-4)


def test_gradient_shap_is_captums_with_the_same_draws(theirs):
    chosen = {"key": jax.random.key(goldens.SEED), "n_samples": goldens.SAMPLES, "noise": goldens.NOISE}
    found = attribution.gradient_shap(
        captum_net, goldens.pictures(), goldens.TARGETS, goldens.baselines(), batch_size=5, **chosen
    )
    assert_close(found.attributions, theirs["gradient_shap"], 1e-4)


@pytest.mark.parametrize("name", ["epsilon", "gamma", "alpha1_beta0"])
def test_lrp_is_captums(theirs, name):
    convolution = {"epsilon": Epsilon(1e-6), "gamma": Gamma(0.25, 1e-9), "alpha1_beta0": ZPlus(1e-9)}[name]
    chosen = composites.composite(convolution=convolution, dense=Epsilon(1e-6))
    fun = functools.partial(captum_net, bias=0)
    found = attribution.lrp(fun, np.abs(goldens.pictures()), goldens.TARGETS, rules=chosen)
    assert_close(found.attributions, theirs[f"lrp.{name}"], 1e-4)


# What must hold.


def gain(fun, images, starts, targets):
    rows = np.arange(len(images))
    return np.asarray(fun(images))[rows, targets] - np.asarray(fun(starts))[rows, targets]


def attentive(x):
    """Attention, layer norm, GELU, gates, quotients and maxima of two signals, and a scan."""
    x = x.reshape(x.shape[0], 20, -1) @ normal((12, 8), 9, 0.4)

    def block(x, weights):
        query, key, value, up = weights
        y = x - x.mean(-1, keepdims=True)
        y = y * lax.rsqrt((y**2).mean(-1, keepdims=True) + 1e-3)
        scores = jax.nn.softmax((y @ query) @ (y @ key).mT / 3)
        x = x + scores @ (y @ value)
        return x + jax.nn.gelu(x @ up) * jax.nn.sigmoid(y), jnp.max(x, axis=(1, 2))

    x, maxima = lax.scan(block, x, tuple(normal((2, 8, 8), i, 0.3) for i in range(4)))
    x = jnp.maximum(x[..., :4], x[..., 4:]) / (1 + jnp.exp(x[..., :4]))
    return x.mean(1) @ normal((4, CLASSES), 11) + maxima.sum(0)[:, None]


NETS = {"residual": NET, "attentive": attentive, "linen": None}


@pytest.mark.parametrize("name", NETS)
def test_deep_lift_adds_up_to_the_gain(name):
    fun, images, starts = NETS[name], IMAGES, STARTS
    if name == "linen":  # every kind of pool, batch norm
        fun, images, _ = MODELS["linen"]()
        starts = normal(images.shape, 8)
    targets = np.arange(len(images)) % CLASSES
    with jax.numpy_rank_promotion("allow"):
        found = attribution.deep_lift(fun, images, targets, baseline=starts)
        expected = gain(fun, images, starts, targets)
    total = found.attributions.reshape(len(images), -1).sum(1)
    np.testing.assert_allclose(total, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    np.testing.assert_allclose(found.error, total - expected, atol=1e-4)


@pytest.mark.parametrize("baseline", [(1.0, 0.0), (2.0, 0.0), (4.0, 9.0)])
def test_a_minimum_is_shared_out_as_a_maximum_of_what_is_negated(baseline):
    x, start = jnp.array([[1.0, 5.0]]), jnp.array([baseline])
    found = attribution.deep_lift(lambda x: jnp.min(x, axis=1, keepdims=True), x, 0, baseline=start)
    turned = attribution.deep_lift(lambda x: jnp.max(-x, axis=1, keepdims=True), x, 0, baseline=start)
    assert abs(float(found.error[0])) <= 1e-6
    np.testing.assert_allclose(found.attributions, -turned.attributions)


def test_small_differences_pass_what_is_added_unrounded():
    """A bias far larger than the difference: its slope is one, not the quotient of two rounded numbers."""
    start = jnp.full((1, 3), 0.25)
    x = start + jnp.array([[1e-4, -2e-4, 3e-4]])
    found = attribution.deep_lift(lambda x: (x + 120.0) @ jnp.eye(3), x, 1, baseline=start)
    np.testing.assert_allclose(found.attributions, (x - start) * jnp.array([[0.0, 1.0, 0.0]]), rtol=1e-6)


def test_deep_lift_of_one_image_under_jit_and_vmap():
    whole = attribution.deep_lift(NET, IMAGES, TARGETS, baseline=STARTS).attributions
    one = attribution.deep_lift(NET, IMAGES[1:2], int(TARGETS[1]), baseline=STARTS[1]).attributions
    assert_close(one[0], whole[1])

    def each(image, start, target):
        return attribution.deep_lift(NET, image[None], target[None], baseline=start).attributions[0]

    mapped = jax.jit(jax.vmap(each))(jnp.asarray(IMAGES), jnp.asarray(STARTS), jnp.asarray(TARGETS))
    assert_close(mapped, whole)


def test_without_a_difference_there_is_nothing_to_share_out():
    found = attribution.deep_lift(NET, IMAGES, TARGETS, baseline=IMAGES)
    assert np.all(np.asarray(found.attributions) == 0)
    assert np.all(np.asarray(found.error) == 0)
    constant = attribution.deep_lift(NET, np.full_like(IMAGES, 7), TARGETS, baseline=0.0)
    assert np.all(np.isfinite(constant.attributions))


def test_deep_lift_close_to_its_baseline_is_the_gradient():
    start = IMAGES - np.float32(1e-3) * np.sign(IMAGES)
    found = attribution.deep_lift(NET, IMAGES, TARGETS, baseline=start).attributions / (IMAGES - start)
    assert_close(found, attribution.gradient(NET, IMAGES, TARGETS), 2e-2)


def test_deep_lift_in_half_precision_is_close():
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), NET)
    found = attribution.deep_lift(half, IMAGES.astype(jnp.bfloat16), TARGETS, baseline=STARTS).attributions
    assert found.dtype == jnp.float32
    expected = attribution.deep_lift(NET, IMAGES, TARGETS, baseline=STARTS).attributions
    assert np.corrcoef(np.ravel(found), np.ravel(expected))[0, 1] > 0.95


def test_expected_gradients_do_not_depend_on_chunks_or_other_images():
    starts = draw((5, *IMAGES.shape[1:]), 8)
    found, again = (
        attribution.expected_gradients(NET, IMAGES, TARGETS, starts, KEY, n_samples=20, batch_size=size)
        for size in (32, 7)
    )
    one = attribution.expected_gradients(NET, IMAGES[:1], int(TARGETS[0]), starts, KEY, n_samples=20)
    assert_close(found.attributions, again.attributions)
    assert_close(one.attributions[0], found.attributions[0])
    np.testing.assert_allclose([one.error[0], again.error[0]], found.error[0], atol=1e-3)
    traced = jax.jit(lambda x: attribution.expected_gradients(NET, x, TARGETS, starts, KEY, n_samples=20))(IMAGES)
    assert_close(traced.attributions, found.attributions)


def test_expected_gradients_add_up_but_for_the_draws():
    starts = draw((5, *IMAGES.shape[1:]), 8)
    found = attribution.expected_gradients(NET, IMAGES, TARGETS, starts, KEY, n_samples=4000, batch_size=1000)
    whole = np.asarray(NET(IMAGES))[np.arange(3), TARGETS] - np.asarray(NET(starts))[:, TARGETS].mean(0)
    np.testing.assert_allclose(found.attributions.reshape(3, -1).sum(1), whole, atol=0.1 * np.abs(whole).max())
    assert np.all(np.abs(found.error) <= 0.1 * np.abs(whole).max())


def test_one_baseline_and_no_noise_is_integrated_gradients():
    found = attribution.gradient_shap(NET, IMAGES, TARGETS, STARTS[:1], KEY, n_samples=2000, noise=0.0, batch_size=1000)
    expected = attribution.integrated_gradients(NET, IMAGES, TARGETS, STARTS[0]).attributions
    assert_close(found.attributions, expected, 0.05)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: attribution.deep_lift(NET, IMAGES, 0, baseline=IMAGES[:, :2]),
            ValueError,
            "^baseline: expected a num",
        ),
        (
            lambda: attribution.expected_gradients(NET, IMAGES, 0, IMAGES[:, :2], KEY),
            ValueError,
            r"^baselines: expected \[m, 8, 10, 3\] like the images, got float32\[3, 2, 10, 3\]",
        ),
        (lambda: attribution.gradient_shap(NET, IMAGES, 0, IMAGES, KEY, noise=-1.0), ValueError, "^noise: expected 0"),
        (lambda: attribution.gradient_shap(NET, IMAGES, 0, IMAGES, KEY, n_samples=0), ValueError, "^n_samples: expec"),
        (lambda: zfjax.backproject(NET, IMAGES, zfjax.rules.DEEP_LIFT), ValueError, "expected values at a baseline"),
        (
            lambda: zfjax.backproject(NET, IMAGES, zfjax.rules.DEEP_LIFT, baseline=IMAGES[:1]),
            ValueError,
            "^baseline: expected ",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_arguments_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()
