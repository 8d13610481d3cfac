"""What holds for the projections of any net: random small ones of all kinds of layers."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import above_noise, assert_same, tolerance
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import zfjax
from zfjax import ops
from zfjax.models import specs
from zfjax.models.specs import LRN, Conv, Dense, MaxPool, ReLU, Size

CHANNELS = 3

SIDES = st.integers(8, 16)
fewer = settings(max_examples=5)  # each example compiles two programs or more


class Case(NamedTuple):
    layers: tuple[specs.Layer, ...]
    height: int
    width: int
    seed: int  # of weights and images


@st.composite
def cases(draw, kinds="cpnr", dense=None, square=False):
    """A convolution with a ReLU, one or two more layers of those kinds (conv, pool, norm, ReLU), and maybe a dense top.

    Windows overlap or leave gaps and hang over any edge; filters are in groups or not.
    """
    height = draw(SIDES)
    width = height if square else draw(SIDES)
    size, layers = Size(height, width, CHANNELS), []
    for i, kind in enumerate("cr" + draw(st.text(kinds, min_size=1, max_size=2))):
        layer = draw(_layer(kind, f"layer{i}", size))
        size = layer.output(size)
        layers.append(layer)
    if dense if dense is not None else draw(st.booleans()):
        layers.append(Dense("dense", 4))
    return Case(tuple(layers), height, width, draw(st.integers(0, 99)))


@st.composite
def _layer(draw, kind, name, size):
    if kind == "r":
        return ReLU(name)
    if kind == "n":
        return LRN(name, size=draw(st.integers(1, 4)), alpha=0.1)
    window = tuple(draw(st.integers(1, min(4, side))) for side in size[:2])
    strides = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = tuple(draw(st.tuples(st.integers(0, k // 2), st.integers(0, k // 2))) for k in window)
    if kind == "p":
        return MaxPool(name, window, strides, padding, ceil=draw(st.booleans()))
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if size.maps % g == 0]))
    return Conv(name, groups * draw(st.integers(1, 2)), window, strides, padding, groups)


def normal(shape, seed):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(case, positive=False):
    """(the top layer as a function, its variables, two images); with filters ≥ 0.1 if positive."""
    net = zfjax.ConvNet(case.layers, image_size=case.height)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, case.height, case.width, CHANNELS)))
    leaves, tree = jax.tree.flatten(shapes)
    params = [normal(leaf.shape, [case.seed, i]) for i, leaf in enumerate(leaves)]
    variables = jax.tree.unflatten(tree, [np.abs(leaf) + np.float32(0.1) for leaf in params] if positive else params)
    images = normal((2, case.height, case.width, CHANNELS), [case.seed, 99])
    return zfjax.layer(net, variables, case.layers[-1].name), variables, images


def seed_like(y, number=0):
    """Dense, and of both signs."""
    return normal(y.shape, [1, number])


@functools.partial(jax.jit, static_argnames="rules")
def up(fun, images, rules=zfjax.DECONVNET):
    return zfjax.backproject(fun, images, rules)


@jax.jit
def down(project, seed):
    return project(seed)


def assert_close(actual, expected, rtol=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance(rtol) * np.abs(expected).max())


@given(cases(), st.sampled_from([zfjax.DECONVNET, zfjax.GUIDED, zfjax.GRADIENT]))
def test_the_value_is_that_of_the_function(case, rules):
    fun, _, images = build(case)
    y, _ = up(fun, images, rules)
    expected = jax.jit(fun)(images)
    assert y.dtype == expected.dtype
    assert_close(y, expected, rtol=1e-6)


def by_hand(case, variables, images, seed):
    """The walk written out for layer specs. Biases are in what it does on the way up, never in what comes down."""
    params, x, steps = variables["params"], images, []
    for layer in case.layers:
        weights = params.get(layer.name)
        match layer:
            case Conv():
                geometry = layer.strides, layer.padding
                steps.append(
                    lambda s, k=weights["kernel"], g=geometry, shape=x.shape, n=layer.groups: ops.conv_transpose(
                        s, k, *g, shape, n
                    )
                )
                x = ops.conv(x, weights["kernel"], *geometry, layer.groups) + weights["bias"].reshape(1, 1, 1, -1)
            case Dense():
                steps.append(lambda s, k=weights["kernel"], shape=x.shape: (s @ k.T).reshape(shape))
                x = x.reshape(x.shape[0], -1) @ weights["kernel"] + weights["bias"].reshape(1, -1)
            case ReLU():
                steps.append(ops.rectify)
                x = ops.rectify(x)
            case LRN():
                x = ops.local_response_norm(x, layer.size, layer.k, layer.alpha, layer.beta)
            case MaxPool():
                geometry = layer.window, layer.strides, layer.sliding(specs.Size(*x.shape[1:])).padding
                below = x.shape
                x, switches = ops.max_pool_with_switches(x, *geometry)
                steps.append(lambda s, at=switches, g=geometry, shape=below: ops.max_unpool(s, at, *g, shape))
    for step in reversed(steps):
        seed = step(seed)
    return seed


@given(cases())
def test_equals_the_walk_by_hand(case):
    fun, variables, images = build(case)
    y, project = up(fun, images)
    expected = jax.jit(functools.partial(by_hand, case))(variables, images, seed_like(y))
    assert_close(down(project, seed_like(y)), expected)


@given(cases(kinds="cnr"))
def test_without_pools_biases_change_nothing(case):
    """With no switches nothing on the way down depends on the images, and so not on the biases either."""
    _, variables, images = build(case)
    net = zfjax.ConvNet(case.layers, image_size=case.height)
    shifted = jax.tree.map(lambda leaf: leaf + 10.0 if leaf.ndim == 1 else leaf, variables)
    pixels = []
    for weights in (variables, shifted):
        y, project = up(zfjax.layer(net, weights, case.layers[-1].name), images)
        pixels.append(down(project, seed_like(y)))
    assert_same(*pixels)


def test_a_bias_that_leaves_the_switches_alone_changes_nothing():
    """A constant on a whole map does not move its maxima; the ReLU then passes all or nothing, and has no say."""
    layers = (Conv("conv", 4, (3, 3)), MaxPool("pool", (3, 3), (2, 2), ceil=True), ReLU("relu"), Conv("top", 5, (2, 2)))
    case = Case(layers, 12, 11, 0)
    _, variables, images = build(case)
    net, pixels = zfjax.ConvNet(layers, image_size=12), []
    for shift in (0.0, 100.0, -100.0):
        conv = variables["params"]["conv"]
        shifted = variables["params"] | {"conv": conv | {"bias": conv["bias"] + shift}}
        y, project = up(zfjax.layer(net, {"params": shifted}, "top"), images)
        pixels.append(down(project, seed_like(y)))
    assert np.any(pixels[0])
    assert_same(pixels[0], pixels[1])
    assert_same(pixels[0], pixels[2])


@fewer
@given(cases(), st.sampled_from([zfjax.DECONVNET, zfjax.GUIDED]), st.sampled_from([0.25, 3.0, 1e4]))
def test_scales_with_positive_factors(case, rules, factor):
    fun, _, images = build(case)
    y, project = up(fun, images, rules)
    seed, factor = seed_like(y), np.float32(factor)
    assert_close(down(project, factor * seed), factor * np.asarray(down(project, seed)))


@fewer
@given(cases(), st.sampled_from([-1.0, 0.5, -30.0]))
def test_the_gradient_is_linear(case, factor):
    fun, _, images = build(case)
    y, project = up(fun, images, zfjax.GRADIENT)
    one, two, factor = seed_like(y), seed_like(y, 1), np.float32(factor)
    apart = factor * np.asarray(down(project, one)) + down(project, two)
    assert_close(down(project, factor * one + two), apart)


@fewer
@given(cases())
def test_a_batch_is_its_images_one_at_a_time(case):
    fun, _, images = build(case)
    y, project = up(fun, images)
    seed = seed_like(y)
    alone = [down(up(fun, images[i : i + 1])[1], seed[i : i + 1]) for i in range(2)]
    assert_close(down(project, seed), np.concatenate(alone))


@fewer
@given(cases())
def test_many_seeds_by_vmap_are_a_loop(case):
    fun, _, images = build(case)
    y, project = up(fun, images)
    seeds = np.stack([seed_like(y, number) for number in range(3)])
    many = jax.jit(lambda project, seeds: jax.vmap(project)(seeds))(project, seeds)
    assert_close(many, np.stack([down(project, seed) for seed in seeds]))


@fewer
@given(cases())
def test_many_images_by_vmap_are_a_loop(case):
    """The whole transformation under vmap, not only the way down."""
    fun, _, images = build(case)

    def one(image):
        y, project = zfjax.deconvnet(fun, image[None])
        return project(seed_like(y))[0]

    alone = jax.jit(one)
    assert_close(jax.jit(jax.vmap(one))(images), np.stack([alone(image) for image in images]))


def field(case, position):
    """The pixels that a unit sees, by the layer table: (start, stop) of rows and columns, perhaps beyond the image."""
    row = zfjax.layer_table(zfjax.ConvNet(case.layers, image_size=case.height))[-1]
    starts = [
        round(offset + stride * index - (size - 1) / 2)
        for offset, stride, index, size in zip(row.offset, row.total_stride, position, row.receptive_field, strict=True)
    ]
    return [(start, start + size) for start, size in zip(starts, row.receptive_field, strict=True)]


def seen_from(case, draw_position):
    """(pixels that one unit's projection reaches, its field); all filters positive, so nothing is rectified away."""
    fun, _, images = build(case, positive=True)
    y, project = up(fun, images)
    position = tuple(draw_position(size) for size in y.shape[1:3])
    seed = np.zeros(y.shape, np.float32)
    seed[:, *position, 0] = 1
    pixels = down(project, seed)
    return np.any(above_noise(pixels), axis=-1), field(case, position)


@given(cases(dense=False, square=True), st.data())
def test_a_projection_stays_within_the_receptive_field(case, data):
    reached, (rows, columns) = seen_from(case, lambda size: data.draw(st.integers(0, size - 1)))
    inside = np.zeros(reached.shape[1:], bool)
    inside[max(rows[0], 0) : max(rows[1], 0), max(columns[0], 0) : max(columns[1], 0)] = True
    assert not np.any(reached & ~inside)
    assert np.all(np.any(reached, axis=(1, 2))), "a positive signal got lost"


@given(cases(kinds="crn", dense=False, square=True))
def test_without_pools_a_projection_fills_the_receptive_field(case):
    """All of it, where filters overlap or touch and the field lies within the image."""
    convs = [layer for layer in case.layers if isinstance(layer, Conv)]
    assume(all(s <= k for conv in convs for s, k in zip(conv.strides, conv.kernel, strict=True)))
    reached, (rows, columns) = seen_from(case, lambda size: size // 2)
    assume(min(rows[0], columns[0]) >= 0 and max(rows[1], columns[1]) <= case.height)
    inside = np.zeros(reached.shape[1:], bool)
    inside[slice(*rows), slice(*columns)] = True
    np.testing.assert_array_equal(reached, np.stack([inside] * 2))


@pytest.mark.parametrize("square", [False, True], ids=["oblong", "square"])
def test_a_seed_in_bfloat16_comes_down_in_bfloat16(square):
    """The way down has the types of the way up."""
    layers = (Conv("conv", 4, (3, 2), (2, 1)), ReLU("relu"), MaxPool("pool", (3, 3), (2, 2), ceil=True), LRN("norm"))
    case = Case((*layers, Conv("top", 2, (2, 2))), 13, 13 if square else 16, 0)
    fun, variables, images = build(case)
    net = zfjax.ConvNet(case.layers, image_size=13, dtype=jnp.bfloat16)
    y, project = up(zfjax.layer(net, variables, "top"), images.astype(jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    pixels = down(project, np.ones(y.shape, y.dtype))
    assert pixels.dtype == jnp.bfloat16
    expected = down(up(fun, images)[1], np.ones(y.shape, np.float32))
    assert_close(np.float32(pixels), expected, rtol=0.1)


@pytest.mark.parametrize("value", ["activation", 1.0])
@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (2, 3), (1, 4, 5, 3)], ids=str)
def test_seeds_are_shaped_as_the_layer(shape, value):
    """Else `project` refuses them."""
    y, position = jnp.ones(shape), (1,) * (len(shape) - 2)
    seeds = zfjax.seeds
    for seed in (
        seeds.strongest(y, 1, value),
        seeds.whole_map(y, 1, value),
        seeds.at(y, 1, position, value),
        seeds.masked(y, jnp.ones((1,) * len(shape), bool), value),
    ):
        assert seed.shape == y.shape
