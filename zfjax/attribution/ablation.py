"""Ablation-CAM: maps weighted by what the score loses without each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from zfjax.attribution import chunks
from zfjax.attribution.asked import Asked, Fun, Target, at_least_one, scores
from zfjax.attribution.maps import Cam, Features, Images, Split, asked_of_maps, of_rows, weighed
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
        batch_size: images without a map at once; each image has one per map.

    Raises:
        ValueError: `batch_size` is below 1, or as in `grad_cam`.

    Paper: Desai & Ramaswamy 2020, "Ablation-CAM", section 3.
    """
    at_least_one(batch_size=batch_size)
    question = asked_of_maps(fun, inputs, target, has_slope=False)
    n, columns = len(question.inputs), question.inputs.shape[3] + 1  # the last with all maps
    size = chunks.even(n * columns, batch_size)[1]
    places, count = _places(question.inputs, size)
    step = Partial(_WithoutAMap(size), question, places)
    found = chunks.walk(step, jnp.zeros(n * columns, jnp.float32), count, size, "Ablation-CAM")
    return _by_losses(question.inputs, found.reshape(n, columns))


def _places(maps: Features, size: int) -> tuple[Int[Array, " places"], int]:
    """Which places of [n, maps + 1] to compute, those first, and in how many chunks; dead maps are left out."""
    n, columns = len(maps), maps.shape[3] + 1
    everything = np.arange(n * columns, dtype=np.int32)
    if functions.is_traced(maps):
        return jnp.asarray(everything), -(-len(everything) // size)
    alive = np.pad(np.asarray(_alive(maps)), ((0, 0), (0, 1)), constant_values=True).ravel()
    needed = everything[alive]
    # One length, so that one program serves all.
    padded = np.full(len(everything), len(everything), np.int32)
    padded[: len(needed)] = needed
    return jnp.asarray(padded), -(-len(needed) // size)


@jax.jit
def _alive(maps: Features) -> Array:
    return (maps != 0).any(axis=(1, 2))


@dataclasses.dataclass(frozen=True)
class _WithoutAMap:
    """Puts the scores of a chunk of images, each without one map, in their places."""

    size: int

    def __call__(self, question: Asked, places: Array, found: Array, chunk: Int[Array, ""]) -> Array:
        count = question.inputs.shape[3]
        numbers = places.at[chunks.numbers(chunk, self.size)].get(mode="fill", fill_value=found.size)
        image, unit = numbers // jnp.int32(count + 1), numbers % jnp.int32(count + 1)
        x, target = (part.at[image].get(mode="clip") for part in (question.inputs, question.target))
        gone = jnp.arange(count, dtype=jnp.int32)[None] == unit[:, None]
        left = jnp.where(gone[:, None, None, :], jnp.zeros((), x.dtype), x)
        head = of_rows(question.fun, image, len(question.inputs))
        score = scores(Asked(head, left, target))
        return found.at[numbers].set(score.astype(found.dtype), mode="drop")


@jax.jit
def _by_losses(maps: Features, found: Float[Array, "n maps_and_one"]) -> Cam:
    """The maps by what is lost; of a dead map, whose score is missing here, nothing can be seen."""
    whole = found[:, -1:]
    return weighed(maps, (whole - found[:, :-1]) / jnp.where(whole == 0, jnp.ones_like(whole), jnp.abs(whole)))
