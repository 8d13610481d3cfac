"""PyTorch's names and layouts: what goes where, that it comes back, and that what does not fit is named."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from goldens import make_logits as goldens

from zfjax import weights
from zfjax.console.errors import UserError
from zfjax.models import preset
from zfjax.weights import choice, files, layouts, preprocessing, pretrained
from zfjax.weights.preprocessing import TORCHVISION, Preprocessing

TINY = {"width": 1 / 16, "image_size": 224}
CAFFE = Preprocessing((103.939, 116.779, 123.68), (1.0, 1.0, 1.0), 255.0, bgr=True)


def tiny(model, **changes):
    """A net, its modules' names, and a state_dict with random weights."""
    net = preset(layouts.MODELS[model].preset, 5, **(TINY | changes))
    modules = layouts.MODELS[model].modules(net, {})
    return net, modules, goldens.state_dict({slot.name: slot.shape for slot in layouts.slots(net, modules)})


@pytest.mark.parametrize("model", layouts.MODELS)
def test_variables_are_the_nets_own(model):
    net, modules, tensors = tiny(model)
    variables = layouts.from_torch(net, modules, tensors)
    expected = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 224, 224, 3), np.float32))
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), variables)
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), expected)


@pytest.mark.parametrize("model", layouts.MODELS)
def test_back_to_torch_is_bit_equal(model):
    net, modules, tensors = tiny(model)
    back = layouts.to_torch(net, modules, layouts.from_torch(net, modules, tensors))
    counts = {name for name in back if name.endswith("num_batches_tracked")}
    assert back.keys() - counts == tensors.keys()
    assert len(counts) == sum(name.endswith("running_var") for name in tensors)
    for name, value in tensors.items():
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_where_single_weights_go():
    net, modules, tensors = tiny("alexnet")
    params = layouts.from_torch(net, modules, tensors)["params"]
    assert params["conv2"]["kernel"][4, 1, 2, 3] == tensors["features.3.weight"][3, 2, 4, 1]
    maps = 16  # of 6 × 6 below fc6
    column, row, channel = 4, 2, 7
    theirs = tensors["classifier.1.weight"][9, channel * 36 + row * 6 + column]
    assert params["fc6"]["kernel"][(row * 6 + column) * maps + channel, 9] == theirs
    assert params["fc7"]["kernel"][5, 9] == tensors["classifier.4.weight"][9, 5]
    net, modules, tensors = tiny("resnet18")
    variables = layouts.from_torch(net, modules, tensors)
    norm = "layer2.0.downsample.1"
    np.testing.assert_array_equal(variables["params"]["stage2_1_shortcut_norm"]["scale"], tensors[f"{norm}.weight"])
    np.testing.assert_array_equal(variables["params"]["stage2_1_shortcut_norm"]["bias"], tensors[f"{norm}.bias"])
    stats = variables["batch_stats"]["stage2_1_shortcut_norm"]
    np.testing.assert_array_equal(stats["mean"], tensors[f"{norm}.running_mean"])
    np.testing.assert_array_equal(stats["var"], tensors[f"{norm}.running_var"])


@pytest.mark.parametrize("model", layouts.MODELS)
def test_pytorchs_own_state_dict(model):
    """Names and shapes are those of the modules that PyTorch builds, in their order, at full width."""
    torch = pytest.importorskip("torch")
    import torch_nets

    if model in goldens.PYTORCHCV:
        pytest.importorskip("pytorchcv.models.zfnet")

    net = preset(layouts.MODELS[model].preset, 1000)
    with torch.device("meta"):
        expected = {name: tuple(value.shape) for name, value in torch_nets.NETS[model]().state_dict().items()}
    slots = layouts.slots(net, layouts.MODELS[model].modules(net, {}))
    found = [(slot.name, slot.shape) for slot in slots]
    if "resnet" not in model:  # a block's shortcut is defined after its norms, and counts stand between
        assert found == list(expected.items())
    counts = {name for name in expected if name.endswith(choice.COUNT)}
    assert dict(found) == {name: shape for name, shape in expected.items() if name not in counts}


class TestWrongTensors:
    """Each is named, with both shapes."""

    def said(self, change, model="alexnet"):
        net, modules, tensors = tiny(model)
        change(tensors)
        with pytest.raises(UserError) as raised:
            layouts.from_torch(net, modules, tensors)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    def test_another_shape(self):
        said = self.said(lambda tensors: tensors.update({"features.0.weight": np.zeros((4, 3, 7, 7), np.float32)}))
        assert said == "the tensors do not fit: features.0.weight is (4, 3, 7, 7), expected (4, 3, 11, 11)"

    def test_missing(self):
        said = self.said(lambda tensors: tensors.pop("classifier.6.bias"))
        assert said == "the tensors do not fit: classifier.6.bias (5,) is missing"

    def test_too_many(self):
        said = self.said(lambda tensors: tensors.update(extra=np.zeros((2, 3))))
        assert said == "the tensors do not fit: extra (2, 3) is not expected"

    @pytest.mark.parametrize("dtype", [np.int8, np.int64, np.uint8, bool, np.complex64])
    def test_no_floats(self, dtype):
        said = self.said(lambda tensors: tensors.update({"features.0.bias": np.zeros(4, dtype)}))
        assert said == f"the tensors do not fit: features.0.bias is {np.dtype(dtype).name}, expected floats"

    def test_the_first_are_named_and_the_rest_counted(self):
        said = self.said(lambda tensors: [tensors.pop(name) for name in list(tensors)[:7]])
        assert said.count("is missing") == 4
        assert said.endswith("; and 3 more")

    @pytest.mark.parametrize(
        ("model", "other", "width"),
        [
            *(("alexnet", "vgg16", 1 / 16), ("alexnet", "zfnet_pytorchcv", 1 / 8), ("resnet18", "zfnet_post", 1 / 16)),
            *(("zfnet_pytorchcv", "zfnetb_pytorchcv", 1 / 16), ("zfnet_post", "zfnet_pytorchcv", 1 / 16)),
        ],
    )
    def test_another_models(self, model, other, width):
        """By its tensors or, at another width, by its names; another net's names are none of one's own."""
        _, _, tensors = tiny(other)
        file = files.TensorFile({f"module.{name}": value for name, value in tensors.items()}, {})
        with pytest.raises(UserError) as raised:
            pretrained.from_file(file, "a.pth", model, width=width)
        assert str(raised.value).startswith(f"a.pth is not {model} at 224 px: ")
        assert str(raised.value).endswith(f"did you mean --model={other}?")

    def test_none_at_all(self):
        assert "features.0.weight (4, 3, 11, 11) is missing" in self.said(lambda tensors: tensors.clear())


def test_counts_of_batches_are_ignored():
    net, modules, tensors = tiny("resnet18")
    counted = tensors | {"bn1.num_batches_tracked": np.array(7)}
    assert jax.tree.all(
        jax.tree.map(
            np.array_equal, layouts.from_torch(net, modules, tensors), layouts.from_torch(net, modules, counted)
        )
    )


def test_the_posts_class_by_other_names():
    net, _, tensors = tiny("zfnet_post")
    own = {"conv1": "features.0", "conv2": "features.3", "conv3": "features.6", "conv4": "features.8"}
    own |= {"conv5": "features.10", "fc6": "classifier.1", "fc7": "classifier.4", "fc8": "classifier.6"}
    renamed = {
        f"{layer}.{kind}": tensors[f"{module}.{kind}"] for layer, module in own.items() for kind in ("bias", "weight")
    }
    renamed = {name: renamed[name] for name in sorted(renamed)}
    modules = layouts.MODELS["zfnet_post"].modules(net, renamed)
    assert modules == {name: name for name in own}
    assert layouts.MODELS["zfnet_post"].modules(net, tensors) == own
    back = layouts.to_torch(net, modules, layouts.from_torch(net, modules, renamed))
    assert back.keys() == renamed.keys()
    assert all(np.array_equal(back[name], renamed[name]) for name in renamed)


def test_unknown_model():
    with pytest.raises(UserError, match=r"unknown model 'resnet-18'; did you mean resnet18\? there are alexnet, vgg16"):
        weights.load("nowhere.pth", "resnet-18")


class TestPreprocessing:
    """Folded into the kernel, it gives what it gave before it."""

    @pytest.mark.parametrize("before", [TORCHVISION, CAFFE, Preprocessing((1, 2, 3), (4, 5, 6), 2.0, bgr=True)])
    def test_a_folded_kernel_sees_the_same(self, before):
        rng = np.random.default_rng(0)
        kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
        patch = rng.integers(0, 256, (3, 3, 3))
        channels = patch[..., ::-1] if before.bgr else patch
        theirs = ((channels * before.pixel_max / 255 - np.array(before.mean)) / np.array(before.std)).ravel()
        expected = theirs @ kernel.reshape(-1, 4)
        ours = (patch - before.pixel_mean).ravel() @ preprocessing.fold(kernel, before).reshape(-1, 4)
        np.testing.assert_allclose(ours, expected, atol=1e-5 * np.abs(expected).max())

    @pytest.mark.parametrize("before", [TORCHVISION, CAFFE])
    def test_unfold_is_the_way_back(self, before):
        kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
        back = preprocessing.unfold(preprocessing.fold(kernel, before), before)
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, kernel, rtol=2e-7)

    def test_the_mean_is_red_green_blue(self):
        np.testing.assert_allclose(TORCHVISION.pixel_mean, [123.675, 116.28, 103.53], rtol=1e-6)
        np.testing.assert_allclose(CAFFE.pixel_mean, [123.68, 116.779, 103.939], rtol=1e-6)
        image = CAFFE.mean_image(4)
        assert image.shape == (4, 4, 3)
        np.testing.assert_array_equal(image, np.broadcast_to(CAFFE.pixel_mean, (4, 4, 3)))

    def test_of_a_mean_image(self):
        image = np.random.default_rng(0).uniform(0, 255, (5, 5, 3)).astype(np.float32)
        found = preprocessing.of_mean_image(image)
        np.testing.assert_allclose(found.mean, image.mean(axis=(0, 1)), rtol=1e-6)
        kernel = np.ones((1, 1, 3, 1), np.float32)
        np.testing.assert_array_equal(preprocessing.fold(kernel, found), kernel)

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"mean": (1.0, 2.0)}, "mean=1,2 must be three numbers"),
            ({"mean": (1.0, float("nan"), 2.0)}, "mean=1,nan,2 must be three numbers"),
            ({"std": (1.0, 0.0, 1.0)}, "std=1,0,1 must be three positive numbers"),
            ({"std": (1.0,)}, "std=1 must be three positive numbers"),
            ({"pixel_max": 0.0}, "pixel_max=0 must be positive"),
            ({"pixel_max": float("nan")}, "pixel_max=nan must be positive"),
            ({"pixel_max": 1e300}, r"pixel_max=1e\+300 must be positive: what white is, 1 or 255"),
            ({"std": (1.0, -1.0, float("nan"))}, "std=1,-1,nan must be three positive numbers"),
            ({"std": (1e30, 1.0, 1.0)}, r"std=1e\+30,1,1 is not a deviation of pixels in 0\.\.1"),
            ({"std": (1e-30, 1.0, 1.0)}, r"std=1e-30,1,1 is not a deviation of pixels in 0\.\.1"),
            ({"mean": (1e30, 0.0, 0.0)}, r"mean=1e\+30,0,0 is not a color where white is 1"),
            ({"mean": (124.0, 117.0, 104.0)}, "mean=124,117,104 is not a color where white is 1"),
        ],
    )
    def test_bad_numbers(self, changes, expected):
        with pytest.raises(UserError, match=expected):
            TORCHVISION._replace(**changes).checked()

    def test_kept_as_json(self):
        assert Preprocessing.of({**CAFFE._asdict(), "mean": list(CAFFE.mean)}) == CAFFE
        kept = TORCHVISION._asdict()
        for damaged in (
            *({"mean": [1, 2, 3]}, kept | {"mean": "123"}, kept | {"std": None}, kept | {"mean": [10**400, 0, 0]}),
            *(kept | {"bgr": "no"}, kept | {"bgr": []}, kept | {"pixel_max": "x" * 999}, kept | {"std": [[1], 1, 1]}),
        ):
            with pytest.raises(UserError, match="damaged preprocessing") as raised:
                Preprocessing.of(damaged)
            assert len(str(raised.value)) < 400


class TestLoad:
    """A file as a net."""

    def write(self, path, model="resnet18", dtype=np.float32, metadata=None):
        net, modules, tensors = tiny(model)
        files.write(path, {name: value.astype(dtype) for name, value in tensors.items()}, metadata or {})
        return net, modules, tensors

    def test_layers_are_the_presets(self, tmp_path):
        net, modules, tensors = self.write(tmp_path / "a.safetensors")
        loaded = weights.load(tmp_path / "a.safetensors", "resnet18", width=1 / 16)
        assert loaded.net.layers == net.layers
        assert (loaded.outputs, loaded.preprocessing, loaded.modules, loaded.notes) == (5, TORCHVISION, modules, ())
        plain = layouts.from_torch(net, modules, tensors)
        scale = np.array([58.395, 57.12, 57.375], np.float32).reshape(1, 1, 3, 1)
        np.testing.assert_allclose(
            loaded.variables["params"]["conv1"]["kernel"], plain["params"]["conv1"]["kernel"] / scale, rtol=1e-6
        )
        np.testing.assert_array_equal(loaded.variables["params"]["fc"]["kernel"], plain["params"]["fc"]["kernel"])

    @pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
    def test_other_floats_become_float32_and_that_is_said(self, tmp_path, dtype):
        _, _, tensors = tiny("zfnet_post")
        file = files.TensorFile({name: value.astype(dtype) for name, value in tensors.items()}, {})
        loaded = pretrained.from_file(file, "a.pth", "zfnet_post", width=1 / 16)
        assert {leaf.dtype.name for leaf in jax.tree.leaves(loaded.variables)} == {"float32"}
        assert loaded.notes == (f"16 tensors in {np.dtype(dtype).name} were converted to float32",)
        expected = tensors["classifier.6.weight"].astype(dtype).astype(np.float32).T
        np.testing.assert_array_equal(loaded.variables["params"]["fc8"]["kernel"], expected)

    def test_errors_name_the_file_and_the_size(self, tmp_path):
        self.write(tmp_path / "a.safetensors", "alexnet")
        with pytest.raises(
            UserError, match=r"a\.safetensors is not alexnet at 128 px: the tensors do not fit: classif"
        ):
            weights.load(tmp_path / "a.safetensors", "alexnet", width=1 / 16, image_size=128)

    def test_saved_and_loaded_again(self, tmp_path):
        self.write(tmp_path / "a.safetensors")
        loaded = weights.load(tmp_path / "a.safetensors", "resnet18", width=1 / 16, preprocessing=CAFFE, image_size=64)
        pretrained.save(tmp_path / "b.safetensors", "resnet18", loaded, list("abcde"), width=1 / 16)
        again = weights.load(tmp_path / "b.safetensors", "resnet18")
        assert (again.net.layers, again.net.image_size) == (loaded.net.layers, 64)
        assert again.preprocessing == CAFFE
        for one, two in zip(jax.tree.leaves(again.variables), jax.tree.leaves(loaded.variables), strict=True):
            np.testing.assert_allclose(one, two, rtol=2e-7)
        assert pretrained.usual(files.read(tmp_path / "b.safetensors")).classes == tuple("abcde")

    def test_classes_are_named_as_folders_are(self):
        said = pretrained.usual(files.TensorFile({}, {"zfjax": json.dumps({"classes": ["a\nb", "cafe\u0301"]})}))
        assert said.classes == ("a\\nb", "café")

    @pytest.mark.parametrize(
        "said",
        [
            *("{", "[1]", "3", "null", '"a"', "[" * 100_000, '{"a":' * 100_000, "9" * 5000),
            '{"classes": [" "]}',
            *('{"width": "a"}', '{"width": NaN}', '{"width": 1e308}', '{"width": -1.0}', '{"width": 2}'),
            *('{"image_size": "224"}', '{"image_size": 0}', '{"image_size": 1e3}', '{"image_size": 1000000000}'),
            *(
                '{"classes": 1}',
                '{"classes": [1]}',
                '{"classes": ["\\ud800"]}',
                '{"model": 1}',
                '{"preprocessing": 1}',
            ),
        ],
        ids=lambda said: said[:30],
    )
    def test_damaged_metadata(self, said):
        with pytest.raises(UserError, match="metadata 'zfjax' are damaged") as raised:
            pretrained.usual(files.TensorFile({}, {"zfjax": said}))
        assert len(str(raised.value)) < 300
