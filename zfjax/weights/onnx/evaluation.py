"""Computing nodes one by one, each in a scope of its name."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import Array

from zfjax.console.errors import UserError
from zfjax.console.text import first_line, is_out_of_memory
from zfjax.weights.onnx import layout
from zfjax.weights.onnx.batch import Shape, adapted
from zfjax.weights.onnx.graph import Graph, Node
from zfjax.weights.onnx.layout import Held, first


def evaluate(graph: Graph, values: dict[str, Held], shapes: Mapping[str, Shape]) -> tuple[Array, ...]:
    """The outputs of a graph, given its inputs and weights in `values`, to which all tensors are added.

    Raises:
        UserError: a node cannot be computed.
    """
    for node in graph.nodes:
        inputs = [values[name] if name else None for name in node.inputs]
        baked = len(node.inputs) < 2 or node.inputs[1] in graph.tensors
        for name, output in zip(node.outputs, compute(node, inputs, shapes, baked), strict=False):
            if name:
                values[name] = output
    return tuple(jnp.asarray(first(values[name])) for name in graph.outputs)


def compute(
    node: Node, inputs: list[Held | None], shapes: Mapping[str, Shape] | None = None, baked: bool = False
) -> tuple[Held, ...]:
    """The outputs of one node.

    Raises:
        UserError: there is no such operator, or it cannot take these inputs.
    """
    try:
        with jax.named_scope(node.name.strip("/") or node.kind), jax.numpy_rank_promotion("allow"):
            return layout.apply(node, adapted(node, inputs, shapes or {}, baked))
    except UserError as error:
        said = str(error)
        raise UserError(said if str(node) in said else f"{node}: {said}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        given = ", ".join("–" if one is None else str(list(one.shape)) for one in inputs)
        raise UserError(f"{node} of opset {node.opset} cannot take {given}: {first_line(error)}") from error
