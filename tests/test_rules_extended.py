"""Rules of one's own: by the name of a jitted function or of a primitive."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import normal

import zfjax
from zfjax.transform import rules

X, SEED = normal((2, 4)), normal((2, 4), 1)
RECTIFIED = np.maximum(SEED, 0)


def signal(fun, x=X, seed=SEED, chosen=zfjax.DECONVNET):
    return zfjax.backproject(fun, x, chosen)[1](seed)


@jax.jit
def swish(x):
    return x * jax.nn.sigmoid(x)


def test_a_rule_acts_on_a_jitted_function_by_its_name():
    chosen = zfjax.DECONVNET.extend(swish=rules.rectify)
    got = signal(lambda x: jax.nn.relu(2 * swish(3 * jax.nn.relu(x))), chosen=chosen)
    np.testing.assert_allclose(got, 6 * RECTIFIED, rtol=1e-6)


def test_a_rule_acts_on_a_primitive_by_its_name():
    got = signal(lambda x: jnp.sin(jax.nn.relu(x)), chosen=zfjax.DECONVNET.extend(sin=rules.identity))
    np.testing.assert_array_equal(got, RECTIFIED)


def test_a_later_rule_replaces_an_earlier():
    chosen = zfjax.DECONVNET.extend(relu=rules.identity)
    np.testing.assert_array_equal(signal(jax.nn.relu, chosen=chosen), SEED)
    assert len(chosen.named) == len(zfjax.DECONVNET.named)


def test_a_rule_may_use_the_forward_value():
    def by_sign(equation, x):
        return lambda signal: signal * jnp.sign(x)

    np.testing.assert_allclose(signal(jax.nn.relu, chosen=zfjax.GRADIENT.extend(relu=by_sign)), SEED * np.sign(X))


def test_a_rule_that_is_never_found_warns_with_its_name():
    with pytest.warns(zfjax.RuleWarning, match="^no swihs found in the function") as caught:
        signal(lambda x: jnp.sin(jax.nn.relu(x)), chosen=zfjax.DECONVNET.extend(swihs=rules.rectify))
    assert len(caught) == 1


@pytest.mark.parametrize("wrong", [lambda g: g[:1], lambda g: g.astype(jnp.bfloat16), lambda g: (g, g), lambda g: ()])
def test_a_rule_with_a_wrong_result_is_named(wrong):
    chosen = zfjax.DECONVNET.extend(relu=lambda equation, x: wrong)
    with pytest.raises(ValueError, match=r"rule 'relu': gives .* below, expected .*2, 4.* like its input"):
        signal(jax.nn.relu, chosen=chosen)


def test_a_rule_for_a_function_of_two_inputs_is_refused():
    add = jax.jit(lambda a, b: a + b)
    chosen = zfjax.DECONVNET.extend(**{"<lambda>": rules.identity})
    with pytest.raises(ValueError, match=r"rule '<lambda>': expected .* one input that depends on x .*; got 2 of 2"):
        signal(lambda x: add(jax.nn.relu(x), jnp.sin(x)), chosen=chosen)


def test_a_rule_for_a_function_of_two_outputs_is_refused():
    @jax.jit
    def both(x):
        return jnp.sin(x), jnp.cos(x)

    with pytest.raises(ValueError, match=r"rule 'both': .* and 2 outputs"):
        signal(lambda x: sum(both(jax.nn.relu(x))), chosen=zfjax.DECONVNET.extend(both=rules.identity))


def test_inputs_that_do_not_depend_on_x_are_free():
    scaled = jax.jit(functools.wraps(swish)(lambda a, weights: a * weights))
    got = signal(
        lambda x: scaled(jax.nn.relu(x), jnp.arange(8.0).reshape(2, 4)),
        chosen=zfjax.DECONVNET.extend(swish=rules.identity),
    )
    np.testing.assert_array_equal(got, RECTIFIED)


def test_a_jitted_function_named_as_a_primitive_is_not_it():
    @jax.jit
    def reduce_max(x):
        return jnp.max(x, axis=1)

    signal(lambda x: reduce_max(jax.nn.relu(x)), X, jnp.ones(2))


@pytest.mark.parametrize("chosen", [zfjax.GRADIENT, zfjax.DECONVNET, zfjax.GUIDED])
def test_rules_may_be_static_arguments_of_jit(chosen):
    project = jax.jit(zfjax.backproject, static_argnums=(0, 2))(jax.nn.relu, X, chosen)[1]
    np.testing.assert_array_equal(project(SEED), signal(jax.nn.relu, chosen=chosen))


def test_extended_rules_are_hashable():
    assert hash(zfjax.DECONVNET.extend(swish=rules.rectify)) == hash(zfjax.DECONVNET.extend(swish=rules.rectify))


def test_rules_are_immutable():
    chosen = zfjax.DECONVNET.extend(swish=rules.rectify)
    assert chosen == zfjax.DECONVNET.extend(swish=rules.rectify)
    assert chosen != zfjax.DECONVNET
    assert "swish" not in dict(zfjax.DECONVNET.named)
    with pytest.raises(AttributeError):
        zfjax.DECONVNET.named = ()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((jnp.ones(3), jnp.ones(3), zfjax.DECONVNET), TypeError, "^fun: expected a function of x, got"),
        (
            (jnp.sin, jnp.ones(3), {"relu": zfjax.rules.rectify}),
            TypeError,
            "^rules: expected zfjax.DECONVNET, .* got dict",
        ),
        (
            (jax.nn.relu, jnp.ones(3), zfjax.GRADIENT.extend(relu=lambda equation, x: x)),
            ValueError,
            "^rule 'relu': expected it to return a function of the signal",
        ),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_arguments_are_named(arguments, error, message):
    with pytest.raises(error, match=message):
        zfjax.backproject(*arguments)


def test_a_window_as_large_as_the_map_compiles_at_once():
    """The cells of large windows are not unrolled; the adjoint is the same."""
    x = jax.random.normal(jax.random.key(0), (1, 40, 40, 3))

    def fun(x):
        return jax.lax.reduce_window(jax.nn.relu(x), -jnp.inf, jax.lax.max, (1, 40, 40, 1), (1, 1, 1, 1), "VALID")

    y, project = zfjax.deconvnet(fun, x)
    assert len(str(jax.make_jaxpr(lambda x: zfjax.deconvnet(fun, x)[1](y))(x))) < 20_000
    (expected,) = jax.vjp(fun, x)[1](y)
    np.testing.assert_allclose(project(y), expected, rtol=1e-6)
