"""Figure 5: how much features and predictions change when the image is shifted, scaled or rotated."""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.ndimage import map_coordinates
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Real

from zfjax.console.text import shown_by_shape
from zfjax.ops.arguments import filling, floats
from zfjax.ops.precision import widened
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.transform import functions

# Where each pixel of the new image comes from in the old one: a 2 × 2 matrix and a shift, as (row, column) from the
# center.
Maps = Float[np.ndarray, "steps 2 3"]
Fill = float | Float[Array | np.ndarray, "..."]  # a number, or a color [c]
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
    image: Float[Array | np.ndarray, "height width c"], maps: Float[Array | np.ndarray, "n 2 3"], fill: Fill = 0.0
) -> Float[Array, "n height width c"]:
    """Transform one image by several affine maps, with bilinear interpolation.

    Args:
        image: as a net takes it.
        maps: from `translations`, `scalings` or `rotations`. To apply two transforms in sequence, multiply them as
            3 × 3 matrices, the first on the left.
        fill: what is outside the image, a number or a color [c]; 0 is the mean where it is subtracted.

    >>> image = jnp.arange(9.0).reshape(3, 3, 1)
    >>> print(transformed(image, translations(np.array([1.0])))[0, :, :, 0])
    [[0. 0. 0.]
     [0. 1. 2.]
     [3. 4. 5.]]
    """
    image = floats("image", image)
    height, width, _ = image.shape
    outside = filling("fill", fill, widened(image), (1,))
    center = jnp.array([[[(height - 1) / 2]], [[(width - 1) / 2]]], jnp.float32)
    pixels = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij")).astype(jnp.float32) - center

    def one(matrix: Float[Array, "2 3"]) -> Float[Array, "height width c"]:
        # Not a matrix product: on accelerators it would round coordinates to a few bits.
        rows, columns = pixels
        places = jnp.stack([m[0] * rows + m[1] * columns + m[2] for m in matrix]) + center
        sample = jax.vmap(lambda channel: map_coordinates(channel, list(places), order=1, cval=0.0), -1, -1)
        return sample(widened(image) - outside) + outside

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
    mesh: Mesh | None = None,
    fill: Fill = 0.0,
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
        batch_size: transformed images on a device at a time.
        mesh: the devices to split the work over, as in `sharding.data_mesh`; default: the device of the images.
        fill: what is outside a transformed image, as in `transformed`.

    Raises:
        TypeError: images are not a single array of floating-point numbers.
        ValueError: the numbers of labels and images, or of maps and parameters, differ or are 0; a label that is not a
            class of the net.

    Paper: figure 5.
    """
    _check(images, labels, parameters, maps, batch_size)
    fun = functions.live(fun, functools.partial(sharding.replicate, mesh=mesh))
    pictures = images if mesh is None else np.asarray(images)
    still = _still(fun, pictures, mesh)
    classes, labels = still[logits].shape[-1], np.asarray(labels)
    for label in labels[(labels < 0) | (labels >= classes)]:
        raise ValueError(f"labels: expected 0 to {classes - 1}, got {label}")
    # Chunks of equal size, the last padded with the last map, so that one program serves all.
    count = -(-len(maps) // batch_size)
    filled = np.minimum(np.arange(count * -(-len(maps) // count)), len(maps) - 1)
    chunks = np.stack(np.split(np.asarray(maps, np.float32)[filled], count))

    cover = sharding.replicate(np.asarray(fill, np.float32), mesh)

    def work(some: np.ndarray) -> tuple[Array, Array]:
        """A piece is one chunk of one image."""
        which, chunk = np.divmod(some, count)
        at_rest = {name: still[name][which] for name in hidden}
        placed = sharding.place((pictures[which], at_rest, chunks[chunk], labels[which].astype(np.int32)), mesh)
        return _respond(fun, cover, *placed, hidden=hidden, logits=logits, mesh=mesh)

    parts = shared(len(pictures) * count, 1, mesh, work)
    distances, probabilities = (np.concatenate(rows) for rows in zip(*parts, strict=True))
    moved = distances.reshape(len(pictures), count, len(hidden), -1).transpose(2, 0, 1, 3)
    moved = moved.reshape(len(hidden), len(pictures), -1)[..., : len(maps)]
    return Response(np.asarray(parameters), moved, probabilities.reshape(len(pictures), -1)[:, : len(maps)])


def invariance(
    fun: Callable[[Array], dict[str, Float[Array, "n ..."]]],
    hidden: tuple[str, ...],
    logits: str,
    images: Float[Array | np.ndarray, "images height width channels"],
    labels: Sequence[int] | Int[Array | np.ndarray, " images"],
    steps: Steps | None = None,
    batch_size: int = 64,
    mesh: Mesh | None = None,
    fill: Fill = 0.0,
) -> Invariance:
    """Figure 5: vertical translation, scale and rotation; raises the errors of `response`.

    Args:
        fun: from images to activations by name.
        hidden: the layers to measure distances in; the paper uses the first and the last hidden one.
        logits: the layer of logits.
        images: as `fun` takes them, mean subtracted.
        labels: the true classes.
        steps: parameters of the transforms; None for the paper's.
        batch_size: as in `response`.
        mesh: as in `response`.
        fill: as in `response`.

    >>> from zfjax.models import cut
    >>> net = zfjax.zfnet(10, width=0.125, image_size=64)
    >>> images = jax.random.normal(jax.random.key(0), (2, 64, 64, 3))
    >>> fun = cut.layers(net, net.init(jax.random.key(1), images), ("relu1", "relu7", "fc8"))
    >>> few = Steps(np.array([0.0, 4]), np.array([1.0, 1.5]), np.array([0.0, 90]))  # pixels, factors, degrees
    >>> invariance(fun, ("relu1", "relu7"), "fc8", images, np.array([3, 7]), few).rotation.distances.shape
    (2, 2, 2)
    """
    fun = functions.live(fun, functools.partial(sharding.replicate, mesh=mesh))
    steps = steps or paper_steps(images.shape[1])
    maps = np.concatenate([translations(steps.translation), scalings(steps.scale), rotations(steps.rotation)])
    together = response(fun, hidden, logits, images, labels, np.concatenate(steps), maps, batch_size, mesh, fill)
    ends = np.cumsum([len(parameters) for parameters in steps])[:2]
    translation, scale, rotation = map(Response, *(np.split(part, ends, axis=-1) for part in together))
    still = _still(fun, images if mesh is None else np.asarray(images), mesh)
    answers = np.asarray(_softmax(jnp.asarray(still[logits])))[np.arange(len(images)), np.asarray(labels)]
    apart = [_mean_apart(still[name]) for name in hidden]
    return Invariance(translation, scale, rotation, answers, np.array(apart))


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


def _still(fun: Callable, images: Array | np.ndarray, mesh: Mesh | None) -> dict[str, np.ndarray]:
    """The activations of the untransformed images, one image at a time on each device."""

    def work(some: np.ndarray) -> dict[str, Array]:
        return _activations(fun, sharding.place(images[some], mesh), mesh=mesh)

    parts = list(shared(len(images), 1, mesh, work))
    return jax.tree.map(lambda *rows: np.concatenate(rows), *parts)


@functions.jit
def _activations(fun: Callable, images: Float[Array, "n height width c"], *, mesh: Mesh | None) -> dict[str, Array]:
    def of_one(fun: Callable, image: Array) -> dict[str, Array]:
        return jax.tree.map(lambda acts: acts[0], fun(image[None]))

    return sharding.one_on_each(of_one, mesh, whole=1)(fun, images)


@functions.jit
def _respond(
    fun: Callable,
    fill: Float[Array, "..."],
    images: Float[Array, "n height width c"],
    still: dict[str, Array],
    maps: Float[Array, "n steps 2 3"],
    labels: Int[Array, " n"],
    *,
    hidden: tuple[str, ...],
    logits: str,
    mesh: Mesh | None,
) -> tuple[Float[Array, "n layers steps"], Float[Array, "n steps"]]:
    def of_one(
        fun: Callable, fill: Array, image: Array, still: dict[str, Array], maps: Array, label: Array
    ) -> tuple[Array, Array]:
        acts = fun(transformed(image, maps, fill))
        apart = (acts[name].astype(jnp.float32) - still[name].astype(jnp.float32)[None] for name in hidden)
        return jnp.stack([jnp.sqrt(_square(one)) for one in apart]), jnp.take(_softmax(acts[logits]), label, axis=1)

    return sharding.one_on_each(of_one, mesh, whole=2)(fun, fill, images, still, maps, labels)


def _square(difference: Float[Array, "n ..."]) -> Float[Array, " n"]:
    return jnp.sum(jnp.square(difference), axis=tuple(range(1, difference.ndim)))


def _softmax(logits: Float[Array, "n classes"]) -> Float[Array, "n classes"]:
    return jax.nn.softmax(logits.astype(jnp.float32))


def _mean_apart(acts: Float[np.ndarray, "images ..."]) -> float:
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
