"""A checked graph of ONNX nodes: names, attributes and constants, without protobufs."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.text import brief, listed


@dataclasses.dataclass(frozen=True, eq=False)
class Node:
    """One operator applied to named tensors.

    Attributes:
        kind: the operator's name, such as Conv.
        name: the node's own name, else its first output's.
        inputs: names of tensors; "" where an optional one is left out.
        outputs: names of tensors; "" where an optional one is left out.
        attributes: numbers, text, lists of them, and arrays, by name.
        opset: the version of ONNX's operators that the file is written in.
        kernel_last: whether its kernel, in the file `[out, in, *window]`, is kept as `[*window, in, out]`.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    opset: int
    kernel_last: bool = False

    def __str__(self) -> str:
        return f"{self.kind} node {brief(self.name)!r}"

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute, or a default."""
        return self.attributes.get(name, default)

    def having(self, **attributes: Any) -> "Node":
        """The same node with some attributes replaced."""
        return dataclasses.replace(self, attributes={**self.attributes, **attributes})


class Port(NamedTuple):
    """An input of the graph."""

    name: str
    dtype: np.dtype
    shape: tuple[int | str | None, ...] | None  # a name where an axis has one instead of a size; None: not said


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """Nodes in the order of computation, and the constant tensors that they read."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    tensors: Mapping[str, np.ndarray]
    opset: int


def ordered(nodes: Sequence[Node], given: Iterable[str], outputs: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that the outputs need, each after those that it reads.

    Args:
        nodes: in any order.
        given: names of the graph's inputs and constants.
        outputs: names of the graph's outputs.

    Raises:
        UserError: a tensor is made twice or by no node, or nodes form a circle.
    """
    makers: dict[str, Node] = {}
    known = set(given)
    for node in nodes:
        for output in filter(None, node.outputs):
            if output in makers or output in known:
                raise UserError(f"the tensor {brief(output)!r} is made twice, the second time by {node}")
            makers[output] = node
    for output in outputs:
        if output not in makers and output not in known:
            raise UserError(f"no node makes the output {brief(output)!r}")
    done: list[Node] = []
    states: dict[int, bool] = {}  # by the node's id: False while what it reads is being ordered, then True
    waiting = [makers[output] for output in reversed(outputs) if output in makers]
    while waiting:
        node = waiting[-1]
        if id(node) in states:
            waiting.pop()
            if not states[id(node)]:
                states[id(node)] = True
                done.append(node)
            continue
        states[id(node)] = False
        for name in filter(None, node.inputs):
            maker = makers.get(name)
            if maker is None and name not in known:
                raise UserError(f"{node} reads {brief(name)!r}, which no node makes and which is no input or weight")
            if maker is not None and id(maker) not in states:
                waiting.append(maker)
            elif maker is not None and not states[id(maker)]:
                raise UserError(f"nodes form a circle: {node} reads {brief(name)!r}, which depends on it")
    return tuple(_without_unused(done, outputs))


def _without_unused(nodes: Sequence[Node], outputs: Sequence[str]) -> Iterator[Node]:
    """The nodes with names only for what is read, since many list a mask or a mean that nobody asks for."""
    used = {*outputs, *(name for node in nodes for name in node.inputs)}
    for node in nodes:
        kept = tuple(name if name in used else "" for name in node.outputs)
        yield node if kept == node.outputs else dataclasses.replace(node, outputs=kept)


def readers(nodes: Iterable[Node]) -> dict[str, list[tuple[Node, int]]]:
    """The nodes that read each tensor, with the position among their inputs."""
    found: dict[str, list[tuple[Node, int]]] = {}
    for node in nodes:
        for position, name in enumerate(node.inputs):
            found.setdefault(name, []).append((node, position))
    return found


def described(port: Port) -> str:
    """An input as `name: float32[N, 3, 224, 224]`."""
    sides = "…" if port.shape is None else listed([str("?" if side is None else side) for side in port.shape], 8)
    return f"{brief(port.name)}: {port.dtype}[{sides}]"
