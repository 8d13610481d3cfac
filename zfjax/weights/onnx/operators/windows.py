"""Convolutions and pools: windows that slide over maps, here [N, *space, C]."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from zfjax import ops
from zfjax.console.errors import UserError
from zfjax.ops.unpooling import maxima
from zfjax.ops.windows import Windows
from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.operators.table import Layout, Value, only_first, operator

Pads = list[tuple[int, int]]


def _axes(node: Node, name: str, rank: int, default: int = 1) -> tuple[int, ...]:
    values = tuple(int(value) for value in node.get(name) or [default] * rank)
    if len(values) != rank:
        raise UserError(f"its {name} {list(values)} are not {rank} numbers")
    return values


def _reach(window: Sequence[int], dilations: Sequence[int]) -> list[int]:
    return [(size - 1) * dilation + 1 for size, dilation in zip(window, dilations, strict=True)]


def _pads(node: Node, space: Sequence[int], reach: Sequence[int], strides: Sequence[int]) -> Pads:
    """Cells before and after the maps along each axis."""
    auto = node.get("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        flat = _axes(node, "pads", 2 * len(space), 0)
        return list(zip(flat[: len(space)], flat[len(space) :], strict=True))
    if auto == "VALID":
        return [(0, 0)] * len(space)
    pads = []
    for side, size, stride in zip(space, reach, strides, strict=True):
        total = max(0, (-(-side // stride) - 1) * stride + size - side)
        pads.append(_halves(total, auto))
    return pads


def _halves(total: int, auto: str) -> tuple[int, int]:
    """Padding with the odd cell after (SAME_UPPER) or before."""
    before = total // 2 if auto == "SAME_UPPER" else total - total // 2
    return before, total - before


def _numbers(rank: int, kernel_last: bool) -> lax.ConvDimensionNumbers:
    """Which axes are which: of maps [N, *space, C], of a kernel [*window, in, out] or [out, in, *window]."""
    maps = (0, rank - 1, *range(1, rank - 1))
    kernel = (rank - 1, rank - 2, *range(rank - 2)) if kernel_last else tuple(range(rank))
    return lax.ConvDimensionNumbers(maps, kernel, maps)


@operator("Conv", layout=Layout.LAST)
def conv(node: Node, x: jax.Array, kernel: Value, bias: Value | None = None) -> jax.Array:
    """A convolution, grouped, strided and dilated."""
    rank = x.ndim
    window = kernel.shape[: rank - 2] if node.kernel_last else kernel.shape[2:]
    strides, dilations = (_axes(node, name, rank - 2) for name in ("strides", "dilations"))
    pads, groups = _pads(node, x.shape[1:-1], _reach(window, dilations), strides), int(node.get("group", 1))
    if rank == 4 and node.kernel_last and set(dilations) == {1}:
        (down, right), (rows, columns) = strides, pads
        y = ops.conv(x, jnp.asarray(kernel), (down, right), (rows, columns), groups)
    else:
        y = lax.conv_general_dilated(
            x,
            jnp.asarray(kernel),
            strides,
            pads,
            rhs_dilation=dilations,
            dimension_numbers=_numbers(rank, node.kernel_last),
            feature_group_count=groups,
        )
    return y if bias is None else y + bias.reshape((1,) * (rank - 1) + (-1,))


@operator("ConvTranspose", layout=Layout.LAST)
def conv_transpose(node: Node, x: jax.Array, kernel: Value, bias: Value | None = None) -> jax.Array:
    """The adjoint of a convolution; the kernel is [in, out / groups, *window]."""
    rank, groups = x.ndim, int(node.get("group", 1))
    strides, dilations = (_axes(node, name, rank - 2) for name in ("strides", "dilations"))
    more = _axes(node, "output_padding", rank - 2, 0)
    reach = _reach(kernel.shape[2:], dilations)
    pads = _transposed_pads(node, x.shape[1:-1], reach, strides, more)
    inside, outside = kernel.shape[:2]
    flipped = jnp.flip(jnp.asarray(kernel), tuple(range(2, rank)))
    split = flipped.reshape(groups, inside // groups, outside, *kernel.shape[2:])
    y = lax.conv_general_dilated(
        x,
        split.swapaxes(1, 2).reshape(groups * outside, inside // groups, *kernel.shape[2:]),
        (1,) * (rank - 2),
        [(size - 1 - a, size - 1 - b + end) for size, (a, b), end in zip(reach, pads, more, strict=True)],
        lhs_dilation=strides,
        rhs_dilation=dilations,
        dimension_numbers=_numbers(rank, False),
        feature_group_count=groups,
    )
    return y if bias is None else y + bias.reshape((1,) * (rank - 1) + (-1,))


def _transposed_pads(
    node: Node, space: Sequence[int], reach: Sequence[int], strides: Sequence[int], more: Sequence[int]
) -> Pads:
    """What is cut off the full result along each axis."""
    auto, wanted = node.get("auto_pad", "NOTSET"), node.get("output_shape")
    if wanted is None and auto in ("NOTSET", "", "VALID"):
        return _pads(node, space, reach, strides)
    full = [stride * (side - 1) + size for stride, side, size in zip(strides, space, reach, strict=True)]
    if wanted is None:
        wanted = [side * stride for side, stride in zip(space, strides, strict=True)]
    totals = [whole + end - int(want) for whole, end, want in zip(full, more, wanted[-len(space) :], strict=True)]
    return [_halves(total, "SAME_UPPER" if auto == "SAME_UPPER" else "SAME_LOWER") for total in totals]


def _pool_windows(node: Node, x: jax.Array) -> tuple[Windows, Pads]:
    """The windows of a pool, with padding up to the last one, and the padding that the node itself has."""
    axes = x.ndim - 2
    size = _axes(node, "kernel_shape", axes)
    strides, dilations = (_axes(node, name, axes) for name in ("strides", "dilations"))
    reach = _reach(size, dilations)
    pads = _pads(node, x.shape[1:-1], reach, strides)
    padding = list(pads)
    if node.get("ceil_mode", 0) and node.get("auto_pad", "NOTSET") in ("NOTSET", ""):
        for i, (side, (before, after)) in enumerate(zip(x.shape[1:-1], pads, strict=True)):
            steps = -(-(side + before + after - reach[i]) // strides[i])
            if steps * strides[i] >= side + before:  # a window that would begin in the padding after the maps
                steps -= 1
            padding[i] = (before, max(after, steps * strides[i] + reach[i] - side - before))
    ones = (1,) * x.ndim
    return Windows((1, *size, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0)), ones, (1, *dilations, 1)), pads


def _summed(x: jax.Array, windows: Windows) -> jax.Array:
    return lax.reduce_window(
        x, np.zeros((), x.dtype), lax.add, windows.size, windows.strides, windows.padding,
        window_dilation=windows.dilation,
    )  # fmt: skip


@operator("MaxPool", layout=Layout.LAST)
def max_pool(node: Node, x: jax.Array) -> jax.Array:
    """The largest value of each window."""
    only_first(node, "positions of maxima")
    windows, _ = _pool_windows(node, x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        least = np.array(jnp.iinfo(x.dtype).min, x.dtype)
        return lax.reduce_window(
            x, least, lax.max, windows.size, windows.strides, windows.padding, window_dilation=windows.dilation
        )
    if x.ndim == 4 and set(windows.dilation) == {1} and _is_plain(windows):
        (_, height, width, _), (_, down, right, _), (_, rows, columns, _) = windows[:3]
        return ops.max_pool(x, (height, width), (down, right), (rows, columns))
    return maxima(x, windows)


def _is_plain(windows: Windows) -> bool:
    return all(0 <= side < size for size, pad in zip(windows.size, windows.padding, strict=True) for side in pad)


@operator("AveragePool", layout=Layout.LAST)
def average_pool(node: Node, x: jax.Array) -> jax.Array:
    """The mean of each window, over the cells on the maps, or on their padding too."""
    windows, pads = _pool_windows(node, x)
    own = [(0, 0), *(pads if node.get("count_include_pad", 0) else [(0, 0)] * len(pads)), (0, 0)]
    sides = [1, *x.shape[1:-1], 1]
    cells = jnp.ones([side + before + after for side, (before, after) in zip(sides, own, strict=True)])
    rest = [(outer[0] - inner[0], outer[1] - inner[1]) for outer, inner in zip(windows.padding, own, strict=True)]
    counts = _summed(cells, windows._replace(padding=tuple(rest)))
    return _summed(x, windows) / counts.astype(x.dtype)


@operator("LpPool", layout=Layout.LAST)
def lp_pool(node: Node, x: jax.Array) -> jax.Array:
    """The p-norm of each window."""
    windows, _ = _pool_windows(node, x)
    power = float(node.get("p", 2))
    return _summed(jnp.abs(x) ** power, windows) ** (1 / power)


@operator("GlobalAveragePool", layout=Layout.LAST)
def global_average_pool(node: Node, x: jax.Array) -> jax.Array:
    """The mean of each map."""
    return x.mean(axis=tuple(range(1, x.ndim - 1)), keepdims=True)


@operator("GlobalMaxPool", layout=Layout.LAST)
def global_max_pool(node: Node, x: jax.Array) -> jax.Array:
    """The maximum of each map."""
    return x.max(axis=tuple(range(1, x.ndim - 1)), keepdims=True)


@operator("GlobalLpPool", layout=Layout.LAST)
def global_lp_pool(node: Node, x: jax.Array) -> jax.Array:
    """The p-norm of each map."""
    power = float(node.get("p", 2))
    return (jnp.abs(x) ** power).sum(axis=tuple(range(1, x.ndim - 1)), keepdims=True) ** (1 / power)
