"""ONNX's operators against the standard's own tests, which come with the package `onnx`."""

import importlib
import operator
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import numpy_helper  # noqa: E402

from zfjax.console.errors import UserError  # noqa: E402
from zfjax.weights.onnx import evaluation, folding, reading  # noqa: E402
from zfjax.weights.onnx.operators import table  # noqa: E402

DATA = pathlib.Path(onnx.__file__).parent / "backend" / "test" / "data"

# Files of the standard's cases: one for most operators.
FILES = [
    word
    for words in (
        "abs acos acosh add and_ argmax argmin asin asinh atan atanh averagepool batch_normalization bitshift",
        "bitwiseand bitwisenot bitwiseor bitwisexor ceil celu clip concat constant constantofshape conv",
        "convtranspose cos cosh cumsum depthtospace div dropout einsum elu equal erf exp expand eyelike",
        "flatten floor gather gatherelements gathernd gelu gemm globalaveragepool globalmaxpool greater",
        "greater_or_equal groupnormalization hardmax hardsigmoid hardswish identity instance_normalization",
        "isinf isnan layernormalization leakyrelu less less_or_equal log logsoftmax lpnormalization lppool",
        "lrn matmul max maxpool mean meanvariancenormalization min mish mod mul neg nonzero not_ onehot or_",
        "pad pow prelu rangeop reciprocal reduce_log_sum reduce_log_sum_exp reducel1 reducel2 reducemax",
        "reducemean reducemin reduceprod reducesum reducesumsquare relu reshape resize rmsnormalization round",
        "scatter scatterelements scatternd selu shape shrink sigmoid sign sin sinh size slice softmax",
        "softplus softsign spacetodepth split sqrt squeeze sub sum swish tan tanh thresholdedrelu tile topk",
        "transpose trilu unsqueeze upsample where xor",
    )
    for word in words.split()
]

# Inputs that must be known beforehand, by operator and position; programs have them from shapes and constants.
KNOWN = {
    "ConstantOfShape": (0,),
    "CumSum": (1,),
    "Dropout": (2,),
    "Expand": (1,),
    "NonZero": (0,),
    "OneHot": (1,),
    "Pad": (1, 3),
    "Range": (0, 1, 2),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "Trilu": (1,),
    "Unsqueeze": (1,),
    "Upsample": (1,),
}

# Cases that zfjax does not compute, and why.
UNSUPPORTED = {
    "training": "a model that is looked at is not trained",
    "dropout_default_mask": "masks are for training",
    "equal_string": "text",
    "identity_opt": "an optional sequence",
    "identity_sequence": "a sequence of tensors",
    "maxpool_with_argmax": "positions of maxima are for unpooling, which the deconvnet does by itself",
}
# The same operators on more kinds of whole numbers.
REPEATED = ("_int8", "_int16", "_uint8", "_uint16", "_uint32", "_uint64")


def cases(file):
    """The cases of one file, without those that spell an operator out in others, which are tested by themselves."""
    from onnx.backend.test.case import node

    with warnings.catch_warnings():  # NumPy's, of the expected infinities
        warnings.simplefilter("ignore")
        before = len(node._NodeTestCases)
        importlib.import_module(f"onnx.backend.test.case.node.{file}")
    found = node._NodeTestCases[before:]
    return [case for case in found if not (case.name.endswith(REPEATED) or "_expanded" in case.name)]


def numbers(value):
    return np.asarray(numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value)


def prepared(model, inputs):
    """A model's graph, the tensors that are known beforehand, and those that a program takes."""
    graph = folding.folded(reading._graph(model, pathlib.Path()))
    beforehand = {
        name
        for node in graph.nodes
        for position, name in enumerate(node.inputs)
        if position in KNOWN.get(node.kind, (1,) if node.kind.startswith("Reduce") else ())
    }
    known, traced = dict(graph.tensors), {}
    for port, value in zip(graph.inputs, inputs, strict=True):
        if port.name in beforehand:
            known[port.name] = numbers(value)
        else:
            traced[port.name] = jax.device_put(numbers(value))
    return graph, known, traced


def outputs(asked):
    """What zfjax computes of models with their inputs, as one program: compiling each alone takes longer."""
    graphs, known, traced = zip(*(prepared(*one) for one in asked), strict=True)
    return jax.jit(lambda traced: [*map(evaluation.evaluate, graphs, map(operator.or_, known, traced))])(traced)


def compare(case, found, expected):
    for one, wanted in zip(found, map(numbers, expected), strict=True):
        assert one.shape == wanted.shape, case
        half = wanted.dtype.itemsize == 2
        kind = np.float32 if jnp.issubdtype(wanted.dtype, jnp.floating) else wanted.dtype
        assert jnp.issubdtype(one.dtype, jnp.floating) == (kind is np.float32), case
        tolerance = {"rtol": 1e-2, "atol": 1e-2} if half else {"rtol": 1e-3, "atol": 1e-6}
        np.testing.assert_allclose(np.asarray(one).astype(kind), wanted.astype(kind), **tolerance, err_msg=case)


@pytest.mark.parametrize("kind", ["pytorch-converted", "pytorch-operator"])
def test_the_standards_older_cases(kind):
    """Layers and operators as PyTorch wrote them in opsets 6 to 9."""
    cases = [
        (folder.name, onnx.load(folder / "model.onnx"), *(tensors(data, what) for what in ("input", "output")))
        for folder in sorted((DATA / kind).iterdir())
        for data in sorted(folder.glob("test_data_set_*"))
    ]
    with np.errstate(over="ignore"):  # float64 of any size, which is float32 here
        for (name, *_, expected), found in zip(cases, outputs([case[1:3] for case in cases]), strict=True):
            compare(name, found, expected)


def tensors(data, what):
    return [onnx.load_tensor(data / f"{what}_{i}.pb") for i in range(len(list(data.glob(f"{what}_*.pb"))))]


@pytest.mark.parametrize("file", FILES)
def test_the_standards_cases(file):
    computed = []
    for case in cases(file):
        kinds = {node.op_type for node in case.model.graph.node}
        if not kinds <= set(table.known()) or any(part in case.name for part in UNSUPPORTED):
            with pytest.raises(UserError, match=r"node|tensor|no numbers"):
                outputs([(case.model, case.data_sets[0][0])])
            continue
        computed += [(case.name, case.model, *data) for data in case.data_sets]
    assert computed
    for (name, *_, expected), found in zip(computed, outputs([case[1:3] for case in computed]), strict=True):
        compare(name, found, expected)
