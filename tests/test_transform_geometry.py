"""Receptive fields worked out from equations, against those measured by changing pixels."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import zfjax
from zfjax.models.table import layer_table
from zfjax.transform import jaxprs
from zfjax.transform.geometry.along import NOTHING, Along
from zfjax.transform.geometry.known import Known
from zfjax.transform.geometry.receptive import Geometry, channels_last, field, followed, geometry
from zfjax.transform.graph import Graph

LAST = ("NHWC", "HWIO", "NHWC")


def weights(*shape, seed=0):
    """Positive, so that nothing cancels out and no ReLU is off."""
    drawn = np.random.default_rng(seed).uniform(0.1, 1, shape) / np.prod(shape[:-1])
    return jax.device_put(np.float32(drawn))


def conv(x, size, strides=1, padding="SAME", maps=4, **params):
    groups = params.get("feature_group_count", 1)
    size = (size, size) if isinstance(size, int) else size
    kernel = weights(*size, x.shape[-1] // groups, maps)
    return lax.conv_general_dilated(x, kernel, (strides, strides), padding, dimension_numbers=LAST, **params)


def pool(x, size, strides, padding="VALID", reduce=lax.max, **params):
    start = -jnp.inf if reduce is lax.max else 0.0
    return lax.reduce_window(x, start, reduce, (1, size, size, 1), (1, strides, strides, 1), padding, **params)


def relu_conv(x, *args, **params):
    return jax.nn.relu(conv(x, *args, **params))


def read(fun, x, axes=(0, 1, 2)):
    """The geometry of each output."""
    closed = jax.make_jaxpr(fun)(x)
    graph = Graph(jaxprs.View(closed, [True], [True] * len(closed.out_avals)))
    found = geometry(graph, graph.inputs[0], axes)
    return [found[value] for value in graph.outputs]


def read_exactly(fun, x, axes=(0, 1, 2)):
    """The same, but what is beyond the edges of a map counts as empty."""
    closed = jax.make_jaxpr(fun)(x)
    graph = Graph(jaxprs.View(closed, [True], [True] * len(closed.out_avals)))
    known = Known(graph)
    pixels = (np.arange(x.shape[axis], dtype=float) for axis in axes)
    starts = (Along(axis, pixel, pixel, np.nan) for axis, pixel in zip(axes, pixels, strict=True))
    found = [followed(known, {graph.inputs[0]: start}) for start in starts]
    return [Geometry(*(along.get(value, NOTHING) for along in found)) for value in graph.outputs]


def measured(fun, x, axes=(0, 1, 2)):
    """For each axis, and each output: which elements change with each line of pixels across it: [pixels, *shape]."""
    amounts = np.random.default_rng(1).uniform(20, 40, x.shape).astype(np.float32)
    lines = [np.eye(x.shape[axis], dtype=np.float32) for axis in axes]
    lines = [
        line.reshape(-1, *(len(line) if each == axis else 1 for each in range(x.ndim)))
        for line, axis in zip(lines, axes, strict=True)
    ]
    x = np.asarray(x)
    changed = np.concatenate([x[None], *(x + line * amounts for line in lines)])
    outputs = jax.tree.map(np.asarray, jax.jit(functools.partial(lax.map, fun))(changed))
    ends = np.cumsum([1, *map(len, lines)])
    return [
        jax.tree.map(lambda y, start=start, stop=stop: y[start:stop] != y[0], outputs)
        for start, stop in itertools.pairwise(ends)
    ]


def bounds(changed, axis):
    """The first and last pixel that changes each element along an axis, or any element."""
    others = tuple(each for each in range(1, changed.ndim) if axis is None or each != axis + 1)
    seen = changed.any(others).reshape(len(changed), -1)
    first, last = seen.argmax(0), len(seen) - 1 - seen[::-1].argmax(0)
    return np.where(seen.any(0), first, np.inf), np.where(seen.any(0), last, -np.inf)


def inside(along, extent):
    """The fields of `along`, as far as they lie in the image."""
    first, last = np.maximum(along.first, 0), np.minimum(along.last, extent - 1)
    return np.where(first <= last, first, np.inf), np.where(first <= last, last, -np.inf)


def check(found, changed, sizes, exact=True):
    """Compare the geometry of a value with what was measured, at the edges too; if not `exact`, it may claim more."""
    for along, seen, size in zip(found, changed, sizes, strict=True):
        first, last = inside(along, size)
        first_seen, last_seen = bounds(seen, along.axis)
        assert first.shape == first_seen.shape
        assert (first <= first_seen).all()
        assert (last >= last_seen).all()
        if exact:
            np.testing.assert_array_equal(first, first_seen)
            np.testing.assert_array_equal(last, last_seen)


def images(height=17, width=13, channels=3, batch=2):
    return jax.device_put(np.float32(np.random.default_rng(2).uniform(1, 2, (batch, height, width, channels))))


def residual(x):
    x = relu_conv(x, 3)
    y = relu_conv(relu_conv(x, 3, 2), 3)
    return jax.nn.relu(y + conv(x, 1, 2))


def inception(x):
    x = relu_conv(x, 3, 2)
    branches = (relu_conv(x, 1), relu_conv(relu_conv(x, 1), 5), conv(pool(x, 3, 1, "SAME"), 1))
    return relu_conv(jnp.concatenate(branches, -1), 3, 2, "VALID")


def layer_norm(x):
    centered = x - x.mean(-1, keepdims=True)
    return centered * lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-6)


def convnext(x):
    x = layer_norm(conv(x, 4, 4, "VALID"))
    y = layer_norm(conv(x, 7, feature_group_count=4))
    return x + jax.nn.gelu(y @ weights(4, 8)) @ weights(8, 4)


def patches_by_reshape(x):
    n, h, w, c = x.shape
    x = x.reshape(n, h // 4, 4, w // 4, 4, c).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(n, h // 4 * (w // 4), -1) @ weights(16 * c, 4)


def tokens(x):
    x = conv(x, 4, 4, "VALID")
    x = x.reshape(len(x), -1, 4)
    return jnp.concatenate([jnp.ones((len(x), 1, 4)), x], 1) + weights(1, x.shape[1] + 1, 4)


def attention(x):
    x = tokens(x)
    seen = jax.nn.softmax(x @ x.transpose(0, 2, 1), -1) @ x
    return seen, x + seen


def excite(x):
    x = relu_conv(x, 3, 2)
    return conv(x * jax.nn.sigmoid(x.mean((1, 2)) @ weights(4, 4))[:, None, None], 3)


def space_to_depth(x):
    n, h, w, c = x.shape
    x = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, -1)
    return conv(x, 3)


def depth_to_space(x):
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def merging(x):
    return conv(jnp.concatenate([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], -1), 3)


def by_mean_of_cells(x):
    n, h, w, c = x.shape
    return x.reshape(n, h // 2, 2, w // 2, 2, c).mean((2, 4))


def unmerged(x):
    x = conv(x, 3, 2)
    flat = x.reshape(len(x), -1, 4) @ weights(4, 5)
    return conv(flat.reshape(*x.shape[:3], 5), 3)


def scanned(x):
    def layer(x, kernel):
        y = lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=LAST)
        return y, y.mean(-1)

    return lax.scan(layer, conv(x, 1), weights(2, 3, 3, 4, 4))


def rows_scanned(x):
    def row(total, line):
        return total + line, total

    return lax.scan(row, jnp.zeros_like(x[:, 0]), x.transpose(1, 0, 2, 3))


def maps_first(x):
    x = x.transpose(3, 0, 2, 1)
    dims = ("CNHW", "OHWI", "NHWC")
    y = lax.conv_general_dilated(x, weights(4, 3, 3, 3), (2, 1), "SAME", dimension_numbers=dims)
    return lax.conv(y.transpose(0, 3, 1, 2), weights(5, 4, 3, 3), (1, 2), "SAME")


def updated(x):
    y = lax.dynamic_update_slice(conv(x, 3), conv(x, 5, maps=1), (0, 0, 0, 2))
    return y, lax.dynamic_slice(y, (0, 3, 2, 1), (2, 9, 13, 2))


CASES = {
    "plain": lambda x: jnp.sqrt(x) + 1,
    "same": lambda x: relu_conv(relu_conv(x, 3), 5),
    "strided": lambda x: relu_conv(relu_conv(x, 3, 2), 3, 2),
    "valid": lambda x: conv(conv(x, (3, 5), padding="VALID"), 3, 2, "VALID"),
    "asymmetric padding": lambda x: conv(conv(x, 3, 1, ((0, 2), (3, 1))), 3, 1, ((1, 0), (0, 1))),
    "negative padding": lambda x: conv(x, 3, 1, ((-2, 0), (1, -1))),
    "more padding than kernel": lambda x: conv(x, 3, 1, ((4, 4), (5, 0))),
    "dilated": lambda x: conv(conv(x, 3, rhs_dilation=(2, 3)), 3, rhs_dilation=(2, 2)),
    "transposed": lambda x: lax.conv_transpose(conv(x, 3, 2), weights(3, 3, 4, 4), (2, 2), "SAME"),
    "wide transposed": lambda x: lax.conv_transpose(x, weights(2, 2, 3, 4), (3, 3), "VALID"),
    "depthwise": lambda x: conv(x, 5, 2, maps=6, feature_group_count=3),
    "average pool": lambda x: pool(relu_conv(x, 3), 3, 2, reduce=lax.add),
    "max pool, ceiling": lambda x: pool(conv(x, 3), 3, 2, ((0, 0), (0, 1), (0, 1), (0, 0))),
    "max pool, dilated": lambda x: pool(x, 3, 1, "SAME", window_dilation=(1, 2, 2, 1), base_dilation=(1, 2, 1, 1)),
    "maxima of maxima": lambda x: pool(pool(x, 3, 2, "SAME"), 2, 2, "SAME"),
    "residual": residual,
    "inception": inception,
    "convnext": convnext,
    "patches": lambda x: conv(x, 4, 4, "VALID"),
    "patches by reshape": patches_by_reshape,
    "tokens": tokens,
    "attention": attention,
    "squeeze and excite": excite,
    "mean": lambda x: relu_conv(x, 3).mean((1, 2)),
    "largest": lambda x: relu_conv(x, 3).max(1),
    "flat": lambda x: relu_conv(x, 3, 2).reshape(len(x), -1),
    "dense": lambda x: relu_conv(x, 3, 2).reshape(len(x), -1) @ weights(7 * 9 * 4, 5),
    "crop": lambda x: conv(x, 3, padding="VALID")[:, 2:-1, 3],
    "every second": lambda x: conv(x, 3)[:, ::2, 1::3],
    "flipped": lambda x: conv(x[:, ::-1, ::-1], 3, 2),
    "space to depth": space_to_depth,
    "depth to space": lambda x: depth_to_space(conv(x, 3, 2)),
    "merging": merging,
    "means of cells": by_mean_of_cells,
    "unmerged": unmerged,
    "rolled": lambda x: jnp.roll(conv(x, 3, padding="VALID"), (2, -3), (1, 2)),
    "repeated": lambda x: conv(jnp.repeat(jnp.repeat(x, 2, 1), 2, 2), 3, padding="VALID"),
    "reflected": lambda x: conv(jnp.pad(x, ((0, 0), (2, 2), (3, 3), (0, 0)), mode="reflect"), 3, padding="VALID"),
    "zeros around": lambda x: conv(jnp.pad(x, ((0, 0), (2, 2), (3, 1), (0, 0))), 5, padding="VALID"),
    "cells apart": lambda x: lax.pad(x, jnp.float32(0), ((0, 0, 0), (1, 0, 2), (-1, 3, 1), (0, 0, 0))),
    "stacked": lambda x: jnp.stack([conv(x, 3), conv(x, 5)], 1).reshape(2, 2, 17, -1),
    "tiled": lambda x: jnp.tile(conv(x, 3), (1, 2, 1, 1)),
    "split": lambda x: jnp.split(conv(x, 3), (4, 9), 1),
    "rows": lambda x: list(conv(x, 3).transpose(1, 0, 2, 3))[:3],
    "cumulated maps": lambda x: jnp.cumsum(conv(x, 3), -1),
    "best maps": lambda x: lax.top_k(conv(x, 3), 2)[0],
    "sorted maps": lambda x: jnp.sort(conv(x, 3), -1),
    "chosen": lambda x: jnp.where(x.mean(-1, keepdims=True) > 1.5, x[..., :1], conv(x, 3)[..., :1]),
    "scanned": scanned,
    "rows scanned": rows_scanned,
    "maps first": maps_first,
    "updated": updated,
    "chosen rows": lambda x: (x[:, np.array([1, 4, 5])], jnp.take(conv(x, 3), 2, axis=1), x[:, np.array([2, 3]), 1::5]),
    "resized": lambda x: jax.image.resize(x, (2, 34, 6, 3), "linear"),
    "nearest": lambda x: jax.image.resize(x, (2, 23, 13, 3), "nearest"),
    "constant matrices": lambda x: (
        x.reshape(2, -1) @ weights(17 * 13 * 3, 4),
        jnp.einsum("nhwc,hd->nwcd", x, weights(17, 4)),
    ),
    "chosen maps": lambda x: conv(x, 3)[..., np.array([2, 0])],
    "in a loop": lambda x: lax.fori_loop(0, 2, lambda _, y: jnp.sqrt(y), conv(x, 3)),
    "while it is small": lambda x: lax.while_loop(lambda y: y.max() < 9, lambda y: 2 * y, conv(x, 3)),
    "sorted rows": lambda x: (jnp.sort(x, 1), jnp.cumsum(x, 2), jnp.argmax(conv(x, 3), -1), lax.cummax(x, 3)),
    "Fourier transform": lambda x: jnp.abs(jnp.fft.fft(x, axis=2)),
    "by platform": lambda x: lax.platform_dependent(x, cpu=lambda x: conv(x, 3), default=lambda x: conv(x, 3)),
    "products of rows": lambda x: jnp.einsum("nhwc,nhvd->nhwv", conv(x, 3), x),
    "summed over rows": lambda x: jnp.einsum("nhwc,nhwd->wcdn", conv(x, 3), x),
    "pixels left over": lambda x: conv(conv(x, 3, 4, "VALID"), 3, 2),
    "cropped and padded": lambda x: conv(x[:, 2:-3, 1:], 5),
    "scalar": lambda x: conv(x, 3).sum(),
    "constant": lambda x: jnp.zeros((2, 3)),
}
SIZE = (17, 13)
SIZES = {
    **dict.fromkeys(("convnext", "patches", "patches by reshape", "tokens", "attention"), (16, 24)),
    **dict.fromkeys(("space to depth", "merging", "means of cells"), (12, 18)),
    "inception": (19, 15),
    "max pool, ceiling": (16, 18),
}


# Where a window's cells, or the last windows, leave pixels out that the map beyond its edge would see.
LARGER = {"dilated", "max pool, dilated", "pixels left over", "cropped and padded"}
# What counts as seeing all.
NOT_FOLLOWED = {"rows scanned", "while it is small", "sorted rows", "Fourier transform"}


@functools.cache
def seen_by_cases(size):
    """All cases on images of one size, compiled together."""
    names = [name for name in CASES if SIZES.get(name, SIZE) == size]
    return measured(lambda x: {name: jax.tree.leaves(CASES[name](x)) for name in names}, images(*size))


@pytest.mark.parametrize("name", CASES)
def test_fields_are_those_measured_by_changing_pixels(name):
    size = SIZES.get(name, SIZE)
    changed = seen_by_cases(size)
    x = images(*size)
    for number, (found, exact) in enumerate(zip(read(CASES[name], x), read_exactly(CASES[name], x), strict=True)):
        seen = [axis[name][number] for axis in changed]
        check(exact, seen, x.shape[:3], exact=name not in NOT_FOLLOWED)
        check(found, seen, x.shape[:3], exact=name not in LARGER | NOT_FOLLOWED)


@pytest.mark.parametrize("preset", [zfjax.zfnet, zfjax.vgg16, zfjax.resnet18])
def test_layers_of_our_nets_have_the_fields_of_the_layer_table(preset):
    """On images that are smaller than the fields, too."""
    net = preset(10, width=1 / 16)
    rows = [row for row in layer_table(net) if not row.name.startswith("drop")]
    for side in (net.image_size, 64):
        x = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
        variables = jax.eval_shape(net.init, jax.random.key(0), x)
        ones = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), variables)

        def activations(x, ones=ones):
            acts = net.apply(ones, x)[1]
            return [acts[row.name] for row in rows]

        for found, row in zip(read(activations, x), rows, strict=True):
            fields = [field(along, side) for along in (found.height, found.width)]
            seen = (row.receptive_field, row.total_stride, row.offset)
            assert fields == ([None, None] if None in seen else list(zip(*seen, strict=True))), row.name


def test_fields_of_our_own_net():
    net = zfjax.zfnet(10, width=1 / 32, image_size=64)
    x = images(64, 64, batch=1)
    positive = jax.tree.map(lambda leaf: weights(*leaf.shape), jax.eval_shape(net.init, jax.random.key(0), x))

    def acts(x):
        return [act for name, act in net.apply(positive, x)[1].items() if name in ("relu1", "norm1", "conv2", "pool2")]

    rows, columns = measured(acts, x, (1, 2))
    for found, *seen in zip(read(acts, x), rows, columns, strict=True):
        check((found.height, found.width), seen, (64, 64))


def maps_of_one(x):
    """A function of one image [C, H, W]."""
    x = lax.conv(x[None], weights(4, 3, 3, 3), (2, 2), "SAME")[0]
    y = lax.reduce_window(x, -jnp.inf, lax.max, (1, 3, 3), (1, 1, 1), "SAME")
    gated = (x + y) * jax.nn.sigmoid(weights(4, 4) @ x.mean((1, 2)))[:, None, None]
    return x, gated, y.reshape(4, -1), y.reshape(4, -1).T, gated.mean((1, 2)), gated[None]


def test_functions_of_one_image_with_maps_first():
    x = images(12, 10).transpose(0, 3, 1, 2)
    axes, sizes = (0, 2, 3), (2, 12, 10)
    found = read(jax.vmap(maps_of_one), x, axes)
    for value, *seen in zip(found, *measured(jax.vmap(maps_of_one), x, axes), strict=True):
        check(value, seen, sizes)
    maps, gated, flat, tokens, vector, nested = found
    assert channels_last(maps, 4) == channels_last(gated, 4) == (0, 2, 3, 1)
    assert channels_last(flat, 3) == (0, 2, 1)
    assert channels_last(tokens, 3) == (0, 1, 2)
    assert channels_last(vector, 2) == (0, 1)
    assert channels_last(nested, 5) == (0, 3, 4, 1, 2)
    assert field(maps.height, 12) == (3, 2.0, 1.0)
    assert field(maps.width, 10) == (3, 2.0, 1.0)
    assert field(gated.height, 12) is field(flat.height, 12) is field(vector.width, 10) is None
    assert field(maps.batch, 2) == (1, 1.0, 0.0)


def test_a_batch_that_is_not_first():
    x = images(8, 6).transpose(1, 2, 3, 0)

    def fun(x):
        return jnp.einsum("hwcn,cd->hdnw", x, weights(3, 4)), x.mean((0, 1))

    found = read(fun, x, (3, 0, 1))
    assert [channels_last(value, ndim) for value, ndim in zip(found, (4, 2), strict=True)] == [(2, 0, 3, 1), (1, 0)]
    for value, *seen in zip(found, *measured(fun, x, (3, 0, 1)), strict=True):
        check(value, seen, (2, 8, 6))


def test_reading_while_something_is_traced():
    def traced(matrix):
        chosen, mixed = read(lambda x: (x[:, np.array([1, 3])], jnp.einsum("nhwc,hd->ndwc", x, matrix)), images(4, 4))
        assert chosen.height.first.tolist() == [1, 3]
        assert mixed.height.axis is None
        return matrix

    jax.jit(traced)(jnp.eye(4))
