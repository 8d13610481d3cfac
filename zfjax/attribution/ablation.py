"""Ablation-CAM: maps weighted by what the score loses without each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Bool, Float, Int

from zfjax.attribution import chunks
from zfjax.attribution.asked import Asked, Fun, Target, at_least_one, scores
from zfjax.attribution.maps import Cam, Features, Images, Split, asked_of_maps, is_of_these_images, weighed
from zfjax.transform import functions
from zfjax.transform.places.cutting import Crossing


def ablation_cam(fun: Fun | Split, inputs: Images | Crossing, target: Target, *, batch_size: int = 32) -> Cam:
    """ReLU(Σ_k w_k A^k), where w_k is the share of the score y that is lost with map k at zero: (y − y_k) / |y|.

    No gradient is needed. The paper divides by y, which where that is negative turns the map around; elsewhere both
    are the same. Maps that are zero all over lose nothing. Only the head is computed.

    Args:
        fun: as in `grad_cam`.
        inputs: as in `grad_cam`.
        target: as in all lenses; a function needs no gradient.
        batch_size: images without a map at once; each image has one per map. Beside a skip connection at least all
            images are.

    Raises:
        ValueError: `batch_size` is below 1, or as in `grad_cam`.

    Paper: Desai & Ramaswamy 2020, "Ablation-CAM", section 3.
    """
    at_least_one(batch_size=batch_size)
    question = asked_of_maps(fun, inputs, target, has_slope=False)
    n, columns = len(question.inputs), question.inputs.shape[3] + 1  # the last with all maps
    empty, what = np.zeros(n * columns, np.float32), "Ablation-CAM"
    if is_of_these_images(question.fun):
        size = chunks.even(columns, max(1, batch_size // n))[1]
        places, count = _needed(_alive(question.inputs).any(axis=0), size)
        step = Partial(_AllWithoutAMap(size), question, places)
        found = chunks.walk(step, empty.reshape(columns, n), count, size * n, what)
        return _by_losses(question.inputs, found.T)
    size = chunks.even(n * columns, batch_size)[1]
    places, count = _needed(_alive(question.inputs).ravel(), size)
    found = chunks.walk(Partial(_WithoutAMap(size), question, places), empty, count, size, what)
    return _by_losses(question.inputs, found.reshape(n, columns))


def _needed(alive: Bool[Array, " places"], size: int) -> tuple[Int[Array, " places"], int]:
    """The numbers of the places that are alive, and in how many chunks they are; of all under tracing."""
    everything = np.arange(len(alive), dtype=np.int32)
    if functions.is_traced(alive):
        return jnp.asarray(everything), -(-len(everything) // size)
    needed = everything[np.asarray(alive)]
    # One length, so that one program serves all.
    padded = np.full(len(everything), len(everything), np.int32)
    padded[: len(needed)] = needed
    return jnp.asarray(padded), -(-len(needed) // size)


@jax.jit
def _alive(maps: Features) -> Bool[Array, "n maps_and_one"]:
    """Whether there is anything in each map; and true at the end, for all maps together."""
    return jnp.pad((maps != 0).any(axis=(1, 2)), ((0, 0), (0, 1)), constant_values=True)


@dataclasses.dataclass(frozen=True)
class _WithoutAMap:
    """Puts the scores of a chunk of images, each without one map, in their places."""

    size: int

    def __call__(self, question: Asked, places: Array, found: Array, chunk: Int[Array, ""]) -> Array:
        count = question.inputs.shape[3]
        numbers = places.at[chunks.numbers(chunk, self.size)].get(mode="fill", fill_value=found.size)
        image, unit = numbers // jnp.int32(count + 1), numbers % jnp.int32(count + 1)
        x, target = chunks.taken((question.inputs, question.target), image)
        gone = jnp.arange(count, dtype=jnp.int32)[None] == unit[:, None]
        left = jnp.where(gone[:, None, None, :], jnp.zeros((), x.dtype), x)
        score = scores(Asked(question.fun, left, target))
        return found.at[numbers].set(score.astype(found.dtype), mode="drop")


@dataclasses.dataclass(frozen=True)
class _AllWithoutAMap:
    """Puts the scores of all images without each of some maps in their places.

    What passes the cut by may have its images along any axis, or along one with others: it is left as it is.
    """

    size: int

    def __call__(
        self, question: Asked, places: Array, found: Float[Array, "maps_and_one n"], chunk: Int[Array, ""]
    ) -> Array:
        numbers = places.at[chunks.numbers(chunk, self.size)].get(mode="fill", fill_value=len(found))
        x = question.inputs

        def without(unit: Int[Array, ""]) -> Float[Array, " n"]:
            gone = jnp.arange(x.shape[3], dtype=jnp.int32) == unit
            return scores(question._replace(inputs=jnp.where(gone, jnp.zeros((), x.dtype), x)))

        return found.at[numbers].set(jax.vmap(without)(numbers).astype(found.dtype), mode="drop")


@jax.jit
def _by_losses(maps: Features, found: Float[Array, "n maps_and_one"]) -> Cam:
    """The maps by what is lost; of a dead map, whose score is missing here, nothing can be seen."""
    whole = found[:, -1:]
    return weighed(maps, (whole - found[:, :-1]) / jnp.where(whole == 0, jnp.ones_like(whole), jnp.abs(whole)))
