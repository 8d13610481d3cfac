"""Batches of other sizes than the one that a file was exported for.

Exporters write the sizes of their example into a file, often even where its inputs say that the batch may vary: a
reshape to [1, 2048], a class token [1, 1, 768]. What the shapes were for the file's own batch, which are known from
when it was loaded, tells where the batch is in such a constant: it is the axis whose size differs now.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from zfjax.weights.onnx.graph import Node
from zfjax.weights.onnx.layout import Held, first
from zfjax.weights.onnx.operators.table import library

Shape = tuple[int, ...]


class Batch:
    """The batch of one call, followed through the graph."""

    def __init__(self, shapes: Mapping[str, Shape], own: int):
        """Start.

        Args:
            shapes: of all tensors for the file's own batch; empty if they are not known.
            own: the size of that.
        """
        self.shapes = shapes
        self.own = own
        # Where a reshape has merged the batch into an axis: how many numbers of the axis are before it, by tensor.
        self.before: dict[str, int] = {}

    def adapted(self, node: Node, inputs: Sequence[Held | None], baked: bool) -> Sequence[Held | None]:
        """The inputs of a node, for a batch of the size at hand.

        Args:
            node: about to be computed.
            inputs: of the node.
            baked: whether its second input is a constant of the file.
        """
        for name in node.inputs:
            if name in self.before:
                self.before.update(dict.fromkeys(filter(None, node.outputs), self.before[name]))
        if node.kind == "Concat":
            return _alike(node, inputs)
        if node.kind == "Reshape" and node.outputs[0] in self.shapes and inputs[0] is not None:
            self.before.pop(node.outputs[0], None)
            wanted = self._reshaped(node, inputs[0].shape)
            return inputs if wanted is None or not baked else (inputs[0], np.array(wanted))
        return inputs

    def _reshaped(self, node: Node, now: Shape) -> Shape | None:
        """What an input of the shape `now` is to become; None if that cannot be told."""
        before, after = self.shapes[node.inputs[0]], self.shapes[node.outputs[0]]
        axes = [axis for axis, (new, old) in enumerate(zip(now, before, strict=True)) if new != old]
        if len(axes) != 1 or not before[axes[0]] or now[axes[0]] % before[axes[0]]:
            return None
        (axis,) = axes
        # Numbers stay in order, so the batch still has as many before it.
        ahead = math.prod(before[:axis]) * self.before.get(node.inputs[0], 1)
        place = _place(before[axis + 1 :], after, ahead, self.own)
        if place is None:
            return None
        at, inside = place
        if inside > 1:
            self.before[node.outputs[0]] = inside
        return (*after[:at], after[at] * (now[axis] // before[axis]), *after[at + 1 :])


def _place(rest: Shape, after: Shape, ahead: int, own: int) -> tuple[int, int] | None:
    """The axis of a result that holds the batch, and how many numbers of that axis are before it.

    Args:
        rest: the axes after the batch's before.
        after: the shape of the result.
        ahead: how many numbers are before the batch.
        own: size of the file's own batch.
    """
    sizes = [math.prod(after[:axis]) for axis in range(len(after) + 1)]
    places = [axis for axis in range(len(after)) if sizes[axis] == ahead]
    if alone := [axis for axis in places if after[axis] == own]:
        return alone[0], 1
    for axis in range(len(after)):
        if sizes[axis] < ahead < sizes[axis + 1]:
            return (axis, ahead // sizes[axis]) if ahead % sizes[axis] == 0 else None
    if not places:
        return None
    # Between two axes it is merged into either: to the right only where that axis is split, as into heads.
    (axis, *_) = places
    left = axis > 0 and (axis == len(after) - 1 or after[axis:] == rest)
    return (axis - 1, after[axis - 1]) if left else (axis, 1)


def _alike(node: Node, inputs: Sequence[Held | None]) -> Sequence[Held | None]:
    """Arrays to concatenate: one without a batch, such as a class token, is repeated for each image."""
    there = [one for one in inputs if one is not None]
    if len({one.ndim for one in there}) != 1:
        return inputs
    rank = there[0].ndim
    along = int(node.get("axis", 1)) % max(rank, 1)
    sides = [max(one.shape[axis] for one in there) for axis in range(rank)]

    def fits(one: Held) -> bool:
        return all(axis == along or side == sides[axis] for axis, side in enumerate(one.shape))

    def repeated(one: Held) -> Held:
        shape = tuple(side if axis == along else sides[axis] for axis, side in enumerate(one.shape))
        return library(first(one)).broadcast_to(first(one), shape)

    return [one if fits(one) else repeated(one) for one in there]
