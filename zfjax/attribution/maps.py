"""A layer's maps, which CAMs weigh: given as they are or by a split, checked, summed and stretched."""

import dataclasses
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from zfjax.attribution.asked import Asked, Fun, Target, asked, check_batch
from zfjax.attribution.targets import OneClass
from zfjax.ops import rectify
from zfjax.ops.arguments import array, floats
from zfjax.ops.precision import widened
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing

Images = Float[Array | np.ndarray, "n ..."]
Features = Float[Array | np.ndarray, "n height width maps"]
Split = tuple[Callable[[Images], Features | Crossing], Callable[[Features | Crossing], Array]]
Cam = Float[Array, "n height width"]


def asked_of_maps(fun: Fun | Split, inputs: Images | Crossing, target: Target, *, has_slope: bool = True) -> Asked:
    """Check as `asked` does, and that the maps have positions; the answer's inputs are the maps.

    Of what crosses a cut, the value at the cut is asked about; what passes it by, as a skip connection does, stays.

    Args:
        fun: features and head, or the head alone.
        inputs: images, or for the head alone what the features made of them.
        target: as in `asked`.
        has_slope: as in `asked`.

    Raises:
        TypeError: as `asked`, or fun is a tuple of other than two functions.
        ValueError: as `asked`, or the features have no positions.
    """
    head, at = _at_cut(fun, inputs)
    if isinstance(at, Crossing):
        head = Partial(_Beside(), functions.live(head, name="head"), at.beside)
        at = at.at
    check_maps("features", at)
    return asked(head, at, target, name="features", has_slope=has_slope)


def is_of_these_images(head: Callable) -> bool:
    """Whether a head from `asked_of_maps` holds what passes the cut by, and so takes all of its images, not some."""
    if isinstance(head, Partial) and isinstance(head.func, OneClass):
        head = head.args[0]
    return isinstance(head, Partial) and isinstance(head.func, _Beside)


def maps_of(fun: Fun | Split, inputs: Images | Crossing) -> Float[Array, "n height width maps"]:
    """The maps alone, where nothing is asked about them. Arguments and errors as in `asked_of_maps`."""
    _, found = _at_cut(fun, inputs)
    maps = found.at if isinstance(found, Crossing) else found
    check_maps("features", maps)
    maps = floats("features", maps)
    check_batch(maps, "features")
    return maps


def in_two(fun: Fun | Split) -> tuple[Callable, Callable] | None:
    """Both functions of a split, from `functions.live`; None for one function.

    Raises:
        TypeError: a tuple of other than two functions.
    """
    if not isinstance(fun, tuple) or callable(fun):
        return None
    if len(fun) != 2:
        raise TypeError(
            f"fun: expected a function, or (features, head) as zfjax.split and model.split return; got {len(fun)}"
        )
    features, head = fun
    return functions.live(features, name="features"), functions.live(head, name="head")


def joined(features: Callable, head: Callable) -> Partial:
    """The whole function of a split; both are from `functions.live`."""
    return Partial(_Joined(), features, head)


def _at_cut(fun: Fun | Split, inputs: Images | Crossing) -> tuple[Callable, Images | Crossing]:
    """The head, and what it takes."""
    parts = in_two(fun)
    if parts is None:
        return cast(Callable, fun), inputs
    images = floats("images", inputs)
    check_batch(images, "images")
    features, head = parts
    return head, features_of(features, images)


@functions.jit
def features_of(features: Callable, images: Array) -> Array | Crossing:
    """What the first function of a split gives, compiled."""
    return features(images)


def check_maps(name: str, maps: Array | np.ndarray) -> None:
    """Raise a ValueError for anything but maps [n, height, width, maps]."""
    shape = array(name, maps).shape
    if len(shape) != 4:
        raise ValueError(
            f"{name}: expected maps [n, height, width, maps], got {list(shape)}; take a layer below the first"
            " dense layer or mean over the map, such as the last convolution's: relu5, relu5_3, stage4"
        )


def weighed(maps: Features, weights: Float[Array, "n maps"]) -> Cam:
    """The positive part of the maps' weighted sum, in float32 or wider."""
    return rectify((widened(maps) * widened(weights)[:, None, None, :]).sum(axis=-1))


def upsample(cam: Float[Array | np.ndarray, "n height width"], size: int | Pair) -> Float[Array, "n H W"]:
    """Stretch maps over whole images, bilinearly; centers are at half pixels, as in PyTorch's align_corners=False.

    The papers do this, though it is not quite where the cells look: in ZFNet at 96 px, the field of relu5's first cell
    is centered at pixel 20, but stretching puts the cell at 9.1.

    Args:
        cam: [n, height, width].
        size: in pixels, one number or (height, width).

    Raises:
        TypeError: cam is not an array.
        ValueError: cam or size has another shape.
    """
    size = pair("size", size)
    cam = array("cam", cam)
    if cam.ndim != 3:
        raise ValueError(f"cam: expected maps [n, height, width], got {list(cam.shape)}")
    return jax.image.resize(cam, (cam.shape[0], *size), "bilinear", antialias=False)


@dataclasses.dataclass(frozen=True)
class _Beside(functions.Fixed):
    """A head as a function of the value at a cut alone."""

    def __call__(self, head: Callable[[Crossing], Array], beside: tuple[Array, ...], at: Array) -> Array:
        return head(Crossing(at, beside))


@dataclasses.dataclass(frozen=True)
class _Joined(functions.Fixed):
    """The whole net, from its two parts."""

    def __call__(self, features: Callable, head: Callable, images: Array) -> Array:
        return head(features(images))
