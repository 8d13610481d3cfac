"""ONNX files: what is read of them, what is refused, and what the functions made of them compute."""

import resource

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import TensorProto, helper, numpy_helper  # noqa: E402

import zfjax  # noqa: E402
from zfjax.console.errors import UserError  # noqa: E402
from zfjax.runs.model_files import model_given  # noqa: E402
from zfjax.weights.onnx import load  # noqa: E402

RANDOM = np.random.default_rng(0)


def tensor(name, *shape, dtype=np.float32):
    return numpy_helper.from_array(np.asarray(0.3 * RANDOM.standard_normal(shape), dtype), name)


def model(nodes, tensors=(), *, shape=(1, 3, 16, 16), element=TensorProto.FLOAT, outputs=("y",), opset=17):
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info(name, element, None) for name in outputs],
        list(tensors),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def saved(folder, proto):
    path = folder / "net.onnx"
    path.write_bytes(proto if isinstance(proto, bytes) else proto.SerializeToString())
    return path


def small_net(**how):
    """A convolution, a block of two, a token of its own before the spatial cells, and logits."""
    kind = {"dtype": how.pop("dtype", np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], "stem/conv", strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], "/stem/relu"),
        helper.make_node("MaxPool", ["r1"], ["p1"], "stem/pool", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p1", "k2"], ["c2"], "block/conv", pads=[1, 1, 1, 1], group=2),
        helper.make_node("BatchNormalization", ["c2", "scale", "shift", "mean", "var"], ["n2"], "block/norm"),
        helper.make_node("Add", ["n2", "p1"], ["a2"], "block/add"),
        helper.make_node("Relu", ["a2"], ["r2"], "block/relu"),
        helper.make_node("Reshape", ["r2", "flat"], ["f2"], "tokens/flat"),
        helper.make_node("Transpose", ["f2"], ["t2"], "tokens/turn", perm=[0, 2, 1]),
        helper.make_node("Concat", ["cls", "t2"], ["t3"], "tokens/cat", axis=1),
        helper.make_node("MatMul", ["t3", "w"], ["m3"], "tokens/dense"),
        helper.make_node("ReduceMean", ["m3"], ["g3"], "mean", axes=[1], keepdims=0),
        helper.make_node("Gemm", ["g3", "head"], ["y"], "head", transB=1),
    ]
    tensors = [
        tensor("k1", 8, 3, 3, 3, **kind),
        tensor("b1", 8, **kind),
        tensor("k2", 8, 4, 3, 3, **kind),
        tensor("scale", 8, **kind),
        tensor("shift", 8, **kind),
        tensor("mean", 8, **kind),
        numpy_helper.from_array(np.linspace(0.5, 2, 8).astype(kind["dtype"]), "var"),
        numpy_helper.from_array(np.array([1, 8, 16]), "flat"),
        tensor("cls", 1, 1, 8, **kind),
        tensor("w", 8, 8, **kind),
        tensor("head", 10, 8, **kind),
    ]
    return model(nodes, tensors, **how)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx")
    path = saved(folder, small_net())
    return path, load(path)


IMAGES = RANDOM.standard_normal((3, 3, 16, 16)).astype(np.float32)


def truth(path, images):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"x": images[i : i + 1]})[0] for i in range(len(images))])


def test_a_net_with_a_batch_of_one_baked_in_takes_any_batch(net):
    path, loaded = net
    expected = truth(path, IMAGES)
    fun = jax.jit(loaded.function)
    np.testing.assert_allclose(fun(loaded.params, IMAGES), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(fun(loaded.params, IMAGES[:1]), expected[:1], rtol=1e-4, atol=1e-5)
    one = jax.vmap(lambda image: loaded.function(loaded.params, image[None])[0])(IMAGES)
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


def test_weights_are_a_pytree_with_the_files_names(net):
    _, loaded = net
    shapes = {name: array.shape for name, array in loaded.params.items()}
    norm = dict.fromkeys(("scale", "shift", "mean", "var"), (8,))
    kernels = {"k1": (3, 3, 3, 8), "b1": (8,), "k2": (3, 3, 4, 8)}  # [*window, in, out]
    assert shapes == kernels | norm | {"cls": (1, 1, 8), "w": (8, 8), "head": (8, 10)}
    slopes = jax.jit(jax.grad(lambda params: loaded.function(params, IMAGES).sum()))(loaded.params)
    assert all(np.abs(slopes[name]).max() > 0 for name in ("k1", "k2", "cls", "head"))


def test_equations_carry_the_names_of_nodes_and_maps_are_channels_last(net):
    _, loaded = net
    jaxpr = jax.make_jaxpr(loaded.function)(loaded.params, IMAGES)
    scopes = [str(equation.source_info.name_stack) for equation in jaxpr.eqns]
    nodes = ("stem/conv", "stem/relu", "stem/pool", "block/conv", "block/norm", "block/add", "block/relu")
    assert set(scopes) >= {*nodes, "tokens/cat", "head"}
    shapes = [equation.outvars[0].aval.shape for equation in jaxpr.eqns]
    turned = [
        scope for equation, scope in zip(jaxpr.eqns, scopes, strict=True) if "transpose" in str(equation.primitive)
    ]
    assert "block/conv" not in turned
    assert (3, 8, 8, 8) in shapes


def test_the_deconvnet_recognizes_relus_and_pools(net):
    _, loaded = net
    fun = jax.tree_util.Partial(loaded.function, loaded.params)
    y, project = jax.jit(zfjax.deconvnet)(fun, IMAGES)  # would warn if it found no ReLU
    assert project(jnp.ones_like(y)).shape == IMAGES.shape


def test_a_file_is_a_model_with_the_names_of_its_nodes(net):
    path, loaded = net
    made = zfjax.from_onnx(path)
    last = IMAGES.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(made(last), jax.jit(loaded.function)(loaded.params, IMAGES), rtol=1e-5, atol=1e-5)
    nodes = ["stem/conv", "stem/relu", "stem/pool", "block/conv", "block/norm", "block/add", "block/relu"]
    assert [name for name in made.layers if name in nodes] == nodes
    assert made.layers["stem/pool"].shape == (4, 4, 8)
    assert made.layers["stem/pool"].receptive_field == (5, 5)
    features, head = made.split("block/relu")
    assert features(last).shape == (3, 4, 4, 8)
    np.testing.assert_allclose(head(features(last)), made(last), rtol=1e-5, atol=1e-5)
    assert list(model_given(str(path)).layers) == list(made.layers)


@pytest.mark.parametrize("opset", [7, 12])
def test_a_net_as_caffe_and_caffe2_write_it(tmp_path, opset):
    """CaffeNet's layers as in the model zoo: two groups, contrast norm, pools of three, weights among the inputs."""
    shapes = {"conv1": (8, 3, 5, 5), "conv2": (12, 4, 5, 5), "conv4": (12, 6, 3, 3), "fc6": (16, 108), "fc8": (5, 16)}
    tensors = [tensor(f"{name}_w_0", *shape) for name, shape in shapes.items()]
    tensors += [tensor(f"{name}_b_0", shape[0]) for name, shape in shapes.items()]
    tensors.append(numpy_helper.from_array(np.array([1, -1]), "to_rows"))
    nodes, above = [], "x"

    def add(kind, made, *weights, **attributes):
        nonlocal above
        more = [made + "_mask"] if kind == "Dropout" and opset < 10 else []
        nodes.append(helper.make_node(kind, [above, *weights], [made, *more], "", **attributes))
        above = made

    def rectified(kind, name, **attributes):
        add(kind, f"{name}_1", f"{name}_w_0", f"{name}_b_0", **attributes)
        add("Relu", f"{name}_2")

    rectified("Conv", "conv1", strides=[2, 2], kernel_shape=[5, 5])
    add("LRN", "norm1_1", size=5, alpha=1e-4, beta=0.75, bias=1.0)
    add("MaxPool", "pool1_1", kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1])
    rectified("Conv", "conv2", pads=[2, 2, 2, 2], group=2, kernel_shape=[5, 5])
    add("LRN", "norm2_1", size=5, alpha=1e-4, beta=0.75, bias=1.0)
    rectified("Conv", "conv4", pads=[1, 1, 1, 1], group=2, kernel_shape=[3, 3])
    add("MaxPool", "pool5_1", kernel_shape=[3, 3], strides=[2, 2])
    add("Reshape", "rows", "to_rows")
    rectified("Gemm", "fc6", transB=1)
    add("Dropout", "fc6_3")
    add("Gemm", "fc8_1", "fc8_w_0", "fc8_b_0", transB=1)
    add("Softmax", "y")
    proto = model(nodes, tensors, shape=(1, 3, 32, 32), opset=opset)
    proto.ir_version = 3
    for one in tensors:
        proto.graph.input.append(helper.make_tensor_value_info(one.name, one.data_type, one.dims))
    path = saved(tmp_path, proto)
    images = RANDOM.standard_normal((3, 3, 32, 32)).astype(np.float32)
    made, last = zfjax.from_onnx(path), images.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(made(last), truth(path, images), rtol=1e-5, atol=1e-6)
    assert made.feature_layers == ("conv1_2", "conv2_2", "conv4_2")
    features, head = made.split("conv4_2")
    np.testing.assert_allclose(head(features(last)), made(last), rtol=1e-5, atol=1e-6)
    y, project = zfjax.deconvnet(made.layer("conv4_2"), last)  # would warn if it found no ReLU
    assert project(zfjax.strongest(y, unit=3)).shape == last.shape


def test_a_batch_is_followed_through_reshapes_to_tokens_first_and_heads(tmp_path):
    """Attention as PyTorch writes it for a batch of one: [tokens, 1, maps], [tokens, heads, maps] and back."""
    shapes = {"tokens": (1, 8, 4), "rows": (4, 8), "again": (4, 1, 8), "heads": (4, 2, 4)}
    shapes |= {"flat": (4, 8), "back": (4, 1, 8)}
    nodes = [
        helper.make_node("Reshape", ["x", "tokens"], ["t"]),
        helper.make_node("Transpose", ["t"], ["first"], perm=[2, 0, 1]),
        helper.make_node("Reshape", ["first", "rows"], ["r"]),
        helper.make_node("MatMul", ["r", "w"], ["m"]),
        helper.make_node("Reshape", ["m", "again"], ["a"]),
        helper.make_node("Reshape", ["a", "heads"], ["h"]),
        helper.make_node("Transpose", ["h"], ["h1"], perm=[1, 0, 2]),
        helper.make_node("Softmax", ["h1"], ["h2"], axis=1),
        helper.make_node("Transpose", ["h2"], ["h3"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["h3", "flat"], ["f"]),
        helper.make_node("Reshape", ["f", "back"], ["b"]),
        helper.make_node("Transpose", ["b"], ["y"], perm=[1, 0, 2]),
    ]
    tensors = [int64(name, *shape) for name, shape in shapes.items()]
    path = saved(tmp_path, model(nodes, [*tensors, tensor("w", 8, 8)], shape=(1, 2, 4, 4)))
    loaded, images = load(path), RANDOM.standard_normal((3, 2, 4, 4)).astype(np.float32)
    expected = [loaded.function(loaded.params, images[i : i + 1]) for i in range(3)]
    np.testing.assert_allclose(loaded.function(loaded.params, images), np.concatenate(expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.concatenate(expected), truth(path, images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float16, 0.02), (ml_dtypes.bfloat16, 0.2)])
def test_half_precision(tmp_path, dtype, tolerance):
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    loaded = load(saved(tmp_path, small_net(dtype=dtype, element=element)))
    assert loaded.params["k1"].dtype == dtype
    y = jax.jit(loaded.function)(loaded.params, IMAGES)
    wide = jax.tree.map(lambda array: array.astype(np.float32), loaded.params)
    assert y.dtype == dtype
    graph = loaded.function.graph
    port = graph.inputs[0]._replace(dtype=np.dtype(np.float32))
    function = type(loaded.function)(graph.__class__((port,), *list(vars(graph).values())[1:]), loaded.function.shapes)
    np.testing.assert_allclose(y.astype(jnp.float32), jax.jit(function)(wide, IMAGES), atol=tolerance, rtol=tolerance)


def test_external_data_lie_in_the_files_own_folder(tmp_path, net):
    path, loaded = net
    proto = onnx.load(path)
    (tmp_path / "in").mkdir()
    for place, message in (
        ("weights.bin", None),
        ("../weights.bin", "expected a file in the model's own folder"),
        (str(tmp_path / "weights.bin"), "expected a file in the model's own folder"),
        ("link.bin", "expected a file in the model's own folder"),
        ("missing.bin", "which is not beside the model"),
    ):
        beside = onnx.ModelProto()
        beside.CopyFrom(proto)
        start, content = 0, b""
        for one in beside.graph.initializer:
            data = numpy_helper.to_array(one).tobytes()
            one.ClearField("raw_data")
            one.data_location = TensorProto.EXTERNAL
            for key, value in (("location", place), ("offset", start), ("length", len(data))):
                one.external_data.add(key=key, value=str(value))
            content, start = content + data, start + len(data)
        for folder in (tmp_path, tmp_path / "in"):
            (folder / "weights.bin").write_bytes(content)
        (tmp_path / "in" / "link.bin").unlink(missing_ok=True)
        (tmp_path / "in" / "link.bin").symlink_to(tmp_path / "weights.bin")
        there = saved(tmp_path / "in", beside)
        if message:
            with pytest.raises(UserError, match=message):
                load(there)
        else:
            for name, array in load(there).params.items():
                np.testing.assert_array_equal(array, loaded.params[name])
    (tmp_path / "in" / "weights.bin").write_bytes(content[:-100])
    beside = onnx.load(there, load_external_data=False)
    for one in beside.graph.initializer:
        one.external_data[0].value = "weights.bin"
    with pytest.raises(UserError, match=r"goes beyond the end of weights\.bin, which may be cut short"):
        load(saved(tmp_path / "in", beside))


def claimed(dims, data=b"", **more):
    return TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, raw_data=data, **more)


def relu(read="x", made="y", name="a", kind="Relu", **attributes):
    return helper.make_node(kind, [read] if isinstance(read, str) else read, [made], name, **attributes)


def grown(kind, *inputs, tensors, **attributes):
    return model([relu(inputs, "t", "grow", kind, **attributes), relu(["x", "t"], "y", "b", "Add")], tensors)


def int64(name, *numbers):
    return numpy_helper.from_array(np.array(numbers, np.int64), name)


def whole(name, number):
    return numpy_helper.from_array(np.array(number), name)


def functions(double):
    """A model of functions that call each other twice, or themselves."""
    proto = model([helper.make_node("f0", ["x"], ["y"], domain="mine")])
    for i in range(60 if double else 1):
        body = [helper.make_node(f"f{i + 1 if double else 0}", [a], [b], domain="mine") for a, b in ("xt", "ty")]
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
        proto.functions.append(helper.make_function("mine", f"f{i}", ["x"], ["y"], body, opsets))
    proto.opset_import.append(helper.make_opsetid("mine", 1))
    return proto


HOSTILE = {
    "an unknown operator": (model([relu(kind="Wavelet", name="w1")]), "Wavelet node 'w1' of opset 17"),
    "another domain's": (
        model([helper.make_node("Fused", ["x"], ["y"], "q", domain="com.microsoft")]),
        "com.microsoft.Fused node 'q' of opset 17",
    ),
    "a circle": (
        model([relu(["x", "c"], "b", "one", "Add"), relu("b", "c", "two"), relu("c", "y")]),
        "nodes form a circle: Add node 'one' reads 'c'",
    ),
    "its own input": (model([relu("y", "y", "self")]), "nodes form a circle"),
    "no maker": (model([relu("nothing")]), "Relu node 'a' reads 'nothing', which no node makes"),
    "no maker of the output": (model([relu()], outputs=("z",)), "no node makes the output 'z'"),
    "two makers": (model([relu(), relu(name="again")]), "'y' is made twice, the second time by Relu node 'again'"),
    "claimed sizes": (
        model([relu(["x", "w"], kind="Add")], [claimed([2**40, 2**20], b"1234")]),
        r"claims float32\[1099511627776, 1048576\], but has 4 bytes",
    ),
    "negative sizes": (model([relu(["x", "w"], kind="Add")], [claimed([-1], b"1234")]), "has a negative size"),
    "text": (
        model([relu(["x", "w"], kind="Add")], [TensorProto(name="w", data_type=TensorProto.STRING, dims=[1])]),
        "has no numbers as elements",
    ),
    "an unknown type": (
        model([relu(["x", "w"], kind="Add")], [TensorProto(name="w", data_type=99, dims=[1])]),
        "of an unknown type, number 99",
    ),
    "a huge constant": (grown("ConstantOfShape", "s", tensors=[int64("s", 2**30, 2**30)]), "node 'grow': it makes"),
    "a huge range": (
        grown("Range", *"abc", tensors=[whole("a", 0), whole("b", 2**50), whole("c", 1)]),
        "node 'grow': it makes",
    ),
    "a huge tile": (grown("Tile", "x", "s", tensors=[int64("s", 2**20, 2**20, 1, 1)]), "node 'grow': it makes"),
    "huge padding": (grown("Pad", "x", "s", tensors=[int64("s", *[2**30] * 8)]), "node 'grow': it makes"),
    "a newer opset": (model([relu()], opset=17 + 100), "ONNX's opset 117; expected one up to"),
    "a circle of functions": (functions(double=False), "calls itself"),
    "functions that double": (functions(double=True), "nodes; expected at most"),
    "text for a file": (b"# my net\n" * 30, "it is damaged, cut short or no .onnx file"),
    "nothing": (b"", "it is empty"),
    "a page of the web": (b"<html></html>", "it is a page of the web"),
    "a list of keys": (b'{"a": 1}', "it is JSON"),
    "no graph": (onnx.ModelProto(ir_version=8).SerializeToString(), "it holds no graph"),
    "half of a file": (small_net().SerializeToString()[:2000], "damaged, cut short or no .onnx file"),
    "shapes that do not fit": (
        model([relu(["x", "w"], "y", "m", "MatMul")], [tensor("w", 5, 5)]),
        "MatMul node 'm' of opset 17 cannot take",
    ),
    "an axis that is not there": (model([relu(kind="Softmax", axis=9)]), "Softmax node 'a': its axis 9"),
    "an inner graph": (
        model([relu(kind="If", then_branch=small_net().graph, else_branch=small_net().graph)]),
        "zfjax has no operator If",
    ),
    "several unknown operators": (
        model([relu(kind="Wavelet", made="t"), relu("t", kind="Loop", made="u"), relu("u", kind="Wavelet")]),
        "Wavelet node 'a' of opset 17: zfjax has no operator Wavelet, nor Loop$",
    ),
    "a quantized net": (
        model([relu(kind="QuantizeLinear", made="t"), relu("t", kind="DequantizeLinear")]),
        "QuantizeLinear, nor DequantizeLinear; it is quantized: expected a file with floating-point weights",
    ),
    "a model in training": (
        model([relu(["x", *"sbmv"], "y", "n", "BatchNormalization", training_mode=1)], [tensor(c, 3) for c in "sbmv"]),
        "it is in training mode; expected a model exported for inference",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_refused_ends_in_one_line(tmp_path, what):
    proto, message = HOSTILE[what]
    path = saved(tmp_path, proto)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(UserError, match=message) as refused:
        load(path)
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith(f"cannot use {path}: ")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB


def test_a_missing_file_or_a_folder_is_named(tmp_path):
    for path, what in ((tmp_path / "no.onnx", "is not there"), (tmp_path, "is a folder")):
        with pytest.raises(UserError, match=f"cannot use {path}: it {what}; expected an .onnx file"):
            load(path)


def test_an_operator_that_no_output_needs_is_not_missed(tmp_path):
    loaded = load(saved(tmp_path, model([relu(), relu(made="z", name="b", kind="Wavelet")])))
    assert np.array_equal(loaded.function(loaded.params, IMAGES), np.maximum(IMAGES, 0))


def test_constants_are_folded_and_several_outputs_returned(tmp_path):
    nodes = [
        helper.make_node("Shape", ["x"], ["sides"]),
        helper.make_node("Gather", ["sides", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["batch1"]),
        helper.make_node("Unsqueeze", ["end", "axes"], ["end1"]),
        helper.make_node("Slice", ["x", "starts", "end1", "one"], ["part"]),
        helper.make_node("Concat", ["batch1", "minus"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["part", "wanted"], ["y"], "flat"),
        helper.make_node("Clip", ["x", "low", "high"], ["relu6"], "bounded"),
    ]
    tensors = [
        whole("zero", 0),
        int64("axes", 0),
        whole("end", 2**63 - 1),
        int64("starts", 1),
        int64("one", 1),
        int64("minus", -1),
        numpy_helper.from_array(np.float32(0), "low"),
        numpy_helper.from_array(np.float32(6), "high"),
    ]
    loaded = load(saved(tmp_path, model(nodes, tensors, shape=("batch", 3, "h", "w"), outputs=("y", "relu6"))))
    assert loaded.params == {}
    y, relu6 = loaded.function(loaded.params, 9 * IMAGES)
    np.testing.assert_array_equal(y, 9 * IMAGES[:, 1:].reshape(3, -1))
    np.testing.assert_array_equal(relu6, np.clip(9 * IMAGES, 0, 6))


def test_a_batch_that_cannot_be_changed_is_said_to_be_so(tmp_path):
    flat = model([relu("x", "y", "flat", "Flatten", axis=0)])
    loaded = load(saved(tmp_path, flat))
    with pytest.raises(UserError, match="made for 1 images at a time, got 3: export it with a batch that may vary"):
        loaded.function(loaded.params, IMAGES)
    with pytest.raises(UserError, match=r"expected x: float32\[1, 3, 16, 16\], got \[3, 4, 16, 16\]"):
        loaded.function(loaded.params, np.zeros((3, 4, 16, 16), np.float32))
