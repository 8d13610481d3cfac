"""Score-CAM: maps weighted by the score of the image masked by each."""

import dataclasses
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int

from zfjax.attribution import chunks
from zfjax.attribution.asked import Asked, Fun, Target, asked, at_least_one, scores
from zfjax.attribution.maps import (
    Cam,
    Features,
    Split,
    check_maps,
    in_two,
    joined,
    maps_of,
    upsample,
    weighed,
)
from zfjax.ops.arguments import array, filling


def score_cam(
    fun: Fun | Split,
    images: Float[Array | np.ndarray, "n H W channels"],
    target: Target,
    maps: Features | None = None,
    *,
    fill: float | Float[Array | np.ndarray, "..."] = 0.0,
    batch_size: int = 32,
) -> Cam:
    """ReLU(Σ_k w_k A^k): w is a softmax over maps of the class's logit for the image masked by the map.

    Each map is resized to the image (`upsample`) and scaled to 0..1; what it masks becomes `fill`. The paper subtracts
    the score of a baseline image, which cancels in the softmax. pytorch-grad-cam resizes maps with align_corners=True
    and is otherwise the same. A constant map masks everything.

    Args:
        fun: (features, head), as in `grad_cam`; or, with `maps`, from images to logits.
        images: as in all lenses.
        target: as in all lenses; a function needs no gradient.
        maps: a layer's maps of the same images, if fun is the whole net.
        fill: what masked pixels become: a number, a color [C], a picture [H, W, C], or one per image. 0 is the mean
            where it is subtracted; for a net that takes pixels of 0 to 1, gray is 0.5.
        batch_size: masked images at once; each image has one per map.

    Raises:
        TypeError: maps are given beside a split, or missing.
        ValueError: maps have no positions or are of another number of images, `batch_size` is below 1, fill has another
            shape, or as in all lenses.

    Paper: Wang et al. 2020, "Score-CAM", section 3.2 and algorithm 1.
    """
    at_least_one(batch_size=batch_size)
    parts = in_two(fun)
    if (parts is None) == (maps is None):
        got = "neither" if parts is None else "both"
        raise TypeError(f"maps: expected them beside the whole function, or (features, head) as fun; got {got}")
    whole = joined(*parts) if parts else fun
    maps = array("maps", maps_of(fun, images) if parts else maps)
    check_maps("maps", maps)
    question = asked(cast(Fun, whole), images, target, has_slope=False)
    if question.inputs.ndim != 4 or len(maps) != len(question.inputs):
        raise ValueError(
            f"maps: expected those of the images [n, height, width, channels], got {list(maps.shape)} for"
            f" {list(question.inputs.shape)}"
        )
    n, k = maps.shape[0], maps.shape[3]
    count, size = chunks.even(n * k, batch_size)
    cover = filling("fill", fill, question.inputs, (1, 3, 4))
    step = Partial(_MaskedScores(size), question, maps, cover)
    found = chunks.walk(step, np.zeros(n * k, np.float32), count, size, "Score-CAM")
    return _by_scores(maps, found)


@dataclasses.dataclass(frozen=True)
class _MaskedScores:
    """Puts the scores of a chunk of masked images in their places."""

    size: int

    def __call__(self, question: Asked, maps: Array, cover: Array, found: Array, chunk: Int[Array, ""]) -> Array:
        numbers = chunks.numbers(chunk, self.size)
        image, unit = numbers // jnp.int32(maps.shape[3]), numbers % jnp.int32(maps.shape[3])
        rows = question.inputs, question.target, cover
        x, target, behind = chunks.taken(rows, image)
        cells = maps.at[image, :, :, unit].get(mode="clip").astype(x.dtype)
        mask = upsample(cells, (x.shape[1], x.shape[2]))
        lowest, highest = _extremes(mask)
        # Decided by the cells, since equal ones differ by rounding once interpolated.
        varied = jnp.less(*_extremes(cells))
        share = ((mask - lowest) / jnp.where(varied, highest - lowest, jnp.ones_like(highest)))[..., None]
        score = scores(Asked(question.fun, behind + (x - behind) * share, target))
        return found.at[numbers].set(score.astype(found.dtype), mode="drop")


def _extremes(maps: Float[Array, "n height width"]) -> tuple[Array, Array]:
    return maps.min(axis=(1, 2), keepdims=True), maps.max(axis=(1, 2), keepdims=True)


@jax.jit
def _by_scores(maps: Array, found: Array) -> Array:
    return weighed(maps, jax.nn.softmax(found.reshape(maps.shape[0], maps.shape[3]), axis=1))
