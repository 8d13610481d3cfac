"""A unit's receptive field in the image, and projections computed on that field alone.

A unit's activation depends on nothing outside its receptive field, and its signal never leaves the field on the way
down. So the net runs on crops of exactly that size, one per unit: every layer then has just the windows that the unit
needs, without padding. Where a field extends beyond the image's edge, cells outside each map get the padding value:
zero for convolutions, minus infinity for pools.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from jaxtyping import Array, Float, Int, PyTree

from zfjax.console.text import shown_by_shape
from zfjax.models.convnet import ConvNet
from zfjax.models.cut import Layer
from zfjax.models.program import Below
from zfjax.models.specs import Dropout, Residual, Size
from zfjax.models.table import layer_table
from zfjax.ops.arguments import floats
from zfjax.ops.windows import Pair
from zfjax.transform import functions, seeds
from zfjax.transform.backprojection import backproject, warn_of_idle_rules
from zfjax.transform.rules import DECONVNET, Rules


class Fields(NamedTuple):
    """The receptive fields of a layer's units in images of one size: unit (i, j)'s begins at first + (i, j)·strides.

    A field may extend beyond the image's edges.
    """

    image: Pair  # height, width in pixels, as for all fields here
    size: Pair
    strides: Pair
    first: Pair

    def starts(self, positions: Int[Array | np.ndarray, "n 2"]) -> Int[Array, "n 2"]:
        """The pixel (row, column) where each unit's field begins, which may lie outside the image."""
        return jnp.array(self.first, jnp.int32)[None] + positions * jnp.array(self.strides, jnp.int32)[None]

    def inside(self, positions: Int[Array | np.ndarray, "n 2"]) -> Int[Array, "n 4"]:
        """(top, left, height, width) of each unit's field, moved inside the image so that all have one size.

        A field larger than the image is cut to it.
        """
        size, image = jnp.array(self.patch, jnp.int32)[None], jnp.array(self.image, jnp.int32)[None]
        tops = jnp.clip(self.starts(positions), 0, image - size)
        return jnp.concatenate([tops, jnp.broadcast_to(size, tops.shape)], axis=1)

    @property
    def patch(self) -> Pair:
        """The size of the fields that `inside` gives."""
        return min(self.size[0], self.image[0]), min(self.size[1], self.image[1])


@shown_by_shape
class Projected(NamedTuple):
    """Projections of single units, and the patches of the images that these units see."""

    values: Float[Array, " n"]  # the units' activations
    projections: Float[Array, "n height width channels"]  # signed, 0 where nothing arrived
    images: Float[Array, "n height width channels"]  # as given, cropped
    fields: Int[Array, "n 4"]  # where both were cropped: (top, left, height, width) in pixels, inside the image


def fields_of(fun: Callable, image: Pair) -> Fields | None:
    """The receptive fields of `fun`'s units in images of `image` = (height, width) pixels.

    None if `fun` is not from `zfjax.layer` or `Model.layer`, whose results alone have a known geometry, if its units
    see the whole image, as above a dense layer, or if their fields are not evenly spaced.

    >>> net = zfjax.zfnet(10, width=0.125)
    >>> variables = net.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    >>> fields_of(zfjax.layer(net, variables, "relu2"), (224, 224))
    Fields(image=(224, 224), size=(27, 27), strides=(8, 8), first=(-1, -1))
    """
    strides: tuple[float, float] | None
    if not isinstance(fun, Partial):
        return None
    if isinstance(fun.func, Layer):
        row = layer_table(fun.func.net)[-1]
        size, strides, offset = row.receptive_field, row.total_stride, row.offset
    elif isinstance(fun.func, Below):
        _, _, _, _, _, size, strides, offset = fun.func.place
    else:
        return None
    if size is None or strides is None or offset is None or not all(float(stride).is_integer() for stride in strides):
        return None
    first = tuple(round(c - (length - 1) / 2) for c, length in zip(offset, size, strict=True))
    return Fields(image, size, (int(strides[0]), int(strides[1])), (first[0], first[1]))


def project_units(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    images: Float[Array | np.ndarray, "n height width channels"],
    units: Int[Array | np.ndarray, " n"],
    positions: Int[Array | np.ndarray, "n axes"],
) -> tuple[Float[Array, " n"], Float[Array, "n height width channels"]]:
    """Project one unit per image, seeded with its own activation, on whole images.

    Args:
        fun: from images to a layer's activations [N, H, W, C] or [N, C], such as `zfjax.layer(net, variables, name)`.
        images: as `fun` takes them.
        units: the map for each image.
        positions: (row, column) on the map for each image; no columns for dense layers.

    Returns:
        The units' activations, and the projections.

    Warns:
        RuleWarning: as `zfjax.deconvnet` does, each time.
    """
    fun, images = functions.live(fun), floats("images", images)
    warn_of_idle_rules(fun, images, DECONVNET)
    return _units(fun, images, units, positions)


def project_fields(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    images: Float[Array | np.ndarray, "n height width channels"],
    units: Int[Array | np.ndarray, " n"],
    positions: Int[Array | np.ndarray, "n axes"],
) -> Projected:
    """Like `project_units`, but cropped to each unit's receptive field.

    A function from `zfjax.layer` runs on the receptive fields alone if these are smaller than the image and the net has
    no shortcuts. Any other function runs on whole images, and its patches are whole images where `fields_of` does not
    know its fields.

    Args, errors and warnings are those of `project_units`.

    Paper: figure 2.
    """
    images = floats("images", images)
    fields = fields_of(fun, (images.shape[1], images.shape[2]))
    fun = functions.live(fun)
    warn_of_idle_rules(fun, images, DECONVNET)
    return projected(fun, images, units, positions, fields=fields)


def project_directions(
    fun: Callable[[Array], Float[Array, "n *grid maps"]],
    images: Float[Array | np.ndarray, "n height width channels"],
    directions: Float[Array | np.ndarray, "n maps"],
    positions: Int[Array | np.ndarray, "n axes"],
) -> Projected:
    """Project a direction in the space of a layer's maps, one at one cell of each image.

    Whole images are computed; patches and projections are cropped as by `project_fields`.

    Args:
        fun: as in `project_units`.
        images: as `fun` takes them.
        directions: what is sent down from the cell, for each image.
        positions: (row, column) of the cell in each image; no columns for dense layers.

    Warns:
        RuleWarning: as `zfjax.deconvnet` does, each time.
    """
    images = floats("images", images)
    fields = fields_of(fun, (images.shape[1], images.shape[2]))
    fun = functions.live(fun)
    warn_of_idle_rules(fun, images, DECONVNET)
    return _directions(fun, images, jnp.asarray(directions), jnp.asarray(positions), fields=fields)


@functions.jit
def _directions(
    fun: Callable, images: Array, directions: Array, positions: Array, *, fields: Fields | None
) -> Projected:
    y, project = backproject(fun, images, Rules(DECONVNET.named))  # the caller has warned
    here = jnp.ones(y.shape[:-1], bool)
    for axis, index in enumerate(positions.T, start=1):
        cells = jnp.arange(y.shape[axis]).reshape([-1 if one == axis else 1 for one in range(y.ndim - 1)])
        here &= index.reshape(-1, *(1,) * (y.ndim - 2)) == cells
    spread = directions.astype(y.dtype).reshape(len(y), *(1,) * (y.ndim - 2), -1)
    projections = project(jnp.where(here[..., None], spread, jnp.zeros_like(y)))
    values = jnp.linalg.norm(directions, axis=1)
    return _cropped(values, projections, images, positions, fields)


def _cropped(values: Array, projections: Array, images: Array, positions: Array, fields: Fields | None) -> Projected:
    """Projections of whole images, with these, cropped to the fields of the units if they are known."""
    if fields is None:
        whole = jnp.array([[0, 0, *images.shape[1:3]]], jnp.int32)
        return Projected(values, projections, images, jnp.broadcast_to(whole, (len(images), 4)))
    inside = fields.inside(positions)
    projections, patches = (_cut(pictures, inside[:, :2], fields.patch) for pictures in (projections, images))
    return Projected(values, projections, patches, inside)


@functions.jit
def _units(fun: Callable, images: Array, units: Array, positions: Array) -> tuple[Array, Array]:
    y, project = backproject(fun, images, Rules(DECONVNET.named))  # the caller has warned
    seed = seeds.at(y, units, tuple(positions.T))
    return y[jnp.arange(len(y)), *positions.T, units], project(seed)


@functions.jit
def projected(fun: Callable, images: Array, units: Array, positions: Array, *, fields: Fields | None) -> Projected:
    """`project_fields` of a function from `functions.live`, with the `fields_of` it, without warnings."""
    height, width = images.shape[1:3]
    is_part = fields is not None and math.prod(fields.size) < height * width
    if is_part and isinstance(fun, Partial) and isinstance(fun.func, Layer) and not _has_shortcuts(fun.func.net):
        assert fields is not None
        inside, starts = fields.inside(positions), fields.starts(positions)
        on_field = Partial(_OnField(fun.func.net, (height, width)), *fun.args, starts)
        crops = _cut(*_bordered(images, starts, fields.size), fields.size)
        values, projections = _units(on_field, crops, units, jnp.zeros_like(positions))
        # If the field was moved inside the image, its projection moves along.
        projections = _cut(*_bordered(projections, inside[:, :2] - starts, fields.patch), fields.patch)
        return Projected(values, projections, _cut(images, inside[:, :2], fields.patch), inside)
    values, projections = _units(fun, images, units, positions)
    return _cropped(values, projections, images, positions, fields)


def _has_shortcuts(net: ConvNet) -> bool:
    return any(isinstance(spec, Residual) for spec in net.layers)


@dataclasses.dataclass(frozen=True)
class _OnField:
    """A net below its dense layers on crops that are one receptive field each: a single unit is left on top."""

    net: ConvNet
    image: Pair

    def __call__(
        self, variables: PyTree, starts: Int[Array, "n 2"], crops: Float[Array, "n height width channels"]
    ) -> Float[Array, "n 1 1 maps"]:
        size = Size(*self.image, crops.shape[3])  # of the whole image's map; the crops' maps begin at `starts` in it
        x = _masked(crops, starts, size, 0.0)
        for spec in self.net.layers:
            if isinstance(spec, Dropout):
                continue
            sliding = spec.sliding(size)
            if sliding:
                x = _masked(x, starts, size, spec.padding_value)
            x = self.net.clone(layers=(spec.unpadded(),)).apply(variables, x)[1][spec.name]
            if sliding:
                before = jnp.array([pad[0] for pad in sliding.padding], jnp.int32)
                starts = (starts + before[None]) // jnp.array(sliding.strides, jnp.int32)[None]
                size = spec.output(size)
                x = _masked(x, starts, size, 0.0)  # at once: minus infinity must not get into other layers
        return x


def _masked(x: Float[Array, "n h w c"], starts: Int[Array, "n 2"], size: Size, fill: float) -> Float[Array, "n h w c"]:
    """Put `fill` in the cells outside a map of `size`."""
    rows, columns = (
        (cells >= 0) & (cells < end)
        for cells, end in zip(_cells(starts, x.shape[1:3]), (size.height, size.width), strict=True)
    )
    inside = (rows[:, :, None] & columns[:, None, :])[..., None]
    return jnp.where(inside, x, jnp.array(fill, x.dtype))


def _bordered(
    pictures: Float[Array, "n h w c"], starts: Int[Array, "n 2"], size: Pair
) -> tuple[Float[Array, "n _ _ c"], Int[Array, "n 2"]]:
    """Zeros around pictures, so that windows may begin and end outside; and where they begin in these."""
    around = ((0, 0), (size[0], size[0]), (size[1], size[1]), (0, 0))
    return jnp.pad(pictures, around), starts + jnp.array(size, jnp.int32)[None]


def _cut(pictures: Float[Array, "n h w c"], starts: Int[Array, "n 2"], size: Pair) -> Float[Array, "n height width c"]:
    """Crop a window from each picture, beginning at its start, inside the picture.

    In one piece: pixel by pixel, a TPU's compiler counts a hundred times as many bytes.
    """

    def one(picture: Array, start: Array) -> Array:
        return lax.dynamic_slice(picture, (start[0], start[1], 0), (*size, picture.shape[2]))

    return jax.vmap(one)(pictures, starts)


def _cells(starts: Int[Array, "n 2"], size: tuple[int, ...]) -> tuple[Int[Array, "n height"], Int[Array, "n width"]]:
    """The rows and columns of windows of `size`."""
    height, width = size
    return starts[:, :1] + jnp.arange(height)[None], starts[:, 1:] + jnp.arange(width)[None]
