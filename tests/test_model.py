"""`zfjax.Model`: names, cuts and geometry of anybody's model."""

import collections
import contextlib
import functools

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zoo
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import zfjax
from zfjax import summary
from zfjax.console import command
from zfjax.models.nets import NetModel
from zfjax.transform.places.cutting import Crossing
from zfjax.weights.onnx import evaluation

CASES = [(library, architecture) for architecture in zoo.ARCHITECTURES for library in zoo.LIBRARIES]
IMAGES = jax.random.normal(jax.random.key(1), (2, zoo.SIDE, zoo.SIDE, 3))

# What follows `make.…` calls in zoo.py, by name and kind, for a library that leaves no other names than the weights'.
PLACES = {
    "chain": "conv1 conv1/relu conv1/pool conv2 conv2/relu fc1 fc1/relu fc2",
    "residual": (
        "stem stem/relu block1_conv1 block1_conv1/relu block1_conv2 block1_conv2/add block1_conv2/relu block2_conv1"
        " block2_conv1/relu block2_conv2 shortcut shortcut/add shortcut/relu shortcut/mean head"
    ),
    "inception": (
        "stem stem/relu narrow narrow/relu squeeze squeeze/relu wide wide/relu stem/pool after_pool after_pool/concat"
        " mixed mixed/relu mixed/pool mixed/mean head"
    ),
    "mobilenet": (
        "stem stem/relu6 depthwise depthwise/relu6 expand expand/relu6 project project/add project/mean squeeze"
        " squeeze/relu excite excite/sigmoid excite/mul excite/mean head"
    ),
    "convnext": (
        "stem stem_norm depthwise norm1 wide wide/gelu narrow layer_scale layer_scale/add layer_scale/mean head_norm"
        " head"
    ),
    "vit": (
        "patches positions norm1 query key value key/matmul1 key/softmax key/matmul2 out out/add norm2 wide wide/gelu"
        " narrow narrow/add norm3 head"
    ),
}

# The same as PyTorch exports it: its modules' paths and ONNX's operators.
NODES = {
    "chain": "conv1/Conv Relu MaxPool conv2/Conv Relu_1 fc1/Gemm Relu_2 fc2/Gemm",
    "residual": (
        "stem/Conv Relu block1_conv1/Conv Relu_1 block1_conv2/Conv Add_4 Relu_2 block2_conv1/Conv Relu_3"
        " block2_conv2/Conv shortcut/Conv Add_9 Relu_4 ReduceMean head/Gemm"
    ),
    "inception": (
        "stem/Conv Relu MaxPool after_pool/Conv squeeze/Conv Relu_2 wide/Conv Relu_3 narrow/Conv Relu_1 Concat_4"
        " mixed/Conv Relu_4 AveragePool GlobalAveragePool head/Gemm"
    ),
    "mobilenet": (
        "stem/Conv Clip depthwise/Conv Clip_1 expand/Conv Clip_2 project/Conv Add_2 ReduceMean squeeze/Gemm Relu"
        " excite/Gemm Sigmoid Mul GlobalAveragePool head/Gemm"
    ),
    "convnext": (
        "stem/Conv stem_norm/LayerNormalization depthwise/Conv norm1/LayerNormalization wide/MatMul wide/Add wide Mul_5"
        " narrow/MatMul narrow/Add narrow Mul_6 Add_2 ReduceMean head_norm/LayerNormalization head/Gemm"
    ),
    "vit": (
        "patches/Conv Add norm1/LayerNormalization value/MatMul value/Add value key/MatMul key/Add key query/MatMul"
        " query/Add query MatMul Softmax MatMul_1 out/MatMul out/Add out Add_1 norm2/LayerNormalization wide/MatMul"
        " wide/Add wide Mul_6 narrow/MatMul narrow/Add narrow Add_4 norm3/LayerNormalization head/Gemm"
    ),
}


@functools.cache
def model_of(library, architecture):
    return zoo.model(library, architecture, IMAGES)


@pytest.fixture(autouse=True)
def nodes_are_tapped(monkeypatch):
    monkeypatch.setattr(evaluation, "compute", zoo.tapped_node(evaluation.compute))


@pytest.mark.parametrize(("library", "architecture"), CASES)
def test_places_have_the_names_of_their_library_or_weights(library, architecture):
    names = (NODES if library == "onnx" else PLACES)[architecture].split()
    found = list(model_of(library, architecture).layers)
    assert [full.removeprefix("Linen/").removeprefix("parts/") for full in found] == names


@pytest.mark.parametrize(("library", "architecture"), CASES)
def test_a_cut_at_any_place_is_the_activation_there_and_the_rest_of_the_model(library, architecture):
    model = model_of(library, architecture)

    ends = {name if library == "onnx" else name.rpartition("/")[2] for name in model.layers}

    @jax.jit
    def all_of(images):
        zoo.Tapped.seen.clear()
        whole = model(images)
        seen = {name: y for name, y in zoo.Tapped.seen.items() if name in ends}
        results = {}
        for name in list(model.layers)[::3]:
            features, head = model.split(name)
            results[name] = head(features(images))
        return whole, seen, model.activations(list(seen))(images), results

    whole, seen, cuts, results = all_of(IMAGES)  # in one program, so that equal parts are computed once
    assert len(seen) >= 4
    for name, y in seen.items():
        np.testing.assert_array_equal(cuts[name], y.reshape(cuts[name].shape), err_msg=name)
    for name, result in results.items():
        np.testing.assert_array_equal(result, whole, err_msg=name)
    if library == "onnx":  # the weights are those of jnp
        np.testing.assert_allclose(whole, jax.jit(model_of("jnp", architecture))(IMAGES), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("library", "architecture"), CASES)
def test_costs_and_fields_do_not_depend_on_the_library(library, architecture):
    plain, model = model_of("jnp", architecture), model_of(library, architecture)
    found, expected = ([place._replace(name="") for place in each.layers.values()] for each in (model, plain))
    if library != "onnx":
        assert found == expected
        return
    # A file's nodes are in PyTorch's order, and its dense layers in two: a product and a sum.
    split = ("dense", "shift", "block")
    whole, others = ([place for place in each if place.kind not in split] for each in (found, expected))
    assert collections.Counter(whole) == collections.Counter(others)
    assert model.parameters == plain.parameters
    costs = [sum(place.multiply_adds for place in each if place.kind != "block") for each in (found, expected)]
    assert costs[0] == costs[1]


def test_one_image_alone_is_cut_as_several_are():
    """JAX leaves out the axis of one image in products of matrices."""
    several, one = model_of("jnp", "vit"), zoo.model("jnp", "vit", IMAGES[:1])
    assert list(one.layers.values()) == list(several.layers.values())

    @jax.jit
    def all_of(images):
        splits = {name: one.split(name) for name in ("matmul1", "softmax", "matmul2", "out")}
        maps = {name: features(images) for name, (features, _) in splits.items()}
        return maps, [splits[name][1](acts) for name, acts in maps.items()], one(images)

    maps, results, whole = all_of(IMAGES[:1])
    for name, expected in jax.jit(several.activations(list(maps)))(IMAGES).items():
        acts = maps[name].at if isinstance(maps[name], Crossing) else maps[name]
        np.testing.assert_allclose(acts, expected[:1], rtol=1e-5, atol=1e-5, err_msg=name)
    for result in results:
        np.testing.assert_array_equal(result, whole)


def test_images_that_share_an_axis_with_others_have_their_own():
    """As TensorFlow's exporter merges the batch with positions or with heads."""
    kernels = [zoo.draw("patches", (3 * 8 * 8, 6)), zoo.draw("wide", (6, 4))]

    def fun(x):
        n = len(x)
        x = x.reshape(n, 3, 8, 3, 8, 3).transpose(0, 1, 3, 2, 4, 5).reshape(n * 9, -1) @ kernels[0]
        heads = x.reshape(n, 9, 2, 3).transpose(0, 2, 1, 3).reshape(n * 2, 9, 3)
        x = jax.nn.softmax(heads @ heads.transpose(0, 2, 1), -1) @ heads
        x = x.reshape(n, 2, 9, 3).transpose(0, 2, 1, 3).reshape(n * 9, 6)
        return (x @ kernels[1]).reshape(n, 9, 4).mean(1)

    models = [zfjax.Model(fun, IMAGES[:count]) for count in (1, 2)]
    shapes = {"dense1": (9, 6), "matmul1": (9, 2, 9), "softmax1": (9, 2, 9), "matmul2": (9, 2, 3)}
    for model in models:
        assert {name: place.shape for name, place in model.layers.items()} == shapes | {"dense2": (9, 4), "mean1": (4,)}
        maps = model.activations(list(model.layers))
        both, alone = jax.jit(maps)(IMAGES), jax.jit(maps)(IMAGES[1:])
        whole, results = jax.jit(lambda images, model=model: (fun(images), by_parts(model, images)))(IMAGES)
        for name in model.layers:
            np.testing.assert_allclose(both[name][1:], alone[name], rtol=1e-4, atol=1e-4, err_msg=name)
            np.testing.assert_allclose(results[name], whole, rtol=1e-4, atol=1e-5, err_msg=name)


def by_parts(model, images):
    """What a model gives in two parts, cut at each of its places."""
    parts = {name: model.split(name) for name in model.layers}
    return {name: head(features(images)) for name, (features, head) in parts.items()}


@pytest.mark.parametrize("library", ["jnp", "onnx"])
@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_fields_are_what_the_pixels_tell(library, architecture):
    """The pixels on which a unit in the middle depends, by its gradient, over images enough that no ReLU hides any."""
    model = model_of(library, architecture)
    images = np.random.default_rng(2).normal(size=(24, zoo.SIDE, zoo.SIDE, 3)).astype(np.float32)
    placed = {name: place for name, place in model.layers.items() if len(place.shape) == 3 and place.receptive_field}
    assert len(placed) >= 1

    @jax.jit
    def dependence(images):
        found = {}
        for name, place in placed.items():
            y, pull = jax.vjp(model.layer(name), images)
            row, column = (size // 2 for size in place.shape[:2])
            (gradient,) = pull(jnp.zeros_like(y).at[:, row, column].set(1))
            found[name] = jnp.abs(gradient).sum((0, 3)) > 0
        return found

    for name, depends in dependence(images).items():
        place = placed[name]
        for axis in (0, 1):
            seen = np.flatnonzero(np.asarray(depends).any(1 - axis))
            middle = place.offset[axis] + place.stride[axis] * (place.shape[axis] // 2)
            reach = (place.receptive_field[axis] - 1) / 2
            first, last = max(middle - reach, 0), min(middle + reach, zoo.SIDE - 1)
            assert (seen[0], seen[-1]) == (first, last), name


@pytest.mark.parametrize(("library", "architecture"), CASES)
def test_grad_cam_by_name_is_the_formula(library, architecture):
    layer = {"chain": "conv2", "residual": "block2_conv1", "inception": "wide", "mobilenet": "expand"}.get(
        architecture, "depthwise" if architecture == "convnext" else "patches"
    )
    layer += "/Conv" if library == "onnx" else ""
    model = model_of(library, architecture)
    features, head = model.split(layer)

    @jax.jit
    def both_ways(images):
        def score(added):
            zoo.Tapped.added = {layer: added}
            result = model(images)[:, 3].sum()
            zoo.Tapped.added = {}
            return result, zoo.Tapped.seen[layer]

        gradient, maps = jax.grad(score, has_aux=True)(jnp.zeros((len(images), *model.place(layer).shape)))
        formula = jax.nn.relu((maps * gradient.mean((1, 2), keepdims=True)).sum(-1))
        return zfjax.grad_cam(head, features(images), 3), formula

    cam, formula = both_ways(IMAGES)
    np.testing.assert_allclose(cam, formula, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("library", "architecture"),
    [
        (library, architecture)
        for number, architecture in enumerate(zoo.ARCHITECTURES)
        for library in ("nnx", "onnx", ("linen", "equinox", "haiku", "jnp")[number % 4])
    ],
)
def test_a_unit_is_sent_down_from_any_place(library, architecture):
    model = model_of(library, architecture)
    name = next(name for name, place in model.layers.items() if place.kind in ("relu", "relu6", "gelu"))
    fun = model.layer(name)
    has_gelu = architecture in ("convnext", "vit")
    with pytest.warns(zfjax.RuleWarning, match="gelu") if has_gelu else contextlib.nullcontext():
        y, project = jax.jit(zfjax.deconvnet)(fun, IMAGES)
    np.testing.assert_allclose(y, jax.jit(fun)(IMAGES), rtol=1e-5, atol=1e-6)
    unit = int(np.argmax(np.asarray(y).reshape(-1, y.shape[-1]).max(0)))
    pixels = jax.jit(lambda project, y: project(zfjax.strongest(y, unit)))(project, y)
    assert pixels.shape == IMAGES.shape
    assert np.abs(pixels).max() > 0


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for number in range(2):
            x = Block(name=f"block{number}")(x)
        return nn.Dense(4, name="head")(x.mean((1, 2)))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        y = nn.relu(nn.Conv(6, (3, 3), name="conv")(x))
        return nn.relu(nn.Conv(6, (1, 1), name="project")(x) + y)


@pytest.fixture(scope="module")
def linen():
    net = Net()
    weights = zoo.filled(jax.eval_shape(net.init, jax.random.key(0), IMAGES))
    return zfjax.Model(net.apply, IMAGES, weights=weights, classes=["a", "b", "c", "d"])


def test_a_block_is_a_place_of_its_own(linen):
    assert linen.layers["Net/block0"].kind == "block"
    np.testing.assert_array_equal(linen.layer("block0")(IMAGES), linen.layer("block0/project/relu")(IMAGES))


def test_what_passes_a_cut_by_crosses_it_too(linen):
    features, head = linen.split("block1/conv")
    acts = features(IMAGES)
    assert isinstance(acts, Crossing)
    assert len(acts.beside) == 1
    np.testing.assert_allclose(head(acts), linen(IMAGES), rtol=1e-6)
    changed = head(acts._replace(at=acts.at + 1))
    assert not jnp.allclose(changed, linen(IMAGES))
    features, head = linen.split("block0")
    assert isinstance(features(IMAGES), jax.Array)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("convv", r"no layer 'convv' in the model; did you mean conv\?"),
        ("conv", r"layer 'conv' could be Net/block0/conv, Net/block1/conv; name one of them"),
        ("*/conv", r"layer '\*/conv' could be"),
        ("nothing like it", r"no layer 'nothing like it' in the model; there are Net/block0/conv, "),
    ],
)
def test_an_unknown_or_ambiguous_name_gets_the_nearest(linen, name, line):
    for ask in (linen.layer, linen.split, lambda name: linen.activations([name])):
        with pytest.raises(zfjax.UserError, match=line):
            ask(name)


@pytest.mark.parametrize("name", ["Net/block1/conv", "block1/conv", "*1/conv", "Net/*1/co?v"])
def test_a_name_may_be_the_end_of_one_or_a_pattern(linen, name):
    np.testing.assert_array_equal(linen.layer(name)(IMAGES), linen.layer("Net/block1/conv")(IMAGES))


def test_other_batches_and_images_are_taken_as_the_function_takes_them(linen):
    features, head = linen.split("block1/conv")
    for shape in ((5, zoo.SIDE, zoo.SIDE, 3), (1, 17, 30, 3)):
        images = np.random.default_rng(3).normal(size=shape).astype(np.float32)
        acts = jax.jit(features)(images)
        assert acts.at.shape == (*shape[:3], 6)
        np.testing.assert_allclose(jax.jit(head)(acts), jax.jit(linen)(images), rtol=1e-5, atol=1e-6)


def test_parts_are_pytrees_with_the_weights_as_leaves(linen):
    features, head = linen.split("block0")

    @jax.jit
    def half(features, head, images):
        return head(jax.tree.map(lambda x: x / 2, features)(images))

    scaled = half(features, head, IMAGES)
    assert scaled.shape == (2, 4)
    assert not jnp.allclose(scaled, linen(IMAGES))
    assert len(jax.tree.leaves(features)) == 10  # all of the model's weights


def test_it_works_under_vmap_and_sharding(linen):
    fun = linen.layer("block1")
    batches = jnp.stack([IMAGES, IMAGES + 1])
    np.testing.assert_allclose(jax.vmap(fun)(batches)[1], fun(IMAGES + 1), rtol=1e-5, atol=1e-5)
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    split = jax.device_put(IMAGES, NamedSharding(mesh, P("data")))
    found = jax.jit(fun)(split)
    assert found.sharding.spec[0] == "data"
    np.testing.assert_allclose(found, fun(IMAGES), rtol=1e-5, atol=1e-5)


def test_nothing_above_the_place_is_computed(linen):
    text = str(jax.make_jaxpr(linen.layer("block0/conv"))(IMAGES))
    assert text.count("conv_general_dilated[") == 1
    assert "dot_general" not in text


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x: net(x), lambda net: net.__call__])
def test_changed_weights_give_the_new_answer(wrap):
    net, _ = zoo.build("nnx", "chain", IMAGES)
    model = zfjax.Model(wrap(net), IMAGES)
    fun, (features, head) = model.layer("conv1/relu"), model.split("conv1/relu")
    before = fun(IMAGES), head(features(IMAGES)), zfjax.attribution.saliency(model, IMAGES, 1)
    net.conv1.kernel[...] = net.conv1.kernel[...] * 2
    net.fc2.bias[...] = net.fc2.bias[...] + 1
    after = fun(IMAGES), head(features(IMAGES)), zfjax.attribution.saliency(model, IMAGES, 1)
    for old, new in zip(before, after, strict=True):
        assert not jnp.allclose(old, new)
    np.testing.assert_allclose(after[1], net(IMAGES), rtol=1e-5, atol=1e-6)
    assert next(iter(model.layers)) == "conv1"


class Maps(eqx.Module):
    """One image [C, H, W], as Equinox's layers take it."""

    first: eqx.nn.Conv2d
    pool: eqx.nn.MaxPool2d
    second: eqx.nn.Conv2d

    def __call__(self, x):
        x = self.pool(jax.nn.relu(self.first(x)))
        return jax.nn.relu(self.second(x)).mean((1, 2))


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "HWC", "CHW"])
def test_layouts_are_said_once(layout):
    keys = jax.random.split(jax.random.key(0))
    net = Maps(eqx.nn.Conv2d(3, 8, 5, 2, key=keys[0]), eqx.nn.MaxPool2d(3, 2), eqx.nn.Conv2d(8, 4, 3, key=keys[1]))
    move = (lambda x: x.transpose(2, 0, 1)) if layout.endswith("HWC") else (lambda x: x)
    fun = (lambda x: net(move(x))) if layout[0] != "N" else jax.vmap(lambda x: net(move(x)))
    shape = {"N": 2, "H": zoo.SIDE, "W": 20, "C": 3}
    model = zfjax.Model(fun, [shape[axis] for axis in layout], layout=layout)
    images = np.random.default_rng(2).normal(size=(2, zoo.SIDE, 20, 3)).astype(np.float32)
    first, expected = jax.jit(lambda images: (jax.vmap(net.first)(images), jax.vmap(net)(images)))(
        images.transpose(0, 3, 1, 2)
    )
    found, maps, results = jax.jit(
        lambda images: (model(images), model.layer("first")(images), by_parts(model, images))
    )(images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert model.layers["first"].shape == (10, 8, 8)
    assert [place.shape for place in model.layers.values()] == [
        (10, 8, 8),
        (10, 8, 8),
        (4, 3, 8),
        (2, 1, 4),
        (2, 1, 4),
        (4,),
    ]
    np.testing.assert_allclose(maps, first.transpose(0, 2, 3, 1), rtol=1e-5)
    assert results.keys() == model.layers.keys()
    for result in results.values():
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_an_example_in_another_layout_is_refused():
    with pytest.raises(ValueError, match=r'the layout NHWC, got one of shape \[1, 3, 24, 24\]; say layout="NCHW" if'):
        zfjax.Model(lambda x: x, (1, 3, 24, 24))
    with pytest.raises(ValueError, match=r"an example in the layout NHWC, got one of shape \[24, 24, 3\]"):
        zfjax.Model(lambda x: x, (24, 24, 3))


def test_places_without_any_names_are_counted_by_kind():
    kernels = [zoo.draw("a", (3, 3, 3, 4)), zoo.draw("b", (3, 3, 4, 4)), zoo.draw("c", (4, 2))]

    def fun(x):
        for kernel in kernels[:2]:
            dims = ("NHWC", "HWIO", "NHWC")
            x = jax.nn.relu(jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=dims))
        return x.mean((1, 2)) @ kernels[2]

    model = zfjax.Model(fun, IMAGES)
    assert list(model.layers) == ["conv1", "relu1", "conv2", "relu2", "mean1", "dense1"]
    assert [place.parameters for place in model.layers.values()] == [108, 0, 144, 0, 0, 8]


def test_arrays_of_numpy_that_a_function_holds_have_their_names():
    kernel = np.random.default_rng(0).normal(size=(2, 3, 3, 3, 4)).astype(np.float32)
    weights = {"conv": {"kernel": kernel[1], "bias": np.ones(4, np.float32)}, "middle": {"kernel": np.eye(4)}}
    head = np.random.default_rng(1).normal(size=(4, 2))  # float64

    def fun(x):
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, weights["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=dims)
        x = jax.nn.relu(x + weights["conv"]["bias"].reshape(1, 1, 1, -1))
        return x.mean((1, 2)) @ jnp.asarray(weights["middle"]["kernel"], jnp.float32) @ jnp.asarray(head)

    model = zfjax.Model(fun, IMAGES)
    assert list(model.layers) == ["conv", "conv/relu", "conv/mean", "middle", "head"]
    assert model.leaves.keys() == {"conv/kernel", "conv/bias", "middle/kernel", "head"}
    assert model.reads["conv"] == ("conv/kernel", "conv/bias")
    twice = model.replaced({"head": 2 * model.leaves["head"]})
    np.testing.assert_allclose(twice(IMAGES), 2 * model(IMAGES), rtol=1e-6)


class Layer:
    """A class that no library knows."""

    def __init__(self, name, inputs, outputs):
        self.kernel = np.asarray(zoo.draw(name, (3, 3, inputs, outputs)))
        self._bias = zoo.draw(name, (outputs,))

    def __call__(self, x):
        dims = ("NHWC", "HWIO", "NHWC")
        x = jax.lax.conv_general_dilated(x, self.kernel, (2, 2), "SAME", dimension_numbers=dims)
        return jax.nn.relu(x + self._bias.reshape(1, 1, 1, -1))


class Odd:
    """What has a shape, but not yet."""

    @property
    def shape(self):
        raise RuntimeError("not built")


class Own:
    """A net of such layers, which also refers to itself."""

    def __init__(self):
        self.layers, self.head = [Layer("a", 3, 4), Layer("b", 4, 5)], {"kernel": zoo.draw("c", (5, 2))}
        self.itself, self.odd = self, Odd()

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x.mean((1, 2)) @ self.head["kernel"]

    __call__ = forward


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: lambda x: net(x), lambda net: net.forward])
def test_weights_of_a_class_that_no_library_knows_are_named_by_its_attributes(wrap):
    net = Own()
    model = zfjax.Model(wrap(net), IMAGES)
    places = ["layers/0", "layers/0/relu", "layers/1", "layers/1/relu", "layers/1/mean", "head"]
    assert list(model.layers) == places
    assert model.reads["layers/1"] == ("layers/1/kernel", "layers/1/bias")
    around = zfjax.Model(lambda x: 2 * model(x), IMAGES)
    assert [name.removeprefix("fun/") for name in around.layers] == places
    net.head["kernel"] = net.head["kernel"] * 3
    np.testing.assert_allclose(around(IMAGES), 2 * net(IMAGES), rtol=1e-6)


def test_values_of_classes_on_more_axes_are_logits():
    net, weights = zoo.build("jnp", "chain", IMAGES)
    model = zfjax.Model(net, IMAGES, weights=weights)
    for axes in ((1, 1, -1), (-1, 1, 1)):
        more = zfjax.Model(
            lambda weights, x, axes=axes: net(weights, x).reshape(len(x), *axes), IMAGES, weights=weights
        )
        assert list(more.logits.layers) == list(model.layers)
        np.testing.assert_array_equal(more.logits(IMAGES), model(IMAGES))
        features, head = more.logits.split("conv1/relu")
        np.testing.assert_allclose(head(features(IMAGES)), model(IMAGES), rtol=1e-5, atol=1e-6)
    assert model.logits is model
    maps = zfjax.Model(lambda x: x, IMAGES)
    assert maps.logits is maps


def test_the_table_says_what_there_is(linen):
    lines = str(linen).splitlines()
    assert lines[0].split() == [
        "layer",
        "kind",
        "output",
        "parameters",
        "multiply-adds",
        *["receptive", "field", "stride", "offset"],
    ]
    (conv,) = (line for line in lines if line.startswith("Net/block0/conv "))
    assert conv.split() == ["Net/block0/conv", "conv", "24×24×6", "168", f"{24 * 24 * 27 * 6:,}", "3×3", "1", "0"]
    assert lines[-1].split()[:2] == ["total", f"{sum(leaf.size for leaf in jax.tree.leaves(linen._weights)):,}"]
    assert "whole image" in lines[-2]


def test_our_own_nets_fields_are_those_of_their_table():
    net = zfjax.zfnet(10, width=0.125, image_size=64)
    variables = zoo.filled(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    model = zfjax.Model(lambda variables, x: net.apply(variables, x)[0], (1, 64, 64, 3), weights=variables)
    rows = [row for row in zfjax.layer_table(net) if not row.name.startswith("dropout")]
    for row in rows:
        if row.name.startswith(("conv", "fc")):
            place = model.layers[next(name for name in model.layers if name.endswith(f"/{row.name}"))]
            assert (place.receptive_field, place.parameters) == (row.receptive_field, row.parameters), row.name
            assert place.multiply_adds == row.multiply_adds


def test_images_of_another_type_are_cut_too():
    fun, weights = zoo.build("jnp", "residual", IMAGES)
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), weights)
    images = IMAGES.astype(jnp.bfloat16)
    features, head = zfjax.Model(fun, images, weights=half).split("block1_conv1")
    acts = jax.jit(features)(images)
    assert acts.at.dtype == jnp.bfloat16
    found, expected = jax.jit(lambda acts, images: (head(acts), fun(half, images)))(acts, images)
    np.testing.assert_allclose(np.float32(found), np.float32(expected), rtol=0.02, atol=0.02)


def test_preprocessing_makes_images_of_pictures():
    squares = np.array([[[[255, 0, 51]]]], np.uint8)
    caffe = zfjax.weights.Preprocessing((1, 2, 3), (2, 2, 2), pixel_max=255, bgr=True)
    model = zfjax.Model(lambda x: x.mean((1, 2)), (1, 1, 1, 3), preprocess=caffe)
    np.testing.assert_allclose(model.preprocess(squares), [[[[25, -1, 126]]]])


def test_a_model_without_preprocessing_says_so(linen):
    assert linen.classes == ("a", "b", "c", "d")
    assert linen.image_shape == (zoo.SIDE, zoo.SIDE, 3)
    with pytest.raises(zfjax.UserError, match="does not know what to make of a picture"):
        linen.preprocess(np.zeros((1, 4, 4, 3), np.uint8))


def test_our_own_nets_are_models_with_fast_paths():
    net = zfjax.zfnet(10, width=0.125, image_size=64)
    variables = zoo.filled(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    model = NetModel(net, variables, classes=list("abcdefghij"))
    rows = {row.name: row for row in zfjax.layer_table(net) if not row.name.startswith("drop")}
    assert list(model.layers) == list(rows)
    for name, place in model.layers.items():
        row = rows[name]
        assert (place.receptive_field, place.offset, place.parameters) == (
            row.receptive_field,
            row.offset,
            row.parameters,
        )
        assert np.prod(place.shape) == np.prod(row.output)
    assert model.parameters == sum(row.parameters for row in rows.values())
    images = jnp.ones((2, 64, 64, 3))
    assert model.layer("relu5").func == zfjax.layer(net, variables, "relu5").func  # what fast paths look for
    features, head = model.split("relu5")
    np.testing.assert_array_equal(head(features(images)), model(images))
    assert model.activations(["relu1", "fc7"])(images)["fc7"].shape == (2, 512)
    assert "fc8" in str(model)


NETS = """
import jax, jax.numpy as jnp, zfjax

def mine():
    def fun(weights, x):
        return jax.nn.relu(x @ weights["first"]["kernel"]).mean((1, 2)) @ weights["head"]
    weights = {"first": {"kernel": jnp.ones((3, 4))}, "head": jnp.ones((4, 2))}
    return zfjax.Model(fun, (1, 8, 8, 3), weights=weights)

made = mine()

def nothing():
    return 3

def training():
    from flax import nnx

    return zfjax.Model(nnx.BatchNorm(3, rngs=nnx.Rngs(0)), (1, 8, 8, 3))

def failing():
    raise ValueError("no weights here")
"""


def test_summary_shows_the_model_of_a_function_in_a_file(tmp_path, capsys):
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    assert command.run(summary.main, ["summary", f"--model={file}:mine", "--csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == ["layer", "first", "first/relu", "first/mean", "head"]
    assert command.run(summary.main, ["summary", f"--model={file}:made"]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["total", "20"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--model=nets.py"], "--model=nets.py: expected FILE.py:NAME, where NAME is a zfjax.Model or a function"),
        (["--model=run"], "--model=run: it is a run; expected --workdir=run"),
        (
            ["--model=net.pth"],
            "--model=net.pth: a file of weights is no model; zfjax import-weights net.pth --model=MODEL",
        ),
        (
            ["--model=resnet18"],
            "--model=resnet18: it is a net without weights; zfjax import-weights FILE --model=resnet18",
        ),
        (["--model=none.py:mine"], "--model: no such file: 'none.py'; expected a path like nets.py:NAME"),
        (["--model={}:mime"], "--model: no function 'mime' in {}; did you mean mine?"),
        (["--model={}:nothing"], "--model: nothing() of {} returned int; expected a zfjax.Model"),
        (
            ["--model={}:training"],
            "--model: training() of {}: ValueError: fun: its BatchNorm is in training mode; call",
        ),
        (["--model={}:failing"], "--model: failing() of {}: ValueError: no weights here"),
        (["--model={}:mine", "--net=alexnet"], "--net has no meaning with --model, which is shown: leave it out"),
    ],
)
def test_a_model_that_cannot_be_had_is_one_line(tmp_path, monkeypatch, capsys, words, line):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "nets.py"
    file.write_text(NETS)
    (tmp_path / "run").mkdir()
    for name in ("run/config.json", "net.pth"):
        (tmp_path / name).touch()
    assert command.run(summary.main, ["summary", *(word.format(file) for word in words)]) == 2
    lines = [text for text in capsys.readouterr().err.splitlines() if text.startswith("zfjax: ")]
    assert len(lines) == 1
    assert line.format(file) in lines[0]


def by_hand(logits):
    """A softmax without its largest logit subtracted."""
    shares = jnp.exp(logits)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "ending",
    [
        jax.nn.softmax,
        by_hand,
        jax.jit(jax.nn.softmax),
        lambda logits: jax.nn.softmax(logits[:, :, None, None], axis=1),
        lambda logits: jax.nn.softmax(logits.reshape(len(logits), 1, 1, -1)).reshape(len(logits), -1),
    ],
)
def test_a_softmax_at_the_end_is_left_out_of_logits(ending):
    net, weights = zoo.build("jnp", "chain", IMAGES)
    model = zfjax.Model(net, IMAGES, weights=weights)
    ends = [
        zfjax.Model(lambda weights, x: ending(net(weights, x)), IMAGES, weights=weights),
        zfjax.Model(jax.jit(lambda x: ending(net(weights, x))), IMAGES),
    ]
    for other in ends:
        np.testing.assert_allclose(other.logits(IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
        assert len(other.logits.layers) == len(other.layers) - 1 == len(model.layers)
        features, head = other.logits.split("conv1/relu" if other is ends[0] else next(iter(other.layers)))
        np.testing.assert_allclose(head(features(IMAGES)), model(IMAGES), rtol=1e-5, atol=1e-6)
        assert other.logits.logits.output == model.output
    assert list(ends[0].logits.layers) == list(model.layers)
    changed = {path: 2 * leaf for path, leaf in model.leaves.items()}
    expected = model.replaced(changed)(IMAGES)
    np.testing.assert_allclose(ends[0].logits.replaced(changed)(IMAGES), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "ending",
    [
        jax.nn.log_softmax,
        lambda logits: 1 - jax.nn.softmax(logits),
        lambda logits: jax.nn.softmax(logits) / 2 + jax.nn.softmax(2 * logits) / 2,
        lambda logits: by_hand(logits) * 2,
        lambda logits: jax.nn.softmax(logits) @ jnp.ones((5, 3)),
        lambda logits: logits / logits.sum(axis=1, keepdims=True),
    ],
)
def test_other_ends_are_no_softmax(ending):
    net, weights = zoo.build("jnp", "chain", IMAGES)
    model = zfjax.Model(lambda weights, x: ending(net(weights, x)), IMAGES, weights=weights)
    assert model.logits is model


def test_a_bias_below_a_softmax_is_part_of_the_logits():
    net, weights = zoo.build("jnp", "chain", IMAGES)
    bias = jnp.arange(5.0)[None]
    model = zfjax.Model(lambda weights, x: by_hand(net(weights, x) - bias), IMAGES, weights=weights)
    np.testing.assert_allclose(model.logits(IMAGES), net(weights, IMAGES) - bias, rtol=1e-5, atol=1e-6)
