"""What can be computed from a file's constants alone, computed once when it is loaded."""

import dataclasses

import numpy as np

from zfjax.console.errors import UserError
from zfjax.weights.onnx.evaluation import compute
from zfjax.weights.onnx.graph import Graph, Node, readers
from zfjax.weights.onnx.operators.table import Layout, find

_MORE = 2**30  # bytes that the results may take beyond four times those of the file
_MOVING = frozenset(
    (
        *("Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "EyeLike", "Flatten", "Gather", "NonZero"),
        *("Pad", "Range", "Reshape", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose"),
        *("Trilu", "Unsqueeze"),
    )
)


def folded(graph: Graph) -> Graph:
    """The graph with the results of such nodes among its constants.

    Raises:
        UserError: a node cannot be computed, or the results are too large for a file of its size.
    """
    tensors, rest = dict(graph.tensors), []
    left = _MORE + 4 * sum(array.nbytes for array in tensors.values())
    for node in graph.nodes:
        if not _is_known(node, tensors):
            rest.append(node)
            continue
        for name, value in zip(node.outputs, compute(node, [tensors.get(name) for name in node.inputs]), strict=False):
            if not name:
                continue
            tensors[name] = np.asarray(value)
            left -= 0 if 0 in tensors[name].strides else tensors[name].nbytes
        if left < 0:
            raise UserError(f"{node}: the constants of the file come to more than can be kept")
    used = readers(rest)
    kept = {name: array for name, array in tensors.items() if name in used or name in graph.outputs}
    return dataclasses.replace(graph, nodes=tuple(rest), tensors=kept)


def _is_known(node: Node, tensors: dict[str, np.ndarray]) -> bool:
    """Whether a node only moves constants, or computes elementwise with them; other work is left to the program."""
    if not all(name in tensors for name in filter(None, node.inputs)):
        return False
    return node.kind in _MOVING or (bool(node.inputs) and find(node).layout is Layout.ANY)
