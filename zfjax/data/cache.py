"""Decoded squares on disk: one folder per dataset and size, complete or absent."""

import contextlib
import hashlib
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import IO

import numpy as np

from zfjax.console.errors import UserError
from zfjax.console.files import draft, remove
from zfjax.console.paths import user_path
from zfjax.console.text import reason, size_of
from zfjax.data import record
from zfjax.data.source import Source

_FORMAT = "3"  # bump it when decoding or the record changes, so that older caches are not read


def folder_for(cache_dir: str, source: Source, size: int) -> pathlib.Path:
    """The folder of this dataset's squares at this size; a new one as soon as a picture changes."""
    place = user_path(cache_dir, "cache_dir", local="since the cache is memory-mapped")
    digest = hashlib.sha256("\0".join((_FORMAT, source.train.fingerprint, source.val.fingerprint)).encode())
    name = source.name if source.root is None else source.root.absolute().name  # however the path is spelled
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[-60:]
    return pathlib.Path(place).absolute() / f"{slug}-{size}-{digest.hexdigest()[:16]}"


def read(folder: pathlib.Path) -> tuple[record.Record, np.ndarray, np.ndarray] | None:
    """The record and the squares of train and val, memory-mapped; None if there is no cache."""
    if not folder.is_dir():
        if os.path.lexists(folder):
            raise UserError(f"cache {folder}: it is no folder; remove it")
        return None
    found = record.read(folder, f"remove the folder {folder}")
    files = [folder / f"{split}.npy" for split in ("train", "val")]
    if not all(file.is_file() for file in files):
        raise UserError(f"cache {folder}: incomplete; remove this folder")
    try:
        train, val = (np.load(file, mmap_mode="r") for file in files)
    except Exception as error:  # a header is a Python literal, which fails in many ways
        raise UserError(f"cache {folder}: damaged ({error}); remove this folder") from error
    if found is None or any(
        (squares.dtype, squares.shape) != (np.uint8, (len(labels), *found.mean.shape))
        for squares, labels in ((train, found.train_labels), (val, found.val_labels))
    ):
        raise UserError(f"cache {folder}: incomplete; remove this folder")
    return found, train, val


def draft_of(folder: pathlib.Path) -> pathlib.Path:
    """The folder that becomes `folder` when it is complete."""
    return folder.with_name(f"{folder.name}.draft")


@contextlib.contextmanager
def writing(folder: pathlib.Path, num_bytes: int) -> Iterator[pathlib.Path]:
    """A draft folder that becomes `folder` if the block succeeds and is removed if it fails.

    The caller holds `folder` or its parent, so that nobody else writes the same draft (`zfjax.console.hold`).

    Raises:
        UserError: the disk is full or not writable.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        for abandoned in folder.parent.glob(f"{folder.name}.draft*"):  # left by a killed process; large
            remove(abandoned)
        free = shutil.disk_usage(folder.parent).free
        if free < num_bytes:
            raise UserError(
                f"cannot write in {folder.parent}: expected {size_of(num_bytes)} free, found {size_of(free)}"
            )
        with draft(draft_of(folder)) as unfinished:
            yield unfinished
            unfinished.rename(folder)
    except OSError as error:
        raise UserError(
            f"cannot write in {folder.parent}: {reason(error)}; expected {size_of(num_bytes)} of writable space"
        ) from error


@contextlib.contextmanager
def squares_file(path: pathlib.Path, count: int, size: int) -> Iterator[IO[bytes]]:
    """An .npy file for `count` squares; write their bytes to it in order.

    It uses plain writes instead of a memory map: on a full disk, writes raise, but a map kills the process.
    """
    with open(path, "wb") as file:
        header = {"descr": np.dtype(np.uint8).str, "fortran_order": False, "shape": (count, size, size, 3)}
        np.lib.format.write_array_header_1_0(file, header)
        yield file
        file.flush()
        os.fsync(file.fileno())


def square_bytes(size: int) -> int:
    """Bytes of one square."""
    return size * size * 3
