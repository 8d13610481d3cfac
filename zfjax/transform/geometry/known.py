"""Values of a program that follow from constants alone, such as indices, computed where somebody asks for them."""

import math
from collections.abc import Iterable

import jax
import numpy as np

from zfjax.transform.graph import Graph, Node, Value

_LARGEST = 1 << 20  # elements of an array on the way
_MOST = 200  # equations


class Known:
    """The known values of one program.

    Attributes:
        graph: the program.
    """

    def __init__(self, graph: Graph):
        self.graph = graph
        self._found: dict[Value, np.ndarray | None] = {}

    def __call__(self, value: Value) -> np.ndarray | None:
        """The array that a value is; None if it depends on inputs, is large, or takes many equations."""
        if value not in self._found:
            nodes = self._needed(value)
            self._found[value] = None if nodes is None else self._computed(value, nodes)
        return self._found[value]

    def _needed(self, value: Value) -> set[Node] | None:
        """The equations that give a value."""
        nodes: set[Node] = set()
        waiting = [value]
        while waiting:
            value = waiting.pop()
            node = self.graph.makers.get(value)
            if math.prod(self.graph.avals[value].shape) > _LARGEST or len(nodes) > _MOST:
                return None
            if isinstance(self.graph.constants.get(value), jax.core.Tracer):
                return None
            if value in self.graph.constants or node in nodes:
                continue
            if node is None or node.view.inside(node.equation):
                return None
            nodes.add(node)
            waiting += node.inputs
        return nodes

    def _computed(self, value: Value, nodes: Iterable[Node]) -> np.ndarray:
        def run() -> jax.Array:
            arrays = dict(self.graph.constants)
            for node in sorted(nodes, key=lambda node: node.path):
                primitive = node.equation.primitive
                made = primitive.bind(*map(arrays.__getitem__, node.inputs), **node.equation.params)
                arrays.update(zip(node.outputs, made if primitive.multiple_results else [made], strict=True))
            return arrays[value]

        if not nodes:
            return np.asarray(self.graph.constants[value])
        with jax.ensure_compile_time_eval():  # whoever asks may be traced
            return np.asarray(jax.jit(run)())
