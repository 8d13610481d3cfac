"""Computing nodes one by one, each in a scope of its name."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import Array

from zfjax.console.errors import UserError
from zfjax.console.text import first_line, is_out_of_memory
from zfjax.weights.onnx import layout
from zfjax.weights.onnx.batch import Batch
from zfjax.weights.onnx.graph import Graph, Node
from zfjax.weights.onnx.layout import Held, first


def evaluate(graph: Graph, values: dict[str, Held], batch: Batch | None = None) -> tuple[Array, ...]:
    """The outputs of a graph.

    Args:
        graph: of the file.
        values: its inputs and weights by name, to which all tensors are added.
        batch: if it may be of another size than the file's own.

    Raises:
        UserError: a node cannot be computed.
    """
    for node in graph.nodes:
        inputs: Sequence[Held | None] = [values[name] if name else None for name in node.inputs]
        if batch is not None:
            inputs = batch.adapted(node, inputs, len(inputs) < 2 or node.inputs[1] in graph.tensors)
        for name, output in zip(node.outputs, compute(node, inputs), strict=False):
            if name:
                values[name] = output
    return tuple(jnp.asarray(first(values[name])) for name in graph.outputs)


def compute(node: Node, inputs: Sequence[Held | None]) -> tuple[Held, ...]:
    """The outputs of one node.

    Raises:
        UserError: there is no such operator, or it cannot take these inputs.
    """
    try:
        with jax.named_scope(node.name.strip("/") or node.kind), jax.numpy_rank_promotion("allow"):
            return layout.apply(node, inputs)
    except UserError as error:
        said = str(error)
        raise UserError(said if str(node) in said else f"{node}: {said}") from error
    except Exception as error:
        if is_out_of_memory(error):
            raise
        given = ", ".join("–" if one is None else str(list(one.shape)) for one in inputs)
        raise UserError(f"{node} of opset {node.opset} cannot take {given}: {first_line(error)}") from error
