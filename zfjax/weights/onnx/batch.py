"""Batches of other sizes than the one that a file was exported for.

Exporters write the sizes of their example into a file, often even where its inputs say that the batch may vary: a
reshape to [1, 2048], a class token [1, 1, 768]. What the shapes were for the file's own batch, which are known from
when it was loaded, tells where the batch is in such a constant.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.layout import Held, first
from zfjax.weights.onnx.operators.table import library

Shape = tuple[int, ...]


def adapted(
    node: Node, inputs: Sequence[Held | None], shapes: Mapping[str, Shape], baked: bool
) -> Sequence[Held | None]:
    """The inputs of a node, for a batch of the size at hand.

    Args:
        node: about to be computed.
        inputs: of the node.
        shapes: of all tensors for the file's own batch; empty if they are not known.
        baked: whether its second input is a constant of the file.
    """
    if node.kind == "Concat":
        return _alike(node, inputs)
    if node.kind == "Reshape" and baked and node.outputs[0] in shapes and inputs[0] is not None:
        wanted = _reshaped(inputs[0].shape, shapes[node.inputs[0]], shapes[node.outputs[0]])
        return inputs if wanted is None else (inputs[0], np.array(wanted))
    return inputs


def _reshaped(now: Shape, before: Shape, after: Shape) -> Shape | None:
    """What an input of the shape `now` is to become, if one of the shape `before` became one of the shape `after`.

    None if they differ in more than one axis, or if it has no counterpart in the result.
    """
    axes = [axis for axis, (new, old) in enumerate(zip(now, before, strict=True)) if new != old]
    if len(axes) != 1 or not before[axes[0]] or now[axes[0]] % before[axes[0]]:
        return None
    (axis,) = axes
    # Numbers stay in order, so the axis begins where as many are before it.
    places = [at for at in range(len(after)) if math.prod(after[:at]) == math.prod(before[:axis])]
    if not places:
        return None
    at = next((at for at in places if after[at] == before[axis]), places[0])
    return (*after[:at], after[at] * (now[axis] // before[axis]), *after[at + 1 :])


def _alike(node: Node, inputs: Sequence[Held | None]) -> Sequence[Held | None]:
    """Arrays to concatenate: one without a batch, such as a class token, is repeated for each image."""
    there = [one for one in inputs if one is not None]
    ranks = {one.ndim for one in there}
    if len(ranks) != 1:
        return inputs
    (rank,) = ranks
    along = int(node.get("axis", 1)) % max(rank, 1)
    sides = [max(one.shape[axis] for one in there) for axis in range(rank)]

    def fits(one: Held) -> bool:
        return all(axis == along or side == sides[axis] for axis, side in enumerate(one.shape))

    if all(map(fits, there)):
        return inputs
    found = []
    for one in there:
        shape = tuple(side if axis == along else sides[axis] for axis, side in enumerate(one.shape))
        found.append(one if fits(one) else library(first(one)).broadcast_to(first(one), shape))
    return found
