import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import ON_CPU, assert_same, eight_devices
from hypothesis import example, given
from hypothesis import strategies as st
from jax import lax

from zfjax import ops
from zfjax.ops import convolution

SMALL, WIDE = st.integers(4, 11), st.integers(48, 53)


@st.composite
def convolutions(draw, sizes=SMALL):
    """(x shape, kernel shape, strides, padding, groups), not square."""
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    pad = st.integers(0, 3)
    padding = draw(st.tuples(st.tuples(pad, pad), st.tuples(pad, pad)))
    groups = draw(st.integers(1, 2))
    c_in, c_out = draw(st.integers(1, 6)), groups * draw(st.integers(1, 3))
    x = (draw(st.integers(1, 2)), draw(sizes), draw(sizes), c_in * groups)
    return x, (*kernel, c_in, c_out), strides, padding, groups


# Large enough for the form of the kernel's derivative that is used on a CPU: 256 positions or more.
LARGE = convolutions(sizes=WIDE)
CONV1 = ((1, 64, 64, 3), (7, 7, 3, 4), (2, 2), ((1, 1), (1, 1)), 1)
CONV2 = ((2, 55, 53, 6), (5, 5, 6, 3), (2, 2), ((0, 0), (0, 0)), 1)  # more than the few channels of pixels
# Enough channels for a matrix product, on the way up and down.
CONV3 = ((2, 5, 4, 256), (3, 2, 256, 256), (1, 1), ((1, 2), (0, 1)), 1)
STRIDED = ((2, 6, 7, 256), (3, 3, 256, 2), (2, 2), ((1, 1), (0, 1)), 1)
BLOCKS = ((6, 25, 23, 32), (3, 3, 32, 2), (2, 2), ((1, 0), (1, 1)), 1)  # of three images


def whole(shape, seed):
    """Small whole numbers, so that sums are exact in any order."""
    return jax.device_put(np.random.default_rng(seed).integers(-4, 5, shape).astype(np.float32))


def plain(x, kernel, strides, padding, groups):
    return lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision="highest",
    )


@given(convolutions())
@example(CONV1)
@example(CONV2)
def test_adjoint(case):
    x_shape, kernel_shape, *geometry = case
    strides, padding, groups = geometry
    x, kernel = whole(x_shape, 0), whole(kernel_shape, 1)
    up = ops.conv(x, kernel, *geometry)
    y = whole(up.shape, 2)
    down = ops.conv_transpose(y, kernel, strides, padding, x_shape, groups)
    assert down.shape == x_shape
    terms = jnp.vdot(jnp.abs(up), jnp.abs(y))
    np.testing.assert_allclose(jnp.vdot(up, y), jnp.vdot(x, down), rtol=0, atol=0 if ON_CPU else 1e-5 * terms)


@given(st.one_of(convolutions(), LARGE))
@example(CONV1)
@example(CONV2)
def test_value_and_derivatives_equal_the_plain_convolution(case):
    x_shape, kernel_shape, *geometry = case
    x, kernel = whole(x_shape, 0), whole(kernel_shape, 1)
    y, vjp = jax.vjp(lambda x, k: ops.conv(x, k, *geometry), x, kernel)
    y_plain, vjp_plain = jax.vjp(lambda x, k: plain(x, k, *geometry), x, kernel)
    seed = whole(y.shape, 2)
    assert_same(y, y_plain)
    assert_same(vjp(seed), vjp_plain(seed))


OLDEST, OLD, NEWEST = (False, False), (True, False), (True, True)


@pytest.mark.parametrize(
    ("case", "versions"),
    [(CONV1, OLDEST), (CONV2, OLD), (CONV2, NEWEST), (CONV3, NEWEST), (STRIDED, NEWEST), (BLOCKS, NEWEST)],
    ids=["conv1, 0.7", "conv2, 0.10", "conv2, 0.12", "conv3, 0.12", "strided, 0.12", "blocks, 0.12"],
)
def test_the_forms_for_each_version_of_jax_equal_the_plain_convolution(monkeypatch, case, versions):
    if any(versions) and not convolution.FROM_0_9:
        pytest.skip("older versions of JAX cannot differentiate patches")
    x_shape, kernel_shape, *geometry = case
    strides, padding, _ = geometry
    x, kernel = whole(x_shape, 0), whole(kernel_shape, 1)

    def all_of_it(conv, x, kernel):
        y, pull = jax.vjp(lambda x, k: conv(x, k, *geometry), x, kernel)
        signal = whole(y.shape, 2)
        return y, signal, pull(signal)

    y, signal, (down, gradient) = jax.jit(lambda x, k: all_of_it(plain, x, k))(x, kernel)
    for name, value in zip(("FROM_0_9", "FROM_0_12"), versions, strict=True):
        monkeypatch.setattr(convolution, name, value)
    # Without their own jit, which may hold the program of another version.
    conv, conv_transpose = convolution.conv.__wrapped__, convolution.conv_transpose.__wrapped__
    assert_same(jax.jit(lambda x, k: all_of_it(conv, x, k))(x, kernel), (y, signal, (down, gradient)))
    assert_same(jax.jit(lambda y, k: conv_transpose(y, k, strides, padding, x_shape))(signal, kernel), down)


@pytest.mark.parametrize("case", [CONV1, CONV2])
def test_forward_derivative_vmap_and_second_derivative(case):
    x_shape, kernel_shape, *geometry = case
    x, kernel, dx, dkernel = (whole(s, i) for i, s in enumerate((x_shape, kernel_shape) * 2))

    def results(conv):
        def f(x, kernel):
            return conv(x, kernel, *geometry)

        def energy(t):
            return jnp.sum(f(x * t, kernel * t) ** 2) / 1e4

        return (
            jax.jvp(f, (x, kernel), (dx, dkernel))[1],
            jax.jvp(lambda k: f(x, k), (kernel,), (dkernel,))[1],
            jax.vmap(jax.grad(lambda k, x: jnp.sum(f(x[None], k) ** 2)), (None, 0))(kernel, x),
            jax.grad(jax.grad(energy))(1.0),
        )

    ours, theirs = (jax.jit(lambda conv=conv: results(conv))() for conv in (ops.conv, plain))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=0 if ON_CPU else 1e-5 * np.abs(b).max())


def test_tests_that_run_on_accelerators_compute_in_full_precision(request):
    """The products of the convolution and of its derivatives: conftest.py's `full_precision`."""
    assert request.node.get_closest_marker("accelerator")
    x, kernel = whole(CONV1[0], 0), whole(CONV1[1], 1)
    text = str(jax.make_jaxpr(jax.grad(lambda k, x: ops.conv(x, k, *CONV1[2:]).sum(), (0, 1)))(kernel, x))
    assert text.count("HIGHEST") >= 2
    assert "precision=None" not in text


@pytest.mark.parametrize(
    ("shape", "kernel", "strides", "padding"),
    [
        ((2, 31, 33, 3), (7, 7), (2, 2), ((1, 1), (1, 1))),
        ((1, 40, 37, 4), (11, 5), (4, 3), ((2, 0), (1, 2))),
        ((1, 9, 9, 1), (2, 2), (2, 2), ((0, 0), (0, 0))),  # a row and column that no position reads
        ((1, 10, 11, 3), (3, 3), (4, 4), ((0, 0), (0, 0))),  # gaps between positions
    ],
)
def test_pixels_of_a_stride_as_channels(shape, kernel, strides, padding):
    """A GPU's form of convolutions of pixels, and its derivatives, on any device."""
    x, kernel = whole(shape, 0), whole((*kernel, shape[3], 8), 1)
    forms = [
        jax.vjp(functools.partial(form, strides=strides, padding=padding, **others), x, kernel)
        for form, others in ((convolution._space_to_depth, {}), (convolution._plain_conv, {"groups": 1}))
    ]
    (ours, down), (theirs, expected) = forms
    assert_same(ours, theirs)
    jax.tree.map(assert_same, down(theirs), expected(theirs))


@eight_devices
def test_sharded_over_the_batch():
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    x, kernel = whole((8, 40, 40, 3), 0), whole((5, 5, 3, 4), 1)

    @jax.jit
    def gradient(kernel, x):
        return jax.grad(lambda k: jnp.sum(ops.conv(x, k, (2, 2)) ** 2))(kernel)

    sharded = jax.device_put(x, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch")))
    np.testing.assert_allclose(gradient(kernel, sharded), gradient(kernel, x), rtol=1e-6)


def test_half_precision_keeps_its_type():
    x, kernel = whole(CONV1[0], 0).astype(jnp.bfloat16), whole(CONV1[1], 1).astype(jnp.bfloat16)
    y = ops.conv(x, kernel, *CONV1[2:])
    assert y.dtype == jnp.bfloat16
    assert jax.grad(lambda k: jnp.sum(ops.conv(x, k, *CONV1[2:])))(kernel).dtype == jnp.bfloat16


def test_transpose_flips_the_filters():
    kernel = jnp.arange(6.0).reshape(2, 3, 1, 1)
    y = jnp.zeros((1, 3, 3, 1)).at[0, 1, 1, 0].set(1.0)
    down = ops.conv_transpose(y, kernel, (1, 1), ((0, 0), (0, 0)), (1, 4, 5, 1))
    # The kernel is laid down as it is where y has a one: correlation up, convolution down.
    assert_same(down[0, 1:3, 1:4, 0], kernel[:, :, 0, 0])


@pytest.mark.parametrize(
    ("x", "kernel", "strides", "groups", "message"),
    [
        ((8, 8, 3), (3, 3, 3, 4), (1, 1), 1, r"\(8, 8, 3\)"),
        ((1, 8, 8, 3), (3, 3, 4, 4), (1, 1), 1, r"takes 4 channels.*\(1, 8, 8, 3\)"),
        ((1, 8, 8, 4), (3, 3, 2, 3), (1, 1), 2, "3 filters"),
        ((1, 8, 8, 4), (3, 3, 4, 3), (1, 1), 0, "groups 0"),
        ((1, 8, 8, 3), (3, 3, 3, 4), (0, 1), 1, "strides"),
        ((1, 2, 8, 3), (3, 3, 3, 4), (1, 1), 1, r"does not fit x \(1, 2, 8, 3\)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_shapes(x, kernel, strides, groups, message):
    none = ((0, 0), (0, 0))
    with pytest.raises(ValueError, match=message):
        ops.conv(jnp.ones(x), jnp.ones(kernel), strides, none, groups)
    with pytest.raises(ValueError, match=message):
        ops.conv_transpose(jnp.ones((1, 6, 6, 4)), jnp.ones(kernel), strides, none, x, groups)


def test_bad_output_shape():
    with pytest.raises(ValueError, match=r"y has shape \(1, 5, 6, 4\).*\(1, 6, 6, 4\)"):
        ops.conv_transpose(jnp.ones((1, 5, 6, 4)), jnp.ones((3, 3, 3, 4)), (1, 1), ((0, 0), (0, 0)), (1, 8, 8, 3))
