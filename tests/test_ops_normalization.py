import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from hypothesis import given
from hypothesis import strategies as st

from zfjax import ops


def by_loop(x, size, k, alpha, beta):
    y = np.zeros_like(x)
    channels = x.shape[-1]
    for c in range(channels):
        window = range(max(0, c - size // 2), min(channels, c + (size - 1) // 2 + 1))
        total = sum(x[..., i] ** 2 for i in window)
        y[..., c] = x[..., c] / (k + alpha / size * total) ** beta
    return y


@given(
    st.integers(1, 9),
    st.integers(1, 6),
    st.sampled_from([1.0, 2.0]),
    st.sampled_from([1e-4, 0.5]),
    st.sampled_from([0.75, 0.5, 1.0]),
)
def test_equals_the_loop(channels, size, k, alpha, beta):
    x = np.random.default_rng(0).normal(0, 50, (2, 3, 4, channels))
    y = ops.local_response_norm(jnp.asarray(x, jnp.float32), size, k, alpha, beta)
    np.testing.assert_allclose(y, by_loop(x, size, k, alpha, beta), rtol=tolerance(2e-5))


@pytest.mark.parametrize("size", [4, 5])
def test_equals_torch_with_its_gradient(size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(0, 100, (2, 3, 4, 7)).astype(np.float32)
    dy = np.random.default_rng(1).normal(size=x.shape).astype(np.float32)
    theirs = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    out = torch.nn.functional.local_response_norm(theirs, size, k=2.0)
    out.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
    y, vjp = jax.vjp(lambda x: ops.local_response_norm(x, size), jnp.asarray(x))
    np.testing.assert_allclose(y, out.detach().numpy().transpose(0, 2, 3, 1), rtol=tolerance(1e-5))
    np.testing.assert_allclose(vjp(jnp.asarray(dy))[0], theirs.grad.numpy().transpose(0, 2, 3, 1), atol=tolerance(1e-5))


def test_half_precision_does_not_overflow():
    x = jnp.full((1, 1, 1, 5), 1000, jnp.float16)  # the square is beyond float16
    y = ops.local_response_norm(x)
    assert y.dtype == jnp.float16
    np.testing.assert_allclose(y, ops.local_response_norm(x.astype(jnp.float32)).astype(jnp.float16), rtol=1e-3)


def test_bad_size():
    with pytest.raises(ValueError, match="size"):
        ops.local_response_norm(jnp.ones((1, 1, 1, 3)), size=0)


def test_rectify():
    x = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(ops.rectify(x), [0, 0, 3])
    np.testing.assert_array_equal(jax.grad(lambda x: ops.rectify(x).sum())(x), [0, 0, 1])
