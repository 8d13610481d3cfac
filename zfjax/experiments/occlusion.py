"""Figure 7: slide a square over the image and evaluate a function at each position."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int, PyTree

from zfjax.attribution import sweeps
from zfjax.console.deprecation import renamed_arguments
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.models import Model
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
    images = floats("image", image)[None]
    last = functions.live(then or Partial(_Itself()), name="then")
    return _occlusions(fun, images, [last], window, strides, fill, batch_size)[0]


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
    model: Model,
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
        model: a classifier, such as `zfjax.open_run(…).val.model`.
        image: [H, W, C] as the model takes it.
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
    labels = np.array([label])
    return sensitivities(
        model, jnp.asarray(image)[None], labels, window, strides, fill, layer=layer, batch_size=batch_size
    )[0]


def sensitivities(
    model: Model,
    images: Float[Array | np.ndarray, "n size size channels"],
    labels: Int[np.ndarray, " n"],
    window: int | Pair,
    strides: int | Pair,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    *,
    layer: str = "relu5",
    batch_size: int = 64,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> list[Sensitivity]:
    """`sensitivity` for several images, whose positions are split over many devices.

    Args:
        model: as in `sensitivity`.
        images: [n, H, W, C] as the model takes them.
        labels: their true classes.
        window: as in `occlusion`.
        strides: as in `occlusion`.
        fill: as in `occlusion`.
        layer: as in `sensitivity`.
        batch_size: positions on a device at a time.
        mesh: the devices, as in `sharding.data_mesh`; default: the device of the images. What is found does not depend
            on how many there are.
        progress: advanced by the number of images.

    Raises:
        ValueError: as in `sensitivity`.
    """
    top = model.result
    fun = model.activations([layer, top])
    classes = jax.eval_shape(fun, jnp.asarray(images)[:1])[top].shape[1]
    for label in labels[(labels < 0) | (labels >= classes)]:
        raise ValueError(f"label: expected one of the net's {classes} classes, got {label}")
    # For all maps, since which one is wanted is known only after the pass over the clean image.
    summaries = [Partial(_Summary(layer, top), jnp.asarray(label)) for label in labels]
    found = _occlusions(fun, floats("image", images), summaries, window, strides, fill, batch_size, mesh, progress)
    return [_sensitivity_of(one) for one in found]


def _sensitivity_of(found: Occlusion) -> Sensitivity:
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
        maps, logits = acts[self.layer], acts[self.top].astype(jnp.float32)
        return (
            maps.astype(jnp.float32).sum(axis=tuple(range(1, maps.ndim - 1))),
            jnp.take(jax.nn.softmax(logits), label, axis=1),
            jnp.argmax(logits, axis=1),
        )


def _occlusions(
    fun: Callable,
    images: Array,
    thens: Sequence[Callable],
    window: int | Pair,
    strides: int | Pair,
    fill: float | Array | np.ndarray,
    batch_size: int,
    mesh: Mesh | None = None,
    progress: Progress | None = None,
) -> list[Occlusion]:
    """`occlusion` of images of one size, with a `then` for each."""
    window, strides = pair("window", window), pair("strides", strides)
    cover = _checked(jax.ShapeDtypeStruct(images.shape[1:], images.dtype), window, fill)
    places = sweeps.grid((images.shape[1], images.shape[2]), window, strides, batch_size)
    clean, outputs = sweeps.swept(fun, images, thens, cover, places, mesh, progress)
    return [
        Occlusion(
            jax.tree.map(lambda leaf, i=i: places.in_order(leaf[i]), outputs),
            jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), clean),
            places.tops,
            places.lefts,
            window,
        )
        for i in range(len(images))
    ]


@dataclasses.dataclass(frozen=True)
class _Itself(functions.Fixed):
    def __call__(self, outputs: PyTree) -> PyTree:
        return outputs


def _checked(image: jax.ShapeDtypeStruct, window: Pair, fill: float | Array | np.ndarray) -> Array:
    """Check the arguments and return the covering picture."""
    if image.ndim != 3:
        raise ValueError(f"image: expected [H, W, C], got {list(image.shape)}")
    sweeps.check_window(window, (image.shape[0], image.shape[1]))
    return filling("fill", fill, image, (1, 3))
