"""The ways down through a maximum, in any layout, against loops in numpy."""

import functools
import itertools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax import lax
from small_models import close, normal

import zfjax
from zfjax import ops
from zfjax.ops import unpooling
from zfjax.ops.windows import Windows
from zfjax.transform import rules

ONLY_POOLS = zfjax.rules.Rules((("reduce_window_max", rules.unpool), ("reduce_max", rules.unpool_whole)))
OVERWRITING = ONLY_POOLS.extend(reduce_window_max=rules.unpool_overwriting)
CENTERS = ONLY_POOLS.extend(reduce_window_max=rules.unpool_at_centers)


def signal(fun, x, seed, chosen):
    return jax.jit(lambda x, seed: zfjax.backproject(fun, x, chosen)[1](seed))(x, seed)


def integers(shape, seed=0):
    """Small whole numbers: many ties, and sums that are exact in any order."""
    return jax.device_put(np.random.default_rng(seed).integers(-2, 3, shape).astype(np.float32))


def numbered(shape):
    """1, 2, …: one of each, so that what is overwritten shows."""
    return jax.device_put(np.arange(1, math.prod(shape) + 1, dtype=np.float32).reshape(shape))


def pool(window, strides, padding, dilation=None, base_dilation=None):
    return lambda x: lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding, base_dilation, dilation)


def cells(shape, window, strides, padding, dilation=None, base_dilation=None):
    """For each window in row-major order: its place in the output, and its cells on the input: (offset, cell)."""
    ones = (1,) * len(shape)
    dilation, base = dilation or ones, base_dilation or ones
    sides = [(size - 1) * b + 1 for size, b in zip(shape, base, strict=True)]
    reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
    steps = zip(sides, reach, strides, padding, strict=True)
    counts = [(side + sum(pad) - k) // s + 1 for side, k, s, pad in steps]
    for place in np.ndindex(*counts):
        start = [p * s - pad[0] for p, s, pad in zip(place, strides, padding, strict=True)]
        offsets = [(offset, np.add(start, np.multiply(offset, dilation))) for offset in np.ndindex(*window)]
        yield (
            place,
            [
                (offset, tuple(at // base))
                for offset, at in offsets
                if all(0 <= a < side and a % b == 0 for a, side, b in zip(at, sides, base, strict=True))
            ],
        )


def unpooled(x, seed, geometry, how):
    """Unpooling in one loop over windows. `how`: sum, overwrite or center."""
    x, seed, down = np.asarray(x), np.asarray(seed), np.zeros(x.shape, np.float32)
    center = [(k - 1) // 2 for k in geometry[0]]
    for place, inside in cells(x.shape, *geometry):
        if not inside:
            continue
        _, target = max(inside, key=lambda cell: x[cell[1]])  # the first of equals
        if how == "center":
            _, target = min(inside, key=lambda cell: np.abs(np.subtract(cell[0], center)).sum())
        down[target] = seed[place] if how == "overwrite" else down[target] + seed[place]
    return down


NONE = (0, 0)
LAYOUTS = {
    "NHWC": ((2, 5, 6, 2), (1, 3, 2, 1), (1, 2, 1, 1), (NONE, (1, 1), (0, 1), NONE)),
    "NCHW": ((2, 2, 5, 6), (1, 1, 3, 3), (1, 1, 2, 2), (NONE, NONE, (0, 1), (1, 0))),
    "CHW": ((2, 6, 5), (1, 2, 2), (1, 2, 2), (NONE,) * 3),
    "HW": ((5, 6), (3, 3), (1, 2), ((1, 1), (1, 1))),
    "NLC": ((2, 7, 3), (1, 3, 1), (1, 2, 1), (NONE, (1, 0), NONE)),
    "NCL": ((2, 3, 7), (1, 1, 3), (1, 1, 1), (NONE, NONE, (1, 1))),
    "L": ((9,), (4,), (3,), ((2, 1),)),
    "gaps": ((1, 7, 8, 1), (1, 2, 2, 1), (1, 3, 4, 1), (NONE,) * 4),
    "strides alone": ((1, 5, 4, 2), (1, 1, 1, 1), (1, 2, 1, 1), (NONE,) * 4),
    "nothing": ((1, 3, 3, 2), (1, 1, 1, 1), (1, 1, 1, 1), (NONE,) * 4),
    "three axes": ((1, 4, 5, 4, 2), (1, 2, 3, 2, 1), (1, 2, 1, 2, 1), (NONE, NONE, (1, 1), NONE, NONE)),
    "axes apart": ((4, 2, 5), (2, 1, 3), (2, 1, 2), (NONE, NONE, (1, 1))),
    "maps too": ((2, 4, 4, 4), (1, 2, 2, 2), (1, 2, 2, 2), (NONE,) * 4),
    "images too": ((4, 3, 3, 1), (3, 2, 1, 1), (1, 1, 1, 1), (NONE,) * 4),
    "padded beyond": ((1, 6, 5, 2), (1, 2, 2, 1), (1, 2, 2, 1), (NONE, (5, 4), (0, 3), NONE)),
    "cut": ((1, 6, 5, 2), (1, 2, 2, 1), (1, 1, 2, 1), (NONE, (-1, 0), (1, -2), NONE)),
    "dilated": ((1, 7, 8, 2), (1, 2, 3, 1), (1, 1, 2, 1), (NONE, (1, 2), (2, 1), NONE), (1, 3, 2, 1)),
    "dilated below": ((1, 4, 5, 2), (1, 2, 2, 1), (1, 1, 3, 1), (NONE, (1, 0), NONE, NONE), None, (1, 2, 3, 1)),
    "dilated both": ((2, 5, 4), (1, 3, 2), (1, 2, 1), (NONE, (2, 1), (0, 2)), (1, 2, 3), (1, 1, 2)),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS)


def of(layout):
    shape, *geometry = LAYOUTS[layout]
    fun = pool(*geometry)
    x = integers(shape)
    return fun, x, integers(fun(x).shape, 1), geometry


@each_layout
def test_the_three_ways_to_unpool(layout):
    fun, x, seed, geometry = of(layout)
    numbers = numbered(seed.shape)

    @jax.jit
    def signals(x):
        seeds = {"sum": (seed, ONLY_POOLS), "overwrite": (numbers, OVERWRITING), "center": (seed, CENTERS)}
        return {how: (signal(fun, x, down, rules), down) for how, (down, rules) in seeds.items()}

    for how, (got, down) in signals(x).items():
        np.testing.assert_array_equal(got, unpooled(x, down, geometry, how), how)
    np.testing.assert_array_equal(signals(-x)["center"][0], signals(x)["center"][0])  # needs no switches


def test_overlapping_windows_tell_the_three_apart():
    fun, x, seed, _ = of("HW")
    downs = [signal(fun, x, jnp.abs(seed) + 1, chosen) for chosen in (ONLY_POOLS, OVERWRITING, CENTERS)]
    for a, b in itertools.combinations(downs, 2):
        assert jnp.any(a != b)


@pytest.mark.parametrize("layout", ["three axes", "padded beyond", "dilated both"])
def test_both_forms_of_switches_agree(layout):
    shape, *geometry = LAYOUTS[layout]
    ones = (1,) * len(shape)
    window, strides, padding, dilation, base = (*geometry, None, None)[:5]
    windows = Windows(window, strides, padding, base or ones, dilation or ones)
    kinds = np.random.default_rng(1).choice([-np.inf, -1.0, 0.0, np.inf, np.nan], shape, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    x = jnp.asarray(kinds, jnp.float32)
    forms = jax.jit(lambda x: (unpooling.by_slices(x, windows), unpooling.by_reduce_window(x, windows)))(x)
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), *forms)
    np.testing.assert_array_equal(forms[0][0], pool(*geometry)(x))


@pytest.mark.parametrize("layout", ["NHWC", "three axes", "padded beyond", "dilated below"])
def test_unpooling_is_the_derivative_where_jax_has_one(layout):
    fun, _, seed, _ = of(layout)
    x = normal(LAYOUTS[layout][0])
    close(signal(fun, x, seed, ONLY_POOLS), jax.vjp(fun, x)[1](seed)[0])


def test_dilated_pools_have_a_way_down_where_jax_has_none():
    """With guided backprop, too; the gradient is `jax.vjp`'s, which says what it cannot do."""
    fun, x, seed, geometry = of("dilated")
    with pytest.raises(NotImplementedError, match="window dilation"):
        signal(lambda x: fun(jax.nn.relu(x)), x, seed, zfjax.GRADIENT)
    for chosen in (zfjax.DECONVNET, zfjax.GUIDED):
        got = signal(lambda x: fun(jax.nn.relu(x)), x, seed, chosen)
        expected = np.maximum(unpooled(np.maximum(x, 0), seed, geometry, "sum"), 0)
        np.testing.assert_array_equal(got, np.where((x > 0) | (chosen == zfjax.DECONVNET), expected, 0))


@pytest.mark.parametrize("chosen", [ONLY_POOLS, OVERWRITING, CENTERS], ids=["sum", "overwriting", "centers"])
def test_empty_batches_unpool_to_nothing(chosen):
    for layout in ("NHWC", "dilated"):
        shape, *geometry = LAYOUTS[layout]
        x = jnp.zeros((0, *shape[1:]))
        assert signal(pool(*geometry), x, pool(*geometry)(x), chosen).shape == x.shape


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 1), (0, 2))])
def test_pools_of_linen_are_pools(padding):
    x = integers((2, 7, 8, 3))
    seed = integers(nn.max_pool(x, (3, 3), (2, 2), padding).shape, 1)
    got = signal(lambda x: nn.max_pool(x, (3, 3), (2, 2), padding), x, seed, ONLY_POOLS)
    pads = (
        ((0, 0), *padding, (0, 0))
        if isinstance(padding, tuple)
        else lax.padtype_to_pads(x.shape, (1, 3, 3, 1), (1, 2, 2, 1), padding)
    )
    np.testing.assert_array_equal(got, unpooled(x, seed, ((1, 3, 3, 1), (1, 2, 2, 1), pads), "sum"))


def test_zfjaxs_own_pool_takes_the_rule():
    x, geometry = integers((1, 6, 6, 2)), ((3, 3), (2, 2), ((0, 1), (0, 1)))
    full = ((1, 3, 3, 1), (1, 2, 2, 1), ((0, 0), (0, 1), (0, 1), (0, 0)))
    seed = numbered((1, 3, 3, 2))
    for chosen, how in ((ONLY_POOLS, "sum"), (OVERWRITING, "overwrite"), (CENTERS, "center")):
        got = signal(lambda x: ops.max_pool(x, *geometry), x, seed, chosen)
        np.testing.assert_array_equal(got, unpooled(x, seed, full, how))


def test_vmapped_pools_are_pools():
    shape, *geometry = LAYOUTS["NHWC"]
    fun = jax.vmap(pool(*geometry), in_axes=1, out_axes=1)
    x = integers((2, 3, *shape[1:]))
    seed = numbered(fun(x).shape)
    got = signal(fun, x, seed, OVERWRITING)
    for i in range(3):
        np.testing.assert_array_equal(got[:, i], unpooled(x[:, i], seed[:, i], geometry, "overwrite"))


# The maximum over whole axes.


@pytest.mark.parametrize("axes", [(1,), (0, 2), (1, 2), (2, 3), (0, 1, 2, 3), (-1,)])
@pytest.mark.parametrize("keepdims", [False, True])
def test_the_first_of_equal_maxima_takes_all(axes, keepdims):
    x = integers((2, 3, 4, 2))
    y = jnp.max(x, axis=axes, keepdims=keepdims)
    seed = numbered(y.shape)
    got = signal(lambda x: jnp.max(x, axis=axes, keepdims=keepdims), x, seed, ONLY_POOLS)
    expected = np.zeros(x.shape, np.float32)
    kept = [axis for axis in range(4) if axis not in {a % 4 for a in axes}]
    for place in np.ndindex(*(x.shape[axis] for axis in kept)):
        here = [at for at in np.ndindex(*x.shape) if tuple(at[axis] for axis in kept) == place]
        expected[max(here, key=lambda at: x[at])] = seed.reshape([x.shape[axis] for axis in kept])[place]
    np.testing.assert_array_equal(got, expected)


def test_a_pool_by_reshaping_is_a_pool():
    def by_reshaping(x):
        return jnp.max(x.reshape(2, 3, 2, 4, 2, 2), axis=(2, 4))

    x, seed = integers((2, 6, 8, 2)), integers((2, 3, 4, 2), 1)
    geometry = (1, 2, 2, 1), (1, 2, 2, 1), ((0, 0),) * 4
    np.testing.assert_array_equal(signal(by_reshaping, x, seed, ONLY_POOLS), unpooled(x, seed, geometry, "sum"))


def test_jax_shares_ties_among_them():
    x = jnp.ones((1, 4))
    np.testing.assert_array_equal(signal(lambda x: x.max(axis=1), x, jnp.ones(1), ONLY_POOLS), [[1, 0, 0, 0]])
    np.testing.assert_array_equal(signal(lambda x: x.max(axis=1), x, jnp.ones(1), zfjax.GRADIENT), [[0.25] * 4])


# Single equations.


def test_the_deconvnet_passes_contrast_normalization_over():
    x, seed = normal((1, 2, 2, 8), scale=50.0), normal((1, 2, 2, 8), 1)

    def fun(x):
        return ops.local_response_norm(ops.rectify(x))

    np.testing.assert_array_equal(signal(fun, x, seed, zfjax.DECONVNET), jnp.maximum(seed, 0))
    down = jax.vjp(ops.local_response_norm, ops.rectify(x))[1](seed)[0]
    close(signal(fun, x, seed, zfjax.GUIDED), jnp.where(x > 0, jnp.maximum(down, 0), 0.0))


def test_guided_is_the_smaller_of_deconvnet_and_gradient():
    x, seed = normal((4, 9)), normal((4, 9), 1)
    guided, deconvnet, plain = (
        signal(jax.nn.relu, x, seed, chosen) for chosen in (zfjax.GUIDED, zfjax.DECONVNET, zfjax.GRADIENT)
    )
    np.testing.assert_array_equal(guided, jnp.where((deconvnet != 0) & (plain != 0), seed, 0.0))


def test_guided_stops_what_comes_to_a_unit_at_zero():
    x = jnp.array([-1.0, 0.0, 1.0])
    np.testing.assert_array_equal(signal(jax.nn.relu, x, jnp.ones(3), zfjax.GUIDED), [0, 0, 1])
    np.testing.assert_array_equal(signal(jax.nn.relu, x, jnp.ones(3), zfjax.DECONVNET), [1, 1, 1])


# The operations that the rules stand on.


@st.composite
def pools(draw):
    window = draw(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1))) for k in window)
    height, width = (draw(st.integers(k, 7)) for k in window)
    return (draw(st.integers(1, 2)), height, width, draw(st.integers(1, 2))), window, strides, padding


@given(pools())
def test_max_unpool_overwriting_keeps_the_last(geometry):
    shape, window, strides, padding = geometry
    x = integers(shape)
    pooled, switches = ops.max_pool_with_switches(x, window, strides, padding)
    seed = numbered(pooled.shape)
    got = ops.max_unpool_overwriting(seed, switches, window, strides, padding, shape)
    full = (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    np.testing.assert_array_equal(got, unpooled(x, seed, full, "overwrite"))


@given(pools())
def test_center_switches_point_to_centers(geometry):
    shape, window, strides, padding = geometry
    switches = ops.center_switches(shape, window, strides, padding)
    seed = numbered(switches.shape)
    got = ops.max_unpool(seed, jnp.asarray(switches), window, strides, padding, shape)
    full = (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    np.testing.assert_array_equal(got, unpooled(np.zeros(shape), seed, full, "center"))


def test_centers_of_even_windows_are_the_upper_left_of_four():
    np.testing.assert_array_equal(ops.center_switches((1, 4, 4, 1), (4, 4), (4, 4), ((0, 0), (0, 0))), [[[[5]]]])
    assert ops.center_switches((1, 17, 17, 1), (17, 17), (1, 1), ((0, 0), (0, 0))).item() == 8 * 17 + 8


def test_wide_switches_overwrite_too():
    x, geometry = integers((1, 5, 5, 2)), ((3, 3), (2, 2), ((0, 0), (0, 0)))
    _, switches = ops.max_pool_with_switches(x, *geometry)
    seed = numbered(switches.shape)
    np.testing.assert_array_equal(
        ops.max_unpool_overwriting(seed, switches.astype(jnp.int32), *geometry, x.shape),
        ops.max_unpool_overwriting(seed, switches, *geometry, x.shape),
    )


def test_bad_overwriting_unpools_are_named():
    pooled = jnp.ones((1, 2, 2, 1))
    with pytest.raises(ValueError, match=r"must both be \(1, 3, 3, 1\)"):
        ops.max_unpool_overwriting(pooled, pooled.astype(jnp.uint8), (3, 3), (2, 2), ((0, 1), (0, 1)), (1, 6, 6, 1))
    with pytest.raises(ValueError, match="does not fit"):
        ops.center_switches((1, 2, 2, 1), (3, 3), (2, 2), ((0, 0), (0, 0)))


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        (ops, "centre_switches", ops.center_switches),
        (ops.pooling, "centre_switches", ops.center_switches),
        (rules, "unpool_at_centres", rules.unpool_at_centers),
    ],
)
def test_names_in_the_old_spelling_work_and_warn(module, old, new):
    with pytest.warns(DeprecationWarning, match=f"^{module.__name__}.{old} is now called {new.__name__}") as caught:
        assert getattr(module, old) is new
    assert caught[0].filename == __file__
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'center'"):
        _ = module.center
