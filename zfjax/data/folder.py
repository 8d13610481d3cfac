"""Class folders: `PATH/CLASS/picture`, or `PATH/train/CLASS/picture` with `PATH/val/CLASS/picture`.

Paths are whatever etils.epath takes, including gs://….
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import Bool, Int32, Int64

from zfjax.console.errors import UserError
from zfjax.console.paths import from_here, user_path
from zfjax.console.text import listed, readable
from zfjax.data import splits
from zfjax.data.leftovers import Contents, Leftovers, contents, count_below, is_picture, pick
from zfjax.data.prints import digest_of
from zfjax.data.reading import read_picture
from zfjax.data.source import BrokenImage, Example, Source, held_out
from zfjax.data.squares import Numbers, Readable, read_parts

_REMOTE_READ = 200  # pictures of a remote folder to read, to tell whether they changed


class NotThere(UserError):
    """There is no such folder."""


@dataclasses.dataclass(frozen=True)
class FolderExamples:
    """The pictures `root/files[i]` with the classes `labels[i]`."""

    root: epath.Path
    files: tuple[str, ...]
    labels: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        path = self.root / self.files[index]
        return Example(readable(os.fspath(path)), read_picture(path), int(self.labels[index]))

    def parts(self, numbers: Numbers) -> Iterator[Readable]:
        """Those with these numbers, which another process can read; those of a remote folder are read here."""
        if "://" in os.fspath(self.root):
            return read_parts(self, numbers)
        files = tuple(self.files[number] for number in numbers)
        return iter([dataclasses.replace(self, files=files, labels=self.labels[list(numbers)])])

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Each picture's `CLASS/picture` as text that is the same on every machine; `files` is as on this disk."""
        return tuple(map(readable, self.files))

    @functools.cached_property
    def stamps(self) -> Int64[np.ndarray, "n 2"]:
        """Each file's size, and a hash of its name and times.

        In a remote folder, where each file costs a request, only a sample is read: here are its sizes and content
        digests, and 0 for the other files.
        """
        found, root = np.zeros((len(self), 2), np.int64), os.fspath(self.root)
        if "://" not in root:
            for number, (name, file) in enumerate(zip(self.names, self.files, strict=True)):
                found[number] = _stamp(name, os.path.join(root, file))
        elif len(self):
            some = np.unique(np.linspace(0, len(self) - 1, _REMOTE_READ).astype(int))
            with concurrent.futures.ThreadPoolExecutor(16) as pool:  # threads mostly wait for the network
                found[some] = list(pool.map(self._read_stamp, some.tolist()))
        return found

    def _read_stamp(self, number: int) -> tuple[int, int]:
        try:
            data = self[number].data
        except BrokenImage:
            return 0, 0
        return len(data), digest_of(data)

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of names, labels and stamps."""
        digest = hashlib.sha256("\0".join(self.names).encode())
        digest.update(self.labels.tobytes())
        digest.update(self.stamps.tobytes())
        return digest.hexdigest()

    def where(self, mask: Bool[np.ndarray, "n"]) -> "FolderExamples":
        """The examples for which `mask` is true."""
        numbers = np.flatnonzero(mask)
        return FolderExamples(self.root, tuple(self.files[i] for i in numbers), self.labels[numbers])


def open_folder(path: str, *, data_dir: str = "", seed: int = 0) -> Source:
    """Open class folders; classes are the sorted folder names.

    If there are a training and a validation folder (`splits.choose`) that hold class folders, they are the two splits.
    Otherwise a tenth of each class, drawn with `seed`, is kept for validation. The source's notes say which folder
    became which split, and what was left out.

    Raises:
        UserError: there is no such folder, it has fewer than two class folders, one is empty, or the splits' classes
            differ.
    """
    root, left_out = find_root(path, data_dir), Leftovers()
    top = contents(root)
    choice = splits.choose(f"image folder {root}", [name for name in top.folders if _is_split(root, name, top)])
    if choice and choice.val:
        train, val = _read(root / choice.train, left_out), _read(root / choice.val, left_out)
        _require_classes(val, train)
        _require_classes(train, val)
        halves = train.examples, val.examples
    else:
        train = _read(root / choice.train if choice else root, left_out)
        out = held_out(train.examples.names, train.examples.labels, seed=seed)
        halves = train.examples.where(~out), train.examples.where(out)
    used, aside = ("", ""), list[str]()
    if choice:
        left_out.add_beside(top)
        used = (f"{choice.train}/", f"{choice.val}/" if choice.val else "")
        aside = [
            f"{readable(name)}/ ({count_below(root / name):,} files)"
            for name in sorted({*top.folders} - {choice.train, choice.val})
        ]
    name = readable(f"folder:{path}")
    notes = [splits.note(name, *used, (len(halves[0]), len(halves[1])), aside, "each class")]
    if str(left_out):
        notes.append(f"{name}: left out: {left_out}")
    return Source(name, train.classes, *halves, tuple(notes), root)


def find_root(path: str, data_dir: str = "") -> epath.Path:
    """The folder that `folder:PATH` means: PATH, else PATH in `data_dir`. Raises `NotThere` if neither exists."""
    candidates = [user_path(path, "image folder")]
    if data_dir and not candidates[0].is_absolute():
        candidates.append(user_path(data_dir, "data_dir") / candidates[0])
    for candidate in candidates:
        if candidate.is_dir():
            return from_here(candidate, "image folder")  # pictures are read later
    wanted = " or ".join(map(os.fspath, candidates))
    what = "a file" if candidates[0].exists() else "not there"
    raise NotThere(f"image folder {wanted}: {what}; expected a folder that holds one folder per class")


def holds_classes(root: epath.Path) -> bool:
    """Whether a folder, which need not exist, holds class folders: a split's, or two folders with pictures."""
    if not root.is_dir():
        return False
    top = contents(root)
    filled = (name for name in top.folders if _has_pictures(root / name))
    return any(_is_split(root, name, top) for name in top.folders) or len([*itertools.islice(filled, 2)]) == 2


class _Split(NamedTuple):
    root: epath.Path
    examples: FolderExamples
    classes: tuple[str, ...]


def _is_split(root: epath.Path, name: str, top: Contents) -> bool:
    """Whether a folder holds the classes of a split, rather than being a class that is called `train` or `test`."""
    if not splits.is_split(name) or not contents(root / name).folders:
        return False
    # A folder with both pictures and folders in it is a class if other folders hold pictures too.
    others = (other for other in top.folders if not splits.is_split(other))
    return not _has_pictures(root / name) or not any(_has_pictures(root / other) for other in others)


def _has_pictures(folder: epath.Path) -> bool:
    return any(map(is_picture, contents(folder).files))


def _read(root: epath.Path, left_out: Leftovers) -> _Split:
    """Read the class folders in `root`. Folders whose names are the same text (NFC and NFD) are one class."""
    top, classes = contents(root), dict[str, list[str]]()
    for folder in sorted(top.folders):
        classes.setdefault(readable(folder), []).append(folder)
    if len(classes) < 2:
        found = f"only one, {next(iter(classes))!r}" if classes else "none"
        raise UserError(f"image folder {root}: expected two or more class folders in it, found {found}")
    left_out.add_beside(top)
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(sorted(classes)):
        of_class = Leftovers()
        pictures = [
            f"{folder}/{picture}" for folder in classes[name] for picture in pick(root / folder, name, of_class)
        ]
        if not pictures:
            found = f"none, but {of_class}" if str(of_class) else "it empty"
            raise UserError(f"class folder {root / classes[name][0]}: expected images directly in it, found {found}")
        files += sorted(pictures, key=readable)
        labels += [label] * len(pictures)
        left_out.add_all(of_class)
    return _Split(root, FolderExamples(root, tuple(files), np.array(labels, np.int32)), tuple(sorted(classes)))


def _require_classes(split: _Split, other: _Split) -> None:
    missing = sorted(set(other.classes) - set(split.classes))
    if missing:
        raise UserError(
            f"image folder {split.root}: expected the class folders of {other.root}, but it lacks {listed(missing, 5)}"
        )


def _stamp(name: str, path: str) -> tuple[int, int]:
    try:
        stat = os.stat(path)
    except OSError:
        return 0, 0
    # Archives may give all their files the same mtime; ctime also changes when a file is renamed.
    return stat.st_size, digest_of(f"{name}\0{stat.st_mtime_ns} {stat.st_ctime_ns}".encode())
