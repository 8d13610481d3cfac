"""Functions as arguments of compiled programs: what they hold, under which transformations, and what they refuse."""

import functools
import gc
import weakref

import jax
import jax.extend.core as jex
import jax.numpy as jnp
import numpy as np
import pytest
from compiles import compiles
from devices import assert_same
from jax.tree_util import Partial
from lens_nets import IMAGES, NET, TARGETS, WEIGHTS, assert_close, draw, logits_of

import zfjax
from zfjax import attribution as lenses
from zfjax.experiments.gallery import top_activations
from zfjax.models import ConvNet, specs
from zfjax.ops.arguments import kept
from zfjax.transform import programs

KEY = jax.random.key(0)
ASKS = {
    "gradient": lambda fun: lenses.gradient(fun, IMAGES, TARGETS),
    "guided_backprop": lambda fun: lenses.guided_backprop(fun, IMAGES, TARGETS),
    "score_cam": lambda fun: lenses.score_cam(fun, IMAGES, TARGETS, IMAGES[:, ::2, ::2]),
    "guided_grad_cam": lambda fun: lenses.guided_grad_cam((lambda x: x, fun), IMAGES, TARGETS),
    "maximize": lambda fun: lenses.maximize(fun, 0, KEY, size=(8, 10), n_steps=2),
    "occlusion": lambda fun: zfjax.occlusion(fun, IMAGES[0], 4, 4),
    "top_activations": lambda fun: top_activations(fun, [IMAGES], 1),
    "deconvnet": lambda fun: zfjax.deconvnet(fun, IMAGES),
}


@pytest.mark.parametrize("name", ASKS)
def test_weights_are_not_kept(name):
    """A loop over checkpoints must not fill the memory with those that it has seen."""
    weights = jax.device_put(jax.tree.map(lambda leaf: leaf + 1, WEIGHTS))
    seen = [weakref.ref(leaf) for leaf in jax.tree.leaves(weights)]
    ASKS[name](lambda x, weights=weights: logits_of(weights, x))
    del weights
    gc.collect()
    assert not any(one() is not None for one in seen)


def test_another_layer_of_weights_is_not_compiled_again():
    """Those of `zfjax.layer` are not even traced."""
    net = ConvNet((specs.Conv("conv1", 4, (3, 3)), specs.ReLU("relu1"), specs.MeanPool("mean1")), 10)
    kernel = jnp.asarray(draw((3, 3, 3, 4), 0))
    found = []
    for scale in (1.0, 2.0):
        variables = {"params": {"conv1": {"kernel": scale * kernel, "bias": jnp.zeros(4)}}}
        with compiles() as compiled:
            found.append(lenses.gradient(zfjax.layer(net, variables, "mean1"), IMAGES, 3))
    assert not compiled
    assert_close(found[1], 2 * found[0])


def _mapped(layer):
    return lambda x: jax.lax.map(layer, x[:, None])[:, 0]


def _branched(layer):
    return lambda x: jax.lax.cond(x[0, 0, 0, 0] < 1e9, layer, lambda x: layer(2 * x), x)


def _scanned(layer):
    return lambda x: jax.lax.scan(lambda total, _: (total + layer(x), None), jnp.zeros((len(x), 4)), None, length=2)[0]


def _counted(layer):  # JAX does not differentiate it in reverse
    return lambda x: jax.lax.while_loop(
        lambda carry: jnp.any(layer(x) > 1e9) | (carry[0] < 2),
        lambda carry: (carry[0] + 1, carry[1] + layer(x)),
        (0, jnp.zeros((len(x), 4))),
    )[1]


ELSEWHERE = jex.Primitive("elsewhere")  # no platform has it
ELSEWHERE.def_abstract_eval(lambda x: x)


def _by_platform(layer):  # what is for other platforms cannot be compiled here, nor differentiated
    return lambda x: jax.lax.platform_dependent(
        x, cpu=layer, cuda=layer, tpu=layer, default=lambda x: ELSEWHERE.bind(layer(x))
    )


@pytest.mark.parametrize(
    "around",
    [
        jax.jit,
        jax.checkpoint,
        _mapped,
        _branched,
        _by_platform,
        _scanned,
        _counted,
        lambda layer: jax.checkpoint(_mapped(layer)),
    ],
)
def test_arrays_that_jitted_functions_inside_close_over(around):
    """They are arguments of the program too: new ones need no new program, and old ones are not kept."""
    ask = ASKS["score_cam" if around in (_counted, _by_platform) else "gradient"]

    def scaled(weights, x):
        return x * weights["scale"].reshape(1, 1, 1, 3)

    def jitted(weights):
        layer = jax.jit(lambda x: logits_of(weights, x))
        return around(lambda x: layer(jax.jit(lambda x: scaled(weights, x))(x)))

    def plain(weights):
        return around(lambda x: logits_of(weights, scaled(weights, x)))

    every = [jax.device_put(WEIGHTS | {"scale": np.full(3, scale, np.float32)}) for scale in (1, 3)]
    seen = [weakref.ref(leaf) for leaf in jax.tree.leaves(every)]
    found = [ask(jitted(every[0]))]
    with compiles() as compiled:
        found.append(ask(jitted(every[1])))
    assert not compiled
    for answer, weights in zip(found, every, strict=True):
        assert_close(answer, ask(plain(weights)))
    del every, weights, found, answer
    gc.collect()
    assert not any(one() is not None for one in seen)


def test_programs_are_kept_up_to_a_number():
    x, seen = jnp.ones(2), []
    for number in range(programs.KEPT + 3):
        trace = programs.trace(lambda x, number=number: x + jnp.float32(number), [x])
        jax.eval_shape(trace, [x])  # all but compiled
        seen.append(weakref.ref(trace.program))
    del trace
    gc.collect()
    assert [one() is not None for one in seen] == [False] * 3 + [True] * programs.KEPT


def test_a_projection_of_weights_and_images_that_are_written_to():
    """What was projected up is what is projected down, whatever becomes of NumPy's arrays meanwhile."""
    weights, images = np.array(draw((6, 4), 0)), np.array(IMAGES)
    for rules in (zfjax.DECONVNET, zfjax.GRADIENT):
        y, project = zfjax.backproject(
            lambda x: jax.nn.relu((x * jnp.flip(x, 1)).mean((1, 2)) @ weights[:3]), images, rules
        )
        before = np.array(project(jnp.ones_like(y)))
        weights[:], images[:] = 0.5, 0.5
        assert_same(project(jnp.ones_like(y)), before)
        weights[:], images[:] = draw((6, 4), 0), IMAGES


def test_batches_in_one_buffer():
    """The next is read while the one before is still computed."""
    batches = [draw((64, 8, 10, 3), seed) for seed in range(4)]
    kernel = jnp.asarray(draw((240, 240), 9, 0.1))

    def slow(x):
        return jax.lax.fori_loop(0, 200, lambda _, y: jnp.tanh(y @ kernel), x.reshape(len(x), -1))[:, :5]

    def loaded():
        buffer = np.empty_like(batches[0])
        for batch in batches:
            buffer[:] = batch
            yield buffer

    assert_same(top_activations(slow, loaded(), 3), top_activations(slow, batches, 3))


def test_arrays_are_kept_as_they_were():
    busy = jax.jit(lambda x: jax.lax.fori_loop(0, 20, lambda _, x: x @ x, x))
    given = np.ones(10**5, np.float32)
    busy(jnp.ones((200, 200)))
    found = kept(given)
    given[:] = 2
    assert found.max() == 1


def test_weights_under_the_callers_transformations():
    weights = jax.device_put(WEIGHTS)
    doubled = weights | {"last": 2 * weights["last"]}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), weights, doubled)

    def lens(weights):
        return lenses.gradient(lambda x: logits_of(weights, x), IMAGES, TARGETS)

    once = lens(weights)
    for transformed in (jax.vmap(lens), jax.jit(jax.vmap(lens))):
        assert_close(transformed(both), np.stack([once, 2 * once]))
    # The gradient is linear in the last layer's weights.
    _, along = jax.jvp(lens, (weights,), (jax.tree.map(jnp.zeros_like, weights) | {"last": weights["last"]},))
    assert_close(along, once)
    slopes = jax.grad(lambda weights: jnp.sum(lens(weights) ** 2))(weights)
    assert_close(jnp.sum(slopes["last"] * weights["last"]), 2 * jnp.sum(once**2))


def test_the_same_transformation_again_compiles_nothing():
    fun = lambda x: logits_of(WEIGHTS, x)  # noqa: E731
    every = [jax.vmap(lambda target: lenses.gradient(fun, IMAGES, target))(jnp.arange(4))]
    with compiles() as compiled:
        every.append(jax.vmap(lambda target: lenses.gradient(fun, IMAGES, target))(jnp.arange(4)))
    assert not compiled
    assert_same(*every)


def test_derivatives_of_ones_own():
    """They belong to the function, and what they read may change as well; also where only an outer gradient sees it."""
    scale = 1.0

    @jax.custom_jvp
    def relu(x):
        return jnp.maximum(x, 0)

    @relu.defjvp
    def _(primals, tangents):
        return relu(*primals), jnp.float32(scale) * jnp.where(primals[0] > 0, tangents[0], 0.0)

    def fun(x):
        return logits_of(WEIGHTS, x, relu)

    def scored(x):
        return jnp.sum(lenses.score_cam(fun, x, TARGETS, IMAGES[:, ::2, ::2]))

    before = lenses.gradient(fun, IMAGES, TARGETS), jax.grad(scored)(jnp.asarray(IMAGES))
    scale = 0.0
    after = lenses.gradient(fun, IMAGES, TARGETS), jax.grad(scored)(jnp.asarray(IMAGES))
    assert all(np.any(one) for one in before)
    assert not any(np.any(one) for one in after)


def test_a_rule_that_has_changed():
    scale = 1.0

    def down(signal):
        return jnp.float32(scale) * signal

    rules = zfjax.GRADIENT.extend(relu=lambda equation, x: down)
    y, project = zfjax.backproject(NET, IMAGES, rules)
    first, scale = project(jnp.ones_like(y)), 0.0
    y, project = zfjax.backproject(NET, IMAGES, rules)
    assert np.any(first)
    assert not np.any(project(jnp.ones_like(y)))


def test_callbacks_are_those_of_the_function():
    calls = {"one": 0, "other": 0}

    def watched(name):
        def fun(x):
            jax.debug.callback(lambda: calls.__setitem__(name, calls[name] + 1))
            return NET(x)

        return fun

    for name in ("one", "other", "other"):
        lenses.gradient(watched(name), IMAGES, TARGETS)
    jax.effects_barrier()
    assert calls == {"one": 1, "other": 2}


def test_what_a_program_takes_from_values():
    """An array of zeros in a maximum is seen to make it a ReLU; of other numbers it makes none."""
    bound = np.zeros((1, 4, 5, 6), np.float32)

    def fun(x):
        return NET.func(NET.args[0], x, lambda y: jnp.maximum(y, bound) if y.ndim == 4 else y)

    found = lenses.guided_backprop(fun, IMAGES, TARGETS)
    assert np.any(found)
    bound += 0.1
    with pytest.warns(zfjax.RuleWarning, match="no relu"):
        other = lenses.guided_backprop(fun, IMAGES, TARGETS)
    assert_close(other, lenses.gradient(fun, IMAGES, TARGETS))


def test_a_basis_that_has_changed():
    class Scaled:
        scale = 1.0

        def shape(self, size, channels):
            return (*size, channels)

        def picture(self, coefficients, size):
            return jnp.float32(self.scale) * coefficients

    basis, options = Scaled(), {"size": (8, 10), "n_steps": 2, "l2": 0.0, "tv": 0.0}
    first = lenses.maximize(NET, 0, KEY, basis=basis, **options)
    basis.scale = 0.0
    assert np.any(first)
    assert not np.any(lenses.maximize(NET, 0, KEY, basis=basis, **options))


def test_modules_of_nnx():
    """In training mode they are refused; whatever is asked, none is changed."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.drop(nnx.relu(self.norm(x))).mean(axis=(1, 2))

        @nnx.jit
        def jitted(self, x):
            return self(x)

    net = Net()
    for fun in (net, net.__call__, net.jitted):
        with pytest.raises(ValueError, match=r"fun: its (BatchNorm|Dropout) is in training mode; call \.eval\(\)"):
            lenses.gradient(fun, IMAGES, 1)
    net.eval()
    before = jax.tree.leaves(nnx.state(net))
    found = [ask(fun) for fun in (net, net.jitted) for ask in (_gradient, _deconvnet)]
    assert_close(found[0], found[2])
    assert_close(found[1], found[3])
    after = jax.tree.leaves(nnx.state(net))
    assert all(one is other for one, other in zip(before, after, strict=True))
    net.drop.deterministic = False
    with pytest.raises(ValueError, match="its Dropout is in training mode"):
        lenses.gradient(net, IMAGES, 1)


def test_functions_that_hold_modules_of_nnx():
    """However they hold them: under `nnx.jit` and `sow` NNX takes modules apart that were there before a trace."""
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self):
            self.layer = nnx.Linear(3, 4, rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x, **how):
            return self.drop(nnx.relu(self.layer(x)), **how).mean(axis=(1, 2))

    class Holder:
        def __init__(self, net):
            self.nets = {"first": net}

        def __call__(self, x):
            return jitted(self.nets["first"], x)

        method = __call__

    class Slotted:
        __slots__ = ("holder",)

        def __init__(self, net):
            self.holder = Holder(net)

        def __call__(self, x):
            return self.holder.method(x)

    jitted = nnx.jit(lambda net, x: net(x))
    global _net
    net = _net = Net()
    net.eval()

    def again(x, times=2):
        return again(x, times - 1) if times else jitted(net, x)

    def nested(x):
        return _reads_a_global(x) + 0 * jitted(net, x)

    every = {
        "closure": lambda x: jitted(net, x),
        "global": _reads_a_global,
        "partial of a global": functools.partial(_reads_a_global),
        "called by it": nested,
        "in a list": (lambda nets: lambda x: jitted(nets[0], x))([net]),
        "default": lambda x, net=net: jitted(net, x),
        "keyword": lambda x, *, net=net: jitted(net, x),
        "partial of a closure": functools.partial(lambda scale, x: jitted(net, x) * scale, jnp.ones(())),
        "partial of a method": functools.partial(net.__call__, deterministic=True),
        "cached": nnx.cached_partial(jitted, net),
        "object": Holder(net),
        "method of an object": Holder(net).method,
        "object in an object": Slotted(net),
        "itself": again,
    }
    expected = jax.grad(lambda x: net(x)[:, 1].sum())(jnp.asarray(IMAGES))
    for fun in every.values():
        assert_close(_gradient(fun), expected)
        assert fun(IMAGES).shape == (3, 4)  # its own modules are whole
    seed = jnp.zeros((3, 4)).at[:, 1].set(1.0)
    assert_close(zfjax.backproject(every["closure"], IMAGES, zfjax.GRADIENT)[1](seed), expected)
    net.layer.kernel[...] *= 2
    for fun in every.values():
        assert_close(_gradient(fun), 2 * expected)
    net.train()
    for name in ("partial of a method", "cached"):  # it says that this is no training; it keeps the mode it was made in
        assert_close(_gradient(every.pop(name)), 2 * expected)
    for fun in every.values():
        with pytest.raises(ValueError, match=r"fun: its Dropout is in training mode; call \.eval\(\)"):
            _gradient(fun)


_net = None


def _reads_a_global(x):
    from flax import nnx

    return nnx.jit(lambda net, x: net(x))(_net, x)


def _gradient(fun):
    return lenses.gradient(fun, IMAGES, 1)


def _deconvnet(fun):
    y, project = zfjax.deconvnet(fun, IMAGES)
    return project(jnp.ones_like(y))


def test_what_cannot_be_called(unchecked):
    for ask in (ASKS["gradient"], ASKS["occlusion"], ASKS["top_activations"], ASKS["maximize"]):
        with pytest.raises(TypeError, match="fun: expected a function, got dict"):
            ask(WEIGHTS)
    with pytest.raises(TypeError, match="then: expected a function, got int"):
        zfjax.occlusion(NET, IMAGES[0], 4, 4, then=3)
    with pytest.raises(TypeError, match="head: expected a function, got int"):
        lenses.guided_grad_cam((NET, 3), IMAGES, 1)


def test_other_sizes_of_batches():
    """Each size is traced by itself: what a function does may depend on it."""

    def fun(x):
        return NET(x) * jnp.float32(len(x))

    found = lenses.smooth_grad(fun, IMAGES[:1], TARGETS[:1], KEY, n_samples=3, noise=0, batch_size=3)
    assert_close(found, 3 * lenses.gradient(NET, IMAGES[:1], TARGETS[:1]))
    sizes = top_activations(lambda x: jnp.full((len(x), 1), len(x), jnp.float32), [IMAGES[:1], IMAGES], 1)
    assert sizes.values.tolist() == [[3.0]]


def test_partials_of_functions_with_arguments_that_are_no_arrays():
    fun = Partial(lambda scale, x: scale * x.mean(axis=(1, 2)), 2.0)
    assert_close(lenses.gradient(fun, IMAGES, 1), 2 * lenses.gradient(lambda x: x.mean(axis=(1, 2)), IMAGES, 1))


def test_functions_that_transform_what_they_are_given():
    """A policy that is defined anew is another function, and computes nothing else."""
    weights = jnp.asarray(draw((3, 4), 0))

    def ask():
        policy = lambda *_, **__: False  # noqa: E731
        layer = jax.checkpoint(lambda x: jax.nn.relu(x @ weights), policy=policy)
        return lenses.gradient(lambda x: layer(x).mean(axis=(1, 2)), IMAGES, 1)

    first = ask()
    weights = 2 * weights
    with compiles() as compiled:
        assert_close(ask(), 2 * first)
    assert not compiled
