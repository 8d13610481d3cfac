"""Rules that take all inputs of an equation, and what they can be chosen by."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import close, normal, randomized

import zfjax
from zfjax.transform import rules

X, SEED = normal((2, 4)), normal((2, 4), 1)
WEIGHTS = normal((4, 4), 2)


def signal(fun, chosen, x=X, seed=SEED):
    return zfjax.backproject(fun, x, chosen)[1](seed)


def noting(seen):
    """The gradient, which notes what it is called with."""

    @rules.takes_inputs
    def rule(equation, inputs):
        seen.append((equation, inputs))
        _, pull = jax.vjp(equation.of_signals(inputs), *(input.value for input in inputs if input.carries))
        return pull

    return rule


def weighted(x):
    return jnp.einsum("nk,nm->nk", x, jax.nn.relu(x) @ WEIGHTS)


CASES = {
    "a product of two signals": (lambda x: jnp.sin(x) @ jnp.cos(x).T, "dot_general", [True, True]),
    "an addition of branches": (lambda x: jnp.sin(x) + jnp.cos(x), "add", [True, True]),
    "an addition of a constant": (lambda x: jnp.sin(x) + WEIGHTS[:2], "add", [True, False]),
    "a value by itself": (lambda x: jnp.sin(x) * jnp.sin(x).astype(x.dtype), "mul", [True, True]),
    "a standard deviation": (lambda x: x / jnp.sqrt((x**2).mean(1, keepdims=True) + 0.1), "div", [True, True]),
    "weights before": (lambda x: WEIGHTS @ x.T, "dense", [False, True]),
    "weights": (lambda x: x @ WEIGHTS, "dense", [True, False]),
    "an einsum": (weighted, "dense", [True, False]),
}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_sees_all_inputs_and_which_carry_a_signal(case):
    """And with each equation's own derivative for a rule, the whole is the gradient."""
    fun, name, carrying = CASES[case]
    seen, seed = [], normal(fun(X).shape, 3)
    got = signal(fun, zfjax.GRADIENT.extend(**{name: noting(seen)}), seed=seed)
    close(got, jax.vjp(fun, X)[1](seed)[0])
    equation, inputs = seen[-1]
    assert (equation.name, [input.carries for input in inputs]) == (name, carrying)
    assert not any(input.value is None for input in inputs)


def test_each_input_that_carries_gets_its_own_signal():
    @rules.takes_inputs
    def first_alone(equation, inputs):
        return lambda signal: [signal, jnp.zeros_like(signal)]

    got = signal(lambda x: 2 * x + jnp.sin(x), zfjax.GRADIENT.extend(add=first_alone))
    np.testing.assert_array_equal(got, 2 * SEED)


# Linear layers.


def conv(x, kernel, **params):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), **params)


class Net(nn.Module):
    norm: bool = True

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="below")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True)(x) if self.norm else x)
        x = nn.relu(nn.Conv(6, (3, 3), strides=2, name="above")(x))
        return nn.Dense(3, name="head")(x.mean((1, 2)))


PIXELS = normal((2, 6, 6, 3))


def linen(**kinds):
    variables = randomized(jax.eval_shape(Net(**kinds).init, jax.random.key(0), PIXELS))
    return lambda x: Net(**kinds).apply(variables, x)


def seen_of(fun, x, chosen, **where):
    seen = []
    y, project = zfjax.backproject(fun, x, zfjax.GRADIENT.where(noting(seen), **where) if where else chosen(seen))
    seed = normal(y.shape, 5)
    close(project(seed), jax.vjp(fun, x)[1](seed)[0])
    return seen


def both(seen):
    return zfjax.GRADIENT.extend(convolution=noting(seen), dense=noting(seen))


@pytest.mark.parametrize("jitted", [False, True])
def test_linear_layers_are_their_bias_and_batch_norm_too(jitted):
    fun = linen()
    seen = seen_of(jax.jit(fun) if jitted else fun, PIXELS, both)
    assert [(equation.name, equation.layer, equation.nonnegative) for equation, _ in seen] == [
        ("convolution", (0, 3), False),
        ("convolution", (1, 3), True),
        ("dense", (2, 3), True),
    ]
    assert [equation.kind for equation, _ in seen] == ["add"] * 3
    image, kernel, _, *norm = seen[0][1]
    assert (image.carries, image.value.shape, kernel.value.shape) == (True, PIXELS.shape, (3, 3, 3, 4))
    assert len(norm) == 3  # mean, scale and shift
    assert len(seen[1][1]) == 3


def test_linear_layers_of_zfjaxs_own_nets_are_found_in_their_calls():
    net = zfjax.resnet18(3, width=1 / 16, image_size=32)
    x = normal((1, 32, 32, 3))
    fun = zfjax.layer(net, randomized(jax.eval_shape(net.init, jax.random.key(0), x)), "fc")
    seen = seen_of(fun, x, both)
    assert [equation.layer[0] for equation, _ in seen] == list(range(21))
    assert [equation.name for equation, _ in seen] == ["convolution"] * 20 + ["dense"]
    assert [equation.kind for equation, _ in seen] == ["add"] * 21  # the shift of batch norm, not the product before it
    assert [equation.nonnegative for equation, _ in seen] == [False] + [True] * 20


@pytest.mark.parametrize(
    ("above", "source"),
    [
        (lambda y: y, 1),
        (lambda y: y * jnp.arange(1.0, 5.0) + jnp.ones((2, 6, 6, 4)), 3),
        (lambda y: (y - jnp.ones(4)) / 3, 3),
        (lambda y: (2 * y).transpose(0, 3, 1, 2) * jnp.arange(1.0, 5.0).reshape(4, 1, 1), 4),
        (lambda y: y * jnp.arange(1.0, 7.0)[:, None], 1),  # a factor for each row is no weight of the convolution
        (lambda y: 1 - y, 1),
        (lambda y: y * jnp.abs(y), 1),
        (lambda y: jax.nn.gelu(y), 1),
        (lambda y: (y, y + 1), 1),
    ],
)
def test_a_layer_ends_where_it_is_no_longer_of_weights_and_a_bias(above, source):
    seen = []
    only_convolutions = zfjax.GRADIENT.extend(convolution=noting(seen))
    with jax.numpy_rank_promotion("allow"):
        zfjax.backproject(lambda x: above(conv(x, normal((3, 3, 3, 4)))), PIXELS, only_convolutions)
    ((equation, _),) = seen
    assert len(equation.source) == source


# Chosen by other marks.


def test_rules_are_chosen_by_the_number_of_the_layer():
    for number, place in ((0, 0), (1, 1), (-1, 2), (-3, 0)):
        ((equation, _),) = seen_of(linen(norm=False), PIXELS, None, layer=number)
        assert equation.layer == (place, 3)


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ({"scope": "*above", "name": "conv_general_dilated"}, 1),
        ({"scope": "*above", "name": "convolution"}, 1),
        ({"scope": "Net/*", "name": "relu"}, 0),
        ({"scope": "Net", "name": "relu"}, 2),
        ({"scope": "Net/h?ad"}, 2),
        ({"when": lambda equation: equation.name == "dense" and len(equation.variables) == 3}, 1),
    ],
)
def test_rules_are_chosen_by_scope_and_by_any_function(where, count):
    if count:
        assert len(seen_of(linen(norm=False), PIXELS, None, **where)) == count
    else:
        with pytest.warns(zfjax.RuleWarning, match="no equation with name 'relu' and scope 'Net/\\*' in the function"):
            seen_of(linen(norm=False), PIXELS, None, **where)


def test_scopes_reach_into_calls():
    @jax.jit
    def inner(x):
        with jax.named_scope("inner"):
            return jnp.sin(x)

    def fun(x):
        with jax.named_scope("outer"):
            return inner(jnp.cos(x))

    chosen = zfjax.GRADIENT.where(rules.identity, name="sin", scope="outer/inner")
    np.testing.assert_array_equal(signal(fun, chosen), -SEED * jnp.sin(X))


def test_the_later_rule_wins():
    def fun(x):
        with jax.named_scope("here"):
            return jnp.sin(x)

    scoped = zfjax.GRADIENT.where(rules.identity, scope="here")
    np.testing.assert_array_equal(signal(fun, scoped), SEED)
    np.testing.assert_array_equal(signal(fun, scoped.extend(sin=rules.rectify)), np.maximum(SEED, 0))
    again = scoped.extend(sin=rules.rectify).where(rules.identity, scope="here")
    np.testing.assert_array_equal(signal(fun, again), SEED)
    assert len(again.named) == 2
    assert hash(again) == hash(scoped.extend(sin=rules.rectify).where(rules.identity, scope="here"))


def test_rules_of_one_input_can_be_chosen_by_marks_too():
    def doubled(equation, x):
        return lambda signal: 2 * signal

    close(signal(jnp.sin, zfjax.GRADIENT.where(doubled, when=lambda equation: equation.kind == "sin")), 2 * SEED)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: zfjax.GRADIENT.where(rules.identity), "^where: expected a name, scope, layer or when"),
        (lambda: signal(lambda x: x @ x.T @ x, zfjax.GRADIENT.extend(dot_general=rules.identity)), "got 2 of 2 inputs"),
        (lambda: signal(jnp.sin, zfjax.GRADIENT.extend(sin=halved)), "gives .* below, expected .* like its input"),
        (lambda: signal(lambda x: x * jnp.sin(x), zfjax.GRADIENT.extend(mul=halved)), "expected 2, .* like its inputs"),
        (lambda: signal(split, zfjax.GRADIENT.extend(split=halved)), "rule 'split': expected .* one output, got 2"),
    ],
)
def test_what_a_rule_cannot_do_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@rules.takes_inputs
def halved(equation, inputs):
    return lambda signal: [signal[:1]]


def split(x):
    above, below = jnp.split(x, 2, axis=1)
    return jnp.concatenate([jnp.sin(above), below], axis=1)


def test_the_gradient_takes_back_a_rule():
    chosen = zfjax.GRADIENT.extend(sin=rules.rectify).where(
        rules.gradient, when=lambda equation: equation.kind == "sin"
    )
    np.testing.assert_array_equal(signal(jnp.sin, chosen), signal(jnp.sin, zfjax.GRADIENT))


def test_a_rule_that_has_the_result_may_return_it():
    @rules.takes_inputs
    def doubled(equation, inputs):
        return rules.Evaluated(jnp.float32(7) * inputs[0].value, lambda signal: [2 * signal])

    y, project = zfjax.backproject(lambda x: jnp.sin(x) + 1, jnp.ones(3), zfjax.GRADIENT.extend(sin=doubled))
    np.testing.assert_array_equal(y, np.full(3, 8.0))  # its result, not the sine
    np.testing.assert_array_equal(project(jnp.ones(3)), np.full(3, 2.0))
