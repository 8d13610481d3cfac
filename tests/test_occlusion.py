"""Figure 7: the sweep against its definition, the recomputed windows against whole images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import above_noise, tolerance
from jax import export

import zfjax
from zfjax import ops
from zfjax.attribution.sweeps import grid, is_listable
from zfjax.experiments import occlusion as experiment
from zfjax.experiments.occlusion import Occlusion, covered_share, hiding, occlusion, sensitivity
from zfjax.models import ConvNet, incremental, layers
from zfjax.models.edits import without
from zfjax.models.nets import NetModel
from zfjax.models.specs import LRN, Conv, MaxPool, ReLU, Size, same


def by_loops(fun, image, window, stride, cover):
    """The definition: one position after the other, each a whole image."""
    height, width = image.shape[:2]
    tops = [*range(0, height - window[0], stride[0]), height - window[0]]
    lefts = [*range(0, width - window[1], stride[1]), width - window[1]]
    rows = []
    for top in tops:
        for left in lefts:
            hidden = image.copy()
            part = slice(top, top + window[0]), slice(left, left + window[1])
            hidden[part] = np.broadcast_to(cover, image.shape)[part]
            rows.append(hidden)
    outputs = jax.jit(fun)(np.stack(rows))
    return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(len(tops), len(lefts), *leaf.shape[1:]), outputs)


def assert_close(one, other):
    """To 1e-5 of the largest value."""
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=tolerance(1e-5) * np.abs(b).max()), one, other
    )


def drawn(net, size, seed=0):
    """An image, and weights large enough that each layer is alive."""
    rng = np.random.default_rng(seed)
    image = 50 * rng.normal(size=(*size, 3)).astype(np.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), image[None])
    he = [
        np.float32(rng.normal(size=leaf.shape) * np.sqrt(2 / max(1, np.prod(leaf.shape[:-1]))))
        for leaf in jax.tree.leaves(shapes)
    ]
    return net, jax.tree.unflatten(jax.tree.structure(shapes), he), image


NETS = {
    "zfnet": zfjax.zfnet(10, width=1 / 16, image_size=64),
    "zfnet_post": zfjax.zfnet_post(10, width=1 / 16, image_size=64),
    "zfnet_pytorchcv": zfjax.zfnet_pytorchcv(10, width=1 / 16, image_size=64),
}
NETS["short"] = without(NETS["zfnet"], (3, 4))  # in which all kinds of layers are


@pytest.mark.parametrize(
    ("net", "window"),
    [("zfnet", 5), ("zfnet", 16), ("zfnet", 45), ("zfnet", 60), ("zfnet_post", 10), ("zfnet_pytorchcv", 10)],
)
def test_recomputed_windows_equal_whole_images(net, window):
    """From small squares to one that reaches all of the net."""
    net = NETS[net]
    net, variables, image = drawn(net, (net.image_size, net.image_size))
    fun = zfjax.layer(net, variables, "fc8")
    found = occlusion(fun, image, window, 9, batch_size=13)
    assert is_listable(fun)
    assert_close(found.outputs, by_loops(fun, image, (window, window), (9, 9), 0.0))
    np.testing.assert_allclose(found.clean, jax.jit(fun)(image[None])[0], rtol=tolerance(1e-5))


@pytest.mark.parametrize("name", ["conv1", "relu5"])
def test_maps_of_images_that_are_not_square(name):
    """Layers of maps, other windows down than across, a color for the square."""
    net, variables, image = drawn(NETS["zfnet"], (64, 91))
    fun = zfjax.layer(net, variables, name)
    color = np.array([40.0, -30.0, 7.0], np.float32)
    found = occlusion(fun, image, (11, 20), (13, 9), color)
    assert_close(found.outputs, by_loops(fun, image, (11, 20), (13, 9), color))


def test_several_layers_at_once_and_a_picture_that_covers():
    net, variables, image = drawn(NETS["short"], (64, 64))
    fun = layers(net, variables, ["relu1", "relu5", "fc7"])
    cover = np.random.default_rng(1).normal(size=image.shape).astype(np.float32) * 90
    found = occlusion(fun, image, 21, 11, cover)
    assert found.outputs.keys() == {"relu1", "relu5", "fc7"}
    assert_close(found.outputs, by_loops(fun, image, (21, 21), (11, 11), cover))


def test_nets_with_gaps_between_windows_and_rows_that_no_window_reads():
    """A stride above the kernel: some squares change nothing at all."""
    net = ConvNet(
        (
            Conv("conv1", 8, (2, 3), (4, 5), same(1)),
            ReLU("relu1"),
            LRN("norm1"),
            MaxPool("pool1", (2, 2), (3, 2)),
            Conv("conv2", 6, (3, 1), (1, 2), ((2, 0), (0, 1))),
            ReLU("relu2"),
        ),
        image_size=40,
    )
    net, variables, image = drawn(net, (41, 38))
    fun = zfjax.layer(net, variables, "relu2")
    found = occlusion(fun, image, 2, 3, batch_size=7)
    assert_close(found.outputs, by_loops(fun, image, (2, 2), (3, 3), 0.0))
    changed = np.any(above_noise(found.outputs - found.clean[None, None], found.outputs), axis=(2, 3, 4))
    assert changed.any()
    assert not changed.all()


def test_any_other_function_takes_whole_images_and_gives_the_same():
    net, variables, image = drawn(NETS["short"], (64, 64))
    fun = zfjax.layer(net, variables, "fc8")
    plain = occlusion(lambda images: fun(images), image, 16, 16, batch_size=5)
    assert_close(occlusion(fun, image, 16, 16).outputs, plain.outputs)
    grouped = net.clone(layers=(Conv("conv1", 8, (7, 7), (2, 2)), Conv("conv2", 8, (3, 3), groups=2)))
    grouped, variables, image = drawn(grouped, (32, 32))
    fun = zfjax.layer(grouped, variables, "conv2")
    assert not is_listable(fun)
    assert_close(occlusion(fun, image, 9, 8).outputs, by_loops(fun, image, (9, 9), (8, 8), 0.0))


def test_tpus_take_whole_images_and_give_the_same(on):
    net, variables, image = drawn(NETS["short"], (64, 64))
    chunk = grid((64, 64), (16, 16), (9, 9), 13).chunks[0]
    plan, (changed,) = incremental.plan(net, ("relu1", "relu5", "fc8"), Size(*image.shape), [chunk])
    below = [layer.name for layer in plan.listed]
    acts = jax.jit(layers(net, variables, below))(image[None])
    clean = [image, *(acts[name][0] for name in below)]

    def sweep():
        reads = incremental.reads(plan, changed)
        return incremental.recompute(plan, variables["params"], clean, 0 * image, reads)

    listed, whole = (on(platform, sweep) for platform in ("cpu", "tpu"))
    assert_close(listed, whole)
    programs = (export.export(jax.jit(sweep), platforms=[one])().mlir_module() for one in ("cpu", "tpu"))
    assert ["stablehlo.gather" in program for program in programs] == [True, False]


def test_what_is_kept_of_each_batch_is_what_then_says():
    net, variables, image = drawn(NETS["short"], (64, 64))
    fun = layers(net, variables, ["relu5", "fc8"])
    whole = occlusion(fun, image, 16, 16).outputs
    kept = occlusion(fun, image, 16, 16, then=lambda acts: acts["relu5"][..., 3].sum(axis=(1, 2)))
    np.testing.assert_allclose(kept.outputs, whole["relu5"][..., 3].sum(axis=(2, 3)), rtol=tolerance(1e-5))
    acts = np.asarray(jax.jit(fun)(image[None])["relu5"])
    np.testing.assert_allclose(kept.clean, acts[0, ..., 3].sum(), rtol=tolerance(1e-5))


def test_every_pixel_is_covered_and_positions_are_where_they_say():
    """A function that shows which pixels are covered."""
    image = np.ones((23, 30, 1), np.float32)
    found = occlusion(lambda images: images[..., 0], image, (7, 6), 5)
    assert found.outputs.shape == (5, 6, 23, 30)
    for i, top in enumerate(found.tops):
        for j, left in enumerate(found.lefts):
            expected = np.ones((23, 30))
            expected[top : top + 7, left : left + 6] = 0
            np.testing.assert_array_equal(found.outputs[i, j], expected)
    assert (found.tops[-1], found.lefts[-1]) == (16, 24)
    assert not found.outputs.all(axis=(0, 1)).any()


def test_memory_is_bounded_by_the_batch():
    """No array of the compiled program grows with the number of positions."""
    seen = []

    def fun(images):
        seen.append(images.shape[0])
        return images.sum(axis=(1, 2, 3))

    occlusion(fun, np.ones((40, 40, 3), np.float32), 4, 1, batch_size=10)
    assert max(seen) <= 10


def test_half_precision_nets_stay_so():
    net, variables, image = drawn(NETS["short"].clone(dtype=jnp.bfloat16), (64, 64))
    fun = zfjax.layer(net, variables, "relu5")
    found = occlusion(fun, image, 16, 16)
    assert found.outputs.dtype == jnp.bfloat16
    expected = by_loops(fun, image, (16, 16), (16, 16), 0.0).astype(np.float32)
    np.testing.assert_allclose(found.outputs.astype(np.float32), expected, atol=0.03 * expected.max())


def test_sensitivity_is_what_the_net_says_of_each_position():
    net, variables, image = drawn(NETS["short"], (64, 64))
    found = sensitivity(NetModel(net, variables), image, 4, 16, 12, batch_size=7)
    fun = layers(net, variables, ["relu5", "fc8"])
    acts = by_loops(fun, image, (16, 16), (12, 12), 0.0)
    clean = jax.jit(fun)(image[None])
    assert found.unit == np.argmax(np.asarray(clean["relu5"]).sum(axis=(0, 1, 2)))
    np.testing.assert_allclose(found.activation, acts["relu5"][..., found.unit].sum(axis=(2, 3)), rtol=1e-4)
    softmax = np.asarray(jax.nn.softmax(acts["fc8"]))
    np.testing.assert_allclose(found.probability, softmax[..., 4], rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(found.most_probable, softmax.argmax(axis=-1))
    assert found.clean_probability == pytest.approx(float(jax.nn.softmax(clean["fc8"])[0, 4]), rel=1e-3)
    with pytest.raises(ValueError, match="label: expected one of the net's 10 classes, got 10"):
        sensitivity(NetModel(net, variables), image, 10, 16, 12)


def test_sensitivity_runs_the_net_compiled_alone(monkeypatch):
    """Nothing of the net is computed outside of compiled programs, where each operation would be sent by itself."""
    net, variables, image = drawn(NETS["short"].clone(image_size=72), (72, 72))
    conv, eager = ops.conv, []

    def watched(x, *args, **options):
        eager.extend([] if isinstance(x, jax.core.Tracer) else [x.shape])
        return conv(x, *args, **options)

    monkeypatch.setattr(ops, "conv", watched)
    sensitivity(NetModel(net, variables), image, 4, 36, 36, batch_size=7)
    assert not eager


def test_whole_numbers_are_named(unchecked):
    """Not quietly computed in uint8, whatever the function."""
    net, variables, image = drawn(NETS["short"], (64, 64))
    for fun in (lambda images: images.sum(axis=(1, 2, 3)), zfjax.layer(net, variables, "relu1")):
        with pytest.raises(TypeError, match=r"image: expected floating-point numbers, the mean already .* got uint8"):
            occlusion(fun, image.astype(np.uint8), 16, 16)


def test_covered_share_counts_the_pixels_of_the_object():
    rng = np.random.default_rng(0)
    mask = rng.random((20, 26)) < 0.3
    found = occlusion(lambda images: images.sum(axis=(1, 2, 3)), np.ones((20, 26, 1), np.float32), (6, 5), 4)
    expected = [[mask[top : top + 6, left : left + 5].sum() / mask.sum() for left in found.lefts] for top in found.tops]
    np.testing.assert_allclose(covered_share(found, mask), expected)
    with pytest.raises(ValueError, match="mask: expected some pixels"):
        covered_share(found, np.zeros((20, 26), bool))


def test_hiding_tells_a_net_that_looks_at_the_object_from_one_that_does_not():
    mask = np.zeros((30, 30), bool)
    mask[3:12, 3:12] = True
    tops = lefts = np.arange(0, 25, 3, dtype=np.int32)
    share = covered_share(Occlusion(None, None, tops, lefts, (6, 6)), mask)

    def looking(probability):
        return experiment.Sensitivity(0, share, probability, share.astype(int), 1.0, 1.0, tops, lefts, (6, 6))

    good, bad = hiding(looking(1 - share), mask), hiding(looking(share), mask)
    assert good.lowest
    assert not bad.lowest
    assert good.least == 1
    assert good.most < 0.9
    assert bad.most > bad.least
    assert good.chance == bad.chance == pytest.approx((share > 0).mean())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"window": 33}, "window: expected at most the image's 32×40 px, got 33×33"),
        ({"window": (8, 41)}, "got 8×41"),
        ({"window": 0}, "window: expected a positive number of pixels"),
        ({"strides": 0}, "strides: expected a positive number"),
        ({"strides": (1, 2, 3)}, "strides: expected"),
        ({"fill": np.zeros(4)}, r"fill: expected a number, \[3\] or \[32, 40, 3\], got \[4\]"),
        ({"image": np.zeros((1, 32, 40, 3), np.float32)}, r"image: expected \[H, W, C\], got \[1, 32, 40, 3\]"),
        ({"batch_size": 0}, "batch_size: expected at least 1"),
    ],
)
def test_wrong_arguments_are_named(unchecked, arguments, expected):
    usual = {"image": np.zeros((32, 40, 3), np.float32), "window": 8, "strides": 8}
    with pytest.raises(ValueError, match=expected):
        occlusion(lambda images: images, **usual | arguments)
