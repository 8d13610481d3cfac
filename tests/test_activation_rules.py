"""What the deconvnet and guided backprop do at GELU, SiLU, leaky ReLU and the like, by formulas written out here."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_forms import FORMS
from small_models import close, normal

import zfjax

X, WEIGHTS, SEED = normal((3, 6)), normal((6, 6), 1), normal((3, 6), 2)
RULES = {"deconvnet": zfjax.DECONVNET, "guided": zfjax.GUIDED}
FEW = (
    "jax",
    "ONNX",
    "nnx",
    "equinox",
    "by exp",
    "by hand",
    "where",
    "celu",
    "two maxima",
)  # all are in test_activations
RULED = [
    pytest.param(name, form, id=f"{name}: {form}")
    for name in ("gelu", "silu", "hard_swish", "mish", "elu", "leaky_relu")
    for form in FEW
    if form in FORMS[name]
]
pytestmark = pytest.mark.usefixtures("promoting")


@pytest.fixture
def promoting():
    """Forms as people write them."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def activation(fun, kind, name):
    """The function with the rule's way down as its derivative."""

    def down(x, signal):
        _, pull = jax.vjp(fun, x)
        if name == "leaky_relu":
            through = jnp.where(signal > 0, signal, -fun(jnp.full_like(x, -1)) * signal)
            return pull(through)[0] if kind == "guided" else through
        rectified = jnp.maximum(signal, 0)
        return jnp.where(x > 0, rectified, 0) if kind == "guided" else rectified

    ruled = jax.custom_vjp(lambda x: fun(x))
    ruled.defvjp(lambda x: (fun(x), x), lambda x, signal: (down(x, signal),))
    return ruled


def net(fun):
    return lambda x: jnp.sin(fun(3 * x @ WEIGHTS)) @ WEIGHTS.T


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize(("name", "form"), RULED)
def test_the_way_down_is_the_formula(name, form, kind):
    fun = FORMS[name][form]
    with pytest.warns(zfjax.RuleWarning, match=f"^{name} in the function: the papers give a rule for ReLU") as caught:
        y, project = zfjax.backproject(net(fun), X, RULES[kind])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    close(y, net(fun)(X), 1e-5)
    close(project(SEED), jax.vjp(net(activation(fun, kind, name)), X)[1](SEED)[0], 1e-5)


def signal(fun, rules, x=X, seed=SEED):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", zfjax.RuleWarning)
        return zfjax.backproject(fun, x, rules)[1](seed)


@pytest.mark.parametrize("kind", RULES)
@pytest.mark.parametrize("name", ["gelu", "leaky_relu"])
def test_under_jit_vmap_and_grad(name, kind):
    fun, rules = net(FORMS[name]["jax"]), RULES[kind]
    expected = jax.vjp(net(activation(FORMS[name]["jax"], kind, name)), X)[1](SEED)[0]
    close(jax.jit(lambda x, seed: signal(fun, rules, x, seed))(X, SEED), expected, 1e-5)
    one = jax.vmap(lambda x, seed: signal(lambda x: fun(x[None])[0], rules, x, seed))
    close(one(X, SEED), expected, 1e-5)
    scale = jax.grad(lambda scale: signal(fun, rules, X, scale * SEED).sum())(1.0)
    np.testing.assert_allclose(scale, expected.sum(), rtol=1e-3)


def test_signals_keep_their_scale():
    """However strong the seed, the picture is the same."""
    for kind in RULES:
        for name in ("gelu", "silu", "elu", "leaky_relu"):
            fun = net(FORMS[name]["jax"])
            close(signal(fun, RULES[kind], seed=100 * SEED), 100 * signal(fun, RULES[kind]), 1e-5)


@pytest.mark.parametrize("name", ["gelu", "leaky_relu"])
def test_without_pools_the_deconvnet_shows_the_same_for_every_image(name):
    """As the page on one's own model says; guided backprop does not."""
    activation, other = FORMS[name]["jax"], jnp.flip(X, 0)

    def fun(x):
        return activation(activation(x @ WEIGHTS) @ WEIGHTS.T)

    close(signal(fun, zfjax.DECONVNET), signal(fun, zfjax.DECONVNET, other))
    guided = signal(fun, zfjax.GUIDED)
    assert np.abs(guided - signal(fun, zfjax.GUIDED, other)).max() > 0.1 * np.abs(guided).max()


def test_selu_is_an_elu_and_its_factor():
    factor = jax.nn.selu(1.0)
    close(signal(jax.nn.selu, zfjax.DECONVNET), factor * jnp.maximum(SEED, 0))


@pytest.mark.parametrize("kind", RULES)
def test_each_slope_of_a_prelu_counts(kind):
    slopes = jnp.linspace(0.1, 0.6, 6)

    def prelu(x, slopes=slopes):
        return jnp.where(x > 0, x, slopes * x)

    up = jnp.where(X > 0, 1, slopes) if kind == "guided" else 1
    close(signal(prelu, RULES[kind]), up * jnp.where(SEED > 0, SEED, slopes * SEED))
    jitted = jax.jit(lambda slopes: signal(lambda x: prelu(x, slopes), RULES[kind]))
    close(jitted(slopes), signal(prelu, RULES[kind]))


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_half_precision_on_the_way(name):
    """The cast into and out of another precision belongs to what is around."""

    def fun(x):
        return FORMS[name]["half precision"](2 * x).astype(x.dtype)

    close(signal(fun, zfjax.DECONVNET), 2 * jnp.maximum(SEED, 0), 1e-2)

    def both(x):  # one factor is cast, the other not
        return x.astype(jnp.bfloat16).astype(x.dtype) * jax.nn.sigmoid(x.astype(jnp.bfloat16)).astype(x.dtype)

    close(signal(both, zfjax.DECONVNET), jnp.maximum(SEED, 0), 1e-2)


def test_several_are_named_in_one_warning_and_relus_beside_them_too():
    with pytest.warns(zfjax.RuleWarning, match=r"^gelu and silu in .* rules\.extend\(gelu=…\)") as caught:
        zfjax.deconvnet(lambda x: jax.nn.relu(jax.nn.silu(jax.nn.gelu(x))), X)
    assert len(caught) == 1


def test_in_a_loop_it_is_found_too():
    def fun(x):
        return jax.lax.scan(lambda x, w: (jax.nn.gelu(w * x), None), x, jnp.array([1.0, 2.0]))[0]

    with pytest.warns(zfjax.RuleWarning, match="^gelu in the function: ") as caught:
        _, project = zfjax.deconvnet(fun, X)
    assert len(caught) == 1
    close(project(SEED), 2 * jnp.maximum(SEED, 0))


def global_response_norm(x):
    norm = jnp.sqrt((x**2).sum(0, keepdims=True))
    return x + x * norm / (norm.mean(1, keepdims=True) + 1e-6)


def layer_norm(x):
    centered = x - x.mean(1, keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(1, keepdims=True) + 1e-5)


NO_RULE = {
    "softplus": jax.nn.softplus,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "hard tanh": jax.nn.hard_tanh,
    "GLU": lambda x: x * jax.nn.sigmoid(x @ WEIGHTS),
    "squeeze and excite": lambda x: x * jax.nn.sigmoid(x.mean(0, keepdims=True) @ WEIGHTS),
    "layer norm": layer_norm,
    "instance norm": lambda x: layer_norm(x.T).T,
    "RMS norm": lambda x: x / jnp.sqrt((x**2).mean(1, keepdims=True) + 1e-5),
    "global response norm": global_response_norm,
    "softmax": jax.nn.softmax,
}


@pytest.mark.parametrize("name", NO_RULE)
def test_what_has_no_rule_passes_its_derivative(name):
    for rules in RULES.values():
        with pytest.warns(zfjax.RuleWarning, match="no relu found"):
            _, project = zfjax.backproject(NO_RULE[name], X, rules)
        close(project(SEED), jax.vjp(NO_RULE[name], X)[1](SEED)[0], 1e-5)


# Rules of one's own.


def test_a_rule_of_ones_own_replaces_ours_and_warns_of_nothing():
    for form in ("jax", "PyTorch"):
        chosen = zfjax.DECONVNET.extend(gelu=zfjax.rules.identity)
        _, project = zfjax.backproject(FORMS["gelu"][form], X, chosen)
        np.testing.assert_array_equal(project(SEED), SEED)


def test_a_rule_gets_the_activation_as_a_function_of_x():
    def by_value(activation, x):
        assert activation.name == "silu"
        y = activation.fun(x)
        return lambda signal: signal * y

    got = signal(lambda x: x / (1 + jnp.exp(-x)), zfjax.GRADIENT.extend(silu=by_value))
    close(got, SEED * jax.nn.silu(X))


def test_what_is_inside_of_an_activation_has_its_own_rule_if_the_whole_has_none():
    got = signal(jax.nn.gelu, zfjax.GRADIENT.extend(tanh=lambda equation, x: lambda signal: 0 * signal))
    held = jax.vjp(lambda x: 0.5 * x * (1 + jax.lax.stop_gradient(2 * jax.nn.gelu(X) / X - 1)), X)[1](SEED)[0]
    close(got, held, 1e-5)


def test_a_function_that_is_called_gelu_and_is_none():
    @jax.jit
    def gelu(x, y):
        return x * jnp.tanh(y)

    def fun(x):
        return gelu(jax.nn.relu(x), x)

    _, project = zfjax.deconvnet(fun, X)  # no rule for it, so none that expects one input
    assert project(SEED).shape == X.shape


def test_activations_across_calls():
    """Their equations in different calls; but what is computed with them in one call stays there."""
    parts = lambda x: x * jax.jit(lambda x: jax.checkpoint(jax.nn.sigmoid)(x))(x)  # noqa: E731
    close(signal(parts, zfjax.DECONVNET), jnp.maximum(SEED, 0))

    @jax.jit
    def both(x):
        h = jnp.sin(x)
        return h, jax.nn.sigmoid(h)

    def fun(x):
        h, gate = both(x)
        return h * gate

    close(signal(fun, zfjax.DECONVNET), jax.vjp(fun, X)[1](SEED)[0])


def test_a_gelu_whose_inside_is_returned_passes_its_derivative():
    def fun(x):
        gate = jax.nn.sigmoid(x)
        return x * gate, gate

    seeds = SEED, jnp.flip(SEED, 0)
    close(signal(fun, zfjax.DECONVNET, seed=seeds), jax.vjp(fun, X)[1](seeds)[0])
