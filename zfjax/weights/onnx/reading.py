"""A .onnx file as a checked graph. Nothing in it is trusted: not its sizes, not its order, not its paths."""

import contextlib
import os
import pathlib
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.text import brief, first_line, reason, size_of
from zfjax.weights.files import other_kind
from zfjax.weights.onnx import tensors
from zfjax.weights.onnx.graph import Graph, Node, Port, ordered

LARGEST_FILE = 2**31  # bytes; protobuf's own limit, beyond which weights lie in files beside it
NEWEST_OPSET = 28  # of the operators here, the newest that was compared with the standard's tests
MOST_NODES = 10**6
_STANDARD = ("", "ai.onnx")


def read(path: str | os.PathLike[str]) -> Graph:
    """Read a file.

    Raises:
        UserError: it is missing, damaged, no ONNX file or harmful, or `onnx` is not installed.
    """
    path = pathlib.Path(user_path(path, "model", local="so download it first"))
    onnx = _library()
    model = onnx.ModelProto()
    with _named(path):
        _parse(model, path)
        return _graph(model, path.parent)


def files_of(path: str | os.PathLike[str]) -> tuple[pathlib.Path, ...]:
    """A file, and those beside it that hold its weights.

    Raises:
        UserError: one is missing, or lies outside the file's folder; or as `read`.
    """
    path = pathlib.Path(user_path(path, "model", local="so download it first"))
    model = _library().ModelProto()
    with _named(path):
        _parse(model, path)
        nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
        tensors_of_nodes = [one.t for node in nodes for one in node.attribute if one.HasField("t")]
        tensors_outside = [one for one in (*model.graph.initializer, *tensors_of_nodes) if one.external_data]
        found = [tensors.beside(one, path.parent, f"the tensor {brief(one.name)!r}") for one in tensors_outside]
    return tuple(dict.fromkeys([path, *found]))


@contextlib.contextmanager
def _named(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"cannot use {path}: {error}") from error


def _library() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise UserError('reading .onnx files needs the package onnx: pip install "zfjax[onnx]"') from error
    return onnx


def _parse(model: Any, path: pathlib.Path) -> None:
    from google.protobuf.message import DecodeError

    try:
        if not path.is_file():
            what = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "is not there"
            raise UserError(f"it {what}; expected an .onnx file")
        size = path.stat().st_size
        if size >= LARGEST_FILE:
            raise UserError(f"it has {size_of(size)}; expected less than 2 GB, with the weights in files beside it")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(reason(error)) from error
    if other := other_kind(content):
        raise UserError(f"it {other}; expected an .onnx file")
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise UserError(f"it is damaged, cut short or no .onnx file: {first_line(error)}") from error
    if not model.HasField("graph") or not model.graph.node:
        raise UserError("it holds no graph; it is empty, cut short or no .onnx file")


def _graph(model: Any, folder: pathlib.Path) -> Graph:
    opset = _opset(model.opset_import)
    graph = _inlined(model).graph
    if graph.sparse_initializer:
        raise UserError("it has sparse weights; expected dense ones")
    if len(graph.node) > MOST_NODES:
        raise UserError(f"it has {len(graph.node)} nodes; expected at most {MOST_NODES}")
    constants = {}
    for tensor in graph.initializer:
        if tensor.name in constants:
            raise UserError(f"the weight {brief(tensor.name)!r} is there twice")
        constants[tensor.name] = tensors.array(tensor, folder)
    ports = tuple(_port(value) for value in graph.input if value.name not in constants)
    outputs = tuple(value.name for value in graph.output)
    if not outputs:
        raise UserError("its graph has no outputs")
    given = [*constants, *(port.name for port in ports)]
    nodes = ordered([_node(node, folder, opset) for node in graph.node], given, outputs)
    return Graph(ports, outputs, nodes, constants, opset)


def _opset(imports: Iterable[Any]) -> int:
    versions = [one.version for one in imports if one.domain in _STANDARD]
    opset = max(versions, default=1)
    if opset > NEWEST_OPSET:
        raise UserError(f"it is written in ONNX's opset {opset}; expected one up to {NEWEST_OPSET}: export it again")
    return opset


def _inlined(model: Any) -> Any:
    """The model with the calls of its own functions, as some exporters write them, replaced by what they compute."""
    if not model.functions:
        return model
    from onnx import inliner

    _check_growth(model)
    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # of C++
        raise UserError(f"the functions in it cannot be resolved: {first_line(error)}") from error


def _check_growth(model: Any) -> None:
    """Refuse functions that call themselves, or each other so often that millions of nodes come out."""
    bodies = {(one.domain, one.name): one.node for one in model.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Any, trail: tuple[tuple[str, str], ...]) -> int:
        total = 0
        for node in nodes:
            key = node.domain, node.op_type
            if key in trail or len(trail) > 100:
                raise UserError(f"its function {brief(node.op_type)!r} calls itself")
            if key in bodies and key not in sizes:
                sizes[key] = size(bodies[key], (*trail, key))
            total += sizes.get(key, 1)
        return total

    if (total := size(model.graph.node, ())) > MOST_NODES:
        raise UserError(f"its functions come to {total} nodes; expected at most {MOST_NODES}")


def _port(value: Any) -> Port:
    what = f"the input {brief(value.name)!r}"
    if not value.type.HasField("tensor_type"):
        raise UserError(f"{what} is no tensor")
    kind = value.type.tensor_type
    sides = [side.dim_value if side.HasField("dim_value") else side.dim_param or None for side in kind.shape.dim]
    shape = tuple(None if side == 0 else side for side in sides) if kind.HasField("shape") else None
    return Port(value.name, tensors.dtype_of(kind.elem_type, what), shape)


def _node(node: Any, folder: pathlib.Path, opset: int) -> Node:
    outputs = tuple(node.output)
    name = node.name or next(filter(None, outputs), "")
    if name.isdigit():
        name = f"{node.op_type}_{name}"
    kind = node.op_type if node.domain in _STANDARD else f"{node.domain}.{node.op_type}"
    attributes = {one.name: _attribute(one, folder, name) for one in node.attribute}
    return Node(kind, name, tuple(node.input), outputs, attributes, opset)


def _attribute(attribute: Any, folder: pathlib.Path, name: str) -> Any:
    from onnx import TensorProto, helper

    try:
        value = helper.get_attribute_value(attribute)
    except ValueError as error:
        raise UserError(f"the node {brief(name)!r} has a damaged attribute: {first_line(error)}") from error
    if isinstance(value, TensorProto):
        return tensors.array(value, folder)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return tuple(value) if isinstance(value, list) else value
