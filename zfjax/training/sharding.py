"""Placement of arrays: pictures split over all devices of all processes, everything else replicated."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, Float32, Int32, PyTree, UInt8

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.pictures import ChosenPictures, Pictures
from zfjax.data.pipeline import eval_batches


@shown_by_shape
class Rows(NamedTuple):
    """Rows of a pass over pictures, the same number on each device of a mesh."""

    image: UInt8[Array, "n side side 3"]  # squares
    label: Int32[Array, " n"]
    mask: Float32[Array, " n"]  # 0 for padding
    number: Int32[Array, " n"]  # of the picture, ascending on each device; -1 for padding


@shown_by_shape
class Numbered(NamedTuple):
    """Images split over the devices of a mesh, with their numbers: `Rows` as a net takes them."""

    images: Float[Array, "n ..."]
    numbers: Int32[Array, " n"]  # ascending on each device; -1 for padding


def data_mesh() -> Mesh:
    """All devices along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def first_of(mesh: Mesh, count: int) -> Mesh:
    """The first devices of a mesh."""
    return _in_a_row(mesh.devices.flatten().tolist()[:count])


def busy(mesh: Mesh | None, pieces: int) -> Mesh | None:
    """The devices of a mesh that get something to do if there are so many pieces of work, each for one device.

    All of them if they are of several processes, each of which must have some.
    """
    return mesh if mesh is None or pieces >= mesh.size or processes_of(mesh) > 1 else first_of(mesh, pieces)


def processes_of(mesh: Mesh) -> int:
    """How many processes have devices in a mesh."""
    return len({device.process_index for device in mesh.devices.flat})


def _in_a_row(devices: Sequence[jax.Device]) -> Mesh:
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def check_batch_size(batch_size: int) -> None:
    """Raise a UserError if `batch_size` does not split evenly over the devices."""
    if batch_size <= 0 or batch_size % jax.device_count():
        raise UserError(
            f"batch_size={batch_size} does not split over {jax.device_count()} devices;"
            f" expected a positive multiple of {jax.device_count()}"
        )


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Copy arrays to every device of a mesh, if there is one. Donating the copies leaves the originals alive."""
    return tree if mesh is None else jax.jit(_itself, out_shardings=NamedSharding(mesh, P()))(tree)


def _itself(tree: PyTree) -> PyTree:
    """Identity, as one function, so that JAX finds its compiled program again."""
    return tree


def on_each(body: Callable, mesh: Mesh | None, *, whole: int) -> Callable:
    """A function that is called on each device, with the device's rows; none waits for another.

    Args:
        body: from arguments to arrays, or pytrees of them, with the device's rows.
        mesh: the devices; None: `body` as it is.
        whole: how many arguments, from the first, every device gets whole; of the others it gets its rows.
    """
    if mesh is None:
        return body

    def call(*args: PyTree) -> PyTree:
        specs = (*(P(),) * whole, *(P("data"),) * (len(args) - whole))
        # Not checked: the check knows no rule for some primitives of nets.
        return jax.shard_map(body, mesh=mesh, in_specs=specs, out_specs=P("data"), check_vma=False)(*args)

    return call


def one_on_each(body: Callable, mesh: Mesh | None, *, whole: int) -> Callable:
    """`on_each` for a single row on each device, which `body` takes and returns without the axis of rows."""

    def of_row(*args: PyTree) -> PyTree:
        row = jax.tree.map(lambda rows: rows[0], args[whole:])
        return jax.tree.map(lambda found: found[None], body(*args[:whole], *row))

    return on_each(of_row, mesh, whole=whole)


def place(batch: PyTree, mesh: Mesh | None) -> PyTree:
    """This process's rows of a global batch, on its devices; without a mesh, on one."""
    if mesh is None:
        return jax.tree.map(jax.numpy.asarray, batch)
    sharding = NamedSharding(mesh, P("data"))
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)


def own_rows(rows: Array) -> np.ndarray:
    """The rows of an array split over a mesh that are on this process's devices, in order, on the host."""
    shards = sorted(rows.addressable_shards, key=lambda shard: shard.index[0].start or 0)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def rows_at_once(pictures: Pictures, each: int, mesh: Mesh) -> int:
    """How many rows all devices take at a time in a pass over pictures: `each` on a device, or all if these are fewer.

    So the program of a device does not depend on how many there are, and neither does what it computes of a picture.
    """
    return min(each, len(pictures)) * mesh.size


def process_of_all() -> tuple[int, int]:
    """The number of this process, and how many there are, for a pass that they share evenly.

    Raises:
        UserError: they have not all the same number of devices.
    """
    mine, processes = jax.local_device_count(), jax.process_count()
    if mine * processes != jax.device_count():
        raise UserError(
            f"this process has {mine} of the {jax.device_count()} devices of {processes} processes; expected the same"
            " number in each"
        )
    return jax.process_index(), processes


def one_pass(pictures: Pictures, each: int, mesh: Mesh, begin: int = 0, end: int | None = None) -> Iterator[Rows]:
    """Read every picture once, all processes together, each those of its own devices.

    Args:
        pictures: those to read.
        each: rows on each device at a time, as `rows_at_once` takes it.
        mesh: all devices of all processes.
        begin: the first picture.
        end: the picture after the last; default all.
    """
    end = len(pictures) if end is None else end
    shard = process_of_all()
    rows = rows_at_once(pictures, each, mesh)
    first = begin + shard[0] * (rows // shard[1])
    for batch in eval_batches(ChosenPictures(pictures, np.arange(begin, end)), rows, shard=shard):
        numbers = np.where(batch.mask > 0, np.arange(first, first + len(batch.mask)), -1).astype(np.int32)
        yield Rows(*place((*batch, numbers), mesh))
        first += rows
