"""What single units see, and their projections computed on that alone: those of whole images are the reference."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import ON_CPU, above_noise, assert_same, only_cpu, tolerance
from jax.tree_util import Partial
from small_models import normal, randomized

import zfjax
from zfjax.models.convnet import ConvNet
from zfjax.models.fields import fields_of, project_fields, project_units
from zfjax.models.specs import LRN, BatchNorm, Conv, Dropout, MaxPool, ReLU, same

PRESETS = {preset.__name__: preset for preset in (zfjax.zfnet, zfjax.zfnet_post, zfjax.zfnet512, zfjax.alexnet)}


def preset_layer(name, layer):
    net = PRESETS[name](10, width=1 / 16, image_size=96)
    shape = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    return zfjax.layer(net, randomized(jax.eval_shape(net.init, jax.random.key(0), shape)), layer)


def random_layer(seed):
    """A layer of a net such as nobody builds, and the size of images it takes."""
    rng = np.random.default_rng(seed)

    def pair(low, high):
        return tuple(int(n) for n in rng.integers(low, high + 1, 2))

    def padding(window):
        return tuple(pair(0, k - 1) for k in window)

    specs = []
    for i in range(2):
        kernel = pair(1, 5)
        specs.append(
            Conv(f"conv{i}", 8, kernel, pair(1, 2), padding(kernel), groups=2 if i and rng.random() < 0.5 else 1)
        )
        relu = [ReLU(f"relu{i}")]
        norm = [LRN(f"norm{i}", alpha=0.1)] if rng.random() < 0.5 else []
        window = pair(2, 3)
        pads = padding(window) if rng.random() < 0.7 else same(0)
        pool = [MaxPool(f"pool{i}", window, pair(1, 2), pads, bool(rng.random() < 0.5))]
        # A pool below the ReLU sees negative numbers: zeros around the map would win.
        specs += [*relu, *norm, *pool] if rng.random() < 0.5 else [*pool, *norm, *relu]
        specs += [Dropout(f"drop{i}")] if rng.random() < 0.3 else []
    size = pair(36, 50)
    net = ConvNet(tuple(specs), max(size))
    shape = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(0), shape), seed)
    names = [spec.name for spec in specs if not isinstance(spec, Dropout)]
    return zfjax.layer(net, variables, names[-1]), size


def strongest_units(fun, images, positions):
    acts = np.asarray(jax.jit(fun)(images))
    return acts[np.arange(len(acts)), positions[:, 0], positions[:, 1]].argmax(axis=1)


def assert_same_as_on_whole_images(fun, images, positions):
    """Values, projections and patches; nothing of a projection lies outside its patch."""
    units = strongest_units(fun, images, positions)
    values, whole = map(np.asarray, project_units(fun, images, units, positions))
    found = jax.device_get(project_fields(fun, images, units, positions))
    np.testing.assert_allclose(found.values, values, rtol=1e-5, atol=tolerance(1e-5) * np.abs(values).max())
    assert np.mean(np.abs(whole).max(axis=(1, 2, 3)) > 0) > 0.5  # some see nothing but padding
    for i, (top, left, height, width) in enumerate(found.fields):
        assert 0 <= top <= images.shape[1] - height
        assert 0 <= left <= images.shape[2] - width
        rebuilt = np.zeros_like(whole[i])
        rebuilt[top : top + height, left : left + width] = found.projections[i]
        largest = np.abs(whole[i] if ON_CPU else whole).max()  # one that sees nothing is noise on an accelerator
        np.testing.assert_allclose(rebuilt, whole[i], rtol=0, atol=tolerance(1e-5) * largest)
        patch = np.asarray(images)[i, top : top + height, left : left + width]
        np.testing.assert_array_equal(found.images[i], patch)


def corners_and_edges(height, width):
    rows, columns = sorted({0, 1, height // 2, height - 1}), sorted({0, width // 2, width - 1})
    return np.array([(row, column) for row in rows for column in columns], np.int32)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        *(("zfnet", layer) for layer in ("relu2", "relu4", "relu5")),
        *(("zfnet_post", layer) for layer in ("pool1", "conv4")),
        ("zfnet512", "pool2"),  # norm below pools that hang over the edge
        ("alexnet", "relu1"),
    ],
)
def test_on_its_field_a_unit_is_what_it_is_on_the_whole_image(name, layer):
    """At corners, edges and inside, on images that are not square; relu5's field is larger than these in one axis."""
    fun = preset_layer(name, layer)
    size = (150, 117)
    grid = jax.eval_shape(fun, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).shape[1:3]
    positions = corners_and_edges(*grid)
    assert_same_as_on_whole_images(fun, normal((len(positions), *size, 3), scale=60.0), positions)


@pytest.mark.parametrize("seed", range(6))
def test_so_it_is_in_nets_of_any_geometry_at_every_position(seed):
    fun, size = random_layer(seed)
    grid = jax.eval_shape(fun, jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)).shape[1:3]
    positions = np.argwhere(np.ones(grid)).astype(np.int32)
    positions = np.random.default_rng(seed).permutation(positions)[:24]
    fields = fields_of(fun, size)
    assert math.prod(fields.size) < math.prod(size)
    images = jax.device_put(np.repeat(normal((1, *size, 3), seed), len(positions), axis=0))
    assert_same_as_on_whole_images(fun, images, positions)


def test_batch_norms_change_the_zeros_outside_of_a_map():
    layers = (
        *(Conv("conv1", 4, (3, 3), (2, 2), same(1)), BatchNorm("bn1"), ReLU("relu1")),
        *(Conv("conv2", 4, (3, 3), (1, 1), same(1)), BatchNorm("bn2"), ReLU("relu2"), MaxPool("pool2", (3, 3), (2, 2))),
    )
    net = ConvNet(layers, 40)
    variables = randomized(
        jax.eval_shape(net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 40, 40, 3), jnp.float32))
    )
    variables["batch_stats"] = jax.tree.map(lambda leaf: 1 + jnp.square(leaf), variables["batch_stats"])
    positions = corners_and_edges(9, 9)
    assert_same_as_on_whole_images(zfjax.layer(net, variables, "pool2"), normal((len(positions), 40, 40, 3)), positions)


@only_cpu
def test_ties_go_where_they_go_on_the_whole_image():
    """Flat images: all cells of a pool's window are equal, and beyond the map there are padded ones."""
    fun = preset_layer("zfnet_post", "relu3")
    grid = jax.eval_shape(fun, jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)).shape[1:3]
    positions = corners_and_edges(*grid)
    assert_same_as_on_whole_images(fun, jnp.full((len(positions), 96, 96, 3), 40.0), positions)


def test_only_the_field_is_computed():
    net = zfjax.zfnet(10, width=1 / 16)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3))))
    fun = zfjax.layer(net, variables, "relu2")
    arguments = fun, jnp.zeros((2, 224, 224, 3)), jnp.zeros(2, jnp.int32), jnp.zeros((2, 2), jnp.int32)
    on_field, whole = (str(jax.make_jaxpr(project)(*arguments)) for project in (project_fields, project_units))
    assert "f32[2,110,110,6]" in whole
    assert "f32[2,110,110,6]" not in on_field
    assert "f32[2,11,11,6]" in on_field


@pytest.mark.parametrize("seed", range(2))
def test_a_unit_sees_its_field_and_nothing_else(seed):
    """By derivatives; where a field hangs over the edge, the patch is as large, but the derivative ends at the edge."""
    fun, size = random_layer(seed)
    fields = fields_of(fun, size)
    image = normal((1, *size, 3), seed)
    y, pull = jax.jit(lambda image: jax.vjp(fun, image))(image)
    pull = jax.jit(pull)
    counts = []
    for row, column in corners_and_edges(*y.shape[1:3]):
        signal = np.zeros(y.shape, np.float32)
        signal[0, row, column] = normal(y.shape[-1:])
        (pixels,) = pull(signal)
        seen = np.argwhere(np.any(above_noise(pixels[0]), axis=-1))
        starts = np.asarray(fields.starts(np.array([[row, column]], np.int32)))[0]
        assert np.all(seen >= starts)
        assert np.all(seen < starts + fields.size)
        counts.append(len(seen))
    assert max(counts) > 0.1 * math.prod(fields.size)


@pytest.mark.parametrize(
    ("layer", "place", "expected"),
    [
        ("relu1", (0, 0), (0, 0, 7, 7)),  # hangs over the edge by its padding: moved inside
        ("relu1", (5, 46), (9, 89, 7, 7)),
        ("relu2", (3, 4), (23, 31, 27, 27)),
        ("relu5", (1, 1), (0, 0, 96, 96)),  # 139 pixels wide: all of the image
    ],
)
def test_fields_lie_inside_the_image(layer, place, expected):
    fields = fields_of(preset_layer("zfnet", layer), (96, 96))
    np.testing.assert_array_equal(fields.inside(np.array([place], np.int32)), [expected])


@pytest.mark.parametrize(("layer", "size"), [("relu1", (7, 7)), ("relu2", (27, 27)), ("relu5", (139, 139))])
def test_fields_are_as_large_as_the_paper_has_them(layer, size):
    assert fields_of(preset_layer("zfnet", layer), (224, 224)).size == size


def test_units_of_dense_layers_and_of_other_functions_see_all():
    images = normal((2, 96, 96, 3), scale=60.0)
    dense = preset_layer("zfnet", "relu7")
    for fun, positions in (
        (dense, np.zeros((2, 0), np.int32)),
        (Partial(lambda x: jax.nn.relu(x[:, ::2, ::2])), np.array([[1, 2], [3, 4]], np.int32)),
    ):
        assert fields_of(fun, (96, 96)) is None
        units = np.array([1, 2], np.int32)
        found = project_fields(fun, images, units, positions)
        values, whole = project_units(fun, images, units, positions)
        assert_same((found.values, found.projections), (values, whole))
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.fields, [[0, 0, 96, 96]] * 2)


def test_random_nets_cover_what_is_hard():
    """The nets above pad pools, let windows hang over, and pool negative numbers."""
    nets = [random_layer(seed)[0].func.net for seed in range(6)]
    pools = [spec for net in nets for spec in net.layers if isinstance(spec, MaxPool)]
    assert any(spec.ceil for spec in pools)
    assert any(spec.padding != same(0) for spec in pools)
    assert any(isinstance(spec, Conv) and spec.groups == 2 for net in nets for spec in net.layers)
    assert any(
        isinstance(below, Conv) and isinstance(spec, MaxPool) and spec.padding != same(0)
        for net in nets
        for below, spec in zip(net.layers, net.layers[1:], strict=False)
    )
