"""Top-1 and top-5 accuracy over a split, each example counted once."""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.tree_util import Partial
from jaxtyping import Array, Float, PyTree, UInt8

from zfjax.console.text import shown_by_shape
from zfjax.data.crops import crops_of, subtract_mean
from zfjax.data.pipeline import Batch
from zfjax.models import ConvNet, Model
from zfjax.models.digest import digest_of
from zfjax.models.nets import NetModel
from zfjax.training import sharding
from zfjax.training.precision import matmul_precision
from zfjax.training.step import Counts, count_right, predict
from zfjax.transform import functions
from zfjax.transform.functions import Fixed


@runtime_checkable
class Scored(Protocol):
    """What is scored: a model, and what it sees of squares."""

    @property
    def model(self) -> Model:
        """The model, with its layers."""
        ...

    @property
    def logits(self) -> Callable[[Array], Array]:
        """The function from images to logits [N, classes]."""
        ...

    @property
    def precision(self) -> str:
        """Of products, as `matmul_precision` takes it."""
        ...

    def views(self, ten_crop: bool) -> Callable[[Array], Array]:
        """A function from uint8 squares [n, side, side, 3] to the model's images [crops, n, size, size, channels].

        It gives the center crop alone, or the paper's ten crops.
        """
        ...

    def fingerprint(self, pictures: str) -> str:
        """A hash of the model, its weights, what it sees of squares, and which pictures these are."""
        ...


@shown_by_shape
class Trained(NamedTuple):
    """A net of zfjax with its variables and the mean its images need."""

    net: ConvNet
    variables: PyTree[Float[Array, "..."]]
    mean: Float[Array | np.ndarray, "side side 3"]
    step: int | None = None  # of the checkpoint that it was read from
    precision: str = ""  # of products, by its run's `config.matmul_precision`

    @property
    def model(self) -> NetModel:
        """The net as a model."""
        return NetModel(self.net, self.variables)

    @property
    def logits(self) -> Partial:
        """The net."""
        return self.model.function

    def views(self, ten_crop: bool) -> Partial:
        """Crops of the squares less the mean, each less the mean where it was cut."""
        return Partial(_LessMean(self.net.image_size, ten_crop), self.mean)

    def fingerprint(self, pictures: str) -> str:
        """A hash of the net, its weights and mean, and the pictures."""
        net = f"{self.net.layers} {self.net.image_size} {self.net.dtype}{self.precision}"
        digest = hashlib.sha256(f"{net} {pictures}".encode())
        weights: PyTree = (self.variables, self.mean)
        for path, leaf in jax.tree.leaves_with_path(weights):
            digest.update(jax.tree_util.keystr(path).encode())
            digest.update(np.ascontiguousarray(leaf).data)
        return digest.hexdigest()[:16]


class AnyModel(NamedTuple):
    """Any model that knows what to make of pictures."""

    model: Model
    precision: str = ""  # JAX's own

    @property
    def logits(self) -> Callable[[Array], Array]:
        """The model, and the logarithms of what it gives where these are probabilities."""
        fun = self.model.function
        return lambda images: _as_logits(fun(images))

    def views(self, ten_crop: bool) -> Callable[[Array], Array]:
        """What the model makes of crops of the squares."""
        preprocess, size = self.model.preprocess, self.model.image_shape[0]

        def views(squares: Array) -> Array:
            crops = crops_of(squares, size, ten_crop)
            images = jnp.asarray(preprocess(crops.reshape(-1, *crops.shape[2:])))
            return images.reshape(*crops.shape[:2], *images.shape[1:])

        return views

    def fingerprint(self, pictures: str) -> str:
        """A hash of the model's program and weights, what it makes of pictures, and the pictures."""
        return hashlib.sha256(f"{pictures} {self.precision}".encode() + digest_of(self.model)).hexdigest()[:16]


def _as_logits(outputs: PyTree) -> PyTree:
    """Outputs of a model that may end in a softmax, as many ONNX files do."""
    if not isinstance(outputs, jax.Array) or outputs.ndim != 2:
        return outputs  # `predict` says what was expected
    outputs = outputs.astype(jnp.float32)
    sums = outputs.sum(axis=1, keepdims=True)
    probable = (outputs.min(axis=1, keepdims=True) >= 0) & (jnp.abs(sums - 1) < 1e-3)
    return jnp.where(probable, jnp.log(jnp.maximum(outputs, jnp.finfo(jnp.float32).tiny)), outputs)


@dataclasses.dataclass(frozen=True)
class _LessMean(Fixed):
    size: int
    ten_crop: bool

    def __call__(self, mean: Array, squares: Array) -> Array:
        return crops_of(subtract_mean(squares, mean), self.size, self.ten_crop)


class Scores(NamedTuple):
    """Shares of the examples of a split."""

    examples: int
    top1: float  # accuracy
    top5: float  # accuracy
    loss: float  # mean cross-entropy, nats
    classes: int

    @property
    def top1_error(self) -> float:
        """Share of examples whose label is not the net's first answer."""
        return 1.0 - self.top1

    @property
    def top5_error(self) -> float:
        """Share of examples whose label is not among the net's first five answers."""
        return 1.0 - self.top5

    @property
    def top5_tells(self) -> bool:
        """Whether top-5 accuracy can be below 100 %: among five classes or fewer the label always is."""
        return self.classes > 5

    def __str__(self) -> str:
        top5 = f" top-5 accuracy {self.top5:.2%} (error {self.top5_error:.2%})," if self.top5_tells else ""
        return f"top-1 accuracy {self.top1:.2%} (error {self.top1_error:.2%}),{top5} {self.examples:,} examples"


class _Program(NamedTuple):
    """A model's functions, on the devices where it is scored."""

    fun: Callable[[Array], Array]
    views: Callable[[Array], Array]
    precision: str


def softmax_of(
    model: Scored, squares: UInt8[Array | np.ndarray, "n side side 3"], *, ten_crop: bool = False
) -> Float[Array, "n classes"]:
    """`predict` for center crops or the paper's ten crops, in the model's precision."""
    return _softmax_of(_program(model, None, ten_crop=ten_crop), squares, None)


def _program(model: Scored, mesh: Mesh | None, *, ten_crop: bool) -> _Program:
    place = functools.partial(sharding.replicate, mesh=mesh)
    views = functions.live(model.views(ten_crop), place, name="preprocess")
    return _Program(functions.live(model.logits, place), views, model.precision)


def _softmax_of(program: _Program, squares: Array | np.ndarray, mesh: Mesh | None) -> Float[Array, "n classes"]:
    with matmul_precision(program.precision):
        return _predicted(program.fun, program.views, squares, mesh=mesh)


@functions.jit
def _predicted(fun: Callable, views: Callable, squares: Array, *, mesh: Mesh | None) -> Float[Array, "n classes"]:
    """On each device for its own rows: left to itself, JAX would send the ten crops from device to device."""
    return sharding.on_each(predict, mesh, whole=2)(fun, views, squares)


def score(model: Scored, batches: Iterable[Batch], mesh: Mesh, *, ten_crop: bool = False) -> Scores:
    """Score one net; arguments as in `score_together`."""
    return score_together([model], batches, mesh, ten_crop=ten_crop)[0]


def score_together(
    models: Sequence[Scored], batches: Iterable[Batch], mesh: Mesh, *, ten_crop: bool = False
) -> list[Scores]:
    """Score nets in one pass over the pictures: each alone, then the average of all softmaxes (Table 2's ensembles).

    Args:
        models: of the same classes, made for squares of the same side.
        batches: uint8 squares with labels, from `eval_batches`; masked examples are not counted.
        mesh: the devices, as in `sharding.data_mesh`.
        ten_crop: average over the paper's ten crops instead of using the center crop alone.

    Returns:
        One `Scores` per model, in order, and one more for their average if there are several.
    """
    programs = [_program(model, mesh, ten_crop=ten_crop) for model in models]
    waiting: list[Counts] = []
    found: list[list[Counts]] = []  # of each batch, on the host
    classes = 0
    for rows in batches:
        batch = sharding.place(rows, mesh)
        softmaxes = [_softmax_of(program, batch.image, mesh) for program in programs]
        classes = softmaxes[0].shape[-1]
        if len(models) > 1:
            softmaxes.append(sum(softmaxes[1:], softmaxes[0]) / len(models))
        counts = [count_right(softmax, batch.label, batch.mask) for softmax in softmaxes]
        # At most two batches are in flight: the device never waits, and a split of any size fits.
        found += [jax.device_get(waiting)] if waiting else []
        waiting = sharding.replicate(counts, mesh)
    found += [jax.device_get(waiting)] if waiting else []
    return [_shares(of_one, classes) for of_one in zip(*found, strict=True)]


def _shares(counts: Sequence[Counts], classes: int) -> Scores:
    """The scores of one net, whose counts are those of each batch."""
    examples, top1, top5 = (int(sum(part)) for part in list(zip(*counts, strict=True))[:3])
    likelihood = np.concatenate([one.likelihood for one in counts]).astype(np.float64)
    # Exact, so that it does not matter which examples were on a device together.
    nats = math.fsum(-np.log(np.maximum(likelihood, np.finfo(np.float32).tiny)))
    return Scores(examples, top1 / examples, top5 / examples, nats / examples, classes)
