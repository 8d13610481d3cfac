"""`deconvnet` and `project` under jit, vmap, grad and sharding, and in half precision."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import eight_devices, tolerance
from jax.sharding import NamedSharding, PartitionSpec
from small_models import close, deconv_relu, guided_relu, normal

import zfjax

KERNEL, WEIGHTS = normal((3, 3, 2, 4), 2, 0.3), normal((4, 3), 3)
IMAGES = normal((8, 6, 6, 2))


def net(x, relu=jax.nn.relu):
    """Images [N, H, W, 2] -> [N, H/2, W/2, 3]."""
    kernel, weights = KERNEL.astype(x.dtype), WEIGHTS.astype(x.dtype)
    x = relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")))
    x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    return relu(jnp.einsum("nhwc,cd->nhwd", x, weights) + jnp.asarray(0.1, x.dtype))


SEED = normal((8, 3, 3, 3), 1)


@functools.cache
def eager():
    y, project = zfjax.deconvnet(net, IMAGES)
    return y, project(SEED)


def test_jit_is_eager():
    y, project = jax.jit(lambda x: zfjax.deconvnet(net, x))(IMAGES)
    close(y, eager()[0])
    close(project(SEED), eager()[1])


def test_the_function_may_be_an_argument_of_a_jitted_deconvnet():
    fun = jax.tree_util.Partial(lambda weights, x: jax.nn.relu(x @ weights), WEIGHTS)
    x = normal((2, 4))
    y, project = jax.jit(zfjax.deconvnet)(fun, x)
    np.testing.assert_allclose(y, fun(x), rtol=tolerance(1e-6))
    np.testing.assert_allclose(project(jnp.ones((2, 3))), jnp.ones((2, 3)) @ WEIGHTS.T, rtol=tolerance(1e-6))


def test_the_way_down_crosses_jit_boundaries_without_retracing():
    traces = {"up": 0, "down": 0}

    @jax.jit
    def up(x):
        traces["up"] += 1
        return zfjax.deconvnet(net, x)

    @jax.jit
    def down(project, seed):
        traces["down"] += 1
        return project(seed)

    for images in (IMAGES, IMAGES + 1.0, -IMAGES):
        _, project = up(images)
        close(down(project, SEED), zfjax.deconvnet(net, images)[1](SEED))
    assert traces == {"up": 1, "down": 1}


def test_the_way_down_is_a_tree_of_arrays():
    _, project = zfjax.deconvnet(net, IMAGES)
    leaves, tree = jax.tree.flatten(project)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    rebuilt = jax.tree.unflatten(tree, [np.asarray(leaf) for leaf in leaves])
    close(rebuilt(SEED), eager()[1])


def test_many_seeds_share_one_forward_pass():
    _, project = zfjax.deconvnet(net, IMAGES)
    seeds = normal((5, *SEED.shape), 6)
    close(jax.vmap(project)(seeds), jnp.stack([project(seed) for seed in seeds]))
    jaxpr = str(jax.make_jaxpr(lambda x: jax.vmap(zfjax.deconvnet(net, x)[1])(seeds))(IMAGES))
    up, _down = re.findall(r"f32\[([\d,]+)\] = conv_general_dilated", jaxpr)
    assert up == "8,6,6,4"


def test_units_may_be_traced_in_a_vmap_over_seeds():
    y, project = zfjax.deconvnet(net, IMAGES)
    units = jnp.arange(3)
    together = jax.vmap(lambda unit: project(zfjax.strongest(y, unit)))(units)
    close(together, jnp.stack([project(zfjax.strongest(y, int(unit))) for unit in units]))


def test_vmap_over_deconvnet_is_a_loop():
    def one(image, seed):
        y, project = zfjax.deconvnet(net, image[None])
        return y[0], project(seed[None])[0]

    y, signal = jax.vmap(one)(IMAGES, SEED)
    close(y, eager()[0])
    close(signal, eager()[1])


def test_a_vmapped_way_down_may_be_called_under_vmap():
    y, project = jax.vmap(lambda image: zfjax.deconvnet(net, image[None]))(IMAGES)
    close(y[:, 0], eager()[0])
    close(jax.vmap(lambda project, seed: project(seed))(project, SEED[:, None])[:, 0], eager()[1])


def test_a_vmapped_function_is_the_function_of_the_batch():
    one = jax.vmap(lambda image: net(image[None])[0])
    close(zfjax.deconvnet(one, IMAGES)[1](SEED), eager()[1])
    aside = jax.vmap(one, in_axes=3, out_axes=3)
    stacked = jnp.stack([IMAGES, 2 * IMAGES], axis=3)
    down = zfjax.deconvnet(aside, stacked)[1](jnp.stack([SEED, SEED], axis=3))
    close(down[:, :, :, 0], eager()[1])


@pytest.mark.parametrize(
    ("rules", "relu"), [(zfjax.DECONVNET, deconv_relu), (zfjax.GUIDED, guided_relu)], ids=["deconvnet", "guided"]
)
def test_derivatives_of_the_signal_are_those_of_the_oracle(rules, relu):
    def ours(x):
        y, project = zfjax.backproject(net, x, rules)
        return jnp.sum(project(SEED + y**2) ** 2)

    def theirs(x):
        y, pull = jax.vjp(functools.partial(net, relu=relu), x)
        return jnp.sum(pull(SEED + y**2)[0] ** 2)

    derivative = jax.jit(jax.grad(ours))(IMAGES)
    close(derivative, jax.jit(jax.grad(theirs))(IMAGES), 1e-5)
    step = normal(IMAGES.shape, 9, 1e-4)
    np.testing.assert_allclose(jnp.vdot(derivative, 2 * step), ours(IMAGES + step) - ours(IMAGES - step), rtol=2e-2)


def test_derivatives_without_rules_are_those_of_the_vjp():
    def loss(x, transform):
        y, project = transform(net, x)
        (signal,) = jax.tree.leaves(project(y**2))
        return jnp.sum(signal**2)

    ours = jax.grad(loss)(IMAGES, lambda fun, x: zfjax.backproject(fun, x, zfjax.GRADIENT))
    close(ours, jax.grad(loss)(IMAGES, jax.vjp))


def test_derivatives_in_the_seed_are_the_rules_of_the_way_down():
    project = zfjax.backproject(lambda x: 3 * jax.nn.relu(x), jnp.array([1.0, -1.0]), zfjax.DECONVNET)[1]
    np.testing.assert_array_equal(jax.grad(lambda s: project(s).sum())(jnp.array([2.0, -2.0])), [3.0, 0.0])


def test_derivatives_of_y_are_those_of_the_function():
    ours = jax.grad(lambda x: jnp.sum(SEED * zfjax.deconvnet(net, x)[0]))(IMAGES)
    close(ours, jax.grad(lambda x: jnp.sum(SEED * net(x)))(IMAGES))


@eight_devices
@pytest.mark.parametrize("jitted", [False, True])
def test_images_sharded_over_devices_give_the_same_and_stay_there(jitted):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("batch"))

    def up_and_down(x, seed):
        y, project = zfjax.deconvnet(net, x)
        return y, project(seed)

    y, signal = (jax.jit(up_and_down) if jitted else up_and_down)(*jax.device_put((IMAGES, SEED), sharding))
    close(y, eager()[0])
    close(signal, eager()[1])
    for array in (y, signal):
        assert array.sharding.is_equivalent_to(sharding, array.ndim)
        assert {shard.data.shape[0] for shard in array.addressable_shards} == {1}


@pytest.mark.parametrize(
    "rules", [zfjax.DECONVNET, zfjax.GUIDED, zfjax.GRADIENT], ids=["deconvnet", "guided", "gradient"]
)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_stays_and_is_close(rules, dtype):
    y, project = zfjax.backproject(net, IMAGES.astype(dtype), rules)
    signal = project(SEED.astype(dtype))
    assert y.dtype == signal.dtype == dtype
    # Switches and signs of values near 0 may differ: close on the whole, not in each pixel.
    wide_y, wide = zfjax.backproject(net, IMAGES.astype(dtype).astype(jnp.float32), rules)
    close(y.astype(jnp.float32), wide_y, 0.03)
    wide_signal = wide(SEED.astype(dtype).astype(jnp.float32))
    error = jnp.linalg.norm(signal.astype(jnp.float32) - wide_signal) / jnp.linalg.norm(wide_signal)
    assert 0 < error < 0.1


@eight_devices
@pytest.mark.parametrize(
    "rules", [zfjax.DECONVNET, zfjax.GUIDED, zfjax.GRADIENT], ids=["deconvnet", "guided", "gradient"]
)
def test_inside_shard_map_each_device_projects_its_own_images(rules):
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = PartitionSpec("batch")

    def up_and_down(x, seed):
        y, project = zfjax.backproject(net, x, rules)
        return y, project(seed)

    mapped = jax.jit(jax.shard_map(up_and_down, mesh=mesh, in_specs=(rows, rows), out_specs=(rows, rows)))
    for ours, alone in zip(mapped(IMAGES, SEED), jax.jit(up_and_down)(IMAGES, SEED), strict=True):
        close(ours, alone)


@eight_devices
@pytest.mark.parametrize("rules", [zfjax.DECONVNET, zfjax.GUIDED], ids=["deconvnet", "guided"])
def test_on_an_explicit_mesh_signals_are_sharded_as_images(rules):
    def up_and_down(x, seed):
        return zfjax.backproject(net, x, rules)[1](seed)

    alone = jax.jit(up_and_down)(IMAGES, SEED)
    mesh = jax.make_mesh((8,), ("batch",), axis_types=(jax.sharding.AxisType.Explicit,))
    with jax.set_mesh(mesh):
        images, seed = jax.device_put((IMAGES, SEED), NamedSharding(mesh, PartitionSpec("batch")))
        signal = jax.jit(up_and_down)(images, seed)
    assert signal.sharding.spec[0] == "batch"
    close(jax.device_get(signal), jax.device_get(alone))
