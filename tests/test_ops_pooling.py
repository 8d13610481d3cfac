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
    return jax.device_put(np.round(x) if ties else x)


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
    (pooled, switches), alone = jax.jit(
        lambda x: (ops.max_pool_with_switches(x, *geometry), ops.max_pool(x, *geometry))
    )(x)
    expected = by_loop(x, *geometry)
    np.testing.assert_array_equal(pooled, expected[0])
    np.testing.assert_array_equal(switches, expected[1])
    np.testing.assert_array_equal(alone, expected[0])


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16]))
def test_both_forms_agree_bit_for_bit(pool, dtype):
    shape, *geometry = pool
    kinds = np.random.default_rng(1).choice([-np.inf, -1.0, 0.0, 0.5, np.inf, np.nan], shape, p=[0.5, *[0.1] * 5])
    x = jnp.asarray(kinds, dtype)

    @jax.jit
    def both_ways(x):
        forms = unpooling.by_slices, unpooling.by_reduce_window
        return [form(x, Windows.over_maps(*geometry)) for form in forms], reference(x, *geometry)

    forms, expected = both_ways(x)
    for a, b in zip(*forms, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b, np.float32))
    assert forms[0][0].dtype == dtype
    np.testing.assert_array_equal(forms[0][1], by_loop(x, *geometry)[1])
    np.testing.assert_array_equal(np.asarray(forms[0][0], np.float32), np.asarray(expected, np.float32))


@given(pools(), st.sampled_from([jnp.float32, jnp.bfloat16]))
def test_both_forms_of_unpooling_agree_bit_for_bit(pool, dtype):
    """And so do the derivatives of the pool that they are the transposes of."""
    shape, *geometry = pool
    x, windows = np.asarray(normal(shape)).astype(dtype), Windows.over_maps(*geometry)
    _, above = jax.eval_shape(lambda x: unpooling.by_slices(x, windows), x)
    signal = np.asarray(normal(above.shape, seed=1)).astype(dtype)
    assert unpooling.has_phases(windows)

    @jax.jit
    def all_ways(x, signal):
        _, switches = unpooling.by_slices(x, windows)
        placed, phases = (
            lambda signal, form=form: form(signal, switches, windows, shape)
            for form in (unpooling.by_placing, unpooling.by_phases)
        )

        def up(x):
            return jax.linear_transpose(phases, signal)(x)[0]

        (again,) = jax.linear_transpose(up, x)(signal)
        return (placed(signal), phases(signal), again), (up(x), unpooling.select(x, switches, windows))

    (placed, phases, again), ups = jax.tree.map(np.float32, all_ways(x, signal))
    np.testing.assert_array_equal(phases, placed)
    np.testing.assert_array_equal(*ups)
    np.testing.assert_array_equal(again, placed)


def test_padding_never_wins():
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    pooled, switches = ops.max_pool_with_switches(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
    assert pooled.shape == (1, 1, 1, 1)
    assert switches.item() == 4  # the first cell inside: row 1, column 1 of the window
    up = ops.max_unpool(jnp.ones_like(pooled), switches, (3, 3), (2, 2), ((1, 1), (1, 1)), x.shape)
    np.testing.assert_array_equal(up[0, :, :, 0], [[1, 0], [0, 0]])


def test_large_windows_have_wide_switches():
    x = np.array(normal((1, 17, 17, 1)))
    x[0, 16, 16, 0] = 9.0
    windows = Windows.over_maps((17, 17), (1, 1), ((0, 0), (0, 0)))
    _, switches = jax.jit(lambda x: unpooling.by_reduce_window(x, windows))(x)
    assert switches.item() == 288
    # Only the type of the other form: 289 slices take long to compile.
    _, by_slices = jax.eval_shape(lambda x: ops.max_pool_with_switches(x, (17, 17), (1, 1)), x)
    assert switches.dtype == by_slices.dtype == jnp.int32


@given(pools(), st.booleans())
def test_unpool_is_the_vjp_of_the_pool(pool, ties):
    shape, *geometry = pool
    x, seed = normal(shape, ties=ties), whole(pooled_shape(shape, geometry), seed=1)

    @jax.jit
    def all_ways(x, seed):
        _, switches = ops.max_pool_with_switches(x, *geometry)
        (vjp,), (expected,) = (
            jax.vjp(lambda x, pool=pool: pool(x, *geometry), x)[1](seed) for pool in (ops.max_pool, reference)
        )
        return ops.max_unpool(seed, switches, *geometry, shape), vjp, expected

    unpooled, vjp, expected = all_ways(x, seed)
    np.testing.assert_array_equal(unpooled, expected)
    np.testing.assert_array_equal(vjp, expected)


def whole(shape, seed):
    """Whole numbers: overlapping sums are then exact in any order."""
    return np.round(np.asarray(normal(shape, seed)) * 8)


def pooled_shape(shape, geometry):
    return jax.eval_shape(lambda x: reference(x, *geometry), jax.ShapeDtypeStruct(shape, jnp.float32)).shape


@given(pools())
def test_pool_and_unpool_are_adjoint(pool):
    shape, *geometry = pool
    x, tangent, seed = normal(shape), whole(shape, seed=2), whole(pooled_shape(shape, geometry), seed=1)

    @jax.jit
    def all_ways(x, tangent, seed):
        _, along = jax.jvp(lambda x: ops.max_pool(x, *geometry), (x,), (tangent,))
        _, with_switches = jax.jvp(lambda x: ops.max_pool_with_switches(x, *geometry)[0], (x,), (tangent,))
        _, switches = ops.max_pool_with_switches(x, *geometry)
        return along, with_switches, ops.max_unpool(seed, switches, *geometry, shape)

    along, with_switches, down = all_ways(x, tangent, seed)
    assert np.vdot(along, seed) == np.vdot(tangent, down)
    np.testing.assert_array_equal(along, with_switches)


def test_overlapping_windows_sum():
    x = jnp.zeros((1, 5, 5, 1)).at[0, 2, 2, 0].set(1.0)
    pooled, switches = ops.max_pool_with_switches(x, (3, 3), (2, 2))
    up = ops.max_unpool(pooled, switches, (3, 3), (2, 2), ((0, 0), (0, 0)), x.shape)
    np.testing.assert_array_equal(up, 4 * x)


def test_jit_vmap_and_second_derivative():
    x = normal((3, 2, 7, 6, 2))
    switches = jax.jit(lambda a: ops.max_pool_with_switches(a, *FIG3)[1])
    np.testing.assert_array_equal(jax.vmap(switches)(x), [switches(a) for a in np.asarray(x)])

    def cubes(pool):
        return jax.grad(lambda t: jnp.sum(jax.grad(lambda a: jnp.sum(pool(a, *FIG3) ** 3))(x[0] * t) ** 2))(1.5)

    ours, theirs = (jax.jit(cubes, static_argnums=0)(pool) for pool in (ops.max_pool, reference))
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
