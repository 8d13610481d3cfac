"""`zfjax import-weights net.onnx`: files written here layer by layer, and ones that PyTorch exports."""

import warnings

import jax
import numpy as np
import pytest
from goldens import make_logits as goldens

import zfjax
from zfjax import import_weights
from zfjax.console import command
from zfjax.console.errors import UserError
from zfjax.models import preset
from zfjax.models.specs import LRN, Conv, Dense, MaxPool, ReLU
from zfjax.runs.folder import load_model, read_run
from zfjax.weights import files, layouts, load, pretrained
from zfjax.weights.onnx.weights import read_weights

onnx = pytest.importorskip("onnx")

WIDTH, SIZE, CLASSES = 1 / 16, 80, 3
CAFFE = zfjax.weights.Preprocessing((104.0, 117.0, 124.0), (1.0, 1.0, 1.0), 255.0, True)


def write(path, model, called, change=None):
    """A net of plain layers as a file; return its weights in PyTorch's names.

    Args:
        path: of the file.
        model: one of `layouts.MODELS`.
        called: the name of a weight and of a node, by the layer's name, leaf and module.
        change: attributes of nodes to change, by layer.
    """
    net = preset(layouts.MODELS[model].preset, CLASSES, width=WIDTH, image_size=SIZE)
    modules = layouts.MODELS[model].modules(net, {})
    tensors = goldens.state_dict({slot.name: slot.shape for slot in layouts.slots(net, modules)})
    arrays, nodes, above = [], [], "images"

    def add(kind, layer, **attributes):
        nonlocal above
        weights = []
        for leaf in ("weight", "bias") if kind in ("Conv", "Gemm") else ():
            weights.append(called(layer.name, leaf, modules[layer.name])[0])
            arrays.append(onnx.numpy_helper.from_array(tensors[f"{modules[layer.name]}.{leaf}"], weights[-1]))
        _, name = called(layer.name, "weight", modules.get(layer.name, ""))
        attributes |= (change or {}).get(layer.name, {})
        nodes.append(onnx.helper.make_node(kind, [above, *weights], [layer.name], name.format(kind), **attributes))
        above = layer.name

    def pads(layer):
        (top, bottom), (left, right) = layer.padding
        return {"strides": layer.strides, "pads": [top, left, bottom, right]}

    for layer in net.layers:
        match layer:
            case Conv():
                add("Conv", layer, **pads(layer))
            case ReLU():
                add("Relu", layer)
            case LRN():
                add("LRN", layer, size=5, alpha=1e-4, beta=0.75, bias=2.0)
            case MaxPool():
                add("MaxPool", layer, kernel_shape=layer.window, ceil_mode=int(layer.ceil), **pads(layer))
            case Dense():
                if layer.name == "fc6":
                    nodes.append(onnx.helper.make_node("Flatten", [above], ["flat"], "flat"))
                    above = "flat"
                add("Gemm", layer, transB=1)
    nodes.append(onnx.helper.make_node("Softmax", [above], ["chances"], "softmax"))
    images = onnx.helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, (1, 3, SIZE, SIZE))
    chances = onnx.helper.make_tensor_value_info("chances", onnx.TensorProto.FLOAT, (1, CLASSES))
    graph = onnx.helper.make_graph(nodes, "net", [images], [chances], arrays)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, path)
    return tensors


NAMES = {  # of a weight, and of its node
    "PyTorch": lambda layer, leaf, module: (f"{module}.{leaf}", f"/{module}/{{}}"),
    "Caffe2": lambda layer, leaf, module: (f"gpu_0/{layer}_{leaf[0]}_0", ""),
    "none": lambda layer, leaf, module: (f"{layer}{leaf}#", ""),
    "nodes": lambda layer, leaf, module: (
        f"onnx::{layer}{leaf}",
        f"/{module.split('.')[0]}/{module}/{{}}" if module else f"/{layer}/{{}}",
    ),
}


@pytest.mark.parametrize("names", NAMES)
def test_weights_have_the_names_of_modules(tmp_path, names):
    tensors = write(tmp_path / "net.onnx", "alexnet", NAMES[names])
    found = read_weights(tmp_path / "net.onnx").tensors
    if names in ("PyTorch", "nodes"):
        assert found.keys() == tensors.keys()
    else:
        layers = [f"conv{number}" for number in range(1, 6)] + ["fc6", "fc7", "fc8"]
        layers = layers if names == "Caffe2" else [*layers[:5], "fc1", "fc2", "fc3"]
        assert list(found) == [f"{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias")]
    for one, other in zip(found.values(), tensors.values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_file_as_caffe2_writes_it_becomes_a_run(tmp_path, capsys):
    path, workdir = tmp_path / "net.onnx", tmp_path / "run"
    write(path, "zfnet512", NAMES["Caffe2"])
    words = f"{path} --model=zfnet512 --workdir={workdir} --width={WIDTH} --bgr --pixel_max=255"
    words += " --mean=104,117,124 --std=1,1,1"
    assert command.run(import_weights.main, ["import-weights", *words.split()]) == 0
    assert "the net takes BGR in 0..255, less 104,117,124" in capsys.readouterr().out
    loaded = load_model(read_run(workdir), "latest")
    squares = np.random.RandomState(1).randint(0, 256, (2, SIZE, SIZE, 3)).astype(np.uint8)
    inputs = squares.astype(np.float32) - CAFFE.pixel_mean
    chances = jax.nn.softmax(loaded.net.apply(loaded.variables, inputs)[0])
    expected = zfjax.from_onnx(path)(CAFFE(squares))
    np.testing.assert_allclose(chances, expected, atol=1e-4)
    assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("change", [{"pool5": {"ceil_mode": 0, "pads": [1, 1, 0, 0]}}, {"norm1": {"bias": 1.0}}])
def test_weights_that_fit_another_computation_are_refused(tmp_path, capsys, change):
    path = tmp_path / "net.onnx"
    write(path, "zfnet512", NAMES["Caffe2"], change)
    words = f"{path} --model=zfnet512 --workdir={tmp_path / 'run'} --width={WIDTH} --image_size={SIZE}"
    words += " --pixel_max=255 --mean=0,0,0 --std=1,1,1"
    assert command.run(import_weights.main, ["import-weights", *words.split()]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zfjax: ")]
    assert (
        f"{path} is not zfnet512 at {SIZE} px: its weights fit, but it computes something else: logits differ" in line
    )
    assert f"import-weights {path} --workdir=RUN, without --model" in line
    assert not (tmp_path / "run" / "config.json").exists()


def test_any_other_net_can_be_used_as_it_is(tmp_path, capsys):
    """See test_onnx_run.py."""
    path = tmp_path / "net.onnx"
    write(path, "zfnet512", NAMES["none"])
    words = ["import-weights", str(path), f"--workdir={tmp_path / 'run'}", "--model=alexnet"]
    assert command.run(import_weights.main, words) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("zfjax: ")]
    assert f"any net can be used as it is: zfjax import-weights {path} --workdir=RUN, without --model" in line


def test_a_resnet_as_pytorch_exports_it(tmp_path):
    """Its exporter folds batch norms into convolutions, and names these anew."""
    torch = pytest.importorskip("torch")
    path = tmp_path / "net.onnx"
    net = goldens.torch_net("resnet18", classes=CLASSES, width=1 / 8)
    with warnings.catch_warnings(action="ignore"):  # PyTorch's, of itself
        torch.onnx.export(net, (torch.zeros(1, 3, 64, 64),), path, dynamo=False, opset_version=17)
    loaded = load(path, "resnet18", width=1 / 8, image_size=64)
    assert "its batch norms were folded into the convolutions below" in loaded.notes
    pictures = goldens.pictures(size=64)
    inputs = pictures.astype(np.float32) - loaded.preprocessing.pixel_mean
    found, expected = loaded.net.apply(loaded.variables, inputs)[0], goldens.torch_logits(net, pictures)
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_folded_norms_are_taken_from_any_file():
    """A convolution that has the bias of a norm that is missing."""
    net = preset("resnet18", CLASSES, width=WIDTH, image_size=64)
    modules = layouts.MODELS["resnet18"].modules(net, {})
    tensors = goldens.state_dict({slot.name: slot.shape for slot in layouts.slots(net, modules)})
    folded = {name: value for name, value in tensors.items() if not name.startswith("bn1.")}
    scale = tensors["bn1.weight"] / np.sqrt(tensors["bn1.running_var"] + 1e-5)
    folded["conv1.weight"] = tensors["conv1.weight"] * scale[:, None, None, None]
    folded["conv1.bias"] = tensors["bn1.bias"] - tensors["bn1.running_mean"] * scale
    images = np.random.default_rng(0).normal(0, 50, (1, 64, 64, 3)).astype(np.float32)
    results = []
    for each in (tensors, folded):
        one = pretrained.from_file(files.TensorFile(each, {}), "net", "resnet18", width=WIDTH, image_size=64)
        results.append(jax.jit(lambda variables, one=one: one.net.apply(variables, images)[0])(one.variables))
    np.testing.assert_allclose(*results, atol=1e-4 * np.abs(results[0]).max())
    without = {name: value for name, value in folded.items() if name != "conv1.bias"}
    with pytest.raises(UserError, match=r"bn1.weight \(4,\) is missing"):
        pretrained.from_file(files.TensorFile(without, {}), "net", "resnet18", width=WIDTH, image_size=64)
