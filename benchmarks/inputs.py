"""The shapes of what programs take, placed on a mesh; nothing is run, so they hold no numbers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from compilers import placed
from jax.sharding import Mesh

from zfjax.data.pipeline import Batch
from zfjax.training.config import square_size

SIZE, CLASSES = 224, 1000  # of ImageNet; the notebooks have others


def squares(mesh: Mesh, images: int, size: int = SIZE) -> Batch:
    """A batch of `images` per chip, as the pipeline sends them."""
    rows, side = images * mesh.size, square_size(size)
    shape = jax.ShapeDtypeStruct((rows, side, side, 3), jnp.uint8)
    label, mask = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows,), jnp.float32)
    return placed(Batch(shape, label, mask), mesh, split=True)


def images(mesh: Mesh, count: int, size: int = SIZE) -> jax.ShapeDtypeStruct:
    """`count` images per chip, as nets take them."""
    shape = jax.ShapeDtypeStruct((count * mesh.size, size, size, 3), jnp.float32)
    return placed(shape, mesh, split=True)


def mean(mesh: Mesh, size: int = SIZE) -> jax.ShapeDtypeStruct:
    """The mean of the training pictures."""
    side = square_size(size)
    return placed(jax.ShapeDtypeStruct((side, side, 3), jnp.float32), mesh)


def variables(net: nn.Module, mesh: Mesh, size: int = SIZE) -> Any:
    """A net's variables."""
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    return placed(jax.eval_shape(net.init, jax.random.key(0), image), mesh)


def units(mesh: Mesh, count: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """A map and a (row, column) on it for each of `count` images per chip."""
    rows = count * mesh.size
    maps, cells = jax.ShapeDtypeStruct((rows,), jnp.int32), jax.ShapeDtypeStruct((rows, 2), jnp.int32)
    return placed(maps, mesh, split=True), placed(cells, mesh, split=True)
