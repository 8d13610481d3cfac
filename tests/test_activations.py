"""Activations are recognized by what they compute, in every form in which people have them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from activation_forms import FORMS, SLOPES, relu6
from jax import lax
from small_models import normal

from zfjax.transform import activations, curves, jaxprs, rectifiers
from zfjax.transform.graph import Graph
from zfjax.weights import onnx as onnx_files

X = normal((2, 6))


def found(fun, *inputs):
    """The names of a function's activations, in order; it depends on its first input."""
    closed = jax.make_jaxpr(fun)(*inputs)
    active = [True] + [False] * (len(closed.jaxpr.invars) - 1)
    view = jaxprs.View(closed, active, [True] * len(closed.jaxpr.outvars))
    rectifiers.recognize(view)
    return [activation.name for activation in activations.find(Graph(view)).values()]


ALL = [pytest.param(name, form, id=f"{name}: {form}") for name, forms in FORMS.items() for form in forms]
AROUND = {
    "alone": lambda fun: fun,
    "jit": jax.jit,
    "remat": jax.checkpoint,
    "vmap": jax.vmap,
    "between layers": lambda fun: lambda x: fun((2 * x @ jnp.eye(6) + jnp.arange(6.0)).astype(x.dtype)) @ jnp.eye(6),
    "with a shortcut": lambda fun: lambda x: x + fun(x),
}


@pytest.mark.parametrize(("name", "form"), ALL)
def test_each_form_of_an_activation_is_recognized(name, form):
    fun = FORMS[name][form]
    for around in AROUND.values():
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            assert found(around(fun), X) == [name]


OTHERS = {
    "a ReLU": (jax.nn.relu, []),
    "a ReLU6": (jax.nn.relu6, []),
    "a clip": (relu6, []),
    "a ReLU by a mask": (lambda x: x * (x > 0), []),
    "softmax": (jax.nn.softmax, []),
    "x tanh(x)": (lambda x: x * jnp.tanh(x), ["tanh"]),
    "x sigmoid(-x)": (lambda x: x * jax.nn.sigmoid(-x), ["sigmoid"]),
    "x sigmoid(x + 1)": (lambda x: x * jax.nn.sigmoid(x + 1), ["sigmoid"]),
    "a gate": (lambda x: x * jax.nn.sigmoid(jnp.flip(x, 1)), ["sigmoid"]),
    "squeeze and excite": (lambda x: x * jax.nn.sigmoid(x.mean(1, keepdims=True)), ["sigmoid"]),
    "the gate is used elsewhere": (lambda x: (lambda gate: (x * gate, gate))(jax.nn.sigmoid(x)), ["sigmoid"]),
    "the gate is constant": (lambda x: x * lax.stop_gradient(jax.nn.sigmoid(x)), []),
    "half of a GELU": (lambda x: x * (1 + lax.erf(x / jnp.sqrt(2.0))), []),
    "a GELU of wrong numbers": (lambda x: 0.5 * x * (1 + lax.erf(x)), []),
    "a leaky ReLU, turned": (lambda x: jnp.minimum(x, 0.1 * x), []),
    "an absolute value": (lambda x: jnp.maximum(x, -x), []),
    "linear": (lambda x: 3 * x + 1, []),
    "leaky twice the slope": (lambda x: jnp.where(x > 0, x, 2 * x), []),
    "two weights": (lambda x: jnp.where(x > 0, x * SLOPES, x * SLOPES**2), []),
    "softplus less its value at 0": (lambda x: jax.nn.softplus(x) - jnp.log(2.0), ["softplus"]),
    "GLU": (lambda x: jax.nn.glu(x), ["sigmoid"]),
    "a ReLU, then a GELU": (lambda x: jax.nn.gelu(jax.nn.relu(x)), ["gelu"]),
    "two GELUs": (lambda x: jax.nn.gelu(jax.nn.gelu(x)), ["gelu", "gelu"]),
    "SwiGLU": (lambda x: jax.nn.silu(x) * jnp.flip(x, 1), ["silu"]),
    "of what does not depend on x": (lambda x: x * jax.nn.gelu(jnp.arange(6.0)), []),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_like_an_activation(name):
    fun, expected = OTHERS[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        assert found(fun, X) == expected


@pytest.mark.parametrize("shape", [(), (1,), (6,)])
def test_weights_may_be_arguments(shape):
    """Of which nothing but the shape is known."""
    slope = jnp.full(shape, 0.1)
    with jax.numpy_rank_promotion("allow"):
        assert found(lambda x, slope: jnp.where(x >= 0, x, slope * x), X, slope) == ["leaky_relu"]
        assert found(lambda x, beta: x * jax.nn.sigmoid(beta * x), X, slope) == ["silu"]
        assert found(lambda x, alpha: jax.nn.elu(x, alpha), X, jnp.float32(1)) == ["elu"]
        assert found(lambda x, scale: scale * x * x, X, slope) == []


def test_numbers_may_be_computed():
    """By anything that computes number by number; whole numbers are divided otherwise."""

    def long(x):
        beta = jnp.ones(())
        for _ in range(2000):
            beta = beta * 1.0
        return x * jax.nn.sigmoid(beta * x)

    assert found(lambda x: 0.5 * x * (1 + lax.erf(x * jnp.sqrt(jnp.exp2(jnp.ones((1, 6)) - 2)))), X) == ["gelu"]
    assert found(long, X) == ["silu"]  # not followed so far, so any number
    # This quotient is 1; 1.7 would make a GELU.
    assert found(lambda x: x * jax.nn.sigmoid(lax.div(jnp.int32(17), jnp.int32(10)).astype(x.dtype) * x), X) == ["silu"]


def test_an_activation_tells_what_it_reads_and_which_equations_it_is():
    closed = jax.make_jaxpr(lambda x: jax.nn.silu(2 * x) @ jnp.eye(6))(X)
    view = jaxprs.View(closed, [True], [True])
    rectifiers.recognize(view)
    graph = Graph(view)
    ((end, activation),) = activations.find(graph).items()
    assert [node.kind for node in activation.nodes] == ["logistic", "mul"]
    assert end is activation.nodes[-1]
    assert graph.makers[activation.x].kind == "mul"
    assert activation.x in graph.makers[activation.x].outputs


ONNX = {  # nodes as (kind, inputs, output), from x to y, with the constants that they name
    "gelu": (
        [("Div", "x root", "a"), ("Erf", "a", "b"), ("Add", "b one", "c"), ("Mul", "x c", "d"), ("Mul", "d half", "y")],
        {"root": 1.4142135, "one": 1.0, "half": 0.5},
    ),
    "silu": ([("Sigmoid", "x", "a"), ("Mul", "x a", "y")], {}),
    "hard_swish": (
        [("Add", "x three", "a"), ("Clip", "a zero six", "b"), ("Div", "b six", "c"), ("Mul", "x c", "y")],
        {"three": 3.0, "zero": 0.0, "six": 6.0},
    ),
    "leaky_relu": ([("PRelu", "x slopes", "y")], {"slopes": np.linspace(0.1, 0.4, 6).reshape(6, 1, 1)}),
    "elu": ([("Elu", "x", "y")], {}),
    "mish": ([("Softplus", "x", "a"), ("Tanh", "a", "b"), ("Mul", "x b", "y")], {}),
}


@pytest.mark.parametrize("name", ONNX)
def test_as_an_onnx_file_has_it(name, tmp_path):
    onnx = pytest.importorskip("onnx")
    nodes, constants = ONNX[name]
    made = [onnx.helper.make_node(kind, inputs.split(), [output], output) for kind, inputs, output in nodes]
    x, y = (onnx.helper.make_tensor_value_info(end, onnx.TensorProto.FLOAT, (1, 6, 4, 4)) for end in "xy")
    arrays = [onnx.numpy_helper.from_array(np.asarray(value, np.float32), key) for key, value in constants.items()]
    graph = onnx.helper.make_graph(made, "net", [x], [y], arrays)
    path = tmp_path / "net.onnx"
    path.write_bytes(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )
    net = onnx_files.load(path)
    found_in = found(lambda x, params: net.function(params, x), normal((1, 6, 4, 4)), net.params)
    assert found_in == [name]


def test_a_function_that_is_being_traced_notices_nothing():
    assert "erf" not in str(jax.make_jaxpr(lambda x: (found(jax.nn.gelu, X), 2 * x)[1])(X))


@pytest.mark.parametrize("kind", sorted({*curves.ARITHMETIC, *curves.FUNCTIONS} - {"add_any"}))  # that of derivatives
def test_numbers_are_computed_as_jax_does(kind):
    primitive = getattr(
        lax, {"max": "max", "not": "bitwise_not", "and": "bitwise_and", "or": "bitwise_or"}.get(kind, kind)
    )
    rows = np.array([[0.3, 1.7, 0.2, 2.5], [0.4, 1.7, -3.0, 0.1], [0.9, 0.8, 0.7, 0.6]])
    if kind == "select_n":
        rows = [rows[0] > 1, *rows[1:]]
    elif kind in ("not", "and", "or"):
        rows = list(rows > 1)
    for count in (3,) if kind == "select_n" else (1, 2):
        inputs = list(rows)[:count]
        try:
            closed = jax.make_jaxpr(primitive)(*(jnp.asarray(row, jnp.result_type(row)) for row in inputs))
        except TypeError:
            continue  # takes another number of inputs
        equation = next(e for e in closed.eqns if e.primitive.name == kind)
        assert curves.is_known(equation)
        expected = primitive(*(jnp.asarray(row, jnp.result_type(row)) for row in inputs))
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(curves.evaluate(equation, *inputs), expected, rtol=1e-5)
        return
    raise AssertionError(f"{kind} was not tried")
