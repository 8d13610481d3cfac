"""One forward pass of a picture, and what it says without another: maps, classes, what looks at a pixel."""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import softmax
from jaxtyping import Array, Float, Int, Shaped

from zfjax.console.text import shown_by_shape
from zfjax.models.places import Place
from zfjax.transform import functions
from zfjax.transform.backprojection import backproject
from zfjax.transform.selection import Rules
from zfjax.transform.tape import Projection

Fun = Callable[[Array], Mapping[str, Array]]


@shown_by_shape
class Look(NamedTuple):
    """A picture, painted or not, and what the model computes of it, on the host."""

    image: Float[np.ndarray, "height width channels"]  # as the model takes it
    acts: Mapping[str, Shaped[np.ndarray, "1 *grid maps"]]  # by place

    @property
    def bytes(self) -> int:
        """What it takes in memory."""
        return sum(act.nbytes for act in self.acts.values()) + self.image.nbytes

    def maps(self, place: str) -> Float[np.ndarray, "height width maps"]:
        """The activations at a place; tokens are one row, and units of a dense layer maps of one cell."""
        found = self.acts[place][0]
        found = found.reshape((1,) * (3 - found.ndim) + found.shape)
        return found.astype(np.float32)


@shown_by_shape
class Ranked(NamedTuple):
    """The maps of a layer, strongest first, and at which cell each is strongest, or the one cell asked about."""

    units: Int[np.ndarray, " maps"]
    values: Float[np.ndarray, " maps"]
    cells: Int[np.ndarray, " maps"]  # row · width + column


def ranked(maps: Float[np.ndarray, "height width maps"], cell: int | None = None) -> Ranked:
    """Order maps by their strongest cell, or by one cell; NaN comes last, and equals keep their order."""
    flat = maps.reshape(-1, maps.shape[-1])
    cells = np.full(flat.shape[1], cell) if cell is not None else np.nan_to_num(flat, nan=-np.inf).argmax(axis=0)
    values = flat[cells, np.arange(flat.shape[1])]
    order = np.argsort(-np.nan_to_num(values, nan=-np.inf), kind="stable")
    return Ranked(order, values[order], cells[order])


def probabilities(logits: Float[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    """The softmax of a model's outputs, unless they are probabilities already."""
    logits = logits.astype(np.float32)
    if (logits >= 0).all() and abs(float(logits.sum()) - 1) < 1e-3:
        return logits
    return np.asarray(softmax(jnp.asarray(logits)))


def cell_at(place: Place, row: int, column: int) -> int | None:
    """The cell whose field's center is nearest to a pixel; None where cells have no places in the image."""
    if place.offset is None or place.stride is None or len(place.shape) != 3:
        return None
    at = (
        min(max(round((pixel - offset) / max(stride, 1e-6)), 0), count - 1)
        for pixel, offset, stride, count in zip((row, column), place.offset, place.stride, place.shape, strict=False)
    )
    down, across = at
    return down * place.shape[1] + across


def field_of(place: Place, cell: int) -> tuple[float, float, float, float] | None:
    """(top, left, height, width) in pixels of what a cell sees, which may go beyond the image; None: all of it."""
    if place.offset is None or place.stride is None or place.receptive_field is None or len(place.shape) != 3:
        return None
    height, width = place.receptive_field
    row, column = divmod(cell, place.shape[1])
    top = place.offset[0] + row * place.stride[0] - (height - 1) / 2
    left = place.offset[1] + column * place.stride[1] - (width - 1) / 2
    return top, left, height, width


# Programs. One pass writes a tape for all places at once, so that each click only goes down; a set of rules is one
# program, whatever the place.


@functions.jit
def forward(fun: Fun, images: Array) -> Mapping[str, Array]:
    """The activations at all places."""
    return fun(images)


@functions.jit
def tape(fun: Fun, images: Array, *, rules: Rules) -> tuple[Mapping[str, Array], Projection]:
    """The same, and the way down from all of them."""
    return backproject(fun, images, Rules(rules.named))


@functools.partial(jax.jit)
def down(
    acts: Mapping[str, Array], project: Projection, which: Int[Array, ""], cell: Int[Array, ""], unit: Int[Array, ""]
) -> Array:
    """One unit's activation sent down to the image.

    Args:
        acts: from `tape`.
        project: from `tape`.
        which: the number of the place, in the order of `acts`' names.
        cell: of its maps.
        unit: the map.
    """
    seeds = {}
    for number, name in enumerate(sorted(acts)):
        flat = acts[name].reshape(1, -1, acts[name].shape[-1])
        here = jnp.where(which == number, flat.at[0, cell, unit].get(mode="clip"), jnp.zeros((), flat.dtype))
        seeds[name] = jnp.zeros_like(flat).at[0, cell, unit].set(here, mode="drop").reshape(acts[name].shape)
    return project(seeds)
