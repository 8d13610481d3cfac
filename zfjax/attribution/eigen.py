"""Eigen-CAM: what a layer's maps have most in common."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zfjax.attribution.asked import Asked, Fun, Target, scores_and_gradients
from zfjax.attribution.maps import Cam, Images, Split, asked_of_maps, maps_of
from zfjax.ops import rectify
from zfjax.ops.precision import widened
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing


def eigen_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target | None = None) -> Cam:
    """The maps' first principal component, a cell's maps being one observation; of no class in particular.

    A component has no sign of its own. Here it rises where the sum of the maps does, so that what is strong is shown.
    pytorch-grad-cam leaves the sign to the SVD; both subtract each map's mean first, which the paper does not say.

    Args:
        fun: (features, head), as in `grad_cam`; without a target the head is not used.
        inputs: images; or for the head alone what the features made of them.
        target: as in all lenses, which have one; it is checked, and changes nothing.

    Raises:
        TypeError: as in all lenses.
        ValueError: as in all lenses.

    Paper: Muhammad & Yeasin 2020, "Eigen-CAM: Class Activation Map using Principal Components", section III.
    """
    if target is None:
        return _first_component(maps_of(fun, inputs))
    return _first_component(asked_of_maps(fun, inputs, target, has_slope=False).inputs)


def eigen_grad_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target) -> Cam:
    """`eigen_cam` of the maps times their gradients, so of a class: it rises where `hires_cam` does before its ReLU.

    From pytorch-grad-cam, whose sign is the SVD's; there is no paper.
    """
    return _of_gradients(asked_of_maps(fun, inputs, target))


@jax.jit
def _first_component(maps: Float[Array, "n height width maps"]) -> Cam:
    n, height, width, count = maps.shape
    cells = widened(maps).reshape(n, height * width, count)
    strength = cells.sum(axis=2)
    centered = cells - cells.mean(axis=1, keepdims=True)
    left, sizes, _ = jnp.linalg.svd(centered, full_matrices=False)
    found = left[:, :, 0] * sizes[:, :1]
    along = (found * (strength - strength.mean(axis=1, keepdims=True))).sum(axis=1, keepdims=True)
    return rectify(jnp.where(along < 0, -found, found)).reshape(n, height, width)


@functions.jit
def _of_gradients(question: Asked) -> Cam:
    _, gradients = scores_and_gradients(question)
    return _first_component(widened(gradients) * widened(question.inputs))
