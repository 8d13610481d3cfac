"""Arguments that are not arrays, or hold other numbers: one line that names them, from whatever takes images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import zfjax
from zfjax import attribution as lenses
from zfjax.attribution import metrics
from zfjax.experiments.correspondence import correspondence
from zfjax.experiments.gallery import Top, top_activations
from zfjax.experiments.invariance import invariance, paper_steps, transformed, translations
from zfjax.experiments.responses import LabeledImages, responses
from zfjax.models.fields import project_fields, project_units
from zfjax.ops import conv, max_pool
from zfjax.ops.windows import pair

pytestmark = pytest.mark.usefixtures("unchecked")

KEY = jax.random.key(0)
IMAGES = np.random.default_rng(0).normal(size=(2, 4, 5, 3)).astype(np.float32)
MAPS = np.zeros((2, 4, 5), np.float32)
TOP = Top(np.ones((3, 1), np.float32), np.zeros((3, 1), int), np.zeros((3, 1, 0), int))
UNITS = np.zeros(2, int), np.zeros((2, 0), int)


def fun(x):
    return jax.nn.relu(x).mean(axis=(1, 2))


def named(x):
    return {"fc": fun(x)}


IMAGES_TAKEN = {
    "gradient": ("images", lambda x: lenses.gradient(fun, x, 1)),
    "smooth_grad": ("images", lambda x: lenses.smooth_grad(fun, x, 1, KEY)),
    "guided_grad_cam": ("images", lambda x: lenses.guided_grad_cam((lambda x: x, fun), x, 1)),
    "grad_cam": ("features", lambda x: lenses.grad_cam(fun, x, 1)),
    "insertion": ("images", lambda x: metrics.insertion(fun, x, 1, MAPS)),
    "occlusion": ("image", lambda x: zfjax.occlusion(fun, x, 2, 2)),
    "project_units": ("images", lambda x: project_units(fun, x, *UNITS)),
    "project_fields": ("images", lambda x: project_fields(fun, x, *UNITS)),
    "transformed": ("image", lambda x: transformed(x, translations(np.ones(1)))),
    "invariance": ("images", lambda x: invariance(named, ("fc",), "fc", x, np.ones(2, int), paper_steps(16))),
}
ARRAYS_TAKEN = {
    "score_cam": ("maps", lambda x: lenses.score_cam(fun, IMAGES, 1, x)),
    "upsample": ("cam", lambda x: lenses.upsample(x, 8)),
    "per_pixel": ("attributions", lenses.per_pixel),
    "pointing_game": ("maps", lambda x: metrics.pointing_game(x, MAPS == 0)),
    "top_activations": ("batches", lambda x: top_activations(fun, [x], 1)),
    "responses": ("batches", lambda x: responses(fun, [LabeledImages(x, np.zeros(2, int))], TOP, 2)),
    "correspondence": ("images", lambda x: correspondence(fun, x, np.full((1, 2, 4), (0, 0, 2, 2)))),
}


@pytest.mark.parametrize("name", [*IMAGES_TAKEN, *ARRAYS_TAKEN])
def test_tuples_and_dicts(name):
    """As data sets give them: images with their labels, or under a name."""
    argument, take = (IMAGES_TAKEN | ARRAYS_TAKEN)[name]
    for value in ((IMAGES, IMAGES), {"image": IMAGES}):
        with pytest.raises(TypeError, match=f"^{argument}: expected one array, got {type(value).__name__}"):
            take(value)


@pytest.mark.parametrize("name", IMAGES_TAKEN)
def test_whole_numbers(name):
    argument, take = IMAGES_TAKEN[name]
    expected = f"{argument}: expected floating-point numbers, the mean already subtracted, got uint8"
    with pytest.raises(TypeError, match=f"^{expected}"):
        take(IMAGES.astype(np.uint8))


DECONVNET = {"deconvnet": ("x", lambda x: zfjax.deconvnet(fun, x)[0])}
BIG_ENDIAN = ("gradient", "grad_cam", "guided_grad_cam", "occlusion", "project_units", "upsample")
BIG_ENDIAN += ("per_pixel", "top_activations", "deconvnet")


@pytest.mark.parametrize("name", BIG_ENDIAN)
def test_numbers_of_another_byte_order(name):
    """As TIFF and FITS files give them."""
    _, take = (IMAGES_TAKEN | ARRAYS_TAKEN | DECONVNET)[name]
    value = {"upsample": IMAGES[..., 0], "occlusion": IMAGES[0]}.get(name, IMAGES)
    found, expected = take(value.astype(">f4")), take(value)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", ["gradient", "occlusion", "top_activations"])
def test_arrays_of_pytorch(name):
    torch = pytest.importorskip("torch")
    argument, take = (IMAGES_TAKEN | ARRAYS_TAKEN)[name]
    value = torch.tensor(IMAGES[0] if name == "occlusion" else IMAGES)
    jax.tree.map(np.testing.assert_array_equal, take(value), take(value.numpy()))
    with pytest.raises(TypeError, match=rf"^{argument}: expected an array that JAX can read, got Tensor: .*detach"):
        take(value.requires_grad_())


def test_masked_arrays_are_named():
    with pytest.raises(TypeError, match=r"^images: expected an array that JAX can read, got MaskedArray: .*filled"):
        lenses.gradient(fun, np.ma.array(IMAGES, mask=IMAGES > 0), 1)


def test_batches_without_images():
    """An empty last batch changes nothing; empty images and single numbers are named."""
    jax.tree.map(
        np.testing.assert_array_equal, *(top_activations(fun, bs, 1) for bs in ([IMAGES, IMAGES[:0]], [IMAGES]))
    )
    with pytest.raises(ValueError, match=r"^batches: expected at least one batch of images, got none"):
        top_activations(fun, [IMAGES[:0]], 1)
    with pytest.raises(ValueError, match=r"^batches: expected images \[n, …\], got float32\[\]"):
        top_activations(fun, [np.float32(1)], 1)
    for lens in (lenses.gradient, lambda *asked: lenses.smooth_grad(*asked, KEY)):
        with pytest.raises(ValueError, match=r"^images: expected a batch \[n, …\] of one or more, got \[2, 0, 5, 3\]"):
            lens(fun, IMAGES[:, :0], 1)


@pytest.mark.parametrize("value", [{"mean": 3.0}, "mean", None])
def test_what_fills(value):
    kind = type(value).__name__
    expected = rf"^baseline: expected a number, \[3\], \[4, 5, 3\] or \[2, 4, 5, 3\], got {kind}$"
    with pytest.raises(TypeError, match=expected):
        lenses.integrated_gradients(fun, IMAGES, 1, value)
    with pytest.raises(TypeError, match=rf"^fill: expected a number, \[3\], \[4, 5, 3\] or .* got {kind}$"):
        metrics.deletion(fun, IMAGES, 1, MAPS, fill=value)
    with pytest.raises(TypeError, match=rf"^fill: expected a number, \[3\] or \[4, 5, 3\], got {kind}$"):
        zfjax.occlusion(fun, IMAGES[0], 2, 2, value)


def test_what_fills_as_it_should():
    """A number, a color, a picture, and of baselines one for each image, as lists or whole numbers too."""
    images, cover = jnp.ones((2, 4, 5, 3)), [1, 2, 3]
    found = zfjax.occlusion(lambda x: x, images[0], 4, 1, cover).outputs
    np.testing.assert_array_equal(found[0, 0, :, :4], np.broadcast_to(cover, (4, 4, 3)))
    for baseline in (1, np.ones((4, 5, 3), np.uint8), np.ones((2, 4, 5, 3))):
        assert not np.any(lenses.integrated_gradients(fun, images, 1, baseline, n_steps=2).attributions)


@pytest.mark.parametrize("value", [{"class": 1}, "cat", None, 1.0])
def test_targets_and_units(value):
    with pytest.raises(ValueError, match=r"^target: expected .* for each of the 2 images, or a function; got "):
        lenses.gradient(fun, IMAGES, value)
    with pytest.raises(ValueError, match=r"^units: expected numbers of units, one or "):
        lenses.maximize(fun, value, KEY, size=8)


@pytest.mark.parametrize("value", [2.5, "2", None, [1]])
def test_counts(value):
    for name, take in {
        "n_samples": lambda: lenses.smooth_grad(fun, IMAGES, 1, KEY, n_samples=value),
        "n_steps": lambda: lenses.integrated_gradients(fun, IMAGES, 1, n_steps=value),
        "batch_size": lambda: lenses.score_cam(fun, IMAGES, 1, IMAGES, batch_size=value),
        "channels": lambda: lenses.maximize(fun, 1, KEY, size=4, channels=value),
        "k": lambda: top_activations(fun, [IMAGES], value),
    }.items():
        with pytest.raises(TypeError, match=rf"^{name}: expected a whole number of at least 1, got "):
            take()


@pytest.mark.parametrize("value", [float("nan"), "much", None])
def test_amounts(value):
    for name in ("lr", "tv"):
        with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .*0 or more, got "):
            lenses.maximize(fun, 1, KEY, size=4, **{name: value})
    with pytest.raises((TypeError, ValueError), match=r"^noise: expected .*0 or more, got "):
        lenses.smooth_grad(fun, IMAGES, 1, KEY, noise=value)


@pytest.mark.parametrize("key", [0, None, np.zeros(2), jax.random.split(KEY), "key"])
def test_keys(key):
    for take in (
        lambda: lenses.smooth_grad(fun, IMAGES, 1, key),
        lambda: lenses.maximize(fun, 1, key, size=4),
    ):
        with pytest.raises(TypeError, match=r"^key: expected one key, such as jax\.random\.key\(0\), got "):
            take()


@pytest.mark.parametrize("batches", [IMAGES, jnp.asarray(IMAGES), None, 5])
def test_images_instead_of_batches(batches):
    with pytest.raises(TypeError, match=r"^batches: expected batches of images, such as \[images\], got "):
        top_activations(fun, batches, 1)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        *(({"num_classes": value}, "must be a whole number of at least 1") for value in (0, -1, 2.5, "a", None)),
        *(({"width": value}, "must be positive and at most 1000") for value in ("a", None, float("nan"))),
        *(({"image_size": value}, "must be a whole number of pixels") for value in ("a", None, 64.0)),
    ],
)
def test_sizes_of_nets(change, expected):
    name, value = next(iter(change.items()))
    for net in (zfjax.zfnet, zfjax.resnet18):
        with pytest.raises(zfjax.UserError, match=f"^{name}={value!r} {expected}"):
            net(**({"num_classes": 10, "width": 0.1, "image_size": 64} | change))


@pytest.mark.parametrize("name", [None, 5, ["relu1"]])
def test_layers_that_are_no_names(name):
    net = zfjax.zfnet(10, width=0.1, image_size=64)
    for cut in (zfjax.layer, zfjax.split):
        with pytest.raises(zfjax.UserError, match=r"^no layer .* in the net; .*there are conv1, "):
            cut(net, {}, name)
        with pytest.raises(TypeError, match=r"^variables: expected \{'params': …\} of this net, got NoneType"):
            cut(net, None, "relu1")


@pytest.mark.parametrize("value", [2, 2.5, "2", None, (2,), (2, 2.5), (2, 2, 2)])
def test_windows_that_are_no_pairs(value):
    kernel = np.zeros((2, 2, 3, 1), np.float32)
    for name, take in {
        "window": lambda: max_pool(IMAGES, value, (1, 1)),
        "strides": lambda: conv(IMAGES, kernel, value),
        "padding": lambda: conv(IMAGES, kernel, (1, 1), value),
    }.items():
        with pytest.raises(ValueError, match=rf"^{name}: expected \(.* in cells, got "):
            take()


@pytest.mark.parametrize("value", [0, (8,), (8, 0), (8, 8, 3), 8.5, "96", None, {"height": 8}])
def test_sizes_in_pixels(value):
    for name, take in {
        "size": lambda x: lenses.upsample(MAPS, x),
        "window": lambda x: zfjax.occlusion(fun, IMAGES[0], x, 2),
    }.items():
        with pytest.raises(
            ValueError, match=rf"^{name}: expected a positive number of pixels or \(height, width\), got "
        ):
            take(value)
    assert pair("size", np.int32(8)) == pair("size", [8, np.int64(8)]) == (8, 8)
