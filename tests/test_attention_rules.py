"""Attention on the way down: its weights are held, and the signal passes through the values."""

import warnings

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from small_models import close, normal

import zfjax

X, SEED = normal((2, 5, 8)), normal((2, 5, 8), 1)
QUERY, KEY, VALUE, OUT = (normal((8, 8), number, 0.5) for number in range(2, 6))


def attention(x, softmax):
    q, k, v = (jnp.einsum("nld,de->nle", x, weights).reshape(2, 5, 2, 4) for weights in (QUERY, KEY, VALUE))
    weights = softmax(jnp.einsum("nqhd,nkhd->nhqk", q, k) / 2)
    return jnp.einsum("nhqk,nkhd->nqhd", weights, v).reshape(2, 5, 8) @ OUT


def held(softmax):
    return lambda x: lax.stop_gradient(softmax(x))


def by_hand(x):
    e = jnp.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def masked(x):
    mask = jnp.tril(jnp.ones((5, 5), bool))[None, None]
    return jax.nn.softmax(jnp.where(mask, x, jnp.float32(-1e9)))


SOFTMAXES = {
    "jax": jax.nn.softmax,
    "linen": lambda x: nn.softmax(x, axis=-1),
    "by hand": by_hand,
    "masked": masked,
    "masked after": lambda x: jax.nn.softmax(x, where=jnp.tril(jnp.ones((5, 5), bool))[None, None]),
    "half precision": lambda x: jax.nn.softmax(x.astype(jnp.bfloat16)).astype(x.dtype),
    "jit": jax.jit(jax.nn.softmax),
    "remat": jax.checkpoint(by_hand),
    "with dropout's mask": lambda x: jax.nn.softmax(x) * (jnp.arange(5.0) > 0) * 1.25,
}


def down(fun, rules=zfjax.DECONVNET, x=X, seed=SEED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zfjax.RuleWarning)
        return zfjax.backproject(fun, x, rules)[1](seed)


def by_vjp(fun, x=X, seed=SEED):
    return jax.vjp(fun, x)[1](seed)[0]


@pytest.mark.parametrize("name", SOFTMAXES)
def test_weights_are_held(name):
    softmax = SOFTMAXES[name]

    def fun(x, softmax=softmax):
        return attention(x, softmax)

    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        expected = by_vjp(lambda x: fun(x, held(softmax)))
        assert np.abs(expected - by_vjp(fun)).max() > 0.1 * np.abs(expected).max(), "the test cannot fail"
        with pytest.warns(zfjax.RuleWarning, match="^attention in the function: the papers give a rule for ReLU alone"):
            y, project = zfjax.deconvnet(lambda x: jax.nn.relu(fun(x)), X)
        close(project(SEED), by_vjp(lambda x: fun(x, held(softmax)), seed=jnp.maximum(SEED, 0)), 1e-5)
        close(y, jax.nn.relu(fun(X)), 1e-5)
        close(down(fun, zfjax.GUIDED), by_vjp(fun), 1e-5)


def test_of_libraries():
    linen = nn.MultiHeadDotProductAttention(2)
    variables = linen.init(jax.random.key(0), X, X)
    equinox = eqx.nn.MultiheadAttention(2, 8, key=jax.random.key(1))
    models = {
        "linen": (lambda x: linen.apply(variables, x, x), lambda x, kept: linen.apply(variables, kept, kept, x)),
        "equinox": (
            jax.vmap(lambda x: equinox(x, x, x)),
            lambda x, kept: jax.vmap(lambda x, kept: equinox(kept, kept, x))(x, kept),
        ),
        "jax": (
            lambda x: jax.nn.dot_product_attention(*[x[:, :, None]] * 3)[:, :, 0],
            lambda x, kept: jax.nn.dot_product_attention(*[kept[:, :, None]] * 2, x[:, :, None])[:, :, 0],
        ),
    }
    for fun, parted in models.values():
        close(down(jax.jit(fun)), by_vjp(lambda x, parted=parted: parted(x, X)), 1e-5)


OTHERS = {
    "classes": lambda x: jax.nn.softmax(x),
    "then dense": lambda x: jax.nn.softmax(x) @ OUT,
    "log": lambda x: jax.nn.log_softmax(x),
    "entropy": lambda x: (lambda p: p * jnp.log(p))(jax.nn.softmax(x)),
    "shares": lambda x: (lambda p: (p / p.sum(-1, keepdims=True)) * jnp.flip(x, 1))(jnp.sin(x) + 2),
    "the sum is needed": lambda x: (lambda e, total: e / total * jnp.flip(x, 1) + total)(
        jnp.exp(x), jnp.exp(x).sum(-1, keepdims=True)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_softmaxes_pass_their_derivative(name):
    with pytest.warns(zfjax.RuleWarning, match="no relu found"):
        _, project = zfjax.deconvnet(OTHERS[name], X)
    close(project(SEED), by_vjp(OTHERS[name]), 1e-5)


def test_weights_of_positions_and_of_branches():
    def pooled(x, softmax):
        return x * softmax(x @ OUT[:, :1]) + jnp.flip(x, 1)

    def over_positions(x):
        return jax.nn.softmax(x, axis=1)

    close(down(lambda x: pooled(x, over_positions)), by_vjp(lambda x: pooled(x, held(over_positions))), 1e-5)


def test_a_rule_of_ones_own():
    _, project = zfjax.backproject(
        lambda x: jax.nn.relu(attention(x, by_hand)), X, zfjax.DECONVNET.extend(attention=zfjax.rules.hold)
    )
    close(project(SEED), down(lambda x: attention(x, by_hand), seed=jnp.maximum(SEED, 0)), 1e-5)


def test_under_jit_and_vmap():
    def fun(x):
        return attention(x, jax.nn.softmax)

    expected = down(fun)
    close(jax.jit(lambda x: down(fun, x=x))(X), expected, 1e-5)
    _, project = jax.jit(lambda x: zfjax.backproject(fun, x, zfjax.GRADIENT.extend(attention=zfjax.rules.hold)))(X)
    close(jax.vmap(project)(jnp.stack([SEED, 2 * SEED]))[1], 2 * expected, 1e-5)
