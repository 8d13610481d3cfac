"""Figure 5: how much features and predictions change when the image is shifted, scaled or rotated."""

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jaxtyping import Array, Float, Int, Real

from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import floats
from zfjax.ops.precision import widened
from zfjax.transform import functions

# Where each pixel of the new image comes from in the old one: a 2 × 2 matrix and a shift, as (row, column) from the
# center.
Maps = Float[np.ndarray, "steps 2 3"]
Parameters = Sequence[float] | Real[np.ndarray, " steps"]
SIDE = 224  # side of the paper's images in pixels, for which its translations are given


@shown_by_shape
class Response(NamedTuple):
    """How a net responds to images that are transformed step by step."""

    parameters: Float[np.ndarray, " steps"]
    distances: Float[np.ndarray, "layers images steps"]  # Euclidean, from the untransformed image's activations
    probability: Float[np.ndarray, "images steps"]  # of the true class


@shown_by_shape
class Invariance(NamedTuple):
    """Figure 5's curves."""

    translation: Response  # pixels, positive downwards
    scale: Response  # ratio, above 1 larger
    rotation: Response  # degrees, counter-clockwise
    untransformed: Float[np.ndarray, " images"]  # probability of the true class
    apart: Float[np.ndarray, " layers"]  # mean distance between two of the untransformed images; NaN for one image


@shown_by_shape
class Steps(NamedTuple):
    """The parameters of Figure 5's transforms."""

    translation: Float[np.ndarray, " steps"]  # pixels
    scale: Float[np.ndarray, " steps"]
    rotation: Float[np.ndarray, " steps"]  # degrees


def paper_steps(size: int) -> Steps:
    """The paper's ranges for images of `size` pixels: −60 to 60 of 224 px, 1 to 1.8, 0 to 350°.

    Translations are by whole pixels, to avoid blurring.
    """
    stride = max(1, size // 64)
    count = round(60 * size / SIDE) // stride
    return Steps(stride * np.arange(-count, count + 1.0), np.linspace(1, 1.8, 41), np.arange(0.0, 351, 5))


def translations(pixels: Parameters) -> Maps:
    """Vertical shifts, positive downwards."""
    return _maps(np.eye(2)[None], -np.asarray(pixels, float))


def scalings(ratios: Parameters) -> Maps:
    """Scalings about the center; above 1 enlarges. Raises a ValueError for ratios that are not positive."""
    ratios = np.asarray(ratios, float)
    if not np.all(ratios > 0):
        raise ValueError(f"ratios: expected numbers above 0, got {ratios.min()}")
    return _maps(np.eye(2)[None] / ratios[:, None, None], np.zeros(len(ratios)))


def rotations(degrees: Parameters) -> Maps:
    """Rotations about the center, counter-clockwise like `jnp.rot90`."""
    # In float64: quarter turns must hit pixels.
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return _maps(np.stack([np.stack([cos, sin], -1), np.stack([-sin, cos], -1)], -2), np.zeros(len(cos)))


@jax.jit
def transformed(
    image: Float[Array | np.ndarray, "height width c"], maps: Float[Array, "n 2 3"]
) -> Float[Array, "n height width c"]:
    """Transform one image by several affine maps, with bilinear interpolation; outside the image is 0, the mean.

    Args:
        image: mean subtracted.
        maps: from `translations`, `scalings` or `rotations`. To apply two transforms in sequence, multiply them as
            3 × 3 matrices, the first on the left.

    >>> image = jnp.arange(9.0).reshape(3, 3, 1)
    >>> print(transformed(image, translations(np.array([1.0])))[0, :, :, 0])
    [[0. 0. 0.]
     [0. 1. 2.]
     [3. 4. 5.]]
    """
    image = floats("image", image)
    height, width, _ = image.shape
    center = jnp.array([[[(height - 1) / 2]], [[(width - 1) / 2]]], jnp.float32)
    pixels = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")).astype(jnp.float32) - center

    def one(matrix: Float[Array, "2 3"]) -> Float[Array, "height width c"]:
        # Not a matrix product: on accelerators it would round coordinates to a few bits.
        rows, columns = pixels
        places = jnp.stack([m[0] * rows + m[1] * columns + m[2] for m in matrix]) + center
        sample = jax.vmap(lambda channel: map_coordinates(channel, list(places), order=1, cval=0.0), -1, -1)
        return sample(widened(image))

    return jax.vmap(one)(jnp.asarray(maps, jnp.float32)).astype(image.dtype)


def response(
    fun: Callable[[Array], dict[str, Float[Array, "n ..."]]],
    hidden: tuple[str, ...],
    logits: str,
    images: Float[Array | np.ndarray, "images height width channels"],
    labels: Sequence[int] | Int[Array | np.ndarray, " images"],
    parameters: Float[np.ndarray, " steps"],
    maps: Maps,
    batch_size: int = 64,
) -> Response:
    """Measure the distances and the true class's probability for one transform.

    Args:
        fun: from images to activations by name, like `zfjax.models.cut.layers(net, variables, names)`.
        hidden: the layers to measure distances in.
        logits: the layer of logits.
        images: as `fun` takes them, mean subtracted.
        labels: the true classes.
        parameters: the transform's parameters, stored with the result.
        maps: the transforms, one per parameter.
        batch_size: transformed images per pass.

    Raises:
        TypeError: images are not a single array of floating-point numbers.
        ValueError: the numbers of labels and images, or of maps and parameters, differ or are 0; a label that is not a
            class of the net.

    Paper: figure 5.
    """
    _check(images, labels, parameters, maps, batch_size)
    fun = functions.live(fun)
    # Chunks of equal size, the last padded with the last map, so that one program serves all.
    count = -(-len(maps) // batch_size)
    filled = np.minimum(np.arange(count * -(-len(maps) // count)), len(maps) - 1)
    chunks = np.split(np.asarray(maps, np.float32)[filled], count)
    distances, probabilities = [], []
    for image, label in zip(images, labels, strict=True):
        still = _activations(fun, image)
        classes = still[logits].shape[-1]
        if not 0 <= label < classes:
            raise ValueError(f"labels: expected 0 to {classes - 1}, got {label}")
        parts = [_respond(fun, image, still, chunk, hidden=hidden, logits=logits) for chunk in chunks]
        distances.append(np.concatenate([np.asarray(moved) for moved, _ in parts], axis=1)[:, : len(maps)])
        probabilities.append(np.concatenate([np.asarray(answers)[:, label] for _, answers in parts])[: len(maps)])
    return Response(np.asarray(parameters), np.stack(distances, axis=1), np.stack(probabilities))


def invariance(
    fun: Callable[[Array], dict[str, Float[Array, "n ..."]]],
    hidden: tuple[str, ...],
    logits: str,
    images: Float[Array | np.ndarray, "images height width channels"],
    labels: Sequence[int] | Int[Array | np.ndarray, " images"],
    steps: Steps | None = None,
    batch_size: int = 64,
) -> Invariance:
    """Figure 5: vertical translation, scale and rotation; raises the errors of `response`.

    Args:
        fun: from images to activations by name.
        hidden: the layers to measure distances in; the paper uses the first and the last hidden one.
        logits: the layer of logits.
        images: as `fun` takes them, mean subtracted.
        labels: the true classes.
        steps: parameters of the transforms; None for the paper's.
        batch_size: transformed images per pass.

    >>> from zfjax.models import cut
    >>> net = zfjax.zfnet(10, width=0.05, image_size=48)
    >>> images = jax.random.normal(jax.random.key(0), (2, 48, 48, 3))
    >>> fun = cut.layers(net, net.init(jax.random.key(1), images), ("relu1", "relu7", "fc8"))
    >>> few = Steps(np.array([0.0, 4]), np.array([1.0, 1.5]), np.array([0.0, 90]))  # pixels, factors, degrees
    >>> invariance(fun, ("relu1", "relu7"), "fc8", images, np.array([3, 7]), few).rotation.distances.shape
    (2, 2, 2)
    """
    fun, steps = functions.live(fun), steps or paper_steps(images.shape[1])
    maps = np.concatenate([translations(steps.translation), scalings(steps.scale), rotations(steps.rotation)])
    together = response(fun, hidden, logits, images, labels, np.concatenate(steps), maps, batch_size)
    ends = np.cumsum([len(parameters) for parameters in steps])[:2]
    translation, scale, rotation = map(Response, *(np.split(part, ends, axis=-1) for part in together))
    acts = [_activations(fun, image) for image in images]
    answers = [_softmax(one[logits])[0, label] for one, label in zip(acts, labels, strict=True)]
    apart = [_mean_apart([one[name] for one in acts]) for name in hidden]
    return Invariance(translation, scale, rotation, np.array(answers), np.array(apart))


def relative_changes(found: Invariance, size: int) -> Float[np.ndarray, "transforms layers"]:
    """How far small transforms move each layer, in units of the mean distance between two different images.

    The mean over images and small nonzero steps: translations up to 10 of 224 px, scales up to 1.1, rotations up to
    10° either way. The paper finds less change in the last layer than in the first.

    Args:
        found: the result for two or more images.
        size: side of the images, in pixels.
    """
    turned = np.minimum(found.rotation.parameters % 360, -found.rotation.parameters % 360)
    near = (
        (np.abs(found.translation.parameters) * SIDE / size, 0.0, 10.0),
        (found.scale.parameters, 1.0, 1.1),
        (turned, 0.0, 10.0),
    )
    rows, apart = [], np.where(found.apart > 0, found.apart, np.nan)  # 0 if all images are the same
    for one, (parameters, still, limit) in zip(found[:3], near, strict=True):
        small = (parameters != still) & (parameters <= limit + 1e-6)
        rows.append(one.distances[..., small].mean(axis=(1, 2)) / apart)
    return np.stack(rows)


def mean_probabilities(found: Invariance) -> Float[np.ndarray, " transforms"]:
    """The mean probability of the true class over all images and steps, for each transform.

    The paper finds predictions stable under translation and scale, but not under rotation.
    """
    return np.array([one.probability.mean() for one in found[:3]])


def _maps(matrices: Float[np.ndarray, "#steps 2 2"], down: Float[np.ndarray, " steps"]) -> Maps:
    shifts = np.stack([down, np.zeros_like(down)], axis=-1)[:, :, None]
    return np.concatenate([np.broadcast_to(matrices, (len(down), 2, 2)), shifts], axis=2)


@functions.jit
def _activations(fun: Callable, image: Float[Array, "height width c"]) -> dict[str, Array]:
    return fun(image[None])


@functions.jit
def _respond(
    fun: Callable,
    image: Float[Array | np.ndarray, "height width c"],
    still: dict[str, Array],
    maps: Float[Array, "n 2 3"],
    *,
    hidden: tuple[str, ...],
    logits: str,
) -> tuple[Float[Array, "layers n"], Float[Array, "n classes"]]:
    acts = fun(transformed(image, maps))
    distances = [jnp.sqrt(_square(acts[name].astype(jnp.float32) - still[name].astype(jnp.float32))) for name in hidden]
    return jnp.stack(distances), _softmax(acts[logits])


def _square(difference: Float[Array, "n ..."]) -> Float[Array, " n"]:
    return jnp.sum(jnp.square(difference), axis=tuple(range(1, difference.ndim)))


def _softmax(logits: Float[Array, "n classes"]) -> Float[Array, "n classes"]:
    return jax.nn.softmax(logits.astype(jnp.float32))


def _mean_apart(acts: Sequence[Float[Array, "1 ..."]]) -> float:
    """Mean distance over pairs of images; NaN for a single image."""
    pairs = [
        np.linalg.norm(np.asarray(a, np.float32).ravel() - np.asarray(b, np.float32).ravel())
        for a, b in itertools.combinations(acts, 2)
    ]
    return float(np.mean(pairs)) if pairs else float("nan")


def _check(
    images: Array | np.ndarray,
    labels: Sequence[int] | Array | np.ndarray,
    parameters: np.ndarray,
    maps: Maps,
    batch_size: int,
) -> None:
    if floats("images", images).ndim != 4:
        raise ValueError(f"images: expected [n, H, W, C], got {list(images.shape)}")
    if not len(images) or len(images) != len(labels):
        raise ValueError(f"labels: expected one for each of at least one image, got {len(labels)} for {len(images)}")
    if not len(maps) or np.shape(maps) != (len(parameters), 2, 3):
        raise ValueError(f"maps: expected [{len(parameters)}, 2, 3] and at least one, got {list(np.shape(maps))}")
    if batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {batch_size}")
