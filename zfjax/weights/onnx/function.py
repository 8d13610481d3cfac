"""An ONNX graph as a JAX function, and its weights as a pytree."""

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from zfjax.console.errors import UserError
from zfjax.console.text import listed, shown_by_shape
from zfjax.transform.functions import Fixed
from zfjax.weights.onnx.batch import Batch, Shape
from zfjax.weights.onnx.evaluation import evaluate
from zfjax.weights.onnx.folding import folded
from zfjax.weights.onnx.graph import Graph, Node, Port, described, readers
from zfjax.weights.onnx.layout import Held, Maps
from zfjax.weights.onnx.operators.table import dtype_here, require_known, sized
from zfjax.weights.onnx.reading import read

# Inputs that say how to compute: numbers of the program, not weights.
_SETTINGS = {"Clip": (1, 2), "Dropout": (1,), "Pad": (2,), "Range": (0, 1, 2), "Resize": (1, 2), "Upsample": (1,)}
# Operators whose inputs of a single number are weights too.
_LEARNED = frozenset(
    (
        *("BatchNormalization", "Conv", "ConvTranspose", "Gemm", "GroupNormalization", "InstanceNormalization"),
        *("LayerNormalization", "MatMul", "PRelu", "RMSNormalization"),
    )
)


@shown_by_shape
class OnnxNet(NamedTuple):
    """A file as a function and its weights: `net.function(net.params, images)`.

    Attributes:
        function: takes the weights and the inputs in the file's own layout; a tuple comes back if there are several
            outputs.
        params: the weights by the file's own names. Kernels that are `[out, in, *window]` in the file are
            `[*window, in, out]` here, as in zfjax's nets; all others are as in the file.
        inputs: what the function takes.
        outputs: names of what it returns.
        opset: of the file.
    """

    function: "OnnxFunction"
    params: dict[str, np.ndarray]
    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    opset: int


@dataclasses.dataclass(frozen=True, eq=False)
class OnnxFunction(Fixed):
    """The `function` of an `OnnxNet`.

    The equations of each node are in a `jax.named_scope` of the node's name.

    Attributes:
        graph: the nodes.
        shapes: of all tensors for the file's own batch.
        channels_last: whether it takes [N, H, W, C] where the file has [N, C, H, W].
    """

    graph: Graph
    shapes: Mapping[str, Shape]
    channels_last: bool = False

    def __call__(self, params: PyTree, *images: Array | np.ndarray) -> Any:
        """Compute the outputs.

        Raises:
            UserError: the images are not what the net takes, or the file's batch cannot be changed.
        """
        ports = self.graph.inputs
        if len(images) != len(ports):
            asked = listed([described(port) for port in ports])
            raise UserError(f"the net takes {len(ports)} inputs, {asked}; got {len(images)}")
        values: dict[str, Held] = {**self.graph.tensors, **params}
        for port, image in zip(ports, images, strict=True):
            array = jnp.asarray(image).astype(dtype_here(port.dtype))
            values[port.name] = Maps(array) if self.channels_last else array
            _check_input(port, values[port.name].shape)
        own = self.shapes[ports[0].name][0] if ports and self.shapes[ports[0].name] else 1
        found = evaluate(self.graph, values, Batch(self.shapes, own))
        if ports and images[0].ndim and images[0].shape[0] != own:
            self._check_batch(images[0].shape[0], own, found)
        return found[0] if len(found) == 1 else found

    def _check_batch(self, count: int, own: int, found: tuple[Array, ...]) -> None:
        for name, output in zip(self.graph.outputs, found, strict=True):
            if self.shapes[name][:1] == (own,) and output.shape[:1] != (count,):
                raise UserError(
                    f"the file is made for {own} images at a time, got {count}: export it with a batch that may vary"
                    " (dynamic_axes, dynamic_shapes)"
                )


def load(path: str | os.PathLike[str], *, image_size: int = 224, channels_last: bool = False) -> OnnxNet:
    """Read a .onnx file as a JAX function.

    The function works under `jit`, `grad`, `vmap` and `zfjax.deconvnet`, for batches of any size; other sizes of images
    where its operators allow them. Maps inside are channels last.

    Args:
        path: the file; weights in files beside it are read too.
        image_size: height and width in pixels of the images, where the file leaves them open.
        channels_last: let the function take images [N, H, W, C] where the file has [N, C, H, W].

    Raises:
        UserError: the file is missing, damaged, harmful, or has an operator that zfjax lacks; or the package `onnx` is
            not installed.
    """
    try:
        graph = read(path)
        require_known(graph.nodes)
        graph = folded(graph)
        graph, params = _with_weights(graph)
        shapes = _traced(graph, params, image_size)
    except UserError as error:
        text = str(error)
        raise UserError(text if str(path) in text else f"cannot use {path}: {text}") from error
    function = OnnxFunction(graph, shapes, channels_last)
    return OnnxNet(function, params, graph.inputs, graph.outputs, graph.opset)


def _traced(graph: Graph, params: PyTree, image_size: int) -> dict[str, Shape]:
    """The shapes of all tensors for the file's own batch, found without computing anything."""
    examples = [jax.ShapeDtypeStruct(_example(port, image_size), dtype_here(port.dtype)) for port in graph.inputs]
    shapes: dict[str, Shape] = {}

    def run(params: PyTree, *images: Array) -> tuple[Array, ...]:
        values: dict[str, Held] = {**graph.tensors, **params}
        values.update((port.name, image) for port, image in zip(graph.inputs, images, strict=True))
        found = evaluate(graph, values)
        shapes.update((name, sized(tuple(value.shape))) for name, value in values.items())
        return found

    jax.eval_shape(run, params, *examples)
    return shapes


def _example(port: Port, image_size: int) -> Shape:
    """A shape of an input where the file leaves some sizes open: one image."""
    if port.shape is None:
        raise UserError(f"the input {described(port)} has no shape")
    maps = maps_axis(port.shape)
    return tuple(
        side if isinstance(side, int) else 1 if axis == 0 else 3 if axis == maps else image_size
        for axis, side in enumerate(port.shape)
    )


def maps_axis(shape: tuple[int | str | None, ...]) -> int:
    """Which axis of an input holds red, green and blue: 1, or the last, as in files from TensorFlow."""
    return len(shape) - 1 if shape[-1:] in ((1,), (3,), (4,)) and shape[1:2] != (3,) else 1


def _check_input(port: Port, shape: Shape) -> None:
    """Refuse another rank or number of channels; the batch and the size may differ."""
    if port.shape is None:
        return
    channels = port.shape[maps_axis(port.shape)] if len(port.shape) > 1 else None
    if len(shape) != len(port.shape) or (isinstance(channels, int) and channels != shape[maps_axis(port.shape)]):
        raise UserError(f"expected {described(port)}, got {list(shape)}")


def _with_weights(graph: Graph) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph without its weights, and these."""
    by_reader = readers(graph.nodes)
    constants, params, turned = dict(graph.tensors), {}, set()
    for name in list(constants):
        uses = by_reader.get(name, [])
        if name in graph.outputs or not _is_weight(constants[name], uses):
            continue
        array = constants.pop(name)
        if all(_is_kernel(node, position) for node, position in uses):
            array = array.transpose(*range(2, array.ndim), 1, 0)
            turned.add(name)
        params[name] = np.ascontiguousarray(array)
    nodes = tuple(
        dataclasses.replace(node, kernel_last=True) if turned.intersection(node.inputs[1:2]) else node
        for node in graph.nodes
    )
    used = {name: array for name, array in constants.items() if name in by_reader or name in graph.outputs}
    return dataclasses.replace(graph, nodes=nodes, tensors=used), params


def _is_kernel(node: Node, position: int) -> bool:
    """Whether a weight is a kernel [out, in, *window]."""
    return position == 1 and (node.kind == "Conv" or (node.kind == "Gemm" and bool(node.get("transB", 0))))


def _is_weight(array: np.ndarray, uses: Iterable[tuple[Node, int]]) -> bool:
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return False
    return any(
        position not in _SETTINGS.get(node.kind, ()) and (array.size > 1 or node.kind in _LEARNED)
        for node, position in uses
    )
