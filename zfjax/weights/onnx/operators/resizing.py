"""Resize and Upsample: along each axis, places in the input for each cell of the output, and the weights of these.

Both depend on sizes alone, so they are computed with NumPy while tracing: along an axis, an interpolation is a product
with a matrix that has few entries.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zfjax.console.errors import UserError
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Value, known_now, operator, sized, whole


class _Axis(NamedTuple):
    """How one axis changes."""

    side: int
    new: int
    scale: float
    start: float = 0.0  # of the region of interest, as a part of the axis
    end: float = 1.0


@operator("Upsample")
def upsample(node: Node, x: Value, scales: Value | None = None) -> jax.Array:
    """Larger maps; cell i comes from i / scale."""
    given = node.get("scales") if scales is None else known_now(scales, "scales").reshape(-1)
    if given is None:  # opset 1
        given = [1.0, 1.0, node.get("height_scale"), node.get("width_scale")]
    mode = {"bilinear": "linear"}.get(node.get("mode", "nearest"), node.get("mode", "nearest"))
    how = node.having(mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")
    return _resized(
        how, jnp.asarray(x), [_scaled(side, float(scale)) for side, scale in zip(x.shape, given, strict=True)]
    )


@operator("Resize", until=10)
def resize_10(node: Node, x: Value, scales: Value) -> jax.Array:
    """As Upsample, also smaller."""
    return upsample(node, x, scales)


@operator("Resize", since=11)
def resize(
    node: Node, x: Value, roi: Value | None = None, scales: Value | None = None, sizes: Value | None = None
) -> jax.Array:
    """Maps of another size, by given scales or to given sizes."""
    x = jnp.asarray(x)
    over = [int(axis) % x.ndim for axis in node.get("axes") or range(x.ndim)]
    axes = [_Axis(side, side, 1.0) for side in x.shape]
    if scales is not None and scales.size:
        for axis, scale in zip(over, known_now(scales, "scales").reshape(-1), strict=True):
            axes[axis] = _scaled(x.shape[axis], float(scale))
    else:
        new = whole(sizes, node, "sizes") or []
        scale = [size / x.shape[axis] for axis, size in zip(over, new, strict=True)]
        policy = node.get("keep_aspect_ratio_policy", "stretch")
        if policy != "stretch":
            one = min(scale) if policy == "not_larger" else max(scale)
            scale, new = [one] * len(over), [math.floor(one * x.shape[axis] + 0.5) for axis in over]
        for axis, size, by in zip(over, new, scale, strict=True):
            axes[axis] = _Axis(x.shape[axis], size, by)
    if roi is not None and roi.size and node.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        bounds = known_now(roi, "region").reshape(2, -1)
        for axis, start, end in zip(over, *bounds, strict=True):
            axes[axis] = axes[axis]._replace(start=float(start), end=float(end))
    return _resized(node, x, axes)


def _scaled(side: int, scale: float) -> _Axis:
    return _Axis(side, math.floor(side * scale), scale)


def _resized(node: Node, x: jax.Array, axes: list[_Axis]) -> jax.Array:
    sized(tuple(axis.new for axis in axes))
    mode = node.get("mode", "nearest")
    outside = np.zeros((), bool)
    for number, axis in enumerate(axes):
        if axis.new == axis.side and axis.scale == 1 and (axis.start, axis.end) == (0, 1):
            continue
        at = _places(node, axis)
        if mode == "nearest":
            x = jnp.take(x, _nearest(node, at, axis.side), axis=number)
        else:
            matrix = jnp.asarray(_weights(node, at, axis), x.dtype)
            y = lax.dot_general(x, matrix, (((number,), (1,)), ((), ())), precision=lax.Precision.HIGHEST)
            x = jnp.moveaxis(y, -1, number)
        if node.get("coordinate_transformation_mode") == "tf_crop_and_resize":
            out = (at < 0) | (at > axis.side - 1)
            outside = outside | out.reshape([-1 if other == number else 1 for other in range(len(axes))])
    if not outside.any():
        return x
    fill = np.asarray(node.get("extrapolation_value", 0.0), x.dtype)
    return jnp.where(np.broadcast_to(outside, x.shape), fill, x)


def _places(node: Node, axis: _Axis) -> np.ndarray:
    """Where in the input each cell of the output lies."""
    cells = np.arange(axis.new, dtype=np.float64)
    half = (cells + 0.5) / axis.scale - 0.5
    exact = axis.side * axis.scale  # the size before it was rounded
    match node.get("coordinate_transformation_mode", "half_pixel"):
        case "half_pixel":
            return half
        case "half_pixel_symmetric":
            return axis.side / 2 * (1 - axis.new / exact) + half
        case "pytorch_half_pixel":
            return half if axis.new > 1 else np.zeros_like(cells)
        case "align_corners":
            return cells * (axis.side - 1) / (exact - 1) if exact != 1 else np.zeros_like(cells)
        case "asymmetric" | "tf_half_pixel_for_nn" as mode:
            return (cells + (mode != "asymmetric") * 0.5) / axis.scale
        case "tf_crop_and_resize":
            first, last = axis.start * (axis.side - 1), axis.end * (axis.side - 1)
            if axis.new > 1:
                return first + cells * (last - first) / (axis.new - 1)
            return np.full_like(cells, (first + last) / 2)
        case other:
            raise UserError(f"zfjax has no coordinate_transformation_mode {other!r}")


def _nearest(node: Node, at: np.ndarray, side: int) -> np.ndarray:
    rounded: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "round_prefer_floor": lambda at: np.ceil(at - 0.5),
        "round_prefer_ceil": lambda at: np.floor(at + 0.5),
        "floor": np.floor,
        "ceil": np.ceil,
    }
    mode = node.get("nearest_mode", "round_prefer_floor")
    if mode not in rounded:
        raise UserError(f"zfjax has no nearest_mode {mode!r}")
    return rounded[mode](at).astype(np.int64).clip(0, side - 1)


def _weights(node: Node, at: np.ndarray, axis: _Axis) -> np.ndarray:
    """The matrix [new, side] of an interpolation; cells beyond the edge count as those at it, or not at all."""
    sized((axis.new, axis.side), 2**26)
    kernels: dict[str, tuple[int, Callable[[np.ndarray], np.ndarray]]] = {
        "linear": (1, lambda distance: np.maximum(0, 1 - distance)),
        "cubic": (2, lambda distance: _cubic(distance, float(node.get("cubic_coeff_a", -0.75)))),
    }
    mode = node.get("mode")
    if mode not in kernels:
        raise UserError(f"zfjax has no mode {mode!r}")
    radius, kernel = kernels[mode]
    shrink = min(1.0, axis.scale) if node.get("antialias", 0) else 1.0
    reach = math.ceil(radius / shrink)
    base = np.floor(at).astype(np.int64)
    matrix = np.zeros((axis.new, axis.side))
    for offset in range(1 - reach, reach + 1):
        cells = base + offset
        weights = kernel(np.abs(at - cells) * shrink)
        if node.get("exclude_outside", 0):
            weights = weights * ((cells >= 0) & (cells < axis.side))
        np.add.at(matrix, (np.arange(axis.new), cells.clip(0, axis.side - 1)), weights)
    total = matrix.sum(axis=1, keepdims=True)
    return matrix / np.where(total == 0, 1, total)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution."""
    near = (a + 2) * distance**3 - (a + 3) * distance**2 + 1
    far = a * distance**3 - 5 * a * distance**2 + 8 * a * distance - 4 * a
    return np.where(distance <= 1, near, np.where(distance < 2, far, 0))
