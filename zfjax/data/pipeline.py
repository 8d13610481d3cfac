"""Batches as a pure function of (pictures, seed, step), read by Grain's threads.

The order is shuffled for the whole batch, which is then divided among processes, so the batches do not depend on the
number of processes or threads, or on the step that a run resumes from.
"""

import contextlib
import logging
from collections.abc import Generator
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int, Int32, UInt8

from zfjax.console.errors import UserError
from zfjax.console.text import shown_by_shape
from zfjax.data.pictures import Pictures
from zfjax.data.threads import threads_or_cores

_ENDLESS = 2**52  # pictures; Grain's own endless repeat overflows with a batch size of 1


@shown_by_shape
class Batch(NamedTuple):
    """This process's rows of a batch."""

    image: UInt8[np.ndarray, "n size size 3"]
    label: Int32[np.ndarray, "n"]
    mask: Float32[np.ndarray, "n"]  # 1 for an example, 0 for padding in the last batch


def train_batches(
    pictures: Pictures,
    batch_size: int,
    *,
    seed: int,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    threads: int = 0,
) -> Generator[Batch, None, None]:
    """Endless batches; each epoch has every picture once, newly shuffled, and a batch may span two epochs.

    Args:
        pictures: the training split.
        batch_size: rows over all processes.
        seed: alone determines the order.
        start_step: number of the first batch.
        shard: (process, number of processes); process p takes rows p·local to (p + 1)·local.
        threads: reader threads, each reading one batch at a time; 0 for one per core.

    Raises:
        UserError: the batch cannot be divided evenly among the processes, or a picture can no longer be read.
    """
    grain = _grain()
    local = _local_size(batch_size, shard)
    first_row = shard[0] * local
    order = grain.MapDataset.range(len(pictures)).shuffle(seed=_spread(seed))
    batches = order.repeat(_ENDLESS // len(pictures)).batch(batch_size)

    def load(numbers: Int[np.ndarray, "batch"]) -> Batch:
        images, labels = pictures.load(numbers[first_row : first_row + local])
        return Batch(images, labels, np.ones(local, np.float32))

    return _read(batches[start_step:].map(load), threads_or_cores(threads))


def eval_batches(
    pictures: Pictures, batch_size: int, *, shard: tuple[int, int] = (0, 1), threads: int = 0
) -> Generator[Batch, None, None]:
    """Every picture once over all processes, in order, with the same number of batches on each process.

    The last batch is padded with zeros, and `mask` tells which rows are pictures.

    Arguments and errors are those of `train_batches`.
    """
    grain = _grain()
    local = _local_size(batch_size, shard)

    def load(start: int) -> Batch:
        first = min(start + shard[0] * local, len(pictures))
        return _padded(*pictures.load(np.arange(first, min(first + local, len(pictures)))), local)

    return _read(grain.MapDataset.range(0, len(pictures), batch_size).map(load), threads_or_cores(threads))


def _local_size(batch_size: int, shard: tuple[int, int]) -> int:
    process, processes = shard
    if batch_size < 1 or batch_size % processes:
        raise UserError(f"batch_size {batch_size}: expected a multiple of the number of processes, {processes}")
    if not 0 <= process < processes:
        raise ValueError(f"shard {shard}: expected (process, processes)")
    return batch_size // processes


def _spread(seed: int) -> int:
    """A 32-bit seed for Grain, which adds the epoch to it: adjacent seeds would share epochs."""
    return int(np.random.SeedSequence(abs(2 * seed + (seed < 0))).generate_state(1)[0])


def _grain() -> Any:
    """Import Grain on first use, without its warning about profiling on older jaxlibs."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import grain
    finally:
        logger.setLevel(level)
    return grain


def _read(dataset: Any, readers: int) -> Generator[Batch, None, None]:
    options = _grain().ReadOptions(num_threads=readers, prefetch_buffer_size=max(2, readers))
    with contextlib.closing(iter(dataset.to_iter_dataset(options))) as batches:
        yield from batches


def _padded(images: UInt8[np.ndarray, "n size size 3"], labels: Int32[np.ndarray, "n"], count: int) -> Batch:
    missing = count - len(labels)
    mask = np.ones(count, np.float32)
    if missing:
        mask[len(labels) :] = 0
        images = np.pad(images, ((0, missing), (0, 0), (0, 0), (0, 0)))
        labels = np.pad(labels, (0, missing))
    return Batch(images, labels, mask)
