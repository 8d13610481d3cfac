"""The layers of a net as data: the size of each one's output, its windows, weights and cost.

A net is a tuple of these. Names are Caffe's: conv1 relu1 pool1 norm1 … fc8. Spatial pairs are (height, width). A new
kind of layer needs a class here, which answers all questions about it, and what it computes in `ConvNet._apply`.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import ClassVar, NamedTuple, cast

from zfjax.ops.windows import Padding, Pair, window_count

NO_PADDING: Padding = ((0, 0), (0, 0))


class Size(NamedTuple):
    """Height, width and maps of one layer's output."""

    height: int
    width: int
    maps: int


class Sliding(NamedTuple):
    """How a layer's windows slide over its input."""

    window: Pair
    strides: Pair
    padding: Padding

    def positions(self, name: str, below: Size) -> Pair:
        """How many windows there are along height and width.

        Args:
            name: the layer's, for the message.
            below: the size of its input.

        Raises:
            ImageTooSmall: no window fits.
        """
        padded = (below.height + sum(self.padding[0]), below.width + sum(self.padding[1]))
        if padded[0] < self.window[0] or padded[1] < self.window[1]:
            raise ImageTooSmall(
                f"{name}: its {self.window[0]}×{self.window[1]} window does not fit an input of"
                f" {below.height}×{below.width} (with padding {padded[0]}×{padded[1]})"
            )
        return (
            window_count(below.height, self.window[0], self.strides[0], self.padding[0]),
            window_count(below.width, self.window[1], self.strides[1], self.padding[1]),
        )


class ImageTooSmall(ValueError):
    """No window of a layer fits its input."""


@dataclasses.dataclass(frozen=True)
class Spec:
    """What can be asked of any layer; these answers are for one that keeps the size and has no weights or windows."""

    name: str
    mixes_all: ClassVar[bool] = False  # each output sees all of the input
    padding_value: ClassVar[float] = 0.0  # what its windows see outside of the input

    def output(self, below: Size) -> Size:
        """The size of its output for an input of size `below`. Raises `ImageTooSmall` if no window fits."""
        return below

    def sliding(self, below: Size) -> Sliding | None:
        """How its windows slide over an input of size `below`; None if it has none."""
        return None

    def unpadded(self) -> "Layer":
        """The same layer without padding."""
        return cast("Layer", self)

    def parameters(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """The shapes of its weights by name, for an input of size `below`."""
        return {}

    def statistics(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """The shapes of its running averages over batches, by name."""
        return {}

    def multiply_adds(self, below: Size) -> int:
        """Multiply-adds for one image."""
        return 0


@dataclasses.dataclass(frozen=True)
class Conv(Spec):
    """A convolution; kernel [kh, kw, in / groups, features]."""

    features: int
    kernel: Pair
    strides: Pair = (1, 1)
    padding: Padding = NO_PADDING
    groups: int = 1
    bias: bool = True

    def output(self, below: Size) -> Size:
        """As many maps as it has features."""
        return Size(*self.sliding(below).positions(self.name, below), self.features)

    def sliding(self, below: Size) -> Sliding:
        """Its kernel's windows."""
        return Sliding(self.kernel, self.strides, self.padding)

    def unpadded(self) -> "Conv":
        """The same convolution of the input alone."""
        return dataclasses.replace(self, padding=NO_PADDING)

    def parameters(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """The kernel and, where there is one, the bias."""
        kernel = {"kernel": (*self.kernel, below.maps // self.groups, self.features)}
        return kernel | ({"bias": (self.features,)} if self.bias else {})

    def multiply_adds(self, below: Size) -> int:
        """One per weight of the kernel at each position."""
        out = self.output(below)
        return self.kernel[0] * self.kernel[1] * (below.maps // self.groups) * self.features * out.height * out.width


@dataclasses.dataclass(frozen=True)
class ReLU(Spec):
    """max(x, 0)."""


@dataclasses.dataclass(frozen=True)
class MaxPool(Spec):
    """Max-pooling; windows may overlap.

    With `ceil`, windows may hang over the bottom and right edge as in Caffe: 110 -> 55 for a 3×3 window of stride 2.
    PyTorch's `padding=1` gives the same sizes with windows one row and column higher.
    """

    window: Pair
    strides: Pair
    padding: Padding = NO_PADDING
    ceil: bool = False
    padding_value: ClassVar[float] = -math.inf

    def output(self, below: Size) -> Size:
        """As many maps as below."""
        return Size(*self.sliding(below).positions(self.name, below), below.maps)

    def sliding(self, below: Size) -> Sliding:
        """Its windows, with the padding that ceil mode adds to cover a map of this size."""
        height = _ceil_padding(below.height, self.window[0], self.strides[0], self.padding[0], self.ceil)
        width = _ceil_padding(below.width, self.window[1], self.strides[1], self.padding[1], self.ceil)
        return Sliding(self.window, self.strides, (height, width))

    def unpadded(self) -> "MaxPool":
        """The same windows, none of which hangs over an edge."""
        return dataclasses.replace(self, padding=NO_PADDING, ceil=False)


@dataclasses.dataclass(frozen=True)
class PooledConv(Spec):
    """A convolution and the pool above it, as one layer that adds the bias after the pool, where maps are smaller."""

    conv: Conv
    pool: MaxPool

    def output(self, below: Size) -> Size:
        """The pool's."""
        return self.pool.output(self.conv.output(below))

    def parameters(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """The convolution's."""
        return self.conv.parameters(below)

    def multiply_adds(self, below: Size) -> int:
        """The convolution's."""
        return self.conv.multiply_adds(below)


@dataclasses.dataclass(frozen=True)
class LRN(Spec):
    """Contrast normalization across maps, with Krizhevsky's constants."""

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75


@dataclasses.dataclass(frozen=True)
class Dropout(Spec):
    """Zeroes a share `rate` of the units while training, and scales the rest by 1 / (1 - rate)."""

    rate: float = 0.5


@dataclasses.dataclass(frozen=True)
class Dense(Spec):
    """Fully connected; a map is flattened in (height, width, channel) order."""

    features: int
    mixes_all: ClassVar[bool] = True

    def output(self, below: Size) -> Size:
        """One unit per feature."""
        return Size(1, 1, self.features)

    def parameters(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """Kernel and bias."""
        return {"kernel": (below.height * below.width * below.maps, self.features), "bias": (self.features,)}

    def multiply_adds(self, below: Size) -> int:
        """One per weight of the kernel."""
        return below.height * below.width * below.maps * self.features


@dataclasses.dataclass(frozen=True)
class BatchNorm(Spec):
    """Normalizes each map by the batch's mean and variance while training, else by their running averages."""

    epsilon: float = 1e-5
    momentum: float = 0.9  # share of the running averages that a step keeps

    def parameters(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """A scale and a bias per map."""
        return {"scale": (below.maps,), "bias": (below.maps,)}

    def statistics(self, below: Size) -> Mapping[str, tuple[int, ...]]:
        """Running mean and variance of each map."""
        return {"mean": (below.maps,), "var": (below.maps,)}


@dataclasses.dataclass(frozen=True)
class MeanPool(Spec):
    """The mean of each map."""

    mixes_all: ClassVar[bool] = True

    def output(self, below: Size) -> Size:
        """One unit per map."""
        return Size(1, 1, below.maps)


@dataclasses.dataclass(frozen=True)
class Residual(Spec):
    """max(body(x) + shortcut(x), 0), a block of He et al. (2015); a shortcut without layers is x itself.

    To the net it is one layer. The weights of the layers inside are stored next to all others, under their own names.
    """

    body: "tuple[Layer, ...]"
    shortcut: "tuple[Layer, ...]" = ()

    def output(self, below: Size) -> Size:
        """The body's."""
        for inner in self.body:
            below = inner.output(below)
        return below

    def multiply_adds(self, below: Size) -> int:
        """Those of the layers inside."""
        return sum(inner.multiply_adds(size) for inner, size in weighted([self], below))


Layer = Conv | ReLU | MaxPool | PooledConv | LRN | Dropout | Dense | BatchNorm | MeanPool | Residual


def flat(layers: Iterable[Layer]) -> Iterator[Layer]:
    """All layers, with those inside blocks in place of the blocks."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from flat(layer.body)
            yield from flat(layer.shortcut)
        else:
            yield layer


def weighted(layers: Iterable[Layer], below: Size) -> Iterator[tuple[Layer, Size]]:
    """The layers that have weights, including those inside blocks, each with the size of its input."""
    for layer in layers:
        if isinstance(layer, Residual):
            yield from weighted(layer.body, below)
            yield from weighted(layer.shortcut, below)
        elif layer.parameters(below):
            yield layer, below
        below = layer.output(below)


def same(amount: int) -> Padding:
    """The same padding on all four sides."""
    return ((amount, amount), (amount, amount))


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
