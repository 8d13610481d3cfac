"""3-D max-pooling by absolute value against a plain loop, and its adjoint."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from platform_forms import whole_numbers

from zfjax.ops import abs_max_pool, abs_max_unpool, at_switches, conv, conv_transpose
from zfjax.ops.pooling3d import pooled_shape
from zfjax.ops.tiles import conv_transpose_at, unpool_conv, unpool_conv_gradient

SIZES = [((2, 7, 8, 5), (3, 3, 3)), ((1, 6, 6, 4), (3, 3, 2)), ((1, 5, 2, 3), (2, 4, 5)), ((1, 3, 3, 2), (1, 1, 1))]


def by_loop(x, window):
    """Pooled values and switches, window by window and cell by cell."""
    pooled = np.zeros(pooled_shape(x.shape, window), x.dtype)
    switches = np.zeros(pooled.shape, int)
    for n, *at in np.ndindex(*pooled.shape):
        best = -1.0
        for offset, cell in enumerate(itertools.product(*map(range, window))):
            where = [a * side + c for a, side, c in zip(at, window, cell, strict=True)]
            if all(w < side for w, side in zip(where, x.shape[1:], strict=True)) and abs(x[n, *where]) > best:
                best = abs(x[n, *where])
                pooled[n, *at], switches[n, *at] = x[n, *where], offset
    return pooled, switches


@pytest.mark.parametrize(("shape", "window"), SIZES)
def test_the_farthest_from_zero_wins_with_its_sign_and_the_first_of_ties(shape, window):
    x = whole_numbers(*shape)  # full of ties, also between 2 and -2
    pooled, switches = jax.jit(lambda x: abs_max_pool(x, window))(x)
    expected = by_loop(np.asarray(x), window)
    np.testing.assert_array_equal(pooled, expected[0])
    np.testing.assert_array_equal(switches, expected[1])
    assert switches.dtype == jnp.uint8


def test_cells_beyond_the_edge_never_win_and_nan_is_largest():
    pooled, switches = abs_max_pool(jnp.zeros((1, 4, 4, 4)), (3, 3, 3))
    assert not pooled.any()
    assert not switches.any()
    x = jnp.zeros((1, 2, 2, 2)).at[0, 1, 0, 1].set(jnp.nan).at[0, 0, 0, 0].set(-jnp.inf)
    pooled, switches = abs_max_pool(x, (3, 3, 3))
    assert np.isnan(pooled).all()
    assert switches.item() == (1 * 3 + 0) * 3 + 1
    # Only the type: 343 slices take long to compile.
    _, switches = jax.eval_shape(lambda x: abs_max_pool(x, (7, 7, 7)), jnp.zeros((1, 7, 7, 7)))
    assert switches.dtype == jnp.int32


@pytest.mark.parametrize(("shape", "window"), SIZES)
def test_unpooling_is_the_adjoint_and_undone_by_pooling(shape, window):
    x, signal = drawn(shape, 0), drawn(shape, 1)
    pool = jax.jit(lambda x: abs_max_pool(x, window))
    unpool = jax.jit(lambda pooled, switches: abs_max_unpool(pooled, switches, window, shape))
    at = jax.jit(lambda x, switches: at_switches(x, switches, window))
    pooled, switches = pool(x)
    kept = unpool(pooled, switches)
    np.testing.assert_array_equal(pool(kept)[0], pooled)  # P U = I, with its own switches
    np.testing.assert_array_equal(at(kept, switches), pooled)  # and with these
    again = unpool(at(kept, switches), switches)
    np.testing.assert_array_equal(again, kept)  # U P is a projection
    np.testing.assert_array_equal(np.where(np.asarray(kept) != 0, x, 0), kept)
    np.testing.assert_allclose(np.vdot(at(signal, switches), pooled), np.vdot(signal, kept), rtol=1e-5, atol=1e-5)
    pulled = jax.jit(lambda x, above: jax.vjp(lambda x: abs_max_pool(x, window)[0], x)[1](above)[0])(x, pooled)
    np.testing.assert_array_equal(pulled, kept)


def drawn(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_at_most_one_cell_of_a_window_stays():
    shape = (2, 30, 30, 15)
    x = drawn(shape, 0)
    pooled, switches = abs_max_pool(x, (3, 3, 3))
    assert np.count_nonzero(abs_max_unpool(pooled, switches, (3, 3, 3), shape)) == x.size // 27


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_other_platforms_compute_the_same(on, platform):
    x, window = whole_numbers(2, 7, 8, 5), (3, 3, 2)

    def both(x):
        pooled, switches = abs_max_pool(x, window)
        return pooled, switches, abs_max_unpool(pooled, switches, window, x.shape)

    jax.tree.map(np.testing.assert_array_equal, on(platform, both, x), on("cpu", both, x))


@pytest.mark.usefixtures("unchecked")
def test_what_does_not_fit_is_refused():
    x = jnp.zeros((1, 4, 4, 4))
    pooled, switches = abs_max_pool(x, (2, 2, 2))
    with pytest.raises(ValueError, match=r"expected \(rows, columns, maps\) in cells, at least 1, got \(2, 0, 2\)"):
        abs_max_pool(x, (2, 0, 2))
    with pytest.raises(ValueError, match=r"takes \[N, H, W, C\]"):
        abs_max_pool(x[0], (2, 2, 2))
    with pytest.raises(ValueError, match="must both be"):
        abs_max_unpool(pooled, switches, (2, 2, 2), (1, 6, 4, 4))
    with pytest.raises(ValueError, match="must both be"):
        at_switches(jnp.zeros((1, 6, 4, 4)), switches, (2, 2, 2))


@pytest.mark.parametrize(
    ("shape", "window", "kernel"),
    [
        ((2, 7, 8, 5), (3, 3, 3), (3, 2, 5, 2)),
        ((1, 6, 9, 4), (3, 2, 2), (5, 4, 4, 3)),
        ((1, 5, 5, 3), (1, 1, 1), (5, 1, 3, 1)),
        ((1, 9, 9, 64), (3, 3, 2), (2, 2, 64, 1)),
    ],
)
def test_unpooled_and_convolved_in_one_go_is_the_same_and_so_are_its_adjoints(shape, window, kernel):
    pooled, switches = jax.jit(lambda x: abs_max_pool(x, window))(drawn(shape, 0))
    weights = drawn(kernel, 1)

    @jax.jit
    def one_by_one(pooled, switches, weights, y):
        expected, back = jax.vjp(
            lambda pooled, weights: conv(abs_max_unpool(pooled, switches, window, shape), weights), pooled, weights
        )
        maps = conv_transpose(y, weights, (1, 1), ((0, 0), (0, 0)), shape)
        return expected, back(y), at_switches(maps, switches, window)

    @jax.jit
    def in_one_go(pooled, switches, weights, y):
        found = unpool_conv(pooled, switches, weights, window, shape)
        above = conv_transpose_at(y, switches, weights, window, shape)
        return found, (above, unpool_conv_gradient(pooled, switches, y, kernel, window, shape))

    rows, columns = shape[1] - kernel[0] + 1, shape[2] - kernel[1] + 1
    inputs = pooled, switches, weights, drawn((shape[0], rows, columns, kernel[3]), 2)
    expected, gradients, at_them = one_by_one(*inputs)
    found, adjoints = in_one_go(*inputs)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_allclose(adjoints[0], at_them, atol=1e-4)
    for one, other in zip(adjoints, gradients, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)
