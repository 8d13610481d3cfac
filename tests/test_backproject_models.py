"""What users have: nets of every library, against `jax.vjp` of the same net with another ReLU in it."""

import functools

import jax
import numpy as np
import pytest
from devices import ON_CPU, assert_same
from small_models import MODELS, close, deconv_relu, dense_seed, guided_relu

import zfjax

RULES = {"deconvnet": (zfjax.DECONVNET, deconv_relu), "guided": (zfjax.GUIDED, guided_relu)}

QUICK = {"xla_backend_optimization_level": 0} if ON_CPU else None  # what is compiled here runs once

each_model = pytest.mark.parametrize("name", MODELS)
each_rules = pytest.mark.parametrize("rules", RULES)


@functools.cache
def model(name):
    return MODELS[name]()


@functools.partial(jax.jit, static_argnums=0, compiler_options=QUICK)
def by_vjp(fun, x):
    y, pull = jax.vjp(fun, x)
    return y, pull(dense_seed(y))[0]


@functools.partial(jax.jit, static_argnums=(0, 2), compiler_options=QUICK)
def by_rules(fun, x, rules):
    y, project = zfjax.backproject(fun, x, rules)
    return y, project(dense_seed(y))


@functools.cache
def gradient(name):
    fun, x, _ = model(name)
    return jax.tree.map(np.asarray, by_vjp(fun, x))


@functools.cache
def projected(name, rules):
    fun, x, _ = model(name)
    return jax.tree.map(np.asarray, by_rules(fun, x, RULES[rules][0]))


@each_model
def test_without_rules_it_is_the_vjp(name):
    fun, x, _ = model(name)
    y, signal = by_rules(fun, x, zfjax.GRADIENT)
    assert_same((y, signal), gradient(name))
    assert signal.dtype == x.dtype


@each_model
@each_rules
def test_the_forward_pass_is_as_it_was(name, rules):
    close(projected(name, rules)[0], gradient(name)[0])


@each_model
@each_rules
def test_rules_are_the_vjp_of_the_net_with_that_relu(name, rules):
    _, x, oracle = model(name)
    close(projected(name, rules)[1], by_vjp(oracle(RULES[rules][1]), x)[1])


@each_model
@each_rules
def test_rules_matter(name, rules):
    _, plain = gradient(name)
    assert np.abs(projected(name, rules)[1] - plain).max() > 0.05 * np.abs(plain).max()


@each_model
def test_guided_is_not_the_deconvnet(name):
    deconvnet, guided = projected(name, "deconvnet")[1], projected(name, "guided")[1]
    assert np.abs(deconvnet - guided).max() > 0.05 * np.abs(guided).max()
