"""Class activation maps: a layer's maps, weighted by how much they matter to a class."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float

from zfjax.attribution.asked import Asked, Fun, Target, asked, scores_and_gradients
from zfjax.attribution.backward import guided_backprop
from zfjax.ops import rectify
from zfjax.ops.arguments import array
from zfjax.ops.precision import widened
from zfjax.ops.windows import Pair, pair
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing

Features = Float[Array | np.ndarray, "n height width maps"]
Cam = Float[Array, "n height width"]


def grad_cam(head: Fun, features: Features | Crossing, target: Target) -> Cam:
    """ReLU(Σ_k α_k A^k), where α_k is the mean over the map of ∂ score / ∂ A^k.

    Features and head are what `zfjax.split(net, variables, name)` or `model.split(name)` make, as for all CAMs.

    Paper: Selvaraju et al. 2016, "Grad-CAM", section 3.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> features, head = zfjax.split(net, net.init(jax.random.key(1), images), "relu5")
    >>> grad_cam(head, features(images), target=[3, 7]).shape
    (2, 3, 3)
    """
    return _grad_cam(asked_of_maps(head, features, target))


def grad_cam_plus_plus(head: Fun, features: Features | Crossing, target: Target) -> Cam:
    """Like `grad_cam`, with α_k = Σ_ij g⁺ / (2 + g⁺ Σ_ab A^k_ab), where g⁺ is the positive part of the gradient.

    That is the paper's α^k_ij · ReLU(g) with g² canceled. The maps should be rectified. pytorch-grad-cam adds 1e-6 to
    the denominator before canceling, so that it falls short of the formula where |g| is near 1e-3 or below.

    Paper: Chattopadhay et al. 2018, "Grad-CAM++", equations 7 and 19.
    """
    return _grad_cam_plus_plus(asked_of_maps(head, features, target))


def layer_cam(head: Fun, features: Features | Crossing, target: Target) -> Cam:
    """ReLU(Σ_k ReLU(g) · A^k): each cell has its own weight, so that lower layers give finer maps.

    Paper: Jiang et al. 2021, "LayerCAM", section III.
    """
    return _layer_cam(asked_of_maps(head, features, target))


def guided_grad_cam(
    features_fun: Callable[[Float[Array, "n height width channels"]], Features],
    head: Fun,
    images: Float[Array | np.ndarray, "n height width channels"],
    target: Target,
) -> Float[Array, "n height width channels"]:
    """Guided backprop times Grad-CAM upsampled to the images: shaped like the images.

    Args:
        features_fun: from images to the layer's maps; the first function that `zfjax.split` returns.
        head: from the maps to logits; the second one.
        images: as in all lenses.
        target: as in all lenses.

    Paper: Selvaraju et al. 2016, section 3.2.
    """
    features_fun, head = functions.live(features_fun, name="features_fun"), functions.live(head, name="head")
    whole = Partial(_Joined(), features_fun, head)
    pixels = guided_backprop(whole, images, target)
    cam = grad_cam(head, _features(features_fun, array("images", images)), target)
    return upsample(cam, (pixels.shape[1], pixels.shape[2]))[..., None] * widened(pixels)


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


def asked_of_maps(head: Fun, features: Features | Crossing, target: Target) -> Asked:
    """Check as `asked` does, and that the features have positions.

    Of what crosses a cut, the value at the cut is asked about; what passes it by, as a skip connection does, stays.

    Raises:
        ValueError: the features have no positions.
    """
    if isinstance(features, Crossing):
        head = Partial(_Beside(), functions.live(head, name="head"), features.beside)
        features = features.at
    check_maps("features", features)
    return asked(head, features, target, name="features")


def check_maps(name: str, maps: Array | np.ndarray) -> None:
    """Raise a ValueError for anything but maps [n, height, width, maps]."""
    shape = array(name, maps).shape
    if len(shape) != 4:
        raise ValueError(
            f"{name}: expected maps [n, height, width, maps], got {list(shape)}; take a layer below the first"
            " dense layer or mean over the map, such as the last convolution's: relu5, relu5_3, stage4"
        )


@functions.jit
def _grad_cam(question: Asked) -> Array:
    _, gradients = scores_and_gradients(question)
    return weighed(question.inputs, widened(gradients).mean(axis=(1, 2)))


@functions.jit
def _grad_cam_plus_plus(question: Asked) -> Array:
    maps = widened(question.inputs)
    positive = rectify(widened(scores_and_gradients(question)[1]))
    total = maps.sum(axis=(1, 2), keepdims=True)
    shares = positive / (jnp.asarray(2, maps.dtype) + positive * total)
    return weighed(maps, shares.sum(axis=(1, 2)))


@functions.jit
def _layer_cam(question: Asked) -> Array:
    _, gradients = scores_and_gradients(question)
    return rectify((rectify(widened(gradients)) * widened(question.inputs)).sum(axis=-1))


def weighed(maps: Features, weights: Float[Array, "n maps"]) -> Cam:
    """The positive part of the maps' weighted sum, in float32 or wider."""
    return rectify((widened(maps) * widened(weights)[:, None, None, :]).sum(axis=-1))


@functions.jit
def _features(features_fun: Fun, images: Array) -> Array | Crossing:
    return features_fun(images)


@dataclasses.dataclass(frozen=True)
class _Beside(functions.Fixed):
    """A head as a function of the value at a cut alone."""

    def __call__(self, head: Callable[[Crossing], Array], beside: tuple[Array, ...], at: Array) -> Array:
        return head(Crossing(at, beside))


@dataclasses.dataclass(frozen=True)
class _Joined(functions.Fixed):
    """The whole net, from its two parts."""

    def __call__(self, features_fun: Fun, head: Fun, images: Array) -> Array:
        return head(features_fun(images))
