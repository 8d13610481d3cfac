"""What is compiled: one update, and one batch's predictions."""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree, UInt8

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.crops import subtract_mean
from zfjax.data.pipeline import Batch
from zfjax.models.edits import pooled_early
from zfjax.ops.arguments import described
from zfjax.training.state import State, variables_of


@shown_by_shape
class StepMetrics(NamedTuple):
    """Metrics of one step, over the whole batch."""

    loss: Float[Array, ""]  # mean cross-entropy, nats
    top1: Float[Array, ""]  # share right, on the pictures as cropped, with dropout
    grad_norm: Float[Array, ""]
    param_norm: Float[Array, ""]
    update_norm: Float[Array, ""]
    lr: Float[Array, ""]  # learning rate, annealed


@shown_by_shape
class Counts(NamedTuple):
    """What is right in a batch."""

    examples: Int[Array, ""]
    top1: Int[Array, ""]
    top5: Int[Array, ""]
    likelihood: Float[Array, " n"]  # probability of each example's label; 1 if it is masked


@functools.partial(jax.jit, donate_argnames="state")
def train_step(state: State, batch: Batch) -> tuple[State, StepMetrics]:
    """One update on one batch of uint8 squares; `state` is donated, so use the returned one.

    Crops, flips and mean subtraction happen here, on the device. With the batch sharded over a mesh, the gradient is
    averaged over all devices.
    """
    crop_key, dropout_key = jax.random.split(jax.random.fold_in(state.key, state.step))
    images = state.crop(crop_key, subtract_mean(jnp.asarray(batch.image), state.mean), state.net.image_size)

    label = jnp.asarray(batch.label)
    net = pooled_early(state.net)

    def loss_of(params: PyTree) -> tuple[Array, tuple[Array, PyTree]]:
        variables = variables_of(params, state.stats)
        (logits, _), changed = net.apply(
            variables, images, train=True, rngs={"dropout": dropout_key}, mutable=["batch_stats"]
        )
        return cross_entropy(logits, label).mean(), (logits, changed.get("batch_stats", {}))

    (loss, (logits, stats)), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies int32 counts of steps with floats
        updates, opt_state = state.optimizer.update(grads, state.opt_state, state.params, anneal=state.plateau.scale)
        lr = state.rate(state.step) * state.plateau.scale
    params = optax.apply_updates(state.params, updates)
    metrics = StepMetrics(
        loss=loss,
        top1=jnp.mean(jnp.argmax(logits, axis=-1) == label),
        grad_norm=optax.tree.norm(grads),
        param_norm=optax.tree.norm(params),
        update_norm=optax.tree.norm(updates),
        lr=lr,
    )
    return dataclasses.replace(state, step=state.step + 1, params=params, stats=stats, opt_state=opt_state), metrics


def cross_entropy(logits: Float[Array, "n classes"], label: Int[Array, " n"]) -> Float[Array, " n"]:
    """−log softmax(logits)[label] of each example, in nats, from logits (never from probabilities)."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, label)


def predict(
    fun: Callable[[Array], Array],
    views: Callable[[Array], Array],
    squares: UInt8[Array | np.ndarray, "n side side 3"],
) -> Float[Array, "n classes"]:
    """Class probabilities: the mean of the softmaxes of all views of each square (Krizhevsky et al. 2012, 4.1).

    Args:
        fun: from images to logits.
        views: from squares to images [views, n, …], such as the center crops, or the paper's ten crops.
        squares: of pictures.

    Raises:
        UserError: fun gives no logits.
    """
    images = views(jnp.asarray(squares))
    logits = fun(images.reshape(-1, *images.shape[2:]))
    if not isinstance(logits, jax.Array) or logits.ndim != 2:
        raise UserError(f"expected a model that gives logits [N, classes], got {described(logits)}")
    softmax = jax.nn.softmax(logits.astype(jnp.float32))
    return softmax.reshape(*images.shape[:2], -1).mean(axis=0)


@jax.jit
def count_right(probabilities: Float[Array, "n classes"], label: Int[Array, " n"], mask: Float[Array, " n"]) -> Counts:
    """Count the unmasked examples whose label is ranked first, and among the first five."""
    counted = mask > 0
    of_label = jnp.take_along_axis(probabilities, label[:, None], axis=1)
    # Ties and NaN count as wrong: a net that says the same for all classes gets nothing right.
    better = jnp.sum(~(probabilities < of_label), axis=1) - 1
    return Counts(
        examples=jnp.sum(counted, dtype=jnp.int32),
        top1=jnp.sum(counted & (better < 1), dtype=jnp.int32),
        top5=jnp.sum(counted & (better < 5), dtype=jnp.int32),
        likelihood=jnp.where(counted, of_label[:, 0], jnp.ones((), of_label.dtype)),
    )
