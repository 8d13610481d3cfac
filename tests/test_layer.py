"""One layer of a net as a function of images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import above_noise, assert_same
from small_models import normal, randomized

import zfjax
from zfjax.console.errors import UserError
from zfjax.models.specs import Dropout

IMAGES = normal((2, 64, 64, 3), scale=60.0)
NETS = {
    preset.__name__: preset(10, width=1 / 16, image_size=64)
    for preset in (zfjax.zfnet, zfjax.alexnet, zfjax.zfnet_post)
}
LAYERS = [(name, spec.name) for name, net in NETS.items() for spec in net.layers if not isinstance(spec, Dropout)]


@functools.cache
def variables(name):
    return randomized(jax.eval_shape(NETS[name].init, jax.random.key(0), IMAGES))


@functools.cache
def acts(name):
    return NETS[name].apply(variables(name), IMAGES)[1]


def layer(name, net="zfnet"):
    return zfjax.layer(NETS[net], variables(net), name)


@pytest.mark.parametrize(("net", "name"), LAYERS)
def test_a_layer_is_what_the_net_shows(net, name):
    assert_same(layer(name, net)(IMAGES), acts(net)[name])


def test_what_lies_above_is_neither_computed_nor_kept():
    fun = layer("relu2")
    program = jax.jit(fun).lower(IMAGES).as_text()
    assert program.count("stablehlo.convolution") == 2
    assert "stablehlo.dot" not in program
    assert len(jax.tree.leaves(fun)) == 4  # kernel and bias of conv1 and conv2


@pytest.mark.parametrize(("height", "width", "expected"), [(64, 64, (3, 3)), (96, 64, (5, 3)), (65, 130, (3, 7))])
def test_below_dense_layers_images_may_have_any_size(height, width, expected):
    assert layer("relu5")(jnp.zeros((1, height, width, 3))).shape == (1, *expected, 16)


@pytest.mark.parametrize("name", ["fc6", "relu7", "fc8"])
def test_dense_layers_name_the_images_size(name):
    with pytest.raises(ValueError, match=r"^images: .*dense layers .*expected \[N, 64, 64, C\], got \[1, 96, 96, 3\]"):
        layer(name)(jnp.zeros((1, 96, 96, 3)))


@pytest.mark.parametrize(
    ("name", "guess"),
    [("relu55", "relu5"), ("Conv1", "conv1"), ("cov3", "conv3"), ("pool_5", "pool5")],
)
def test_unknown_layers_name_the_likely_one(name, guess):
    with pytest.raises(UserError, match=rf"no layer {name!r} in the net; did you mean {guess}\?"):
        layer(name)


@pytest.mark.parametrize("name", ["drop6", "softmax", ""])
def test_unknown_layers_list_those_there_are(name):
    with pytest.raises(UserError, match=r"there are conv1, relu1, pool1, norm1, .*, fc7, relu7, fc8$"):
        layer(name)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 64, 64), r"images: expected \[N, H, W, 3\], got \[2, 3, 64, 64\] \(this looks like \[N, C, H, W\]\)"),
        ((2, 64, 64, 1), r"images: expected \[N, H, W, 3\], got \[2, 64, 64, 1\](\n|$)"),
        ((64, 64, 3), r"images: expected \[N, H, W, 3\], got \[64, 64, 3\](\n|$)"),
        ((1, 2, 64, 64, 3), r"images: expected \[N, H, W, 3\], got \[1, 2, 64, 64, 3\](\n|$)"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_images_in_another_layout_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        layer("relu5")(jnp.zeros(shape))
    with pytest.raises(ValueError, match=message):
        zfjax.deconvnet(layer("relu5"), jnp.zeros(shape))


@pytest.mark.usefixtures("unchecked")
def test_integer_images_are_refused():
    images = jnp.zeros((1, 64, 64, 3), jnp.uint8)
    with pytest.raises(
        TypeError, match=r"images: expected floating-point numbers, .* mean already subtracted, got uint8"
    ):
        layer("relu5")(images)
    with pytest.raises(TypeError, match=r"x: expected floating-point images .* mean already subtracted, got uint8"):
        zfjax.deconvnet(layer("relu5"), images)


def test_a_layer_is_a_tree_of_its_variables():
    fun = layer("relu1")
    doubled = jax.tree.map(lambda leaf: 2 * leaf, fun)
    assert_same(doubled(IMAGES), 2 * fun(IMAGES))


def test_equal_layers_do_not_retrace():
    traces = []

    @jax.jit
    def up_and_down(fun, images):
        traces.append(fun)
        y, project = zfjax.deconvnet(fun, images)
        return project(y)

    for scale in (1.0, 2.0):
        net = zfjax.zfnet(10, width=1 / 16, image_size=64)
        fun = zfjax.layer(net, jax.tree.map(lambda leaf, scale=scale: scale * leaf, variables("zfnet")), "relu1")
        assert jnp.any(up_and_down(fun, IMAGES))
    assert len(traces) == 1
    up_and_down(layer("pool1"), IMAGES)
    assert len(traces) == 2


def test_the_way_down_of_a_layer_has_the_images_shape():
    y, project = jax.jit(zfjax.deconvnet)(layer("pool1"), IMAGES)
    signal = project(zfjax.strongest(y, unit=2))
    assert (signal.shape, signal.dtype) == (IMAGES.shape, IMAGES.dtype)
    # conv1 sees 7×7 pixels, pool1 11×11: nothing else is touched.
    touched = np.argwhere(np.any(above_noise(signal[0]), axis=-1))
    assert 0 < np.ptp(touched, axis=0).max() <= 10


@pytest.mark.parametrize(
    ("seed", "message"),
    [
        (jnp.zeros((2, 15, 15, 7)), r"seed: expected float32\[2, 15, 15, 6\] like y, got float32\[2, 15, 15, 7\]"),
        (jnp.zeros((15, 15, 6)), r"seed: expected float32\[2, 15, 15, 6\] like y, got float32\[15, 15, 6\]"),
        (jnp.zeros((2, 15, 15, 6), jnp.float16), r"seed: expected float32\[.*\] like y, got float16"),
        ({"relu1": jnp.zeros((2, 15, 15, 6))}, "seed: expected a pytree like that of y"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_wrong_seeds_are_named(seed, message):
    y, project = zfjax.deconvnet(layer("pool1"), IMAGES)
    assert y.shape == (2, 15, 15, 6)
    with pytest.raises(ValueError, match=message):
        project(seed)


@pytest.mark.parametrize("given", [{}, {"params": {}}, {"conv1": 1}])
def test_variables_of_something_else_are_named(given):
    with pytest.raises(
        UserError, match=r"^variables: expected \{'params': …\} of this net; no weights of conv1, conv2"
    ):
        zfjax.layer(NETS["zfnet"], given, "relu5")


def test_a_head_is_for_the_maps_below_it():
    _, head = zfjax.split(NETS["zfnet"], variables("zfnet"), "relu5")
    with pytest.raises(
        ValueError, match=r"acts: expected what zfjax.split's first function returns, got \[2, 64, 64, 3\]"
    ):
        zfjax.grad_cam(head, IMAGES, 3)


@pytest.mark.parametrize("lens", [zfjax.deconvnet, lambda net, x: zfjax.attribution.saliency(net, x, 3)])
def test_a_module_without_its_variables_is_named(lens):
    with pytest.raises(TypeError, match="fun: expected a function of images alone, got a Flax Linen module"):
        lens(NETS["zfnet"], IMAGES)
    bound = NETS["zfnet"].bind(variables("zfnet"))
    assert zfjax.deconvnet(bound, IMAGES)[0][0].shape == (2, 10)
