"""Top-1 and top-5 accuracy over a split, each example counted once."""

import functools
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, PyTree, UInt8

from zfjax.console.text import shown_by_shape
from zfjax.data.pipeline import Batch
from zfjax.models import ConvNet
from zfjax.training import sharding
from zfjax.training.precision import matmul_precision
from zfjax.training.step import Counts, count_right, predict


@shown_by_shape
class Model(NamedTuple):
    """A net with its variables and the mean its images need."""

    net: ConvNet
    variables: PyTree[Float[Array, "..."]]
    mean: Float[Array | np.ndarray, "side side 3"]
    step: int | None = None  # of the checkpoint that it was read from
    precision: str = ""  # of products, by its run's `config.matmul_precision`


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


def softmax_of(
    model: Model,
    squares: UInt8[Array | np.ndarray, "n side side 3"],
    *,
    ten_crop: bool = False,
    mesh: Mesh | None = None,
) -> Float[Array, "n classes"]:
    """`predict` in the model's precision; with a mesh, each of its devices for its own rows."""
    with matmul_precision(model.precision):
        if mesh is None:
            return predict(model.net, model.variables, model.mean, squares, ten_crop)
        return _predict_on_each(model.net, model.variables, model.mean, squares, ten_crop, mesh)


@functools.partial(jax.jit, static_argnames=("net", "ten_crop", "mesh"))
def _predict_on_each(
    net: ConvNet, variables: PyTree, mean: Array, squares: Array, ten_crop: bool, mesh: Mesh
) -> Float[Array, "n classes"]:
    """Left to itself, JAX would send the ten crops from device to device."""

    def on_one(variables: PyTree, mean: Array, squares: Array) -> Array:
        return predict(net, variables, mean, squares, ten_crop)

    return sharding.on_each(on_one, mesh, whole=2)(variables, mean, squares)


def score(model: Model, batches: Iterable[Batch], mesh: Mesh, *, ten_crop: bool = False) -> Scores:
    """Score one net; arguments as in `score_together`."""
    return score_together([model], batches, mesh, ten_crop=ten_crop)[0]


def score_together(
    models: Sequence[Model], batches: Iterable[Batch], mesh: Mesh, *, ten_crop: bool = False
) -> list[Scores]:
    """Score nets in one pass over the pictures: each alone, then the average of all softmaxes (Table 2's ensembles).

    Args:
        models: nets of the same classes, made for squares of the same side.
        batches: uint8 squares with labels, from `eval_batches`; masked examples are not counted.
        mesh: the devices, as in `sharding.data_mesh`.
        ten_crop: average over the paper's ten crops instead of using the center crop alone.

    Returns:
        One `Scores` per model, in order, and one more for their average if there are several.
    """
    waiting: list[Counts] = []
    found: list[list[Counts]] = []  # of each batch, on the host
    classes = 0
    for rows in batches:
        batch = sharding.place(rows, mesh)
        softmaxes = [softmax_of(model, batch.image, ten_crop=ten_crop, mesh=mesh) for model in models]
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
