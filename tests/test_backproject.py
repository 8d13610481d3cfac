"""The transformation itself: trees in and out, and under JAX's other transformations."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import assert_same
from small_models import close, normal

import zfjax

X, SEED = normal((2, 4)), normal((2, 4), 1)
KERNEL = normal((3, 3, 2, 4), 2, 0.3)


def signal(fun, x, seed, rules=zfjax.DECONVNET):
    return zfjax.backproject(fun, x, rules)[1](seed)


def net(x, relu=jax.nn.relu):
    """Images [N, H, W, 2]."""
    x = relu(jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return relu(jnp.einsum("nhwc,cd->nhwd", x, normal((4, 3), 3)) + 0.1)


IMAGES = normal((8, 6, 6, 2))


def tree_net(x):
    """Floats, integers and booleans, in and out."""
    a = jax.nn.relu(x["maps"]) * x["gain"][0]
    return {"sum": a + x["more"], "count": x["number"] + 1, "on": a > 0}, (a, x["number"])


TREE = {"maps": X, "gain": (jnp.float32(2.0),), "more": normal((2, 4), 5), "number": jnp.int32(3), "mask": X > 0}


@pytest.mark.parametrize("rules", [zfjax.GRADIENT, zfjax.GUIDED], ids=["gradient", "guided"])
def test_trees_pass_as_through_vjp(rules):
    y, project = zfjax.backproject(tree_net, TREE, rules)
    # All signals of this seed are positive, so that guided is the gradient.
    zero = np.zeros((), jax.dtypes.float0)
    seed = {"sum": jnp.ones((2, 4)), "count": zero, "on": np.zeros((2, 4), jax.dtypes.float0)}, (jnp.abs(SEED), zero)
    expected_y, pull = jax.vjp(tree_net, TREE)
    assert_same(y, expected_y)
    (expected,) = pull(seed)
    got = project(seed)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for leaf, wanted in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert (leaf.dtype, leaf.shape) == (wanted.dtype, wanted.shape)
        if leaf.dtype != jax.dtypes.float0:
            np.testing.assert_allclose(leaf, wanted, rtol=1e-6)
    assert got["number"].dtype == got["mask"].dtype == jax.dtypes.float0


def test_seeds_of_whole_numbers_leave_no_trace():
    y, project = zfjax.deconvnet(tree_net, TREE)
    seed = jax.tree.map(jnp.zeros_like, y)
    for value in (5, True, None):
        seed[0]["count"] = jnp.zeros(3) if value is None else value
        assert not jnp.any(project(seed)["maps"])


def test_rules_hold_for_each_leaf():
    got = signal(lambda x: jax.nn.relu(x["a"]) + jax.nn.relu(-x["b"]), {"a": X, "b": X}, SEED)
    np.testing.assert_array_equal(got["a"], jnp.maximum(SEED, 0))
    np.testing.assert_array_equal(got["b"], -jnp.maximum(SEED, 0))


def test_integers_beside_floats_choose():
    got = signal(lambda x: jax.nn.relu(x[0])[x[1]], (X, jnp.array([1, 1])), jnp.abs(SEED))
    np.testing.assert_allclose(got[0], jnp.stack([jnp.zeros(4), jnp.abs(SEED).sum(axis=0)]))
    assert got[1].dtype == jax.dtypes.float0


def test_keys_pass_as_through_vjp():
    got = signal(
        lambda x: jax.nn.relu(x[0]) * jax.random.normal(x[1], (2, 4)), (X, jax.random.key(0)), jnp.ones((2, 4))
    )
    np.testing.assert_array_equal(got[0], jnp.maximum(jax.random.normal(jax.random.key(0), (2, 4)), 0))
    assert got[1].dtype == jax.dtypes.float0


def test_an_input_returned_passes_its_seed():
    got = signal(lambda x: (x, jax.nn.relu(x)), X, (SEED, jnp.zeros_like(SEED)))
    np.testing.assert_array_equal(got, SEED)


def test_a_value_returned_twice_sums_its_seeds_before_the_rule():
    def twice(x):
        y = jax.nn.relu(x)
        return y, y

    np.testing.assert_array_equal(signal(twice, X, (SEED, -2 * SEED)), jnp.maximum(-SEED, 0))


def test_a_constant_passes_nothing():
    y, project = zfjax.deconvnet(lambda x: (jnp.full((3,), 2.0), jax.nn.relu(x)), X)
    np.testing.assert_array_equal(y[0], [2.0, 2.0, 2.0])
    assert not jnp.any(project((jnp.ones(3), jnp.zeros_like(X))))


def test_an_unused_leaf_gets_zeros():
    got = signal(lambda x: jax.nn.relu(x["a"]), {"a": X, "b": jnp.ones(3, jnp.bfloat16)}, SEED)
    np.testing.assert_array_equal(got["b"], jnp.zeros(3, jnp.bfloat16))
    assert got["b"].dtype == jnp.bfloat16


def test_scalars_of_python_are_floats():
    y, project = zfjax.deconvnet(jax.nn.relu, 2.0)
    assert y == 2.0
    assert project(3.0) == 3.0


@pytest.mark.parametrize("x", [jnp.arange(3), True, {"a": jnp.ones(2, jnp.uint8)}, ()])
def test_inputs_without_a_float_are_refused(x):
    with pytest.raises(TypeError, match="x: expected floating-point images"):
        zfjax.deconvnet(lambda x: x, x)


@pytest.mark.parametrize("x", ["x", None, np.array([None, 1.0]), np.array(["x"])], ids=repr)
def test_what_is_no_array_is_named(x):
    with pytest.raises(
        TypeError, match=r"^x: expected floating-point images .*, got (str|nothing|object\[2\]|<U1\[1\])$"
    ):
        zfjax.deconvnet(lambda x: x, x)
    if x is not None:
        with pytest.raises(TypeError, match=r"^x\['b'\]\[0\]: expected an array, got (str|object\[2\]|<U1\[1\]);"):
            zfjax.deconvnet(lambda x: x["a"], {"a": X, "b": (x,)})


@pytest.mark.parametrize("fun", [lambda a, b: a + b, lambda: 1.0, lambda *, a: a])
def test_functions_of_other_arguments_are_named(fun):
    with pytest.raises(TypeError, match=r"^fun: expected a function of x alone, such as .*; (missing|too many)"):
        zfjax.deconvnet(fun, (X, X))


def test_a_wrapper_may_take_less_than_what_it_wraps():
    @functools.wraps(jnp.maximum)
    def relu(x):
        return jnp.maximum(x, 0)

    np.testing.assert_array_equal(signal(relu, X, SEED), jnp.maximum(SEED, 0))


@pytest.mark.parametrize(
    ("y", "named"), [("y", "str as y"), ((1.0, {"a": [object()]}), r"object as y\[1\]\['a'\]\[0\]")]
)
def test_functions_that_return_no_arrays_are_named(y, named):
    with pytest.raises(TypeError, match=f"^fun: expected it to return arrays, got {named}"):
        zfjax.deconvnet(lambda x: y, X)


def test_empty_batches_pass():
    def fun(x):
        return jax.nn.relu(x).max(axis=(1, 2)) @ KERNEL[0, 0]

    assert signal(fun, IMAGES[:0], jnp.zeros((0, 4))).shape == (0, 6, 6, 2)


def test_complex_numbers_pass_as_through_vjp():
    """They have no order, so that there is nothing to rectify."""

    def fun(x):
        return jnp.abs(jax.nn.relu(jnp.fft.fft(jax.nn.relu(x))))

    got = signal(fun, X, SEED)
    expected = jax.vjp(lambda x: jnp.abs(jax.nn.relu(jnp.fft.fft(x))), jax.nn.relu(X))[1](SEED)[0]
    np.testing.assert_allclose(got, jnp.maximum(expected, 0), rtol=1e-5, atol=1e-6)


def test_comparisons_steer_and_stop_signals():
    def fun(x):
        return jnp.where(x > 0, jax.nn.relu(3 * x), jnp.zeros_like(x))

    np.testing.assert_allclose(signal(fun, X, SEED), 3 * jnp.maximum(jnp.where(X > 0, SEED, 0.0), 0))


def test_stop_gradient_stops_signals():
    got = signal(lambda x: jax.nn.relu(x) * jax.lax.stop_gradient(jax.nn.relu(x) + 1), X, SEED)
    np.testing.assert_allclose(got, jnp.maximum(SEED * (jax.nn.relu(X) + 1), 0), rtol=1e-6)


def test_one_relu_used_often_acts_each_time():
    relu = jax.jit(jax.nn.relu)

    def fun(x):
        for sign in (1.0, -1.0, 1.0):
            x = relu(sign * x) - 0.2
        return x

    # Down: rectified; rectified, turned; rectified.
    np.testing.assert_array_equal(signal(fun, X, SEED), jnp.zeros_like(X))
    np.testing.assert_array_equal(signal(lambda x: relu(relu(x) + relu(2 * x)), X, SEED), 3 * jnp.maximum(SEED, 0))


def test_equations_above_the_asked_output_are_dropped():
    def fun(x):
        acts = {"low": jax.nn.relu(x)}
        acts["high"] = jax.nn.relu(net(acts["low"]))
        return acts["low"]

    assert "conv_general_dilated" in str(jax.make_jaxpr(fun)(IMAGES))  # JAX itself keeps them
    for asked in (lambda x: zfjax.deconvnet(fun, x)[0], lambda x: zfjax.deconvnet(fun, x)[1](x)):
        assert "conv_general_dilated" not in str(jax.make_jaxpr(asked)(IMAGES))
    assert "conv_general_dilated" not in str(jax.make_jaxpr(lambda x: zfjax.deconvnet(jax.jit(fun), x)[0])(IMAGES))


def test_unused_outputs_of_a_nested_call_are_dropped():
    both = jax.jit(lambda x: (jax.nn.relu(x), net(x)))
    assert "conv_general_dilated" not in str(
        jax.make_jaxpr(lambda x: zfjax.deconvnet(lambda x: both(x)[0], x)[0])(IMAGES)
    )


def test_mutable_references_around_a_rule_are_refused():
    if not hasattr(jax, "new_ref"):
        pytest.skip("this JAX has no references")

    def fun(x):
        cell = jax.new_ref(jnp.zeros_like(x))
        cell[...] = jax.nn.relu(x)
        return cell[...]

    with pytest.raises(NotImplementedError, match="mutable reference"):
        signal(fun, X, SEED)
    plain = zfjax.backproject(fun, X, zfjax.GRADIENT)[1](SEED)
    np.testing.assert_array_equal(plain, jax.vjp(fun, X)[1](SEED)[0])


@pytest.mark.parametrize(
    ("seed", "named"),
    [
        (jnp.ones((2, 3)), r"seed: expected float32\[2, 4\] like y, got float32\[2, 3\]; .*jax.vmap\(project\)"),
        (jnp.ones((3, 2, 4)), r"seed: expected float32\[2, 4\] like y, got float32\[3, 2, 4\]"),
        (jnp.ones((2, 4), jnp.bfloat16), r"seed: expected float32\[2, 4\] like y, got bfloat16\[2, 4\]"),
        (jnp.ones((2, 4), jnp.int32), r"seed: expected float32\[2, 4\] like y, got int32\[2, 4\]"),
        ((jnp.ones((2, 4)),), "seed: expected a pytree like that of y"),
        ({"a": jnp.ones((2, 4))}, "seed: expected a pytree like that of y"),
        (None, "seed: expected a pytree like that of y"),
        ("seed", r"seed: expected float32\[2, 4\] like y, got str"),
    ],
)
def test_wrong_seeds_are_named(seed, named):
    _, project = zfjax.deconvnet(jax.nn.relu, X)
    with pytest.raises(ValueError, match=named):
        project(seed)


def test_numpy_arrays_will_do():
    got = signal(jax.nn.relu, np.asarray(X), np.asarray(SEED))
    np.testing.assert_array_equal(got, jnp.maximum(SEED, 0))


def test_positive_factors_of_the_seed_pass_and_negative_do_not():
    y, project = zfjax.deconvnet(net, IMAGES)
    seed = normal(y.shape, 4)
    close(project(4 * seed), 4 * project(seed))
    assert jnp.abs(project(-seed) + project(seed)).max() > 0.1 * jnp.abs(project(seed)).max()
