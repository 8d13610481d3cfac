"""Class activation maps by gradients: a layer's maps, weighted by how much they matter to a class.

CAMs take both functions of a split and images, `grad_cam(model.split("relu5"), images, target)`; or the second of them
alone and what the first made of the images, `grad_cam(head, features(images), target)`. Either way they are as large
as the maps, since where a cell looks is known only to the net: `upsample` stretches them over the images.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zfjax.attribution.asked import (
    Asked,
    Fun,
    Target,
    at_least_one,
    at_least_zero,
    one_hot,
    picked,
    scores_and_gradients,
)
from zfjax.attribution.backward import guided_backprop
from zfjax.attribution.maps import (
    Cam,
    Images,
    Split,
    asked_of_maps,
    features_of,
    in_two,
    joined,
    upsample,
    weighed,
)
from zfjax.console.deprecation import grouped_arguments, renamed_arguments
from zfjax.ops import rectify
from zfjax.ops.arguments import array
from zfjax.ops.precision import widened
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing


@renamed_arguments(head="fun", features="inputs")
def grad_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """ReLU(Σ_k α_k A^k), where α_k is the mean over the map of ∂ score / ∂ A^k.

    Args:
        fun: (features, head), what `zfjax.split(net, variables, name)` or `model.split(name)` return, as for all CAMs;
            or the head alone.
        inputs: images; or for the head alone what the features made of them.
        target: as in all lenses.

    Paper: Selvaraju et al. 2016, "Grad-CAM", section 3.

    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> split = zfjax.split(net, net.init(jax.random.key(1), images), "relu5")
    >>> grad_cam(split, images, target=[3, 7]).shape
    (2, 3, 3)
    """
    return _grad_cam(asked_of_maps(fun, inputs, target))


@renamed_arguments(head="fun", features="inputs")
def grad_cam_plus_plus(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """Like `grad_cam`, with α_k = Σ_ij g⁺ / (2 + g⁺ Σ_ab A^k_ab), where g⁺ is the positive part of the gradient.

    That is the paper's α^k_ij · ReLU(g) with g² canceled. The maps should be rectified. pytorch-grad-cam adds 1e-6 to
    the denominator before canceling, so that it falls short of the formula where |g| is near 1e-3 or below.

    Paper: Chattopadhay et al. 2018, "Grad-CAM++", equations 7 and 19.
    """
    return _grad_cam_plus_plus(asked_of_maps(fun, inputs, target))


@renamed_arguments(head="fun", features="inputs")
def layer_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """ReLU(Σ_k ReLU(g) · A^k): each cell has its own weight, so that lower layers give finer maps.

    Paper: Jiang et al. 2021, "LayerCAM", section III.
    """
    return _layer_cam(asked_of_maps(fun, inputs, target))


def hires_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """ReLU(Σ_k g · A^k): the gradient of each cell times the cell, without Grad-CAM's mean over the map.

    Where one dense layer is above the maps, its sum before the ReLU is the score less the bias. Equal to `grad_cam`
    where the gradient is the same all over each map, as below a mean over it.

    Paper: Draelos & Carin 2020, "Use HiResCAM instead of Grad-CAM", section 3.
    """
    return _hires_cam(asked_of_maps(fun, inputs, target))


def xgrad_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """Like `grad_cam`, with the mean of the gradient weighted by the map: α_k = Σ_ij A^k g / Σ_ij A^k.

    A map whose sum is zero, as one that is dead, gets no weight.

    Paper: Fu et al. 2020, "Axiom-based Grad-CAM", equation 8.
    """
    return _xgrad_cam(asked_of_maps(fun, inputs, target))


def finer_cam(
    fun: Fun | Split, inputs: Images | Crossing, target: Target, *, alpha: float = 1.0, n_similar: int = 3
) -> Cam:
    """Grad-CAM of what tells a class from those that score most like it.

    The number is Σ_j p_j (y − α y_j) / Σ_j p_j, over the classes whose logits are nearest to the target's, with their
    softmax as p_j, as in the authors' code.

    Args:
        fun: as in `grad_cam`.
        inputs: as in `grad_cam`.
        target: a class, as in all lenses, but no function.
        alpha: how much of the others to take away; 0 is `grad_cam`.
        n_similar: how many others, at most all of them. Where there are none, it is `grad_cam`.

    Raises:
        ValueError: the target is a function, or a number is out of range.

    Paper: Zhang et al. 2025, "Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation".
    """
    if callable(target):
        raise ValueError("target: expected a class, which finer_cam compares with others, got a function")
    at_least_one(n_similar=n_similar)
    at_least_zero(alpha=alpha)
    question = asked_of_maps(fun, inputs, target)
    classes = functions.output_of(question.fun, question.inputs).shape[1]
    if classes == 1:
        return _grad_cam(question)
    return _finer_cam(question, jnp.asarray(alpha, jnp.float32), n_similar=min(n_similar, classes - 1))


@grouped_arguments("features_fun", "head", rest=("images", "target"))
def guided_grad_cam(fun: Fun | Split, images: Images, target: Target) -> Float[Array, "n height width channels"]:
    """Guided backprop times Grad-CAM upsampled to the images: shaped like the images.

    Args:
        fun: (features, head), as in `grad_cam`.
        images: as in all lenses.
        target: as in all lenses.

    Paper: Selvaraju et al. 2016, section 3.2.
    """
    parts = in_two(fun)
    if parts is None:
        raise TypeError(
            f"fun: expected (features, head) as zfjax.split and model.split return, got {type(fun).__name__}"
        )
    features, head = parts
    pixels = guided_backprop(joined(features, head), images, target)
    cam = grad_cam(head, features_of(features, array("images", images)), target)
    return upsample(cam, (pixels.shape[1], pixels.shape[2]))[..., None] * widened(pixels)


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


@functions.jit
def _hires_cam(question: Asked) -> Array:
    _, gradients = scores_and_gradients(question)
    return rectify((widened(gradients) * widened(question.inputs)).sum(axis=-1))


@functions.jit
def _xgrad_cam(question: Asked) -> Array:
    maps, gradients = widened(question.inputs), widened(scores_and_gradients(question)[1])
    total = maps.sum(axis=(1, 2))
    shares = (maps * gradients).sum(axis=(1, 2)) / jnp.where(total == 0, jnp.ones_like(total), total)
    return weighed(maps, jnp.where(total == 0, jnp.zeros_like(total), shares))


@functions.jit
def _finer_cam(question: Asked, alpha: Float[Array, ""], *, n_similar: int) -> Array:
    logits, pull = jax.vjp(question.fun, question.inputs)
    hot = one_hot(logits, question.target)  # NaN for a traced target out of range

    def number(logits: Float[Array, "n classes"]) -> Float[Array, ""]:
        own = picked(logits, question.target)
        apart = jnp.where(hot == 1, jnp.full((), -1, logits.dtype), jnp.abs(logits - own[:, None]))
        others = jnp.argsort(jax.lax.stop_gradient(apart), axis=1)[:, 1 : n_similar + 1]
        # Among themselves: of all classes, a sure net gives them nothing.
        shares = jax.nn.softmax(jnp.take_along_axis(logits, others, axis=1), axis=1)
        ahead = own[:, None] - alpha.astype(logits.dtype) * jnp.take_along_axis(logits, others, axis=1)
        return (shares * ahead).sum()

    found = jax.grad(number)(widened(logits)).astype(logits.dtype)
    (gradients,) = pull(jnp.where(jnp.isnan(hot), hot, found))
    return weighed(question.inputs, widened(gradients).mean(axis=(1, 2)))
