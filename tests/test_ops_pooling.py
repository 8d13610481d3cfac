import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from hypothesis import given
from hypothesis import strategies as st
from jax import lax

from zfjax import ops
from zfjax.ops import unpooling
from zfjax.ops.windows import Windows

FIG3 = ((3, 3), (2, 2), ((0, 1), (0, 1)))


@st.composite
def pools(draw):
    """(shape, window, strides, padding) of a pool that fits; windows overlap, leave gaps, hang over any edge."""
    window = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    padding = tuple(draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in window)
    height, width = (draw(st.integers(k, 9)) for k in window)
    return (draw(st.integers(1, 2)), height, width, draw(st.integers(1, 3))), window, strides, padding


def reference(x, window, strides, padding):
    """XLA's own max-pooling, whose reverse derivative is select_and_scatter."""
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)))


def normal(shape, seed=0, ties=False):
    x = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return jnp.asarray(np.round(x) if ties else x)


def by_loop(x, window, strides, padding):
    """Pooled values and switches, cell by cell."""
    x = np.asarray(x, np.float32)
    (kh, kw), (sh, sw), ((top, _), (left, _)) = window, strides, padding
    n, h, w, c = x.shape
    ho, wo = ((size + sum(pad) - k) // s + 1 for size, pad, k, s in zip((h, w), padding, window, strides))  # noqa: B905
    pooled, switches = np.zeros((n, ho, wo, c), np.float32), np.zeros((n, ho, wo, c), np.int64)
    for at in np.ndindex(n, ho, wo, c):
        image, i, j, channel = at
        cells = [
            (x[image, i * sh - top + a, j * sw - left + b, channel], a * kw + b)
            for a in range(kh)
            for b in range(kw)
            if 0 <= i * sh - top + a < h and 0 <= j * sw - left + b < w
        ]
        best = cells[0]
        for cell in cells[1:]:
            if cell[0] > best[0] or (np.isnan(cell[0]) and not np.isnan(best[0])):
                best = cell
        pooled[at], switches[at] = best
    return pooled, switches


@given(pools(), st.booleans())
def test_switches_are_first_maxima(pool, ties):
    shape, *geometry = pool
    x = normal(shape, ties=ties)
    pooled, switches = ops.max_pool_with_switches(x, *geometry)
    expected = by_loop(x, *geometry)
    np.testing.assert_array_equal(pooled, expected[0])
    np.testing.assert_array_equal(switches, expected[1])
    np.testing.assert_array_equal(ops.max_pool(x, *geometry), expected[0])


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]))
def test_both_forms_agree_bit_for_bit(pool, dtype):
    shape, *geometry = pool
    kinds = np.random.default_rng(1).choice([-np.inf, -1.0, 0.0, 0.5, np.inf, np.nan], shape, p=[0.5, *[0.1] * 5])
    x = jnp.asarray(kinds, dtype)
    forms = [
        jax.jit(form, static_argnums=1)(x, Windows.over_maps(*geometry))
        for form in (unpooling.by_slices, unpooling.by_reduce_window)
    ]
    for a, b in zip(*forms, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
    assert forms[0][0].dtype == dtype
    np.testing.assert_array_equal(forms[0][1], by_loop(x, *geometry)[1])
    np.testing.assert_array_equal(np.asarray(forms[0][0], np.float32), np.asarray(reference(x, *geometry), np.float32))


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_both_forms_of_unpooling_agree_bit_for_bit(pool, dtype):
    """And so do the derivatives of the pool that they are the transposes of."""
    shape, *geometry = pool
    x, windows = normal(shape).astype(dtype), Windows.over_maps(*geometry)
    _, switches = unpooling.by_slices(x, windows)
    signal = normal(switches.shape, seed=1).astype(dtype)
    placed, phases = (
        lambda signal, form=form: form(signal, switches, windows, shape)
        for form in (unpooling.by_placing, unpooling.by_phases)
    )
    assert unpooling.has_phases(windows)
    np.testing.assert_array_equal(*(np.asarray(jax.jit(form)(signal), np.float32) for form in (placed, phases)))
    up = jax.jit(lambda x: jax.linear_transpose(phases, signal)(x)[0])
    np.testing.assert_array_equal(up(x), unpooling.select(x, switches, windows))
    again = jax.jit(lambda signal: jax.linear_transpose(up, x)(signal)[0])
    np.testing.assert_array_equal(again(signal), placed(signal))


def test_padding_never_wins():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    pooled, switches = ops.max_pool_with_switches(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    assert pooled.shape == (1, 1, 1, 1)
    assert switches.item() == 4  # the first cell inside: row 1, column 1 of the window
    up = ops.max_unpool(jnp.ones_like(pooled), switches, (3, 3), (2, 2), ((1, 1), (1, 1)), x.shape)
    np.testing.assert_array_equal(up[0, :, :, 0], [[1, 0], [0, 0]])


def test_large_windows_have_wide_switches():
    x = normal((1, 17, 17, 1)).at[0, 16, 16, 0].set(9.0)
    _, switches = unpooling.by_reduce_window(x, Windows.over_maps((17, 17), (1, 1), ((0, 0), (0, 0))))
    assert switches.item() == 288
    # Only the type of the other form: 289 slices take long to compile.
    _, by_slices = jax.eval_shape(lambda x: ops.max_pool_with_switches(x, (17, 17), (1, 1)), x)
    assert switches.dtype == by_slices.dtype == jnp.int32


@given(pools(), st.booleans())
def test_unpool_is_the_vjp_of_the_pool(pool, ties):
    shape, *geometry = pool
    x = normal(shape, ties=ties)
    pooled, switches = ops.max_pool_with_switches(x, *geometry)
    # Whole numbers: overlapping sums are then exact in any order.
    seed = jnp.round(normal(pooled.shape, seed=1) * 8)
    expected = jax.jit(lambda x, seed: jax.vjp(lambda x: reference(x, *geometry), x)[1](seed)[0])(x, seed)
    np.testing.assert_array_equal(ops.max_unpool(seed, switches, *geometry, shape), expected)
    vjp = jax.jit(lambda x, seed: jax.vjp(lambda x: ops.max_pool(x, *geometry), x)[1](seed)[0])
    np.testing.assert_array_equal(vjp(x, seed), expected)


@given(pools())
def test_pool_and_unpool_are_adjoint(pool):
    shape, *geometry = pool
    x, tangent = normal(shape), jnp.round(normal(shape, seed=2) * 8)
    pooled, along = jax.jvp(lambda x: ops.max_pool(x, *geometry), (x,), (tangent,))
    seed = jnp.round(normal(pooled.shape, seed=1) * 8)
    _, switches = ops.max_pool_with_switches(x, *geometry)
    down = ops.max_unpool(seed, switches, *geometry, shape)
    assert np.vdot(along, seed) == np.vdot(tangent, down)
    with_switches = jax.jvp(lambda x: ops.max_pool_with_switches(x, *geometry)[0], (x,), (tangent,))
    np.testing.assert_array_equal(along, with_switches[1])


def test_overlapping_windows_sum():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    pooled, switches = ops.max_pool_with_switches(x, (3, 3), (2, 2))
    up = ops.max_unpool(pooled, switches, (3, 3), (2, 2), ((0, 0), (0, 0)), x.shape)
    np.testing.assert_array_equal(up, 4 * x)


def test_jit_vmap_and_second_derivative():
    x = normal((3, 2, 7, 6, 2))
    single = jnp.stack([ops.max_pool_with_switches(a, *FIG3)[1] for a in x])
    np.testing.assert_array_equal(jax.vmap(lambda a: ops.max_pool_with_switches(a, *FIG3)[1])(x), single)

    def cubes(pool):
        return jax.grad(lambda t: jnp.sum(jax.grad(lambda a: jnp.sum(pool(a) ** 3))(x[0] * t) ** 2))(1.5)

    ours, theirs = cubes(lambda a: ops.max_pool(a, *FIG3)), cubes(lambda a: reference(a, *FIG3))
    np.testing.assert_allclose(ours, theirs, rtol=tolerance(1e-5))


def test_max_pool_is_recognizable():
    jaxpr = str(jax.make_jaxpr(lambda x: ops.max_pool(x, *FIG3))(jnp.ones((1, 6, 6, 1))))
    assert "name=max_pool" in jaxpr
    assert "reduce_window_max" in jaxpr


@pytest.mark.parametrize(
    ("shape", "window", "strides", "padding"),
    [
        ((4, 4, 1), (2, 2), (2, 2), ((0, 0), (0, 0))),
        ((1, 4, 4, 1), (0, 2), (2, 2), ((0, 0), (0, 0))),
        ((1, 4, 4, 1), (2, 2), (0, 2), ((0, 0), (0, 0))),
        ((1, 4, 4, 1), (2, 2), (2, 2), ((2, 0), (0, 0))),
        ((1, 4, 4, 1), (2, 2), (2, 2), ((-1, 0), (0, 0))),
        ((1, 2, 4, 1), (3, 3), (2, 2), ((0, 0), (0, 0))),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_pools(shape, window, strides, padding):
    for pool in (ops.max_pool, ops.max_pool_with_switches):
        with pytest.raises(ValueError, match="pooling"):
            pool(jnp.ones(shape), window, strides, padding)


def test_bad_unpool():
    pooled = jnp.ones((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"must both be \(1, 3, 3, 1\)"):
        ops.max_unpool(pooled, pooled.astype(jnp.uint8), *FIG3, (1, 6, 6, 1))
