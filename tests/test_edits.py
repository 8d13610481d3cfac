"""Nets with layers left out or resized: as tuples, as configuration, and against the paper's parameters."""

import functools
import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from absl import flags
from small_models import randomized

import zfjax
from zfjax import models
from zfjax.console.errors import UserError
from zfjax.models.edits import pooled_early, resized, without
from zfjax.models.nets import NetModel
from zfjax.models.specs import Conv, Dense, same
from zfjax.training.config import as_json, check, default
from zfjax.training.recipe import config_from
from zfjax.training.state import create_net


def names(net):
    return [layer.name for layer in net.layers]


def parameters(net):
    return sum(row.parameters for row in zfjax.layer_table(net))


@pytest.mark.parametrize("preset", ["zfnet", "zfnet_post", "zfnet512", "alexnet", "alexnet_torchvision"])
def test_without_takes_the_numbered_layers_and_leaves_the_others_as_they_are(preset):
    net = zfjax.models.preset(preset, 10, width=0.05, image_size=96)
    for count in range(4):
        for numbers in itertools.combinations(range(1, 8), count):
            left = without(net, numbers).layers
            assert left == tuple(layer for layer in net.layers if not layer.name.endswith(tuple(map(str, numbers))))


@pytest.mark.parametrize(("preset", "layer"), [("vgg16", "conv1_1"), ("resnet18", "stage1_1")])
def test_nets_without_the_papers_numbers_are_refused(preset, layer):
    net = zfjax.models.preset(preset, 10, width=0.05, image_size=96)
    assert without(net, ()) == net
    with pytest.raises(UserError, match=f"layer '{layer}' has no number"):
        without(net, (3,))


def test_without_one_after_the_other_is_without_both():
    net = zfjax.alexnet(10, width=0.05, image_size=96)
    assert without(without(net, (4,)), (3,)) == without(net, (3, 4))
    assert without(net, ()) == net


@pytest.mark.parametrize("numbers", [(3, 4), (7,), (6, 7), (3, 4, 6, 7), (1, 2, 3, 4, 5, 6, 7)])
def test_what_is_left_runs_and_counts_as_the_table_says(numbers):
    net = without(zfjax.zfnet(5, width=0.05, image_size=64), numbers)
    images = jnp.zeros((2, 64, 64, 3))
    variables = jax.eval_shape(net.init, jax.random.key(0), images)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables)) == parameters(net)
    logits, acts = jax.eval_shape(net.apply, variables, images)
    assert logits.shape == (2, 5)
    assert not any(name.endswith(tuple(map(str, numbers))) for name in acts)


def test_features_of_a_net_without_middle_layers():
    left = NetModel(without(zfjax.zfnet(5, width=0.05, image_size=64), (3, 4)), {})
    assert left.feature_layers == ("relu1", "relu2", "relu5")


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [((8,), "layer 8 is the net's output"), ((3, 9), "no layer 9 in the net; there are 1, 2, 3, 4, 5, 6, 7")],
)
def test_without_names_what_cannot_be_left_out(numbers, expected):
    with pytest.raises(UserError, match=expected):
        without(zfjax.zfnet(5, image_size=64), numbers)


def test_without_names_a_layer_whose_window_no_longer_fits():
    padded = zfjax.ConvNet((Conv("conv1", 4, (1, 1), padding=same(2)), Conv("conv2", 4, (5, 5)), Dense("fc3", 2)), 3)
    with pytest.raises(UserError, match=r"image_size=3 is too small without \[1\]: conv2"):
        without(padded, (1,))


def test_resized_changes_features_and_nothing_else():
    net = zfjax.zfnet(10, image_size=64)
    edited = resized(net, {"conv4": 7, "fc6": 11})
    assert names(edited) == names(net)
    different = {old.name: new for old, new in zip(net.layers, edited.layers, strict=True) if old != new}
    assert different == {"conv4": Conv("conv4", 7, (3, 3), padding=same(1)), "fc6": Dense("fc6", 11)}
    assert resized(edited, {"conv4": 384, "fc6": 4096}) == net


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"fc9": 5}, "no layer 'fc9' with maps or units in the net; did you mean fc8?"),
        ({"relu3": 5}, "no layer 'relu3' with maps"),
        ({"fc6": 0}, "fc6: expected one map or unit or more, got 0"),
    ],
)
def test_resized_names_what_cannot_be(features, expected):
    with pytest.raises(UserError) as caught:
        resized(zfjax.zfnet(5, image_size=64), features)
    assert expected in str(caught.value)


def test_configured_nets_are_scaled_by_width_as_presets_are():
    config = default()
    config.update({"image_size": 64, "width": 0.25, "fc_units": 2048, "maps3to5": (512, 1024, 512), "without": (7,)})
    layers = {layer.name: layer for layer in create_net(config, 10).layers}
    assert [layers[name].features for name in ("conv2", "conv3", "conv4", "conv5", "fc6")] == [64, 128, 256, 128, 512]
    assert "fc7" not in layers
    config.width = 1e-6
    assert {layer.features for layer in create_net(config, 1).layers if isinstance(layer, Conv | Dense)} == {1}


@pytest.mark.parametrize("word", ["3,4", "(3,4)", "[3, 4]"])
def test_layers_to_leave_out_are_set_on_the_command_line(word):
    config, _ = config_from(["zfjax", f"--config.without={word}"], "", flags.FlagValues())
    assert config.without == (3, 4)
    one, _ = config_from(["zfjax", "--config.without=7"], "", flags.FlagValues())
    assert one.without == (7,)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"without": (8,)}, "without=(8,) must be numbers of layers, 1 to 7, such as 3,4"),
        ({"without": (0,)}, "without=(0,) must"),
        ({"without": (2.5,)}, "without=(2.5,) must"),
        ({"without": ("fc7",)}, "without=('fc7',) must"),
        ({"maps3to5": (512, 1024)}, "maps3to5=(512, 1024) must be three numbers of maps, such as 512,1024,512"),
        ({"maps3to5": (512, 0, 512)}, "maps3to5=(512, 0, 512) must"),
        ({"fc_units": -1}, "fc_units=-1 must be at least 0"),
    ],
)
def test_check_refuses_an_edit_that_cannot_be(changes, expected):
    config = default()
    config.update(changes)
    with pytest.raises(UserError) as caught:
        check(config)
    assert expected in str(caught.value)


def test_an_edited_net_survives_its_runs_folder(tmp_path):
    config = tiny_runs.tiny_config(tmp_path, without=(3, 4), maps3to5=(5, 6, 7))
    folder = tmp_path / "run"
    tiny_runs.begin(folder, config)
    (folder / "checkpoints" / "5").mkdir(parents=True)
    tiny_runs.begin(folder, config)  # the same configuration goes on
    back = default()
    back.update(json.loads((folder / "config.json").read_text()))
    assert back.to_dict() == config.to_dict()
    assert isinstance(back.without, tuple)
    config.without = (3,)
    with pytest.raises(UserError) as caught:
        tiny_runs.begin(folder, config)
    assert "holds a run with without=[3, 4] (now [3]);" in str(caught.value)


def test_a_run_from_before_there_were_edits_goes_on(tmp_path):
    config = tiny_runs.tiny_config(tmp_path)
    older = {key: value for key, value in as_json(config).items() if key not in ("without", "fc_units", "maps3to5")}
    (tmp_path / "checkpoints" / "5").mkdir(parents=True)
    (tmp_path / "config.json").write_text(json.dumps(older))
    tiny_runs.begin(tmp_path, config)
    (tmp_path / "config.json").write_text(json.dumps(older))
    config.without = (7,)
    with pytest.raises(UserError, match=r"without=\[\] \(now \[7\]\)"):
        tiny_runs.begin(tmp_path, config)


@pytest.mark.parametrize("preset", ["zfnet", "zfnet_pytorchcv", "resnet18", "vgg16"])
def test_pools_before_relus_compute_the_same(preset):
    """Logits to the last bit; gradients up to the order of sums."""
    net = models.preset(preset, 3, width=0.05, image_size=64)
    early = pooled_early(net)
    assert names(early) != names(net)
    images = 50 * np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    variables = randomized(jax.eval_shape(net.init, jax.random.key(0), images))  # biases are not 0
    params = variables["params"]

    def logits(net, params):
        return net.apply({**variables, "params": params}, images)[0]

    with jax.disable_jit():  # a compiler may merge what it likes
        np.testing.assert_array_equal(logits(early, params), logits(net, params))
    of_squares = jax.grad(lambda params, net: (logits(net, params) ** 2).sum())
    ours, theirs = (jax.jit(functools.partial(of_squares, net=each))(params) for each in (early, net))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(np.abs(b).max())), ours, theirs
    )
