"""Score-CAM: maps weighted by the score of the image masked by each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from zfjax.attribution import chunks
from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one, scores
from zfjax.attribution.cam import Cam, Features, check_maps, upsample, weighed
from zfjax.ops.arguments import array


def score_cam(
    fun: Fun,
    images: Float[Array | np.ndarray, "n H W channels"],
    target: Target,
    maps: Features,
    *,
    batch_size: int = 32,
) -> Cam:
    """ReLU(Σ_k w_k A^k): w is a softmax over maps of the class's logit for the image masked by the map.

    Each map is resized to the image (`upsample`) and scaled to 0..1; masked pixels become 0, which is the mean. The
    paper subtracts the score of a baseline image, which cancels in the softmax. pytorch-grad-cam resizes maps with
    align_corners=True and is otherwise the same. A constant map masks everything.

    Args:
        fun: from images to logits; the whole net.
        images: as in all lenses.
        target: as in all lenses.
        maps: a layer's maps of the same images.
        batch_size: masked images at once; each image has one per map.

    Raises:
        ValueError: maps have no positions or are of another number of images, `batch_size` is below 1, or as in all
            lenses.

    Paper: Wang et al. 2020, "Score-CAM", section 3.2 and algorithm 1.
    """
    at_least_one(batch_size=batch_size)
    check_maps("maps", maps)
    question = asked(fun, images, target, has_slope=False)
    if question.inputs.ndim != 4 or len(maps) != len(question.inputs):
        raise ValueError(
            f"maps: expected those of the images [n, height, width, channels], got {list(maps.shape)} for"
            f" {list(question.inputs.shape)}"
        )
    maps = array("maps", maps)
    n, k = maps.shape[0], maps.shape[3]
    count, size = chunks.even(n * k, batch_size)
    step = Partial(_MaskedScores(size), question, maps)
    found = chunks.walk(step, jnp.zeros(n * k, jnp.float32), count, size, "Score-CAM")
    return _by_scores(maps, found.reshape(n, k))


@dataclasses.dataclass(frozen=True)
class _MaskedScores:
    """Puts the scores of a chunk of masked images in their places."""

    size: int

    def __call__(self, question: Asked, maps: Array, found: Array, chunk: Int[Array, ""]) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        image, unit = numbers // jnp.int32(maps.shape[3]), numbers % jnp.int32(maps.shape[3])
        x, target = (part.at[image].get(mode="clip") for part in (question.inputs, question.target))
        cells = maps.at[image, :, :, unit].get(mode="clip").astype(x.dtype)
        mask = upsample(cells, (x.shape[1], x.shape[2]))
        lowest, highest = _extremes(mask)
        # Decided by the cells, since equal ones differ by rounding once interpolated.
        varied = jnp.less(*_extremes(cells))
        behind = x * ((mask - lowest) / jnp.where(varied, highest - lowest, jnp.ones_like(highest)))[..., None]
        score = scores(Asked(question.fun, behind, target))
        return found.at[numbers].set(score.astype(found.dtype), mode="drop")


def _extremes(maps: Float[Array, "n height width"]) -> tuple[Array, Array]:
    return maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)


@jax.jit
def _by_scores(maps: Array, found: Array) -> Array:
    return weighed(maps, jax.nn.softmax(found, axis=1))
