"""Placement of arrays: pictures split over all devices of all processes, everything else replicated."""

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import PyTree

from zfjax.console.errors import UserError
from zfjax.data.pipeline import Batch


def data_mesh() -> Mesh:
    """All devices along one axis, `data`."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def check_batch_size(batch_size: int) -> None:
    """Raise a UserError if `batch_size` does not split evenly over the devices."""
    if batch_size <= 0 or batch_size % jax.device_count():
        raise UserError(
            f"batch_size={batch_size} does not split over {jax.device_count()} devices;"
            f" expected a positive multiple of {jax.device_count()}"
        )


def rounded_up(batch_size: int) -> int:
    """The next multiple of the number of devices, for passes whose results don't depend on the batch size."""
    return -(-batch_size // jax.device_count()) * jax.device_count()


def replicate(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """Copy arrays to every device of a mesh, if there is one. Donating the copies leaves the originals alive."""
    return tree if mesh is None else jax.jit(_itself, out_shardings=NamedSharding(mesh, P()))(tree)


def _itself(tree: PyTree) -> PyTree:
    """Identity, as one function, so that JAX finds its compiled program again."""
    return tree


def place(batch: Batch, mesh: Mesh) -> Batch:
    """This process's rows of a global batch, on its devices."""
    sharding = NamedSharding(mesh, P("data"))
    return jax.tree.map(lambda rows: jax.make_array_from_process_local_data(sharding, rows), batch)
