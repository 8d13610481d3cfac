"""Sizes, parameters and receptive fields against the paper's Fig. 3, and what the Flax module gives back."""

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from devices import above_noise, assert_same

import zfjax
from zfjax.console.errors import UserError
from zfjax.models import table
from zfjax.models.specs import Conv, MaxPool, Size, same


def _rows(net):
    return {row.name: row for row in zfjax.layer_table(net)}


@pytest.mark.parametrize("preset", [zfjax.zfnet, zfjax.zfnet_post])
def test_zfnet_has_the_sizes_of_fig_3(preset):
    rows = _rows(preset(1000))
    sizes = {
        name: rows[name].output for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5")
    }
    assert sizes == {
        "conv1": (110, 110, 96),
        "pool1": (55, 55, 96),
        "conv2": (26, 26, 256),
        "pool2": (13, 13, 256),
        "conv3": (13, 13, 384),
        "conv4": (13, 13, 384),
        "conv5": (13, 13, 256),
        "pool5": (6, 6, 256),
    }
    assert [rows[name].output.maps for name in ("fc6", "fc7", "fc8")] == [4096, 4096, 1000]


def test_alexnet_has_krizhevskys_sizes():
    rows = _rows(zfjax.alexnet(1000))
    assert [rows[name].output[0] for name in ("conv1", "pool1", "conv2", "pool2", "conv5", "pool5")] == [
        55,
        27,
        27,
        13,
        13,
        6,
    ]


def test_zfnet_has_the_papers_parameters():
    rows = zfjax.layer_table(zfjax.zfnet(1000))
    total = sum(row.parameters for row in rows)
    conv = sum(row.parameters for row in rows if row.name.startswith("conv"))
    assert round(total / 1e6, 2) == 62.36
    assert round(conv / 1e6, 2) == 3.73


@pytest.mark.parametrize(
    ("preset", "expected", "parameters"),
    [
        (zfjax.zfnet_pytorchcv, {"conv1": (110, 110, 96), "pool1": (55, 55, 96), "fc7": (1, 1, 4096)}, 62_357_608),
        (zfjax.zfnetb_pytorchcv, {"conv2": (26, 26, 256), "conv4": (13, 13, 1024), "pool5": (6, 6, 512)}, 107_627_624),
        (  # the sizes of the zoo's file, which has 349 MB
            zfjax.zfnet512,
            {
                **{"conv1": (109, 109, 96), "norm1": (109, 109, 96), "pool1": (54, 54, 96), "conv2": (25, 25, 256)},
                **{"pool2": (12, 12, 256), "conv4": (12, 12, 512), "pool5": (6, 6, 512), "fc7": (1, 1, 1024)},
            },
            87_250_536,
        ),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_zfnets_that_others_trained_have_their_sizes(preset, expected, parameters):
    rows = _rows(preset(1000))
    assert expected == {name: rows[name].output for name in expected}
    assert sum(row.parameters for row in rows.values()) == parameters
    assert list(rows)[:4] == ["conv1", "relu1", "norm1", "pool1"]


def test_table_counts_what_init_makes():
    net = zfjax.zfnet(10, width=0.1, image_size=64)
    variables = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    made = {name: sum(leaf.size for leaf in layer.values()) for name, layer in variables["params"].items()}
    assert made == {row.name: row.parameters for row in zfjax.layer_table(net) if row.parameters}


def test_table_has_the_papers_receptive_fields():
    rows = _rows(zfjax.zfnet(1000))
    fields = [rows[name].receptive_field for name in ("conv1", "conv2", "conv3", "conv4", "conv5")]
    assert fields == [(size, size) for size in (7, 27, 75, 107, 139)]
    assert [rows[name].receptive_field for name in ("pool1", "pool2", "pool5")] == [
        (11, 11),
        (43, 43),
        (171, 171),
    ]
    assert rows["conv5"].total_stride == (16, 16)
    assert rows["fc6"].receptive_field is None


@pytest.mark.parametrize("name", ["conv2", "pool2", "conv3"])
def test_receptive_field_is_what_gradients_touch(name):
    net = zfjax.zfnet(10, width=0.05, image_size=96)
    row = _rows(net)[name]
    images = jax.random.normal(jax.random.key(0), (1, 96, 96, 3))
    variables = net.clone(kernel_init=lambda key, shape, dtype: jnp.ones(shape, dtype)).init(jax.random.key(1), images)
    seen = set()
    for key in range(8):  # pools hide all but their winners, so several images are needed to see the whole field
        picture = jax.random.normal(jax.random.key(key), images.shape)

        def unit(image):
            return net.apply(variables, image)[1][name][0, 1, 1].sum()

        touched = np.any(above_noise(jax.grad(unit)(picture)[0]), axis=-1)
        seen |= {(int(r), int(c)) for r, c in zip(*np.nonzero(touched), strict=True)}
    rows, columns = {r for r, _ in seen}, {c for _, c in seen}
    center = [offset + stride for offset, stride in zip(row.offset, row.total_stride, strict=True)]
    for axis, touched in enumerate((rows, columns)):
        first = center[axis] - (row.receptive_field[axis] - 1) / 2
        assert min(touched) >= max(first, 0)
        assert max(touched) <= first + row.receptive_field[axis] - 1


def test_ceil_mode_and_padding_give_the_same_sizes_with_other_windows():
    caffe = MaxPool("pool", (3, 3), (2, 2), ceil=True)
    torch = MaxPool("pool", (3, 3), (2, 2), same(1))
    assert caffe.sliding(Size(110, 26, 4)).padding == ((0, 1), (0, 1))
    assert caffe.output(Size(110, 26, 4)) == torch.output(Size(110, 26, 4)) == (55, 13, 4)
    assert caffe.sliding(Size(13, 13, 4)).padding == ((0, 0), (0, 0))


def test_every_act_has_its_name_and_its_size():
    net = zfjax.zfnet(7, width=0.05, image_size=64)
    images = jnp.zeros((2, 64, 64, 3))
    logits, acts = net.apply(net.init(jax.random.key(0), images), images)  # under jit, JAX sorts dictionaries
    assert list(acts) == [
        "conv1",
        "relu1",
        "pool1",
        "norm1",
        "conv2",
        "relu2",
        "pool2",
        "norm2",
        "conv3",
        "relu3",
        "conv4",
        "relu4",
        "conv5",
        "relu5",
        "pool5",
        "fc6",
        "relu6",
        "fc7",
        "relu7",
        "fc8",
    ]
    for row in zfjax.layer_table(net):
        if row.name in acts:
            assert acts[row.name].shape in ((2, *row.output), (2, row.output.maps))
    assert logits.shape == (2, 7)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    net = zfjax.zfnet(7, width=0.05, image_size=64).clone(dtype=jnp.bfloat16)
    images = jnp.zeros((2, 64, 64, 3))
    variables = net.init(jax.random.key(0), images)
    logits, acts = net.apply(variables, images)
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert {act.dtype for act in acts.values()} == {jnp.dtype("bfloat16")}
    assert logits.dtype == jnp.float32


def test_dropout_needs_train_and_a_key():
    net = zfjax.zfnet_post(3, width=0.05, image_size=64)
    images = jax.random.normal(jax.random.key(0), (1, 64, 64, 3))
    variables = net.clone(kernel_init=jax.nn.initializers.he_normal()).init(jax.random.key(1), images)
    one, two = (net.apply(variables, images, train=True, rngs={"dropout": jax.random.key(k)})[0] for k in (0, 1))
    assert not jnp.array_equal(one, two)
    assert_same(net.apply(variables, images)[0], net.apply(variables, images)[0])


def test_too_small_an_image_names_the_layer():
    with pytest.raises(UserError, match=r"image_size=20 .*conv2.*5×5 window does not fit"):
        zfjax.zfnet(10, image_size=20)


@pytest.mark.parametrize("image_size", [64, 95, 96, 160, 225, 227, 256])
@pytest.mark.parametrize("preset", [zfjax.zfnet, zfjax.zfnet_post, zfjax.alexnet])
def test_any_size_that_fits_runs(preset, image_size):
    net = preset(4, width=0.02, image_size=image_size)
    images = jnp.zeros((1, image_size, image_size, 3))
    logits = jax.eval_shape(lambda x: net.apply(net.init(jax.random.key(0), x), x)[0], images)
    assert logits.shape == (1, 4)


def test_table_as_csv_and_markdown_agree():
    rows = zfjax.layer_table(zfjax.zfnet(1000))
    lines = list(csv.reader(io.StringIO(table.to_csv(rows))))
    assert lines[0] == list(table.HEADER)
    assert len(lines) == len(rows) + 1
    markdown = table.to_markdown(rows).splitlines()
    assert len(markdown) == len(rows) + 3
    for plain, marked in zip(lines[1:], markdown[2:], strict=False):
        assert [cell.strip().replace(",", "") for cell in marked.strip("|").split("|")] == [
            cell.replace(",", "") for cell in plain
        ]
    assert "62,357,608" in table.to_text(rows).splitlines()[-1]


def test_conv_groups_divide_the_kernel():
    layer = Conv("conv2", 8, (3, 3), groups=2)
    net = zfjax.ConvNet((layer,), 8)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))
    assert variables["params"]["conv2"]["kernel"].shape == (3, 3, 2, 8)
