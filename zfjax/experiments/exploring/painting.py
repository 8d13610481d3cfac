"""A picture that is painted over: the activations where it changed, from those before."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zfjax.models import incremental
from zfjax.models.incremental import Plan, Rectangles
from zfjax.models.model import Model
from zfjax.models.nets import NetModel
from zfjax.models.specs import Size

_SHARES = (6, 3)  # a plan serves what changes in a square of one sixth of the side, or one third
Acts = Mapping[str, Array | np.ndarray]


class Painting(NamedTuple):
    """How a net is recomputed where its image changed; no plans: not at all, it is computed anew."""

    sides: tuple[int, ...]  # of the squares that the plans serve, in pixels, smallest first
    plans: tuple[Plan, ...]


def painting_of(model: Model) -> Painting:
    """Plan for the nets whose changed cells can be listed, such as those of the paper."""
    if not isinstance(model, NetModel) or not incremental.is_listable(model.net):
        return Painting((), ())
    height, width, channels = model.image_shape
    sides = tuple(-(-height // share) for share in _SHARES)
    names, size = tuple(model.layers), Size(height, width, channels)
    # Along the diagonal, a square meets every phase of the strides in both directions.
    squares = [[_rectangle(at, at, side, side) for at in range(height - side + 1)] for side in sides]
    return Painting(sides, tuple(incremental.plan(model.net, names, size, some)[0] for some in squares))


def recomputed(
    painting: Painting,
    model: Model,
    before: Acts,
    images: tuple[Float[np.ndarray, "height width channels"], Float[np.ndarray, "height width channels"]],
) -> dict[str, Array] | None:
    """The activations of an image, from those of another; None if too much of it changed.

    Args:
        painting: of the model.
        model: the net.
        before: the other's activations at all places, [1, …].
        images: the other, and the image.
    """
    changed = box_of((images[0] != images[1]).any(axis=-1))
    fitting = [plan for side, plan in zip(*painting, strict=True) if max(changed[2:]) <= side]
    if not fitting or not isinstance(model, NetModel):
        return None
    plan = fitting[0]
    reads = incremental.reads(plan, incremental.reached(plan, _rectangle(*changed)))
    clean: list[Array | np.ndarray] = [jnp.asarray(images[0], model.net.dtype)]
    for layer in plan.listed:  # dropout has no place: it changes nothing
        clean.append(jnp.asarray(before[layer.name][0]) if layer.name in before else clean[-1])
    cover = jnp.asarray(images[1], model.net.dtype)
    return incremental.recompute(plan, model.variables["params"], clean, cover, reads)


def box_of(mask: Bool[np.ndarray, "height width"]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of what is marked; zeros if nothing is."""
    if not mask.any():
        return 0, 0, 0, 0
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return int(rows[0]), int(columns[0]), int(np.ptp(rows)) + 1, int(np.ptp(columns)) + 1


def _rectangle(top: int, left: int, height: int, width: int) -> Rectangles:
    return Rectangles(*(np.array([side], np.int32) for side in (top, left, height, width)))
