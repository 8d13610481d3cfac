"""Pictures that belong to no dataset: image files, and folders of them."""

import concurrent.futures
import dataclasses
import functools
import hashlib
import os
from collections.abc import Iterator, Sequence

import numpy as np
from etils import epath
from jaxtyping import Int64

from zfjax.console.errors import UserError
from zfjax.console.paths import user_path
from zfjax.console.progress import Progress
from zfjax.console.text import listed, readable, reason
from zfjax.data.leftovers import Leftovers, contents, pick
from zfjax.data.reading import read_picture
from zfjax.data.scan import speaks
from zfjax.data.source import BrokenImage, Example
from zfjax.data.squares import Numbers, Readable, read_parts
from zfjax.data.threads import threads_or_cores

MOST = 5  # pictures of folders that are shown one by one


@dataclasses.dataclass(frozen=True)
class LooseExamples:
    """Image files, whose labels are -1."""

    files: tuple[epath.Path, ...]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        return Example(readable(os.fspath(self.files[index])), read_picture(self.files[index]), -1)

    def parts(self, numbers: Numbers) -> Iterator[Readable]:
        """Those with these numbers, which another process can read; if one is remote, they are read here."""
        files = tuple(self.files[number] for number in numbers)
        if any("://" in os.fspath(file) for file in files):
            return read_parts(self, numbers)
        return iter([dataclasses.replace(self, files=files)])

    @property
    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Not known."""
        return np.zeros((len(self), 2), np.int64)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of the files' paths, sizes and times."""
        digest = hashlib.sha256()
        for file in self.files:
            found = file.stat()
            digest.update(f"{readable(os.fspath(file))}\0{found.length}\0{found.mtime}\0".encode())
        return digest.hexdigest()


def picture_files(paths: Sequence[epath.PathLike]) -> tuple[epath.Path, ...]:
    """Files as they are, and instead of each folder all pictures in it, at any depth, in the order of their names.

    Raises:
        UserError: a folder holds no picture, or cannot be read.
    """
    found = list[epath.Path]()
    for path in paths:
        given = user_path(path, "image")
        inside = list(_below(given, set())) if given.is_dir() else [given]
        if not inside:
            raise UserError(f"image folder {given}: expected pictures in it, found none")
        found += inside
    return tuple(found)


def some_pictures(paths: Sequence[epath.PathLike], size: int) -> tuple[epath.Path, ...]:
    """Files as they are; if there are folders among them, the first `MOST` in all, without those that are broken.

    Args:
        paths: files and folders.
        size: as in `readable_pictures`.

    Raises:
        UserError: as `picture_files` and `readable_pictures`.
    """
    files = picture_files(paths)
    if not any(user_path(path, "image").is_dir() for path in paths):
        return files
    return readable_pictures(files[: max(MOST, len(paths))], size).files


def _below(folder: epath.Path, seen: set[str]) -> Iterator[epath.Path]:
    real = os.fspath(folder) if "://" in os.fspath(folder) else os.path.realpath(folder)
    if real in seen:  # a link that leads back up
        return
    seen.add(real)
    try:
        names, folders = pick(folder, folder.name, Leftovers()), contents(folder).folders
    except OSError as error:
        raise UserError(f"cannot read the image folder {folder}: {reason(error)}") from error
    yield from (folder / name for name in sorted(names))
    for name in folders:
        yield from _below(folder / name, seen)


def readable_pictures(files: Sequence[epath.Path], size: int) -> LooseExamples:
    """Those of the files that can be decoded as squares of `size` pixels; the others are named on stderr.

    Raises:
        UserError: none can be decoded.
    """
    examples = LooseExamples(tuple(files))

    def fault(number: int) -> str:
        try:
            examples[number].square(size)
        except BrokenImage as error:
            return str(error)
        return ""

    kept, broken = list[epath.Path](), list[str]()
    with (
        Progress("reading the pictures", len(files), show=speaks()) as progress,
        concurrent.futures.ThreadPoolExecutor(threads_or_cores(0)) as pool,
    ):
        for file, found in zip(files, pool.map(fault, range(len(files))), strict=True):
            if found:
                broken.append(found)
            else:
                kept.append(file)
            progress.advance(1)
    if not kept:
        raise UserError(f"cannot read the image {listed(broken)}")
    if broken:
        progress.say(f"skipped broken images: {listed(broken)}")
    return LooseExamples(tuple(kept))
