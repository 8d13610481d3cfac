"""Rules inside of scans and branches: the same as if these were written out."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from lens_nets import assert_close
from small_models import normal

import zfjax
from zfjax import attribution, rules
from zfjax.transform.relevance import Epsilon, Flat

pytestmark = pytest.mark.filterwarnings("ignore:gelu")  # the papers have no rule for it, nor for attention
SETS = ("DECONVNET", "GUIDED", "LRP_ZERO", "EPSILON_PLUS", "EPSILON_GAMMA_BOX", "EPSILON_ALPHA2_BETA1_FLAT")
X = normal((2, 6, 6, 4), 9)
KERNELS, BIASES = normal((3, 3, 3, 4, 4), 1, 0.3), normal((3, 1, 1, 1, 4), 2, 0.1)
HEAD, STEM = normal((4, 3), 4), normal((3, 3, 4, 4), 5, 0.3)
SEED = normal((2, 3), 7)


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def residual(x, kernel, bias):
    return x + jax.nn.relu(conv(x, kernel) + bias)


def written_out(block, x, *weights, reverse=False):
    steps, out = range(len(weights[0])), []
    for i in reversed(steps) if reverse else steps:
        x, y = block(x, *(weight[i] for weight in weights))
        out.append(y)
    return x, jax.tree.map(lambda *ys: jnp.stack(ys), *(out[::-1] if reverse else out))


def scanned(block, x, *weights, reverse=False):
    return lax.scan(lambda x, weights: block(x, *weights), x, weights, reverse=reverse)


def plain(loop, x):
    """No layer is outside but the head."""
    x, _ = loop(lambda x, *weights: (residual(x, *weights), 0.0), x, KERNELS, BIASES)
    return x.mean((1, 2)) @ HEAD


def stemmed(loop, x):
    return plain(loop, jax.nn.relu(conv(x, STEM)))


def gathered(loop, x, start=lambda x: x / 2):
    """What each block gives counts too; one kernel is shared by all; from the last to the first."""
    images = jnp.stack([x, jnp.roll(x, 1, 1), -x])

    def block(state, kernel, image):
        state = jax.nn.relu(conv(state, STEM) + conv(image, kernel))
        return state, jax.nn.gelu(state.mean((1, 2)))

    state, each = loop(block, start(x), KERNELS, images, reverse=True)
    return (each.sum(0) + jnp.max(state, axis=(1, 2))) @ HEAD


def idle(loop, x):
    """Nothing needs what each block gives, nor one of the states, which are of all kinds."""

    def block(state, kernel, bias):
        x, count, unread = state
        x = residual(x, kernel, bias)
        return (x, count + 1, unread + x), (x[0], count)

    (x, _, _), (_, counts) = loop(block, (x, jnp.int32(0), x), KERNELS, BIASES)
    return x.mean((1, 2)) @ HEAD * counts.sum().astype(x.dtype)


def transformer(loop, x):
    def norm(x):
        x = x - x.mean(-1, keepdims=True)
        return x * lax.rsqrt((x**2).mean(-1, keepdims=True) + 1e-5)

    def block(x, query, key, value, up):
        y = norm(x)
        weights = jax.nn.softmax((y @ query) @ (y @ key).mT / 2)
        x = x + weights @ (y @ value)
        return x + jax.nn.gelu(norm(x) @ up), x.mean()

    x, means = loop(block, x.reshape(2, 36, 4)[:, :5] @ STEM[0, 0], *(normal((2, 4, 4), i, 0.5) for i in range(4)))
    return x.mean(1) @ HEAD + means.sum()


def nested(loop, x):
    def outer(x, kernels, biases):
        return loop(lambda x, *weights: (residual(x, *weights), 0.0), x, kernels, biases)[0], 0.0

    twice = jnp.stack([KERNELS[:2], KERNELS[1:]]), jnp.stack([BIASES[:2], BIASES[1:]])
    return loop(outer, jax.nn.relu(conv(x, STEM)), *twice)[0].mean((1, 2)) @ HEAD


NETS = {net.__name__: net for net in (plain, stemmed, gathered, idle, transformer, nested)}


def both(net, chosen):
    """Value, signal from one scan and one net written out, in one program."""

    @jax.jit
    def compiled(x, seed):
        return [down(functools.partial(net, loop), x, chosen, seed) for loop in (scanned, written_out)]

    return compiled(X, SEED)


def down(fun, x, chosen, seed):
    y, project = zfjax.backproject(fun, x, chosen)
    return y, project(seed)


@pytest.mark.filterwarnings("ignore:attention")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ("GUIDED", "EPSILON_PLUS") else ()) for name in SETS]
)
@pytest.mark.parametrize("net", NETS)
def test_a_scan_is_what_it_would_be_written_out(net, name):
    (y, found), (z, expected) = both(NETS[net], getattr(rules, name))
    np.testing.assert_allclose(y, z, rtol=1e-5, atol=1e-5)
    assert np.abs(expected).max() > 1e-3
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("name", ["DECONVNET", "GUIDED", "LRP_ZERO"])
def test_a_carry_may_start_without_a_signal(name):
    (_, found), (_, expected) = both(functools.partial(gathered, start=jnp.zeros_like), getattr(rules, name))
    assert_close(found, expected, 1e-4)


@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
def test_layers_count_anew_in_each_iteration(layer):
    chosen = rules.LRP_ZERO.where(Epsilon(0.5), layer=layer)
    (_, found), (_, expected) = both(plain, chosen)
    assert_close(found, expected, 1e-5)
    plainly = plain_by_lrp_zero()
    assert np.abs(found - plainly).max() > 1e-3 * np.abs(plainly).max()


@functools.cache
def plain_by_lrp_zero():
    (_, plainly), _ = both(plain, rules.LRP_ZERO)
    return plainly


def test_a_number_beyond_the_last_iteration_is_warned_of():
    with pytest.warns(zfjax.RuleWarning, match="no equation with layer 4 in the function"):
        zfjax.backproject(functools.partial(plain, scanned), X, rules.LRP_ZERO.where(Flat(), layer=4))


BRANCHES = (
    lambda x: jax.nn.relu(conv(x, STEM)),
    lambda x: jax.nn.relu(conv(jax.nn.relu(conv(x, KERNELS[0]) + 1), KERNELS[1])),
    lambda x: 2 * x,
)


@pytest.mark.parametrize("name", ["DECONVNET", "EPSILON_GAMMA_BOX"])
@pytest.mark.parametrize("number", range(3))
def test_a_cond_is_the_branch_that_it_takes(name, number):
    def fun(branch, x):
        return branch(conv(x, STEM)).mean((1, 2)) @ HEAD

    chosen = rules.Rules(getattr(rules, name).named)  # the last branch has no ReLU

    @jax.jit
    def both_ways(number_there, x):
        switched = functools.partial(lax.switch, number_there, BRANCHES)
        return [down(functools.partial(fun, branch), x, chosen, SEED) for branch in (switched, BRANCHES[number])]

    (y, found), (z, expected) = both_ways(jnp.int32(number), X)
    np.testing.assert_allclose(y, z, rtol=1e-5)
    assert_close(found, expected, 1e-5)


def test_a_branch_of_which_not_all_is_needed():
    def fun(x):
        y, _ = lax.cond(x.sum() > -1e9, lambda x: (jax.nn.relu(conv(x, STEM)), 2 * x), lambda x: (x, x), x)
        return y.mean((1, 2)) @ HEAD

    found, expected = (
        attribution.lrp(each, X, 1, rules=rules.EPSILON_PLUS).attributions
        for each in (fun, lambda x: jax.nn.relu(conv(x, STEM)).mean((1, 2)) @ HEAD)
    )
    assert_close(found, expected)


def test_half_precision_in_a_scan():
    def fun(loop, x):
        weights = (weight.astype(jnp.bfloat16) for weight in (KERNELS, BIASES))
        x, _ = loop(lambda x, *weights: (residual(x, *weights), x), x.astype(jnp.bfloat16), *weights)
        return x.astype(jnp.float32).mean((1, 2)) @ HEAD

    for name in ("EPSILON_PLUS", "EPSILON_GAMMA_BOX"):
        found, expected = (
            attribution.lrp(functools.partial(fun, loop), X, 1, rules=getattr(rules, name)).attributions
            for loop in (scanned, written_out)
        )
        assert np.corrcoef(np.ravel(found), np.ravel(expected))[0, 1] > 0.999


@pytest.mark.parametrize("kind", ["Auto", "Explicit"])
def test_scans_of_sharded_images_stay_sharded(kind):
    if len(jax.devices()) < 2:
        pytest.skip("there are fewer devices than images")
    mesh = jax.make_mesh((2,), ("n",), devices=jax.devices()[:2], axis_types=(getattr(jax.sharding.AxisType, kind),))

    def signal(x, seed):
        return down(functools.partial(stemmed, scanned), x, rules.EPSILON_GAMMA_BOX, seed)[1]

    alone = jax.jit(signal)(X, SEED)
    with jax.set_mesh(mesh):
        spread = jax.device_put((X, SEED), jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("n")))
        found = jax.jit(signal)(*spread)
    assert found.sharding.spec[0] == "n"
    assert_close(jax.device_get(found), jax.device_get(alone))


@pytest.mark.parametrize("name", ["GUIDED", "EPSILON_PLUS"])
def test_loops_under_transformations(name):
    """Under vmap, also over a branch's number; and derivatives of the signal."""
    chosen = getattr(rules, name)

    def fun(loop, number, x):
        branches = [lambda x: jax.nn.relu(conv(x, STEM)), lambda x: jax.nn.relu(-conv(x, STEM))]
        x = lax.switch(number, branches, x) if loop is scanned else jnp.where(number, branches[1](x), branches[0](x))
        return stemmed(loop, x)

    def signal(number, x):
        return down(functools.partial(fun, scanned, number), x, chosen, SEED)[1]

    numbers, many = np.arange(2, dtype=np.int32), np.stack([X, X[:, ::-1]])
    mapped, alone = jax.jit(jax.vmap(signal))(numbers, many), jax.jit(signal)
    for i in range(2):
        assert_close(mapped[i], alone(numbers[i], many[i]), 1e-4)

    def loss(loop, x):
        y, project = zfjax.backproject(functools.partial(stemmed, loop), x, chosen)
        return (project(SEED + y**2) ** 2).sum()

    gradients = (jax.jit(jax.grad(functools.partial(loss, loop)))(X) for loop in (scanned, written_out))
    assert_close(*gradients, 1e-4)


def test_what_all_iterations_share_is_kept_once():
    """A tape of a hundred iterations holds one copy of their kernel, and no copy of kernels that are cut up."""

    def fun(kernel, kernels, x):
        return lax.scan(lambda x, each: (jax.nn.relu(x @ kernel) @ each, None), x, kernels)[0]

    kernel, kernels, x = normal((50, 50)), normal((100, 50, 50)), normal((1, 50))
    _, project = jax.eval_shape(
        lambda *args: zfjax.backproject(functools.partial(fun, *args[:2]), args[2], rules.LRP_ZERO), kernel, kernels, x
    )
    sizes = [leaf.size for leaf in jax.tree.leaves(project)]
    assert max(sizes) == kernels.size
    assert sum(sizes) < 2.5 * kernels.size


class Block(nn.Module):
    @nn.compact
    def __call__(self, x, _):
        return x + nn.relu(nn.Dense(4)(nn.relu(nn.Dense(8)(x)))), None


class Stacked(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4)(x.mean((1, 2)))
        blocks = nn.scan(nn.remat(Block), variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
        return nn.Dense(3)(blocks()(x, None)[0])


@pytest.mark.parametrize("name", ["DECONVNET", "EPSILON_PLUS"])
def test_nn_scan_is_entered(name):
    variables = jax.jit(Stacked().init)(jax.random.key(0), X)
    params = variables["params"]
    (scope,) = set(params) - {"Dense_0", "Dense_1"}

    def apart(x):
        x = nn.Dense(4).apply({"params": params["Dense_0"]}, x.mean((1, 2)))
        for i in range(3):
            x = Block().apply({"params": jax.tree.map(lambda leaf, i=i: leaf[i], params[scope])}, x, None)[0]
        return nn.Dense(3).apply({"params": params["Dense_1"]}, x)

    (_, found), (_, expected) = jax.jit(
        lambda x: [
            down(fun, x, getattr(rules, name), jnp.ones((2, 3)))
            for fun in (functools.partial(Stacked().apply, variables), apart)
        ]
    )(X)
    assert_close(found, expected, 1e-5)


def test_what_a_scan_carries_from_relu_to_relu_has_no_negative_numbers():
    """So that z⁺ takes one product for it, not two. In the last net every block takes something off."""

    def below(loop, x):
        x, _ = loop(lambda x, *weights: (residual(x, *weights) - 0.1, 0.0), jax.nn.relu(x), KERNELS, BIASES)
        return x.mean((1, 2)) @ HEAD

    def known(net):
        seen = []
        note = rules.LRP_ZERO.where(Flat(), when=lambda equation: seen.append((equation.layer, equation.nonnegative)))
        zfjax.backproject(functools.partial(net, scanned), X, note)
        return {layer[0]: nonnegative for layer, nonnegative in seen if layer}

    with pytest.warns(zfjax.RuleWarning, match="no equation with when <lambda>"):
        assert known(stemmed)[1]
    with pytest.warns(zfjax.RuleWarning, match="no equation with when <lambda>"):
        assert not known(plain)[0]
    with pytest.warns(zfjax.RuleWarning, match="no equation with when <lambda>"):
        assert not known(below)[0]


def test_relevance_is_conserved_through_a_scan():
    def fun(x):
        x = lax.scan(lambda x, kernel: (residual(x, kernel, 0.0), None), x, KERNELS)[0]
        return x.mean((1, 2)) @ HEAD

    found = attribution.lrp(fun, X, [0, 2], rules=rules.EPSILON_PLUS)
    assert np.all(np.abs(found.error) <= 1e-3 * np.abs(fun(X)[jnp.arange(2), jnp.array([0, 2])]))
