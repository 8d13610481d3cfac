"""Activations, each by the function of JAX's that the deconvnet knows by name, where there is one."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from zfjax import ops
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Layout, Value, axis_of, operator


def _register(kind: str, function: Callable[[jax.Array], jax.Array]) -> None:
    operator(kind, layout=Layout.ANY)(lambda node, x: function(jnp.asarray(x)))


for _kind, _function in {
    "Sigmoid": jax.nn.sigmoid,
    "HardSwish": jax.nn.hard_swish,
    "Mish": jax.nn.mish,
    "Softplus": jax.nn.softplus,
    "Softsign": jax.nn.soft_sign,
    "Tanh": jnp.tanh,
}.items():
    _register(_kind, _function)


@operator("Relu", layout=Layout.ANY)
def relu(node: Node, x: Value) -> jax.Array:
    """max(x, 0)."""
    x = jnp.asarray(x)
    return ops.rectify(x) if jnp.issubdtype(x.dtype, jnp.floating) else jnp.maximum(x, 0)


@operator("LeakyRelu", layout=Layout.ANY)
def leaky_relu(node: Node, x: Value) -> jax.Array:
    """Negative values by a factor."""
    return jax.nn.leaky_relu(jnp.asarray(x), float(node.get("alpha", 0.01)))


@operator("PRelu", layout=Layout.ANY)
def prelu(node: Node, x: Value, slope: Value) -> jax.Array:
    """Negative values by learned factors."""
    x = jnp.asarray(x)
    return jnp.where(x >= 0, x, slope * x)


@operator("Elu", layout=Layout.ANY)
def elu(node: Node, x: Value) -> jax.Array:
    """Alpha · (exp(x) − 1) below zero."""
    return jax.nn.elu(jnp.asarray(x), float(node.get("alpha", 1.0)))


@operator("Celu", layout=Layout.ANY)
def celu(node: Node, x: Value) -> jax.Array:
    """Alpha · (exp(x / alpha) − 1) below zero."""
    return jax.nn.celu(jnp.asarray(x), float(node.get("alpha", 1.0)))


@operator("Selu", layout=Layout.ANY)
def selu(node: Node, x: Value) -> jax.Array:
    """A scaled ELU."""
    alpha = float(node.get("alpha", 1.67326319217681884765625))
    return float(node.get("gamma", 1.05070102214813232421875)) * jax.nn.elu(jnp.asarray(x), alpha)


@operator("Gelu", layout=Layout.ANY)
def gelu(node: Node, x: Value) -> jax.Array:
    """X · Φ(x), or its approximation by tanh."""
    return jax.nn.gelu(jnp.asarray(x), approximate=node.get("approximate", "none") == "tanh")


@operator("Swish", layout=Layout.ANY)
def swish(node: Node, x: Value) -> jax.Array:
    """X · sigmoid(alpha · x)."""
    x, alpha = jnp.asarray(x), float(node.get("alpha", 1.0))
    return jax.nn.silu(x) if alpha == 1 else x * jax.nn.sigmoid(alpha * x)


@operator("HardSigmoid", layout=Layout.ANY)
def hard_sigmoid(node: Node, x: Value) -> jax.Array:
    """A ramp from 0 to 1."""
    return jnp.clip(float(node.get("alpha", 0.2)) * jnp.asarray(x) + float(node.get("beta", 0.5)), 0, 1)


@operator("ThresholdedRelu", layout=Layout.ANY)
def thresholded_relu(node: Node, x: Value) -> jax.Array:
    """Values above alpha, else 0."""
    x = jnp.asarray(x)
    return jnp.where(x > float(node.get("alpha", 1.0)), x, jnp.zeros_like(x))


@operator("Shrink", layout=Layout.ANY)
def shrink(node: Node, x: Value) -> jax.Array:
    """Zero between −lambd and lambd, and moved towards zero by `bias` outside."""
    x, bias, edge = jnp.asarray(x), node.get("bias", 0.0), node.get("lambd", 0.5)
    moved = jnp.where(x < 0, x + np.asarray(bias, x.dtype), x - np.asarray(bias, x.dtype))
    return jnp.where(jnp.abs(x) > edge, moved, jnp.zeros_like(x))


@operator("Clip", layout=Layout.ANY)
def clip(node: Node, x: Value, low: Value | None = None, high: Value | None = None) -> jax.Array:
    """Bounded; bounds are numbers of the program, so that a ReLU6 is seen to be one."""
    x = jnp.asarray(x)
    least, most = (_bound(x, bound, node.get(name)) for bound, name in ((low, "min"), (high, "max")))
    x = x if least is None else jnp.maximum(x, least)
    return x if most is None else jnp.minimum(x, most)


def _bound(x: jax.Array, bound: Value | None, attribute: float | None) -> Value | float | None:
    if bound is None and attribute is None:
        return None
    if isinstance(bound, jax.Array):
        return bound.reshape(())
    # As the type of x has it: an older opset's largest float32 is infinity in float16.
    with np.errstate(over="ignore"):
        return np.asarray(attribute if bound is None else bound.reshape(())).astype(x.dtype).item()


def _flattened(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Before opset 13: over all axes from `axis` on together."""

    def call(node: Node, x: Value) -> jax.Array:
        x = jnp.asarray(x)
        axis = axis_of(node, x.ndim, 1)
        rows = x.reshape(int(np.prod(x.shape[:axis])), -1)
        return function(rows, axis=1).reshape(x.shape)

    return call


def _along(function: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda node, x: function(jnp.asarray(x), axis=axis_of(node, x.ndim, -1))


def _hardmax(x: jax.Array, axis: int) -> jax.Array:
    return jax.nn.one_hot(x.argmax(axis=axis), x.shape[axis], dtype=x.dtype, axis=axis)


for _kind, _normalize in (("Softmax", jax.nn.softmax), ("LogSoftmax", jax.nn.log_softmax), ("Hardmax", _hardmax)):
    operator(_kind, until=12)(_flattened(_normalize))
    operator(_kind, since=13)(_along(_normalize))
