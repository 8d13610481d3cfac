"""Softmax attention as one operator, of opset 23 and newer."""

import jax
import jax.numpy as jnp
import numpy as np

from zfjax.console.errors import UserError
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Value, only_first, operator


@operator("Attention", since=23)
def attention(node: Node, q: Value, k: Value, v: Value, mask: Value | None = None, *past: Value | None) -> jax.Array:
    """Values averaged by the softmax of queries times keys; heads of keys may be shared by several of queries."""
    only_first(node, "keys and values of before")
    if any(one is not None for one in past):
        raise UserError("zfjax has no keys and values of before, its further inputs")
    flat = q.ndim == 3
    q, k, v = (jnp.asarray(one) for one in (q, k, v))
    if flat:
        q = _heads(q, int(node.get("q_num_heads")))
        k, v = (_heads(one, int(node.get("kv_num_heads"))) for one in (k, v))
    shared = q.shape[1] // k.shape[1]
    k, v = (jnp.repeat(one, shared, axis=1) if shared > 1 else one for one in (k, v))
    # A scale on both sides, as the standard says, so that half precision does not overflow.
    root = float(node.get("scale") or q.shape[-1] ** -0.5) ** 0.5
    scores = jnp.matmul(q * np.asarray(root, q.dtype), (k * np.asarray(root, k.dtype)).swapaxes(-1, -2))
    if cap := float(node.get("softcap", 0.0)):
        scores = cap * jnp.tanh(scores / cap)
    seen = _seen(node, mask, scores.shape)
    if mask is not None and mask.dtype != bool:
        scores = scores + _padded(jnp.asarray(mask), scores.shape[-1], -np.inf).astype(scores.dtype)
    if seen is not None:
        scores = jnp.where(seen, scores, -np.inf)
    y = jnp.matmul(jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
    return y.swapaxes(1, 2).reshape(y.shape[0], y.shape[2], -1) if flat else y


def _heads(x: jax.Array, count: int) -> jax.Array:
    """[N, tokens, heads · maps] as [N, heads, tokens, maps]."""
    return x.reshape(*x.shape[:2], count, -1).swapaxes(1, 2)


def _padded(mask: jax.Array, keys: int, fill: float | bool) -> jax.Array:
    """A mask may be shorter than the keys; those beyond it are not seen."""
    short = keys - mask.shape[-1] if mask.shape[-1] > 1 else 0
    return jnp.pad(mask, [(0, 0)] * (mask.ndim - 1) + [(0, short)], constant_values=fill) if short else mask


def _seen(node: Node, mask: Value | None, shape: tuple[int, ...]) -> jax.Array | None:
    """Which keys each query sees, where a mask of truths or the order of tokens says so."""
    seen = None
    if mask is not None and mask.dtype == bool:
        seen = _padded(jnp.asarray(mask), shape[-1], False)
    if node.get("is_causal", 0):
        causal = jnp.tril(jnp.ones(shape[-2:], bool))
        seen = causal if seen is None else seen & causal
    return seen
