"""What figures 5, 7 and 8 split over all devices of all processes, for functions that compile at once."""

import pathlib

import jax.numpy as jnp
import numpy as np

from zfjax.attribution import sweeps
from zfjax.experiments.correspondence import correspondence
from zfjax.experiments.invariance import Steps, invariance
from zfjax.runs.first import is_first
from zfjax.runs.shares import shared
from zfjax.training import sharding
from zfjax.transform import functions

WEIGHTS = np.random.default_rng(5).normal(size=(9 * 8 * 3, 7)).astype(np.float32)


def write(workdir):
    """Compute them, and write them into a folder of the run in the first process, as commands do."""
    rng, mesh = np.random.default_rng(0), sharding.data_mesh()
    images = rng.normal(size=(5, 9, 8, 3)).astype(np.float32)
    boxes = np.concatenate([rng.integers(0, 5, (4, 5, 2)), np.full((4, 5, 2), 3)], axis=2)

    def fun(x):
        return {"low": jnp.maximum(x, 0), "high": x.reshape(len(x), -1) @ WEIGHTS}

    steps = Steps(np.array([0.0, 2]), np.array([1.0, 1.5, 1.7]), np.array([0.0, 90]))
    moved = invariance(fun, ("low",), "high", images, np.arange(5), steps, 3, mesh)
    alike = correspondence(fun, images, boxes, batch_size=2, mesh=mesh)
    places = sweeps.grid((9, 8), (3, 2), (2, 2), 3)
    thens = [functions.live(lambda found: found)] * 5
    clean, swept = sweeps.swept(fun, jnp.asarray(images), thens, jnp.zeros((9, 8, 3)), places, mesh, None)
    # Of another kind of number, and where some processes have nothing in the end.
    kinds = list(shared(2 * mesh.size + 1, 1, mesh, lambda some: sharding.place(some.astype(jnp.bfloat16), mesh)))
    arrays = {f"moved_{i}": array for i, array in enumerate((*moved.rotation, *moved.scale, moved.apart))}
    for name in ("low", "high"):
        arrays |= {f"alike_{name}": alike[name].differing, f"clean_{name}": clean[name], f"swept_{name}": swept[name]}
    assert np.concatenate(kinds).astype(int).tolist() == list(range(2 * mesh.size + 1))
    if is_first():
        folder = pathlib.Path(workdir) / "pieces"
        folder.mkdir()
        np.savez(folder / "pieces.npz", **arrays)
