"""Figure 7: slide a square over the image and evaluate a function at each position."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PyTree, Shaped

from zfjax.console.deprecation import renamed_arguments
from zfjax.console.text import shown_by_shape
from zfjax.models import ConvNet, incremental, layers
from zfjax.models.cut import Layer, Layers
from zfjax.models.incremental import Rectangles
from zfjax.models.specs import Size
from zfjax.ops.arguments import filling, floats
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions


@shown_by_shape
class Occlusion(NamedTuple):
    """A function's outputs for an image with an occluder at every position of a grid."""

    outputs: PyTree[Float[np.ndarray, "rows columns ..."]]
    clean: PyTree[Float[np.ndarray, "..."]]  # without the occluder
    tops: Int[np.ndarray, " rows"]  # the occluder's first row, in pixels
    lefts: Int[np.ndarray, " columns"]
    window: Pair  # its height and width


@renamed_arguments(stride="strides")
def occlusion(
    fun: Callable[[Array], PyTree[Float[Array, "n ..."]]],
    image: Float[Array | np.ndarray, "height width channels"],
    window: int | Pair,
    strides: int | Pair,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    *,
    then: Callable[[PyTree], PyTree] | None = None,
    batch_size: int = 64,
) -> Occlusion:
    """Cover an image with a rectangle at every position of a grid, and evaluate a function on each result.

    For functions from `zfjax.layer` or `zfjax.models.layers`, the image goes through the net once, and each position
    recomputes only what the rectangle changes; any other function is evaluated on whole images, in batches. The results
    are the same up to rounding.

    Args:
        fun: from images [n, H, W, C] to an array with n rows, or a pytree of them.
        image: [H, W, C] as `fun` takes it, with the mean already subtracted; need not be square.
        window: size of the rectangle in pixels, one number or (height, width).
        strides: pixels between positions, one number or (down, across). The last row and column of positions lie flush
            with the border, so that every pixel gets covered if the strides are at most the window.
        fill: what to cover with: a number, a color [C], or a picture like the image. 0 is the mean.
        then: a jittable function, applied on the device to each batch of outputs, for outputs too large to keep; must
            keep the first axis.
        batch_size: positions per pass; bounds the memory.

    Returns:
        An Occlusion with `outputs` [rows, columns, ...]: those of `fun`, or of `then`, without the first axis.

    Raises:
        TypeError: the image is not a single array of floating-point numbers.
        ValueError: image, window, strides or fill has the wrong shape or size.

    Paper: section 4.2 and figure 7.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> image = jax.random.normal(jax.random.key(0), (64, 64, 3))
    >>> variables = net.init(jax.random.key(1), image[None])
    >>> zfjax.occlusion(zfjax.layer(net, variables, "fc8"), image, window=16, strides=8).outputs.shape
    (7, 7, 10)
    """
    image = floats("image", image)
    window, strides = pair("window", window), pair("strides", strides)
    cover = _checked(image, window, fill)
    grid = _grid((image.shape[0], image.shape[1]), window, strides, batch_size)
    fun, last = functions.live(fun), functions.live(then or Partial(_Itself()), name="then")
    # First, since this also checks that `fun` accepts the image.
    clean = jax.tree.map(lambda leaf: np.asarray(leaf[0]), _outputs(fun, last, image[None]))
    sweep = _recomputed if _is_listable(fun) else _plain
    outputs = sweep(fun, last, image, cover, grid.chunks)
    return Occlusion(jax.tree.map(grid.in_order, *outputs), clean, grid.tops, grid.lefts, window)


@shown_by_shape
class Sensitivity(NamedTuple):
    """One image of Fig. 7: what the net loses with the occluder at each position."""

    unit: int  # the map with the largest total activation on the whole image
    activation: Float[np.ndarray, "rows columns"]  # of that map, summed over its cells (Fig. 7b)
    probability: Float[np.ndarray, "rows columns"]  # of the true class (Fig. 7d)
    most_probable: Int[np.ndarray, "rows columns"]  # class (Fig. 7e)
    clean_activation: float
    clean_probability: float
    tops: Int[np.ndarray, " rows"]  # the occluder's first row, in pixels
    lefts: Int[np.ndarray, " columns"]
    window: Pair  # its height and width


@renamed_arguments(stride="strides")
def sensitivity(
    net: ConvNet,
    variables: PyTree,
    image: Float[Array | np.ndarray, "size size channels"],
    label: int,
    window: int | Pair,
    strides: int | Pair,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    *,
    layer: str = "relu5",
    batch_size: int = 64,
) -> Sensitivity:
    """Fig. 7 for one image, in one sweep: a map of `layer`, the true class and the most probable class.

    Args:
        net: a classifier, such as `zfjax.zfnet(1000)`.
        variables: its variables.
        image: [H, W, C] with the mean already subtracted.
        label: the true class.
        window: as in `occlusion`.
        strides: as in `occlusion`.
        fill: as in `occlusion`.
        layer: the highest convolutional layer.
        batch_size: as in `occlusion`.

    Raises:
        ValueError: as in `occlusion`, or the label is not a class of the net.

    Paper: section 4.2 and figure 7.
    """
    top = net.layers[-1].name
    fun = layers(net, variables, [layer, top])
    classes = jax.eval_shape(fun, jnp.asarray(image)[None])[top].shape[1]
    if not 0 <= label < classes:
        raise ValueError(f"label: expected one of the net's {classes} classes, got {label}")
    # For all maps, since which one is wanted is known only after the pass over the clean image.
    summary = Partial(_Summary(layer, top), jnp.asarray(label))
    found = occlusion(fun, image, window, strides, fill, then=summary, batch_size=batch_size)
    activations, probability, most_probable = found.outputs
    clean_activations, clean_probability, _ = found.clean
    unit = int(np.argmax(clean_activations))
    return Sensitivity(
        unit,
        activations[..., unit],
        probability,
        most_probable,
        float(clean_activations[unit]),
        float(clean_probability),
        found.tops,
        found.lefts,
        found.window,
    )


def covered_share(
    found: Occlusion | Sensitivity, mask: Bool[np.ndarray, "height width"]
) -> Float[np.ndarray, "rows columns"]:
    """The share of an object that the occluder covers at each position.

    Args:
        found: holds the positions.
        mask: the object's pixels.

    Raises:
        ValueError: the mask is empty.
    """
    if not mask.any():
        raise ValueError("mask: expected some pixels of an object, got none")
    sums = np.pad(np.cumsum(np.cumsum(mask, axis=0), axis=1), ((1, 0), (1, 0)))
    tops, lefts = found.tops, found.lefts
    bottoms, rights = tops + found.window[0], lefts + found.window[1]
    inside = sums[bottoms][:, rights] - sums[tops][:, rights] - sums[bottoms][:, lefts] + sums[tops][:, lefts]
    return inside / mask.sum()


@shown_by_shape
class Hiding(NamedTuple):
    """How the probability of an image's class depends on how much of the object is hidden."""

    least: float  # mean probability over the third of all positions that hide the least
    most: float  # over the third that hide the most
    lowest: bool  # whether the position with the lowest probability hides some of the object
    chance: float  # share of all positions that hide some of it


def hiding(found: Sensitivity, mask: Bool[np.ndarray, "height width"]) -> Hiding:
    """Score Fig. 7d of one image against the object's pixels; arguments as in `covered_share`."""
    share, probability = covered_share(found, mask).ravel(), found.probability.ravel()
    # Many positions hide nothing at all: break ties at random, so that no region is favored.
    order = np.lexsort((np.random.default_rng(0).random(len(share)), share))
    third = max(1, len(share) // 3)
    return Hiding(
        float(probability[order[:third]].mean()),
        float(probability[order[-third:]].mean()),
        bool(share[np.argmin(probability)] > 0),
        float((share > 0).mean()),
    )


@dataclasses.dataclass(frozen=True)
class _Summary(functions.Fixed):
    """What Fig. 7 keeps of a batch's outputs."""

    layer: str
    top: str

    def __call__(self, label: Array, acts: dict[str, Array]) -> tuple[Array, Array, Array]:
        logits = acts[self.top].astype(jnp.float32)
        return (
            acts[self.layer].astype(jnp.float32).sum(axis=(1, 2)),
            jnp.take(jax.nn.softmax(logits), label, axis=1),
            jnp.argmax(logits, axis=1),
        )


def _recomputed(
    fun: Any, then: Callable, image: Array, cover: Array, chunks: list[Rectangles]
) -> list[PyTree[np.ndarray]]:
    """Sweep by one clean pass, then recompute only what changes."""
    cut, (variables,) = fun.func, fun.args
    assert isinstance(cut, Layer | Layers)  # checked by `_is_listable`
    names = cut.names if isinstance(cut, Layers) else (cut.name,)
    plan, changed = incremental.plan(cut.net, names, Size(*image.shape), chunks)
    clean = _clean(plan, variables, image)
    cover = cover.astype(cut.net.dtype)

    def outputs(chunk: tuple[Rectangles, ...]) -> PyTree:
        found = incremental.recompute(plan, variables["params"], clean, cover, incremental.reads(plan, chunk))
        return _call(then, found if isinstance(cut, Layers) else found[names[0]])

    return _fetched(map(outputs, changed))


@functools.partial(jax.jit, static_argnames="plan")
def _clean(plan: incremental.Plan, variables: PyTree, image: Array) -> list[Array]:
    """The image, and the output of each layer whose changed cells are listed."""
    _, acts = plan.net.clone(layers=plan.listed).apply(variables, image[None])
    maps = [image.astype(plan.net.dtype)]
    for layer in plan.listed:
        maps.append(acts[layer.name][0] if layer.name in acts else maps[-1])
    return maps


def _plain(
    fun: Callable, then: Callable, image: Array, cover: Array, chunks: list[Rectangles]
) -> list[PyTree[np.ndarray]]:
    """Sweep over whole images, in batches."""
    return _fetched(_outputs(fun, then, _covered(image, cover, chunk)) for chunk in chunks)


def _fetched(batches: Iterable[PyTree]) -> list[PyTree[np.ndarray]]:
    """Fetch outputs to the host, each while the next is being computed, so that the device does not wait."""
    found: list[PyTree] = []
    waiting: list[PyTree] = []
    for batch in batches:
        found += jax.device_get(waiting)
        waiting = [batch]
    return found + jax.device_get(waiting)


@functions.jit
def _outputs(fun: Callable, then: Callable, images: Array) -> PyTree:
    return then(fun(images))


@jax.jit
def _covered(image: Array, cover: Array, places: Rectangles) -> Array:
    row = jnp.arange(image.shape[0])[None, :, None, None] - places.top.reshape(-1, 1, 1, 1)
    column = jnp.arange(image.shape[1])[None, None, :, None] - places.left.reshape(-1, 1, 1, 1)
    inside = (row >= 0) & (row < places.height.reshape(-1, 1, 1, 1))
    inside &= (column >= 0) & (column < places.width.reshape(-1, 1, 1, 1))
    return jnp.where(inside, cover[None], image[None])


@functions.jit
def _call(then: Callable, outputs: PyTree) -> PyTree:
    return then(outputs)


@dataclasses.dataclass(frozen=True)
class _Itself(functions.Fixed):
    def __call__(self, outputs: PyTree) -> PyTree:
        return outputs


def _is_listable(fun: Callable) -> bool:
    """Whether the layers of `fun` are known and their changed cells can be listed, as for nets like the paper's."""
    return isinstance(fun, Partial) and isinstance(fun.func, Layer | Layers) and incremental.is_listable(fun.func.net)


class _Grid(NamedTuple):
    """The occluder's positions, visited in shuffled chunks so that each has its share of the border."""

    tops: Int[np.ndarray, " rows"]
    lefts: Int[np.ndarray, " columns"]
    order: Int[np.ndarray, " positions"]
    chunks: list[Rectangles]  # the last one is padded with positions from the start

    def in_order(self, *parts: np.ndarray) -> Shaped[np.ndarray, "rows columns ..."]:
        """The chunks' outputs put back where their positions are."""
        found = np.concatenate(parts)[: len(self.order)]
        whole = np.empty_like(found)
        whole[self.order] = found
        return whole.reshape(len(self.tops), len(self.lefts), *found.shape[1:])


def _grid(image: Pair, window: Pair, strides: Pair, batch_size: int) -> _Grid:
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
    tops, lefts = (_positions(*axis) for axis in zip(image, window, strides, strict=True))
    count = len(tops) * len(lefts)
    order = np.random.default_rng(0).permutation(count)
    size = -(-count // -(-count // batch_size))
    one = np.ones(size, np.int32)
    chunks = [
        Rectangles(tops[chunk // len(lefts)], lefts[chunk % len(lefts)], window[0] * one, window[1] * one)
        for chunk in np.resize(order, (-(-count // size), size))
    ]
    return _Grid(tops, lefts, order, chunks)


def _positions(length: int, window: int, stride: int) -> Int[np.ndarray, " positions"]:
    """First pixels of the window along one axis; the last lies flush with the end."""
    starts = np.arange(0, length - window + 1, stride, dtype=np.int32)
    last = length - window
    return starts if starts[-1] == last else np.append(starts, np.int32(last))


def _checked(image: Array, window: Pair, fill: float | Array | np.ndarray) -> Array:
    """Check the arguments and return the covering picture."""
    if image.ndim != 3:
        raise ValueError(f"image: expected [H, W, C], got {list(image.shape)}")
    if window[0] > image.shape[0] or window[1] > image.shape[1]:
        raise ValueError(
            f"window: expected at most the image's {image.shape[0]}×{image.shape[1]} px, got {window[0]}×{window[1]}"
        )
    return filling("fill", fill, image, (1, 3))
