"""What the walk takes for a ReLU, what it enters, what it leaves alone, and what it warns of."""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import tolerance
from jax import lax
from jax.tree_util import Partial
from small_models import normal

import zfjax
from zfjax import attribution
from zfjax.experiments.gallery import Top, gallery
from zfjax.models import ConvNet, specs
from zfjax.models.fields import project_fields, project_units

X, SEED = normal((2, 4)), normal((2, 4), 1)
RECTIFIED = np.maximum(SEED, 0)


def signal(fun, x=X, seed=SEED, chosen=zfjax.DECONVNET):
    return zfjax.backproject(fun, x, chosen)[1](seed)


def gradient(fun, x=X, seed=SEED):
    return jax.vjp(fun, x)[1](seed)[0]


SPELLINGS = {
    "jax.nn.relu": jax.nn.relu,
    "nn.relu": nn.relu,
    "ops.rectify": zfjax.ops.rectify,
    "maximum(x, 0)": lambda x: jnp.maximum(x, 0),
    "maximum(0, x)": lambda x: jnp.maximum(0, x),
    "maximum(x, 0.0)": lambda x: jnp.maximum(x, 0.0),
    "maximum(x, np 0)": lambda x: jnp.maximum(x, np.float32(0)),
    "maximum(x, array 0)": lambda x: jnp.maximum(x, jnp.array(0.0)),
    "maximum(x, zeros_like)": lambda x: jnp.maximum(x, jnp.zeros_like(x)),
    "maximum(zeros, x)": lambda x: jnp.maximum(jnp.zeros((2, 4)), x),
    "maximum(x, full_like)": lambda x: jnp.maximum(x, jnp.full_like(x, 0)),
    "maximum(x, reshaped)": lambda x: jnp.maximum(x, jnp.zeros(8).reshape(2, 4)),
    "maximum(x, converted)": lambda x: jnp.maximum(x, jnp.zeros((2, 4), jnp.int32).astype(x.dtype)),
    "maximum(x, squeezed)": lambda x: jnp.maximum(x, jnp.squeeze(jnp.zeros((1, 2, 4)), 0)),
    "lax.max": lambda x: lax.max(x, jnp.zeros((), x.dtype)),
    "where(x > 0, x, 0)": lambda x: jnp.where(x > 0, x, 0),
    "where(x >= 0, x, zeros)": lambda x: jnp.where(x >= 0, x, jnp.zeros_like(x)),
    "select": lambda x: lax.select(x > 0, x, jnp.zeros_like(x)),
    "clip(x, 0)": lambda x: jnp.clip(x, 0),
    "clip(min=0)": lambda x: jnp.clip(x, min=0.0),
    "x.clip(0)": lambda x: x.clip(0),
    "vmap(relu)": jax.vmap(jax.nn.relu),
    "vmap(maximum)": jax.vmap(lambda row: jnp.maximum(row, jnp.zeros(4))),
    "jit(maximum)": lambda x: jax.jit(jnp.maximum)(x, jnp.zeros_like(x)),
    "lax.clamp": lambda x: lax.clamp(0.0, x, 99.0),
    "relu6": lambda x: jax.nn.relu6(x / 9) * 9,
    "clip(x, 0, 6)": lambda x: jnp.clip(x / 9, 0, 6) * 9,
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_a_relu_are_seen(name):
    np.testing.assert_allclose(signal(SPELLINGS[name]), RECTIFIED, rtol=1e-6)


@pytest.mark.parametrize("name", SPELLINGS)
def test_spellings_of_a_relu_are_guided(name):
    passed = np.where(X > 0, RECTIFIED, 0)
    np.testing.assert_allclose(signal(SPELLINGS[name], chosen=zfjax.GUIDED), passed, rtol=1e-6)


UNSEEN = {
    "times a mask": lambda x: x * (x > 0).astype(x.dtype),
    "minimum": lambda x: -jnp.minimum(-x, 0),
    "softplus": jax.nn.softplus,
    "a gate": lambda x: x * jax.nn.sigmoid(x[:, ::-1]),
    "linear": lambda x: 2 * x,
    "maximum of two": lambda x: jnp.maximum(x, 1 - x),
    "maximum with one": lambda x: jnp.maximum(x, 1.0),
    "softmax": jax.nn.softmax,
}


@pytest.mark.parametrize("chosen", [zfjax.DECONVNET, zfjax.GUIDED], ids=["deconvnet", "guided"])
@pytest.mark.parametrize("name", UNSEEN)
def test_without_a_relu_it_warns_and_is_the_gradient(name, chosen):
    with pytest.warns(zfjax.RuleWarning, match=r"no relu found .* rules.extend\(f=zfjax.rules.rectify\)") as caught:
        got = signal(UNSEEN[name], chosen=chosen)
    assert len(caught) == 1
    np.testing.assert_allclose(got, gradient(UNSEEN[name]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("call", [zfjax.deconvnet, lambda fun, x: zfjax.backproject(fun, x, zfjax.GUIDED)])
def test_the_warning_points_to_the_callers_line(call):
    with pytest.warns(zfjax.RuleWarning) as caught:
        call(jnp.sin, X)
    assert caught[0].filename == __file__


HEAD = normal((4, 3), 8)

WARNS_EACH_TIME = {
    "deconvnet": lambda fun: zfjax.deconvnet(fun, X),
    "guided": lambda fun: zfjax.backproject(fun, X, zfjax.GUIDED),
    "guided_backprop": lambda fun: attribution.guided_backprop(fun, X, 0),
    "deconvolution": lambda fun: attribution.deconvolution(fun, X, 0),
    "guided_grad_cam": lambda fun: attribution.guided_grad_cam(
        (lambda images: 2 * images, lambda maps: fun(maps[:, 0, 0])), X[:, None, None], 0
    ),
    "project_units": lambda fun: project_units(lambda x: fun(x[:, 0, 0]), X[:, None, None], *UNITS),
    "project_fields": lambda fun: project_fields(lambda x: fun(x[:, 0, 0]), X[:, None, None], *UNITS),
    "gallery": lambda fun: gallery(
        lambda x: fun(x[:, 0, 0]), TOP, [0, 1], lambda numbers: X[numbers][:, None, None], batch_size=1
    ),
}
UNITS = np.zeros(2, np.int32), np.zeros((2, 0), np.int32)
TOP = Top(np.ones((3, 1), np.float32), np.array([[0], [1], [0]]), np.zeros((3, 1, 0), np.int32))


@pytest.mark.filterwarnings("default")  # Python's own, by which a line's warning is shown once
@pytest.mark.parametrize("name", WARNS_EACH_TIME)
@pytest.mark.parametrize("text", ["no relu found", "relu inside shard_map"])
def test_each_model_and_each_call_warns(name, text):
    def model(number):
        if text == "no relu found":
            return lambda x: number * jnp.sin(x) @ HEAD
        mesh = jax.make_mesh((1,), ("all",), devices=jax.devices()[:1], axis_types=(jax.sharding.AxisType.Auto,))
        whole = jax.sharding.PartitionSpec()
        inside = jax.shard_map(lambda x: jax.nn.relu(number * x), mesh=mesh, in_specs=whole, out_specs=whole)
        return lambda x: inside(x) @ HEAD

    models = model(1.0), model(2.0)
    with warnings.catch_warnings(record=True) as caught:
        for fun in (*models, models[0]):
            WARNS_EACH_TIME[name](fun)
    assert [str(one.message)[: len(text)] for one in caught] == [text] * 3
    assert {one.filename for one in caught} == {__file__}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["guided_backprop", "project_units", "gallery of zfjax's own"])
def test_each_call_warns_of_a_net_of_zfjax(name):
    """Of these one compiled program serves all weights, without a trace."""
    net = ConvNet((specs.Conv("conv1", 3, (1, 1)),), 2)
    variables = {"params": {"conv1": {"kernel": HEAD[None, None], "bias": jnp.zeros(3)}}}
    fun, images = zfjax.layer(net, variables, "conv1"), X[:, None, None]
    cell = np.zeros((2, 2), np.int32)
    ask = {
        "guided_backprop": lambda: attribution.guided_backprop(Partial(lambda fun, x: fun(x)[:, 0, 0], fun), images, 0),
        "project_units": lambda: project_units(fun, images, UNITS[0], cell),
        "gallery of zfjax's own": lambda: gallery(
            fun, TOP._replace(positions=np.zeros((3, 1, 2), np.int32)), [0], lambda numbers: images[numbers]
        ),
    }[name]
    with warnings.catch_warnings(record=True) as caught:
        for _ in range(3):
            ask()
    assert [one.filename for one in caught] == [__file__] * 3


@pytest.mark.filterwarnings("default")
def test_each_model_warns_in_a_jitted_function():
    with warnings.catch_warnings(record=True) as caught:
        for fun in (jnp.sin, jnp.cos):
            jax.jit(zfjax.deconvnet, static_argnums=0)(fun, X)
    assert [one.filename for one in caught] == [__file__] * 2


def test_without_rules_nothing_is_missed():
    signal(jnp.sin, chosen=zfjax.GRADIENT)


def test_a_relu_that_the_output_does_not_need_is_no_relu():
    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        signal(lambda x: (jax.nn.relu(x), 2 * x)[1])


def test_a_relu_of_what_does_not_depend_on_x_is_no_relu():
    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        signal(lambda x: x * jax.nn.relu(jnp.arange(4.0))[None])


@pytest.mark.parametrize("zero", [np.zeros((2, 4), np.float32), jnp.zeros((2, 4))], ids=["numpy", "jax"])
def test_zeros_from_outside_make_a_relu(zero):
    np.testing.assert_array_equal(signal(lambda x: jnp.maximum(x, zero)), RECTIFIED)


# Maxima with zero that are no activation: inside smooth functions, and guards of variances.
NO_RELU = {
    "softplus": jax.nn.softplus,
    "log_sigmoid": jax.nn.log_sigmoid,
    "logaddexp": lambda x: jnp.logaddexp(x, jnp.zeros_like(x)),
    "linen LayerNorm": lambda x: nn.LayerNorm().apply(_norm_variables(nn.LayerNorm(), x), x),
    "linen GroupNorm": lambda x: nn.GroupNorm(2).apply(_norm_variables(nn.GroupNorm(2), x), x),
    "linen BatchNorm on the batch": lambda x: _batch_norm(x),
    "equinox LayerNorm": lambda x: jax.vmap(pytest.importorskip("equinox").nn.LayerNorm(4))(x),
}


def _norm_variables(module, x):
    return jax.tree.map(lambda leaf: jnp.ones(leaf.shape), jax.eval_shape(module.init, jax.random.key(0), x))


def _batch_norm(x):
    module = nn.BatchNorm(use_running_average=False)
    return module.apply(_norm_variables(module, x), x, mutable=["batch_stats"])[0]


@pytest.mark.parametrize("name", NO_RELU)
def test_a_maximum_inside_a_smooth_function_is_no_relu(name):
    x, seed = normal((8, 4), 2), normal((8, 4), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zfjax.RuleWarning)
        got = signal(NO_RELU[name], x, seed)
    np.testing.assert_allclose(got, gradient(NO_RELU[name], x, seed), rtol=1e-4, atol=1e-5)


def test_a_where_by_another_mask_is_no_relu():
    mask = np.array([[True, False, True, False]])

    def fun(x):
        return jnp.where(jnp.asarray(mask), x, 0) + jnp.where(x > 0, 2 * x, 0)

    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        np.testing.assert_array_equal(signal(fun), gradient(fun))


# What is entered.


@jax.custom_vjp
def tripled_relu(x):
    return jax.nn.relu(x)


tripled_relu.defvjp(lambda x: (jax.nn.relu(x), None), lambda _, g: (3 * g,))


@jax.custom_jvp
def tripled_relu_forwards(x):
    return jnp.maximum(x, 0)


tripled_relu_forwards.defjvp(lambda primals, tangents: (jnp.maximum(primals[0], 0), 3 * tangents[0]))

WRAPPED = {
    "jit": jax.jit(lambda x: jax.nn.relu(x)),
    "jit of jit": jax.jit(lambda x: jax.jit(lambda x: jnp.maximum(x, 0))(x)),
    "jit that is passed its zero": lambda x: jax.jit(lambda a, b: jnp.maximum(a, b))(x, 0.0),
    "remat": jax.checkpoint(lambda x: jax.nn.relu(x)),
    "remat of jit": jax.checkpoint(jax.jit(lambda x: jnp.maximum(x, 0))),
    "remat with policy": jax.checkpoint(jax.nn.relu, policy=jax.checkpoint_policies.nothing_saveable),
    "custom_vjp": tripled_relu,
    "custom_jvp": tripled_relu_forwards,
    "named scope": jax.named_call(lambda x: jax.nn.relu(x), name="block"),
    "in a tree": lambda x: jax.tree.map(jax.nn.relu, {"a": x})["a"],
}


@pytest.mark.parametrize("name", WRAPPED)
def test_calls_are_entered(name):
    np.testing.assert_array_equal(signal(lambda x: WRAPPED[name](2 * x)), 2 * RECTIFIED)


@jax.custom_vjp
def hundredfold(x):
    return 2 * x


hundredfold.defvjp(lambda x: (2 * x, None), lambda _, g: (100 * g,))


@jax.custom_jvp
def hundredfold_forwards(x):
    return 2 * x


hundredfold_forwards.defjvp(lambda primals, tangents: (2 * primals[0], 100 * tangents[0]))


@pytest.mark.parametrize("chosen", [zfjax.DECONVNET, zfjax.GUIDED, zfjax.GRADIENT], ids=["deconvnet", "guided", "none"])
@pytest.mark.parametrize("fun", [hundredfold, hundredfold_forwards, jax.jit(hundredfold), jax.checkpoint(hundredfold)])
def test_derivatives_of_ones_own_are_kept_where_no_rule_acts(fun, chosen):
    x = jnp.abs(X)
    got = signal(lambda x: jax.nn.relu(fun(jax.nn.relu(x))), x, jnp.abs(SEED), chosen)
    np.testing.assert_allclose(got, 100 * np.abs(SEED), rtol=1e-6)


def _custom(inner, down=lambda g: 100 * g):
    fun = jax.custom_vjp(inner)
    fun.defvjp(lambda x: (inner(x), None), lambda _, g: (down(g),))
    return fun


ACTS_ON_NOTHING = {
    "integer maximum": lambda x: 2 * x[jnp.maximum(jnp.arange(2), 0)],
    "relu of a constant": lambda x: x * jax.nn.relu(jnp.arange(4.0))[None],
    "stabilised by a maximum": lambda x: x - lax.stop_gradient(jnp.max(x)),
}


@pytest.mark.parametrize("name", ACTS_ON_NOTHING)
def test_derivatives_of_ones_own_are_kept_where_a_rule_could_not_act(name):
    fun = _custom(ACTS_ON_NOTHING[name])
    np.testing.assert_allclose(signal(lambda x: fun(jax.nn.relu(x))), 100 * RECTIFIED, rtol=1e-6)


# Loops and branches.


def scanned(x):
    return lax.scan(lambda x, k: (jax.nn.relu(x * k) - 0.1, None), x, jnp.array([1.0, -1.0, 2.0]))[0]


def written_out(x):
    for k in (1.0, -1.0, 2.0):
        x = jax.nn.relu(x * k) - 0.1
    return x


LOOPS = {
    "scan": (scanned, written_out),
    "in calls": (jax.jit(lambda x: jax.checkpoint(scanned)(x)), written_out),
    "fori": (
        lambda x: lax.fori_loop(0, 2, lambda i, x: jnp.maximum(x, 0) - 0.5, x),
        lambda x: jnp.maximum(jnp.maximum(x, 0) - 0.5, 0) - 0.5,
    ),
    "map": (lambda x: lax.map(jax.nn.relu, x), jax.nn.relu),
    "cond": (
        lambda x: lax.cond(x.sum() > 0, jax.nn.relu, lambda x: 2 * jax.nn.relu(-x), x),
        jax.nn.relu if X.sum() > 0 else lambda x: 2 * jax.nn.relu(-x),
    ),
    "switch": (lambda x: lax.switch(jnp.int32(1), [jnp.sin, jax.jit(jax.nn.relu)], x), jax.nn.relu),
    "no iteration": (
        lambda x: lax.fori_loop(0, 0, lambda i, x: jax.nn.relu(x), x) + jax.nn.relu(x),
        lambda x: x + jax.nn.relu(x),
    ),
}


@pytest.mark.filterwarnings("ignore:relu inside scan")  # of no iteration
@pytest.mark.parametrize("name", LOOPS)
@pytest.mark.parametrize("chosen", [zfjax.DECONVNET, zfjax.GUIDED], ids=["deconvnet", "guided"])
def test_relus_in_loops_and_branches_are_found(name, chosen):
    looped, flat = LOOPS[name]
    y, project = zfjax.backproject(looped, X, chosen)
    z, expected = zfjax.backproject(flat, X, chosen)
    np.testing.assert_allclose(y, z, rtol=tolerance(1e-6))
    np.testing.assert_allclose(project(SEED), expected(SEED), rtol=tolerance(1e-6))


def test_a_guard_in_the_next_iteration_is_a_guard():
    """What a body returns is followed into its next run."""

    def fun(x):
        def body(state, k):
            mean, variance = state
            mean = (x * k - mean) / jnp.sqrt(variance + 0.1)
            return (mean, jnp.maximum((mean**2).mean() - 1e-3, 0)), None

        return jax.nn.relu(lax.scan(body, (x, jnp.float32(1)), jnp.arange(1.0, 4.0))[0][0])

    with jax.numpy_rank_promotion("allow"):
        _, project = zfjax.backproject(fun, X, zfjax.DECONVNET)
        _, expected = zfjax.backproject(fun, X, zfjax.GRADIENT.where(zfjax.rules.rectify, name="relu", when=at_the_end))
    np.testing.assert_allclose(project(SEED), expected(SEED), rtol=tolerance(1e-5))


def at_the_end(equation):
    return equation.source[-1].outvars[0].aval.shape == X.shape


def test_loops_without_a_relu_are_the_gradient():
    def fun(x):
        return jax.nn.relu(lax.scan(lambda c, k: (jnp.sin(c) * k, None), x, jnp.array([1.0, -2.0]))[0])

    down = gradient(lambda x: lax.scan(lambda c, k: (jnp.sin(c) * k, None), x, jnp.array([1.0, -2.0]))[0], X, RECTIFIED)
    np.testing.assert_allclose(signal(fun), down, rtol=tolerance(1e-6))


def test_max_pools_in_a_loop_need_no_warning():
    def fun(x):
        return jax.nn.relu(lax.map(lambda row: jnp.max(row.reshape(2, 2), axis=1), x))

    seed = jnp.array([[1.0, -1.0], [2.0, 3.0]])
    np.testing.assert_array_equal(
        signal(fun, X, seed), gradient(lambda x: jnp.max(x.reshape(2, 2, 2), axis=2), X, jnp.maximum(seed, 0))
    )


def test_a_while_loop_has_no_way_down_as_in_vjp():
    def fun(x):
        return lax.while_loop(lambda c: c[0] < 3, lambda c: (c[0] + 1, jax.nn.relu(c[1])), (0, x))[1]

    with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax.while_loop"):
        gradient(fun)
    with pytest.warns(zfjax.RuleWarning, match="relu inside while"):
        y, project = zfjax.deconvnet(fun, X)
    np.testing.assert_array_equal(y, fun(X))
    with pytest.raises(ValueError, match=r"Reverse-mode differentiation does not work for lax.while_loop"):
        project(SEED)


def test_integers_clipped_in_a_loop_are_no_relu():
    def fun(x):
        return lax.scan(lambda c, i: (c + x[:, jnp.maximum(i, 0)], None), jnp.zeros(2), jnp.arange(4))[0]

    with pytest.warns(zfjax.RuleWarning, match="no relu found"):
        signal(fun, X, jnp.ones(2))
