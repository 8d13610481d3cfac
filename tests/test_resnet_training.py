"""A ResNet in training: running averages move, are saved, and are those of the whole batch on all devices."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from devices import eight_devices, only_cpu

import zfjax
from zfjax.data.pipeline import Batch
from zfjax.training import sharding
from zfjax.training.checkpoints import Checkpoints
from zfjax.training.config import default
from zfjax.training.scoring import Trained, softmax_of
from zfjax.training.state import create_state, he_above_pixels
from zfjax.training.step import train_step

SIDE, SIZE = 37, 32


def batch(n=8):
    rng = np.random.default_rng(0)
    label = np.arange(n, dtype=np.int32) % 3
    image = rng.integers(0, 120, (n, SIDE, SIDE, 3), dtype=np.uint8) + 60 * label[:, None, None, None].astype(np.uint8)
    return Batch(image, label, np.ones(n, np.float32))


@functools.cache
def template():
    """A state of one residual block: a whole ResNet takes a minute to compile."""
    config = default()
    config.update({"image_size": SIZE, "width": 0.05, "batch_size": 8, "filter_radius": 0.0})
    net = zfjax.resnet18(3, width=1 / 16, image_size=SIZE)
    net = net.clone(
        layers=(*net.layers[:4], next(spec for spec in net.layers if spec.name == "stage2_1"), *net.layers[-2:])
    )
    net = net.clone(kernel_init=he_above_pixels)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, SIZE, SIZE, 3)))
    state = create_state(config, 3, np.full((SIZE, SIZE, 3), 128, np.float32), 10.0, variables)
    return dataclasses.replace(state, net=net, mean=jnp.full((SIDE, SIDE, 3), 128.0))


def fresh():
    """A copy, since steps donate it."""
    return jax.tree.map(jnp.copy, template())


def test_steps_lower_the_loss_and_move_the_running_averages():
    state, losses = fresh(), []
    for _ in range(40):
        state, metrics = train_step(state, batch())
        losses.append(float(metrics.loss))
    assert losses[-1] < 0.5 * losses[0]
    assert state.variables.keys() == {"params", "batch_stats"}
    moved = jax.tree.map(lambda new, old: not np.array_equal(new, old), state.stats, template().stats)
    assert all(jax.tree.leaves(moved))
    # What is said of pictures depends on these averages, not on the other pictures of the batch.
    model = Trained(state.net, state.variables, state.mean)
    whole, part = softmax_of(model, batch().image), softmax_of(model, batch().image[:3])
    np.testing.assert_allclose(part, whole[:3], rtol=1e-4, atol=1e-6)


@eight_devices
def test_eight_devices_norm_by_the_whole_batch():
    mesh = sharding.data_mesh()
    one, _ = train_step(fresh(), batch())
    eight, _ = train_step(sharding.replicate(fresh(), mesh), sharding.place(batch(), mesh))
    for a, b in zip(jax.tree.leaves(one.stats), jax.tree.leaves(eight.stats), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@only_cpu
def test_training_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    once, _ = train_step(fresh(), batch())
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(once)
        checkpoints.wait()
        back = checkpoints.restore_latest(fresh())
    twice, _ = train_step(once, batch())
    again, _ = train_step(jax.tree.map(jnp.asarray, back), batch())
    for a, b in zip(jax.tree.leaves(twice.variables), jax.tree.leaves(again.variables), strict=True):
        np.testing.assert_array_equal(a, b)
