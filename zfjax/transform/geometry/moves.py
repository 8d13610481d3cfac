"""Where each primitive moves the positions of its inputs: one small rule per primitive.

A rule gets the positions of one input alone, which lie along an axis of it; those of all inputs are united afterwards.
"""

import itertools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from zfjax.transform.geometry.along import NOTHING, WHOLE, Along, arranged, everywhere, padded, reshaped, windows

Shape = tuple[int, ...]


class Step(NamedTuple):
    """One input of an equation, and one output.

    Attributes:
        params: of the equation.
        shapes: of all inputs.
        known: the array that an input is, by its number, if it follows from constants alone; else None.
        input: its number.
        output: its number.
        shape: of the output.
    """

    params: Mapping[str, Any]
    shapes: tuple[Shape, ...]
    known: Callable[[int], np.ndarray | None]
    input: int
    output: int
    shape: Shape


Rule = Callable[[Step, Along], Along]


def moved(kind: str, step: Step, along: Along) -> Along:
    """What an output of an equation gets from one of its inputs.

    Args:
        kind: the name of the primitive. One without a rule may mix all; its axes are taken to stay where they are if
            the output has their size there.
        step: the input and the output.
        along: of the input.
    """
    if along.axis is None:
        return along  # nothing that is made of it can depend on more
    return _RULES.get(kind, _unknown)(step, along)


def _same(step: Step, along: Along) -> Along:
    return along


def _unknown(step: Step, along: Along) -> Along:
    assert along.axis is not None
    return everywhere(along) if step.shape[along.axis : along.axis + 1] == (len(along.first),) else WHOLE


def _first_input(rule: Callable[[Step, Along, int], Along]) -> Rule:
    """A rule for the first input and the axis along which it changes; positions in others, such as indices, mix."""

    def of_first(step: Step, along: Along) -> Along:
        assert along.axis is not None
        return rule(step, along, along.axis) if step.input == 0 else WHOLE

    return of_first


def _reduction(parameter: str) -> Rule:
    """Over some axes, which are gone."""

    def reduce(step: Step, along: Along) -> Along:
        assert along.axis is not None
        axes = step.params[parameter]
        return WHOLE if along.axis in axes else along.at(_without(along.axis, axes))

    return reduce


def _along_one(parameter: str) -> Rule:
    """Mixes all along one axis, the last if its parameter is missing."""

    def mix(step: Step, along: Along) -> Along:
        return _unknown(step, along) if along.axis == step.params.get(parameter, len(step.shape) - 1) else along

    return mix


def _one_to_one(step: Step, along: Along) -> Along:
    return along if step.input == step.output else NOTHING


@_first_input
def _broadcast(step: Step, along: Along, axis: int) -> Along:
    there = step.params["broadcast_dimensions"][axis]
    return along.at(there if step.shape[there] == len(along.first) else None)


@_first_input
def _transpose(step: Step, along: Along, axis: int) -> Along:
    return along.at(step.params["permutation"].index(axis))


@_first_input
def _squeeze(step: Step, along: Along, axis: int) -> Along:
    gone = step.params["dimensions"]
    return along.at(None if axis in gone else _without(axis, gone))


@_first_input
def _reshape(step: Step, along: Along, axis: int) -> Along:
    return reshaped(along, step.shapes[0], step.shape) if step.params["dimensions"] is None else WHOLE


@_first_input
def _rev(step: Step, along: Along, axis: int) -> Along:
    return along.taken(slice(None, None, -1), axis, -1) if axis in step.params["dimensions"] else along


@_first_input
def _slice(step: Step, along: Along, axis: int) -> Along:
    start, limit = step.params["start_indices"][axis], step.params["limit_indices"][axis]
    stride = step.params["strides"][axis] if step.params["strides"] else 1
    return along.taken(slice(start, limit, stride), axis, stride)


@_first_input
def _pad(step: Step, along: Along, axis: int) -> Along:
    low, high, interior = step.params["padding_config"][axis]
    return padded(along, axis, (low, high), interior + 1)


@_first_input
def _tile(step: Step, along: Along, axis: int) -> Along:
    count = step.params["reps"][axis]
    return Along(axis, np.tile(along.first, count), np.tile(along.last, count), along.stride)


@_first_input
def _split(step: Step, along: Along, axis: int) -> Along:
    if axis != step.params["axis"]:
        return along
    ends = list(itertools.accumulate(step.params["sizes"], initial=0))
    return along.taken(slice(ends[step.output], ends[step.output + 1]), axis)


@_first_input
def _unstack(step: Step, along: Along, axis: int) -> Along:
    gone = step.params["axis"]
    if axis == gone:
        return along.taken(slice(step.output, step.output + 1), None)
    return along.at(_without(axis, (gone,)))


def _stack(step: Step, along: Along) -> Along:
    assert along.axis is not None
    return along.at(along.axis + (along.axis >= step.params["axis"]))


def _concatenate(step: Step, along: Along) -> Along:
    """Each input is empty where the others stand, which are united with it."""
    axis = step.params["dimension"]
    if along.axis != axis:
        return along
    sizes = [shape[axis] for shape in step.shapes]
    first, last = np.full(sum(sizes), np.inf), np.full(sum(sizes), -np.inf)
    start = sum(sizes[: step.input])
    first[start : start + len(along.first)] = along.first
    last[start : start + len(along.last)] = along.last
    return Along(axis, first, last, along.stride)


@_first_input
def _dynamic_slice(step: Step, along: Along, axis: int) -> Along:
    size = step.params["slice_sizes"][axis]
    spare = len(along.first) - size
    known = step.known(1 + axis) if spare else np.array(0)
    if known is None:
        return WHOLE
    start = int(known.clip(0, spare))
    return along.taken(slice(start, start + size), axis)


def _dynamic_update_slice(step: Step, along: Along) -> Along:
    """Both, where the update goes all along the axis; what it replaces counts too."""
    if step.input > 1:
        return WHOLE
    assert along.axis is not None
    operand, update = step.shapes[:2]
    return along if operand[along.axis] == update[along.axis] or step.input == 0 else WHOLE


@_first_input
def _gather(step: Step, along: Along, axis: int) -> Along:
    numbers, size = step.params["dimension_numbers"], step.params["slice_sizes"][axis]
    indexed = [each for each in range(len(step.shape)) if each not in numbers.offset_dims]
    if axis in numbers.operand_batching_dims:
        return along.at(indexed[numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(axis)]])
    if axis in numbers.start_index_map and size < len(along.first):
        starts = step.known(1) if size == 1 else None
        if starts is None:
            return WHOLE
        cells = starts[..., numbers.start_index_map.index(axis)].clip(0, len(along.first) - 1)
        return arranged(along.first[cells], along.last[cells], [along.stride] * cells.ndim, indexed)
    if axis in numbers.collapsed_slice_dims:
        return along.at(None)
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    return along.taken(slice(size), numbers.offset_dims[_without(axis, gone)])


def _reduce_window(step: Step, along: Along) -> Along:
    """Of several inputs too, each of which comes with the value of cells of padding, which is a scalar."""
    axis, params = along.axis, step.params
    assert axis is not None
    spread = padded(along, axis, params["padding"][axis], params["base_dilation"][axis])
    size, stride = params["window_dimensions"][axis], params["window_strides"][axis]
    return windows(spread, axis, size, stride, params["window_dilation"][axis])


@_first_input
def _convolution(step: Step, along: Along, axis: int) -> Along:
    params = step.params
    lhs, rhs, out = params["dimension_numbers"]
    place = lhs.index(axis)
    if place == 0 and params["batch_group_count"] == 1:
        return along.at(out[0])
    if place < 2:
        return WHOLE
    spatial, size = place - 2, step.shapes[1][rhs[place]]
    spread = padded(along, axis, params["padding"][spatial], params["lhs_dilation"][spatial])
    seen = windows(spread, axis, size, params["window_strides"][spatial], params["rhs_dilation"][spatial])
    return seen.at(out[place])


def _dot(step: Step, along: Along) -> Along:
    contracted, batched = step.params["dimension_numbers"]
    axis, number = along.axis, step.input
    assert axis is not None
    if number > 1:
        return WHOLE
    if axis in contracted[number]:
        return _through_matrix(step, along)
    if axis in batched[number]:
        return along.at(tuple(batched[number]).index(axis))
    before = len(batched[0]) if number == 0 else len(step.shapes[0]) - len(contracted[0])
    return along.at(before + _without(axis, (*contracted[number], *batched[number])))


def _through_matrix(step: Step, along: Along) -> Along:
    """A known band of numbers in place of weights, as for resizing, by which each result sees a part of the cells."""
    other = 1 - step.input
    contracted, batched = (sides[other] for sides in step.params["dimension_numbers"])
    matrix = step.known(other) if (len(step.shapes[other]), len(contracted), len(batched)) == (2, 1, 0) else None
    if matrix is None:
        return WHOLE
    seen = np.moveaxis(matrix != 0, contracted[0], 0)
    first = np.where(seen, along.first[:, None], np.inf).min(0)
    last = np.where(seen, along.last[:, None], -np.inf).max(0)
    steps = np.diff([first, last]) if np.isfinite([first, last]).all() else np.array([-1])
    if (steps < 0).any() or not steps.any():
        return WHOLE
    axis = len(step.shape) - 1 if step.input == 0 else 0
    return arranged(first, last, [np.nan], [axis])


def _without(axis: int, gone: tuple[int, ...]) -> int:
    """The number of an axis after others are gone."""
    return axis - sum(other < axis for other in gone)


_ELEMENTWISE = (
    *("abs", "acos", "acosh", "add", "add_any", "add_jaxvals", "and", "asin", "asinh", "atan", "atan2", "atanh"),
    *("bessel_i0e", "bessel_i1e", "cbrt", "ceil", "clamp", "clz", "complex", "conj", "convert_element_type", "copy"),
    *("copy_p", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp", "exp2", "expm1", "floor"),
    *("ge", "gt", "igamma", "igammac", "imag", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p", "log2"),
    *("logistic", "lt", "max", "mesh_cast", "min", "mul", "name", "ne", "neg", "nextafter", "not"),
    *("one_minus_square", "or", "pcast", "polygamma", "polynomial", "population_count", "pow", "pvary", "real"),
    *("reduce_precision", "regularized_incomplete_beta", "rem", "reshard", "round", "rsqrt", "select_n"),
    *("sharding_constraint", "shift_left", "shift_right_arithmetic", "shift_right_logical", "sign", "sin", "sinh"),
    *("sqrt", "square", "stop_gradient", "sub", "tan", "tanh", "xor", "zeta"),
)
_REDUCTIONS = ("argmax", "argmin", "reduce_and", "reduce_max", "reduce_min", "reduce_or", "reduce_prod", "reduce_sum")
_WINDOWS = ("reduce_window", "reduce_window_max", "reduce_window_min", "reduce_window_sum")
_CUMULATIVE = ("cumlogsumexp", "cummax", "cummin", "cumprod", "cumsum")

_RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, _same),
    **dict.fromkeys(_REDUCTIONS, _reduction("axes")),
    **dict.fromkeys(_WINDOWS, _reduce_window),
    **dict.fromkeys(_CUMULATIVE, _along_one("axis")),
    **dict.fromkeys(("device_put", "optimization_barrier"), _one_to_one),
    "broadcast_in_dim": _broadcast,
    "concatenate": _concatenate,
    "conv_general_dilated": _convolution,
    "dot_general": _dot,
    "dynamic_slice": _dynamic_slice,
    "dynamic_update_slice": _dynamic_update_slice,
    "gather": _gather,
    "pad": _pad,
    "reduce": _reduction("dimensions"),
    "reduce_xor": _reduction("axes"),
    "reshape": _reshape,
    "rev": _rev,
    "slice": _slice,
    "sort": _along_one("dimension"),
    "split": _split,
    "squeeze": _squeeze,
    "stack": _stack,
    "tile": _tile,
    "top_k": _along_one("axis"),
    "transpose": _transpose,
    "unstack": _unstack,
}
