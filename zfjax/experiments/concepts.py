"""Concepts: a few directions whose sums a place's activations are, what shows them, and what a net loses without."""

import functools
import hashlib
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from zfjax.attribution.asked import Asked, at_least_one, scores
from zfjax.attribution.maps import asked_of_maps, features_of
from zfjax.console.errors import UserError
from zfjax.console.progress import Progress
from zfjax.console.text import shown_by_shape
from zfjax.experiments.bootstrap import intervals
from zfjax.experiments.gallery import Gallery, Top
from zfjax.experiments.passes import Parts, strongest_of
from zfjax.models.fields import project_directions
from zfjax.runs.subject import Subject
from zfjax.training import sharding
from zfjax.transform import functions

CELLS = 2**15  # at most, that directions are found in
SWEEPS = 50  # over all concepts, to find how strong each is in a cell


@shown_by_shape
class Concepts(NamedTuple):
    """What the activations of a place are made of, the concept that matters most first."""

    place: str
    directions: Float[np.ndarray, "concepts maps"]  # of length 1, nowhere negative
    top: Top  # the images and cells in which each is strongest, on the host
    falls: Float[np.ndarray, "concepts images"]  # of the logit of an image's class without the concept
    labels: Int[np.ndarray, " images"]  # these classes; what the model says where nobody knows
    explained: float  # share of the squared activations

    @property
    def importance(self) -> Float[np.ndarray, "concepts 3"]:
        """The mean fall over all images, and the ends of its 95 % interval."""
        return np.stack([self.falls.mean(axis=1), *intervals(self.falls)], axis=1)

    def by_class(self, classes: int) -> Float[np.ndarray, "concepts classes"]:
        """The mean fall over the images of each class; NaN for a class without any."""
        of_class = self.labels[:, None] == np.arange(classes)[None]
        with np.errstate(invalid="ignore"):
            return self.falls @ of_class / of_class.sum(axis=0)[None]


def find_concepts(
    subject: Subject,
    place: str,
    count: int = 10,
    *,
    k: int = 9,
    images: int = 500,
    each: int = 64,
    parts: Parts | None = None,
    progress: Progress | None = None,
) -> Concepts:
    """Factorize a place's activations into concepts by non-negative matrix factorization (NMF).

    Each cell's activations are nearly a sum of directions, each with a strength, all of them nowhere negative: so they
    are parts, which add up and never cancel. A concept's importance is what the logit of an image's class loses when
    the concept's share is taken out of all cells.

    Args:
        subject: a model that gives logits, and its images.
        place: below the first dense layer, after a ReLU: activations that are nowhere negative.
        count: how many concepts to find.
        k: images per concept to find in the whole split.
        images: how many of the split, evenly spaced, directions and importance are found in.
        each: images on a device at a time.
        parts: as for `passes.strongest`.
        progress: advanced by the number of images of the split.

    Raises:
        UserError: no such place, or its activations have no positions, are somewhere negative or not finite, or zero
            everywhere; or there are no images, or too few.
        ValueError: count is below 1, or above the place's number of maps.

    Paper: Lee & Seung 1999, "Learning the parts of objects by non-negative matrix factorization"; Fel et al. 2023,
    "CRAFT: Concept Recursive Activation FacTorization for Explainability".

    >>> val = zfjax.open_run("runs/shapes").val  # doctest: +SKIP
    >>> found = find_concepts(val, "relu5", count=10)  # doctest: +SKIP
    >>> found.importance.shape  # doctest: +SKIP
    (10, 3)
    """
    at_least_one(count=count, k=k, images=images, each=each)
    where = subject.model.place(place)
    if where.offset is None or len(where.shape) != 3:
        raise UserError(f"place {place}: concepts need maps with positions, below the first dense layer")
    if not len(subject.pictures):
        raise UserError("concepts need images: the split has none")
    if count > where.shape[-1]:
        raise ValueError(f"count: expected at most the {where.shape[-1]} maps of {place}, got {count}")
    numbers = np.unique(np.linspace(0, len(subject.pictures) - 1, images).round().astype(int))
    directions, explained = _factorized(_cells(subject, where.name, numbers, each), count, where.name)
    falls, labels = _without_each(subject, where.name, directions, numbers, each)
    order = np.argsort(-falls.mean(axis=1), kind="stable")
    directions = directions[order]
    mesh, layer = sharding.data_mesh(), subject.model.layer(where.name)
    fun = functions.live(
        lambda images: {where.name: strengths(layer(images), directions)},
        functools.partial(sharding.replicate, mesh=mesh),
    )
    top = strongest_of(
        subject,
        fun,
        ("concepts", where.name, hashlib.sha256(directions.tobytes()).hexdigest()),
        k,
        each,
        parts,
        progress,
    )[where.name]
    return Concepts(where.name, directions, top, falls[order], labels, explained)


def strengths(
    activations: Float[Array | np.ndarray, "*cells maps"], directions: Float[Array | np.ndarray, "concepts maps"]
) -> Float[Array, "*cells concepts"]:
    """How much of each direction is in activations: the non-negative strengths whose sum is nearest to these.

    By coordinate descent (HALS) with the directions fixed, at all cells at once.

    >>> found = strengths(jnp.array([[3.0, 4.0], [1.0, 0.0]]), jnp.array([[1.0, 0.0], [0.6, 0.8]]))
    >>> found.round(3).tolist()
    [[0.0, 5.0], [1.0, 0.0]]
    """
    exact, directions = jax.lax.Precision.HIGHEST, jnp.asarray(directions, jnp.float32)
    products = jnp.matmul(directions, directions.T, precision=exact)
    cells = jnp.asarray(activations, jnp.float32).reshape(-1, directions.shape[1])
    on_each = jnp.matmul(directions, cells.T, precision=exact)  # [concepts, cells]

    def sweep(_: Array, found: Array) -> Array:
        for one in range(len(directions)):
            left = on_each[one] - jnp.matmul(products[one], found, precision=exact)
            moved = found[one] + left / jnp.maximum(products[one, one], jnp.float32(1e-12))
            found = found.at[one].set(jnp.maximum(moved, jnp.float32(0)))
        return found

    found = jax.lax.fori_loop(0, SWEEPS, sweep, jnp.zeros_like(on_each))
    return found.T.reshape(*activations.shape[:-1], len(directions))


def projections(subject: Subject, found: Concepts) -> Gallery:
    """The patches that show each concept most, and what the deconvnet makes of it there.

    The seed is the concept's direction in its strongest cell, as strong as it is there; all else is zero.
    """
    fun, shape = subject.model.layer(found.place), found.top.images.shape
    parts = []
    for direction, values, numbers, positions in zip(found.directions, *found.top, strict=True):
        seeds = (values[:, None] * direction[None]).astype(np.float32)
        parts.append(jax.device_get(project_directions(fun, subject.load(numbers), seeds, positions)))
    _, *rest = (np.stack(part) for part in zip(*parts, strict=True))
    return Gallery(np.arange(shape[0]), np.asarray(found.top.values), *rest)


def _cells(subject: Subject, place: str, numbers: Int[np.ndarray, " n"], each: int) -> Float[np.ndarray, "cells maps"]:
    """Some cells of each of some images, drawn at random but the same each time."""
    fun, rng, found = functions.live(subject.model.layer(place)), np.random.default_rng(0), []
    for first in range(0, len(numbers), each):
        some = numbers[first : first + each]
        maps = np.asarray(features_of(fun, subject.load(some)), np.float32)
        cells = maps.reshape(len(some), -1, maps.shape[-1])
        quota = min(math.ceil(CELLS / len(numbers)), cells.shape[1])
        found += [of_image[rng.permutation(len(of_image))[:quota]] for of_image in cells]
    return np.concatenate(found)


def _factorized(
    cells: Float[np.ndarray, "cells maps"], count: int, place: str
) -> tuple[Float[np.ndarray, "concepts maps"], float]:
    """Directions of length 1, and the share of the squares of the cells that they explain."""
    if not np.isfinite(cells).all():
        raise UserError(f"place {place}: its activations are not finite")
    if len(cells) < count:
        raise UserError(f"place {place}: {count} concepts need as many cells of all images, but there are {len(cells)}")
    if not cells.any():
        raise UserError(f"place {place}: it never fires, so it is made of nothing")
    if cells.min() < 0:
        raise UserError(
            f"place {place}: concepts need activations that are nowhere negative, as after a ReLU; here the lowest is"
            f" {cells.min():.3g}"
        )
    # scikit-learn's, which zfjax has anyway: for this many cells it takes seconds, and the device is for the passes.
    from sklearn.decomposition import NMF

    model = NMF(count, init="nndsvda", random_state=0, max_iter=300, tol=1e-4)
    amounts = model.fit_transform(cells)
    left = np.square(cells - amounts @ model.components_).sum() / max(np.square(cells).sum(), 1e-30)
    lengths = np.linalg.norm(model.components_, axis=1, keepdims=True)
    return (model.components_ / np.maximum(lengths, 1e-12)).astype(np.float32), float(1 - left)


def _without_each(
    subject: Subject, place: str, directions: Float[np.ndarray, "concepts maps"], numbers: np.ndarray, each: int
) -> tuple[Float[np.ndarray, "concepts images"], Int[np.ndarray, " images"]]:
    """How far the logit of each image's class falls without each concept; and these classes."""
    split, falls, targets = subject.model.split(place), [], []
    for first in range(0, len(numbers), each):
        # The last batch is filled up, so that one program serves all.
        some = numbers[np.minimum(np.arange(first, first + min(each, len(numbers))), len(numbers) - 1)]
        said = subject.unlabeled(some)
        labels = np.where(subject.labels[some] >= 0, subject.labels[some], said.labels)
        question = asked_of_maps(split, said.images, labels, has_slope=False)
        new = len(numbers[first : first + each])
        falls.append(np.asarray(_falls(question, jnp.asarray(directions)))[:, :new])
        targets.append(labels[:new])
    return np.concatenate(falls, axis=1), np.concatenate(targets)


@functions.jit
def _falls(question: Asked, directions: Float[Array, "concepts maps"]) -> Float[Array, "concepts n"]:
    amounts = strengths(question.inputs, directions)
    whole = scores(question)

    def without(concept: tuple[Array, Array]) -> Array:
        amount, direction = concept
        share = (amount[..., None] * direction[None, None, None]).astype(question.inputs.dtype)
        return whole - scores(question._replace(inputs=question.inputs - share))

    return jax.lax.map(without, (jnp.moveaxis(amounts, -1, 0), directions)).astype(jnp.float32)
