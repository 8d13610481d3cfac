"""Fingerprints of pictures: sizes, times and digests, so that a resumed run has the pictures it began with."""

import concurrent.futures
import hashlib

import numpy as np
from jaxtyping import Int, Int64

from zfjax.console.progress import Progress
from zfjax.data.source import BrokenImage, Examples
from zfjax.data.threads import threads_or_cores

SIZE, STAMP, DIGEST = range(3)  # columns of prints: bytes, changes with the file, digest of its content
MOST_READ = 10_000  # pictures to read if many stamps differ, as in a copied folder


def digest_of(data: bytes) -> int:
    """A 64-bit digest of a file's bytes."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True)


def first_changed(
    examples: Examples,
    labels: Int[np.ndarray, "n"],
    prints: Int64[np.ndarray, "n 3"],
    kept: Int[np.ndarray, "kept"],
    threads: int = 0,
) -> int | None:
    """The number of the first picture that no longer matches `prints`; None if all match.

    Sizes and stamps are compared first, and only pictures whose stamp differs are read: at most MOST_READ, spread
    evenly over them.

    Args:
        examples: the pictures as they are now.
        labels: their labels as they were.
        prints: their sizes, stamps and digests as they were.
        kept: the numbers to check.
        threads: reader threads; 0 for one per core.
    """
    now = examples.stamps
    resized = kept[(now[kept, SIZE] != prints[kept, SIZE]) & (now[kept, SIZE] > 0)]
    if len(resized):
        return int(resized[0])
    doubtful = kept[now[kept, STAMP] != prints[kept, STAMP]]
    if len(doubtful) > MOST_READ:
        doubtful = doubtful[np.linspace(0, len(doubtful) - 1, MOST_READ).astype(int)]

    def is_same(number: int) -> bool:
        try:
            example = examples[number]
        except BrokenImage:
            return False
        return example.label == int(labels[number]) and digest_of(example.data) == int(prints[number, DIGEST])

    with (
        concurrent.futures.ThreadPoolExecutor(threads_or_cores(threads)) as pool,
        Progress("comparing images with those that the run began with", len(doubtful)) as progress,
    ):
        for number, same in zip(doubtful.tolist(), pool.map(is_same, doubtful.tolist()), strict=True):
            progress.advance(1)
            if not same:
                pool.shutdown(cancel_futures=True)
                return number
    return None
