"""The weights of an ONNX file by the names of PyTorch's modules, as a state_dict has them."""

import json
import os
import re
from collections.abc import Mapping

import numpy as np

from zfjax.weights.files import METADATA, TensorFile
from zfjax.weights.onnx.folding import folded
from zfjax.weights.onnx.graph import Graph, Node, readers
from zfjax.weights.onnx.reading import read

_NORM = ("weight", "bias", "running_mean", "running_var")


def is_onnx(path: str | os.PathLike[str]) -> bool:
    """Whether a path is that of an ONNX file, by its name."""
    return os.fspath(path).lower().endswith(".onnx")


def read_weights(path: str | os.PathLike[str]) -> TensorFile:
    """The weights of convolutions, dense layers and batch norms, and the height and width of the images.

    Raises:
        UserError: the file is missing, damaged or harmful, or `onnx` is not installed.
    """
    graph = folded(read(path))
    sides = {side for port in graph.inputs for side in (port.shape or ())[2:4] if isinstance(side, int) and side > 4}
    metadata = {METADATA: json.dumps({"image_size": sides.pop()})} if len(sides) == 1 else {}
    return TensorFile(state_dict(graph), metadata)


def state_dict(graph: Graph) -> dict[str, np.ndarray]:
    """The weights of a graph in PyTorch's names and layouts.

    A layer is called as its weights are, such as layer1.0.conv1.weight, else as its node, such as
    /layer1/layer1.0/conv1/Conv; where both say nothing, conv1, conv2, fc1 and so on in the order of computation.
    """
    found: dict[str, np.ndarray] = {}
    shifts = _shifts(graph)
    counts = {"conv": 0, "fc": 0, "bn": 0}
    for node in graph.nodes:
        kind, leaves = _leaves(node, graph.tensors, shifts)
        if not leaves:
            continue
        counts[kind] += 1
        module = _module(node) or f"{kind}{counts[kind]}"
        found.update((f"{module}.{leaf}", array) for leaf, array in leaves.items())
    return found


def _leaves(
    node: Node, tensors: Mapping[str, np.ndarray], shifts: Mapping[str, np.ndarray]
) -> tuple[str, dict[str, np.ndarray]]:
    """What kind of layer a node is, and its weights."""
    given = [tensors.get(name) for name in node.inputs[1:]]
    weight = given[0] if given else None
    if weight is None or node.kind not in ("Conv", "Gemm", "MatMul", "BatchNormalization"):
        return "", {}
    if node.kind == "BatchNormalization":
        return "bn", {leaf: array for leaf, array in zip(_NORM, given, strict=False) if array is not None}
    if node.kind == "Conv":
        bias = given[1] if len(given) > 1 else None
    elif node.kind == "Gemm":
        weight = weight if node.get("transB", 0) else weight.T
        bias = given[1].reshape(-1) if len(given) > 1 and given[1] is not None else None
    else:
        weight, bias = weight.T, shifts.get(node.outputs[0])
    return "conv" if node.kind == "Conv" else "fc", {"weight": weight} | ({} if bias is None else {"bias": bias})


def _shifts(graph: Graph) -> dict[str, np.ndarray]:
    """The vectors that are added to tensors, by the tensor's name."""
    found = {}
    for name, uses in readers(graph.nodes).items():
        if len(uses) == 1 and uses[0][0].kind == "Add":
            other = uses[0][0].inputs[1 - uses[0][1]]
            if other in graph.tensors and graph.tensors[other].ndim == 1:
                found[name] = graph.tensors[other]
    return found


def _module(node: Node) -> str:
    """The module that a node belongs to, from its weights' name or its own; "" if neither tells."""
    weight, parts = node.inputs[1], [part for part in node.name.split("/") if part]
    for pattern in (r"(.+)\.weight", r"(?:.*/)?(.+)_w(?:_\d+)?"):  # PyTorch's, Caffe2's
        if found := re.fullmatch(pattern, weight):
            return found[1]
    if len(parts) < 2 or parts[-1].rstrip("0123456789_") != node.kind:
        return ""
    path, above = "", "/"
    for part in parts[:-1]:  # one after a module's name that begins with it is a child: layer1, layer1.0
        path += part.removeprefix(above) if part.startswith(f"{above}.") else f".{part}"
        above = part
    return path.removeprefix(".")
