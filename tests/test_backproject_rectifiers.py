"""Which maxima with zero are ReLUs: by what their results go into, and not by names.

Each idiom is written with its maximum as an argument. Where it is a ReLU, the deconvnet is `jax.vjp` of the idiom with
`deconv_relu` in that place; where it is none, of the idiom as it is.
"""

import warnings

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import close, deconv_relu, dense_seed, guided_relu, normal

import zfjax

X = normal((3, 4, 4, 2))
WEIGHTS = normal((2, 5), 1)
EPS = jnp.float32(1e-3)


def maximum(x):
    return jnp.maximum(x, 0)


def mean(x):
    return x.mean((1, 2), keepdims=True)


def pooled(x):
    return lax.reduce_window(x, 0.0, lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME") / 9


def centered(x):
    return x - mean(x)


def variance(x):
    return mean(jnp.square(x)) - jnp.square(mean(x))


def einsum_variance(x):
    d = centered(x)
    return (jnp.einsum("nhwc,nhwc->nc", d, d) / 16)[:, None, None]


def squared_distances(x):
    rows = x.reshape(3, -1)
    squares = (rows**2).sum(axis=1)
    return squares[:, None] + squares[None] - 2 * rows @ rows.T + jnp.eye(3)


@jax.custom_jvp
def keep(x):
    return x + 0


keep.defjvp(lambda primals, tangents: (keep(*primals), tangents[0]))

GUARDS = {
    "variance": lambda x, relu: x * lax.rsqrt(relu(variance(x)) + EPS),
    "jnp.var": lambda x, relu: centered(x) / jnp.sqrt(relu(jnp.var(x, axis=(1, 2), keepdims=True)) + EPS),
    "einsum": lambda x, relu: centered(x) / jnp.sqrt(relu(einsum_variance(x)) + EPS),
    "pooled": lambda x, relu: x / jnp.sqrt(relu(pooled(x**2) - pooled(x) ** 2) + EPS),
    "to a power": lambda x, relu: x * (relu(variance(x)) + EPS) ** -0.5,
    "a root to a power": lambda x, relu: x / (relu(variance(x)) + EPS) ** 0.5,
    "below a line": lambda x, relu: x / (relu((x**2).sum(axis=3, keepdims=True)) + EPS),
    "reciprocal": lambda x, relu: x * jnp.reciprocal(EPS + relu(variance(x))),
    "distances": lambda x, relu: jnp.sqrt(relu(squared_distances(x)) + EPS),
    "scaled, reshaped": lambda x, relu: (
        x
        / jnp.sqrt(
            jnp.broadcast_to((relu(variance(x)) * 16 / 15).reshape(6), (4, 6)).T.reshape(3, 1, 2, 4)[..., :1, :2]
        )
    ),
    "of groups, taken and tiled": lambda x, relu: (
        x / jnp.sqrt(jnp.take(jnp.tile(relu(variance(x)), (1, 4, 1, 2)), np.array([2, 1]), axis=3) + EPS)
    ),
    "stacked": lambda x, relu: (lambda s: (x - s[0]) / jnp.sqrt(s[1] + EPS))(jnp.stack([mean(x), relu(variance(x))])),
    "where it is not 0": lambda x, relu: (lambda v: x / jnp.sqrt(jnp.where(v < EPS, 1.0, v)))(relu(variance(x))),
    "above eps": lambda x, relu: x / jnp.sqrt(jnp.maximum(relu(variance(x)), EPS)),
    "kept too": lambda x, relu: (lambda v: (x * lax.rsqrt(v + EPS), 0.1 * v))(relu(variance(x))),
    "out of jit": lambda x, relu: x * lax.rsqrt(jax.jit(lambda x: relu(variance(x)))(x) + EPS),
    "into jit": lambda x, relu: jax.jit(lambda x, v: x * lax.rsqrt(v + EPS))(x, relu(variance(x))),
    "out of remat": lambda x, relu: x * lax.rsqrt(jax.checkpoint(lambda x: relu(variance(x)) + EPS)(x)),
    "through custom_jvp": lambda x, relu: x / jnp.sqrt(keep(relu(variance(x))) + EPS),
    "of a sum": lambda x, relu: x / jnp.sqrt(relu(variance(x)) + relu(variance(jnp.sin(x))) + EPS),
    "into a loop": lambda x, relu: (
        lambda v: lax.scan(lambda c, k: (c * k / jnp.sqrt(v + EPS), None), x, jnp.arange(1.0, 3.0))[0]
    )(relu(variance(x))),
    "out of a loop": lambda x, relu: x * lax.rsqrt(lax.map(lambda x: relu(variance(x[None]))[0], x) + EPS),
    "out of a loop, added up": lambda x, relu: (
        x / jnp.sqrt(lax.scan(lambda c, x: (c + relu(x.var()), None), jnp.float32(0), x)[0] + EPS)
    ),
    "out of a branch": lambda x, relu: (
        x / jnp.sqrt(lax.cond(x[0, 0, 0, 0] < 9, lambda x: relu(variance(x)), lambda x: mean(x), x) + EPS)
    ),
    "into a branch": lambda x, relu: lax.cond(
        x[0, 0, 0, 0] < 9, lambda x, v: x * lax.rsqrt(v + EPS), lambda x, v: x, x, relu(variance(x))
    ),
    "out of two calls": lambda x, relu: (
        x * jax.jit(lambda v: lax.rsqrt(v + EPS))(jax.jit(jax.checkpoint(lambda x: relu(variance(x))))(x))
    ),
}

RELUS = {
    "mean": lambda x, relu: relu(x.mean((1, 2))) @ WEIGHTS,
    "sum": lambda x, relu: relu(x.sum((1, 2))) @ WEIGHTS,
    "sum of branches": lambda x, relu: relu(x.sum((1, 2)) + 2 * jnp.flip(x, 1).mean((1, 2)) - 1) @ WEIGHTS,
    "einsum": lambda x, relu: relu(jnp.einsum("nhwc,cd->nd", x, WEIGHTS)),
    "pooled": lambda x, relu: relu(pooled(x)) + 1,
    "jnp.mean": lambda x, relu: relu(jnp.mean(x, axis=(1, 2))) @ WEIGHTS,
    "variance as a feature": lambda x, relu: relu(x.var((1, 2)) - 1) @ WEIGHTS,
    "of a normalized": lambda x, relu: relu(centered(x) / jnp.sqrt(x.var((1, 2), keepdims=True) + EPS)) @ WEIGHTS,
    "divided by its sum": lambda x, relu: (lambda y: y / (y.sum(axis=3, keepdims=True) + EPS))(relu(x + 1)),
    "divided by its norm": lambda x, relu: (lambda y: y * lax.rsqrt((y**2).mean(3, keepdims=True) + EPS))(relu(x)),
    "divided by itself and one": lambda x, relu: (lambda y: y / (1 + y))(relu(x)),
    "divided by a number": lambda x, relu: relu(x) / 3,
    "power mean": lambda x, relu: (relu(x + 1) ** 3).mean((1, 2)) ** (1 / 3),
    "squared": lambda x, relu: relu(x) ** 2 * 3,
    "times itself": lambda x, relu: (lambda y: y * y)(relu(x)),
    "logarithm": lambda x, relu: jnp.log1p(relu(x)),
    "gates another": lambda x, relu: relu(x @ WEIGHTS[:, :2]) * x,
    "shortcut": lambda x, relu: x + relu(x @ WEIGHTS[:, :2]),
    "shortcut around": lambda x, relu: relu(x) + 2 * x,
    "beside a smooth one": lambda x, relu: relu(x) + jnp.sin(x),
    "two of a kind": lambda x, relu: relu(x) + relu(2 * x + 1),
    "in a mask": lambda x, relu: relu(x) * (x > 0.5).astype(x.dtype),
    "over a sum with another": lambda x, relu: (lambda a, b: a / (a + b + 1))(relu(x), relu(x @ WEIGHTS[:, :2])),
    "below and above": lambda x, relu: (lambda a: (x @ WEIGHTS[:, :2]) * a / (1 + a.sum(3, keepdims=True)))(relu(x)),
    "out of calls": lambda x, relu: jnp.exp(-jax.jit(jax.checkpoint(lambda x: relu(x)))(x) / 2),
}


def down(fun, x, rules):
    y, project = zfjax.backproject(fun, x, rules)
    return project(dense_seed(y))


def by_vjp(fun, x):
    y, pull = jax.vjp(fun, x)
    return pull(dense_seed(y))[0]


def compiled(x, *ways):
    """What each function gives, all in one program."""
    return jax.tree.map(np.asarray, jax.jit(lambda x: [way(x) for way in ways])(x))


def differ(a, b):
    return np.abs(a - b).max() > 1e-3 * np.abs(b).max()


def three_ways(idiom):
    """Signals by the VJP, with a plain maximum and with the deconvnet's ReLU, and by the deconvnet."""
    return compiled(
        X,
        lambda x: by_vjp(lambda x: idiom(x, maximum), x),
        lambda x: by_vjp(lambda x: idiom(x, deconv_relu), x),
        lambda x: down(lambda x: idiom(x, maximum), x, zfjax.DECONVNET),
    )


@pytest.mark.parametrize("name", RELUS)
def test_idioms_of_a_relu(name):
    other, expected, got = three_ways(RELUS[name])
    assert differ(expected, other), "the test cannot fail"
    close(got, expected)


@pytest.mark.parametrize("name", GUARDS)
def test_idioms_of_a_guard(name):
    # Positive anyway, so that it is the rule alone that could make a difference.
    with pytest.warns(zfjax.RuleWarning, match="no relu found"):
        expected, other, got = three_ways(GUARDS[name])
    assert differ(expected, other), "the test cannot fail"
    close(got, expected)


SPELLINGS = {
    "jnp.clip": lambda x: jnp.clip(x, 0),
    "jax.nn.relu": jax.nn.relu,
    "where": lambda x: jnp.where(x > 0, x, 0),
    "where below": lambda x: jnp.where(x < 0, 0, x),
    "where at most": lambda x: jnp.where(x <= 0, jnp.zeros_like(x), x),
    "where, turned": lambda x: jnp.where(jnp.less(jnp.zeros_like(x), x), x, 0),
    "where not": lambda x: jnp.where(~(x > 0), 0, x),
    "clamp": lambda x: lax.clamp(0.0, x, 1e9),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_each_spelling_is_told_apart_by_what_it_goes_into(spelling):
    def both(x, guard, relu):
        return relu(x * lax.rsqrt(guard(variance(x)) + EPS)) - 0.1

    zero = SPELLINGS[spelling]
    for rules, relu in ((zfjax.DECONVNET, deconv_relu), (zfjax.GUIDED, guided_relu)):
        got, expected = compiled(
            X,
            lambda x, rules=rules: down(lambda x: both(x, zero, zero), x, rules),
            lambda x, relu=relu: by_vjp(lambda x: both(x, maximum, relu), x),
        )
        close(got, expected)


def test_one_function_called_as_a_guard_and_as_a_relu():
    """JAX traces a jitted function once, so both calls hold the same equation."""
    zero = jax.jit(lambda x: jnp.maximum(x, 0))

    def fun(x, guard, relu):
        return relu(x) + x / jnp.sqrt(guard(pooled(x**2) - pooled(x) ** 2) + EPS)

    got, expected = compiled(
        X,
        lambda x: down(lambda x: fun(x, zero, zero), x, zfjax.DECONVNET),
        lambda x: by_vjp(lambda x: fun(x, maximum, deconv_relu), x),
    )
    close(got, expected)


# Bounded above.


CLIPPED = {
    "jax.nn.relu6": jax.nn.relu6,
    "clip": lambda x: jnp.clip(x, 0, 6),
    "clip by arrays": lambda x: jnp.clip(x, jnp.zeros_like(x), jnp.full((3,), 6.0)[None]),
    "minimum of maximum": lambda x: jnp.minimum(jnp.maximum(x, 0), 6),
    "maximum of minimum": lambda x: jnp.maximum(jnp.minimum(x, 6), 0),
    "clamp": lambda x: lax.clamp(0.0, x, 6.0),
    "relu, then clip": lambda x: jnp.clip(jax.nn.relu(x), max=6),
    "jit": jax.jit(lambda x: jnp.minimum(jax.jit(jax.nn.relu)(x), 6)),
    "remat": jax.checkpoint(jax.nn.relu6),
    "vmap": jax.vmap(jax.nn.relu6),
    "scaled": lambda x: jnp.minimum(jax.nn.relu(2 * x) / 12, 1) * 6,
    "where of where": lambda x: jnp.where(x < 0, 0, jnp.where(x > 6, 6, x)),
    "where after where": lambda x: (lambda y: jnp.where(y >= 6, 6.0, y))(jnp.where(x >= 0, x, 0.0)),
    "where of a relu": lambda x: jnp.where(x > 6, 6, jax.nn.relu(x)),
}
STEPS, ONES = jnp.array([[-7.0, -1.0, 3.0], [5.0, 7.0, 9.0]]), jnp.array([[2.0, 2.0, 2.0], [-2.0, 2.0, -2.0]])


@pytest.mark.parametrize("name", CLIPPED)
def test_the_deconvnet_passes_a_clips_upper_end_over(name):
    @jax.jit
    def value_and_signals(x, ones):
        every = zfjax.DECONVNET, zfjax.GUIDED, zfjax.GRADIENT
        return CLIPPED[name](x), [zfjax.backproject(CLIPPED[name], x, rules)[1](ones) for rules in every]

    y, (deconvnet, guided, gradient) = value_and_signals(STEPS, ONES)
    np.testing.assert_allclose(y, np.clip(STEPS, 0, 6), rtol=1e-6)
    np.testing.assert_allclose(deconvnet, [[2, 2, 2], [0, 2, 0]], rtol=1e-6)
    np.testing.assert_allclose(guided, [[0, 0, 2], [0, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(gradient, [[0, 0, 2], [-2, 0, 0]], rtol=1e-6)


@pytest.mark.parametrize("relu", [jax.nn.relu6, lambda x: jnp.clip(x, 0, 1), lambda x: lax.clamp(0.0, x, 0.5)])
def test_a_saturated_unit_is_projected_as_its_neighbors_are(relu):
    """However strong it is: what is projected is the image scaled up, and the same unit of an unbounded net."""
    kernel = normal((3, 3, 2, 8), 5)
    dims = ("NHWC", "HWIO", "NHWC")

    def net(x, relu):
        x = relu(lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dims))
        return relu(jnp.einsum("nhwc,cd->nhwd", x, normal((8, 4), 6)))

    @jax.jit
    def both_ways(x):
        y, project = zfjax.deconvnet(lambda x: net(x, relu), x)
        _, plain = zfjax.deconvnet(lambda x: net(x, jax.nn.relu), x)
        seeds = [zfjax.strongest(y, unit) for unit in range(4)]
        return y, [(project(seed), plain(seed)) for seed in seeds]

    y, projections = both_ways(100 * X)
    y = np.asarray(y)
    assert np.all(y.max((0, 1, 2)) == y.max())  # all maps are saturated somewhere
    for found, expected in projections:
        close(found, expected)


@pytest.mark.parametrize(
    "fun",
    [
        lambda x: jnp.minimum(x, 6) + jax.nn.relu(x),
        lambda x: jnp.minimum(jax.nn.relu(x) @ jnp.eye(3), 6),
        lambda x: jnp.minimum(-jax.nn.relu(x), -6),
    ],
    ids=["beside", "above a matrix", "turned"],
)
def test_a_minimum_that_bounds_no_relu_passes_its_own_derivative(fun):
    extended = zfjax.DECONVNET.extend(saturation=lambda equation, x: pytest.fail("a saturation was seen"))
    with pytest.warns(zfjax.RuleWarning, match="no saturation found"):
        zfjax.backproject(fun, STEPS, extended)


# Other functions with a maximum in them.


def hard_swish(x):
    return x * jax.nn.relu6(x + 3) / 6


OTHERS = {
    **{name: getattr(jax.nn, name) for name in ("hard_swish", "hard_sigmoid", "hard_tanh", "celu", "elu", "selu")},
    **{name: getattr(jax.nn, name) for name in ("softplus", "mish", "squareplus", "sparse_plus", "sparse_sigmoid")},
    "hard swish by hand": hard_swish,
    "hard swish by a clip": lambda x: x * jnp.clip(x / 6 + 0.5, 0, 1),
    "hard swish by a clamp": lambda x: x * lax.clamp(0.0, x + 3.0, 6.0) * 0.1667,
    "hard swish in calls": jax.jit(lambda x: x * jax.checkpoint(lambda x: jax.nn.relu6(x + 3))(x) / 6),
    "vmapped hard swish": jax.vmap(hard_swish),
    "keras' hard sigmoid": lambda x: jnp.clip(0.2 * x + 0.5, 0, 1),
    "hard sigmoid, turned": lambda x: jnp.maximum(jnp.minimum(x + 3, 6), 0) / 6,
    "squeezed and excited": lambda x: x * jax.nn.hard_sigmoid(x.mean((1, 2), keepdims=True) * 9),
    "celu by hand": lambda x: jnp.maximum(x, 0) + 2 * jnp.expm1(jnp.minimum(x, 0) / 2),
    "elu by minimum": lambda x: jnp.maximum(x, 0) + jnp.minimum(0, jnp.exp(x) - 1),
    "elu by where": lambda x: jnp.where(x > 0, jax.nn.relu(x), jnp.expm1(x)),
    "leaky by minimum": lambda x: jnp.maximum(x, 0) + 0.1 * jnp.minimum(x, 0),
    "leaky by two": lambda x: jax.nn.relu(x) - 0.1 * jax.nn.relu(-x),
    "prelu": lambda x: jax.nn.relu(x) - normal((1, 1, 1, 2), 3) * jax.nn.relu(-x),
    "softplus by hand": lambda x: jnp.maximum(x, 0) + jnp.log1p(jnp.exp(-jnp.abs(x))),
    "soft shrink": lambda x: jnp.sign(x) * jnp.maximum(jnp.abs(x) - 0.5, 0),
    "soft shrink by two": lambda x: jnp.maximum(x - 0.5, 0) - jnp.maximum(-x - 0.5, 0),
    "absolute value": lambda x: jax.nn.relu(x) + jax.nn.relu(-x),
    "prelu by the rest": lambda x: (lambda y: y + 0.1 * (x - y))(jax.nn.relu(x)),
    "elu by the rest": lambda x: (lambda y: y + jnp.expm1(x - y))(jnp.maximum(x, 0)),
    "logaddexp by hand": lambda x: (lambda m: m + jnp.log(jnp.exp(x - m) + jnp.exp(-m)))(jnp.maximum(x, 0)),
    "softmax off by one": lambda x: (lambda m: jnp.exp(x - m) / (jnp.exp(-m) + jnp.exp(x - m).sum(3, keepdims=True)))(
        jnp.maximum(x.max(3, keepdims=True), 0)
    ),
    "logsumexp and zero": lambda x: (lambda m: m[..., 0] + jnp.log(jnp.exp(x - m).sum(3) + jnp.exp(-m[..., 0])))(
        jnp.maximum(x.max(3, keepdims=True), 0)
    ),
    "linen's PReLU": lambda x: nn.PReLU().apply({"params": {"negative_slope": jnp.float32(0.1)}}, x),
}


# Without the rules for other activations, so that nothing hides what is taken for a ReLU.
ONLY_RELUS = [
    zfjax.rules.Rules((("relu", rule), ("saturation", zfjax.rules.unclip)), frozenset({"relu"}))
    for rule in (zfjax.rules.rectify, zfjax.rules.guide)
]


@pytest.mark.parametrize("rules", ONLY_RELUS, ids=["deconvnet", "guided"])
@pytest.mark.parametrize("name", OTHERS)
def test_no_rule_for_relus_acts_in_other_activations(name, rules):
    fun, x = OTHERS[name], 3 * X
    with pytest.warns(zfjax.RuleWarning, match="no relu found"):
        got, expected = compiled(x, lambda x: down(fun, x, rules), lambda x: by_vjp(fun, x))
    close(got, expected)


@pytest.mark.parametrize("name", ["hard_swish", "celu"])
def test_other_activations_between_relus_are_left_alone(name):
    def fun(x, relu):
        return relu(2 * getattr(jax.nn, name)(relu(x)) - 1)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = down(lambda x: fun(x, jax.nn.relu), X, ONLY_RELUS[0])
    close(got, by_vjp(lambda x: fun(x, deconv_relu), X))


def test_a_rule_may_name_another_activation():
    got = down(lambda x: jax.nn.hard_swish(jax.nn.relu(x)), X, zfjax.DECONVNET.extend(hard_silu=zfjax.rules.rectify))
    np.testing.assert_array_equal(got, jnp.maximum(dense_seed(X), 0))


def diamonds(x):
    y = jax.nn.relu(x)
    for _ in range(40):
        y = y + 0.1 * y  # two ways up each time
    return y


def long_chain(x):
    y = jax.nn.relu(x)
    for _ in range(1500):
        y = y * 1.0001
    return y


@pytest.mark.parametrize("fun", [diamonds, long_chain])
def test_programs_of_many_ways_and_long_ones_are_read_at_once(fun):
    x = jnp.array([1.0, -1.0])
    _, project = zfjax.deconvnet(fun, x)
    np.testing.assert_allclose(project(jnp.array([1.0, 1.0])), jax.grad(lambda x: fun(x).sum())(jnp.ones(2)), rtol=1e-4)


def test_a_literal_of_python_is_read():
    with jax.numpy_dtype_promotion("standard"), pytest.warns(zfjax.RuleWarning):
        _, project = zfjax.deconvnet(lambda x: jnp.where(x > 0, x, False), jnp.array([1.0, -1.0]))
    assert project(jnp.array([1.0, 2.0])).shape == (2,)
