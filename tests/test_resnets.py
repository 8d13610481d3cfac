"""ResNets, VGG-16 and torchvision's AlexNet: parts, parameters, training, and all that works on ZFNet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import above_noise, assert_same, tolerance

import zfjax
from zfjax.console.errors import UserError
from zfjax.experiments.occlusion import occlusion
from zfjax.models import layers, preset
from zfjax.models.fields import project_fields, project_units
from zfjax.models.nets import NetModel
from zfjax.models.specs import BatchNorm, Conv, MeanPool, ReLU, Residual, flat, same

SIZE = 40


def drawn(net, seed=0):
    """Variables drawn by NumPy: compiling the nets' own draw takes seconds."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, net.image_size, net.image_size, 3)))

    def fill(path, leaf):
        kind = path[-1].key
        if kind in ("var", "scale"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = np.prod(leaf.shape[:-1]) if kind == "kernel" else 100
        return rng.normal(0, np.sqrt(2 / fan_in), leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope="module")
def small():
    """A ResNet-18 of a sixteenth of the width, its variables and two images."""
    net = zfjax.resnet18(10, width=1 / 16, image_size=SIZE)
    return net, drawn(net), np.random.default_rng(1).normal(0, 60, (2, SIZE, SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("name", "millions", "multiply_adds"),
    [
        ("resnet18", 11.689512, 1.814073),
        ("resnet34", 21.797672, 3.663761),
        ("resnet50", 25.557032, 4.089184),
        ("vgg16", 138.357544, 15.470264),
        ("alexnet_torchvision", 61.10084, 0.714188),
    ],
)
def test_parameters_are_torchvisions(name, millions, multiply_adds):
    net = preset(name, 1000)
    rows = zfjax.layer_table(net)
    assert sum(row.parameters for row in rows) == round(millions * 1e6)
    assert sum(row.multiply_adds for row in rows) == pytest.approx(multiply_adds * 1e9, rel=1e-6)
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == round(millions * 1e6)


def test_receptive_fields_go_through_blocks():
    fields = {row.name: row.receptive_field for row in zfjax.layer_table(zfjax.resnet50(1000))}
    assert [fields[f"stage{n}"] for n in (1, 2, 3, 4)] == [(35, 35), (91, 91), (267, 267), (427, 427)]
    assert fields["pool5"] is None


def test_a_unit_sees_its_receptive_field_and_no_more(small):
    net, variables, _ = small
    row = next(row for row in zfjax.layer_table(net) if row.name == "stage1")
    assert row.receptive_field
    assert row.total_stride == (4, 4)
    fun = zfjax.layer(net, jax.tree.map(np.abs, variables), "stage1")  # nothing is rectified away
    many = np.random.default_rng(4).uniform(0, 60, (24, 64, 64, 3)).astype(np.float32)  # the pool chooses among cells
    seen = np.abs(jax.grad(lambda x: fun(x)[:, 8, 8].sum())(many)).sum(axis=(0, 2, 3))
    rows = np.flatnonzero(above_noise(seen))
    first = round(row.offset[0] + 8 * 4 - (row.receptive_field[0] - 1) / 2)
    assert (rows[0], rows[-1]) == (first, first + row.receptive_field[0] - 1)


def test_a_net_is_its_layers_one_after_the_other(small):
    """Batch norm, blocks and the mean against their definitions in NumPy."""
    net, variables, images = small
    _, acts = net.apply(variables, images)
    params, stats = variables["params"], variables["batch_stats"]

    def norm(name, x):
        scale = params[name]["scale"] / np.sqrt(stats[name]["var"] + 1e-5)
        return (x - stats[name]["mean"]) * scale + params[name]["bias"]

    np.testing.assert_allclose(acts["norm1"], norm("norm1", np.asarray(acts["conv1"])), rtol=1e-4, atol=1e-4)

    def conv(name, x, stride):
        kernel = params[name]["kernel"]
        padding = [(kernel.shape[0] // 2,) * 2] * 2
        return np.asarray(
            jax.lax.conv_general_dilated(x, kernel, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))
        )

    below = np.asarray(acts["stage1"])
    body = np.maximum(norm("stage2_1_norm1", conv("stage2_1_conv1", below, (2, 2))), 0)
    body = norm("stage2_1_norm2", conv("stage2_1_conv2", body, (1, 1)))
    short = norm("stage2_1_shortcut_norm", conv("stage2_1_shortcut_conv", below, (2, 2)))
    expected = np.maximum(body + short, 0)
    np.testing.assert_allclose(acts["stage2_1"], expected, rtol=1e-4, atol=1e-4 * expected.max())
    np.testing.assert_allclose(acts["pool5"], np.mean(acts["stage4"], axis=(1, 2)), rtol=tolerance(1e-5))


def test_bfloat16_is_near(small):
    net, variables, images = small
    logits = net.apply(variables, images)[0]
    near, acts = net.clone(dtype=jnp.bfloat16).apply(variables, images)
    assert acts["stage4"].dtype == jnp.bfloat16
    np.testing.assert_allclose(near, logits, atol=0.1 * np.abs(logits).max())


def test_names(small):
    net, _, _ = small
    model = NetModel(net, {})
    assert model.feature_layers == ("relu1", "stage1", "stage2", "stage3", "stage4")
    assert model.last_hidden == "pool5"
    assert model.numbered_layers[0] == "pool1"
    assert model.numbered_layers[-1] == "pool5"
    model = NetModel(zfjax.vgg16(10), {})
    assert model.feature_layers == ("relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3")
    assert model.last_hidden == NetModel(zfjax.zfnet(10), {}).last_hidden == "relu7"
    assert len({spec.name for spec in flat(zfjax.resnet50(10).layers)}) == 1 + 1 + 1 + 1 + 16 * 8 + 4 * 2 + 2


@pytest.mark.parametrize("name", ["relu1", "stage2", "stage4", "pool5"])
def test_features_and_head_are_the_net(small, name):
    net, variables, images = small
    logits, acts = net.apply(variables, images)
    features, head = zfjax.split(net, variables, name)
    assert_same(features(images), acts[name])
    np.testing.assert_allclose(head(features(images)), logits, rtol=1e-5, atol=tolerance(1e-5))


def test_split_of_zfnet_above_dropout():
    net = zfjax.zfnet(4, width=1 / 16, image_size=SIZE)
    variables, images = drawn(net), np.ones((1, SIZE, SIZE, 3), np.float32)
    features, head = zfjax.split(net, variables, "relu6")
    np.testing.assert_allclose(head(features(images)), net.apply(variables, images)[0], rtol=tolerance(1e-5))


def test_missing_running_averages_are_named(small):
    net, variables, _ = small
    with pytest.raises(UserError, match=r"^variables: expected \{'batch_stats': …\}.*no running averages of norm1,"):
        zfjax.layer(net, {"params": variables["params"]}, "stage4")


def test_a_training_step_norms_by_the_batch_and_keeps_running_averages(small):
    net, variables, images = small
    (_, acts), changed = net.apply(variables, images, train=True, mutable=["batch_stats"])
    mean, var = np.mean(acts["conv1"], axis=(0, 1, 2)), np.var(acts["conv1"], axis=(0, 1, 2))
    kept = variables["batch_stats"]["norm1"]
    np.testing.assert_allclose(
        changed["batch_stats"]["norm1"]["mean"], 0.9 * kept["mean"] + 0.1 * mean, rtol=1e-3, atol=1e-3
    )
    np.testing.assert_allclose(changed["batch_stats"]["norm1"]["var"], 0.9 * kept["var"] + 0.1 * var, rtol=1e-3)
    normed = (np.asarray(acts["norm1"]) - variables["params"]["norm1"]["bias"]) / variables["params"]["norm1"]["scale"]
    np.testing.assert_allclose(normed.mean(axis=(0, 1, 2)), 0, atol=1e-3)
    np.testing.assert_allclose(normed.std(axis=(0, 1, 2)), 1, rtol=1e-3)


def test_the_deconvnet_goes_down_through_blocks():
    """By hand: both paths rectify what comes down, and the shortcut's signal is added."""
    block = Residual("block", (Conv("a", 3, (3, 3), padding=same(1), bias=False), BatchNorm("n"), ReLU("r")))
    net = zfjax.ConvNet((block, MeanPool("mean")), 6)
    variables = drawn(net)
    images = np.random.default_rng(2).normal(size=(1, 6, 6, 3)).astype(np.float32)
    y, project = zfjax.deconvnet(zfjax.layer(net, variables, "block"), images)
    seed = np.random.default_rng(3).normal(size=y.shape).astype(np.float32)
    down = np.maximum(seed, 0)
    norm = variables["params"]["n"]["scale"] / np.sqrt(variables["batch_stats"]["n"]["var"] + 1e-5)
    _, pull = jax.vjp(
        lambda x: jax.lax.conv_general_dilated(
            x, variables["params"]["a"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        ),
        images,
    )
    expected = down + pull(jnp.asarray(np.maximum(down, 0) * norm))[0]
    np.testing.assert_allclose(project(jnp.asarray(seed)), expected, rtol=1e-4, atol=tolerance(1e-5))


def test_fields_of_blocks_are_cut_from_whole_images(small):
    net, variables, images = small
    fun = zfjax.layer(net, variables, "stage1")
    units, positions = np.array([1, 2]), np.array([[5, 5], [0, 9]])
    whole = project_units(fun, jnp.asarray(images), units, positions)
    found = project_fields(fun, jnp.asarray(images), units, positions)
    assert_same(found.values, whole[0])
    for projection, patch, image, (top, left, height, width) in zip(
        whole[1], found.projections, images, np.asarray(found.fields), strict=True
    ):
        assert_same(patch, projection[top : top + height, left : left + width])
        outside = np.delete(above_noise(projection), np.s_[top : top + height], axis=0)
        assert not np.any(outside)
        assert image.shape == (SIZE, SIZE, 3)


def test_occlusion_of_a_resnet_is_the_plain_sweep(small):
    net, variables, images = small
    found = occlusion(zfjax.layer(net, variables, "fc"), images[0], window=16, strides=12)
    covered = images[0].copy()
    covered[12:28, :16] = 0
    expected = net.apply(variables, covered[None])[0][0]
    np.testing.assert_allclose(found.outputs[1, 0], expected, rtol=1e-4, atol=tolerance(1e-5))


def test_strongest_units_of_all_stages_in_one_pass(small):
    net, variables, images = small
    top = zfjax.top_activations(layers(net, variables, ["stage1", "stage4"]), [images], k=2)
    acts = net.apply(variables, images)[1]
    np.testing.assert_allclose(
        np.asarray(top["stage4"].values)[:, 0], np.max(acts["stage4"], axis=(0, 1, 2)), rtol=tolerance(1e-5)
    )
