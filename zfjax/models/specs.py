"""The layers a net is made of, as data, and the sizes they give.

A net is a tuple of these. Names are Caffe's: conv1 relu1 pool1 norm1 … fc8. Spatial pairs are (height, width).
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from zfjax.ops.windows import Padding, Pair, window_count

NO_PADDING: Padding = ((0, 0), (0, 0))


class Size(NamedTuple):
    """Height, width and maps of one layer's output."""

    height: int
    width: int
    maps: int


class ImageTooSmall(ValueError):
    """No window of a layer fits its input."""


@dataclasses.dataclass(frozen=True)
class Conv:
    """A convolution; kernel [kh, kw, in / groups, features]."""

    name: str
    features: int
    kernel: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    groups: int = 1
    bias: bool = True


@dataclasses.dataclass(frozen=True)
class ReLU:
    """max(x, 0)."""

    name: str


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Max-pooling, windows may overlap.

    With `ceil`, windows may hang over the bottom and right edge as in Caffe: 110 -> 55 for a 3×3 window of stride 2.
    PyTorch's `padding=1` gives the same sizes with windows one row and column higher.
    """

    name: str
    window: Pair
    strides: Pair
    padding: Padding = NO_PADDING
    ceil: bool = False


@dataclasses.dataclass(frozen=True)
class LRN:
    """Contrast normalisation across maps, with Krizhevsky's constants."""

    name: str
    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Zeroes a share `rate` of the units while training, and scales the rest by 1 / (1 - rate)."""

    name: str
    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Dense:
    """Fully connected; a map is flattened in (height, width, channel) order."""

    name: str
    features: int


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Normalises each map by the batch's mean and variance while training, else by their running averages."""

    name: str
    epsilon: float = 1e-5
    momentum: float = 0.9  # share of the running averages that a step keeps


@dataclasses.dataclass(frozen=True)
class MeanPool:
    """The mean of each map."""

    name: str


@dataclasses.dataclass(frozen=True)
class Residual:
    """max(body(x) + shortcut(x), 0): a block of He et al. (2015); without a shortcut's layers it is x itself.

    To the net it is one layer. The weights of the layers inside stand beside all others, under their own names.
    """

    name: str
    body: "tuple[Layer, ...]"
    shortcut: "tuple[Layer, ...]" = ()


Layer = Conv | ReLU | MaxPool | LRN | Dropout | Dense | BatchNorm | MeanPool | Residual


def flat(layers: Iterable[Layer]) -> Iterator[Layer]:
    """All layers, those inside blocks instead of the blocks."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from flat(layer.body)
            yield from flat(layer.shortcut)
        else:
            yield layer


def same(amount: int) -> Padding:
    """The same padding on all four sides."""
    return ((amount, amount), (amount, amount))


def pool_padding(layer: MaxPool, height: int, width: int) -> Padding:
    """The padding that makes `layer` cover a map of `height` × `width`: its own, and what ceil mode adds."""
    return (
        _ceil_padding(height, layer.window[0], layer.strides[0], layer.padding[0], layer.ceil),
        _ceil_padding(width, layer.window[1], layer.strides[1], layer.padding[1], layer.ceil),
    )


def _ceil_padding(size: int, window: int, stride: int, padding: Pair, ceil: bool) -> Pair:
    before, after = padding
    if not ceil:
        return padding
    padded = size + before + after
    windows = max(-(-(padded - window) // stride), 0) + 1
    # Caffe's clip: a window that starts outside the map and its leading padding has nothing to see.
    if (windows - 1) * stride >= size + before:
        windows -= 1
    return before, after + max((windows - 1) * stride + window - padded, 0)


def output_size(layer: Layer, size: Size) -> Size:
    """The size of `layer`'s output for an input of `size`.

    Raises:
      ImageTooSmall: no window fits, with the layer's name.
    """
    match layer:
        case Conv():
            height, width = _window_counts(layer.name, layer.kernel, layer.strides, layer.padding, size)
            return Size(height, width, layer.features)
        case MaxPool():
            padding = pool_padding(layer, size.height, size.width)
            height, width = _window_counts(layer.name, layer.window, layer.strides, padding, size)
            return Size(height, width, size.maps)
        case Dense():
            return Size(1, 1, layer.features)
        case MeanPool():
            return Size(1, 1, size.maps)
        case Residual():
            for inner in layer.body:
                size = output_size(inner, size)
            return size
        case _:
            return size


def _window_counts(name: str, window: Pair, strides: Pair, padding: Padding, size: Size) -> Pair:
    padded = (size.height + sum(padding[0]), size.width + sum(padding[1]))
    if padded[0] < window[0] or padded[1] < window[1]:
        raise ImageTooSmall(
            f"{name}: its {window[0]}×{window[1]} window does not fit an input of {size.height}×{size.width}"
            f" (with padding {padded[0]}×{padded[1]})"
        )
    return (
        window_count(size.height, window[0], strides[0], padding[0]),
        window_count(size.width, window[1], strides[1], padding[1]),
    )
