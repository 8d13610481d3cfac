import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zfjax
from zfjax.attribution import chunks
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.transform import functions


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_devices_work_while_what_they_found_before_is_fetched(count):
    begun = []

    def work(some):
        begun.append(some.tolist())
        return jnp.asarray(some)

    found = shared(count, 2, None, work)
    assert begun == [[0, 1]][:count] or begun == [[0, 0]]  # at once
    for number, part in enumerate(found):
        assert len(begun) == min(number + 2, -(-count // 2))  # one ahead
        assert part.tolist() == list(range(2 * number, min(2 * number + 2, count)))


def test_work_for_many_devices_comes_in_order():
    mesh = sharding.data_mesh()
    parts = shared(2 * mesh.size + 1, 1, mesh, lambda some: sharding.place(some.astype(np.int32), mesh))
    assert np.concatenate(list(parts)).tolist() == list(range(2 * mesh.size + 1))


def test_chunks_are_computed_alike_outside_and_inside_a_program():
    def total(count, size, start):
        step = jax.tree_util.Partial(_Add(size))
        return chunks.walk(step, start, count, size, "Adding")

    start = np.zeros(3, np.float32)
    expected = [21.0, 42.0, 63.0]
    assert np.asarray(total(3, 2, start)).tolist() == expected
    assert np.asarray(jax.jit(lambda start: total(3, 2, start))(start)).tolist() == expected


def test_sums_begin_on_the_devices_of_the_images():
    mesh = sharding.data_mesh()
    images = sharding.place(np.ones((2 * mesh.size, 4), np.float16), mesh)
    zeros = chunks.no_sums(images)
    assert zeros.sharding == images.sharding
    assert zeros.dtype == jnp.float32
    alone = jax.device_put(jnp.ones((2, 4)), jax.devices()[-1])
    assert chunks.no_sums(alone).devices() == alone.devices()


def test_occlusion_notices_what_a_target_closes_over():
    net = zfjax.zfnet(7, width=0.05, image_size=64)
    images = jax.random.normal(jax.random.key(1), (1, 64, 64, 3))
    variables = jax.jit(net.init)(jax.random.key(0), images)
    fun = zfjax.layer(net, variables, "fc8")

    def falls(weights):
        def target(logits):
            return (logits * weights[None]).sum(-1)

        return zfjax.attribution.occlusion(fun, images, target, window=32, strides=32).falls

    weights = jnp.eye(7)[:2]
    together = jax.vmap(falls)(weights)
    np.testing.assert_allclose(together, jnp.stack([falls(one) for one in weights]), atol=1e-5)


class _Add(functions.Fixed):
    def __init__(self, size):
        self.size = size

    def __call__(self, carry, chunk):
        numbers = chunks.numbers(chunk, self.size) + 1
        return carry + numbers.sum().astype(carry.dtype) * jnp.arange(1, 4, dtype=carry.dtype)


def test_shapes_are_those_of_the_weights_and_images_at_hand():
    net = zfjax.zfnet(7, width=0.05, image_size=64)
    images = jnp.zeros((2, 64, 64, 3))
    variables = jax.jit(net.init)(jax.random.key(0), images)
    for count in (2, 3, 2):
        for name in ("relu5", "fc8"):
            fun = zfjax.layer(net, variables, name)
            some = jnp.zeros((count, 64, 64, 3))
            expected = jax.eval_shape(lambda fun, some: fun(some), fun, some)
            assert functions.output_of(fun, some) == expected
    narrow = zfjax.layer(net.clone(dtype=jnp.bfloat16), variables, "relu5")
    assert functions.output_of(narrow, images).dtype == jnp.bfloat16
