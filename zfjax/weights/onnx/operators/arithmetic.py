"""Arithmetic, comparisons, sums and products of matrices."""

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zfjax.console.errors import UserError
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Layout, Value, axis_of, dtype_here, library, operator, whole

_SAME = {  # by the name of the function in NumPy and in jax.numpy
    "Abs": "abs",
    "Acos": "arccos",
    "Acosh": "arccosh",
    "Add": "add",
    "And": "logical_and",
    "Asin": "arcsin",
    "Asinh": "arcsinh",
    "Atan": "arctan",
    "Atanh": "arctanh",
    "BitwiseAnd": "bitwise_and",
    "BitwiseNot": "bitwise_not",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Ceil": "ceil",
    "Cos": "cos",
    "Cosh": "cosh",
    "Equal": "equal",
    "Exp": "exp",
    "Floor": "floor",
    "Greater": "greater",
    "GreaterOrEqual": "greater_equal",
    "IsNaN": "isnan",
    "Less": "less",
    "LessOrEqual": "less_equal",
    "Log": "log",
    "Mul": "multiply",
    "Neg": "negative",
    "Not": "logical_not",
    "Or": "logical_or",
    "Reciprocal": "reciprocal",
    "Round": "round",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Sqrt": "sqrt",
    "Sub": "subtract",
    "Tan": "tan",
    "Where": "where",
    "Xor": "logical_xor",
}


def _by_name(name: str) -> Callable[..., Value]:
    return lambda node, *values: getattr(library(*values), name)(*values)


for _kind, _name in _SAME.items():
    operator(_kind, layout=Layout.ANY)(_by_name(_name))


@operator("Div", layout=Layout.ANY)
def div(node: Node, x: Value, y: Value) -> Value:
    """A quotient; of whole numbers, rounded towards zero."""
    np_or_jnp = library(x, y)
    if jnp.issubdtype(x.dtype, jnp.floating):
        return np_or_jnp.divide(x, y)
    if jnp.issubdtype(x.dtype, jnp.unsignedinteger):
        return np_or_jnp.floor_divide(x, y)
    return np_or_jnp.sign(x) * np_or_jnp.sign(y) * np_or_jnp.floor_divide(np_or_jnp.abs(x), np_or_jnp.abs(y))


@operator("Mod", layout=Layout.ANY)
def mod(node: Node, x: Value, y: Value) -> Value:
    """The rest of a division, with the divisor's sign, or with fmod=1 the dividend's."""
    return library(x, y).fmod(x, y) if node.get("fmod", 0) else library(x, y).mod(x, y)


@operator("Pow", layout=Layout.ANY)
def power(node: Node, x: Value, y: Value) -> Value:
    """X to the power y, typed as x."""
    np_or_jnp = library(x, y)
    if isinstance(y, np.ndarray) and y.size == 1 and jnp.issubdtype(x.dtype, jnp.floating):
        exponent = float(y.reshape(()))
        if exponent == 0.5:
            return np_or_jnp.sqrt(x)
        if exponent in (2, 3, 4):
            return x ** int(exponent)
    wide = np.promote_types(dtype_here(x.dtype), dtype_here(y.dtype)) if x.dtype != y.dtype else x.dtype
    if np_or_jnp is jnp:
        wide = dtype_here(wide) if wide.itemsize > 4 else wide
    return np_or_jnp.power(x.astype(wide), y.astype(wide)).astype(x.dtype)


def _of_many(name: str) -> Callable[..., Value]:
    return lambda node, *values: functools.reduce(getattr(library(*values), name), values)


for _kind, _name in {"Max": "maximum", "Min": "minimum", "Sum": "add"}.items():
    operator(_kind, layout=Layout.ANY)(_of_many(_name))


@operator("Mean", layout=Layout.ANY)
def mean(node: Node, *values: Value) -> Value:
    """The mean of arrays."""
    return functools.reduce(library(*values).add, values) / np.asarray(len(values), values[0].dtype)


@operator("Erf", layout=Layout.ANY)
def erf(node: Node, x: Value) -> jax.Array:
    """The error function."""
    return lax.erf(jnp.asarray(x))


@operator("IsInf", layout=Layout.ANY)
def is_inf(node: Node, x: Value) -> Value:
    """Where values are infinite."""
    np_or_jnp = library(x)
    positive = np_or_jnp.isinf(x) & (x > 0) if node.get("detect_positive", 1) else np_or_jnp.zeros_like(x, bool)
    return positive | (np_or_jnp.isinf(x) & (x < 0)) if node.get("detect_negative", 1) else positive


@operator("BitShift", layout=Layout.ANY)
def bit_shift(node: Node, x: Value, y: Value) -> Value:
    """Bits moved left or right."""
    return library(x, y).left_shift(x, y) if node.get("direction") == "LEFT" else library(x, y).right_shift(x, y)


@operator("MatMul")
def matmul(node: Node, a: Value, b: Value) -> Value:
    """A product of matrices, or of stacks of them."""
    np_or_jnp = library(a, b)
    if min(a.ndim, b.ndim) <= 2 or a.ndim == b.ndim:
        return np_or_jnp.matmul(a, b)
    rank = max(a.ndim, b.ndim)
    a, b = (x.reshape((1,) * (rank - x.ndim) + x.shape) for x in (a, b))
    return np_or_jnp.matmul(a, b)


@operator("Gemm")
def gemm(node: Node, a: Value, b: Value, c: Value | None = None) -> Value:
    """Alpha · a · b + beta · c, where a and b may be transposed."""
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    np_or_jnp = library(a, b, c)
    turned = bool(node.get("transB", 0)) and not node.kernel_last
    y = np_or_jnp.matmul(a.T if node.get("transA", 0) else a, b.T if turned else b)
    y = y if alpha == 1 else np.asarray(alpha, y.dtype) * y
    if c is None:
        return y
    c = c.reshape((1,) * (2 - c.ndim) + c.shape)
    return y + (c if beta == 1 else np.asarray(beta, y.dtype) * c)


@operator("Einsum")
def einsum(node: Node, *values: Value) -> Value:
    """A sum of products, as its equation says."""
    return library(*values).einsum(node.get("equation").replace(" ", ""), *values)


def _log_sum_exp(np_or_jnp: ModuleType, x: Value, **how: Any) -> Value:
    return jax.nn.logsumexp(jnp.asarray(x), **how)


_REDUCTIONS: dict[str, Callable[..., Value]] = {
    "ReduceL1": lambda np_or_jnp, x, **how: np_or_jnp.sum(np_or_jnp.abs(x), **how),
    "ReduceL2": lambda np_or_jnp, x, **how: np_or_jnp.sqrt(np_or_jnp.sum(x * x, **how)),
    "ReduceLogSum": lambda np_or_jnp, x, **how: np_or_jnp.log(np_or_jnp.sum(x, **how)),
    "ReduceLogSumExp": _log_sum_exp,
    "ReduceMax": lambda np_or_jnp, x, **how: np_or_jnp.max(x, **how),
    "ReduceMean": lambda np_or_jnp, x, **how: np_or_jnp.mean(x, **how),
    "ReduceMin": lambda np_or_jnp, x, **how: np_or_jnp.min(x, **how),
    "ReduceProd": lambda np_or_jnp, x, **how: np_or_jnp.prod(x, **how),
    "ReduceSum": lambda np_or_jnp, x, **how: np_or_jnp.sum(x, **how),
    "ReduceSumSquare": lambda np_or_jnp, x, **how: np_or_jnp.sum(x * x, **how),
}


@operator(*_REDUCTIONS)
def reduce(node: Node, x: Value, axes: Value | None = None) -> Value:
    """Over some axes, or all; they stay as axes of size 1 unless keepdims=0."""
    over = whole(axes, node, "axes")
    if not over and node.get("noop_with_empty_axes", 0):
        return _REDUCTIONS[node.kind](library(x), x, axis=())
    over = over or list(range(x.ndim))
    initial = {}
    if x.size == 0 and node.kind in ("ReduceMax", "ReduceMin"):  # what no number is above, or below
        initial["initial"] = _least(x.dtype, node.kind == "ReduceMax")
    keep = bool(node.get("keepdims", 1))
    y = _REDUCTIONS[node.kind](library(x), x, axis=tuple(over), keepdims=keep, **initial)
    return y.astype(x.dtype)


def _least(dtype: np.dtype, lowest: bool) -> Any:
    if dtype.kind == "b":
        return not lowest
    if jnp.issubdtype(dtype, jnp.floating):
        return -np.inf if lowest else np.inf
    return np.iinfo(dtype).min if lowest else np.iinfo(dtype).max


@operator("ArgMax", "ArgMin")
def arg(node: Node, x: Value) -> jax.Array:
    """Where along an axis the largest (smallest) value is."""
    x, axis = jnp.asarray(x), axis_of(node, x.ndim, 0)
    find = jnp.argmax if node.kind == "ArgMax" else jnp.argmin
    keep = bool(node.get("keepdims", 1))
    if node.get("select_last_index", 0):
        return x.shape[axis] - 1 - find(jnp.flip(x, axis), axis=axis, keepdims=keep)
    return find(x, axis=axis, keepdims=keep)


@operator("CumSum")
def cumulative_sum(node: Node, x: Value, axis: Value) -> jax.Array:
    """Running sums along an axis."""
    (along,) = whole(axis, node, "axis") or [0]
    x = jnp.flip(x, along) if node.get("reverse", 0) else jnp.asarray(x)
    total = jnp.cumsum(x, axis=along, dtype=x.dtype)
    total = total - x if node.get("exclusive", 0) else total
    return jnp.flip(total, along) if node.get("reverse", 0) else total


@operator("TopK")
def top_k(node: Node, x: Value, k: Value | None = None) -> tuple[jax.Array, jax.Array]:
    """The k largest (smallest) values along an axis, in order, and where they are."""
    x, axis = jnp.asarray(x), axis_of(node, x.ndim, -1)
    (count,) = whole(k, node, "k") or [0]
    if count > x.shape[axis]:
        raise UserError(f"it asks for the {count} largest of {x.shape[axis]}")
    moved = jnp.moveaxis(x, axis, -1)
    order = jnp.argsort(moved, axis=-1, stable=True, descending=bool(node.get("largest", 1)))[..., :count]
    values = jnp.take_along_axis(moved, order, axis=-1)
    return jnp.moveaxis(values, -1, axis), jnp.moveaxis(order, -1, axis)
