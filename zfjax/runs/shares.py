"""Work in many pieces, shared out among all devices of all processes; each process gets all that is found."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int, PyTree

from zfjax.runs.first import from_all
from zfjax.training.sharding import own_rows, process_of_all, processes_of

AT_ONCE = 2**26  # bytes from each process that are sent together


def shared(
    count: int, each: int, mesh: Mesh | None, work: Callable[[Int[np.ndarray, " n"]], PyTree]
) -> Iterator[PyTree[np.ndarray]]:
    """Do pieces of work, some on each device at a time, and yield what is found of them, in order.

    The first pieces are started at once, before anything is asked for. What a device computes does not depend on how
    many others there are.

    Args:
        count: how many pieces there are, numbered from 0.
        each: how many a device takes at a time.
        mesh: the devices, which may be of several processes that all call this; None: one device.
        work: starts some pieces, given the numbers of those that this process's devices take; returns arrays with one
            row for each, split over the mesh. The last piece may be among them several times.

    Yields:
        The rows of the next pieces, on the host.
    """
    process, processes = process_of_all() if mesh and processes_of(mesh) > 1 else (0, 1)
    at_once = each * (mesh.size if mesh else 1)
    mine = at_once // processes

    def begun(first: int) -> PyTree:
        return work(np.minimum(np.arange(first + process * mine, first + (process + 1) * mine), count - 1))

    def found(waiting: PyTree) -> Iterator[PyTree[np.ndarray]]:
        done: list[_Round] = []
        for first in range(0, count, at_once):
            # Devices work while what they did before is fetched.
            after = begun(first + at_once) if first + at_once < count else None
            done.append(_Round(jax.tree.map(own_rows, waiting), min(at_once, count - first), mine))
            waiting = after
            if processes == 1 or after is None or sum(one.size for one in done) > AT_ONCE:
                yield from _of_all(done, processes)
                done = []

    return found(begun(0) if count else None)


class _Round(NamedTuple):
    """What this process's devices have found of the pieces that all take at the same time."""

    rows: PyTree[np.ndarray]
    pieces: int  # of all; other rows, at the end, are repetitions
    mine: int  # rows of each process

    @property
    def size(self) -> int:
        """Bytes, the same in each process."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.rows))

    def of(self, process: int) -> int:
        """How many pieces a process has found."""
        return min(max(self.pieces - process * self.mine, 0), self.mine)


def _of_all(rounds: list[_Round], processes: int) -> Iterator[PyTree[np.ndarray]]:
    """What all processes have found, round by round."""
    if processes == 1:
        for one in rounds:
            yield jax.tree.map(lambda leaf, one=one: leaf[: one.pieces], one.rows)
        return
    # As bytes: NumPy's files have no bfloat16.
    every = from_all(
        {
            f"{number} {place}": np.frombuffer(leaf[: one.of(jax.process_index())].tobytes(), np.uint8)
            for number, one in enumerate(rounds)
            for place, leaf in enumerate(jax.tree.leaves(one.rows))
        }
    )
    for number, one in enumerate(rounds):
        leaves, tree = jax.tree.flatten(one.rows)
        yield jax.tree.unflatten(
            tree, [_whole(f"{number} {place}", leaf, one, every) for place, leaf in enumerate(leaves)]
        )


def _whole(name: str, mine: np.ndarray, one: _Round, every: list[dict[str, np.ndarray]]) -> np.ndarray:
    """An array of a round, of all processes; `mine` is this one's."""
    shapes = ((one.of(process), *mine.shape[1:]) for process in range(len(every)))
    parts = zip(every, shapes, strict=True)
    return np.concatenate([np.frombuffer(arrays[name].tobytes(), mine.dtype).reshape(shape) for arrays, shape in parts])
