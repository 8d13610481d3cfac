"""An ONNX file as a `zfjax.Model`."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from zfjax.console.errors import UserError
from zfjax.console.text import listed
from zfjax.models.model import Model
from zfjax.weights.onnx.function import load, maps_axis
from zfjax.weights.onnx.graph import described


def from_onnx(
    path: str | os.PathLike[str],
    *,
    classes: Sequence[str] | None = None,
    preprocess: Callable[..., Any] | None = None,
    image_size: int = 224,
) -> Model:
    """Read an ONNX file of an image classifier, such as PyTorch, Keras or Paddle export, as a `zfjax.Model`.

    The model takes images [N, H, W, C], whatever the file's own layout, in the units that the net was trained on, and
    batches of any size. Its places have the names of the file's nodes. Of several outputs it has the first.

    Args:
        path: the file; weights in files beside it are read too.
        classes: names of the outputs.
        preprocess: makes images, float [N, H, W, C], of RGB uint8 [N, H, W, 3].
        image_size: height and width in pixels of the images, where the file leaves them open.

    Raises:
        UserError: the file is missing, damaged or harmful, takes no images, or has an operator that zfjax lacks; or
            the package `onnx` is not installed.
    """
    net = load(path, image_size=image_size)
    shape = net.function.shapes[net.inputs[0].name] if net.inputs else ()
    if len(net.inputs) != 1 or len(shape) != 4:
        there = listed([described(port) for port in net.inputs]) or "nothing"
        raise UserError(f"cannot use {path}: it takes {there}; expected images, [N, C, H, W]")
    last = maps_axis(shape) == 3
    graph = dataclasses.replace(net.function.graph, outputs=net.outputs[:1])
    function = dataclasses.replace(net.function, graph=graph, channels_last=not last)
    n, c, h, w = shape
    example = shape if last else (n, h, w, c)
    return Model(function, example, weights=net.params, classes=classes, preprocess=preprocess)
