import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from devices import assert_same, tolerance
from hypothesis import given
from hypothesis import strategies as st

from zfjax import ops


def normal(shape, scale, seed=0):
    return jax.device_put(np.float32(np.random.default_rng(seed).normal(0, 1, shape) * scale))


def rms(kernel):
    return np.sqrt(np.mean(np.asarray(kernel, np.float64) ** 2, axis=(0, 1, 2)))


@given(st.integers(1, 5), st.integers(1, 5), st.integers(1, 4), st.sampled_from([0.1, 0.02]))
def test_only_large_filters_shrink_to_the_radius(kh, kw, c_in, radius):
    scale = np.array([0, 1e-3, 0.03, 1.0, 50.0])
    kernel = normal((kh, kw, c_in, 5), scale)
    out = ops.renormalize_kernel(kernel, radius)
    large = rms(kernel) > radius
    np.testing.assert_allclose(rms(out)[large], radius, rtol=tolerance(1e-6))
    np.testing.assert_array_equal(out[..., ~large], kernel[..., ~large])
    shrunk = np.asarray(kernel)[..., large] * (radius / rms(kernel)[large])
    np.testing.assert_allclose(out[..., large], shrunk, rtol=tolerance(1e-6))
    np.testing.assert_allclose(ops.renormalize_kernel(out, radius), out, rtol=tolerance(1e-6))


def parameters():
    return {
        "conv1": {"kernel": normal((7, 7, 3, 4), np.array([0.01, 0.09, 1, 3])), "bias": jnp.full(4, 9.0)},
        "fc6": {"kernel": normal((20, 5), 5.0, 1), "bias": jnp.full(5, 9.0)},
        "other": {"scale": normal((3, 3, 2, 2), 5.0, 2)},
    }


def test_last_in_a_chain_it_bounds_the_updated_filters():
    params = parameters()
    grads = jax.tree.map(lambda p: jnp.sin(p), params)
    plain = optax.sgd(0.5, momentum=0.9)
    chained = optax.chain(plain, ops.renormalize_filters(0.1))
    ours, expected = params, params
    state, plain_state = chained.init(params), plain.init(params)
    step, plain_step = jax.jit(chained.update), jax.jit(plain.update)
    for _ in range(3):
        updates, state = step(grads, state, ours)
        ours = optax.apply_updates(ours, updates)
        updates, plain_state = plain_step(grads, plain_state, expected)
        expected = optax.apply_updates(expected, updates)
        expected["conv1"]["kernel"] = ops.renormalize_kernel(expected["conv1"]["kernel"], 0.1)
        assert rms(ours["conv1"]["kernel"]).max() <= 0.1 * (1 + tolerance(1e-6))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=tolerance(1e-7)), ours, expected)
    for untouched in ("fc6", "other"):
        assert_same(ours[untouched], expected[untouched])


def test_small_filters_keep_their_update_bit_for_bit():
    params = {"kernel": normal((3, 3, 2, 4), 0.01)}
    updates = {"kernel": normal((3, 3, 2, 4), 1e-5, 1)}
    out, _ = ops.renormalize_filters().update(updates, optax.EmptyState(), params)
    np.testing.assert_array_equal(out["kernel"], updates["kernel"])


def test_errors():
    with pytest.raises(ValueError, match="params"):
        ops.renormalize_filters().update({}, optax.EmptyState())
    with pytest.raises(ValueError, match="radius"):
        ops.renormalize_filters(0.0)
