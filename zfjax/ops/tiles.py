"""A pool's values put back at their switches and convolved in one go, and the adjoint.

An unpooled map has one value in each window. Laid out as tiles, [N, windows down, windows across, cells * groups], it
is a matrix; a convolution takes each tile to a block of its output, so it is one product with a matrix made of the
kernel, and a sum of blocks where they overlap. That has no map with few channels, which a CPU adds up tap by tap and a
TPU fills up to 128. A GPU convolves maps of any number of channels as they are.

Layouts are those of `pooling3d`; the cells of a tile are in the order in which switches count them.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Integer

from zfjax.ops.convolution import conv, conv_transpose
from zfjax.ops.platforms import Form, by_platform
from zfjax.ops.pooling3d import Block, abs_max_unpool, at_switches, pooled_shape

Shape = tuple[int, ...]
Kernel = Float[Array, "kh kw channels filters"]
Tiles = Float[Array, "n down across cells groups"]
_ONES, _NONE = (1, 1), ((0, 0), (0, 0))
_FEW = 64  # channels: of more, the products are larger than the convolution by what they gain


def unpool_conv(
    pooled: Float[Array, "n ho wo co"], switches: Integer[Array, "n ho wo co"], kernel: Kernel, window: Block,
    input_shape: Shape,
) -> Float[Array, "n h w filters"]:  # fmt: skip
    """`conv(abs_max_unpool(pooled, switches, window, input_shape), kernel)`.

    Args:
        pooled: [N, Ho, Wo, Co].
        switches: of the same shape.
        kernel: [kh, kw, channels, filters].
        window: (rows, columns, maps) in cells.
        input_shape: (N, H, W, channels) of what was pooled.
    """

    def plain(pooled: Array, switches: Array, kernel: Array) -> Array:
        return conv(abs_max_unpool(pooled, switches, window, input_shape), kernel)

    def tiled(pooled: Array, switches: Array, kernel: Array) -> Array:
        return _down(_tiles(pooled, switches, window), kernel, window, input_shape)

    return _by_platform(kernel.shape, plain, tiled, pooled, switches, kernel)


def conv_transpose_at(
    y: Float[Array, "n h w filters"], switches: Integer[Array, "n ho wo co"], kernel: Kernel, window: Block,
    input_shape: Shape,
) -> Float[Array, "n ho wo co"]:  # fmt: skip
    """The adjoint of `unpool_conv` in the pooled values: a convolution's adjoint, at switches alone.

    Args:
        y: [N, H - kh + 1, W - kw + 1, filters].
        switches: [N, Ho, Wo, Co].
        kernel: as there.
        window: as there.
        input_shape: as there.
    """

    def plain(y: Array, switches: Array, kernel: Array) -> Array:
        return at_switches(conv_transpose(y, kernel, _ONES, _NONE, input_shape), switches, window)

    def tiled(y: Array, switches: Array, kernel: Array) -> Array:
        tiles = _up(y, kernel, window, input_shape)
        return jnp.where(_at(switches, window), tiles, jnp.zeros((), tiles.dtype)).sum(3)

    return _by_platform(kernel.shape, plain, tiled, y, switches, kernel)


def unpool_conv_gradient(
    pooled: Float[Array, "n ho wo co"], switches: Integer[Array, "n ho wo co"], y: Float[Array, "n h w filters"],
    kernel_shape: Shape, window: Block, input_shape: Shape,
) -> Kernel:  # fmt: skip
    """The adjoint of `unpool_conv` in the kernel.

    Args:
        pooled: as there.
        switches: as there.
        y: as for `conv_transpose_at`.
        kernel_shape: (kh, kw, channels, filters).
        window: as there.
        input_shape: as there.
    """

    def plain(pooled: Array, switches: Array, y: Array) -> Array:
        maps, kernel = abs_max_unpool(pooled, switches, window, input_shape), jnp.zeros(kernel_shape, y.dtype)
        return jax.vjp(lambda kernel: conv(maps, kernel), kernel)[1](y)[0]

    def tiled(pooled: Array, switches: Array, y: Array) -> Array:
        tiles = _tiles(pooled, switches, window)
        patches = _patches(y, kernel_shape, window, input_shape, _blocks(kernel_shape, window))
        made = jnp.tensordot(tiles.reshape(*tiles.shape[:3], -1), patches, ((0, 1, 2), (0, 1, 2)))
        empty = jax.ShapeDtypeStruct(kernel_shape, y.dtype)
        return jax.linear_transpose(lambda kernel: _matrix(kernel, window), empty)(made)[0]

    return _by_platform(kernel_shape, plain, tiled, pooled, switches, y)


def _by_platform(kernel_shape: Shape, plain: Form, tiled: Form, *operands: Array) -> Array:
    if kernel_shape[2] >= _FEW:
        return plain(*operands)
    return by_platform(*operands, default=plain, cpu=tiled, tpu=tiled)


def _at(switches: Integer[Array, "n ho wo co"], window: Block) -> Bool[Array, "n down across cells groups"]:
    """Which cell of each tile a switch points to."""
    cells = np.arange(math.prod(window)).astype(switches.dtype)[None, None, None, :, None]
    return switches[..., None, :] == jnp.asarray(cells)


def _tiles(pooled: Float[Array, "n ho wo co"], switches: Integer[Array, "n ho wo co"], window: Block) -> Tiles:
    """Pooled values at their switches, with zeros in the other cells."""
    return jnp.where(_at(switches, window), pooled[..., None, :], jnp.zeros((), pooled.dtype))


def _down(tiles: Tiles, kernel: Kernel, window: Block, input_shape: Shape) -> Float[Array, "n h w filters"]:
    """The convolution of maps of `input_shape`, given as tiles."""
    (kh, kw, _, filters), (_, height, width, _) = kernel.shape, input_shape
    ups, lefts = _blocks(kernel.shape, window)
    blocks = jnp.tensordot(tiles.reshape(*tiles.shape[:3], -1), _matrix(kernel, window), 1)
    blocks = blocks.reshape(*tiles.shape[:3], ups, lefts, -1)
    parts = [
        jnp.pad(blocks[:, :, :, i, j], ((0, 0), (i, ups - 1 - i), (j, lefts - 1 - j), (0, 0)))
        for i in range(ups)
        for j in range(lefts)
    ]
    whole = _as_image(sum(parts[1:], parts[0]), window, filters)
    return whole[:, kh - 1 : height, kw - 1 : width]


def _up(y: Float[Array, "n h w filters"], kernel: Kernel, window: Block, input_shape: Shape) -> Tiles:
    """The adjoint of `_down`; in cells that lie beyond the maps, whatever the product leaves there."""
    patches = _patches(y, kernel.shape, window, input_shape, _blocks(kernel.shape, window))
    tiles = jnp.tensordot(patches, _matrix(kernel, window), ((3,), (1,)))
    return tiles.reshape(*tiles.shape[:3], math.prod(window), -1)


def _blocks(kernel_shape: Shape, window: Block) -> tuple[int, int]:
    """How many windows a tile reaches down and across."""
    ups, lefts = (-(-(taps + size - 1) // size) for taps, size in zip(kernel_shape[:2], window[:2], strict=True))
    return ups, lefts


def _matrix(kernel: Array, window: Block) -> Array:
    """[cells * groups, blocks * rows * columns * filters]: what each cell of a tile adds to each pixel it reaches."""
    (kh, kw, channels, filters), (rows, columns, maps) = kernel.shape, window
    ups, lefts = _blocks(kernel.shape, window)
    groups = -(-channels // maps)
    kernel = jnp.pad(kernel[::-1, ::-1], ((0, 0), (0, 0), (0, groups * maps - channels), (0, 0)))
    tall = [
        jnp.pad(kernel, ((a, ups * rows - kh - a), (0, 0), (0, 0), (0, 0))) for a in range(rows)
    ]  # a cell further down reaches pixels further down
    wide = [
        jnp.pad(each, ((0, 0), (b, lefts * columns - kw - b), (0, 0), (0, 0))) for each in tall for b in range(columns)
    ]
    cells = jnp.stack(wide).reshape(rows * columns, ups, rows, lefts, columns, groups, maps, filters)
    cells = cells.transpose(0, 6, 5, 1, 3, 2, 4, 7)  # [place, map, group, up, left, row, column, filter]
    return cells.reshape(rows * columns * maps * groups, -1)


def _patches(y: Array, kernel_shape: Shape, window: Block, input_shape: Shape, blocks: tuple[int, int]) -> Array:
    """[N, windows down, across, blocks * rows * columns * filters]: what each tile reaches."""
    (kh, kw), (rows, columns, _), (ups, lefts) = kernel_shape[:2], window, blocks
    _, downs, across, _ = pooled_shape(input_shape, window)
    n, height, width, filters = y.shape
    tall, wide = downs + ups - 1, across + lefts - 1
    below, right = tall * rows - height - (kh - 1), wide * columns - width - (kw - 1)
    y = jnp.pad(y, ((0, 0), (kh - 1, below), (kw - 1, right), (0, 0)))
    y = y.reshape(n, tall, rows, wide, columns, filters).transpose(0, 1, 3, 2, 4, 5).reshape(n, tall, wide, -1)
    return jnp.concatenate([y[:, i : i + downs, j : j + across] for i in range(ups) for j in range(lefts)], axis=-1)


def _as_image(tiles: Array, window: Block, filters: int) -> Array:
    n, tall, wide, _ = tiles.shape
    rows, columns, _ = window
    image = tiles.reshape(n, tall, wide, rows, columns, filters).transpose(0, 1, 3, 2, 4, 5)
    return image.reshape(n, tall * rows, wide * columns, filters)
