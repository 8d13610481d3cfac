"""Whether one of zfjax's nets computes what an ONNX file does."""

import dataclasses
import os

import jax
import numpy as np
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.models import ConvNet
from zfjax.weights.onnx.function import OnnxNet, load
from zfjax.weights.preprocessing import Preprocessing

TOLERANCE = 1e-3  # of the largest logit


def require_same(path: str | os.PathLike[str], net: ConvNet, variables: PyTree, before: Preprocessing) -> None:
    """Compute the logits of random pictures with both.

    Weights that fit do not make two nets the same: paddings, groups, constants of norms and the order of layers are not
    in their shapes.

    Args:
        path: the file.
        net: made of the file's weights.
        variables: with `before` folded into the first kernel.
        before: what the file's net takes.

    Raises:
        UserError: the logits differ, or the file takes other images.
    """
    squares = np.random.RandomState(0).randint(0, 256, (2, net.image_size, net.image_size, 3)).astype(np.uint8)
    given = load(path, image_size=net.image_size, channels_last=True)
    expected = np.asarray(jax.jit(_logits(given))(given.params, before(squares))).reshape(2, -1)
    inputs = squares.astype(np.float32) - before.pixel_mean
    found = np.asarray(jax.jit(lambda variables, inputs: net.apply(variables, inputs)[0])(variables, inputs))
    if expected.shape != found.shape:
        raise UserError(f"it has outputs {list(expected.shape[1:])}; expected {list(found.shape[1:])}")
    wrong, largest = np.abs(expected - found).max(), np.abs(expected).max()
    if not wrong <= TOLERANCE * largest:
        raise UserError(
            f"its weights fit, but it computes something else: logits differ by {wrong:.2g} where the largest is"
            f" {largest:.2g}"
        )


def _logits(given: OnnxNet):
    """The function below a softmax at the end."""
    (output, *_) = given.outputs
    nodes = {name: node for node in given.function.graph.nodes for name in node.outputs}
    while output in nodes and nodes[output].kind in ("Softmax", "Identity"):
        output = nodes[output].inputs[0]
    graph = dataclasses.replace(given.function.graph, outputs=(output,))
    return dataclasses.replace(given.function, graph=graph)
