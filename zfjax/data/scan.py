"""One pass over every picture before training: finds broken ones and the mean image, and can fill a cache."""

import collections
import concurrent.futures
import contextlib
import logging
import os
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Int32, Int64, UInt8, UInt32

from zfjax.console.errors import UserError
from zfjax.console.hold import hold
from zfjax.console.progress import Progress
from zfjax.data import cache
from zfjax.data import record as records
from zfjax.data.outside import require_outside
from zfjax.data.pictures import CachedPictures, DecodedPictures, Pictures
from zfjax.data.prints import STAMP, first_changed
from zfjax.data.record import Record
from zfjax.data.source import BrokenImage, Examples, Source
from zfjax.data.threads import threads_or_cores
from zfjax.data.together import ALONE, Seen, Share, looked, require_same_pictures
from zfjax.data.workers import squares_of

_CHUNK = 16  # pictures per task; small, since two tasks per thread are in memory at once
_log = logging.getLogger(__name__)


class Scanned(NamedTuple):
    """A scanned dataset: its readable pictures, and the record that a run keeps so that it need not scan again."""

    train: Pictures
    val: Pictures
    record: Record


def scan(
    source: Source,
    size: int,
    *,
    max_broken: float = 0.01,
    cache_dir: str = "",
    threads: int = 0,
    share: Share = ALONE,
) -> Scanned:
    """Decode every picture of both splits once, or none if there is a valid cache. Prints the source's notes first.

    Args:
        source: the dataset.
        size: pixels of a square's side.
        max_broken: the largest share of broken pictures that are skipped instead of being an error.
        cache_dir: a local folder for the decoded squares, or empty.
        threads: decoder threads; 0 for one per core.
        share: of several processes that all call this, which this one is. They look at the pictures together, unless
            one has a cache, which needs all squares: then each looks at all.

    Raises:
        UserError: too many pictures are broken, a split has none left, a label is out of range, or the cache cannot be
            written or is inside the dataset's folder.
    """
    if not 0 <= max_broken <= 1:
        raise UserError(f"max_broken {max_broken}: expected a share between 0 and 1")
    progress = Progress(source.name, show=speaks())
    for note in source.notes:
        progress.say(note)
    return _scan(source, size, max_broken, cache_dir, threads, share)


def _scan(source: Source, size: int, max_broken: float, cache_dir: str, threads: int, share: Share) -> Scanned:
    require_same_pictures(share, source)
    share = share if all(share.all_say(not cache_dir)) else ALONE
    job = _Job(source, size, max_broken, threads_or_cores(threads), share)
    if not cache_dir:
        return _decoding(source, _noted(source, _look_at_all(job, None)))
    require_outside(cache_dir, "cache_dir", source.root)
    folder = cache.folder_for(cache_dir, source, size)
    found = cache.read(folder)
    if found is None:
        with hold(folder, f"another command that reads {source.name}", beside=True, wait=True):
            found = cache.read(folder)  # may have been written during the wait
            if found is None:
                pictures = len(source.train) + len(source.val)
                with cache.writing(folder, pictures * cache.square_bytes(size)) as draft:
                    records.write(_look_at_all(job, draft), draft)
                found = cache.read(folder)
    if found is None:
        raise UserError(f"cache {folder}: was removed while it was written")
    _require_limit(source, found[0].messages.tolist(), max_broken)
    seen, *squares = found
    return _cached(_noted(source, seen), *squares)


def scan_once(
    folder: str | os.PathLike[str] | None,
    source: Source,
    size: int,
    *,
    max_broken: float = 0.01,
    cache_dir: str = "",
    threads: int = 0,
    share: Share = ALONE,
) -> Scanned:
    """A run's scan: the record in the run's folder if there is one, else that of `scan`, which is not written there.

    Args:
        folder: a run's folder; None for a new run.
        source: where its pictures are now. Those that may have changed are read and compared.
        size: as in `scan`.
        max_broken: as in `scan`.
        cache_dir: as in `scan`.
        threads: decoder threads; 0 for one per core.
        share: as in `scan`.

    Raises:
        UserError: as for `scan`, the record is damaged, or the pictures are no longer those the run began with.
    """
    kept = None if folder is None else _kept(folder, source)
    if len(set(share.all_say(kept is not None))) > 1:
        raise UserError(
            f"only some of the processes find {records.FILE} in the run's folder; expected one that all hosts share"
        )
    if folder is None or kept is None:
        return scan(source, size, max_broken=max_broken, cache_dir=cache_dir, threads=threads, share=share)
    if kept.mean.shape[0] != size:
        raise UserError(f"{folder}: its mean image is {kept.mean.shape[0]} px; expected {size} px as configured")
    if not cache_dir:
        return _compared(folder, source, kept, threads)
    scanned = _scan(source, size, max_broken, cache_dir, threads, share)
    now = scanned.record
    require_same(folder, source, kept, now)
    record = kept._replace(train_prints=now.train_prints, val_prints=now.val_prints)  # the stamps may be new
    return scanned._replace(record=record)


def require_same(folder: str | os.PathLike[str], source: Source, kept: Record, now: Record) -> None:
    """Raise a UserError if `source`, scanned as `now`, does not have the pictures of the run in `folder` (`kept`)."""
    _require_as_many(source, kept)
    if not kept.equals(now):
        raise _changed(folder, source, kept.first_difference(now))


def _kept(folder: str | os.PathLike[str], source: Source) -> Record | None:
    found = records.read(folder)
    if found is not None:
        _require_as_many(source, found)
    return found


def _require_as_many(source: Source, kept: Record) -> None:
    """Raise a UserError if a split of `source` has more or fewer pictures than the run's record."""
    for split, labels, examples in (
        ("train", kept.train_labels, source.train),
        ("val", kept.val_labels, source.val),
    ):
        if len(labels) != len(examples):
            why = "".join(f"; {note.removeprefix(f'{source.name}: ')}" for note in source.notes[1:])
            raise UserError(
                f"{source.name}: expected {len(labels)} {split} images, as when the run began, found {len(examples)}"
                f"{why}"
            )


def _compared(folder: str | os.PathLike[str], source: Source, kept: Record, threads: int) -> Scanned:
    """The recorded scan, if the pictures are still the same; an older record cannot tell."""
    if kept.known:
        for split, examples, labels, prints, numbers in (
            ("train", source.train, kept.train_labels, kept.train_prints, kept.train_kept),
            ("val", source.val, kept.val_labels, kept.val_prints, kept.val_kept),
        ):
            number = first_changed(examples, labels, prints, numbers, threads)
            if number is not None:
                raise _changed(folder, source, (split, number))
    return _decoding(source, kept)


def _changed(folder: str | os.PathLike[str], source: Source, first: tuple[str, int] | None) -> UserError:
    """The error for pictures that differ from a run's; `first` is the split and number of one, if known."""
    which = ""
    if first:
        split, number = first
        try:
            which = f"; the first that differs is {getattr(source, split)[number].name}"
        except BrokenImage as error:
            which = f"; the first that differs is {error}"
    return UserError(f"{source.name}: its images have changed since the run in {folder} began{which}")


class _Job(NamedTuple):
    source: Source
    size: int
    max_broken: float
    threads: int
    share: Share


class _Chunk(NamedTuple):
    """The result of one task; a broken picture's square is black and its label is 0."""

    squares: UInt8[np.ndarray, "k size size 3"]
    labels: Int32[np.ndarray, "k"]
    total: UInt32[np.ndarray, "size size 3"]
    broken: list[tuple[int, str]]
    prints: Int64[np.ndarray, "k 3"]  # without stamps; 0 for unreadable pictures


def _look_at_all(job: _Job, draft: pathlib.Path | None) -> Record:
    source, splits = job.source, {"train": job.source.train, "val": job.source.val}
    shares = {split: job.share.of(len(examples)) for split, examples in splits.items()}
    stamps = [examples.stamps[:, 1] for examples in splits.values()]  # taken first, so that later changes are noticed
    messages: list[str] = []

    def note(message: str) -> None:
        _say_skipped(message)
        messages.append(message)
        _require_limit(source, messages, job.max_broken)

    def look() -> list[Seen]:
        with Progress(f"reading {source.name}", sum(map(len, shares.values()))) as progress:
            return [_look_at(job, split, shares[split], draft, note, progress) for split in splits]

    train, val = seen = looked(job.share, look)
    for split, of_split in zip(splits, seen, strict=True):
        if len(of_split.broken) == len(of_split.labels):
            raise UserError(f"{source.name}: expected one readable image or more in its {split} split")
    every = np.concatenate([train.messages, val.messages])
    for message in every[~np.isin(every, messages)].tolist():  # which other processes have found
        _say_skipped(message)
    _require_limit(source, every.tolist(), job.max_broken)
    for of_split, own in zip(seen, stamps, strict=True):
        of_split.prints[:, STAMP] = own
    count = len(train.labels) - len(train.broken)
    return Record(
        mean=(train.total / count).astype(np.float32),
        train_labels=train.labels,
        val_labels=val.labels,
        train_broken=train.broken,
        val_broken=val.broken,
        messages=every,
        train_prints=train.prints,
        val_prints=val.prints,
    )


def _look_at(
    job: _Job,
    split: str,
    numbers: range,
    draft: pathlib.Path | None,
    note: Callable[[str], None],
    progress: Progress,
) -> Seen:
    """Scan some pictures of one split. Prints have no stamps yet."""
    labels, prints = [np.zeros(0, np.int32)], [np.zeros((0, 3), np.int64)]
    total = np.zeros((job.size, job.size, 3), np.uint64)
    broken: list[tuple[int, str]] = []
    with contextlib.ExitStack() as stack:
        file: IO[bytes] | None = None
        if draft is not None:
            file = stack.enter_context(cache.squares_file(draft / f"{split}.npy", len(numbers), job.size))
        for chunk in _chunks(job, split, numbers):
            for _, message in chunk.broken:
                note(message)
            broken += chunk.broken
            labels.append(chunk.labels)
            prints.append(chunk.prints)
            total += chunk.total
            if file is not None:
                file.write(chunk.squares.data)
            progress.advance(len(chunk.labels))
    return Seen(
        np.concatenate(labels),
        np.concatenate(prints),
        total,
        np.array([number for number, _ in broken], np.int64),
        np.array([message for _, message in broken], np.str_),
    )


def _chunks(job: _Job, split: str, numbers: range) -> Iterator[_Chunk]:
    """All chunks in order; up to `threads` in progress and as many ready."""
    examples = getattr(job.source, split)
    starts = iter(numbers[::_CHUNK])
    waiting: collections.deque[concurrent.futures.Future[_Chunk]] = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(job.threads) as pool:
        try:
            while True:
                while len(waiting) < 2 * job.threads and (start := next(starts, None)) is not None:
                    stop = min(start + _CHUNK, numbers.stop)
                    waiting.append(pool.submit(_decode_chunk, job, examples, start, stop))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode_chunk(job: _Job, examples: Examples, start: int, stop: int) -> _Chunk:
    found = squares_of(examples, range(start, stop), job.size, len(job.source.classes))
    broken = [(start + row, message) for row, message in found.broken]
    return _Chunk(found.images, found.labels, found.images.sum(axis=0, dtype=np.uint32), broken, found.prints)


def _say_skipped(message: str) -> None:
    if speaks():
        _log.warning("skipped broken image %s", message)


def speaks() -> bool:
    """Whether this process says what was found: of many, the first."""
    jax = sys.modules.get("jax")  # not imported for this: without it there is one process
    return jax is None or jax.process_index() == 0


def _require_limit(source: Source, messages: list[str], max_broken: float) -> None:
    pictures = len(source.train) + len(source.val)
    if len(messages) > max_broken * pictures:
        raise UserError(
            f"{source.name}: at least {len(messages)} of its {pictures} images are broken, more than"
            f" max_broken={max_broken:g} allows; the first: {messages[0]}"
        )


def _noted(source: Source, record: Record) -> Record:
    return record._replace(notes=np.array(source.notes, np.str_))


def _decoding(source: Source, record: Record) -> Scanned:
    size = record.mean.shape[0]
    train = DecodedPictures(source.train, record.train_kept, size)
    val = DecodedPictures(source.val, record.val_kept, size)
    return Scanned(train, val, record)


def _cached(record: Record, train: np.ndarray, val: np.ndarray) -> Scanned:
    return Scanned(
        CachedPictures(train, record.train_labels, record.train_kept),
        CachedPictures(val, record.val_labels, record.val_kept),
        record,
    )
