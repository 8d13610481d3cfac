"""The layer table: each layer's input, output, cost and receptive field."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from zfjax.console.tables import as_csv, as_markdown
from zfjax.console.text import align
from zfjax.models.convnet import ConvNet
from zfjax.models.specs import Layer, Residual, Size, weighted
from zfjax.ops.windows import Padding, Pair


class Row(NamedTuple):
    """One layer. Sizes are height, width, maps; the field's geometry is (height, width) in input pixels."""

    name: str
    input: Size
    filter: Pair | None  # the window of a convolution or pool
    strides: Pair | None
    padding: Padding | None
    output: Size
    parameters: int
    multiply_adds: int  # per image
    receptive_field: Pair | None  # pixels that one unit sees; None from the first dense layer up
    total_stride: Pair | None  # pixels between neighboring units' fields
    offset: tuple[float, float] | None  # pixel at the center of the first unit's field, the image's first pixel being 0


class _Field(NamedTuple):
    """Receptive field along one axis."""

    size: int = 1
    stride: int = 1
    center: float = 0.0

    def through(self, window: int, stride: int, before: int) -> "_Field":
        return _Field(
            self.size + (window - 1) * self.stride,
            self.stride * stride,
            self.center + ((window - 1) / 2 - before) * self.stride,
        )


def layer_table(net: ConvNet) -> tuple[Row, ...]:
    """One row per layer, bottom first, for square images of `net.image_size` (the numbers of the paper's Fig. 3).

    Example:
        >>> [row.receptive_field for row in layer_table(zfjax.zfnet(1000)) if row.name.startswith("conv")]
        [(7, 7), (27, 27), (75, 75), (107, 107), (139, 139)]
    """
    size = Size(net.image_size, net.image_size, 3)
    fields: tuple[_Field, _Field] | None = (_Field(), _Field())
    rows = []
    for layer in net.layers:
        out = layer.output(size)
        window, strides, padding = layer.sliding(size) or (None, None, None)
        fields = fields and _seen(layer, size, fields)
        shapes = [shape for part, below in weighted([layer], size) for shape in part.parameters(below).values()]
        rows.append(
            Row(
                layer.name,
                size,
                window,
                strides,
                padding,
                out,
                sum(map(math.prod, shapes)),
                layer.multiply_adds(size),
                fields and (fields[0].size, fields[1].size),
                fields and (fields[0].stride, fields[1].stride),
                fields and (fields[0].center, fields[1].center),
            )
        )
        size = out
    return tuple(rows)


def _seen(layer: Layer, size: Size, fields: tuple[_Field, _Field]) -> tuple[_Field, _Field] | None:
    """The receptive fields above `layer`; for a block those of its body, which cover those of its shortcut."""
    if layer.mixes_all:
        return None
    if isinstance(layer, Residual):
        for inner in layer.body:
            fields = _seen(inner, size, fields) or fields
            size = inner.output(size)
        return fields
    sliding = layer.sliding(size)
    if sliding is None:
        return fields
    window, strides, padding = sliding
    return (
        fields[0].through(window[0], strides[0], padding[0][0]),
        fields[1].through(window[1], strides[1], padding[1][0]),
    )


HEADER = (
    "layer",
    "input",
    "filter",
    "stride",
    "padding",
    "output",
    "parameters",
    "multiply-adds",
    "receptive field",
    "total stride",
    "offset",
)


def to_text(rows: Iterable[Row]) -> str:
    """The table in aligned columns, with the sums of parameters and multiply-adds below."""
    rows = tuple(rows)
    return align([HEADER, *(_cells(row, "{:,}") for row in rows), _sums(rows)])


def to_markdown(rows: Iterable[Row]) -> str:
    """The table in Markdown, with the sums below."""
    rows = tuple(rows)
    return as_markdown([HEADER, *(_cells(row, "{:,}") for row in rows), _sums(rows)])


def to_csv(rows: Iterable[Row]) -> str:
    """The table as CSV, without sums and with plain numbers."""
    return as_csv([HEADER, *(_cells(row, "{}") for row in rows)]).rstrip("\n")


def _cells(row: Row, number: str) -> tuple[str, ...]:
    return (
        row.name,
        _by(row.input),
        _by(row.filter),
        _one(row.strides),
        _padding(row.padding),
        _by(row.output),
        number.format(row.parameters),
        number.format(row.multiply_adds),
        _by(row.receptive_field),
        _one(row.total_stride),
        _one(row.offset),
    )


def _sums(rows: tuple[Row, ...]) -> tuple[str, ...]:
    parameters = sum(row.parameters for row in rows)
    multiply_adds = sum(row.multiply_adds for row in rows)
    return ("total", "", "", "", "", "", f"{parameters:,}", f"{multiply_adds:,}", "", "", "")


def _by(sizes: tuple[int, ...] | None) -> str:
    return "×".join(str(size) for size in sizes) if sizes else ""


def _one(pair: tuple[float, float] | None) -> str:
    if pair is None:
        return ""
    return f"{pair[0]:g}" if pair[0] == pair[1] else f"{pair[0]:g}×{pair[1]:g}"


def _padding(padding: Padding | None) -> str:
    if padding is None:
        return ""
    (top, bottom), (left, right) = padding
    if top == bottom == left == right:
        return str(top)
    return f"{top},{bottom}" if (top, bottom) == (left, right) else f"{top},{bottom}×{left},{right}"
