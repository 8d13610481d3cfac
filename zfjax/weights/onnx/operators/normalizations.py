"""Normalizations. Sums are in float32 at least."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zfjax import ops
from zfjax.console.errors import UserError
from zfjax.ops.precision import widened
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Layout, Value, axis_of, only_first, operator


def _per_map(weights: Value, rank: int) -> Value:
    return weights.reshape((1,) * (rank - 1) + (-1,))


@operator("BatchNormalization", layout=Layout.LAST)
def batch_normalization(node: Node, x: jax.Array, scale: Value, bias: Value, mean: Value, var: Value) -> jax.Array:
    """Inference: one factor and shift for each map."""
    if node.get("training_mode", 0) or any(node.outputs[1:]):
        raise UserError("it is in training mode; expected a model exported for inference")
    factor = scale * lax.rsqrt(jnp.asarray(var) + node.get("epsilon", 1e-5)).astype(scale.dtype)
    shift = bias - mean.astype(bias.dtype) * factor
    return (x * _per_map(factor, x.ndim).astype(x.dtype)) + _per_map(shift, x.ndim).astype(x.dtype)


@operator("LRN", layout=Layout.LAST)
def local_response(node: Node, x: jax.Array) -> jax.Array:
    """Contrast normalization across maps; the window of an even size reaches one map further up than down."""
    size, k = int(node.get("size")), float(node.get("bias", 1.0))
    alpha, beta = float(node.get("alpha", 1e-4)), float(node.get("beta", 0.75))
    if size % 2:
        return ops.local_response_norm(x, size, k, alpha, beta)
    ones, edges = (1,) * (x.ndim - 1), ((0, 0),) * (x.ndim - 1)
    squares = jnp.square(widened(x))
    total = lax.reduce_window(
        squares, np.zeros((), squares.dtype), lax.add, (*ones, size), (*ones, 1), (*edges, ((size - 1) // 2, size // 2))
    )
    return (widened(x) * (k + alpha / size * total) ** -beta).astype(x.dtype)


def _standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Less its mean, divided by its deviation; that mean, and what it was multiplied by."""
    wide = widened(x)
    mean = wide.mean(axis=axes, keepdims=True)
    centered = wide - mean
    inverse = lax.rsqrt(jnp.square(centered).mean(axis=axes, keepdims=True) + epsilon)
    return centered * inverse, mean, inverse


@operator("InstanceNormalization", layout=Layout.LAST)
def instance_normalization(node: Node, x: jax.Array, scale: Value, bias: Value) -> jax.Array:
    """Each map of each image by its own mean and deviation."""
    normal, _, _ = _standardized(x, tuple(range(1, x.ndim - 1)), node.get("epsilon", 1e-5))
    return normal.astype(x.dtype) * _per_map(scale, x.ndim) + _per_map(bias, x.ndim)


@operator("GroupNormalization", layout=Layout.LAST)
def group_normalization(node: Node, x: jax.Array, scale: Value, bias: Value) -> jax.Array:
    """Groups of maps by their mean and deviation; before opset 21, one scale and bias for each group."""
    groups = int(node.get("num_groups"))
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    normal, _, _ = _standardized(split, (*range(1, x.ndim - 1), x.ndim), node.get("epsilon", 1e-5))
    if node.opset < 21:
        scale, bias = (jnp.repeat(jnp.asarray(one), x.shape[-1] // groups) for one in (scale, bias))
    return normal.reshape(x.shape).astype(x.dtype) * _per_map(scale, x.ndim) + _per_map(bias, x.ndim)


@operator("LayerNormalization")
def layer_normalization(
    node: Node, x: Value, scale: Value, bias: Value | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """All axes from `axis` on together."""
    x = jnp.asarray(x)
    axis = axis_of(node, x.ndim, -1)
    normal, mean, inverse = _standardized(x, tuple(range(axis, x.ndim)), node.get("epsilon", 1e-5))
    y = normal.astype(x.dtype) * _trailing(scale, x.ndim)
    return y if bias is None else y + _trailing(bias, x.ndim), mean, inverse


@operator("RMSNormalization")
def rms_normalization(node: Node, x: Value, scale: Value) -> jax.Array:
    """All axes from `axis` on, divided by the root of their mean square."""
    wide, rank = widened(x), x.ndim
    axes = tuple(range(axis_of(node, rank, -1), rank))
    normal = wide * lax.rsqrt(jnp.square(wide).mean(axis=axes, keepdims=True) + node.get("epsilon", 1e-5))
    return normal.astype(scale.dtype) * _trailing(scale, rank)


def _trailing(weights: Value, rank: int) -> Value:
    return weights.reshape((1,) * (rank - weights.ndim) + weights.shape)


@operator("MeanVarianceNormalization")
def mean_variance_normalization(node: Node, x: Value) -> jax.Array:
    """By the mean and deviation over some axes."""
    axes = tuple(int(axis) for axis in node.get("axes", (0, 2, 3)))
    wide = widened(x)
    return ((wide - wide.mean(axes, keepdims=True)) / (wide.std(axes, keepdims=True) + 1e-9)).astype(x.dtype)


@operator("LpNormalization")
def lp_normalization(node: Node, x: Value) -> jax.Array:
    """Divided by the norm along an axis; zeros stay zeros."""
    x = jnp.asarray(x)
    axis, power = axis_of(node, x.ndim, -1), int(node.get("p", 2))
    norm = (jnp.abs(x) ** power).sum(axis=axis, keepdims=True) ** (1 / power)
    return jnp.where(norm == 0, jnp.zeros_like(x), x / norm)


@operator("Dropout", layout=Layout.ANY)
def dropout(node: Node, x: Value, ratio: Value | None = None, training: Value | None = None) -> Value:
    """Nothing, since a model that is looked at is not trained."""
    if training is not None and np.any(np.asarray(training)):
        raise UserError("it is in training mode; expected a model exported for inference")
    only_first(node, "mask of dropout")
    return x
